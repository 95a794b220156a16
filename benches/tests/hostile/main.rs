//! What peers do that they may not, and files that say what they may not: each test starts a real fabric, does one
//! wrong thing after another to it with a peer made for that, and watches from outside: what the peer is told, what the
//! router counts, what the victim receives. After each wrong thing a normal request is answered.

mod admission;
mod files;
mod forgery;
mod framing;
mod malformed;
mod peer;
mod scene;
#[path = "../behaviour/stage.rs"]
#[allow(
    dead_code,
    reason = "these tests use a part of what the others' stage can do"
)]
mod stage;
