#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mailstrata_mailstore::redolog::hostile::bytes(data));
