//! What a running agent announces, by Home Assistant's own rules: tests/assets/home-assistant.json, which says where they
//! come from. docs/home-assistant.md names every entity.

use care_tests::{home::Home, world::World};
use serde_json::{Value, json};

use super::schema::Judge;

const SCHEMA: &str = "../tests/assets/home-assistant";

#[tokio::test]
async fn a_running_agent_is_announced_as_home_assistant_reads_it() {
    let (mut world, home) = (World::with_camera().await, Home::start().await);
    home.equip(&mut world.agent, "discovery_prefix = \"ha/found\"\nbase_topic = \"cameras/care\"\npage_url = \"https://camera.lan/care/\"");
    let assistant = home.assistant().await;
    world.start_premium().await;
    let device = assistant.device("ha/found/device/kasa_care_8006E5A1F0C2/config").await;
    let mut judge = Judge::start();
    let (valid, why) = judge.validate(SCHEMA, &device);
    assert!(valid, "{why} in {device:#}");
    assistant.hears("cameras/care/8006E5A1F0C2/availability", |payload| payload == "online").await;

    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/home-assistant.md")).unwrap();
    let components = device["components"].as_object().unwrap();
    assert!(components.len() > 8, "{components:#?}");
    for entity in components.values() {
        let (name, platform) = (entity["name"].as_str().unwrap(), entity["platform"].as_str().unwrap());
        assert!(document.contains(&format!("| {name} | `{platform}` |")), "docs/home-assistant.md has no {platform} {name}");
    }

    // The judge finds what Home Assistant would refuse.
    for (pointer, wrong) in [
        ("/components/mode/options", json!([])),
        ("/components/mode/state_class", json!("measurement")),
        ("/components/spool/unit_of_measurement", json!("bytes")),
        ("/components/stored/unique_id", Value::Null),
        ("/components/problem/device_class", json!("fault")),
        ("/components/link/state_topic", json!("a/#")),
        ("/components/picture/content_type", json!("image/jpeg")),
        ("/device/identifiers", json!([])),
        ("/device/configuration_url", json!("camera.lan")),
        ("/origin/name", Value::Null),
        ("/whatever", json!(1)),
    ] {
        let mut faulty = device.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        faulty.pointer_mut(parent).unwrap()[field] = wrong;
        assert!(!judge.validate(SCHEMA, &faulty).0, "{pointer}");
    }
}
