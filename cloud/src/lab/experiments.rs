//! The engineers' experiments: what can go wrong between a cloud and a camera, one click each. An experiment acts on
//! the real parts (a signature, a topic, a keyset, a grant); the camera's report shows how it reacted.

use std::sync::Arc;

use care_protocol::{DeviceId, Lease, Signer, Topics};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::{
    clock::now_us,
    domain::{
        accounts,
        actions::ActionError,
        catalogue::Tier,
        issuer::{Issued, find_camera, newest_body, newest_token},
    },
    lab::simulated::{Fleet, Home},
    storage::{
        db::{Connection, DbError, OptionalExtension as _, Transaction, params},
        keys::KeysError,
        outbox,
        pki::{Authority, PkiError, client_config},
    },
    transport::{broker::BrokerAddress, cloud::Cloud, publications::Publication, store::StoreError},
};

/// The most simulated cameras at a time: beside them the cloud, its broker and its pages share this machine. The benchmark of a
/// fleet has more, in a process of their own.
const MOST_SIMULATED: usize = 2000;
/// The model of simulated cameras.
const SIMULATED_MODEL: &str = "KC420WS";
/// The sample clip: three seconds of a test picture.
const SAMPLE: &[u8] = include_bytes!("../../assets/sample.mp4");
const SAMPLE_MS: u64 = 3000;

/// Why an experiment could not be made.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each wraps the error of one part, which says it all")]
pub enum ExperimentError {
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("camera {0} has only one document so far: change its plan first")]
    NothingOlder(DeviceId),
    #[error("no key has been retired yet: rotate the keys first")]
    NoOldKey,
    #[error("camera {0} belongs to no account: its history would be nobody's")]
    NotBound(DeviceId),
    #[error("the broker is external: stop it where it runs")]
    ExternalBroker,
    #[error("the broker does not listen again")]
    BrokerDown,
    #[error("at most {MOST_SIMULATED} cameras are simulated at a time")]
    TooMany,
}

impl From<DbError> for ExperimentError {
    fn from(e: DbError) -> Self {
        Self::Action(e.into())
    }
}

/// An experiment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "experiment", rename_all = "snake_case")]
pub enum Experiment {
    /// The camera's newest document once more: `duplicate`.
    SendDuplicate {
        /// The camera.
        camera: DeviceId,
    },
    /// A recorded document from before the last change of plan: `stale`.
    Replay {
        /// The camera.
        camera: DeviceId,
    },
    /// The next document under a revoked key: `revoked_key`.
    OldKey {
        /// The camera.
        camera: DeviceId,
    },
    /// The next document under a key that is in no keyset: `unknown_key`.
    UnknownKey {
        /// The camera.
        camera: DeviceId,
    },
    /// A document whose lease is over when it arrives: the camera falls back to its Free policy until the next one.
    ExpiredLease {
        /// The camera.
        camera: DeviceId,
    },
    /// The camera's document anew: the next sequence, a whole lease.
    Reissue {
        /// The camera.
        camera: DeviceId,
    },
    /// Makes a new signing key, revokes the old one, and issues every document again.
    RotateKey,
    /// A root-signed reset below the camera's newest document, which is then sent again: `duplicate`, because what is
    /// in force stays in force, and under the next keyset.
    Reset {
        /// The camera.
        camera: DeviceId,
    },
    /// Grants are answered with 402 for a while.
    RefuseGrants {
        /// The camera; all if absent.
        #[serde(default)]
        camera: Option<DeviceId>,
        /// For how long; 0 ends it.
        seconds: u64,
    },
    /// Stops or starts the embedded broker.
    Broker {
        /// Whether it should run.
        run: bool,
    },
    /// An account with simulated cameras: they connect, judge documents, and report.
    Simulate {
        /// The account; a new one if absent.
        #[serde(default)]
        account: Option<String>,
        /// How many; 10 if absent.
        #[serde(default)]
        cameras: Option<usize>,
    },
    /// Disconnects the simulated cameras; their account stays.
    StopSimulated,
    /// Fills the camera's history with sample clips at equal distances.
    AddHistory {
        /// The camera.
        camera: DeviceId,
        /// How many.
        clips: u32,
    },
}

/// Makes experiments with a running cloud, and keeps its simulated cameras: they end with it.
pub struct Lab {
    pub(super) cloud: Arc<Cloud>,
    pub(super) fleet: Fleet,
}

impl Lab {
    /// The laboratory of this cloud.
    pub fn new(cloud: Arc<Cloud>) -> Self {
        Self { cloud, fleet: Fleet::default() }
    }

