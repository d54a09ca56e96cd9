//! The MQTT steps of `check-config --connect`: connects as the agent does, asks for the entitlement with `get`, and verifies
//! the answer with the device's keys.

use std::io;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_engine::Record;
use care_protocol::{Entitlement, Get, Keyset, Position, Topics};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;

use super::{Report, WITHIN};
use crate::{
    config::Config,
    http::Origin,
    link::{self, Found},
    status,
    store::{Restored, Store},
};

/// Sends CONNECT, SUBSCRIBE and `get`. Returns `None` after a failure, which it has reported, or if there is nothing to try.
///
/// It uses the device id as client id, since a broker may allow no other with this certificate. But if a running agent is
/// connected to this broker, the broker would disconnect one of the two; that agent has made the round trip itself, so its
/// status is reported instead.
pub(super) async fn connect(config: &Config, broker: &Origin, report: &mut Report<'_>) -> io::Result<Option<Found>> {
    let device = &config.device.id;
    let at = config.broker.endpoint.authority();
    let running = Store::is_locked(&config.device.state_dir);
    let agent = if running { Agent::ask(config).await } else { None };
    if let Some(link) = agent.as_ref().filter(|link| link.broker == at) {
        report.step("broker MQTT", link.verdict(&at))?;
        return Ok(None);
    }
    // A running agent without a status page may be connected to this broker.
    let other_id = running && agent.is_none();
    let client_id = if other_id { format!("{device}-check") } else { device.to_string() };
    let topics = Topics::new(&config.broker.topic_prefix, device);
    let found = link::probe(broker, &topics, &client_id, !other_id, &get(config), WITHIN).await;
    let why = format!("tried as {client_id}, since the agent is running and has no status page to ask: stop it to try as {device}");
    match found {
        Ok(found) => {
            report.step("broker MQTT", Ok::<_, String>(format!("connected as {client_id}, and {} is granted", topics.entitlement())))?;
            Ok(Some(found))
        }
        Err(fault) if other_id => report.step("broker MQTT", Err::<&str, _>(format!("{fault}; {why}"))).map(|()| None),
        Err(fault) => report.step("broker MQTT", Err::<&str, _>(fault)).map(|()| None),
    }
}

/// Verifies the entitlement that came, if any. `has_entitlement` is whether the API has one for this device, if it told.
pub(super) fn judge(config: &Config, found: &Found, has_entitlement: Option<bool>) -> Result<String, String> {
    let (token, how) = match (&found.answer, &found.copy) {
        (Some(token), _) => (token, "get was answered"),
        (None, Some(token)) => (token, "get was not answered, but the retained entitlement came"),
        (None, None) if has_entitlement == Some(false) => {
            return Ok("nothing came back, and the cloud has no entitlement that could".to_owned());
        }
        (None, None) => {
            let topics = Topics::new(&config.broker.topic_prefix, &config.device.id);
            return Err(format!(
                "{} grants the subscription, but within {} s neither an answer to {} nor a retained copy of {} came: \
                 check that the ACL lets this device read what it subscribes to, and that the cloud answers get",
                found.peer,
                WITHIN.as_secs(),
                topics.get(),
                topics.entitlement()
            ));
        }
    };
    let keyset = keyset(config, found)?;
    match Entitlement::verify(token, Some(&keyset), &config.trust.issuer, &config.device.id) {
        Ok(verified) => {
            let (kid, entitlement) = (verified.kid, verified.entitlement);
            Ok(format!("{how}: {} {}, signed by {kid:?} of keyset {}", entitlement.plan, entitlement.position(), keyset.version))
        }
        Err(reject) => Err(format!("{how}, and the device would reject it ({}): {reject}", reject.code())),
    }
}

/// The keyset on record, or before the agent's first start the one that the broker retains.
fn keyset(config: &Config, found: &Found) -> Result<Keyset, String> {
    let on_record = record(config).and_then(|record| record.keyset).map(String::into_bytes);
    let Some(token) = on_record.or_else(|| found.keyset.as_ref().map(|token| token.to_vec())) else {
        return Err("an entitlement came, but this device has no keyset yet, and the broker retains none".to_owned());
    };
    let verified = Keyset::verify(&token, &config.trust.root_keys, &config.trust.issuer);
    Ok(verified.map_err(|reject| format!("the keyset would be rejected ({}): {reject}", reject.code()))?.keyset)
}

fn record(config: &Config) -> Option<Record> {
    match Store::peek(&config.device.state_dir) {
        Ok(Restored::Record(bytes)) => Record::read(&bytes).ok(),
        _ => None,
    }
}

fn get(config: &Config) -> Get {
    let mut nonce = [0; 18];
    SystemRandom::new().fill(&mut nonce).expect("the kernel gives random bytes");
    let Position { epoch, seq } = record(config).map_or(Position { epoch: 0, seq: 0 }, |record| record.ratchet);
    Get { nonce: URL_SAFE_NO_PAD.encode(nonce), epoch, seq }
}

/// The link status of a running agent.
#[derive(Debug, Deserialize)]
struct Agent {
    up: bool,
    broker: String,
    confirmed: bool,
    fault: Option<String>,
}

impl Agent {
    async fn ask(config: &Config) -> Option<Self> {
        #[derive(Deserialize)]
        struct Document {
            link: Agent,
        }
        let listen = config.status.clone()?;
        // `ask` starts a runtime of its own.
        let asked = tokio::task::spawn_blocking(move || status::ask(&listen, "/status.json")).await;
        let document: Document = serde_json::from_slice(&asked.ok()?.ok()?).ok()?;
        Some(document.link)
    }

    fn verdict(&self, at: &str) -> Result<String, String> {
        match (self.up, self.confirmed) {
            (true, true) => Ok(format!("the running agent is connected to {at}, and the cloud has confirmed its plan on this connection")),
            (true, false) => {
                let why = "it is subscribed, but the cloud has confirmed nothing on this connection: neither a retained copy nor an answer to get has come";
                Err(format!("the running agent is connected to {at}; {why}"))
            }
            (false, _) => {
                let why = self.fault.as_deref().unwrap_or("it has not said why");
                Err(format!("the running agent is not connected to {at}: {why}"))
            }
        }
    }
}
