//! What Home Assistant is told of this camera as a device: its entities, in one retained message (device-based discovery,
//! since Home Assistant 2024.11; <https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery>). All states are in one
//! JSON document, from which each entity takes a field.

use care_protocol::{DeviceId, Mode};
use serde_json::{Map, Value, json};

use crate::config::LocalMqtt;

/// How long motion is shown after an event, seconds.
const MOTION_LASTS: u64 = 30;
/// The longest name of a model that is passed on, characters.
const MODEL_MOST: usize = 64;

/// The topics of one camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topics {
    /// Where Home Assistant finds the device.
    pub(super) device: String,
    /// `online`, `offline`.
    pub(super) availability: String,
    /// The states, as one JSON document.
    pub(super) state: String,
    /// `ON` with each motion event.
    pub(super) motion: String,
    /// The address of the newest picture.
    pub(super) picture: String,
}

impl Topics {
    pub(super) fn new(config: &LocalMqtt, device: &DeviceId) -> Self {
        let of = |name| format!("{}/{device}/{name}", config.base_topic);
        Self {
            device: format!("{}/device/{}/config", config.discovery_prefix, object_id(device)),
            availability: of("availability"),
            state: of("state"),
            motion: of("motion"),
            picture: of("picture"),
        }
    }
}

/// Home Assistant allows no dot there.
fn object_id(device: &DeviceId) -> String {
    format!("kasa_care_{}", device.as_str().replace('.', "_"))
}

/// One entity that takes its state from the JSON document.
struct Entity {
    /// Names it for ever: the end of its unique id.
    key: &'static str,
    platform: &'static str,
    name: &'static str,
    /// Its further fields.
    fields: &'static [(&'static str, &'static str)],
    /// The field of the document that holds its attributes.
    attributes: Option<&'static str>,
}

const fn sensor(key: &'static str, name: &'static str, fields: &'static [(&'static str, &'static str)]) -> Entity {
    Entity { key, platform: "sensor", name, fields, attributes: None }
}

const fn binary(key: &'static str, name: &'static str, fields: &'static [(&'static str, &'static str)]) -> Entity {
    Entity { key, platform: "binary_sensor", name, fields, attributes: None }
}

const ENTITIES: &[Entity] = &[
    sensor("plan", "Plan", &[("icon", "mdi:card-account-details-outline")]),
    sensor("mode", "Mode", &[("device_class", "enum")]),
    Entity { attributes: Some("holds"), ..sensor("held", "Uploads held because", &[("icon", "mdi:cloud-alert-outline")]) },
    Entity { attributes: Some("switch"), ..sensor("last_switch", "Last switch", &[("device_class", "timestamp")]) },
    sensor(
        "stored",
        "Clips stored",
        &[("state_class", "total_increasing"), ("unit_of_measurement", "clips"), ("icon", "mdi:cloud-check-outline")],
    ),
    sensor("in_flight", "Uploads in flight", &[("state_class", "measurement"), ("icon", "mdi:cloud-upload-outline")]),
    sensor("spool", "Waiting for upload", &[("device_class", "data_size"), ("state_class", "measurement"), ("unit_of_measurement", "B")]),
    binary("problem", "Problem", &[("device_class", "problem")]),
    binary("link", "Cloud connection", &[("device_class", "connectivity"), ("entity_category", "diagnostic")]),
];

/// The device with its entities.
pub(super) fn device(config: &LocalMqtt, topics: &Topics, device: &DeviceId, model: &str, films: bool) -> Value {
    let object = object_id(device);
    let model: String = model.chars().take(MODEL_MOST).collect();
    let mut components = Map::new();
    let mut add = |key: &str, platform: &str, name: &str, mut fields: Value| {
        fields["platform"] = platform.into();
        fields["name"] = name.into();
        fields["unique_id"] = format!("kasa_care_{device}_{key}").into();
        components.insert(key.to_owned(), fields);
    };
    for Entity { key, platform, name, fields, attributes } in ENTITIES {
        let mut entity = json!({ "state_topic": topics.state, "value_template": format!("{{{{ value_json.{key} }}}}") });
        for (field, value) in *fields {
            entity[*field] = (*value).into();
        }
        if *key == "mode" {
            entity["options"] = Mode::ALL.iter().map(|mode| mode.as_str()).collect();
        }
        if let Some(attributes) = attributes {
            entity["json_attributes_topic"] = topics.state.as_str().into();
            entity["json_attributes_template"] = format!("{{{{ value_json.{attributes} | tojson }}}}").into();
        }
        add(key, platform, name, entity);
    }
    if films {
        let motion = json!({ "state_topic": topics.motion, "device_class": "motion", "off_delay": MOTION_LASTS });
        add("motion", "binary_sensor", "Motion", motion);
    }
    if films && has_picture(config) {
        add("picture", "image", "Picture", json!({ "url_topic": topics.picture }));
    }
    let mut described = json!({
        "identifiers": [object],
        "name": format!("{model} {device}"),
        "manufacturer": "Kasa",
        "model": model,
        "serial_number": device.as_str(),
        "sw_version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(page) = &config.page_url {
        described["configuration_url"] = page.as_str().into();
    }
    json!({
        "device": described,
        "origin": { "name": env!("CARGO_PKG_NAME"), "sw_version": env!("CARGO_PKG_VERSION") },
        "availability_topic": topics.availability,
        "components": components,
    })
}

/// Whether there is an address at which Home Assistant finds a JPEG: only GStreamer's decoders make one.
pub(super) fn has_picture(config: &LocalMqtt) -> bool {
    cfg!(feature = "gstreamer") && config.page_url.is_some()
}
