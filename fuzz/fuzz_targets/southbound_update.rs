//! libFuzzer's way into [`caplane_fuzz::southbound_update`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::southbound_update(data));
