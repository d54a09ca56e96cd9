//! Sources that fail, end, fall silent or hang, under a supervisor whose time the test moves.

use std::sync::{PoisonError, mpsc};

use super::{
    scripted::{FPS, Script, Scripted},
    *,
};
use crate::media::{
    drops::DropCounters,
    ring::{Next, Ring},
    rtp::reason,
    source::Stream,
    stop_signal::StopSignal,
    supervisor::{Role, Supervised, Supervisor, Time},
};

/// Time that stands still until a test moves it. Clones are the same time.
#[derive(Clone)]
struct Paused(Arc<Mutex<Dial>>);

struct Dial {
    now: Instant,
    /// What the supervisor waits for with its stop signal: the pauses between sessions.
    pauses: Vec<Duration>,
}

impl Paused {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Dial { now: Instant::now(), pauses: Vec::new() })))
    }

    fn dial(&self) -> std::sync::MutexGuard<'_, Dial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, by: Duration) {
        self.dial().now += by;
    }

    fn pauses(&self) -> Vec<Duration> {
        self.dial().pauses.clone()
    }

    fn poll<T>(&self, until: Instant, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            if let Some(value) = ready() {
                return Some(value);
            }
            if self.now() >= until {
                return None;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Time for Paused {
    fn now(&self) -> Instant {
        self.dial().now
    }

    fn wait(&self, signal: &StopSignal, patience: Duration) -> bool {
        // At one moment: a test that has seen the pause moves the time, and the pause has begun before.
        let until = {
            let mut dial = self.dial();
            dial.pauses.push(patience);
            dial.now + patience
        };
        self.poll(until, || signal.is_raised().then_some(())).is_some()
    }

    fn receive<T>(&self, receiver: &mpsc::Receiver<T>, patience: Duration) -> Result<T, mpsc::RecvTimeoutError> {
        // A source that has not run yet is given the processor, however far the time has been moved.
        let received = self.poll(self.now() + patience, || match receiver.try_recv() {
            Err(mpsc::TryRecvError::Empty) => None,
            Ok(value) => Some(Ok(value)),
            Err(mpsc::TryRecvError::Disconnected) => Some(Err(mpsc::RecvTimeoutError::Disconnected)),
        });
        received.unwrap_or(Err(mpsc::RecvTimeoutError::Timeout))
    }
}

/// A supervised source under time that stands still.
struct Bench {
    source: Arc<Scripted>,
    ring: Arc<Ring>,
    supervised: Supervised,
    conditions: Conditions,
    stop: StopSignal,
    time: Paused,
    thread: Option<thread::JoinHandle<()>>,
}

impl Bench {
    fn new(script: impl IntoIterator<Item = Script>) -> Self {
        Self::of(Source::Rtsp("rtsp://camera/".into()), script)
    }

    fn of(described: Source, script: impl IntoIterator<Item = Script>) -> Self {
        let source = Arc::new(Scripted::new(script));
        let ring = Arc::new(Ring::new(Duration::from_secs(60), 1 << 24));
        let (conditions, stop, time) = (Conditions::default(), StopSignal::default(), Paused::new());
        let supervisor = Supervisor {
            role: Role::Main,
            described,
            source: source.clone(),
            stream: Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(conditions.clone()))),
            conditions: conditions.clone(),
            stop: stop.clone(),
            time: time.clone(),
        };
        let (supervised, thread) = supervisor.start().unwrap();
        Self { source, ring, supervised, conditions, stop, time, thread: Some(thread) }
    }

    fn sessions(&self) -> usize {
        self.source.sessions.load(Ordering::Relaxed)
    }

    fn wait_for_pause(&self, number: usize) -> Duration {
        eventually("the supervisor pauses", || self.time.pauses().len() >= number);
        self.time.pauses()[number - 1]
    }

    /// Moves the time until the supervisor pauses for the `number`th time. Gives how long that took.
    fn pass_until_pause(&self, number: usize) -> Duration {
        let began = self.time.now();
        eventually("the supervisor pauses", || {
            if self.time.pauses().len() < number {
                self.pass(Duration::from_millis(100));
            }
            self.time.pauses().len() >= number
        });
        self.time.now() - began
    }

    /// Moves the time in steps of a tick, so that a source that runs is seen running.
    fn pass(&self, span: Duration) {
        let mut left = span;
        while left > Duration::ZERO {
            let step = left.min(Duration::from_millis(100));
            self.time.advance(step);
            left -= step;
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.raise();
        // A source that hangs is waited for, in the bench's time.
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            self.pass(Duration::from_secs(1));
        }
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

#[test]
fn a_source_that_fails_is_tried_again_after_pauses_that_grow() {
    let bench = Bench::new([Script::Fail(SourceError::Failed("connection refused".into()))]);
    for (number, ms) in [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000].into_iter().enumerate() {
        let pause = bench.wait_for_pause(number + 1);
        assert_eq!((pause, bench.sessions()), (Duration::from_millis(ms), number + 1));
        bench.time.advance(pause);
    }
    bench.wait_for_pause(9);
    let status = bench.supervised.status();
    assert_eq!((status.restarts, status.fault.as_deref()), (9, Some("connection refused")));
    assert_eq!(named(&bench.conditions, "stream").unwrap(), "no picture from rtsp://camera/: connection refused");
}

#[test]
fn an_unusable_source_is_tried_less_often() {
    let bench = Bench::new([Script::Fail(SourceError::Unusable("no decoder".into()))]);
    for (number, seconds) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        let pause = bench.wait_for_pause(number + 1);
        assert_eq!(pause, Duration::from_secs(seconds));
        bench.time.advance(pause);
    }
}

#[test]
fn the_password_of_a_source_is_in_no_fault() {
    let url = "rtsp://admin:hunter2@camera/";
    let bench = Bench::of(Source::Rtsp(url.into()), [Script::Fail(SourceError::Failed(format!("cannot resolve {url}")))]);
    bench.wait_for_pause(1);
    let told = format!("{:?} {:?}", bench.supervised.status(), named(&bench.conditions, "stream"));
    assert!(told.contains("cannot resolve") && !told.contains("hunter2"), "{told}");
}

#[test]
fn a_source_that_ends_is_begun_again_and_time_goes_on() {
    let bench = Bench::new([Script::Burst(30), Script::Burst(30), Script::Silent]);
    for number in 1..=2 {
        let pause = bench.wait_for_pause(number);
        assert_eq!(bench.supervised.status().fault.as_deref(), Some("the source has ended"));
        bench.time.advance(pause);
    }
    eventually("the third session runs", || bench.sessions() == 3);
    let (mut position, mut last) = (0, None);
    for n in 0..60 {
        let Next::Frame { frame, lost: 0 } = bench.ring.next(&mut position, Duration::ZERO) else { panic!("frame {n} is missing") };
        assert!(Some(frame.pts) > last, "frame {n} at {:?} is not after {last:?}", frame.pts);
        last = Some(frame.pts);
    }
    // Each session delivered two seconds of film at once: its clock is ahead of the agent's.
    assert!(last > Some(Duration::from_millis(3800)));
}

#[test]
fn a_source_that_falls_silent_is_ended_and_begun_again() {
    let bench = Bench::new([Script::Silent, Script::Live(u32::MAX)]);
    eventually("the source runs", || bench.sessions() == 1);
    bench.pass(Duration::from_secs(74));
    assert_eq!(bench.supervised.status().fault, None, "a first frame may take 75 s");
    bench.pass_until_pause(1);
    assert_eq!(bench.supervised.status().fault.as_deref(), Some("no frame for 75 s since the start; the next try waits 150 s"));
    bench.time.advance(bench.wait_for_pause(1));
    eventually("frames have come", || bench.supervised.status().frames > 5);
    assert!(named(&bench.conditions, "stream").is_some(), "a stream that has only just come is still named");
}

#[test]
fn a_stream_that_dies_between_two_frames_is_found_sooner() {
    let bench = Bench::new([Script::Freeze(FPS), Script::Silent]);
    eventually("frames have come", || bench.supervised.status().frames == u64::from(FPS));
    let took = bench.pass_until_pause(1);
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(8), "{took:?}");
    assert_eq!(bench.supervised.status().fault.as_deref(), Some("no frame for 5 s"));
}

