//! libFuzzer's way into [`caplane_fuzz::control_stream`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::control_stream(data));
