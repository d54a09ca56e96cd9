//! The scenarios: one test for each, named by its number.

mod account;
mod attack;
mod bad_servers;
mod brokers;
mod camera;
mod certificates;
mod cluster;
mod device_advisor;
mod flash_faults;
mod harness;
mod network;
mod order;
mod ownership;
mod plan_changes;
mod power;
mod real_input;
mod restart;
mod secrets;
mod soak;
mod spool;
mod time;
mod wires;
