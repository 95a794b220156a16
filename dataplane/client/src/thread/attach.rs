//! Attaching: dialling, `Hello` and `Welcome`, draining to another router, and coming back after a loss.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use caplane_proto::v1::control_frame::Frame;
use caplane_proto::v1::{ControlFrame, Drain, Welcome};
use caplane_transport::{CloseCause, PeerId};
use caplane_wire::CloseCode;
use prost::Message as _;
use tokio::sync::oneshot;

use super::Thread;
use super::dial::Step;
use super::link::{self, Link, Stage};
use crate::command::Command;
use crate::error::{AttachError, CloseReason};
use crate::event::ClientEvent;
use crate::protocol::Me;

/// The first attachment, for which `Client::attach` waits.
pub(super) struct Attaching {
    told: oneshot::Sender<Result<(), AttachError>>,
    timeout: Duration,
    /// What came of the last attempt at each router.
    failures: Vec<Option<String>>,
    refused: Option<(usize, CloseCode, String)>,
}

impl Attaching {
    pub(super) fn new(
        told: oneshot::Sender<Result<(), AttachError>>,
        timeout: Duration,
        routers: usize,
    ) -> Self {
        Self {
            told,
            timeout,
            failures: vec![None; routers],
            refused: None,
        }
    }

    pub(super) fn failed(self, error: AttachError) {
        let _ = self.told.send(Err(error));
    }

    /// What to tell when the time is over.
    fn give_up(self, routers: &[String]) {
        let error = match &self.refused {
            Some((router, code, reason)) => AttachError::Refused {
                router: routers[*router].clone(),
                code: *code,
                reason: reason.clone(),
            },
            None => AttachError::Unreachable {
                tried: routers
                    .iter()
                    .zip(&self.failures)
                    .map(|(router, failure)| {
                        let failure = failure.as_deref().unwrap_or("no answer yet");
                        format!("{router}: {failure}")
                    })
                    .collect::<Vec<_>>()
                    .join("; "),
                waited: self.timeout,
            },
        };
        self.failed(error);
    }
}

impl Thread {
    /// Does what attaching needs now; answers when to look again.
    pub(super) fn step_attachment(&mut self, now: Duration) -> Option<Duration> {
        let mut timers = Vec::new();
        if let Some(attaching) = &self.attaching {
            if attaching.timeout <= now {
                let attaching = self.attaching.take()?;
                attaching.give_up(&self.config.routers);
                self.ended = Some(CloseReason::Application);
                return None;
            }
            timers.push(attaching.timeout);
        }
        for index in (0..self.links.len()).rev() {
            match self.links[index].stage {
                Stage::Greeting { by } if by <= now => {
                    self.drop_link(now, index, CloseCode::Protocol, "no Welcome within 5 s");
                }
                Stage::Leaving { by } if by <= now || !self.is_needed(&self.links[index]) => {
                    let by = now + link::BYE_TIMEOUT;
                    let link = &mut self.links[index];
                    link.say_bye("attached elsewhere", &mut self.endpoint);
                    link.stage = Stage::Parting { by };
                    timers.push(by);
                }
                Stage::Parting { by }
                    if by <= now || self.endpoint.acked(self.links[index].peer) =>
                {
                    self.drop_link(now, index, CloseCode::Normal, "attached elsewhere");
                }
                Stage::Greeting { by } | Stage::Leaving { by } | Stage::Parting { by } => {
                    timers.push(by);
                }
                Stage::Dialling | Stage::Attached => {}
            }
        }
        loop {
            match self.dialer.step(now) {
                Step::Wait(at) => {
                    timers.extend(at);
                    break;
                }
                Step::LookUp(router) => self.look_up(router),
                Step::Dial(router, address) => self.dial(router, address),
            }
        }
        timers.into_iter().min()
    }

    /// Whether a link that is left behind still has something to bring.
    fn is_needed(&self, link: &Link) -> bool {
        self.messenger.is_out_on(link.epoch) || !self.endpoint.acked(link.peer)
    }

    fn look_up(&mut self, router: usize) {
        if let Ok(address) = self.config.routers[router].parse::<SocketAddr>() {
            return self.dialer.addresses(router, vec![address]);
        }
        let (name, shared) = (self.config.routers[router].clone(), self.shared.clone());
        self.runtime.spawn(async move {
            let found = tokio::net::lookup_host(name).await.map(Iterator::collect);
            let _ = shared.outbox.push(Command::Addresses { router, found });
        });
    }

