//! The shell around the engine: feeds it events and carries out its effects, in order, on the control thread. It decides
//! nothing about plans; it adds the threads, the signals and the shutdown. [`crate::cli`] runs it.
//!
//! | file | task |
//! |---|---|
//! | `wiring` | starts every part and connects it to the control thread |
//! | `mailbox` | the queue from the other threads to the control thread |
//! | `events` | turns what the link and the other threads report into engine events |
//! | `effects` | carries out the engine's effects |
//! | `api` | fetches entitlement and keyset over HTTPS |
//! | `reload`, `certificates` | SIGHUP, and certificates replaced on disk |
//! | `conditions`, `status` | what is wrong, and the status document |
//! | `stopwatch` | how long the stages of a switch take |
//! | `shutdown` | stops everything within five seconds |

mod api;
mod certificates;
mod conditions;
mod effects;
mod events;
mod mailbox;
mod reload;
mod shutdown;
mod status;
mod stopwatch;
mod wiring;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use care_engine::{CutFigures, Delivery, Engine, Event, Intake};
use care_protocol::Topics;
use portable_atomic::AtomicU64;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time,
};

use crate::{
    clock::{self, Clock},
    conditions::Conditions,
    config::Config,
    confinement::Confined,
    http::Origin,
    link::{self, Link},
    local_mqtt::LocalMqtt,
    media::Media,
    status::{Server, SharedStatus},
    store::StoreThread,
    systemd::Notifier,
    tls,
    upload::{Gate, Uploads},
};
use conditions::ConditionMonitor;
use mailbox::Mailbox;
use stopwatch::Stopwatch;

/// The longest sleep. The runtime's clock stops during suspend; BOOTTIME does not, so it is read again at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// Runs the service until SIGTERM.
///
/// # Errors
/// Why the agent could not start.
pub fn run(path: &Path, config: Config, confined: Confined) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .thread_stack_size(crate::threads::STACK_BYTES)
        .enable_all()
        .build()
        .context("starting the control thread's runtime")?;
    let result = runtime.block_on(async {
        // Before anything else: a signal without a handler kills the process.
        let signals = Signals::new()?;
        Agent::start(path, config, confined)?.serve(signals).await
    });
    // A resolver that hangs must not delay the exit.
    runtime.shutdown_background();
    result
}

/// The signals that the agent handles.
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

/// The agent, on the control thread.
struct Agent {
    path: PathBuf,
    config: Config,
    /// What the process may do since its start.
    confined: Confined,
    clock: Clock,
    clock_monitor: clock::ConditionMonitor,
    engine: Engine,
    topics: Topics,
    link: Link,
    link_events: mpsc::Receiver<link::Event>,
    /// Publishes that still need a PUBACK. The broker limits how many are in flight.
    unacknowledged: HashMap<Delivery, link::Ack>,
    /// When the first certificate of the current or last broker connection expires, since 1970.
    broker_valid_until: Duration,
    /// The number of the newest delivery.
    deliveries: u64,
    api: Origin,
    /// Counts requests to the API and changes of its address, so that an outdated watch ends.
    api_requests: Arc<AtomicU64>,
    uploads: Uploads,
    gate: Arc<Gate>,
    /// A cut that waits for a vendor's uploader. Events that arrive meanwhile wait in the engine.
    cut: Option<CutFigures>,
    media: Option<Media>,
    store: StoreThread,
    /// The newest record, while clips that were erased before it, or another owner's timeline, may still be on flash.
    deferred_record: Option<(u64, Vec<u8>)>,
    /// Whether the next record is the first one of another owner.
    another_owner: bool,
    mailbox: Mailbox,
    /// Posts to `mailbox`.
    sender: mailbox::Sender,
    conditions: Conditions,
    monitor: ConditionMonitor,
    status: Arc<SharedStatus>,
    status_server: Option<Server>,
    local_mqtt: Option<LocalMqtt>,
    notifier: Notifier,
    started: Instant,
    /// When the status is updated next.
    next_status_at: Instant,
    /// Cuts to log with the next status update. A log line wakes the journal, and persisting and reporting a switch come first.
    unlogged_cuts: Vec<CutFigures>,
    stopwatch: Stopwatch,
    store_fault: Option<String>,
    /// When the device's certificate expires, since 1970; `None` without TLS.
    certificate_ends: Option<Duration>,
    certificates: tls::FileWatch,
    certificates_checked_at: Instant,
}

impl Agent {
    async fn serve(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let (engine, mut ports) = self.split();
        engine.start(&mut ports);
        self.record_switch();
        self.update_status();
        self.notifier.ready();
        let view = self.engine.view(self.clock.now());
        tracing::info!(device = %self.config.device.id, mode = %view.mode, position = %view.position, keyset = view.keyset, "ready");
        loop {
            let sleep = self.sleep_time();
            select! {
                biased;
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                // Before the mailbox, so that no flood from another thread delays a document. While a cut is under way,
                // messages wait in the link and at the broker, not in the engine.
                event = self.link_events.recv(), if self.engine.intake() == Intake::Ready => match event {
                    Some(event) => self.handle_link_event(event),
                    None => anyhow::bail!("the link's task has ended"),
                },
                event = self.mailbox.next() => self.handle_worker_event(event),
                _ = signals.hangup.recv() => self.reload(),
                () = time::sleep(sleep) => self.tick(),
            }
            self.gate.renew(self.engine.mode(self.clock.now()));
            self.notifier.alive();
            if self.next_status_at <= Instant::now() {
                self.update_status();
            }
            self.reload_changed_certificates();
        }
        self.stop().await
    }

    /// How long the control thread may sleep.
    fn sleep_time(&self) -> Duration {
        let now = self.clock.now();
        let engine = self.engine.wake_at(now).map_or(MAX_SLEEP, |wake| wake.saturating_sub(now.boot));
        let uploader = self.gate.due().map_or(MAX_SLEEP, |due| due.saturating_sub(now.boot));
        let status = self.next_status_at.saturating_duration_since(Instant::now());
        let watchdog = self.notifier.tick_interval().unwrap_or(MAX_SLEEP);
        engine.min(uploader).min(status).min(watchdog).min(MAX_SLEEP)
    }

    /// Handles what has become due.
    fn tick(&mut self) {
        match self.cut {
            Some(_) => self.end_cut(),
            None => {
                self.stopwatch.due();
                self.handle(Event::Tick);
            }
        }
    }
}
