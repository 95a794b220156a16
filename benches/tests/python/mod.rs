//! Scripts in Python, run with what `benches/python/requirements.txt` says.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::NamedTempFile;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Longest a script or an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Longest the packages may take to be fetched and installed.
const INSTALL_PATIENCE: Duration = Duration::from_secs(300);

/// Steps by name.
pub fn names(steps: &[serde_json::Value]) -> BTreeSet<&str> {
    steps.iter().filter_map(|s| s["step"].as_str()).collect()
}

/// The folder of the scripts.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python")
}

/// A running script, and the file that has all it says.
pub struct Script {
    child: Child,
    output: NamedTempFile,
}

impl Script {
    /// Starts a script of the folder.
    pub async fn start(
        script: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        let mut python = Command::new(interpreter().await);
        python
            .arg(folder().join(script))
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        Self::spawn(&mut python)
    }

    fn spawn(command: &mut Command) -> Self {
        let output = NamedTempFile::new().expect("a file");
        let appending = File::options()
            .append(true)
            .open(output.path())
            .expect("the same file");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(appending.try_clone().expect("a handle")))
            .stderr(Stdio::from(appending))
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, output }
    }

    /// What it has said.
    pub fn output(&self) -> String {
        let bytes = std::fs::read(self.output.path()).expect("the output");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until it has ended well.
    async fn done(&mut self, patience: Duration) {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => {
                let status = status.expect("its status");
                assert!(status.success(), "{status}; it said:\n{}", self.output());
            }
            Err(_) => panic!("not done after {patience:?}; it said:\n{}", self.output()),
        }
    }

    /// The steps of a script that ended well.
    pub async fn success(mut self) -> Vec<serde_json::Value> {
        self.done(PATIENCE).await;
        let output = self.output();
        let steps: Vec<serde_json::Value> = output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no step:\n{output}")))
            .collect();
        assert!(steps.iter().all(|step| step["ok"] == true), "{output}");
        steps
    }
}

/// Python in a virtual environment that has what `requirements.txt` says. It stays in the target folder for next time.
async fn interpreter() -> &'static Path {
    static INTERPRETER: OnceCell<PathBuf> = OnceCell::const_new();
    INTERPRETER
        .get_or_init(|| async {
            let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-peer");
            let python = environment.join("bin/python");
            let wanted = folder().join("requirements.txt");
            let requirements = std::fs::read_to_string(&wanted).expect("requirements.txt");
            // Written last, so that half an environment is never taken for a whole one.
            let installed = environment.join("installed.txt");
            if std::fs::read_to_string(&installed).is_ok_and(|text| text == requirements) {
                return python;
            }
            let mut make = Command::new("python3");
            make.args(["-m", "venv", "--clear"]).arg(&environment);
            Script::spawn(&mut make).done(INSTALL_PATIENCE).await;
            let mut install = Command::new(&python);
            install
                .args(["-m", "pip", "install", "--disable-pip-version-check", "-r"])
                .arg(&wanted);
            Script::spawn(&mut install).done(INSTALL_PATIENCE).await;
            std::fs::write(&installed, requirements).expect("a note of what is installed");
            python
        })
        .await
}
