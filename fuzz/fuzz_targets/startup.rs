#![no_main]

// The module does not depend on the rest of the instance manager.
#[allow(dead_code, reason = "the target uses a part of the module")]
#[path = "../../instance/src/gateway/startup.rs"]
mod startup;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| startup::fuzz(bytes));
