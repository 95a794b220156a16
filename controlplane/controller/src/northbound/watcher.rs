//! Watch: what changes, told to whoever asked, as fast as they read.
//!
//! A watcher is a task with a place in the change feed. It takes what changed since, each entity once, looks at those
//! as they are now, a few at a time, and sends them; what changes meanwhile waits in the feed. It holds one message and
//! no lock while its reader is slow, so nobody else waits for that; what falls off the feed meanwhile is told as gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use caplane_proto::v1;
use caplane_proto::v1::read_request::Kind;
use caplane_proto::v1::watch_response::Message as Body;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::NorthboundService;
use super::errors::{broke, not_committed, refused, unavailable};
use super::read;
use super::render::View;
use crate::access::{Principal, Scope};
use crate::change::{Fault, Refusal};
use crate::commit::{CommitError, Committed, State};
use crate::feed::{Changed, EntityKey, Gone};
use crate::rib::Rib;
use crate::southbound::Sessions;
use crate::store::StoreError;
use entry::Told;
use request::{Begin, Wanted};

mod entry;
mod request;

#[cfg(test)]
mod tests;

/// Watchers at a time.
pub(super) const WATCHES_MAX: usize = 256;

/// Bytes of a message, but for the entity that passes it.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

/// Entities told under one lock: the writer waits for no more than that. What is passed by on the way to them is bounded by
/// [`read::LOOK_MAX`].
const LOOK_MAX: usize = 64;

/// Least time between two looks at what changed: what changes often is told this often.
const PAUSE: Duration = Duration::from_millis(20);

/// When nothing of what is watched changed for so long, but other things did, a newer place to go on from is told.
const QUIET: Duration = Duration::from_secs(10);

/// Longest wait for a reader to take the last message.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What is to be told, and whether the watcher may have seen it before.
type Keys = BTreeMap<EntityKey, bool>;

pub(super) type Stream = ReceiverStream<Result<v1::WatchResponse, Status>>;

/// Why a watch ends.
enum End {
    /// Nobody reads.
    Left,
    /// Changes were missed.
    Gone(String),
    /// It cannot go on.
    Failed(Status),
}

/// Begins a watch.
pub(super) fn open(
    service: &NorthboundService,
    caller: Principal,
    request: v1::WatchRequest,
) -> Result<Stream, Status> {
    let (wanted, begin) = request::check(request).map_err(|refusal| refused(&refusal))?;
    let place = service.watches.clone().try_acquire_owned().map_err(|_| {
        refused(&Refusal::new(
            Fault::Full,
            "watches",
            WATCHES_MAX,
            "are open, no more may be",
            "close one, or watch several kinds at once",
        ))
    })?;
    let own = service.limits.watch(&caller.uri).ok_or_else(|| {
        refused(&Refusal::new(
            Fault::Full,
            "quota.watches",
            service.limits.quota.watches,
            "are open, no more are due to you",
            "close one, or watch several kinds at once",
        ))
    })?;
    let (outgoing, stream) = mpsc::channel(1);
    let mut stopping = service.stopping.clone();
    let mut watcher = Watcher::new(service, caller.scope, wanted, outgoing.clone());
    tokio::spawn(async move {
        let _places = (place, own);
        let end = tokio::select! {
            end = watcher.run(begin) => end,
            () = outgoing.closed() => End::Left,
            _ = stopping.wait_for(|stopping| *stopping) => {
                // One that does not read learns it from the end of the stream.
                let told = unavailable("the controller is stopping; watch again with the last `resume`");
                let _ = outgoing.try_send(Err(told));
                return;
            }
        };
        let last = match end {
            End::Left => return,
            End::Gone(reason) => Ok(message(Body::Gone(v1::WatchGone {
                reason,
                generation: watcher.state.feed().newest(),
            }))),
            End::Failed(status) => Err(status),
        };
        // Who does not read learns it from the end of the stream.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, outgoing.send(last)).await;
    });
    Ok(ReceiverStream::new(stream))
}

fn message(body: Body) -> v1::WatchResponse {
    v1::WatchResponse {
        message: Some(body),
    }
}