/// Nothing of what comes begins a picture: that is the encoder's, and no matter of addresses or the network.
#[test]
fn frames_that_nothing_begins_lead_to_the_encoder() {
    let bench = Bench::new([Script::Useless(reason::NO_PARAMETER_SETS), Script::Fail(SourceError::Failed("refused".into()))]);
    let advice = || {
        let found = bench.conditions.list(care_engine::trusted_time::Now::default());
        found.into_iter().map(|condition| (condition.name, condition.advice)).collect::<std::collections::BTreeMap<_, _>>()
    };
    eventually("the loss is told", || advice().get("frames_lost").is_some_and(|advice| advice.contains("SPS and PPS")));
    eventually("the fault is told", || {
        bench.pass(Duration::from_millis(500));
        advice().contains_key("stream")
    });
    assert!(advice()["stream"].contains("SPS and PPS"), "{:?}", advice());
    bench.pass_until_pause(1);
    assert!(advice()["stream"].contains("SPS and PPS"), "it has ended for the same reason: {:?}", advice());
    bench.time.advance(bench.wait_for_pause(1));
    bench.wait_for_pause(2);
    assert!(advice()["stream"].contains("[media] source"), "another fault has the usual advice: {:?}", advice());
}

/// As a time-lapse camera sends them.
#[test]
fn a_frame_a_minute_is_a_stream() {
    let bench = Bench::new([Script::Stepped]);
    for number in 1..=8 {
        bench.pass(Duration::from_secs(60));
        bench.source.request_keyframe();
        eventually("the frame has come", || bench.supervised.status().frames == number);
    }
    let status = bench.supervised.status();
    assert_eq!((bench.sessions(), status.restarts, status.fault), (1, 0, None));
    let took = bench.pass_until_pause(1);
    assert!((200..300).contains(&took.as_secs()), "four intervals: {took:?}");
}

