//! The shell around the engine: it feeds events to it and carries its effects out, in order, on the control thread. It
//! decides nothing; what it adds is the threads, the signals and the way down.

mod api;
mod certificates;
mod conditions;
mod effects;
mod events;
mod reload;
mod shutdown;
mod status;
mod wiring;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::Context;
use care_engine::{CutFigures, Delivery, Engine, Event, Intake};
use care_protocol::Topics;
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
    http::Origin,
    link::{self, Link},
    media::Media,
    status::{Board, Server},
    store::StoreThread,
    systemd::Notifier,
    tls,
    upload::{Gate, Uploads},
};
use conditions::Notice;
use events::Input;

/// The longest sleep: the runtime's clock stands still in suspend, BOOTTIME does not.
const ROUND: Duration = Duration::from_secs(10);

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
    page: Option<Server>,
    notifier: Notifier,
    started: Instant,
    /// When the status is shown next.
    show_at: Instant,
    /// Cuts that are to be logged with it: a line wakes the journal, and a switch must be written and reported first.
    untold: Vec<CutFigures>,
    store_fault: Option<String>,
    /// When the device's certificate ends, since 1970; `None` without TLS.
    certificate_ends: Option<Duration>,
    certificates: tls::FileWatch,
    certificates_seen: Instant,
}

impl Agent {
    async fn serve(mut self, mut signals: Signals) -> anyhow::Result<()> {
        let (engine, mut ports) = self.split();
        engine.start(&mut ports);
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
                event = self.link_events.recv(), if self.engine.intake() == Intake::Ready => match event {
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
        let engine = self.engine.wake_at(now).map_or(ROUND, |wake| wake.saturating_sub(now.boot));
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
}
