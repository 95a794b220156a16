//! The key that signs the audit log: made at the first start, its owner's only.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// The private key in the state folder: PKCS #8, DER.
pub const KEY_FILE: &str = "audit-key.p8";
/// The public key beside it: 64 hexadecimal digits, for those who verify.
pub const PUBLIC_KEY_FILE: &str = "audit-key.pub";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What is there is no such key.
    #[error(
        "{} holds no Ed25519 key (PKCS #8, DER); restore it, or move it away for a new one",
        path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gives no random numbers.
    #[error("no random numbers for a key")]
    Random,
}

/// An Ed25519 key.
pub struct SigningKey(Ed25519KeyPair);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// The key in this folder; a new one when there is none.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load_or_make(folder: &Path) -> Result<Self, KeyError> {
        let path = folder.join(KEY_FILE);
        let file = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| KeyError::File {
                operation,
                path,
                source,
            }
        };
        let der = match std::fs::read(&path) {
            Ok(der) => der,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                let der = made.map_err(|_| KeyError::Random)?.as_ref().to_vec();
                put(folder, KEY_FILE, &der, 0o600).map_err(file("write", &path))?;
                der
            }
            Err(error) => return Err(file("read", &path)(error)),
        };
        let key = Ed25519KeyPair::from_pkcs8(&der)
            .map(Self)
            .map_err(|_| KeyError::Content { path })?;
        let digits: String = key
            .public()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        put(folder, PUBLIC_KEY_FILE, (digits + "\n").as_bytes(), 0o644)
            .map_err(file("write", &folder.join(PUBLIC_KEY_FILE)))?;
        Ok(key)
    }

    /// The public half, 32 bytes.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// A signature, 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(message).as_ref().to_vec()
    }
}

/// Writes a file whole or not at all, and durable.
fn put(folder: &Path, name: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let draft = folder.join(format!(".{name}.new"));
    let _ = std::fs::remove_file(&draft);
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&draft, folder.join(name))?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_and_is_its_owners_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = SigningKey::load_or_make(folder.path()).expect("made");
        let path = folder.path().join(KEY_FILE);
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = SigningKey::load_or_make(folder.path()).expect("loaded");
        assert_eq!(first.public(), again.public());
        let told = std::fs::read_to_string(folder.path().join(PUBLIC_KEY_FILE)).expect("there");
        assert_eq!(told.trim().len(), 64);
        std::fs::write(&path, "not a key").expect("written");
        let error = SigningKey::load_or_make(folder.path()).expect_err("refused");
        assert!(error.to_string().contains("move it away"), "{error}");
    }
}
