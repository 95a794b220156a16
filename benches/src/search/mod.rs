//! The throughput search: which load is carried without loss (NDR), and with
//! at most half a percent of it (PDR).
//!
//! After RFC 9971 (MLRsearch): a load is tried several times; trials are good
//! or bad by the goal's loss ratio; the load is a lower or an upper bound
//! once the exceed ratio can no longer change sides. The search narrows the
//! two down to the goal's width. It refuses to know what a trial is: it asks
//! for one and gets a loss ratio.

mod bounds;
mod measured;

pub use bounds::{Goal, GoalResult, Searcher, Trial};
pub use measured::{LatencyAt, SearchError, SearchReport, SearchSettings, search};