#[test]
fn frames_of_which_none_can_be_used_are_a_fault_and_in_the_end_a_reason_to_begin_again() {
    let bench = Bench::new([Script::Useless("in the script"), Script::Live(u32::MAX)]);
    eventually("frames come", || bench.supervised.status().frames > 0);
    assert_eq!(bench.supervised.status().fault, None);
    let told = "frames come, but none can be used: they are lost in the script";
    eventually("the fault is told", || {
        bench.pass(Duration::from_millis(500));
        bench.supervised.status().fault.as_deref() == Some(told)
    });
    assert_eq!((bench.sessions(), bench.supervised.status().restarts), (1, 0), "a keyframe may yet come");
    assert!(named(&bench.conditions, "stream").unwrap().ends_with(told));
    bench.pass_until_pause(1);
    assert_eq!(bench.supervised.status().fault.as_deref(), Some(told));
    bench.time.advance(bench.wait_for_pause(1));
    eventually("the fault is over", || {
        bench.pass(Duration::from_millis(100));
        bench.supervised.status().fault.is_none()
    });
}

#[test]
fn a_source_that_hangs_is_left_behind_and_another_session_begins() {
    let bench = Bench::new([Script::Hang, Script::Live(u32::MAX)]);
    eventually("the source runs", || bench.sessions() == 1);
    let took = bench.pass_until_pause(1);
    assert!(took > Duration::from_secs(80), "75 s without a frame, and 5 s to return: {took:?}");
    bench.time.advance(bench.wait_for_pause(1));
    eventually("frames have come", || bench.supervised.status().frames > 5);
}

#[test]
fn a_stream_that_flows_for_ten_seconds_is_no_longer_at_fault() {
    let bench = Bench::new([Script::Fail(SourceError::Failed("gone".into())), Script::Live(u32::MAX)]);
    let pause = bench.wait_for_pause(1);
    bench.time.advance(pause);
    eventually("the fault is over", || {
        bench.pass(Duration::from_millis(100));
        bench.supervised.status().fault.is_none()
    });
    assert!(named(&bench.conditions, "stream").is_some());
    for _ in 0..25 {
        let before = bench.supervised.status().frames;
        eventually("another frame has come", || bench.supervised.status().frames > before);
        bench.pass(Duration::from_millis(500));
    }
    assert_eq!(named(&bench.conditions, "stream"), None);
}

#[test]
fn what_a_session_that_is_over_delivers_has_no_effect() {
    let (ring, drops) = (Arc::new(Ring::new(Duration::from_secs(9), 1 << 20)), DropCounters::new(Conditions::default()));
    let stream = Arc::new(Stream::new(vec![ring.clone()], None, drops));
    let (old, new) = (stream.session(Duration::ZERO), stream.session(Duration::ZERO));
    let frames = scripted::film("640x360");
    old.frame(frames[0].clone());
    old.end();
    old.frame(frames[0].clone());
    old.lost(3, "in the test");
    assert_eq!((ring.end(), stream.counters.frames.load(Ordering::Relaxed)), (1, 1));
    new.frame(frames[0].clone());
    assert_eq!(ring.end(), 2);
}

#[test]
fn after_a_loss_nothing_is_delivered_until_the_next_keyframe() {
    let (ring, conditions) = (Arc::new(Ring::new(Duration::from_secs(9), 1 << 24)), Conditions::default());
    let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(conditions.clone())));
    let session = stream.session(Duration::ZERO);
    let counted = || (stream.counters.frames.load(Ordering::Relaxed), stream.counters.dropped.load(Ordering::Relaxed), ring.end());
    let film = scripted::film("640x360");
    session.frame(film[1].clone());
    assert_eq!(counted(), (1, 1, 0), "a session begins with a keyframe");
    film[..5].iter().for_each(|frame| session.frame(frame.clone()));
    assert_eq!(counted(), (6, 1, 5));
    session.lost(2, "in the test");
    film[7..20].iter().for_each(|frame| session.frame(frame.clone()));
    assert_eq!(counted(), (21, 11, 10), "2 lost, 8 of no use, 5 from the next keyframe on");
    assert_eq!(named(&conditions, "frames_lost").unwrap(), "frames were lost: 2 in the test");
    session.gap();
    session.frame(film[20].clone());
    session.frame(film[0].clone());
    assert_eq!(counted(), (23, 12, 11));
}
