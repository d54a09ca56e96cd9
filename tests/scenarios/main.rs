//! The scenarios: one test for each, named by its number.

mod account;
mod addresses;
mod attack;
mod bad_servers;
mod brokers;
mod camera;
mod card;
mod certificates;
mod check_config;
mod cluster;
mod conditions;
mod device_advisor;
mod flash_faults;
mod flash_wear;
mod harness;
mod hidden_passwords;
mod motion_blind;
mod network;
mod optional_parts;
mod order;
mod ownership;
mod path_mtu;
mod plan_changes;
mod power;
mod real_input;
mod reset;
mod restart;
mod round_trip;
mod secrets;
mod silence;
mod soak;
mod spool;
mod stubborn_clips;
mod time;
mod trusted_files;
mod trusted_time;
mod unit;
mod wires;

/// What the status says of this condition, if it holds.
fn condition(status: &care_tests::status::Status, name: &str) -> Option<String> {
    let conditions = status.0["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["name"] == name)?;
    found["sentence"].as_str().map(ToOwned::to_owned)
}
