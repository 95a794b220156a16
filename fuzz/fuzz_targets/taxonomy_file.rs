//! libFuzzer's way into [`caplane_fuzz::taxonomy_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::taxonomy_file(data));
