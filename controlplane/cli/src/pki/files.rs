//! Where certificates and keys lie, and how they get there: whole or not at
//! all, keys readable by their owner only, nothing replaced unasked.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// Whether existing files may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Existing files are an error; nothing is written.
    Refuse,
    /// Existing files are replaced (`--force`).
    Replace,
}

/// A certificate chain and its key on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFiles {
    /// The chain, mode 0644.
    pub chain: PathBuf,
    /// The key, mode 0600.
    pub key: PathBuf,
}

impl PemFiles {
    /// `<folder>/<stem>.pem` and `<folder>/<stem>-key.pem`.
    #[must_use]
    pub fn at(folder: &Path, stem: &str) -> Self {
        Self {
            chain: folder.join(format!("{stem}.pem")),
            key: folder.join(format!("{stem}-key.pem")),
        }
    }
}

/// Writes a chain and its key; the folder is created with mode 0700 when missing.
pub(super) fn write_pair(
    files: &PemFiles,
    chain_pem: &str,
    key_pem: &str,
    overwrite: Overwrite,
) -> Result<(), PkiError> {
    if overwrite == Overwrite::Refuse
        && let Some(path) = [&files.chain, &files.key]
            .into_iter()
            .find(|path| path.exists())
    {
        return Err(PkiError::Exists { path: path.clone() });
    }
    if let Some(folder) = files.key.parent() {
        create_folder(folder)?;
    }
    write(&files.key, key_pem, 0o600, overwrite)?;
    write(&files.chain, chain_pem, 0o644, overwrite)
}

fn create_folder(folder: &Path) -> Result<(), PkiError> {
    if folder.is_dir() {
        return Ok(());
    }
    let failed = |source| PkiError::Io {
        operation: "create",
        path: folder.to_owned(),
        source,
    };
    fs::create_dir_all(folder).map_err(failed)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Writes beside the target, then puts it in place in one step.
fn write(path: &Path, text: &str, mode: u32, overwrite: Overwrite) -> Result<(), PkiError> {
    let failed = |source| PkiError::Io {
        operation: "write",
        path: path.to_owned(),
        source,
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.draft", std::process::id()));
    let draft = PathBuf::from(draft);
    let _ = fs::remove_file(&draft);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
    let placed = written.and_then(|()| match overwrite {
        Overwrite::Replace => fs::rename(&draft, path),
        // A hard link fails when the name is taken, also by a rival at this moment.
        Overwrite::Refuse => fs::hard_link(&draft, path),
    });
    let _ = fs::remove_file(&draft);
    placed.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists {
            path: path.to_owned(),
        },
        _ => failed(source),
    })
}

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(|source| PkiError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}
