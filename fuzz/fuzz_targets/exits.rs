#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| secvisor_fuzz::targets::exits(data));
