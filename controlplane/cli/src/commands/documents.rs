//! `caplane completions` and `caplane man`: made from the definition of the command line, so that they cannot differ.

use std::path::Path;

use clap::CommandFactory;
use serde_json::json;

use crate::arguments::{Cli, CompletionsArguments, ManualArguments};
use crate::failure::{Exit, Failure};
use crate::output::Output;

pub(super) fn completions(arguments: &CompletionsArguments) -> Output {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "caplane", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let json = json!({ "shell": arguments.shell.to_string(), "script": script });
    Output::new("caplane.completions/1", json, script)
}

pub(super) fn manual(arguments: &ManualArguments) -> Result<Output, Failure> {
    match &arguments.folder {
        None => page(),
        Some(folder) => pages(folder),
    }
}

fn page() -> Result<Output, Failure> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    let page = String::from_utf8_lossy(&page).into_owned();
    let json = json!({ "page": page });
    Ok(Output::new("caplane.man/1", json, page))
}

fn pages(folder: &Path) -> Result<Output, Failure> {
    let unwritable = |error: std::io::Error| {
        let text = format!(
            "cannot write manual pages into {}: {error}",
            folder.display()
        );
        Failure::new(Exit::Usage, text)
    };
    std::fs::create_dir_all(folder).map_err(unwritable)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(unwritable)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unwritable)? {
        let name = entry.map_err(unwritable)?.file_name();
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("caplane") && name.ends_with(".1") {
            names.push(name);
        }
    }
    names.sort();
    let text = format!("{} pages in {}\n", names.len(), folder.display());
    let json = json!({ "folder": folder.display().to_string(), "pages": names });
    Ok(Output::new("caplane.man/1", json, text))
}

#[cfg(test)]
mod tests {
    use clap_complete::Shell;

    use super::*;

    #[test]
    fn every_shell_is_told_of_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completions(&CompletionsArguments { shell }).text;
            for word in ["apply", "watch", "confirm-within", "rollout"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page_that_shows_its_flags() {
        let folder = tempfile::tempdir().expect("a folder");
        let into = ManualArguments {
            folder: Some(folder.path().join("man1")),
        };
        let told = manual(&into).expect("written").json;
        let pages = told["pages"].as_array().expect("a list");
        for page in ["caplane.1", "caplane-apply.1", "caplane-agent-register.1"] {
            assert!(pages.iter().any(|name| name == page), "{page}: {pages:?}");
        }
        let page = folder.path().join("man1/caplane-agent-register.1");
        let page = std::fs::read_to_string(page).expect("a page");
        assert!(
            page.contains("no\\-grant") && page.starts_with(".ie"),
            "{page}"
        );
        let main = manual(&ManualArguments { folder: None })
            .expect("made")
            .text;
        assert!(main.contains("Exit codes"), "{main}");
    }
}
