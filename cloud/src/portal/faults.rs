//! The faults that engineers inject, each under the name of its button.

use std::sync::Arc;

use super::Portal;
use crate::{
    domain::{
        actions::{Action, PaidPlan},
        issuer::{Issued, find_camera},
    },
    lab::experiments::Experiment,
};
use care_protocol::{Channel, DeviceId};

/// A button.
#[derive(Debug)]
pub struct Fault {
    /// Its name in forms and tables.
    pub code: &'static str,
    /// Whether it is played on a camera, or on all of it.
    pub on_camera: bool,
}

const fn on_camera(code: &'static str) -> Fault {
    Fault { code, on_camera: true }
}

const fn on_all(code: &'static str) -> Fault {
    Fault { code, on_camera: false }
}

/// All of them, in the order of the page.
pub const FAULTS: [Fault; 20] = [
    on_camera("send_duplicate"),
    on_camera("replay"),
    on_camera("old_key"),
    on_camera("unknown_key"),
    on_camera("expired_lease"),
    on_camera("reissue"),
    on_all("rotate_key"),
    on_camera("reset"),
    on_camera("refuse_grants"),
    on_camera("allow_grants"),
    on_all("broker_stop"),
    on_all("broker_start"),
    on_all("simulate"),
    on_all("stop_simulated"),
    on_camera("add_history"),
    on_camera("buy_in_app"),
    on_camera("store_cancel"),
    on_camera("withdraw"),
    on_camera("payment_fails"),
    on_camera("payment_recovers"),
];

/// So long a period, a grace or a refusal still runs when it is played, seconds: one wants to watch its end.
const PLAYED_S: u64 = 30;
/// Clips that a history gets.
const CLIPS: u32 = 24;

/// The effect of a button.
enum Does {
    Play(Experiment),
    Act(Action),
}

/// Injects one. Returns a description for engineers, or the reason for a refusal.
pub async fn play(portal: &Arc<Portal>, code: &str, camera: Option<&str>, at: i64) -> Result<String, String> {
    match what(portal, code, camera).await? {
        Does::Play(experiment) => portal.lab.experiment(experiment).await.map(|done| done.to_string()).map_err(|e| e.to_string()),
        Does::Act(action) => {
            let done = portal.act(action, at).await.map_err(|e| e.to_string())?;
            let said = |issued: &Issued| format!("{} {} {} {}", issued.device, issued.position, issued.plan, issued.reason);
            Ok(done.issued.iter().map(said).collect::<Vec<_>>().join("; "))
        }
    }
}

async fn what(portal: &Arc<Portal>, code: &str, camera: Option<&str>) -> Result<Does, String> {
    let chosen = camera.map(|camera| camera.parse::<DeviceId>().map_err(|e| e.to_string())).transpose()?;
    let device = || chosen.clone().ok_or_else(|| "choose a camera".to_owned());
    Ok(match code {
        "rotate_key" => Does::Play(Experiment::RotateKey),
        "broker_stop" => Does::Play(Experiment::Broker { run: false }),
        "broker_start" => Does::Play(Experiment::Broker { run: true }),
        "simulate" => Does::Play(Experiment::Simulate { account: None, cameras: None }),
        "stop_simulated" => Does::Play(Experiment::StopSimulated),
        "send_duplicate" => Does::Play(Experiment::SendDuplicate { camera: device()? }),
        "replay" => Does::Play(Experiment::Replay { camera: device()? }),
        "old_key" => Does::Play(Experiment::OldKey { camera: device()? }),
        "unknown_key" => Does::Play(Experiment::UnknownKey { camera: device()? }),
        "expired_lease" => Does::Play(Experiment::ExpiredLease { camera: device()? }),
        "reissue" => Does::Play(Experiment::Reissue { camera: device()? }),
        "reset" => Does::Play(Experiment::Reset { camera: device()? }),
        "refuse_grants" => Does::Play(Experiment::RefuseGrants { camera: Some(device()?), seconds: PLAYED_S }),
        "allow_grants" => Does::Play(Experiment::RefuseGrants { camera: Some(device()?), seconds: 0 }),
        "add_history" => Does::Play(Experiment::AddHistory { camera: device()?, clips: CLIPS }),
        "buy_in_app" => Does::Act(Action::Subscribe {
            camera: device()?,
            plan: PaidPlan::Premium,
            cycle: None,
            channel: Some(Channel::AppStore),
            zone: None,
        }),
        "store_cancel" => Does::Act(Action::StoreCancel { camera: device()?, ends_in_s: Some(PLAYED_S) }),
        "withdraw" => Does::Act(Action::Withdraw { camera: device()? }),
        "payment_fails" => Does::Act(Action::PaymentFails { account: account_of(portal, device()?).await?, grace_s: Some(PLAYED_S) }),
        "payment_recovers" => Does::Act(Action::PaymentRecovers { account: account_of(portal, device()?).await? }),
        unknown => return Err(format!("there is no fault {unknown}")),
    })
}

async fn account_of(portal: &Arc<Portal>, device: DeviceId) -> Result<String, String> {
    let found = portal.cloud.db.read_async(move |connection| find_camera(connection, &device)).await.map_err(|e| e.to_string())?;
    found.filter(|camera| camera.bound).map(|camera| camera.account).ok_or_else(|| "the camera belongs to no account".to_owned())
}
