//! The shell around the engine: it feeds events to it and carries its effects out, in order, on the control thread. It
//! decides nothing; what it adds is the threads, the signals and the way down.

mod notice;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{Report, Topics};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time,
};

use crate::{
    clock::{self, Clock},
    conditions::{Conditions, Kind},
    config::{ClipStore, Config},
    engine::{Body, CutFigures, Delivery, Effect, Engine, Event, Fetched, Message, Record, Resource, Restored, Settings},
    http::{self, Origin},
    link::{self, Link},
    logging,
    media::{Media, MediaError},
    status::{self, Board, StatusDocument},
    store::{self, Store, StoreThread, Written},
    systemd::Notifier,
    tls,
    upload::{self, Gate, Uploads},
};
use notice::Notice;

/// How long a question over HTTPS may take: the engine waits as long before it holds paid media (section 4).
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an API that has failed is asked whether it is well again.
const API_AGAIN: Duration = Duration::from_secs(60);
/// How long a stop may take in all, so that it is over within five seconds, and what each part of it may.
const STOP: Duration = Duration::from_millis(4500);
const STOP_LINK: Duration = Duration::from_secs(2);
const STOP_MEDIA: Duration = Duration::from_secs(3);
const STOP_STORE: Duration = Duration::from_millis(500);
/// The longest sleep: the runtime's clock stands still in suspend, BOOTTIME does not.
const ROUND: Duration = Duration::from_secs(10);
/// How often the certificate files are looked at; what is found must be there at two looks in a row.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// Media that cannot start is tried again after the first of these, which doubles up to the second.
const MEDIA_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How old the status may be at most.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How soon it shows what has changed: behind the switch that changed it, for it wakes systemd too.
const STATUS_SOON: Duration = Duration::from_millis(50);

/// What reaches the control thread from the other threads.
enum Input {
    Store(Written),
    Upload(upload::Event),
    Fetched(Resource, Fetched),
    Media(Box<Media>),
}

/// Runs the service until SIGTERM.
///
/// # Errors
/// What kept it from starting.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the control thread's runtime")?;
    let ended = runtime.block_on(async {
        // First of all: a signal that nobody has asked for kills the process.
        let signals = Signals::new()?;
        Agent::start(path, config)?.serve(signals).await
    });
    // A resolver that hangs must not hold us up.
    runtime.shutdown_background();
    ended
}

/// The signals that the agent obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listening for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listening for SIGINT")?,
            hangup: signal(SignalKind::hangup()).context("listening for SIGHUP")?,
        })
    }
}

struct Agent {
    path: PathBuf,
    config: Config,
    clock: Clock,
    clock_watch: clock::Watch,
    /// The clock was told something: trusted time may be another, confirmed or not.
    time_told: bool,
    engine: Engine,
    topics: Topics,
    link: Link,
    link_events: mpsc::Receiver<link::Event>,
    unacknowledged: HashMap<Delivery, link::Ack>,
    /// The earliest end of the certificates of the connection in use, or of the last one.
    broker_valid_until: Duration,
    deliveries: u64,
    api: Origin,
    /// How often the API was asked, or exchanged for another.
    questions: Arc<AtomicU64>,
    uploads: Uploads,
    gate: Arc<Gate>,
    /// A cut that waits for a vendor's uploader. What the engine is told meanwhile waits in the engine.
    cut: Option<CutFigures>,
    media: Option<Media>,
    store: StoreThread,
    /// The newest record, while what was erased before it is not surely gone from flash.
    record_waits: Option<(u64, Vec<u8>)>,
    inputs: mpsc::UnboundedSender<Input>,
    arrivals: mpsc::UnboundedReceiver<Input>,
    conditions: Conditions,
    notice: Notice,
    board: Arc<Board>,
    page: Option<status::Server>,
    notifier: Notifier,
    started: Instant,
    /// When the status is shown next.
    show_at: Instant,
    /// Cuts that are to be logged with it: a line wakes the journal, and a switch must be written and reported first.
    untold: Vec<CutFigures>,
    store_fault: Option<String>,
    /// When the device's certificate ends, since 1970; `None` without TLS.
    certificate_ends: Option<Duration>,
    certificates: tls::Watch,
    certificates_seen: Instant,
}