    /// Performs an experiment. Returns a description of it, for the page and the command line.
    pub async fn experiment(&self, experiment: Experiment) -> Result<Value, ExperimentError> {
        let now = self.cloud.clock.now_s();
        tracing::info!(?experiment, "experiment");
        match experiment {
            Experiment::SendDuplicate { camera } => {
                let token = self.token_of(&camera, newest_token).await?;
                Ok(self.publish(&camera, token))
            }
            Experiment::Replay { camera } => {
                let token = self.token_of(&camera, older_token).await?;
                Ok(self.publish(&camera, token))
            }
            Experiment::OldKey { camera } => {
                let signer = self.cloud.issuer.keys.retired()?.ok_or(ExperimentError::NoOldKey)?;
                self.forge(&camera, signer, now).await
            }
            Experiment::UnknownKey { camera } => {
                let signer = Signer::from_pkcs8("care-nobody", &Signer::generate()).expect("it was made a moment ago");
                self.forge(&camera, signer, now).await
            }
            Experiment::ExpiredLease { camera } => self.reissue(camera, Lease { max_age_s: 1, not_after: now }, now).await,
            Experiment::Reissue { camera } => {
                let lease = self.cloud.issuer.lease(now);
                self.reissue(camera, lease, now).await
            }
            Experiment::RotateKey => self.rotate_key(now).await,
            Experiment::Reset { camera } => self.reset(camera, now).await,
            Experiment::RefuseGrants { camera, seconds } => {
                self.cloud.refused_grants.refuse(camera.clone(), now.saturating_add(seconds));
                Ok(json!({ "refusing": camera, "seconds": seconds }))
            }
            Experiment::Broker { run } => {
                let cloud = self.cloud.clone();
                let switched = tokio::task::spawn_blocking(move || cloud.broker.as_ref().map(|broker| broker.set_running(run))).await;
                match switched.map_err(|_| DbError::Gone)? {
                    Some(true) => Ok(json!({ "running": run })),
                    Some(false) => Err(ExperimentError::BrokerDown),
                    None => Err(ExperimentError::ExternalBroker),
                }
            }
            Experiment::Simulate { account, cameras } => {
                let wanted = cameras.unwrap_or(10);
                if self.fleet.len() + wanted > MOST_SIMULATED {
                    return Err(ExperimentError::TooMany);
                }
                let account = match account {
                    Some(account) => account,
                    None => self.cloud.db.read_async(|connection| Ok(format!("acct-sim-{}", accounts::all(connection)?.len() + 1))).await?,
                };
                let devices = self.simulate(&account, wanted).await?;
                Ok(json!({ "account": account, "cameras": devices }))
            }
            Experiment::StopSimulated => Ok(json!({ "stopped": self.fleet.stop().await })),
            Experiment::AddHistory { camera, clips } => self.add_history(camera, clips, now).await,
        }
    }

    /// Publishes a document without changing the retained one.
    fn publish(&self, camera: &DeviceId, token: String) -> Value {
        let position = care_protocol::Entitlement::claimed_position(token.as_bytes());
        self.cloud
            .publications
            .push(Publication { topic: Topics::new(&self.cloud.endpoints.prefix, camera).entitlement(), payload: token.into_bytes() });
        json!({ "camera": camera, "published": position })
    }

    async fn token_of(
        &self,
        camera: &DeviceId,
        which: fn(&Connection, &DeviceId) -> Result<Option<String>, DbError>,
    ) -> Result<String, ExperimentError> {
        let device = camera.clone();
        let token =
            self.cloud.db.read_async(move |connection| Ok((find_camera(connection, &device)?.is_some(), which(connection, &device)?)));
        match token.await? {
            (true, Some(token)) => Ok(token),
            (true, None) => Err(ExperimentError::NothingOlder(camera.clone())),
            (false, _) => Err(ActionError::NoCamera(camera.clone()).into()),
        }
    }

    /// Publishes the camera's next document under the given key. It is not written to the database: the real next one
    /// will have the same sequence.
    async fn forge(&self, camera: &DeviceId, signer: Signer, now: u64) -> Result<Value, ExperimentError> {
        let (issuer, device) = (self.cloud.issuer.clone(), camera.clone());
        let draft = self.cloud.db.read_async(move |connection| match find_camera(connection, &device)? {
            Some(_) => Ok(Some(issuer.draft(connection, &device, issuer.lease(now), now)?.0)),
            None => Ok(None),
        });
        let draft = draft.await?.ok_or_else(|| ActionError::NoCamera(camera.clone()))?;
        let mut done = self.publish(camera, draft.sign(&signer));
        done["kid"] = signer.kid().into();
        Ok(done)
    }

