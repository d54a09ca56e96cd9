//! The link against a scripted broker, for what no decent broker does, and against Mosquitto.

mod broker;
mod delivery;
mod mosquitto;
mod owner;
mod publishing;
mod recovery;
mod stages;
mod wire;
