//! `kasa-care-agent supervise`: runs a command where no systemd does, the agent itself by default. It starts the command again
//! after a growing pause, kills it when it reports no progress, passes signals on, and keeps the camera's watchdog by the
//! command's progress alone. It judges nothing about plans and reads no configuration. [`crate::cli`] runs it; what runs the
//! agent, systemd or this, is told by [`ServiceManager`], from which messages take their advice.

mod command;
mod notices;
mod restarts;
mod service_manager;
mod state_files;
mod watchdog;

use std::{
    ffi::OsString,
    future::pending,
    path::PathBuf,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Signal, getppid};
use tokio::{
    select,
    signal::unix::{self, SignalKind, signal},
    time,
};

use command::Running;
pub use command::follow_supervisor;
use notices::{Notice, Notices};
use restarts::{Cause, Restarts};
pub use service_manager::ServiceManager;
use state_files::{PidFile, StatusFile};
use watchdog::Watchdog;

/// The environment variable by which a command knows that it is supervised: the supervisor's process id.
pub const SUPERVISOR: &str = "CARE_SUPERVISOR";
/// How long the command may go without a sign of progress unless `--hang-after` says otherwise; the unit's `WatchdogSec=`.
pub const HANG_AFTER: Duration = Duration::from_secs(30);
/// How long a command that was told to stop may take. The agent needs at most five seconds.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// What to supervise, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Without a sign of progress for this long the command is killed; `None`: never.
    pub hang_after: Option<Duration>,
    /// A watchdog device, or a vendor's watchdog file.
    pub watchdog: Option<PathBuf>,
    /// Holds the process id, and a lock, while this runs.
    pub pid_file: Option<PathBuf>,
    /// Holds one line about what the command does and why it was restarted.
    pub status_file: Option<PathBuf>,
}

/// Runs the command until SIGTERM, SIGINT, or its exit code 64 or 78. Returns the exit code.
///
/// # Errors
/// Another supervisor holds the process id's file, or the process lacks what it needs (a socket, signal handlers).
pub fn run(options: &Options) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the supervisor's runtime")?;
    runtime.block_on(async { Supervisor::new(options)?.run().await })
}

/// How one run of the command ended.
enum Ending {
    /// We were told to stop.
    Stopped,
    /// Without our being told, after this long.
    Lost(Cause, Duration),
}

struct Supervisor<'a> {
    options: &'a Options,
    signals: Signals,
    notices: Notices,
    watchdog: Option<Watchdog>,
    restarts: Restarts,
    status: StatusFile,
    /// Held, and removed at the end.
    _pid_file: Option<PidFile>,
}

impl<'a> Supervisor<'a> {
    fn new(options: &'a Options) -> anyhow::Result<Self> {
        Ok(Self {
            // Before anything is started: a signal without a handler would leave the command alone.
            signals: Signals::new()?,
            _pid_file: options.pid_file.as_deref().map(PidFile::hold).transpose()?,
            notices: Notices::open().context("opening the socket on which the command reports its progress")?,
            watchdog: options.watchdog.as_deref().map(Watchdog::new),
            restarts: Restarts::new(),
            status: StatusFile::new(options.status_file.as_deref()),
            options,
        })
    }

    async fn run(mut self) -> anyhow::Result<u8> {
        loop {
            let (cause, ran) = match self.watch().await? {
                Ending::Stopped => return Ok(self.stopped()),
                Ending::Lost(cause, ran) => (cause, ran),
            };
            if let Some(code) = cause.final_code() {
                if self.rest(code).await? {
                    continue;
                }
                return Ok(code);
            }
            let pause = self.restarts.pause(cause.clone(), ran);
            tracing::error!(
                restarts = self.restarts.count(),
                ran_s = ran.as_secs(),
                pause_s = pause.as_secs(),
                "the command is started again: {cause}"
            );
            self.status.write(&format!("waiting {} s to start again; {}", pause.as_secs(), history(&self.restarts)));
            match self.wait(pause).await {
                Some(Told::Stop(_)) => return Ok(self.stopped()),
                // Something was corrected.
                Some(Told::Reload) => self.restarts.forgive(),
                None => {}
            }
        }
    }

