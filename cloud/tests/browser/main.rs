//! The portal in Chromium: every flow, in both languages, against a running care-cloud and, where a camera has to answer, the real
//! agent. Screenshots stay in `target/portal-pictures/`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod access;
mod browser;
#[path = "../running/cloud.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod cloud;
mod engineers;
mod owner;
mod stage;
