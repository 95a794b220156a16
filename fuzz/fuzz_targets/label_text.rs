//! libFuzzer's way into [`caplane_fuzz::label_text`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::label_text(data));