    /// Starts the command and stays with it to its end.
    async fn watch(&mut self) -> anyhow::Result<Ending> {
        let began = Instant::now();
        let environment = command::Environment { notify: self.notices.address(), hang_after: self.options.hang_after };
        let mut running = match Running::start(&self.options.command, &environment) {
            Ok(running) => running,
            Err(error) => {
                let name = self.options.command.first().map(|name| name.to_string_lossy()).unwrap_or_default();
                return Ok(Ending::Lost(Cause::NotStarted(format!("{name}: {error}")), Duration::ZERO));
            }
        };
        tracing::info!(pid = running.pid().as_raw_pid(), restarts = self.restarts.count(), "started the command");
        let mut life = Life { ready: false, reload_when_ready: false, progress_at: began, said: String::new(), lost: None, stop: None };
        self.write_status(&running, &life);
        loop {
            let kill_at = life.kill_at(self.options.hang_after);
            select! {
                // What has been reported counts before the time that is up: the supervisor may itself have been kept waiting.
                biased;
                notices = self.notices.next(Some(running.pid())) => {
                    for notice in notices.context("reading what the command reports")? {
                        self.note(notice, &running, &mut life);
                    }
                }
                told = self.signals.next() => match told {
                    Some(Told::Stop(signal)) => life.stop(signal, &running),
                    Some(Told::Reload) if life.ready => running.signal(Signal::HUP),
                    // Before it is ready it may have no handler, and a HUP would end it.
                    Some(Told::Reload) => life.reload_when_ready = true,
                    // A child has ended, perhaps ours.
                    None => {}
                },
                () = until(kill_at) => life.kill(&running, self.options.hang_after),
            }
            if let Some(status) = running.ended().context("waiting for the command")? {
                return Ok(self.ending(&running, &mut life, status, began));
            }
        }
    }

    fn note(&mut self, notice: Notice, running: &Running, life: &mut Life) {
        match notice {
            Notice::Ready => {
                life.ready = true;
                life.progress_at = Instant::now();
                if std::mem::take(&mut life.reload_when_ready) {
                    running.signal(Signal::HUP);
                }
            }
            Notice::Alive => {
                life.progress_at = Instant::now();
                // A command that is stopping need not be rescued by a restart of the camera.
                if let Some(watchdog) = self.watchdog.as_mut().filter(|_| life.lost.is_none()) {
                    watchdog.keep();
                }
            }
            Notice::Trigger if life.lost.is_none() && life.stop.is_none() => {
                life.lost = Some(Cause::Asked);
                running.kill();
            }
            Notice::Trigger => {}
            Notice::Status(line) => {
                life.said = line;
                self.write_status(running, life);
            }
        }
    }

    /// The command has ended with `status`.
    fn ending(&mut self, running: &Running, life: &mut Life, status: ExitStatus, began: Instant) -> Ending {
        // What it started must not go on beside its successor.
        running.kill();
        match (life.stop.take(), life.lost.take()) {
            (Some(stop), _) => {
                if stop.killed {
                    tracing::error!("the command did not stop within {} s and was killed", STOP_WITHIN.as_secs());
                }
                Ending::Stopped
            }
            (None, Some(cause)) => Ending::Lost(cause, began.elapsed()),
            (None, None) => Ending::Lost(Cause::Ended(status), began.elapsed()),
        }
    }

    /// The command ended with a code that no restart helps against. False: this process ends with it. An init that would only
    /// start this process again is spared that: then it waits for a SIGHUP, and true means that it has come.
    async fn rest(&mut self, code: u8) -> anyhow::Result<bool> {
        let (what, right) = match code {
            64 => ("its command line is wrong", "correct the command line"),
            _ => ("its configuration is wrong", "correct what its last lines name (check-config lists every fault)"),
        };
        // The camera must not restart again and again over a wrong file.
        self.disarm();
        let init = getppid().is_some_and(|parent| parent.is_init());
        let then = if init { "send this process SIGHUP" } else { "start it again" };
        tracing::error!(code, "the command is not started again, because {what}: {right}, then {then}");
        self.status.write(&format!("not started again, because {what} (exit code {code})"));
        if !init {
            self.status.remove();
            return Ok(false);
        }
        loop {
            match self.signals.next().await {
                Some(Told::Stop(_)) => {
                    self.status.remove();
                    return Ok(false);
                }
                Some(Told::Reload) => {
                    self.restarts.forgive();
                    return Ok(true);
                }
                None => {}
            }
        }
    }

