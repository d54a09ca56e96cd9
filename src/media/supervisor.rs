//! Keeps one stream running: calls its source again whenever that ends or falls silent, with pauses that grow, keeps the
//! counters, and names what is wrong in a condition. It does not know how a source gets its frames.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    MediaError,
    retry::Retry,
    source::{FrameSource, SourceError, Stream},
    status::StreamStatus,
    stop_signal::StopSignal,
};
use crate::{
    conditions::{self, Conditions},
    config::Source,
};

/// How long the first frame of a session may take. Some cameras need ten seconds.
const FIRST_FRAME: Duration = Duration::from_secs(15);
/// A stream that is silent for this long is dead, whatever the source says of itself.
const NEXT_FRAME: Duration = Duration::from_secs(5);
/// A stream that has flowed this long is no longer at fault. One that dies every few seconds stays at fault.
const SETTLED: Duration = Duration::from_secs(10);
/// How long a source may take to return once its session is over. Then its thread is left behind.
const RETURN: Duration = Duration::from_secs(5);
/// How often a running session is checked.
const TICK: Duration = Duration::from_millis(100);

/// Which of the camera's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Main,
    Low,
}

impl Role {
    fn thread(self) -> &'static str {
        match self {
            Self::Main => "media-stream",
            Self::Low => "media-low",
        }
    }

    fn condition(self) -> conditions::Kind {
        match self {
            Self::Main => conditions::Kind::Stream,
            Self::Low => conditions::Kind::LowStream,
        }
    }
}

/// Reads the clock and waits; tests hold the time still.
pub(super) trait Time: Send + 'static {
    fn now(&self) -> Instant;

    /// Waits for the signal. True: it is raised.
    fn wait(&self, signal: &StopSignal, patience: Duration) -> bool;

    /// Waits for a value.
    fn receive<T>(&self, receiver: &mpsc::Receiver<T>, patience: Duration) -> Result<T, mpsc::RecvTimeoutError>;
}

/// The machine's own.
pub(super) struct Machine;

impl Time for Machine {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, signal: &StopSignal, patience: Duration) -> bool {
        signal.wait(patience)
    }

    fn receive<T>(&self, receiver: &mpsc::Receiver<T>, patience: Duration) -> Result<T, mpsc::RecvTimeoutError> {
        receiver.recv_timeout(patience)
    }
}

/// A supervised stream, as the status sees it.
#[derive(Clone)]
pub(super) struct Supervised {
    name: String,
    stream: Arc<Stream>,
    health: Arc<Mutex<Health>>,
}

#[derive(Debug, Default)]
struct Health {
    restarts: u64,
    fault: Option<String>,
}

impl Supervised {
    pub fn status(&self) -> StreamStatus {
        let counters = &self.stream.counters;
        let health = self.health();
        let age = counters.last_frame().map(|at| at.elapsed());
        StreamStatus {
            source: self.name.clone(),
            width: counters.width.load(Ordering::Relaxed),
            height: counters.height.load(Ordering::Relaxed),
            frames: counters.frames.load(Ordering::Relaxed),
            dropped: counters.dropped.load(Ordering::Relaxed),
            last_frame_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            restarts: health.restarts,
            fault: health.fault.clone(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs on a thread of its own, and runs the source on another, which may hang.
pub(super) struct Supervisor<T = Machine> {
    pub role: Role,
    /// What the configuration says: its name for people, and the secrets that no fault may show.
    pub described: Source,
    pub source: Arc<dyn FrameSource>,
    pub stream: Arc<Stream>,
    pub conditions: Conditions,
    pub stop: StopSignal,
    pub time: T,
}

impl<T: Time> Supervisor<T> {
    /// Starts the stream. A source that is not there yet is no error: a condition names it, and it is tried again.
    pub fn start(self) -> Result<(Supervised, JoinHandle<()>), MediaError> {
        let supervised = Supervised { name: self.described.to_string(), stream: self.stream.clone(), health: Arc::default() };
        let ours = supervised.clone();
        let thread = thread::Builder::new().name(self.role.thread().into()).spawn(move || self.run(&ours)).map_err(MediaError::Thread)?;
        Ok((supervised, thread))
    }

    fn run(self, supervised: &Supervised) {
        let epoch = self.time.now();
        let mut retry = Retry::default();
        loop {
            let began = self.time.now();
            let ended = self.session(began - epoch, supervised);
            if self.stop.is_raised() {
                return;
            }
            let pause = retry.pause(&ended, self.time.now() - began);
            let fault = self.described.hide_in(&ended.to_string());
            self.conditions.raise(self.role.condition(), format!("no picture from {}: {fault}", supervised.name));
            {
                let mut health = supervised.health();
                health.fault = Some(fault);
                health.restarts += 1;
            }
            if self.time.wait(&self.stop, pause) {
                return;
            }
        }
    }

    /// One session, from its start to its end.
    fn session(&self, at: Duration, supervised: &Supervised) -> SourceError {
        let session = self.stream.session(at);
        // Read before the source runs: its first frame may come at once.
        let before = self.stream.counters.frames.load(Ordering::Relaxed);
        let (done, ended) = mpsc::sync_channel(1);
        let (source, its_session) = (self.source.clone(), session.clone());
        let run = move || {
            // Nobody waits any more for a source that was left behind.
            let _ = done.send(source.run(&its_session));
        };
        if let Err(error) = thread::Builder::new().name("media-source".into()).spawn(run) {
            return SourceError::Failed(MediaError::Thread(error).to_string());
        }
        let end = self.watch(&ended, before, supervised);
        session.end();
        match end {
            End::Returned(Ok(())) => SourceError::Failed("the source has ended".into()),
            End::Returned(Err(error)) => error,
            End::Silent(silence) => {
                self.wait_for(&ended);
                SourceError::Failed(format!("no frame for {} s", silence.as_secs()))
            }
            End::Stopped => {
                self.wait_for(&ended);
                SourceError::Failed("stopped".into())
            }
        }
    }

    fn wait_for(&self, ended: &mpsc::Receiver<Result<(), SourceError>>) {
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.time.receive(ended, RETURN) {
            tracing::error!(source = %self.described, "the source did not stop in time and was left behind");
        }
    }

    /// Watches a session while it runs: only frames beyond those of `before` prove that a source is alive, whatever its state.
    fn watch(&self, ended: &mpsc::Receiver<Result<(), SourceError>>, before: u64, supervised: &Supervised) -> End {
        let counters = &self.stream.counters;
        let (mut seen, mut last_frame) = (before, self.time.now());
        let mut flowing_since = None;
        loop {
            if self.stop.is_raised() {
                return End::Stopped;
            }
            match self.time.receive(ended, TICK) {
                Ok(result) => return End::Returned(result),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return End::Returned(Err(SourceError::Failed("its thread has panicked".into())));
                }
            }
            let now = self.time.now();
            let frames = counters.frames.load(Ordering::Relaxed);
            if frames != seen {
                (seen, last_frame) = (frames, now);
            }
            let silence = now - last_frame;
            if silence > if seen == before { FIRST_FRAME } else { NEXT_FRAME } {
                return End::Silent(silence);
            }
            if seen != before && silence < Duration::from_secs(1) {
                supervised.health().fault = None;
                if now - *flowing_since.get_or_insert(now) >= SETTLED {
                    self.conditions.clear(self.role.condition());
                }
            }
        }
    }
}

/// How a session ended.
enum End {
    Returned(Result<(), SourceError>),
    Silent(Duration),
    Stopped,
}
