//! What Caplane reads from others, under bytes that others should not send.
//!
//! One `pub fn` per target takes any bytes and panics when an invariant is broken; [`TARGETS`] lists them. Three
//! things drive them: `cargo test -p caplane-fuzz` replays `corpus/` and a few thousand seeded mutations of it,
//! libFuzzer runs them with coverage as guide (`fuzz_targets/`, feature `libfuzzer`), and the `mutate` example
//! mutates the corpus where libFuzzer cannot be built. `run.sh SECONDS` picks one of the last two.
//!
//! A target checks more than the absence of panics: what is read is written back the same, and a stream reads the
//! same however its bytes are cut. It refuses to know how its bytes were made.

mod documents;
pub mod mutation;
mod pieces;
mod sessions;
mod streams;
mod texts;

pub use documents::{agent_card, taxonomy_file};
pub use sessions::{control_stream, southbound_update};
pub use streams::{bulk_framing, header_tlv, lane_framing};
pub use texts::label_text;

/// A fuzz target: takes any bytes, panics when something is wrong.
pub type Target = fn(&[u8]);

/// Every target by name: the name of its file in `fuzz_targets/` and of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 8] = [
    ("agent_card", agent_card),
    ("bulk_framing", bulk_framing),
    ("control_stream", control_stream),
    ("header_tlv", header_tlv),
    ("label_text", label_text),
    ("lane_framing", lane_framing),
    ("southbound_update", southbound_update),
    ("taxonomy_file", taxonomy_file),
];
