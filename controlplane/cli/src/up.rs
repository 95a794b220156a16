//! `caplane up`: a whole fabric on this machine, with agents that answer and a
//! requester that asks by capability.
//!
//! It joins the fabric library to the client library; what it measures it
//! reads from the outside: deliveries, metrics pages, `/proc`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::arguments::UpArguments;
use crate::fabric::{Fabric, FabricConfig};
use crate::failure::{Exit, Failure};
use crate::settings::{FABRIC_FILE, FABRIC_SCHEMA, FabricFile, Settings};

mod body;
mod cast;
mod ledger;
mod live;
mod once;
mod reading;

/// Held while a `caplane up` owns the state folder.
const LOCK_FILE: &str = "lock";

/// Starts the fabric and does what the arguments say, until done or interrupted.
///
/// # Errors
/// [`Failure`]; [`Exit::CheckFailed`] when `--once` saw something wrong.
pub async fn run(
    settings: &Settings,
    arguments: &UpArguments,
    as_json: bool,
) -> Result<(), Failure> {
    let cards = cast::read_cards(arguments.cards.as_deref())?;
    let folder = std::path::absolute(&settings.state)?;
    let _lock = claim(&folder)?;
    eprintln!("state folder: {}", folder.display());
    let config = FabricConfig::line(&folder, arguments.routers.into())?;
    let mut fabric = Fabric::start(config.workers(arguments.workers)).await?;
    announce(&fabric)?;
    let cast = cast::assemble(&mut fabric, &cards).await?;
    let result = if arguments.once {
        once::run(&mut fabric, &cast, arguments, as_json).await
    } else {
        live::run(&mut fabric, &cast, arguments, as_json).await
    };
    cast.leave().await;
    // Other commands should not look for a fabric that is gone.
    let _ = fs::remove_file(folder.join(FABRIC_FILE));
    result
}

/// Takes the state folder for this process and empties it of an earlier fabric.
fn claim(folder: &Path) -> Result<File, Failure> {
    let failed = |what: &str, path: &Path, error: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Failed,
            format!(
                "cannot {what} {}: {error}; give another folder with --state",
                path.display()
            ),
        )
    };
    fs::create_dir_all(folder).map_err(|error| failed("create", folder, &error))?;
    let lock_path = folder.join(LOCK_FILE);
    let strangers = fs::read_dir(folder).map_err(|error| failed("read", folder, &error))?;
    // A folder that no fabric was ever in is somebody's own: nothing in it is touched.
    if !lock_path.exists() && strangers.count() > 0 && !folder.join(crate::pki::CA_FILE).exists() {
        let text = format!(
            "{} holds files and no Caplane state; give an empty or new folder with --state",
            folder.display()
        );
        return Err(Failure::new(Exit::Usage, text));
    }
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path);
    let lock = lock.map_err(|error| failed("open", &lock_path, &error))?;
    lock.try_lock().map_err(|_| {
        let text = format!(
            "another `caplane up` runs in {}; end it, or give another folder with --state",
            folder.display()
        );
        Failure::new(Exit::Exists, text)
    })?;
    for stale in stale_folders(folder) {
        fs::remove_dir_all(&stale).map_err(|error| failed("remove", &stale, &error))?;
    }
    Ok(lock)
}

/// Folders of an earlier fabric's programs: `c1`, `r1`, … with a configuration inside.
fn stale_folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.join("config.toml").is_file())
        .collect()
}

/// Tells other commands, and the person, where the fabric is.
fn announce(fabric: &Fabric) -> Result<(), Failure> {
    let names: Vec<String> = fabric.routers().map(str::to_owned).collect();
    let mut file = FabricFile {
        schema: FABRIC_SCHEMA.to_owned(),
        pid: std::process::id(),
        controller: fabric.northbound_address()?.to_owned(),
        controller_local: fabric
            .northbound_socket()
            .map(|path| format!("unix://{path}")),
        routers: Default::default(),
        trust_domain: fabric.authority().trust_domain().to_owned(),
    };
    eprintln!("controller c1  {}", file.controller);
    for name in names {
        let address = fabric.router_address(&name)?.to_owned();
        eprintln!("router     {name}  {address}");
        file.routers.insert(name, address);
    }
    let path = fabric.folder().join(FABRIC_FILE);
    let text = format!("{:#}\n", serde_json::json!(file));
    fs::write(&path, text).map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("cannot write {}: {error}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_somebody_elses_files_is_left_alone() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("thesis.txt"), "years of work").expect("written");
        let error = claim(folder.path()).expect_err("refused").to_string();
        assert!(
            error.contains("holds files and no Caplane state"),
            "{error}"
        );
        assert!(!folder.path().join(LOCK_FILE).exists());
    }

    #[test]
    fn a_folder_is_claimed_once_and_cleared_of_an_earlier_fabric() {
        let folder = tempfile::tempdir().expect("folder");
        let state = folder.path().join("new");
        let lock = claim(&state).expect("claimed");
        let error = claim(&state).expect_err("held").to_string();
        assert!(error.contains("another `caplane up` runs in"), "{error}");
        drop(lock);
        fs::create_dir_all(state.join("r1")).expect("an earlier router");
        fs::write(state.join("r1/config.toml"), "").expect("its configuration");
        fs::create_dir_all(state.join("mine")).expect("a stranger");
        let _lock = claim(&state).expect("claimed again");
        assert!(!state.join("r1").exists() && state.join("mine").exists());
    }
}
