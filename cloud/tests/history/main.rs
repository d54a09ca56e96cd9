//! The cloud's history: which clips the store keeps, which account may watch them, and what a change of plan or owner erases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faq;
mod owners;
mod playback;
mod sign_in;
mod time;
mod world;
