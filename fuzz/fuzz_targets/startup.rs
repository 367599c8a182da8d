#![no_main]

// It names nothing else of its crate, which would bring a whole instance manager along.
#[allow(dead_code, reason = "the target uses a part of the module")]
#[path = "../../instance/src/gateway/startup.rs"]
mod startup;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startup::fuzz(bytes));
