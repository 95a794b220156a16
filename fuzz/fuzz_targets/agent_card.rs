//! libFuzzer's way into [`caplane_fuzz::agent_card`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::agent_card(data));
