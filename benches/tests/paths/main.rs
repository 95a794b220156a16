//! What agents see when the way between them is not perfect: packets lost, late, twice or out of order; a link whose
//! packets must become smaller in mid flow; a receiver that stands still behind a link that others use too. Each test
//! starts a real fabric and looks from outside.
//!
//! One file a subject; `relayed` puts the impairer on a link, `namespace` makes links of the system's own, `traffic` sends
//! and accounts for numbered messages.

mod impaired;
mod namespace;
mod others;
mod path_mtu;
mod relayed;
mod slow_receiver;
#[path = "../behaviour/stage.rs"]
#[allow(dead_code, reason = "another test binary uses the rest of it")]
mod stage;
mod traffic;
