//! The built care-cloud as a child, with its real Mosquitto, spoken to as a camera speaks: MQTT and HTTPS with client
//! certificates. Everything a test starts ends with it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod api;
mod broker;
mod camera;
mod cloud;
mod command_line;
mod crash;
mod engineers;
mod external;
mod faq;
mod outbox;
mod portal;
mod reset;
