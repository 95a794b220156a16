//! A TCP listener behind a TLS gate, as a stream of authenticated connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{Refusals, peer_uri, refusals};

/// Connections of one listener, handshakes included: a gRPC connection holds some 100 KiB when
/// busy, so 400 MiB at the very worst.
const CONNECTIONS_MAX: usize = 4_096;

/// Pause after the operating system would not give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end; found in the extensions of every request.
#[derive(Debug, Clone)]
pub struct PeerIdentity {
    /// The one URI of its certificate; `unix:uid/<number>` of a process on this machine.
    pub uri: Arc<str>,
    /// Where it called from: "ip:port" or `unix:pid/<number>`.
    pub address: Arc<str>,
}

/// What a connection must pass.
#[derive(Clone)]
pub struct Gate {
    /// Name in logs.
    pub listener: &'static str,
    /// The server side of TLS.
    pub tls: Arc<rustls::ServerConfig>,
    /// Longest a handshake may take.
    pub handshake_timeout: Duration,
    /// Where refusals are counted.
    pub refusals: Arc<Refusals>,
}

/// An authenticated connection.
pub struct PeerStream {
    stream: Carrier,
    identity: PeerIdentity,
    _place: OwnedSemaphorePermit,
}

enum Carrier {
    Tls(Box<TlsStream<TcpStream>>),
    Local(UnixStream),
}

impl PeerStream {
    /// A connection of a process on this machine, whom the kernel named.
    pub(crate) fn local(
        stream: UnixStream,
        identity: PeerIdentity,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            stream: Carrier::Local(stream),
            identity,
            _place: place,
        }
    }
}

impl Gate {
    /// Accepts for ever; connections that passed come out of the receiver. Ends when the
    /// receiver is dropped.
    pub fn open(self, listener: TcpListener) -> mpsc::Receiver<io::Result<PeerStream>> {
        let (passed, incoming) = mpsc::channel(16);
        tokio::spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            loop {
                let accepted = tokio::select! {
                    () = passed.closed() => return,
                    accepted = listener.accept() => accepted,
                };
                match accepted {
                    Ok((socket, address)) => self.admit(socket, address, &places, &passed),
                    Err(error) => {
                        let listener = self.listener;
                        tracing::warn!(event = "accept_failed", listener, %error);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        });
        incoming
    }

    fn admit(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        places: &Arc<Semaphore>,
        passed: &mpsc::Sender<io::Result<PeerStream>>,
    ) {
        let Ok(place) = places.clone().try_acquire_owned() else {
            let cause = format!("{CONNECTIONS_MAX} connections are open");
            self.refusals
                .count(self.listener, &address, "too_many", &cause);
            return;
        };
        let (gate, passed) = (self.clone(), passed.clone());
        tokio::spawn(async move {
            match gate.handshake(socket, address).await {
                Ok((stream, identity)) => {
                    let stream = PeerStream {
                        stream: Carrier::Tls(Box::new(stream)),
                        identity,
                        _place: place,
                    };
                    // The server is stopping when nobody takes it.
                    let _ = passed.send(Ok(stream)).await;
                }
                Err(error) => {
                    let (reason, cause) = refusals::reason(&error);
                    gate.refusals.count(gate.listener, &address, reason, &cause);
                }
            }
        });
    }

    async fn handshake(
        &self,
        socket: TcpStream,
        address: SocketAddr,
    ) -> io::Result<(TlsStream<TcpStream>, PeerIdentity)> {
        socket.set_nodelay(true)?;
        let accept = TlsAcceptor::from(self.tls.clone()).accept(socket);
        let stream = tokio::time::timeout(self.handshake_timeout, accept)
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")
            })??;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .ok_or_else(|| io::Error::other(rustls::Error::NoCertificatesPresented))?;
        let uri = peer_uri(certificate).map_err(io::Error::other)?;
        let identity = PeerIdentity {
            uri: uri.into(),
            address: address.to_string().into(),
        };
        Ok((stream, identity))
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.identity.clone()
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Carrier::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Carrier::Local(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Carrier::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Carrier::Local(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Carrier::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Carrier::Local(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Carrier::Tls(stream) => stream.is_write_vectored(),
            Carrier::Local(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Carrier::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Carrier::Local(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Carrier::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Carrier::Local(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
