//! `openapi.yaml` and `asyncapi.yaml`: every reference leads somewhere, and they name what the code and
//! `docs/protocol.md` have.

use std::collections::{BTreeMap, BTreeSet};

use care_protocol::{DeviceId, MAX_KEYSET_BYTES, MAX_TOKEN_BYTES, Topics};
use serde_json::Value;

use super::{
    quoted,
    schema::{Judge, folder},
    table,
};

/// The paths in `openapi.yaml`.
pub struct Api(Value);

impl Api {
    pub fn read(judge: &mut Judge) -> Self {
        Self(judge.yaml("openapi.yaml"))
    }

    /// Whether a request matches one of them.
    pub fn has(&self, method: &str, path: &str) -> bool {
        let fits = |template: &str| {
            let (mut steps, mut given) = (template.split('/'), path.split('/'));
            loop {
                match (steps.next(), given.next()) {
                    (None, None) => return true,
                    (Some(step), Some(given)) if step == given || (step.starts_with('{') && !given.is_empty()) => {}
                    _ => return false,
                }
            }
        };
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().any(|(template, methods)| fits(template) && methods.get(method.to_lowercase()).is_some())
    }
}

/// Follows every `$ref`; returns the files that were referenced.
fn references(whole: &Value, part: &Value, files: &mut BTreeSet<String>) {
    match part {
        Value::Object(fields) => {
            if let Some(to) = fields.get("$ref") {
                let to = to.as_str().unwrap();
                match to.strip_prefix('#') {
                    Some(pointer) => assert!(whole.pointer(pointer).is_some(), "{to} leads nowhere"),
                    None => {
                        assert!(folder().join(to).is_file(), "{to} leads nowhere");
                        files.insert(to.to_owned());
                    }
                }
            }
            fields.values().for_each(|part| references(whole, part, files));
        }
        Value::Array(items) => items.iter().for_each(|part| references(whole, part, files)),
        _ => {}
    }
}

#[test]
fn every_schema_is_used_and_every_reference_leads_somewhere() {
    let mut judge = Judge::start();
    let mut files = BTreeSet::new();
    for name in ["openapi.yaml", "asyncapi.yaml"] {
        let whole = judge.yaml(name);
        references(&whole, &whole, &mut files);
    }
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".json") {
            let schema = super::schema::read(&name);
            references(&schema, &schema, &mut files);
            assert_eq!(schema["$id"], format!("https://care.example/schemas/{name}"));
            all.insert(name);
        }
    }
    // These are not exchanged between camera and cloud.
    files.extend(["config.schema.json", "status.json", "uploader-from-agent.json", "uploader-to-agent.json"].map(str::to_owned));
    assert_eq!(files, all);
}

#[test]
fn the_topics_are_those_of_the_code_and_of_the_document() {
    let asyncapi = Judge::start().yaml("asyncapi.yaml");
    let device: DeviceId = "D".parse().unwrap();
    let topics = Topics::new("{prefix}", &device);
    let ours = [topics.entitlement(), topics.answer(), topics.keyset(), topics.get(), topics.report(), topics.status()];
    let ours: BTreeSet<_> = ours.into_iter().map(|topic| topic.replace("/D/", "/{device}/")).collect();

    let channels = asyncapi["channels"].as_object().unwrap();
    let addresses: BTreeSet<_> = channels.values().map(|channel| channel["address"].as_str().unwrap().to_owned()).collect();
    assert_eq!(addresses, ours);

    let mut operations = BTreeMap::new();
    for operation in asyncapi["operations"].as_object().unwrap().values() {
        let channel = operation["channel"]["$ref"].as_str().unwrap().strip_prefix("#/channels/").unwrap();
        let mqtt = &operation["bindings"]["mqtt"];
        let said = (operation["action"].as_str().unwrap(), mqtt["qos"].as_u64().unwrap(), mqtt["retain"].as_bool().unwrap());
        operations.insert(channels[channel]["address"].as_str().unwrap(), said);
    }
    let rows = table("## Topics");
    let listed: BTreeMap<_, _> = rows
        .iter()
        .map(|row| {
            let action = if row[1].starts_with("to ") { "receive" } else { "send" };
            assert_eq!(row[4], if action == "receive" { "read" } else { "write" });
            (quoted(row[0]).unwrap(), (action, row[2].parse().unwrap(), row[3] == "yes"))
        })
        .collect();
    assert_eq!(operations, listed);
    let most = |message: &str| asyncapi.pointer(&format!("/components/messages/{message}/payload/maxLength")).and_then(Value::as_u64);
    assert_eq!(most("entitlement"), Some(MAX_TOKEN_BYTES as u64));
    assert_eq!(most("keyset"), Some(MAX_KEYSET_BYTES as u64));
}

#[test]
fn the_requests_and_statuses_are_those_of_the_document() {
    let mut judge = Judge::start();
    let api = Api::read(&mut judge);
    let mut request = None;
    let mut listed = BTreeSet::new();
    for row in table("## HTTPS") {
        request = quoted(row[0]).or(request);
        let (method, path) = request.unwrap().split_once(' ').unwrap();
        let responses =
            api.0["paths"][path][method.to_lowercase()]["responses"].as_object().unwrap_or_else(|| panic!("no {method} {path}"));
        for status in row[1].split(", ").filter(|status| *status != "5xx") {
            assert!(responses.contains_key(status), "{method} {path} lacks {status}");
        }
        listed.insert(path);
    }
    assert_eq!(listed, api.0["paths"].as_object().unwrap().keys().map(String::as_str).collect());
    assert!(api.has("GET", "/v1/devices/8006E5A1F0C2/entitlement") && !api.has("PUT", "/v1/keyset") && !api.has("GET", "/v1/keysets"));
}
