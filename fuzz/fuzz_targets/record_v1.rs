#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailstrata_tests::hostile::record_v1(data));