impl Agent {
    fn start(path: &Path, config: Config) -> anyhow::Result<Self> {
        let (store, restored) = Store::open(&config.device.state_dir).context("opening the state")?;
        let restored = read_state(restored);
        let clock = Clock::start(match &restored {
            Restored::Record(record) => Some(Duration::from_secs(record.trusted_s)),
            Restored::Empty | Restored::Unreadable => None,
        });
        let certificates = tls::Watch::new(certificate_files(&config));
        let peers = peers(&config, &clock)?;
        let api = peers.api.clone();
        let broker_tls = broker_tls(&config, &clock)?;

        let conditions = Conditions::default();
        let (inputs, arrivals) = mpsc::unbounded_channel();
        let tell = inputs.clone();
        let uploads = upload::start(
            upload::Settings {
                device: config.device.id.clone(),
                spool: config.spool.clone(),
                spool_dir: config.device.state_dir.join("spool"),
                uplink_kbps: config.upload.uplink_kbps,
                peers,
                uploader: config.uploader.as_ref().map(|uploader| uploader.socket.clone()),
                conditions: conditions.clone(),
            },
            clock.clone(),
            // The control thread is gone only after the uploads' thread.
            move |event| drop(tell.send(Input::Upload(event))),
        )
        .context("starting the uploads")?;
        let tell = inputs.clone();
        let store = store.start(move |written| drop(tell.send(Input::Store(written))));

        let board = Arc::new(Board::new(StatusDocument::new(&config)));
        board.outdate();
        let page = config.status.as_ref().map(|listen| status::Server::start(listen, board.clone(), conditions.clone()));
        let (link, link_events) =
            link::start(link::Settings::new(config.broker.clone(), broker_tls, config.device.id.clone(), conditions.clone()));
        let gate = uploads.gate();
        start_media(&config, gate.clone(), conditions.clone(), inputs.clone());

        let topics = Topics::new(&config.broker.topic_prefix, &config.device.id);
        let engine = Engine::new(settings(&config), restored, clock.now());
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            clock_watch: clock::Watch::new(clock.clone(), conditions.clone()),
            time_told: false,
            clock,
            engine,
            topics,
            link,
            link_events,
            unacknowledged: HashMap::new(),
            broker_valid_until: Duration::ZERO,
            deliveries: 0,
            api,
            questions: Arc::default(),
            gate,
            cut: None,
            uploads,
            media: None,
            store,
            record_waits: None,
            inputs,
            arrivals,
            notice: Notice::new(conditions.clone(), &config),
            conditions,
            board,
            page,
            notifier: Notifier::from_env(),
            started: now,
            show_at: now,
            untold: Vec::new(),
            store_fault: None,
            certificate_ends: certificate_ends(&config),
            certificates,
            certificates_seen: now,
            config,
        })
    }

    async fn serve(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let effects = self.engine.boot(self.clock.now());
        self.carry_out(effects);
        self.resume();
        self.remember();
        self.show();
        self.notifier.ready();
        let view = self.engine.view(self.clock.now());
        tracing::info!(device = %self.config.device.id, mode = %view.mode, position = %view.position, keyset = view.keyset, "ready");
        loop {
            let sleep = self.until_due();
            select! {
                biased;
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                // While a cut is under way a burst waits in the link and at the broker, not in the engine.
                event = self.link_events.recv(), if self.engine.has_room() => match event {
                    Some(event) => self.take_link(event),
                    None => anyhow::bail!("the link's task has ended"),
                },
                Some(input) = self.arrivals.recv() => self.take(input),
                _ = signals.hangup.recv() => self.reload(),
                () = time::sleep(sleep) => self.turn(),
            }
            self.gate.renew(self.engine.mode(self.clock.now()));
            self.notifier.alive();
            if self.show_at <= Instant::now() {
                self.show();
            }
            self.look_at_certificates();
        }
        self.stop().await
    }

    /// How long the control thread may sleep.
    fn until_due(&self) -> Duration {
        let now = self.clock.now();
        // The engine does nothing while a cut is under way, whatever is due.
        let engine = if self.cut.is_some() { ROUND } else { self.engine.wake_at(now).saturating_sub(now.boot) };
        let uploader = self.gate.due().map_or(ROUND, |due| due.saturating_sub(now.boot));
        let status = self.show_at.saturating_duration_since(Instant::now());
        let watchdog = self.notifier.turn_every().unwrap_or(ROUND);
        engine.min(uploader).min(status).min(watchdog).min(ROUND)
    }

    /// Time has passed.
    fn turn(&mut self) {
        match self.cut {
            Some(_) => self.end_cut(),
            None => self.handle(Event::Tick),
        }
    }

    /// Tells the engine what a cut came to, once nothing can leave any more.
    fn end_cut(&mut self) {
        let Some(figures) = self.cut.and_then(|own| self.gate.cut_figures(own)) else { return };
        self.cut = None;
        self.untold.push(figures);
        self.handle(Event::CutDone(figures));
    }

    /// What has just changed is shown soon; a burst does not show every step, and does not put it off.
    fn show_soon(&mut self) {
        self.board.outdate();
        self.show_at = self.show_at.min(Instant::now() + STATUS_SOON);
    }

    fn take_link(&mut self, event: link::Event) {
        let event = match event {
            link::Event::Connected { connection, session_present, valid_until } => {
                self.broker_valid_until = valid_until;
                self.notice.server("the broker's", self.config.broker.endpoint.authority(), valid_until);
                tracing::info!(connection = connection.0, session_present, "connected");
                Event::Connected(connection)
            }
            link::Event::SubscribeSent { connection } => Event::SubscribeSent(connection),
            link::Event::Subscribed { connection } => Event::Subscribed(connection),
            link::Event::Publish { connection, topic, payload, retain, dup, at, ack } => {
                let delivery = ack.map(|ack| {
                    self.deliveries += 1;
                    let delivery = Delivery(self.deliveries);
                    self.unacknowledged.insert(delivery, ack);
                    delivery
                });
                let received = self.clock.now().boot.saturating_sub(at.elapsed());
                Event::Message(Message {
                    connection,
                    topic,
                    payload,
                    retain,
                    dup,
                    received,
                    delivery,
                    valid_until: self.broker_valid_until,
                })
            }
            link::Event::Published { ticket } => Event::Published { ticket },
            link::Event::Lost { connection, .. } => {
                if connection.is_some() {
                    self.unacknowledged.clear();
                }
                Event::Lost(connection)
            }
            // The link has raised a condition.
            link::Event::CloneSuspected => return,
            link::Event::SubscribeDeferred { for_ } => {
                tracing::info!(seconds = for_.as_secs(), "not subscribing for a while; asking over HTTPS meanwhile");
                return;
            }
        };
        self.handle(event);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Store(Written::Done { ticket }) => {
                self.store_fault = None;
                self.handle(Event::Written { ticket });
            }
            Input::Store(Written::Failed { ticket, why }) => {
                tracing::debug!(ticket, why, "the state could not be written; trying again");
                self.store_fault = Some(why);
                self.handle(Event::WriteFailed { ticket });
            }
            Input::Upload(upload::Event::Refused { status, .. }) => {
                self.refused(status);
                self.handle(Event::Refused);
            }
            Input::Upload(upload::Event::Stored { .. }) => {
                self.notice.stored();
                self.show_soon();
            }
            // Named as conditions where they happen.
            Input::Upload(upload::Event::GrantFault { .. } | upload::Event::Dropped { .. }) => self.show_soon(),
            Input::Upload(upload::Event::Date) => self.turn(),
            Input::Upload(upload::Event::ErasuresSettled) => {
                if let Some((ticket, record)) = self.record_waits.take() {
                    self.persist(ticket, record);
                }
            }
            Input::Upload(upload::Event::Uploader) => self.hear_uploader(),
            Input::Fetched(resource, fetched) => {
                if let Fetched::Found(body) = &fetched {
                    self.notice.server("the API's", self.config.cloud.endpoint.authority(), body.valid_until);
                }
                self.handle(Event::Fetched(resource, fetched));
            }
            Input::Media(media) => {
                // The camera may have changed hands while the pipeline was starting.
                media.forget();
                self.media = Some(*media);
            }
        }
    }

    /// A vendor's uploader has come, gone, or said something.
    fn hear_uploader(&mut self) {
        self.show_soon();
        self.uploads.look();
        let tidings = self.gate.tidings();
        if tidings.stored {
            self.notice.stored();
        }
        if let Some(status) = tidings.refused {
            self.refused(status);
            self.handle(Event::Refused);
        }
        self.end_cut();
    }

    /// The cloud answered a grant request with 402 or 403.
    fn refused(&mut self, status: u16) {
        let now = self.clock.now();
        let in_force = self.engine.view(now).position;
        self.notice.grant_refused(status, in_force, now);
    }

    fn handle(&mut self, event: Event) {
        if event != Event::Tick {
            self.show_soon();
        }
        let effects = self.engine.handle(event, self.clock.now());
        self.carry_out(effects);
        self.resume();
        while std::mem::take(&mut self.time_told) {
            // What another time means for the plan is not put off until something else happens.
            let effects = self.engine.handle(Event::Tick, self.clock.now());
            self.carry_out(effects);
            self.resume();
        }
        self.remember();
    }

    /// Does what had to wait for a cut, once that has ended.
    fn resume(&mut self) {
        while let Some(effects) = self.engine.resume(self.clock.now()) {
            self.carry_out(effects);
        }
    }

    /// Keeps for support what has changed.
    fn remember(&self) {
        if let Some((report, order)) = self.engine.last_switch() {
            self.board.remember(report, order);
        }
    }

    /// Carries effects out, in order. A cut, always the last of them, ends here unless a vendor's uploader has a part in it.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Cut { keep } => {
                    self.cut = Some(self.gate.cut(keep));
                    self.end_cut();
                }
                Effect::Open(admission) => {
                    tracing::debug!(position = %admission.position, leave = ?admission.leave, "gate");
                    self.gate.open(admission);
                }
                Effect::RetryRefused => self.gate.retry_refused(),
                Effect::Forget => {
                    self.board.forget();
                    logging::forget();
                    if let Some(media) = &self.media {
                        media.forget();
                    }
                }
                Effect::Persist { ticket, record } => self.persist(ticket, record),
                Effect::Acknowledge(delivery) => {
                    if let Some(ack) = self.unacknowledged.remove(&delivery) {
                        self.link.ack(ack);
                    }
                }
                Effect::Publish { ticket, report } => {
                    let payload = serde_json::to_vec(&report).expect("plain data");
                    self.link.publish(self.topics.report(), payload, true, ticket);
                    // Behind the link's task: a line wakes the journal, and where there is one processor it would go first.
                    tokio::spawn(async move { log(&report) });
                }
                Effect::Get(get) => {
                    let payload = serde_json::to_vec(&get).expect("plain data");
                    self.link.publish(self.topics.get(), payload, false, 0);
                }
                Effect::Fetch(resource) => self.fetch(resource),
                // The engine's picture has it until a higher document comes: whoever looks next raises the condition.
                Effect::Alarm(_) => self.show_soon(),
                Effect::RaiseTime(to) => {
                    self.clock.raise(to);
                    self.time_told = true;
                }
                Effect::SetTime(to) => {
                    self.clock.set(to);
                    self.time_told = true;
                }
            }
        }
    }

    /// Hands a record to the store, unless what a cut has erased may still be found on flash: a restart must never find a
    /// record and, beside it, a clip that a document before it has erased. Like the store it keeps the newest one only.
    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        if self.gate.erasures_settled() {
            self.record_waits = None;
            self.store.write(ticket, record);
        } else {
            self.record_waits = Some((ticket, record));
        }
    }

    /// Asks over HTTPS; whatever comes of it is told to the engine.
    fn fetch(&self, resource: Resource) {
        let path = match resource {
            Resource::Entitlement => format!("/v1/devices/{}/entitlement", self.config.device.id),
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

    /// Brings the status up to date.
    fn show(&mut self) {
        let now = self.clock.now();
        let view = self.engine.view(now);
        let uploads = self.uploads.status();
        let media = self.media.as_ref().map(Media::status);
        let link = self.link.status();
        let confirmed = self.engine.is_confirmed();
        self.clock_watch.look();
        let writes = self.store.writes();
        self.board.know(view.history.clone());
        self.notice.see(&view, self.store_fault.as_deref(), now);
        self.board.update(|document| {
            document.see(view, now);
            document.see_uptime(self.started.elapsed());
            document.see_link(&link, confirmed);
            document.see_uploads(&uploads);
            document.see_media(media);
            document.see_store(writes, self.store_fault.as_deref());
            if let Some(ends) = self.certificate_ends {
                document.see_certificate(ends, now);
            }
            self.conditions.set(Kind::PictureTooTall, document.too_tall());
            document.conditions = self.conditions.list(now);
            document.warn();
        });
        self.notifier.status(&self.board.read().summary());
        for figures in self.untold.drain(..) {
            tracing::info!(
                generation = figures.generation.0,
                transfers = figures.transfers,
                bytes_after = figures.bytes_after,
                doomed_clips = figures.doomed.clips,
                "cut"
            );
        }
        self.show_at = Instant::now() + STATUS_EVERY;
    }

    /// SIGHUP: reads configuration, certificates and authorities again, and keeps the last good ones if they are bad.
    fn reload(&mut self) {
        self.notifier.reloading();
        match self.reloaded() {
            Ok(()) => {
                self.conditions.clear(Kind::ConfigRejected);
                tracing::info!("configuration read again");
            }
            Err(why) => self.conditions.raise(Kind::ConfigRejected, format!("the new configuration is bad, the old one is kept: {why:#}")),
        }
        self.notifier.ready();
    }

    fn reloaded(&mut self) -> anyhow::Result<()> {
        let config = Config::load_with_files(&self.path).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(faults.join("; "))
        })?;
        for (name, fixed) in [
            ("[device]", config.device == self.config.device),
            ("[broker] topic_prefix", config.broker.topic_prefix == self.config.broker.topic_prefix),
            ("[trust]", config.trust == self.config.trust),
            ("[media]", config.media == self.config.media),
            ("[recording]", config.recording == self.config.recording),
            ("[uploader]", config.uploader == self.config.uploader),
            ("[spool]", config.spool == self.config.spool),
            ("[status]", config.status == self.config.status),
        ] {
            if !fixed {
                tracing::warn!("{name} has changed, which takes effect at the next start");
            }
        }
        self.connect_anew(&config)?;
        if config.upload != self.config.upload {
            self.uploads.set_uplink(config.upload.uplink_kbps);
            self.config.upload = config.upload.clone();
        }
        // The topics stay those of the start.
        self.config.broker.endpoint = config.broker.endpoint;
        self.config.broker.tls = config.broker.tls;
        self.config.broker.alpn = config.broker.alpn;
        self.config.cloud = config.cloud;
        self.config.store = config.store;
        self.config.free = config.free;
        self.handle(Event::Reconfigured { free: config.free });
        Ok(())
    }

    /// Reads the certificates and authorities that `config` names and connects with them, or changes nothing.
    fn connect_anew(&mut self, config: &Config) -> anyhow::Result<()> {
        let certificates = tls::Watch::new(certificate_files(config));
        let peers = peers(config, &self.clock)?;
        let broker_tls = broker_tls(config, &self.clock)?;
        self.api = peers.api.clone();
        // What the one before has failed in says nothing of this one.
        self.questions.fetch_add(1, Ordering::Relaxed);
        self.conditions.clear(Kind::ApiUnreachable);
        self.uploads.set_peers(peers);
        self.link.reload(config.broker.endpoint.clone(), broker_tls);
        self.certificate_ends = certificate_ends(config);
        self.certificates = certificates;
        self.conditions.clear(Kind::CertificateRejected);
        self.notice.read_certificates(config);
        self.board.update(|document| document.link.broker = config.broker.endpoint.authority());
        self.show_soon();
        Ok(())
    }

    /// Takes over certificates, authorities and revocation lists that were exchanged on disk (scenario 79).
    fn look_at_certificates(&mut self) {
        if self.certificates_seen.elapsed() >= FILES_EVERY {
            self.certificates_seen = Instant::now();
            if self.certificates.has_changed() {
                let config = self.config.clone();
                match check_device(&config).and_then(|()| self.connect_anew(&config)) {
                    Ok(()) => tracing::info!("certificates have changed on disk and were read again"),
                    Err(why) => {
                        let sentence = format!("the certificates on disk have changed and are bad, the old ones are kept: {why:#}");
                        self.conditions.raise(Kind::CertificateRejected, sentence);
                    }
                }
            }
        }
    }

    /// The way down: transfers stopped, what is owed delivered or kept, the pipeline down, within five seconds.
    async fn stop(mut self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.notifier.stopping();
        let deadline = Instant::now() + STOP;
        let left = || deadline.saturating_duration_since(Instant::now());
        if let Some(own) = self.cut.take() {
            // The end of its socket closes a vendor's uploader, whether it has answered or not.
            self.handle(Event::CutDone(self.gate.give_up_cut(own)));
        }
        self.gate.cut(None);
        self.uploads.spill();
        self.handle(Event::Stopping);
        let media = self.media.take().map(|media| thread::spawn(move || media.stop(STOP_MEDIA)));
        if !self.link.stop(STOP_LINK).await {
            tracing::warn!("the broker was not told that this device is offline; the last will says so");
        }
        // First the pipeline: the clip that it was recording is worth keeping too.
        if let Some(media) = media {
            let down = media.join().map_err(|_| anyhow::anyhow!("the camera's picture could not be stopped"))?;
            if !down {
                tracing::error!("the camera's pipeline did not come down in time");
            }
        }
        self.uploads.stop(left().saturating_sub(STOP_STORE));
        if let Some((ticket, record)) = self.record_waits.take() {
            self.store.write(ticket, record);
        }
        if !self.store.stop(left()) {
            tracing::error!("the last record is not on flash");
        }
        drop(self.page);
        Ok(())
    }
}

