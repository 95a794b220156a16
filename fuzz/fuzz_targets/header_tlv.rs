//! libFuzzer's way into [`caplane_fuzz::header_tlv`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| caplane_fuzz::header_tlv(data));
