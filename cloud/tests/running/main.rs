//! The built care-cloud as a child process with its real Mosquitto, addressed like a camera does: MQTT and HTTPS with client
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
mod parts;
mod portal;
mod postgres;
mod reset;
mod several;
