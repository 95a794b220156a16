//! One run: seats are taken, the window opens, is sampled, drains and closes.

use super::attach::{AttachError, Seat};
use super::observe::{Lines, Moment, Observer, Phase};
use super::process::ProcessWatch;
use super::receiver::{Expectation, Judge, Progress, Receiver, ReceiverTotals};
use super::report::{Outcome, Report, Sampled, Subject};
use super::respond::Responder;
use super::sender::{Sender, SenderTotals};
use super::under_way::UnderWay;
use super::window::Window;
use super::{Plan, PlanError, Rate};
use caplane_transport::{Credentials, Endpoint, EndpointConfig, EndpointError, SendError};
use caplane_wire::Label;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Taking all seats: a machine that is busy building needs a while.
const SEATS_PATIENCE: Duration = Duration::from_secs(30);
/// For answers after the last message has arrived.
const ANSWER_PATIENCE: Duration = Duration::from_millis(100);
/// Without any message for this long, nothing more is under way.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// What is measured.
#[derive(Clone)]
pub struct Target {
    /// In words, for the report.
    pub name: String,
    /// Router the senders attach to.
    pub ingress: SocketAddr,
    /// Router the receivers attach to.
    pub egress: SocketAddr,
    /// Identity of all senders.
    pub sender: Credentials,
    /// Identity of each receiver.
    pub receivers: Vec<Credentials>,
    /// Processes whose CPU time counts.
    pub watch: ProcessWatch,
    /// How connections begin.
    pub approach: Approach,
    /// It shares this machine's CPUs with the generator.
    pub co_located: bool,
}

/// Whether this address is one of this machine's.
pub fn is_here(address: SocketAddr) -> bool {
    let mut any_port = address;
    any_port.set_port(0);
    UdpSocket::bind(any_port).is_ok()
}

/// How a connection to the target begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approach {
    /// As an instance: Hello, Welcome, and the label that comes with it.
    Attach,
    /// With nothing but the connection: the naive hop knows no control stream.
    Plain,
}

