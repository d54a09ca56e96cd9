//! See `jpeg` in `src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    kasa_care_agent::fuzzing::run("jpeg", input);
});
