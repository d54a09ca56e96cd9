//! Asks the cloud's API over HTTPS for what the engine wants to know, and watches an API that has failed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use care_engine::{Body, Fetched, Resource};
use tokio::time;

use super::{effects::AgentPorts, events::Input};
use crate::{
    conditions::{Conditions, Kind},
    http::{self, Origin},
    link,
};

/// How long a question over HTTPS may take: the engine waits as long before it holds paid media (section 4).
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an API that has failed is asked whether it is well again.
const API_AGAIN: Duration = Duration::from_secs(60);

impl AgentPorts<'_> {
    /// Asks over HTTPS; the engine hears of the answer.
    pub(super) fn ask_api(&self, resource: Resource) {
        let path = match resource {
            Resource::Entitlement => format!("/v1/devices/{}/entitlement", self.device),
            Resource::Keyset => "/v1/keyset".to_owned(),
        };
        let (api, clock, inputs, conditions) = (self.api.clone(), self.clock.clone(), self.inputs.clone(), self.conditions.clone());
        let questions = self.questions.clone();
        let question = questions.fetch_add(1, Ordering::Relaxed) + 1;
        tokio::spawn(async move {
            let sent = clock.now().boot;
            let fetched = match http::get(&api, &path, link::MAX_PACKET, FETCH_TIMEOUT).await {
                Ok(answer) => {
                    // A clock may learn from any answer, a plan only from a good one.
                    if let Some(heard) = answer.heard_date(sent).filter(|_| api.tls.is_some() || answer.peer.ip().is_loopback()) {
                        clock.observe_date(heard);
                    }
                    tracing::debug!(path, status = answer.status, "asked");
                    hear_api(&conditions, &api, &path, &Ok(&answer));
                    match answer.status {
                        200 => Fetched::Found(Body { bytes: answer.body, valid_until: answer.valid_until }),
                        404 => Fetched::Missing,
                        _ => Fetched::Declined,
                    }
                }
                Err(fault) => {
                    hear_api(&conditions, &api, &path, &Err(&fault));
                    match fault {
                        http::Fault::TooLarge { .. } => Fetched::Declined,
                        _ => Fetched::Failed,
                    }
                }
            };
            let failed = matches!(fetched, Fetched::Declined | Fetched::Failed);
            // The control thread may be on its way down.
            let _ = inputs.send(Input::Fetched(resource, fetched));
            if failed {
                watch_api(api, path, conditions, questions, question).await;
            }
        });
    }
}

/// What came of a question says whether the API is well; whether it is.
fn hear_api(conditions: &Conditions, api: &Origin, path: &str, came: &Result<&http::Answer, &http::Fault>) -> bool {
    let (why, advice) = match came {
        Ok(http::Answer { status: 200 | 404, .. }) => {
            conditions.clear(Kind::ApiUnreachable);
            return true;
        }
        Ok(answer) => {
            let advice = match answer.status {
                401 | 403 => "Register this device's certificate with the cloud.",
                429 => "The cloud asks for patience; the agent asks again every minute.",
                _ => "See the API's own log.",
            };
            (format!("{} answers {}", http::peer_name(&api.endpoint, answer.peer), answer.status), advice)
        }
        Err(fault) => (fault.to_string(), fault.advice()),
    };
    conditions.raise_advising(Kind::ApiUnreachable, format!("GET {path}: {why}"), advice);
    false
}

/// Asks an API that has failed again every minute, until it is well or a newer question than `question` is asked. Only to
/// know: with MQTT up nothing else may need it for days, and the status would speak of an outage for as long.
async fn watch_api(api: Origin, path: String, conditions: Conditions, questions: Arc<AtomicU64>, question: u64) {
    loop {
        time::sleep(API_AGAIN).await;
        if questions.load(Ordering::Relaxed) != question {
            return;
        }
        let came = http::get(&api, &path, link::MAX_PACKET, FETCH_TIMEOUT).await;
        if questions.load(Ordering::Relaxed) != question || hear_api(&conditions, &api, &path, &came.as_ref()) {
            return;
        }
    }
}
