//! The agent's status: one document, a page that shows it with what the camera films, metrics, and a server for all. The control
//! thread keeps [`SharedStatus`] up to date. The server only reads it, on its own thread, so that a reader cannot delay a switch. It
//! listens on loopback or a unix socket only.

mod body;
mod client;
mod document;
mod events;
mod history;
#[cfg(feature = "metrics")]
mod metrics;
mod observed;
mod page;
mod pictures;
mod sections;
mod server;
mod span;
#[cfg(test)]
mod tests;
mod words;

pub use client::{AskError, ask};
pub use document::{
    CertificateStatus, ClockStatus, LinkStatus, MediaPart, NextChange, SharedStatus, SpoolStatus, StatusDocument, StoreStatus,
    TransferStatus,
};
pub use history::PastDocument;
pub use observed::Observed;
pub use server::Server;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use server::fuzz_request;
