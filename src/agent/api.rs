//! Fetches entitlement and keyset over HTTPS when the engine asks for them, and watches an API that has failed until it
//! answers again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use care_engine::{Body, Fetched, Resource};
use portable_atomic::AtomicU64;
use tokio::time;

use super::{effects::AgentPorts, mailbox::WorkerEvent};
use crate::{
    conditions::{Conditions, Kind},
    http::{self, Origin},
    link,
};

/// How long a fetch may take. The engine waits as long before it holds paid media (`docs/protocol.md#held`).
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a failed API is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);

impl AgentPorts<'_> {
    /// Starts a fetch. Its outcome, good or bad, is posted to the control thread.
    pub(super) fn ask_api(&self, resource: Resource) {
        let path = match resource {
            Resource::Entitlement => format!("/v1/devices/{}/entitlement", self.device),
            Resource::Keyset => "/v1/keyset".to_owned(),
        };
        let (api, clock, sender, conditions) = (self.api.clone(), self.clock.clone(), self.sender.clone(), self.conditions.clone());
        let api_requests = self.api_requests.clone();
        let request = api_requests.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(async move {
            let sent = clock.now().boot;
            let fetched = match http::get(&api, &path, link::MAX_PACKET, FETCH_TIMEOUT).await {
                Ok(answer) => {
                    // Any answer may set the clock, whatever its status.
                    if api.tls.is_some() || answer.peer.ip().is_loopback() {
                        answer.heard_date(sent).map_or_else(|| clock.observe_no_date(), |heard| clock.observe_date(heard));
                    }
                    tracing::debug!(path, status = answer.status, "fetched");
                    report_api(&conditions, &api, &path, &Ok(&answer));
                    match answer.status {
                        200 => Fetched::Found(Body { bytes: answer.body, valid_until: answer.valid_until }),
                        404 => Fetched::Missing,
                        _ => Fetched::Declined,
                    }
                }
                Err(fault) => {
                    report_api(&conditions, &api, &path, &Err(&fault));
                    match fault {
                        http::Fault::TooLarge { .. } => Fetched::Declined,
                        _ => Fetched::Failed,
                    }
                }
            };
            let failed = matches!(fetched, Fetched::Declined | Fetched::Failed);
            sender.post(WorkerEvent::Fetched(resource, fetched));
            if failed {
                watch_failed_api(api, path, conditions, api_requests, request).await;
            }
        });
    }
}

/// Raises or clears the API's condition according to a response. Returns whether the API works.
fn report_api(conditions: &Conditions, api: &Origin, path: &str, response: &Result<&http::Answer, &http::Fault>) -> bool {
    let (why, advice) = match response {
        Ok(http::Answer { status: 200 | 404, .. }) => {
            conditions.clear(Kind::ApiUnreachable);
            return true;
        }
        Ok(answer) => {
            let advice = match answer.status {
                300..=399 => "Set [cloud] url to the address where the API is now: the agent follows no redirect.",
                401 | 403 => "Register this device's certificate with the cloud.",
                429 => "The cloud limits requests; the agent tries again every minute.",
                _ => "See the API's own log.",
            };
            (format!("{} answers {}", http::peer_name(&api.endpoint, answer.peer), answer.status), advice)
        }
        Err(fault) => (fault.to_string(), fault.advice()),
    };
    conditions.raise_advising(Kind::ApiUnreachable, format!("GET {path}: {why}"), advice);
    false
}

/// Tries a failed API again every minute, until it works or a request newer than `request` is made. This only keeps the
/// condition current: while MQTT works, nothing else may use the API for days.
async fn watch_failed_api(api: Origin, path: String, conditions: Conditions, api_requests: Arc<AtomicU64>, request: u64) {
    loop {
        time::sleep(RETRY_EVERY).await;
        if api_requests.load(Ordering::Relaxed) != request {
            return;
        }
        let response = http::get(&api, &path, link::MAX_PACKET, FETCH_TIMEOUT).await;
        if api_requests.load(Ordering::Relaxed) != request || report_api(&conditions, &api, &path, &response.as_ref()) {
            return;
        }
    }
}
