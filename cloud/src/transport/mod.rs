//! Everything between the cloud and the cameras: the MQTT broker and the link to it, the HTTPS API, and the clip
//! store. [`crate::domain`] decides what a plan allows.

pub mod api;
pub mod broker;
pub mod client;
pub mod cloud;
pub mod events;
pub mod heard;
pub mod held_port;
mod http;
pub mod link;
pub mod listener;
pub mod observed;
pub mod publications;
pub mod refused_grants;
pub mod retention;
pub mod store;
