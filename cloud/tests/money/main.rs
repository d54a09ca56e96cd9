//! Money: the FAQ's table, bills and credits, and random histories after each step of which the ledger must balance.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faq;
mod histories;
mod lives;
mod payments;
mod plans;
mod world;