struct Watcher {
    state: Arc<State>,
    sessions: Arc<Sessions>,
    scope: Scope,
    wanted: Wanted,
    outgoing: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    committed: watch::Receiver<Committed>,
    statuses: watch::Receiver<u64>,
    /// Everything up to this generation was told.
    at: u64,
    /// The same of what routers said, by the count of [`Sessions::changed_since`].
    at_status: u64,
    told_at: Instant,
    /// Everything is still being told: who goes on from here would miss the rest.
    partial: bool,
    /// Not yet sent.
    changes: Vec<v1::WatchChange>,
    bytes: usize,
}

impl Watcher {
    fn new(
        service: &NorthboundService,
        scope: Scope,
        wanted: Wanted,
        outgoing: mpsc::Sender<Result<v1::WatchResponse, Status>>,
    ) -> Self {
        Self {
            // Before anything is looked at: what changes from here on wakes it.
            committed: service.state.committed(),
            statuses: service.sessions.changes(),
            at: service.state.feed().newest(),
            at_status: service.sessions.changed_since(u64::MAX).1,
            state: service.state.clone(),
            sessions: service.sessions.clone(),
            scope,
            wanted,
            outgoing,
            told_at: Instant::now(),
            partial: false,
            changes: Vec::new(),
            bytes: 0,
        }
    }