    async fn reissue(&self, camera: DeviceId, lease: Lease, now: u64) -> Result<Value, ExperimentError> {
        let issuer = self.cloud.issuer.clone();
        let work = move |tx: &Transaction<'_>| {
            let known = find_camera(tx, &camera)?.ok_or_else(|| ActionError::NoCamera(camera.clone()))?;
            if known.reset {
                return Err(ActionError::WasReset(camera.clone()));
            }
            Ok(issuer.reissue(tx, std::slice::from_ref(&camera), lease, now)?)
        };
        Ok(issued(&self.cloud.change(work, Vec::as_slice).await?))
    }

    async fn rotate_key(&self, now: u64) -> Result<Value, ExperimentError> {
        let issuer = self.cloud.issuer.clone();
        // Where this stops, the schedule goes on.
        self.cloud.db.transact_async(move |_| -> Result<_, ActionError> { Ok(issuer.keys.rotate(now)?) }).await?;
        let mut renewed = Vec::new();
        loop {
            let batch = self.cloud.renew_under_new_key().await?;
            if batch.is_empty() {
                break;
            }
            renewed.extend(batch);
        }
        let mut done = issued(&renewed);
        done["kid"] = self.cloud.issuer.keys.current().signer.kid().into();
        Ok(done)
    }

    async fn reset(&self, camera: DeviceId, now: u64) -> Result<Value, ExperimentError> {
        let issuer = self.cloud.issuer.clone();
        let device = camera.clone();
        let work = move |tx: &Transaction<'_>| -> Result<_, ActionError> {
            let newest = newest_body(tx, &device)?.ok_or_else(|| ActionError::NoCamera(device.clone()))?;
            let position = care_protocol::Position { epoch: newest.epoch, seq: newest.seq - 1 };
            let current = issuer.keys.reset(&device, position, now)?;
            // Sent again, so that the camera reports on the reset.
            outbox::due_again(tx, &device)?;
            Ok((position, current.keyset.version))
        };
        let (position, version) = self.cloud.db.transact_async(work).await?;
        self.cloud.outbox.notify_one();
        Ok(json!({ "camera": camera, "to": position, "keyset": version }))
    }

    /// Binds so many simulated cameras to an account and lets them connect; their ids.
    async fn simulate(&self, account: &str, cameras: usize) -> Result<Vec<DeviceId>, ExperimentError> {
        let authority = Authority::open(&self.cloud.data)?;
        let fleet = &self.fleet;
        let home = Arc::new(Home::here(&self.cloud));
        let mut devices = Vec::new();
        for _ in 0..cameras {
            let device = fleet.name();
            let identity = authority.camera(&device)?;
            let (issuer, id, account, now) = (self.cloud.issuer.clone(), device.clone(), account.to_owned(), self.cloud.clock.now_s());
            self.cloud.change(move |tx| issuer.add_camera(tx, &id, SIMULATED_MODEL, &account, now), |done| &done.issued).await?;
            let tls = self.cloud.link.tls.as_ref().map(|_| client_config(self.cloud.link.ca.as_bytes(), Some(&identity))).transpose()?;
            let broker = BrokerAddress { client_id: device.to_string(), tls, ..self.cloud.cameras_broker() };
            let free = self.cloud.issuer.catalogue.policy(Tier::Free, SIMULATED_MODEL);
            fleet.connect(device.clone(), free, home.clone(), vec![broker]);
            devices.push(device);
        }
        Ok(devices)
    }

    async fn add_history(&self, camera: DeviceId, clips: u32, now: u64) -> Result<Value, ExperimentError> {
        let (issuer, device) = (self.cloud.issuer.clone(), camera.clone());
        let known = self.cloud.db.read_async(move |connection| {
            let Some(camera) = find_camera(connection, &device)? else { return Ok(None) };
            let history_h = issuer.current_plan(connection, &camera, now)?.policy.history_h;
            Ok(Some((camera, history_h)))
        });
        let (known, history_h) = known.await?.ok_or_else(|| ActionError::NoCamera(camera.clone()))?;
        if !known.bound {
            return Err(ExperimentError::NotBound(camera));
        }
        let apart_ms = u64::from(history_h) * 3_600_000 / u64::from(clips.max(1));
        let mut rows = Vec::new();
        for n in 0..u64::from(clips) {
            let clip = uuid::Uuid::new_v4().to_string();
            self.cloud.store.put(&camera, &clip, SAMPLE).await?;
            rows.push((clip, now * 1000 - n * apart_ms - SAMPLE_MS));
        }
        let hash: String = ring::digest::digest(&ring::digest::SHA256, SAMPLE).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let device = camera.clone();
        let booked = self.cloud.db.transact_async(move |tx| -> Result<(), DbError> {
            let mut statement = tx.prepare_cached(
                "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at)
                 VALUES (?1, ?2, ?3, 'motion', ?4, ?5, ?6, ?7, ?8)",
            )?;
            for (clip, started_ms) in rows {
                statement.execute(params![clip, device.as_str(), known.epoch, started_ms, SAMPLE_MS, SAMPLE.len(), hash, now_us()])?;
            }
            Ok(())
        });
        booked.await?;
        Ok(json!({ "camera": camera, "clips": clips, "hours_apart": apart_ms / 3_600_000 }))
    }
}

fn issued(documents: &[Issued]) -> Value {
    let documents: Vec<_> =
        documents.iter().map(|d| json!({ "camera": d.device, "epoch": d.position.epoch, "seq": d.position.seq })).collect();
    json!({ "documents": documents })
}

/// The newest document with another plan, as an attacker would have recorded it; or else the one before the newest.
fn older_token(connection: &Connection, device: &DeviceId) -> Result<Option<String>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT d.token FROM documents d, (SELECT epoch, seq, body FROM documents WHERE device = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1) n
         WHERE d.device = ?1 AND (d.epoch, d.seq) < (n.epoch, n.seq)
         ORDER BY d.body ->> 'plan' != n.body ->> 'plan' DESC, d.epoch DESC, d.seq DESC LIMIT 1",
    )?;
    Ok(statement.query_row([device.as_str()], |row| row.get(0)).optional()?)
}
