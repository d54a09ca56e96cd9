//! Keeps one stream running: calls its source again whenever that ends or falls silent, with pauses that grow, keeps the
//! counters, and names what is wrong in a condition. It does not know how a source gets its frames.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    MediaError, drops,
    retry::Retry,
    silence::{self, Silence},
    source::{Counters, FrameSource, SourceError, Stream},
    status::StreamStatus,
    stop_signal::StopSignal,
};
use crate::{
    conditions::{self, Conditions},
    config::Source,
};

/// Frames of which none can be used for this long are a fault: nothing is recorded. The session goes on, since a keyframe may
/// yet come; it is ended after [`silence::LONGEST`].
const NONE_USED: Duration = Duration::from_secs(60);
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
            coding: counters.coding(),
            sound: counters.sound(),
            sound_lost: counters.sound_lost.load(Ordering::Relaxed),
            packets_late: counters.packets_late.load(Ordering::Relaxed),
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
        let thread = crate::threads::named(self.role.thread()).spawn(move || self.run(&ours)).map_err(MediaError::Thread)?;
        Ok((supervised, thread))
    }

    fn run(self, supervised: &Supervised) {
        let epoch = self.time.now();
        let (mut retry, mut silence) = (Retry::default(), Silence::new(epoch));
        loop {
            let began = self.time.now();
            let (ended, advice) = self.session(began - epoch, &mut silence, supervised);
            if self.stop.is_raised() {
                return;
            }
            let pause = retry.pause(&ended, self.time.now() - began);
            self.tell(supervised, &ended.to_string(), advice);
            supervised.health().restarts += 1;
            if self.time.wait(&self.stop, pause) {
                return;
            }
        }
    }

    fn tell(&self, supervised: &Supervised, fault: &str, advice: &str) {
        let fault = self.described.hide_in(fault);
        let sentence = format!("no picture from {}: {fault}", supervised.name);
        self.conditions.raise_advising(self.role.condition(), sentence, advice);
        supervised.health().fault = Some(fault);
    }

    /// One session, from its start to its end. Why it ended, and what to do about it.
    fn session(&self, at: Duration, silence: &mut Silence, supervised: &Supervised) -> (SourceError, &'static str) {
        let usual = self.role.condition().advice();
        let session = self.stream.session(at);
        // Read before the source runs: its first frame may come at once.
        let before = Frames::of(&self.stream);
        silence.begin(self.time.now());
        let (done, ended) = mpsc::sync_channel(1);
        let (source, its_session) = (self.source.clone(), session.clone());
        let run = move || {
            // Nobody waits any more for a source that was left behind.
            let _ = done.send(source.run(&its_session));
        };
        if let Err(error) = crate::threads::named("media-source").spawn(run) {
            return (SourceError::Failed(MediaError::Thread(error).to_string()), usual);
        }
        let end = self.watch(&ended, before, silence, supervised);
        session.end();
        silence.end(self.time.now(), matches!(end, End::Silent(_)));
        if !matches!(end, End::Returned(_)) {
            self.wait_for(&ended);
        }
        match end {
            End::Returned(Ok(())) => (SourceError::Failed("the source has ended".into()), usual),
            End::Returned(Err(error)) => (error, usual),
            End::Silent(silent) => {
                let next = silence
                    .next_wait()
                    .map_or_else(String::new, |next| format!(" since the start; the next try waits {} s", next.as_secs()));
                (SourceError::Failed(format!("no frame for {} s{next}", silent.as_secs())), usual)
            }
            End::NoneUsed(words, advice) => (SourceError::Failed(words), advice),
            End::Stopped => (SourceError::Failed("stopped".into()), usual),
        }
    }

    fn wait_for(&self, ended: &mpsc::Receiver<Result<(), SourceError>>) {
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.time.receive(ended, RETURN) {
            tracing::error!(source = %self.described, "the source did not stop in time and was left behind");
        }
    }

    /// Watches a session while it runs: only frames beyond those of `before` prove that a source is alive, whatever its state.
    fn watch(
        &self,
        ended: &mpsc::Receiver<Result<(), SourceError>>,
        before: Frames,
        silence: &mut Silence,
        supervised: &Supervised,
    ) -> End {
        let (mut seen, mut last_used) = (before, self.time.now());
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
            let frames = Frames::of(&self.stream);
            if frames.come != seen.come {
                silence.frames(now, frames.come - seen.come);
            }
            if frames.used != seen.used {
                last_used = now;
                supervised.health().fault = None;
                if now - *flowing_since.get_or_insert(now) >= SETTLED {
                    self.conditions.clear(self.role.condition());
                }
            }
            // Only while frames come: silence is another fault.
            if frames.come != seen.come && frames.used == seen.used && now - last_used > NONE_USED {
                flowing_since = None;
                let (why, encoders) = self.stream.counters.why_unused();
                let words = format!("frames come, but none can be used: {why}");
                let advice = if encoders { drops::SET_THE_ENCODER } else { self.role.condition().advice() };
                if now - last_used > silence::LONGEST {
                    return End::NoneUsed(words, advice);
                }
                self.tell(supervised, &words, advice);
            }
            seen = frames;
            if let Some(silence) = silence.too_long(now) {
                return End::Silent(silence);
            }
        }
    }
}

/// What the counters of a stream say.
#[derive(Debug, Clone, Copy)]
struct Frames {
    come: u64,
    used: u64,
}

impl Frames {
    fn of(stream: &Stream) -> Self {
        let Counters { frames, used, .. } = &stream.counters;
        Self { come: frames.load(Ordering::Relaxed), used: used.load(Ordering::Relaxed) }
    }
}

/// How a session ended.
enum End {
    Returned(Result<(), SourceError>),
    Silent(Duration),
    /// Frames came and none could be used, in these words; and what to do about it.
    NoneUsed(String, &'static str),
    Stopped,
}
