//! `support`: writes one JSON file for support: status and conditions, the timeline and the history of documents with order ids,
//! the last log lines, the state on flash, and versions. All times are RFC 3339 in UTC. It holds no key, token, account or
//! password.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use care_engine::{Record, trusted_time::timestamp};
use care_protocol::Entitlement;
use serde_json::{Value, json};

use super::Exit;
use crate::{
    config::Config,
    redact,
    status::{PastDocument, ask},
    store::{Restored, Store},
    timeline,
};

pub(super) fn run(config: &Config, output: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let asked = match &config.status {
        Some(listen) => ask(listen, "/support.json").map_err(anyhow::Error::from).and_then(|body| Ok(serde_json::from_slice(&body)?)),
        None => Err(anyhow::anyhow!("the configuration has no [status]")),
    };
    // An agent that does not answer is a finding, not an error.
    let (running, fault): (Option<Value>, _) = match asked {
        Ok(running) => (Some(running), None),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let timeline = running.is_none().then(|| timeline_on_flash(config));
    let mut archive = json!({
        "at": crate::clock::timestamp().to_string(),
        "device": config.device.id,
        "model": config.device.model,
        "versions": {
            "agent": env!("CARGO_PKG_VERSION"),
            "gstreamer": cfg!(feature = "gstreamer"),
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
            "system": system().unwrap_or_default(),
        },
        "running": running,
        "not_running": fault,
        "on_flash": on_flash(config),
        "timeline_on_flash": timeline,
    });
    hide_secrets(&mut archive);
    let text = format!("{archive:#}\n");
    match output {
        None => out.write_all(text.as_bytes())?,
        Some(path) => {
            write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(out, "{}", PathBuf::from(path).display())?;
        }
    }
    Ok(Exit::Done)
}

/// Writes the file for its owner only, because it holds order ids.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

fn system() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"').to_owned())
}

/// The record on flash. Its signatures are not verified; the agent does that when it starts.
fn on_flash(config: &Config) -> Value {
    let record = match Store::peek(&config.device.state_dir) {
        Ok(Restored::Record(bytes)) => Record::read(&bytes).map_err(|error| error.to_string()),
        Ok(Restored::Empty) => return json!("nothing was ever written"),
        Ok(Restored::Unreadable) => return json!("unreadable"),
        Err(error) => Err(error.to_string()),
    };
    match record {
        Ok(record) => json!({
            "ratchet": record.ratchet,
            "document": record.entitlement.as_ref().and_then(|token| Entitlement::claimed_position(token.as_bytes())),
            "next_performed": record.next_performed,
            "lease_used_s": record.lease_used_s,
            "trusted": timestamp(Duration::from_secs(record.trusted_s)).to_string(),
            "documents": record.history.iter().map(PastDocument::from).collect::<Vec<_>>(),
            "reset_id": record.reset_id,
            "undelivered_report": record.report,
        }),
        Err(error) => json!({ "fault": error }),
    }
}

/// The timeline of an agent that does not answer.
fn timeline_on_flash(config: &Config) -> Value {
    let record = match Store::peek(&config.device.state_dir) {
        Ok(Restored::Record(bytes)) => Record::read(&bytes).ok(),
        _ => None,
    };
    let document = record.and_then(|record| Entitlement::claimed_position(record.entitlement?.as_bytes()));
    match timeline::on_flash(&config.device.state_dir, document.map_or(0, |document| document.epoch)) {
        Ok(entries) => json!(entries),
        Err(error) => json!({ "fault": error.to_string() }),
    }
}

/// Removes passwords, signatures in URLs, and tokens from every text: an error message may quote them.
fn hide_secrets(value: &mut Value) {
    match value {
        Value::String(text) => *text = redact::text(text),
        Value::Array(values) => values.iter_mut().for_each(hide_secrets),
        Value::Object(fields) => fields.values_mut().for_each(hide_secrets),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_signatures_and_tokens_are_removed() {
        let mut value = json!({
            "a": ["cannot open rtsp://admin:canary@10.0.0.7/stream: refused"],
            "b": "PUT https://clips.example/a/b?X-Amz-Signature=canary failed (https://u:canary@h/?canary#canary)",
            "c": "token eyJcanary.canary.canary is bad; nothing else",
            "d": "rtsp://127.0.0.1/low, 640x360",
        });
        hide_secrets(&mut value);
        assert!(!value.to_string().contains("canary"), "{value}");
        assert_eq!(value["a"][0], "cannot open rtsp://…@10.0.0.7/stream: refused");
        assert_eq!(value["b"], "PUT https://clips.example/a/b?… failed (https://…@h/?…)");
        assert_eq!(value["c"], "token … is bad; nothing else");
        assert_eq!(value["d"], "rtsp://127.0.0.1/low, 640x360");
    }
}
