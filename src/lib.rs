//! The Care agent: switches a camera's cloud upload with its plan, at once.
//!
//! A pure [engine](care_engine) in the middle, thin shells around it. A document comes in through [`link`], is judged by the
//! engine, and opens or closes the gate of [`upload`]; frames come out of [`media`] and meet the plan only at that
//! gate. [`agent`] feeds events to the engine and carries out its effects, in order.
//!
//! | thread | what runs on it |
//! |---|---|
//! | control | link, engine, the cut: nothing slow |
//! | store | `fdatasync`, which can take seconds on worn flash |
//! | uploads | grants and PUTs, on a runtime of its own; or the socket of a vendor's uploader |
//! | flash | clips put on flash, unlinked from it |
//! | GStreamer's | capture, motion, clips |
#![deny(unsafe_code)]

pub mod agent;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod conditions;
pub mod config;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod http;
pub mod link;
pub mod logging;
pub mod media;
pub mod memory;
pub mod ownership;
mod path_mtu;
pub mod redact;
pub mod status;
pub mod store;
pub mod systemd;
#[cfg(test)]
mod test_pki;
pub mod text_file;
pub mod tls;
pub mod token_bucket;
pub mod unix_socket;
pub mod upload;
