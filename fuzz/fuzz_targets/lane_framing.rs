//! libFuzzer's way into [`caplane_fuzz::lane_framing`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::lane_framing(data));