    async fn run(&mut self, begin: Begin) -> End {
        match self.tell(begin).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn tell(&mut self, begin: Begin) -> Result<std::convert::Infallible, End> {
        let mut afresh = Keys::new();
        match begin {
            Begin::Now => {}
            Begin::Everything => {
                self.partial = true;
                for kind in self.wanted.kinds.clone() {
                    self.everything(kind).await?;
                }
            }
            Begin::After(token) => {
                self.at = token.place(&self.state).map_err(End::Gone)?;
                // What routers said meanwhile is remembered by nobody.
                afresh = self.routers(&self.state.rib(), |_| true);
            }
        }
        self.what_changed(afresh).await?;
        self.partial = false;
        self.send(Body::Synced(v1::WatchSynced {
            generation: self.at,
            resume: request::token(&self.state, self.at),
        }))
        .await?;
        loop {
            self.wait().await?;
            self.what_changed(Keys::new()).await?;
        }
    }

    /// Waits until something may have changed.
    async fn wait(&mut self) -> Result<(), End> {
        tokio::time::sleep_until(self.told_at + PAUSE).await;
        let watches_routers = self.watches_routers();
        let stopped = || End::Failed(not_committed(&CommitError::Stopped));
        tokio::select! {
            changed = self.committed.changed() => changed.map_err(|_| stopped()),
            changed = self.statuses.changed(), if watches_routers => changed.map_err(|_| stopped()),
        }
    }

    /// Tells all entities of a kind, as Read pages them.
    async fn everything(&mut self, kind: Kind) -> Result<(), End> {
        let mut after = String::new();
        loop {
            let (key, from) = (self.wanted.key.clone(), after.clone());
            let slice = self
                .look(move |view| {
                    let window = read::Window {
                        key: &key,
                        after: &from,
                        limit: LOOK_MAX,
                    };
                    read::rows(view, kind, &window)
                })
                .await?;
            let told = slice.rows.into_iter().map(Told::from).collect();
            self.add(told).await?;
            match slice.rest {
                Some(rest) => after = rest,
                None => return self.flush(self.at).await,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tells what changed since it was last told, and what is to be told `afresh` besides.
    async fn what_changed(&mut self, afresh: Keys) -> Result<(), End> {
        // Routers that said something.
        let (labels, at_status) = match self.watches_routers() {
            true => self.sessions.changed_since(self.at_status),
            false => (Vec::new(), self.at_status),
        };
        let slice = self
            .state
            .feed()
            .since(self.at, |changed| {
                let wanted = self.wanted.wants(&changed.key);
                wanted.then(|| concerning(&self.scope, changed)).flatten()
            })
            .map_err(|gone| End::Gone(missed(gone)))?;
        let mut keys = slice.keys;
        keys.extend(afresh);
        if !labels.is_empty() {
            keys.extend(self.routers(&self.state.rib(), |label| labels.contains(&label)));
        }
        let mut quiet = true;
        let keys: Vec<(EntityKey, bool)> = keys.into_iter().collect();
        for some in keys.chunks(LOOK_MAX) {
            let some = some.to_vec();
            let told = self
                .look(move |view| {
                    let told = some
                        .iter()
                        .filter_map(|(key, seen)| entry::told(view, key, *seen));
                    told.collect::<Vec<Told>>()
                })
                .await?;
            quiet &= told.is_empty();
            self.add(told).await?;
        }
        let was = self.at;
        (self.at, self.at_status) = (slice.upto, at_status);
        if quiet && (was == self.at || self.told_at.elapsed() < QUIET) {
            return Ok(());
        }
        self.send_changes(self.at).await
    }

    fn watches_routers(&self) -> bool {
        self.wanted.kinds.contains(&Kind::Router)
    }

    /// Wanted routers, by their labels.
    fn routers(&self, rib: &Rib, which: impl Fn(caplane_wire::Label) -> bool) -> Keys {
        let some = rib
            .routers_after("")
            .filter(|router| which(router.label()))
            .map(|router| EntityKey::Router(router.name.clone()));
        some.filter(|key| self.wanted.wants(key))
            .map(|key| (key, true))
            .collect()
    }

    /// Looks at what is durable.
    async fn look<T: Send>(&self, look: impl Fn(&View<'_>) -> T + Send + Sync) -> Result<T, End> {
        loop {
            let seen = self
                .state
                .read(|rib| {
                    look(&View {
                        rib,
                        knowledge: self.state.knowledge(),
                        sessions: &self.sessions,
                        scope: &self.scope,
                    })
                })
                .await;
            match seen {
                Ok((seen, _)) => return Ok(seen),
                // The store failed and what was seen was undone: it looks as it did before.
                Err(CommitError::Store(_)) => {}
                Err(error) => return Err(End::Failed(not_committed(&error))),
            }
        }
    }

    /// Adds changes to the next message, and sends messages that are full.
    async fn add(&mut self, told: Vec<Told>) -> Result<(), End> {
        let told = if self.wanted.cards {
            self.with_cards(told).await?
        } else {
            told
        };
        for Told { change, .. } in told {
            let bytes = change.encoded_len();
            if self.bytes + bytes > MESSAGE_BYTES_MAX {
                self.flush(self.at).await?;
            }
            self.bytes += bytes;
            self.changes.push(change);
        }
        Ok(())
    }

    /// Cards are read from the store, which is no work for an async thread.
    async fn with_cards(&self, mut told: Vec<Told>) -> Result<Vec<Told>, End> {
        if told.iter().all(|told| told.card_of.is_none()) {
            return Ok(told);
        }
        let state = self.state.clone();
        let filled = tokio::task::spawn_blocking(move || -> Result<Vec<Told>, StoreError> {
            for told in &mut told {
                told.fill(&state)?;
            }
            Ok(told)
        });
        filled
            .await
            .map_err(|_| End::Failed(broke("reading cards")))?
            .map_err(|error| End::Failed(unavailable(error.to_string())))
    }

    /// Sends the changes that wait, if any, as told up to `generation`.
    async fn flush(&mut self, generation: u64) -> Result<(), End> {
        if self.changes.is_empty() {
            return Ok(());
        }
        self.send_changes(generation).await
    }

    async fn send_changes(&mut self, generation: u64) -> Result<(), End> {
        self.bytes = 0;
        let changes = std::mem::take(&mut self.changes);
        self.send(Body::Changes(v1::WatchChanges {
            generation,
            resume: match self.partial {
                true => String::new(),
                false => request::token(&self.state, generation),
            },
            changes,
        }))
        .await
    }

    async fn send(&mut self, body: Body) -> Result<(), End> {
        let sent = self.outgoing.send(Ok(message(body))).await;
        self.told_at = Instant::now();
        sent.map_err(|_| End::Left)
    }
}

/// Whether somebody with this scope could see a changed entity before; `None` = its change is nothing to it.
fn concerning(scope: &Scope, changed: &Changed) -> Option<bool> {
    // Who sees every tenant sees nothing new when a thing goes from one to another.
    let concerns = changed.itself || scope.is_bound();
    concerns.then(|| scope.saw(&changed.key, &changed.owners))
}

fn missed(gone: Gone) -> String {
    format!(
        "more changed than is remembered: of what changed up to generation {} it is not known what that was",
        gone.oldest
    )
}