fn log(report: &Report) {
    tracing::info!(
        outcome = %report.outcome, reason = report.reason, cause = %report.cause, mode = %report.mode, epoch = report.epoch,
        seq = report.seq, cut_transfers = report.cut.transfers, cut_micros = report.cut.micros, bytes_after = report.cut.bytes_after,
        erased_clips = report.erased.clips, persisted = report.persisted, "report"
    );
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
                tracing::warn!(%error, "the state is not this agent's");
                Restored::Unreadable
            }
        },
    }
}

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

/// The first to end of the certificates that this device shows.
fn certificate_ends(config: &Config) -> Option<Duration> {
    let files = config.broker.tls.iter().chain(&config.cloud.tls);
    // They were read a moment ago, or the agent would not be here.
    files.filter_map(|files| tls::expires(&files.client_cert).ok()).min()
}

/// Whether the device's certificates are this device's.
fn check_device(config: &Config) -> anyhow::Result<()> {
    let mut files = config.broker.tls.iter().chain(&config.cloud.tls);
    Ok(files.try_for_each(|files| tls::check_device(files, &config.device.id))?)
}

/// Every file that TLS is made from.
fn certificate_files(config: &Config) -> impl Iterator<Item = &Path> {
    let ours = config.broker.tls.iter().chain(&config.cloud.tls).flat_map(tls::TlsFiles::paths);
    ours.chain(config.store.iter().flat_map(ClipStore::paths))
}