    fn dial(&mut self, router: usize, address: SocketAddr) {
        let here = self.endpoint.local_addr();
        let address = match address {
            SocketAddr::V4(v4) if here.is_ipv6() => {
                SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port()))
            }
            SocketAddr::V6(_) if here.is_ipv4() => {
                self.note_failure(router, &format!("{address}: this host has no IPv6"));
                return self.dialer.failed();
            }
            other => other,
        };
        match self.endpoint.connect(address, None) {
            Ok(peer) => {
                let lanes = self.messenger.lane_count();
                self.links
                    .push(Link::new(peer, router, lanes, &self.config));
            }
            Err(error) => {
                self.note_failure(router, &error.to_string());
                self.dialer.failed();
            }
        }
    }

    pub(super) fn note_failure(&mut self, router: usize, failure: &str) {
        tracing::info!(event = "attach_failed", router = %self.config.routers[router], failure, "trying on");
        if let Some(attaching) = &mut self.attaching {
            attaching.failures[router] = Some(failure.to_owned());
        }
    }

    pub(super) fn connected(&mut self, now: Duration, peer: PeerId, uri: &str) {
        let prefix = self.config.router_uri_prefix.as_deref().unwrap_or("");
        let fits = uri.starts_with(prefix);
        let Some(index) = self.links.iter().position(|link| link.peer == peer) else {
            return;
        };
        if !fits {
            let reason = format!("{uri} is not a router's name, which begins with {prefix}");
            return self.drop_link(now, index, CloseCode::NotAllowed, &reason);
        }
        self.links[index].say_hello(now, &self.config, &mut self.endpoint);
    }

    pub(super) fn refused(&mut self, peer: PeerId, failure: &str) {
        if let Some(index) = self.links.iter().position(|link| link.peer == peer) {
            let router = self.links.swap_remove(index).router;
            self.note_failure(router, failure);
            self.dialer.failed();
        }
    }

    pub(super) fn control(&mut self, now: Duration, peer: PeerId, message: &[u8]) {
        let Some(index) = self.links.iter().position(|link| link.peer == peer) else {
            return;
        };
        let Ok(ControlFrame { frame }) = ControlFrame::decode(message) else {
            return self.drop_link(
                now,
                index,
                CloseCode::Protocol,
                "a control frame does not decode",
            );
        };
        let Some(frame) = frame else {
            return; // of a later version (WF-110)
        };
        match (frame, self.links[index].stage) {
            (Frame::Welcome(welcome), Stage::Greeting { .. }) => {
                self.welcomed(now, index, &welcome);
            }
            (Frame::Resolved(answer), Stage::Attached | Stage::Leaving { .. }) => {
                self.queries.answered(answer);
            }
            (Frame::Drain(drain), _) => self.drain(now, index, drain),
            (Frame::Bye(bye), _) => {
                let code = u64::try_from(bye.code)
                    .ok()
                    .and_then(CloseCode::from_number)
                    .unwrap_or(CloseCode::Normal);
                self.endpoint.close(peer, CloseCode::Normal.number(), "");
                self.lost(now, index, Some(code), &bye.reason);
            }
            _ => self.drop_link(
                now,
                index,
                CloseCode::Protocol,
                "a control frame out of place",
            ),
        }
    }

    fn welcomed(&mut self, now: Duration, index: usize, welcome: &Welcome) {
        let router = self.config.routers[self.links[index].router].clone();
        let attachment = match link::granted(welcome, &router) {
            Ok(attachment) => attachment,
            Err(rule) => return self.drop_link(now, index, CloseCode::Protocol, rule),
        };
        for left in &mut self.links {
            if left.stage == Stage::Attached {
                let period = left.drain.unwrap_or(now + link::WELCOME_TIMEOUT);
                left.stage = Stage::Leaving { by: period };
            }
        }
        self.epochs += 1;
        let link = &mut self.links[index];
        link.stage = Stage::Attached;
        link.epoch = self.epochs;
        self.dialer.succeeded();
        self.messenger.attached(Me {
            address: attachment.address,
            epoch: self.epochs,
        });
        self.shared
            .message_max
            .store(attachment.bulk_message_max, Ordering::Relaxed);
        let label_changed =
            self.last_address.replace(attachment.address) != Some(attachment.address);
        tracing::info!(event = "attached", %router, label = %attachment.address.label, "attached");
        self.shared
            .attachment
            .send_replace(Some(Arc::new(attachment.clone())));
        match self.attaching.take() {
            Some(attaching) => {
                let _ = attaching.told.send(Ok(()));
            }
            None => {
                let _ = self.shared.events.send(ClientEvent::Reattached {
                    attachment,
                    label_changed,
                });
            }
        }
        for query in self.queries.open() {
            self.ask(query);
        }
    }

    /// A router asks to leave: attach elsewhere first where there is an elsewhere.
    fn drain(&mut self, now: Duration, index: usize, drain: Drain) {
        let period = Duration::from_millis(u64::from(drain.period_ms));
        let link = &mut self.links[index];
        if link.stage != Stage::Attached || link.drain.is_some() {
            return;
        }
        link.drain = Some(now + period);
        link.writer.draining = true;
        let router = link.router;
        if self.dialer.has_other(router) {
            self.dialer.leave(router);
            self.dialer.look(now);
        }
        let _ = self.shared.events.send(ClientEvent::Draining {
            router: self.config.routers[router].clone(),
            period,
            reason: drain.reason,
        });
    }

    pub(super) fn closed(
        &mut self,
        now: Duration,
        peer: PeerId,
        code: u64,
        reason: &str,
        by_peer: bool,
        cause: CloseCause,
    ) {
        let Some(index) = self.links.iter().position(|link| link.peer == peer) else {
            return; // we let go of it before
        };
        let code = match cause {
            CloseCause::Application if by_peer => CloseCode::from_number(code),
            _ => None,
        };
        let reason = match (cause, reason) {
            (CloseCause::IdleTimeout, _) => "nothing was heard from it".to_owned(),
            (CloseCause::Transport, reason) => format!("transport error {code:?} {reason}"),
            (CloseCause::Application, reason) => reason.to_owned(),
        };
        self.lost(now, index, code, &reason);
    }

    /// Lets go of a link for a reason of ours.
    fn drop_link(&mut self, now: Duration, index: usize, code: CloseCode, reason: &str) {
        self.endpoint
            .close(self.links[index].peer, code.number(), reason);
        self.lost(now, index, None, reason);
    }

    /// A link is gone.
    fn lost(&mut self, now: Duration, index: usize, code: Option<CloseCode>, reason: &str) {
        let link = self.links.swap_remove(index);
        if link.is_attached() {
            self.messenger.link_lost(link.epoch);
        }
        // Who attaches elsewhere is replaced by itself.
        let by_ourselves = link.drain.is_some() && code == Some(CloseCode::Replaced);
        if let Some(code) = code.filter(|code| link::is_final(*code))
            && !matches!(link.stage, Stage::Leaving { .. } | Stage::Parting { .. })
            && !by_ourselves
        {
            return self.turned_away(link.router, code, reason);
        }
        match link.stage {
            Stage::Leaving { .. } | Stage::Parting { .. } => {}
            Stage::Dialling | Stage::Greeting { .. } => {
                self.note_failure(link.router, reason);
                if let (Some(code), Some(attaching)) = (code, &mut self.attaching) {
                    attaching.refused = Some((link.router, code, reason.to_owned()));
                }
                self.dialer.failed();
            }
            Stage::Attached => {
                let retry_in = match code {
                    _ if self.dialer.is_looking() => Duration::ZERO,
                    Some(CloseCode::InstanceConflict) => {
                        self.dialer.look(now);
                        Duration::ZERO
                    }
                    Some(CloseCode::Drained | CloseCode::Overloaded)
                        if self.dialer.has_other(link.router) =>
                    {
                        self.dialer.leave(link.router);
                        self.dialer.look(now);
                        Duration::ZERO
                    }
                    _ => self.dialer.look_later(now),
                };
                let router = self.config.routers[link.router].clone();
                tracing::warn!(event = "detached", %router, reason, "the attachment is lost");
                self.shared.attachment.send_replace(None);
                let _ = self.shared.events.send(ClientEvent::Detached {
                    router,
                    reason: reason.to_owned(),
                    code,
                    retry_in,
                });
            }
        }
    }

    /// A router will not have us back.
    fn turned_away(&mut self, router: usize, code: CloseCode, reason: &str) {
        if let Some(attaching) = self.attaching.take() {
            attaching.failed(AttachError::Refused {
                router: self.config.routers[router].clone(),
                code,
                reason: reason.to_owned(),
            });
        }
        self.ended = Some(CloseReason::Refused {
            code,
            reason: reason.to_owned(),
        });
    }
}
