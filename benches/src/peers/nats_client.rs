//! As much of NATS' client protocol as a load needs, over TCP or TLS, on one
//! thread without blocking.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// Bytes read at a time.
const READ: usize = 256 * 1024;
/// Name in the server's certificate.
pub(super) const SERVER_NAME: &str = "localhost";

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// A connection to a NATS server.
pub(super) struct Client {
    stream: Stream,
    input: Vec<u8>,
    /// Bytes of `input` that hold something.
    filled: usize,
    /// What is not written yet.
    pub(super) output: Vec<u8>,
    written: usize,
}

/// A message that came.
pub(super) struct Message<'a> {
    pub(super) reply: Option<&'a str>,
    pub(super) payload: &'a [u8],
}

/// TLS 1.3 with AES-128-GCM, as every system here uses it; trusts exactly this certificate.
pub(super) fn tls_config(certificate: &[u8]) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(certificate.to_vec()))
        .map_err(io::Error::other)?;
    let mut provider = rustls::crypto::ring::default_provider();
    provider
        .cipher_suites
        .retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Client {
    /// Connects and waits until the server has answered a PING.
    pub(super) fn connect(
        address: SocketAddr,
        tls: Option<&Arc<ClientConfig>>,
    ) -> io::Result<Client> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        // INFO comes in plain text; TLS begins after it.
        let mut info = Vec::new();
        let mut byte = [0];
        while !info.ends_with(b"\r\n") {
            socket.read_exact(&mut byte)?;
            info.push(byte[0]);
        }
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
                let session =
                    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                let mut stream = StreamOwned::new(session, socket);
                while stream.conn.is_handshaking() {
                    stream.conn.complete_io(&mut stream.sock)?;
                }
                Stream::Tls(Box::new(stream))
            }
        };
        let mut client = Client {
            stream,
            input: vec![0; READ],
            filled: 0,
            output: Vec::with_capacity(2 * READ),
            written: 0,
        };
        client.output.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\",\"protocol\":1,\"echo\":false}\r\n",
        );
        client.socket().set_nonblocking(true)?;
        Ok(client)
    }

    fn socket(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    pub(super) fn subscribe(&mut self, subject: &str, id: u32) {
        let line = format!("SUB {subject} {id}\r\n");
        self.output.extend_from_slice(line.as_bytes());
    }

    /// Puts a message into the output; it leaves with the next [`Client::flush`].
    pub(super) fn publish(&mut self, subject: &str, reply: Option<&str>, payload: &[u8]) {
        let out = &mut self.output;
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(subject.as_bytes());
        if let Some(reply) = reply {
            out.push(b' ');
            out.extend_from_slice(reply.as_bytes());
        }
        // Writing to a vector does not fail.
        let _ = write!(out, " {}\r\n", payload.len());
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
    }

    /// Writes as much as the socket takes; true when nothing is left.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            let rest = &self.output[self.written..];
            let done = match &mut self.stream {
                Stream::Plain(socket) => socket.write(rest),
                Stream::Tls(stream) => stream.write(rest),
            };
            match done {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        self.output.clear();
        self.written = 0;
        if let Stream::Tls(stream) = &mut self.stream {
            match stream.flush() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                done => done?,
            }
        }
        Ok(true)
    }

    /// Sleeps until there is something to read (or to write, if something is left), or time is up.
    pub(super) fn wait(&self, time: Duration) -> io::Result<()> {
        let mut events = PollFlags::IN;
        let tls_left = matches!(&self.stream, Stream::Tls(stream) if stream.conn.wants_write());
        if tls_left || self.written < self.output.len() {
            events |= PollFlags::OUT;
        }
        let timeout = Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(self.socket(), events)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Reads what is there and gives each message to `take`, with the output for answers; how many came.
    pub(super) fn receive(
        &mut self,
        mut take: impl FnMut(Message<'_>, &mut Vec<u8>),
    ) -> io::Result<u64> {
        let mut count = 0;
        loop {
            let room = &mut self.input[self.filled..];
            let read = match &mut self.stream {
                Stream::Plain(socket) => socket.read(room),
                Stream::Tls(stream) => stream.read(room),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.filled += length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(e) => return Err(e),
            }
            let mut at = 0;
            while let Some((length, operation)) = next_operation(&self.input[at..self.filled])? {
                match operation {
                    Operation::Message(message) => {
                        take(message, &mut self.output);
                        count += 1;
                    }
                    Operation::Ping => self.output.extend_from_slice(b"PONG\r\n"),
                    Operation::Other => {}
                }
                at += length;
            }
            self.input.copy_within(at..self.filled, 0);
            self.filled -= at;
        }
    }
}

enum Operation<'a> {
    Message(Message<'a>),
    Ping,
    Other,
}

/// The first whole operation and its length.
fn next_operation(input: &[u8]) -> io::Result<Option<(usize, Operation<'_>)>> {
    let Some(end) = input.windows(2).position(|two| two == b"\r\n") else {
        return Ok(None);
    };
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "not NATS' protocol");
    let line = std::str::from_utf8(&input[..end]).map_err(|_| wrong())?;
    let mut words = line.split(' ');
    let after = end + 2;
    match words.next() {
        Some("MSG") => {
            let words: Vec<&str> = words.collect();
            let (reply, length) = match words.as_slice() {
                [_, _, length] => (None, *length),
                [_, _, reply, length] => (Some(*reply), *length),
                _ => return Err(wrong()),
            };
            let length: usize = length.parse().map_err(|_| wrong())?;
            let Some(payload) = input.get(after..after + length) else {
                return Ok(None);
            };
            let whole = after + length + 2;
            if input.len() < whole {
                return Ok(None);
            }
            Ok(Some((
                whole,
                Operation::Message(Message { reply, payload }),
            )))
        }
        Some("PING") => Ok(Some((after, Operation::Ping))),
        Some("-ERR") => Err(io::Error::other(line.to_owned())),
        Some(_) => Ok(Some((after, Operation::Other))),
        None => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_whole_or_not_at_all() {
        let input = b"MSG b.1.7 3 _IN.1 5\r\nhello\r\nPING\r\nMSG x 1 2\r\n";
        let (length, operation) = next_operation(input).expect("valid").expect("whole");
        let Operation::Message(message) = operation else {
            panic!("a message");
        };
        assert_eq!(
            (message.reply, message.payload),
            (Some("_IN.1"), &b"hello"[..])
        );
        for cut in 0..length {
            assert!(
                next_operation(&input[..cut]).expect("valid").is_none(),
                "{cut}"
            );
        }
        let rest = &input[length..];
        assert!(matches!(
            next_operation(rest),
            Ok(Some((6, Operation::Ping)))
        ));
        assert!(matches!(next_operation(&rest[6..]), Ok(None)));
        assert!(next_operation(b"-ERR 'slow'\r\n").is_err());
    }
}
