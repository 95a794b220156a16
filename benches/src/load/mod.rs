//! The load generator: messages due at fixed times, sent by S senders to R
//! receivers over K classes and F flows, measured from the time they were due.
//!
//! Senders and receivers are threads that drive a transport endpoint each; no
//! message is allocated, formatted or locked for. What is measured: latency
//! from the intended time (so a stalled generator or router cannot hide:
//! no coordinated omission), loss, duplication, reordering, corruption and
//! misrouting by a stamp in the payload, and the CPU time of the router's
//! processes. It refuses to know what a router does inside.

mod assertion;
mod attach;
mod crowd;
mod export;
mod flow;
mod message;
mod observe;
mod pace;
mod plan;
mod process;
mod receiver;
mod report;
mod report_text;
mod respond;
mod run;
mod sender;
mod silence;
mod under_way;
mod window;

pub use assertion::{Assertion, AssertionError};
pub use attach::{AttachError, Seat};
pub use crowd::Crowd;
pub use export::Histograms;
pub use flow::{Arrival, FlowLedger};
pub use message::{Layout, MessageWriter, Pattern, STAMP_LEN, Stamp};
pub use observe::{Display, Lines, Moment, Observer, Phase};
pub use pace::sleep_exactly;
pub use plan::{Carrier, Plan, PlanError, Rate, class_labels, group_labels};
pub use process::{Machine, ProcessSample, ProcessWatch};
pub use receiver::{ReceiverTotals, serves};
pub use report::{ConnectionChurn, Cpu, Distribution, Report, SelfTest, Span, TableChurn, Verdict};
pub use run::{Approach, RunError, Target, is_here, observed, run, self_test};
pub use sender::SenderTotals;
pub use silence::{Silences, Timeline};
