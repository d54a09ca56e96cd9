//! A stand-in for the Care cloud, made of real parts: portal, plans, entitlement issuer, MQTT broker, clip store.
//!
//! The demo and the tests talk to it, and it is the reference for the authors of a real one. It is not for production.
//! It runs alone on a database file, or several times on one PostgreSQL.
//!
//! | module | what it holds |
//! |---|---|
//! | [`storage`] | the database, the data directory, keys and certificates |
//! | [`domain`] | plans, subscriptions, money, the issuer of entitlements, the rules for clips |
//! | [`transport`] | the MQTT broker and link, the HTTPS API, the clip store |
//! | [`lab`] | the engineers' experiments and the simulated cameras |
//! | [`portal`] | the web pages and the JSON that the command line reads |
//!
//! Each module uses only those above it in this table; `tests/layers.rs` checks that. [`run`] puts them together,
//! [`schedule`] does what time brings, `metrics` counts for Prometheus.
//!
//! A change of plan takes one path: `portal → domain → (one transaction: document, outbox, revoked grants) → transport
//! → camera`, and the camera's report returns over `transport`.
#![deny(unsafe_code)]

pub mod domain;
pub mod lab;
pub mod portal;
pub mod storage;
pub mod transport;

pub mod child;
pub mod clock;
pub mod command_line;
pub mod fail_point;
mod metrics;
pub mod provision;
pub mod run;
pub mod schedule;
