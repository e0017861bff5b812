#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailstrata_tests::hostile::event_line(data));
