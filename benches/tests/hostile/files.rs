//! Files and cards that are wrong: what is said, and where it points to.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use caplane::fabric::{Binaries, CONTROLLER, FabricError};
use caplane_client::Query;
use tokio::process::Command;

use crate::scene::{ENTRY, Scene};
use crate::stage::{RATES, card, within};

/// What a program with this configuration says before it gives up.
async fn refused(program: &Path, arguments: &[&str], config: &Path) -> String {
    let run = Command::new(program)
        .args(arguments)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Output { status, stderr, .. } = within("it ends", run).await.expect("it starts");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// The configuration of a running program in a folder of its own.
struct Copy {
    text: String,
    path: PathBuf,
}

impl Copy {
    fn of(scene: &Scene, name: &str) -> Self {
        let folder = scene.stage.fabric.folder();
        let text = std::fs::read_to_string(folder.join(name).join("config.toml"));
        let copy = folder.join(format!("wrong-{name}"));
        std::fs::create_dir_all(&copy).expect("a folder");
        Self {
            text: text.expect("the configuration"),
            path: copy.join(format!("{name}.toml")),
        }
    }

    /// Line and column of `part`.
    fn place(&self, text: &str, part: &str) -> String {
        let before = &text[..text.find(part).expect("there")];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
        format!("{}:{line}:{column}: ", self.path.display())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_is_refused_with_file_line_column_and_cause() {
    let scene = Scene::set(1).await;
    let programs = Binaries::beside_this_program().expect("programs");
    let members = [
        (ENTRY, &programs.router, "admin = ", "idle_timeout_ms"),
        (
            CONTROLLER,
            &programs.controller,
            "listen_southbound = ",
            "drain_period_ms",
        ),
    ];
    for (name, program, key, timer) in members {
        let copy = Copy::of(&scene, name);
        let timer_as_text = format!("\"{timer} is text\"");
        let cases = [
            // An unknown key, of the file and of a table.
            (
                format!("colour = 1\n{}", copy.text),
                "colour",
                "unknown field `colour`",
            ),
            (
                format!("{}\n[timers]\nnoon = 12\n", copy.text),
                "noon",
                "unknown field `noon`",
            ),
            // Wrong types.
            (
                format!("{}\n[timers]\n{timer} = {timer_as_text}\n", copy.text),
                &timer_as_text,
                "invalid type",
            ),
            (
                copy.text.replacen("name = \"", "name = 7 # \"", 1),
                "7 #",
                "invalid type",
            ),
            // A value that is none.
            (
                copy.text.replacen(key, &format!("{key}\"nowhere\" # "), 1),
                "\"nowhere\"",
                "nowhere",
            ),
            // No TOML at all.
            (format!("{}\n[timers\n", copy.text), "\n[timers\n", ""),
        ];
        for (text, part, cause) in cases {
            std::fs::write(&copy.path, &text).expect("written");
            for arguments in [&[][..], &["check-config"]] {
                let said = refused(program, arguments, &copy.path).await;
                assert!(said.contains(cause), "{name} {part}: {said}");
                let place = copy.place(&text, part);
                if cause.is_empty() {
                    assert!(
                        said.contains(&format!("{}:", copy.path.display())),
                        "{said}"
                    );
                } else {
                    assert!(said.contains(&place), "{name}: no {place:?} in {said}");
                }
            }
        }
        std::fs::remove_file(&copy.path).expect("removed");
        let said = refused(program, &[], &copy.path).await;
        assert!(said.contains(&copy.path.display().to_string()), "{said}");
    }
    scene.serves("wrong configurations").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_taxonomy_is_refused_with_file_entry_and_cause() {
    let scene = Scene::set(1).await;
    let programs = Binaries::beside_this_program().expect("programs");
    let copy = Copy::of(&scene, CONTROLLER);
    let text = format!("taxonomy = [\"skills.json\"]\n{}", copy.text);
    std::fs::write(&copy.path, text).expect("written");
    let taxonomy = copy.path.with_file_name("skills.json");
    let good = r#"{"path": "travel", "uid": "1", "caption": "Travel"}"#;
    let cases = [
        (
            format!(r#"{{"skills": [{good}, {{"path": "travel/hotels", "uid": "1.x"}}]}}"#),
            "skills[1] (travel/hotels)",
        ),
        (
            format!(r#"{{"skills": [{good}, {{"path": "a/b", "uid": "7.1"}}]}}"#),
            "skills[1] (a/b)",
        ),
        (
            format!(r#"{{"skills": [{good}, {good}]}}"#),
            "skills[1] (travel)",
        ),
        (
            format!("{{\"skills\": [{good},\n {{\"path\": 7, \"uid\": \"2\"}}]}}"),
            ":2:11: skills[1].path: invalid type",
        ),
        (format!(r#"{{"skills": [{good}"#), ":1:"),
        (r#"{"skills": []}"#.to_owned(), "0 skills"),
    ];
    for (text, cause) in cases {
        std::fs::write(&taxonomy, &text).expect("written");
        for arguments in [&[][..], &["check-config"]] {
            let said = refused(&programs.controller, arguments, &copy.path).await;
            let file = taxonomy.display().to_string();
            assert!(
                said.contains(&file) && said.contains(cause),
                "{cause}: {said}"
            );
        }
    }
    scene.serves("a wrong taxonomy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_agent_card_is_an_invalid_argument_with_place_and_cause() {
    let mut scene = Scene::set(1).await;
    let identity = scene.stage.fabric.issue_agent("shared", "carded");
    let identity = identity.expect("a certificate");
    let good = card("carded", RATES);
    let long = " ".repeat(65_537);
    let cases: [(&[u8], &str); 7] = [
        (b"{", "agent card 1:1"),
        (b"\xff\xfe", "agent card 1:"),
        (
            b"{\"name\": \"a\",\n  \"skills\": 7}",
            "agent card 2:13: skills: invalid type",
        ),
        (b"{\"skills\": []}", "missing field `name`"),
        (
            br#"{"name": "a", "skills": [{"id": "x", "name": "x"}, {"id": 1}]}"#,
            "skills[1].id",
        ),
        (b"{\"name\": \"a\", \"skills\": []} more", "agent card 1:"),
        (long.as_bytes(), "larger than 65536 bytes"),
    ];
    for (bytes, cause) in cases {
        let refused = scene.stage.fabric.register_agent(&identity, bytes, |_| {});
        let error = match refused.await.expect_err("a wrong card") {
            FabricError::Api(error) => error,
            other => panic!("{other}"),
        };
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
        let said = error.to_string();
        assert!(said.contains("updates[0]"), "which update: {said}");
        assert!(said.contains(cause), "{cause}: {said}");
        let agents = scene.stage.fabric.api().agents().await.expect("listed");
        assert!(
            agents.iter().all(|agent| agent.uri != identity.uri),
            "{cause}"
        );
    }
    // The controller takes a right one, and the fabric learns of it.
    let registered = scene
        .stage
        .fabric
        .register_agent(&identity, good.as_bytes(), |_| {});
    registered.await.expect("registered");
    let _attached = scene.attach(&identity).await;
    let found = scene.ask(Query::Agent(identity.uri)).await;
    assert_eq!(found, 1);
    scene.serves("wrong cards").await;
}
