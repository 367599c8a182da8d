#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pgraft_raft::fuzz::run("log", bytes));
