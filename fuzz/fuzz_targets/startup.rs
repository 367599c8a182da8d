#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgraft_instance::gateway::startup::fuzz(bytes));