fn broker_tls(config: &Config, clock: &Clock) -> anyhow::Result<Option<tls::Client>> {
    let client = config.broker.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    Ok(client.map(|client| client.offering(config.broker.alpn.as_deref())))
}

fn peers(config: &Config, clock: &Clock) -> anyhow::Result<upload::Peers> {
    let api_tls = config.cloud.tls.as_ref().map(|files| tls::device_client(files, clock)).transpose()?;
    let store = config.store.as_ref().map(|store| {
        let tls = tls::store_client(&store.ca, store.crl.as_deref(), clock)?;
        anyhow::Ok(upload::Store { hosts: store.hosts.clone(), tls })
    });
    Ok(upload::Peers { api: Origin { endpoint: config.cloud.endpoint.clone(), tls: api_tls }, store: store.transpose()? })
}

/// Starts the camera's picture on a thread of its own: the first look for plugins can take seconds. Without it the plan is
/// followed all the same, and it is tried again.
fn start_media(config: &Config, gate: Arc<Gate>, conditions: Conditions, inputs: mpsc::UnboundedSender<Input>) {
    let Some(media) = config.media.clone() else { return };
    let recording = config.recording.clone();
    let told = conditions.clone();
    let start = move || {
        let mut pause = MEDIA_PAUSE.0;
        while !inputs.is_closed() {
            match Media::start(&media, recording.as_ref(), gate.clone(), conditions.clone()) {
                Ok(media) => {
                    conditions.clear(Kind::MediaNotStarted);
                    // An agent that has stopped meanwhile drops the pipeline with the message.
                    let _ = inputs.send(Input::Media(Box::new(media)));
                    return;
                }
                Err(error @ MediaError::NotBuilt) => {
                    let advice = "Remove [media], or install a build of the agent with GStreamer.";
                    return conditions.raise_advising(Kind::MediaNotStarted, error.to_string(), advice);
                }
                Err(error) => conditions.raise(Kind::MediaNotStarted, error.to_string()),
            }
            thread::sleep(pause);
            pause = (pause * 2).min(MEDIA_PAUSE.1);
        }
    };
    if let Err(error) = thread::Builder::new().name("media-start".into()).spawn(start) {
        told.raise(Kind::MediaNotStarted, MediaError::Thread(error).to_string());
    }
}
