//! A unix socket for the command on the same machine: who calls is whose process it is.
//!
//! The kernel names the user (`SO_PEERCRED`); no certificate is asked for and nothing is encrypted. The socket is its
//! owner's only (0600). Refuses to know who may do what.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::LOCAL_USER;
use crate::tls::{PeerIdentity, PeerStream, Refusals};

/// Connections at a time: commands of one machine, some 100 KiB each when busy.
const CONNECTIONS_MAX: usize = 256;

/// Pause after the operating system would not give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Name of this listener in logs.
const LISTENER: &str = "northbound_unix";

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub struct LocalSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the file when dropped, if it is still the one that was made.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    made: (u64, u64),
    owner: u32,
}

impl LocalSocket {
    /// Binds, also where one that nobody listens at any more was left behind.
    ///
    /// # Errors
    /// Somebody listens there, something else is there, or the operating system refuses.
    pub async fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::symlink_metadata(path) {
            Ok(there) if !there.file_type().is_socket() => {
                let cause = "something that is no socket is there; choose another path";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, cause));
            }
            Ok(_) => match UnixStream::connect(path).await {
                Ok(_) => {
                    let cause = "another controller listens there";
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, cause));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Made beside and put in place once nobody else may connect; a rename also replaces what was left behind.
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        // Of a process before of the same number; anything else makes `bind` fail.
        if std::fs::symlink_metadata(&draft).is_ok_and(|there| there.file_type().is_socket()) {
            std::fs::remove_file(&draft)?;
        }
        let listener = UnixListener::bind(&draft)?;
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&draft, path)?;
        let metadata = std::fs::symlink_metadata(path)?;
        let file = SocketFile {
            path: path.to_owned(),
            made: (metadata.dev(), metadata.ino()),
            owner: metadata.uid(),
        };
        Ok(Self { listener, file })
    }

    /// The user that this process runs as: what it makes is that user's.
    #[must_use]
    pub fn owner(&self) -> u32 {
        self.file.owner
    }

    /// Accepts for ever; connections come out of the receiver. Ends when the receiver is dropped.
    pub fn open(self, refusals: Arc<Refusals>) -> mpsc::Receiver<io::Result<PeerStream>> {
        let (passed, incoming) = mpsc::channel(16);
        let Self { listener, file } = self;
        tokio::spawn(async move {
            // Removed with the task.
            let _file = file;
            let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let accepted = tokio::select! {
                    () = passed.closed() => return,
                    accepted = listener.accept() => accepted,
                };
                let stream = match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(event = "accept_failed", listener = LISTENER, %error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                let Ok(place) = places.clone().try_acquire_owned() else {
                    let cause = format!("{CONNECTIONS_MAX} connections are open");
                    refusals.count(LISTENER, &"local", "too_many", &cause);
                    continue;
                };
                match peer(stream, place) {
                    // The server is stopping when nobody takes it.
                    Ok(stream) => drop(passed.send(Ok(stream)).await),
                    Err(error) => {
                        refusals.count(LISTENER, &"local", "connection", &error.to_string());
                    }
                }
            }
        });
        incoming
    }
}

fn peer(stream: UnixStream, place: OwnedSemaphorePermit) -> io::Result<PeerStream> {
    let credentials = stream.peer_cred()?;
    let process = credentials
        .pid()
        .map_or_else(|| "?".to_owned(), |id| id.to_string());
    let identity = PeerIdentity {
        uri: format!("{LOCAL_USER}{}", credentials.uid()).into(),
        address: format!("unix:pid/{process}").into(),
    };
    Ok(PeerStream::local(stream, identity, place))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = std::fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.made) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.sock");
        let socket = LocalSocket::bind(&path).await.expect("bound");
        let metadata = std::fs::metadata(&path).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.owner(), metadata.uid());
        let error = LocalSocket::bind(&path).await.expect_err("listened at");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_was_left_behind_is_replaced_and_other_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.sock");
        // As a controller that was killed leaves it.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let socket = LocalSocket::bind(&path).await.expect("bound again");
        let (server, client) = tokio::join!(socket.listener.accept(), UnixStream::connect(&path));
        let user = server
            .expect("accepted")
            .0
            .peer_cred()
            .expect("named")
            .uid();
        client.expect("connected");
        assert_eq!(user, socket.owner());
        let file = folder.path().join("notes");
        std::fs::write(&file, "mine").expect("written");
        let error = LocalSocket::bind(&file).await.expect_err("no socket");
        assert!(error.to_string().contains("no socket"), "{error}");
        assert_eq!(std::fs::read(&file).expect("there"), b"mine");
    }
}
