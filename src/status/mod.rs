//! What people and machines see of the agent: one document, a page that shows it, and the listener that serves both. The
//! control thread keeps the [`SharedStatus`] up to date; the listener only reads it, on a thread of its own, so that nobody who
//! looks can delay a switch. It reaches no further than this device.

mod client;
mod document;
mod history;
mod page;
mod sections;
mod server;
#[cfg(test)]
mod tests;

pub use client::{AskError, ask};
pub use document::{
    CertificateStatus, ClockStatus, LinkStatus, MediaPart, NextChange, SharedStatus, SpoolStatus, StatusDocument, StoreStatus,
    TransferStatus,
};
pub use history::{Change, History, PastDocument};
pub use server::Server;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use server::request_from_a_stranger;