impl Target {
    fn seat(
        &self,
        router: SocketAddr,
        credentials: &Credentials,
        name: &str,
        plan: &Plan,
    ) -> Result<Seat, AttachError> {
        let (credentials, payload) = (credentials.clone(), plan.udp_payload_max);
        match self.approach {
            Approach::Attach => {
                let mut seat = Seat::attach(router, credentials, name, payload)?;
                seat.put_back_early();
                Ok(seat)
            }
            Approach::Plain => Seat::direct(router, credentials, payload),
        }
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The plan cannot work.
    #[error("plan: {0}")]
    Plan(#[from] PlanError),
    /// A seat could not be taken.
    #[error("{0}")]
    Attach(#[from] AttachError),
    /// The self-test's receiver could not listen.
    #[error("self-test: {0}")]
    Listen(#[from] EndpointError),
    /// A lane could not be opened.
    #[error("opening a lane: {0}; the router's stream limit may be below the number of lanes")]
    Lane(#[from] SendError),
    /// A socket or `/proc` failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A connection ended in the middle.
    #[error("{who} {number}: {what}")]
    Ended {
        /// "sender" or "receiver".
        who: &'static str,
        /// Which.
        number: usize,
        /// Why.
        what: String,
    },
    /// A thread panicked.
    #[error("a {0} thread panicked")]
    Panicked(&'static str),
    /// Not all threads were ready in time.
    #[error("only {0} of {1} connections were ready within {2:?}")]
    Seats(usize, usize, Duration),
}

type SenderThread = JoinHandle<io::Result<(SenderTotals, Option<String>)>>;
type ReceiverThread = JoinHandle<io::Result<(ReceiverTotals, Option<String>)>>;

struct Threads {
    tag: u32,
    window: Arc<Window>,
    under_way: Option<Arc<UnderWay>>,
    sending: Vec<Arc<Progress>>,
    receiving: Vec<Arc<Progress>>,
    senders: Vec<SenderThread>,
    receivers: Vec<ReceiverThread>,
}

/// Measures a router (or several in a row). `tell` gets a line a second.
///
/// # Errors
/// [`RunError`]; a report with a bad verdict is no error.
pub fn run(plan: &Plan, target: &Target, tell: &mut dyn FnMut(&str)) -> Result<Report, RunError> {
    observed(plan, target, &mut Lines::new(tell))
}

/// As [`run`], with somebody who is told how things stand ten times a second.
///
/// # Errors
/// As [`run`].
pub fn observed(
    plan: &Plan,
    target: &Target,
    observer: &mut dyn Observer,
) -> Result<Report, RunError> {
    plan.check()?;
    let mut threads = Threads::new(plan);
    for (n, credentials) in (0..plan.receivers).zip(target.receivers.iter().cycle()) {
        let name = format!("receiver-{}-{n}", plan.seed);
        let seat = target.seat(target.egress, credentials, &name, plan)?;
        let responder = plan
            .reply
            .then(|| Responder::new(seat.label, seat.domain, plan.class));
        threads.receive(plan, n, seat.endpoint, responder)?;
    }
    for n in 0..plan.senders {
        // Two runs side by side have two seeds; the next run takes the place of the one before.
        let name = format!("sender-{}-{n}", plan.seed);
        let seat = target.seat(target.ingress, &target.sender, &name, plan)?;
        threads.send(plan, n, seat)?;
    }
    let subject = Subject {
        name: &target.name,
        watch: &target.watch,
        co_located: target.co_located,
    };
    threads.measure(plan, &subject, observer)
}

/// Measures the generator against itself: senders connect to receivers directly.
/// `receiver` must be an identity that may act as a server.
///
/// # Errors
/// As [`run`].
pub fn self_test(
    plan: &Plan,
    sender: &Credentials,
    receiver: &Credentials,
    tell: &mut dyn FnMut(&str),
) -> Result<Report, RunError> {
    plan.check()?;
    let mut threads = Threads::new(plan);
    let mut addresses = Vec::new();
    // Nobody chooses among the receivers: whatever a sender sends arrives at the one it is connected to.
    let anybody = Plan {
        fan_out: true,
        ..plan.clone()
    };
    for n in 0..plan.receivers {
        let mut config = EndpointConfig::new((Ipv4Addr::LOCALHOST, 0).into(), receiver.clone());
        config.udp_payload_max = plan.udp_payload_max;
        let endpoint = Endpoint::bind(config)?;
        addresses.push(endpoint.local_addr());
        // Answers go back the way the question came.
        let responder = plan
            .reply
            .then(|| Responder::new(Label::NONE, 0, plan.class));
        threads.receive(&anybody, n, endpoint, responder)?;
    }
    for n in 0..plan.senders {
        let to = addresses[n % addresses.len()];
        let seat = Seat::direct(to, sender.clone(), plan.udp_payload_max)?;
        threads.send(plan, n, seat)?;
    }
    let subject = Subject {
        name: "generator alone",
        watch: &ProcessWatch::default(),
        co_located: true,
    };
    threads.measure(plan, &subject, &mut Lines::new(tell))
}

impl Threads {
    fn new(plan: &Plan) -> Threads {
        Threads {
            tag: tag(plan),
            window: Arc::new(Window::new(plan.warm_up, plan.duration)),
            under_way: plan
                .under_way_max
                .map(|most| Arc::new(UnderWay::new(most, plan.fan_out))),
            sending: Vec::new(),
            receiving: Vec::new(),
            senders: Vec::new(),
            receivers: Vec::new(),
        }
    }

    fn receive(
        &mut self,
        plan: &Plan,
        number: usize,
        endpoint: Endpoint,
        responder: Option<Responder>,
    ) -> io::Result<()> {
        let progress = Arc::new(Progress::default());
        let receiver = Receiver {
            endpoint,
            judge: Judge::new(Expectation {
                tag: self.tag,
                classes: plan.classes.clone().into(),
                flows: plan.flows,
                receiver: number,
                receivers: plan.receivers,
                sizes: plan.sizes(),
                fan_out: plan.fan_out,
            }),
            window: Arc::clone(&self.window),
            progress: Arc::clone(&progress),
            bulk: HashMap::new(),
            closed: None,
            heard_ns: 0,
            responder,
            under_way: self.under_way.clone(),
        };
        if let Some(under_way) = &self.under_way {
            under_way.receives(Arc::clone(&progress));
        }
        self.receiving.push(progress);
        self.receivers.push(
            std::thread::Builder::new()
                .name(format!("receiver-{number}"))
                .spawn(move || receiver.run())?,
        );
        Ok(())
    }

    fn send(&mut self, plan: &Plan, number: usize, seat: Seat) -> Result<(), RunError> {
        let progress = Arc::new(Progress::default());
        let window = Arc::clone(&self.window);
        let waker = seat.endpoint.waker();
        let mut sender = Sender::new(seat, plan, number, self.tag, window, Arc::clone(&progress))?;
        if let Some(under_way) = &self.under_way {
            under_way.sends(Arc::clone(&progress), waker);
            sender.under_way = Some(Arc::clone(under_way));
        }
        self.sending.push(progress);
        self.senders.push(
            std::thread::Builder::new()
                .name(format!("sender-{number}"))
                .spawn(move || sender.run())?,
        );
        Ok(())
    }

    fn measure(
        mut self,
        plan: &Plan,
        subject: &Subject<'_>,
        observer: &mut dyn Observer,
    ) -> Result<Report, RunError> {
        let seats = self.senders.len() + self.receivers.len();
        let patience = Instant::now() + SEATS_PATIENCE;
        while self.window.seated() < seats {
            if Instant::now() >= patience || self.any_ended() {
                let seated = self.window.seated();
                self.finish()?;
                return Err(RunError::Seats(seated, seats, SEATS_PATIENCE));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.window.begin();
        let sampled = self.sample(plan, subject.watch, observer)?;
        self.drain(plan, observer);
        if plan.reply {
            // The last messages are there; their answers need a moment.
            std::thread::park_timeout(ANSWER_PATIENCE);
        }
        let (senders, receivers) = self.finish()?;
        let outcome = Outcome {
            senders,
            receivers,
            sampled,
            epoch: self.window.epoch(),
            measured: self.window.measured().unwrap_or_default(),
        };
        Ok(Report::new(plan, subject, &outcome))
    }

    /// Waits through the window and samples `/proc` at its ends.
    fn sample(
        &self,
        plan: &Plan,
        watch: &ProcessWatch,
        observer: &mut dyn Observer,
    ) -> io::Result<Sampled> {
        let (from, to) = self.window.measured().unwrap_or_default();
        let start = self.window.start().unwrap_or_default();
        self.wait_until(Phase::WarmUp, (start, from), plan, observer);
        let begun = Instant::now();
        let before = watch.sample()?;
        let (messages, payload_bytes) = self.received();
        self.wait_until(Phase::Measuring, (from, to), plan, observer);
        let after = watch.sample()?;
        let (messages_after, bytes_after) = self.received();
        Ok(Sampled {
            elapsed: begun.elapsed(),
            before,
            after,
            messages: messages_after - messages,
            payload_bytes: bytes_after - payload_bytes,
        })
    }

    fn wait_until(
        &self,
        phase: Phase,
        (from_ns, until_ns): (u64, u64),
        plan: &Plan,
        observer: &mut dyn Observer,
    ) {
        loop {
            let left = until_ns.saturating_sub(self.window.now());
            if left == 0 || self.any_ended() {
                return;
            }
            std::thread::park_timeout(Duration::from_nanos(left).min(Duration::from_millis(100)));
            let done = 1.0 - left as f64 / (until_ns - from_ns).max(1) as f64;
            observer.moment(&self.moment(phase, done, Duration::from_nanos(left), plan));
        }
    }

    fn moment(&self, phase: Phase, done: f64, left: Duration, plan: &Plan) -> Moment {
        let sent = self.sent();
        let worst = |of: fn(&Progress) -> &AtomicU64| {
            let all = self.receiving.iter();
            let ns = all.map(|p| of(p).load(Ordering::Relaxed)).max();
            ns.unwrap_or_default() as f64 / 1e3
        };
        Moment {
            phase,
            done,
            left,
            offered_per_s: match plan.rate {
                Rate::PerSecond(rate) => Some(rate),
                Rate::Max => None,
            },
            sent,
            expected: sent * plan.copies(),
            received: self.received().0,
            p50_us: worst(|p| &p.p50_ns),
            p99_us: worst(|p| &p.p99_ns),
        }
    }

    /// Waits until everything sent has come, nothing comes any more, or patience ends.
    fn drain(&self, plan: &Plan, observer: &mut dyn Observer) {
        let deadline = Instant::now() + plan.drain;
        let (mut last, mut since) = (self.received().0, Instant::now());
        let expected = || self.sent() * plan.copies();
        // A turn of a sender that began within the window may end, and be counted, after it.
        let all_come = |last| self.all_sent() && last >= expected();
        while Instant::now() < deadline && !all_come(last) && !self.any_ended() {
            std::thread::park_timeout(Duration::from_millis(5));
            let left = deadline.saturating_duration_since(Instant::now());
            observer.moment(&self.moment(Phase::Drain, 0.0, left, plan));
            let now = self.received().0;
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() > DRAIN_SILENCE {
                let missing = expected().saturating_sub(last);
                observer.note(&format!("drain: {missing} messages did not come"));
                return;
            }
        }
    }

    /// True when [`Threads::sent`] grows no more.
    fn all_sent(&self) -> bool {
        let done = |p: &Arc<Progress>| p.done.load(Ordering::Acquire);
        self.sending.iter().all(done)
    }

    fn sent(&self) -> u64 {
        let count = |p: &Arc<Progress>| p.messages.load(Ordering::Relaxed);
        self.sending.iter().map(count).sum()
    }

    /// Messages and payload bytes.
    fn received(&self) -> (u64, u64) {
        self.receiving.iter().fold((0, 0), |(messages, bytes), p| {
            (
                messages + p.messages.load(Ordering::Relaxed),
                bytes + p.payload_bytes.load(Ordering::Relaxed),
            )
        })
    }

    fn any_ended(&self) -> bool {
        self.senders.iter().any(JoinHandle::is_finished)
            || self.receivers.iter().any(JoinHandle::is_finished)
    }

    fn finish(&mut self) -> Result<(Vec<SenderTotals>, Vec<ReceiverTotals>), RunError> {
        self.window.stop();
        // Receivers outlive senders by nothing: both are told at once and closing comes last.
        let senders = join(std::mem::take(&mut self.senders), "sender")?;
        let receivers = join(std::mem::take(&mut self.receivers), "receiver")?;
        Ok((senders, receivers))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.window.stop();
        for thread in std::mem::take(&mut self.senders) {
            // An error is on its way to the caller already.
            let _ = thread.join();
        }
        for thread in std::mem::take(&mut self.receivers) {
            let _ = thread.join();
        }
    }
}

type Joined<T> = JoinHandle<io::Result<(T, Option<String>)>>;

fn join<T>(threads: Vec<Joined<T>>, who: &'static str) -> Result<Vec<T>, RunError> {
    let mut all = Vec::new();
    let mut failed = None;
    for (number, thread) in threads.into_iter().enumerate() {
        match thread.join() {
            Ok(Ok((totals, None))) => all.push(totals),
            Ok(Ok((_, Some(what)))) => failed = Some(RunError::Ended { who, number, what }),
            Ok(Err(error)) => failed = Some(RunError::Io(error)),
            Err(_) => failed = Some(RunError::Panicked(who)),
        }
    }
    failed.map_or(Ok(all), Err)
}

/// Upper half of the flow ids of a run: fresh for each, so that a second run
/// on the same router is not taken for duplicates of the first.
fn tag(plan: &Plan) -> u32 {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let salt = u64::from(std::process::id()) << 20 | run << 44;
    ((plan.seed ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_ends_after_the_window_is_waited_for() {
        let plan = Plan::one_to_one(1);
        let mut threads = Threads::new(&plan);
        let (sending, receiving) = (Arc::<Progress>::default(), Arc::<Progress>::default());
        threads.sending.push(Arc::clone(&sending));
        threads.receiving.push(Arc::clone(&receiving));
        // All that is counted so far has come, but the sender is in the middle of a turn.
        sending.messages.store(10, Ordering::Relaxed);
        receiving.messages.store(10, Ordering::Relaxed);
        struct Late(Arc<Progress>, Arc<Progress>, u32);
        impl Observer for Late {
            fn moment(&mut self, _: &Moment) {
                self.2 += 1;
                match self.2 {
                    2 => {
                        self.0.messages.store(438, Ordering::Relaxed);
                        self.0.done.store(true, Ordering::Release);
                    }
                    4 => self.1.messages.store(438, Ordering::Relaxed),
                    _ => {}
                }
            }
            fn note(&mut self, line: &str) {
                panic!("{line}");
            }
        }
        let mut late = Late(sending, receiving, 0);
        threads.drain(&plan, &mut late);
        assert_eq!((threads.received().0, late.2), (438, 4));
    }
}