    /// Waits, at most this long, to be told something.
    async fn wait(&mut self, pause: Duration) -> Option<Told> {
        let deadline = time::Instant::now() + pause;
        loop {
            select! {
                biased;
                told = self.signals.next() => if told.is_some() { return told },
                () = time::sleep_until(deadline) => return None,
            }
        }
    }

    fn stopped(&mut self) -> u8 {
        self.disarm();
        self.status.remove();
        tracing::info!(restarts = self.restarts.count(), "stopped");
        0
    }

    fn disarm(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.disarm();
        }
    }

    fn write_status(&mut self, running: &Running, life: &Life) {
        let said = if life.said.is_empty() { "starting" } else { &life.said };
        self.status.write(&format!("running as process {}; {}; {said}", running.pid().as_raw_pid(), history(&self.restarts)));
    }
}

/// How often and why.
fn history(restarts: &Restarts) -> String {
    match (restarts.count(), restarts.last()) {
        (count, Some(cause)) => format!("restarts: {count}, the last because {cause}"),
        (_, None) => "restarts: 0".to_owned(),
    }
}

/// What is known about one run of the command.
struct Life {
    ready: bool,
    /// A SIGHUP came before it was ready.
    reload_when_ready: bool,
    /// When it last reported progress; at first, when it was started.
    progress_at: Instant,
    /// Its own line about what it does.
    said: String,
    /// Why it is being killed.
    lost: Option<Cause>,
    /// It is being stopped.
    stop: Option<Stop>,
}

struct Stop {
    kill_at: Instant,
    killed: bool,
}

impl Life {
    /// When the command is to be killed.
    fn kill_at(&self, hang_after: Option<Duration>) -> Option<Instant> {
        match (&self.stop, &self.lost) {
            (Some(stop), _) => (!stop.killed).then_some(stop.kill_at),
            // A process whose system call never returns cannot be killed; its successor must wait for it.
            (None, Some(_)) => None,
            (None, None) => hang_after.map(|limit| self.progress_at + limit),
        }
    }

    /// The time is up.
    fn kill(&mut self, running: &Running, hang_after: Option<Duration>) {
        match (&mut self.stop, hang_after) {
            (Some(stop), _) => stop.killed = true,
            (None, Some(limit)) => {
                let cause = if self.ready { Cause::NoProgress(limit) } else { Cause::NeverReady(limit) };
                tracing::error!(pid = running.pid().as_raw_pid(), "killing the command: {cause}");
                self.lost = Some(cause);
            }
            (None, None) => return,
        }
        running.kill();
    }

    fn stop(&mut self, signal: Signal, running: &Running) {
        tracing::info!(signal = signal.as_raw(), "stopping the command");
        running.signal(signal);
        // A second signal does not give it more time.
        self.stop.get_or_insert(Stop { kill_at: Instant::now() + STOP_WITHIN, killed: false });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at.into()).await,
        None => pending().await,
    }
}

/// What we were told by a signal.
enum Told {
    Stop(Signal),
    Reload,
}

struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    child: unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let of = |kind| signal(kind).context("listening for signals");
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
            child: of(SignalKind::child())?,
        })
    }

    /// The next signal; `None` for a child that has ended.
    async fn next(&mut self) -> Option<Told> {
        select! {
            biased;
            _ = self.terminate.recv() => Some(Told::Stop(Signal::TERM)),
            _ = self.interrupt.recv() => Some(Told::Stop(Signal::INT)),
            _ = self.hangup.recv() => Some(Told::Reload),
            _ = self.child.recv() => None,
        }
    }
}
