//! Starts every part of the agent (state, clock, TLS, uploads, link, status server, media) and connects it to the control
//! thread. It runs once per process; `reload` applies later changes.

use std::{
    collections::HashMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_engine::{Engine, Record, Restored, Settings};
use care_protocol::Topics;
use ring::rand::{SecureRandom, SystemRandom};

use super::{
    Agent,
    certificates::{broker_tls, certificate_ends, certificate_files, peers},
    conditions::ConditionMonitor,
    mailbox::{self, WorkerEvent, mailbox},
    stopwatch::Stopwatch,
};
use crate::{
    clock::{self, Clock},
    conditions::{Conditions, Kind},
    config::Config,
    confinement::Confined,
    link, local_mqtt, media,
    status::{self, SharedStatus, StatusDocument},
    store::{self, Store},
    systemd::Notifier,
    timeline::Timeline,
    tls,
    upload::{self, Gate},
};

impl Agent {
    /// Opens the state and starts everything. The gate stays closed until the engine opens it.
    pub(super) fn start(path: &Path, config: Config, confined: Confined) -> anyhow::Result<Self> {
        let (store, restored) = Store::open(&config.device.state_dir).context("opening the state")?;
        let restored = read_state(restored);
        let clock = Clock::start(match &restored {
            Restored::Record(record) => Some(Duration::from_secs(record.trusted_s)),
            Restored::Empty | Restored::Unreadable => None,
        });
        let certificates = tls::FileWatch::new(certificate_files(&config));
        let peers = peers(&config, &clock)?;
        let api = peers.api.clone();
        let broker_tls = broker_tls(&config, &clock)?;

        let engine = Engine::new(settings(&config), restored, clock.now());
        let conditions = Conditions::default();
        let (sender, mailbox) = mailbox();
        let timeline = keep_timeline(&config, &clock, engine.view(clock.now()).position.epoch, &conditions, sender.clone());
        let upload_sender = sender.clone();
        let uploads = upload::start(
            upload::Settings {
                device: config.device.id.clone(),
                spool: config.spool.clone(),
                spool_dir: config.device.state_dir.join("spool"),
                upload: config.upload.clone(),
                peers,
                uploader: config.uploader.as_ref().map(|uploader| uploader.socket.clone()),
                conditions: conditions.clone(),
            },
            clock.clone(),
            move |event| upload_sender.post(WorkerEvent::Upload(event)),
        )
        .context("starting the uploads")?;
        let store_sender = sender.clone();
        let store = store.start(move |written| store_sender.post(WorkerEvent::Store(written)));

        conditions.set(Kind::RunsAsRoot, confined.root_because.clone());
        let document = StatusDocument { confinement: confined.status.clone(), ..StatusDocument::new(&config) };
        let status = Arc::new(SharedStatus::with_timeline(document, timeline));
        status.mark_stale();
        let status_server = config.status.as_ref().map(|listen| status::Server::start(listen, status.clone(), conditions.clone()));
        let local_mqtt = local_mqtt::start(&config, status.clone(), conditions.clone(), clock.clone());
        let (link, link_events) =
            link::start(link::Settings::new(config.broker.clone(), broker_tls, config.device.id.clone(), conditions.clone()));
        let gate = uploads.gate();
        start_media(&config, gate.clone(), conditions.clone(), sender.clone());

        let topics = Topics::new(&config.broker.topic_prefix, &config.device.id);
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            clock_monitor: clock::ConditionMonitor::new(clock.clone(), conditions.clone()),
            clock,
            engine,
            topics,
            link,
            link_events,
            unacknowledged: HashMap::new(),
            broker_valid_until: Duration::ZERO,
            deliveries: 0,
            api,
            api_requests: Arc::default(),
            gate,
            cut: None,
            uploads,
            media: None,
            store,
            deferred_record: None,
            another_owner: false,
            mailbox,
            sender,
            monitor: ConditionMonitor::new(conditions.clone(), &config),
            conditions,
            status,
            status_server,
            local_mqtt,
            notifier: Notifier::from_env(),
            started: now,
            next_status_at: now,
            unlogged_cuts: Vec::new(),
            stopwatch: Stopwatch::new(),
            store_fault: None,
            certificate_ends: certificate_ends(&config),
            certificates,
            certificates_checked_at: now,
            confined,
            config,
        })
    }
}

/// Decodes the record that the store has read.
fn read_state(restored: store::Restored) -> Restored {
    match restored {
        store::Restored::Empty => Restored::Empty,
        store::Restored::Unreadable => {
            tracing::debug!("both slots of the state are unreadable");
            Restored::Unreadable
        }
        store::Restored::Record(bytes) => match Record::read(&bytes) {
            Ok(record) => Restored::Record(Box::new(record)),
            Err(error) => {
                tracing::warn!(%error, "the state is not a record of this agent");
                Restored::Unreadable
            }
        },
    }
}

/// The engine's settings.
fn settings(config: &Config) -> Settings {
    let random = SystemRandom::new();
    Settings {
        device: config.device.id.clone(),
        issuer: config.trust.issuer.clone(),
        roots: config.trust.root_keys.clone(),
        min_keyset_version: config.trust.min_keyset_version,
        free: config.free,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        nonce: Box::new(move || {
            let mut nonce = [0; 18];
            random.fill(&mut nonce).expect("the kernel gives random bytes");
            URL_SAFE_NO_PAD.encode(nonce)
        }),
    }
}

/// Starts the timeline, which hears of every condition.
fn keep_timeline(config: &Config, clock: &Clock, epoch: u64, conditions: &Conditions, sender: mailbox::Sender) -> Timeline {
    let timeline = Timeline::new(clock.clone());
    timeline.keep_in(&config.device.state_dir, epoch, conditions.clone(), move || sender.post(WorkerEvent::TimelineErased));
    let theirs = timeline.clone();
    conditions.observe(move |kind, sentence| theirs.condition(kind, sentence));
    timeline
}

/// Starts media, which is posted to the control thread once it runs.
fn start_media(config: &Config, gate: Arc<Gate>, conditions: Conditions, sender: mailbox::Sender) {
    let Some(media) = config.media.clone() else { return };
    let agent = sender.clone();
    media::start_in_background(
        media,
        config.recording.clone(),
        gate,
        conditions,
        move || !agent.is_closed(),
        move |media| sender.post(WorkerEvent::Media(Box::new(media))),
    );
}
