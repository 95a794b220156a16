//! Many attached instances on few sockets: agents that are there and say
//! nothing.

use super::attach::{AttachError, dialling_with, hello, read_welcome};
use caplane_client::ClientConfig;
use caplane_transport::{Credentials, Endpoint, Event, PeerId};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Handshakes under way at a time: below the router's threshold for Retry.
const UNDER_WAY: usize = 32;
/// One that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// One identity: a socket, and its instances.
struct Member {
    endpoint: Endpoint,
    attached: Vec<PeerId>,
    /// Connections begun.
    asked: usize,
    /// Connections that said Hello, each under a name of its own.
    greeted: usize,
}

/// Instances of several identities at one router; they leave when it is dropped.
pub struct Crowd {
    router: SocketAddr,
    members: Vec<Member>,
}

impl Crowd {
    /// A socket for each identity. `hybrid`: offer the key exchange X25519MLKEM768 first, as clients do by default.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn new(
        router: SocketAddr,
        identities: &[Credentials],
        hybrid: bool,
    ) -> Result<Crowd, AttachError> {
        let members = identities
            .iter()
            .map(|credentials| {
                let endpoint = dialling_with(router, credentials.clone(), |config| {
                    config.hybrid_key_exchange = hybrid;
                    // As agents of our client library.
                    config.idle_timeout = ClientConfig::IDLE_TIMEOUT;
                    config.keepalive = Some(ClientConfig::IDLE_TIMEOUT / 2);
                    // Hundreds of sockets of a full buffer each would be gigabytes.
                    config.socket_buffer_bytes = 256 << 10;
                })
                .map_err(|e| AttachError::Endpoint(router, e))?;
                Ok(Member {
                    endpoint,
                    attached: Vec::new(),
                    asked: 0,
                    greeted: 0,
                })
            })
            .collect::<Result<_, AttachError>>()?;
        Ok(Crowd { router, members })
    }

    /// Instances attached now.
    pub fn attached(&self) -> usize {
        self.members.iter().map(|m| m.attached.len()).sum()
    }

    /// Attaches until there are `count`, at most `each` for an identity.
    ///
    /// # Errors
    /// When one is refused or does not attach in time.
    pub fn attach(&mut self, count: usize, each: usize) -> Result<(), AttachError> {
        let mut progress = Instant::now();
        let mut before = self.attached();
        while self.attached() < count {
            let mut asked: usize = self.members.iter().map(|m| m.asked).sum();
            for member in &mut self.members {
                let under_way = |asked: usize| asked - before;
                if asked < count && member.asked < each && under_way(asked) < UNDER_WAY {
                    let failed = |e| AttachError::Endpoint(self.router, e);
                    member.endpoint.connect(self.router, None).map_err(failed)?;
                    member.asked += 1;
                    asked += 1;
                }
            }
            self.turn()?;
            let now = self.attached();
            if now > before {
                (before, progress) = (now, Instant::now());
            } else if progress.elapsed() > PATIENCE {
                return Err(AttachError::Deadline(self.router, PATIENCE));
            }
        }
        Ok(())
    }

    /// Keeps them attached for a while: answers and keepalives are sent.
    ///
    /// # Errors
    /// When one is closed by the router.
    pub fn serve(&mut self, time: Duration) -> Result<(), AttachError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.turn()?;
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Ok(())
    }

    /// All leave.
    ///
    /// # Errors
    /// When a socket fails.
    pub fn leave(mut self) -> Result<(), AttachError> {
        for member in &mut self.members {
            for peer in member.attached.drain(..) {
                member.endpoint.close(peer, 0, "leaving");
            }
            let failed = |e| AttachError::Io(self.router, e);
            member.endpoint.flush(Instant::now()).map_err(failed)?;
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), AttachError> {
        let router = self.router;
        let failed = |e| AttachError::Io(router, e);
        for (n, member) in self.members.iter_mut().enumerate() {
            // Zero: it only looks, and runs timers that are due.
            member.endpoint.wait(Some(Duration::ZERO)).map_err(failed)?;
            let now = Instant::now();
            member.endpoint.receive(now).map_err(failed)?;
            while let Some(event) = member.endpoint.next_event() {
                member.event(event, router, n)?;
            }
            member.endpoint.flush(now).map_err(failed)?;
        }
        Ok(())
    }
}

impl Member {
    fn event(&mut self, event: Event, router: SocketAddr, n: usize) -> Result<(), AttachError> {
        match event {
            Event::Connected { peer, .. } => {
                self.greeted += 1;
                let name = format!("crowd-{n}-{}", self.greeted);
                self.endpoint
                    .send_control(peer, &hello(&name))
                    .map_err(|e| AttachError::Protocol(router, format!("sending Hello: {e}")))
            }
            Event::Control { peer, message, .. } => {
                if read_welcome(router, &message).is_ok() {
                    self.attached.push(peer);
                }
                Ok(())
            }
            Event::Refused { reason, .. } => Err(AttachError::Refused(router, reason)),
            Event::Closed { code, reason, .. } => Err(AttachError::Closed {
                address: router,
                code,
                reason,
            }),
            _ => Ok(()),
        }
    }
}
