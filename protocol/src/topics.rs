//! The MQTT topics (`docs/protocol.md#topics`). Both sides build them here; the link classifies what arrives.

use crate::DeviceId;

/// The topics of one device under one prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    device: DeviceId,
}

/// A topic that a device subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    /// The retained entitlement.
    Entitlement,
    /// The answer to a `get`.
    Answer,
    /// The retained keyset, the same for all devices.
    Keyset,
}

impl Topics {
    /// The topics of `device` under `prefix` (`care/v1` by default).
    pub fn new(prefix: &str, device: &DeviceId) -> Self {
        Self { prefix: prefix.to_owned(), device: device.clone() }
    }

    /// To the device, retained: the entitlement JWS.
    pub fn entitlement(&self) -> String {
        self.own("entitlement")
    }

    /// To the device: the answer to a `get`.
    pub fn answer(&self) -> String {
        self.own("entitlement/answer")
    }

    /// To every device, retained: the keyset JWS.
    pub fn keyset(&self) -> String {
        format!("{}/keyset", self.prefix)
    }

    /// From the device: `get`.
    pub fn get(&self) -> String {
        self.own("get")
    }

    /// From the device, retained: the report.
    pub fn report(&self) -> String {
        self.own("report")
    }

    /// From the device, retained: `online` or `offline`.
    pub fn status(&self) -> String {
        self.own("status")
    }

    /// Which of the device's subscriptions `topic` is; `None` if it is none.
    pub fn classify(&self, topic: &str) -> Option<Topic> {
        let rest = topic.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        if rest == "keyset" {
            return Some(Topic::Keyset);
        }
        match rest.strip_prefix(self.device.as_str())?.strip_prefix('/')? {
            "entitlement" => Some(Topic::Entitlement),
            "entitlement/answer" => Some(Topic::Answer),
            _ => None,
        }
    }

    fn own(&self, leaf: &str) -> String {
        format!("{}/{}/{leaf}", self.prefix, self.device)
    }
}
