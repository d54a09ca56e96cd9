//! A stand-in for the Care cloud, made of real parts: portal, plans, entitlement issuer, MQTT broker, clip store.
//!
//! The demo and the tests talk to it, and it is the reference for whoever writes the real one. One change has one way
//! through the house: `portal → plans → issuer → (one transaction: documents, outbox, revoked grants) → link → camera`,
//! and back as a report. It is not for production: one process, one machine, one database file.
#![deny(unsafe_code)]

pub mod account_view;
pub mod accounts;
pub mod actions;
pub mod allowed;
pub mod api;
pub mod args;
pub mod billing;
pub mod broker;
pub mod bus;
pub mod catalogue;
pub mod client;
pub mod clips;
pub mod clock;
pub mod cloud;
pub mod data_dir;
pub mod db;
pub mod engineers;
pub mod experiments;
pub mod fail_point;
pub mod issuer;
pub mod keys;
pub mod link;
pub mod machine;
pub mod mailbox;
pub mod money;
pub mod outbox;
pub mod pki;
pub mod playback;
pub mod portal;
pub mod preview;
pub mod provision;
pub mod prune;
pub mod reports;
pub mod retention;
pub mod run;
pub mod schedule;
pub mod serve;
pub mod simulated;
pub mod store;
