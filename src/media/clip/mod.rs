//! Records clips on a thread of its own: follows the pre-roll ring of a stream and hands fragments to the outlet. A slow outlet
//! costs this clip frames, never the camera. Events in a row share a clip; where the plan's longest clip ends before they do, or
//! the picture's size changes, the next clip goes on without a hole. An event that is in no clip is counted with its reason.
//!
//! ```text
//! Event ─ Episode ─ start: which keyframe ─ file: one clip ─ Outlet
//!   │        └ missed: what no clip has, and why
//!   └ moment: the newest keyframes, for a snapshot
//! ```

mod episode;
mod file;
mod missed;
mod moment;
mod start;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::ClipKind;
use portable_atomic::AtomicU64;

pub(super) use self::moment::Moment;
use self::{
    episode::Episode,
    file::{Clip, Erased},
    missed::{Missed, Reason},
    start::{AFTER, Footage, Limits},
};
use super::{
    Beginning, MediaError, Outlet,
    drops::DropCounters,
    frame::Frame,
    motion::Event,
    recent::{Became, Recent},
    recording,
    ring::{Next, Ring},
    snapshot::Snapshots,
    source::FrameSource,
    stop_signal::StopSignal,
};
use crate::conditions::Conditions;

/// How long a clip waits for its first keyframe. Encoders that save bits send one a minute.
const FIRST_KEYFRAME: Duration = Duration::from_secs(60);
/// A clip whose stream is silent this long ends with what it has, unless it is too early for its last event.
const SILENCE: Duration = Duration::from_secs(5);
/// The same whatever events come.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);
/// A keyframe is asked for this long before a clip ends that another must follow, unless one has just come.
const ASK_BEFORE_END: Duration = Duration::from_secs(1);
/// How much shorter than it should be what follows an event may be.
const SHORT: Duration = Duration::from_millis(200);
/// How long the last frame of a clip can stand for what happens after it.
const LAST_FRAME: Duration = Duration::from_secs(1);
/// How often a quiet stream is left to check events and the stop signal.
const TICK: Duration = Duration::from_millis(200);
/// How often the rings are searched while a clip waits for its first keyframe. Meanwhile they hold the frames.
const SEARCH: Duration = Duration::from_millis(50);
/// How often the conditions are looked after.
const TEND: Duration = Duration::from_secs(1);

/// What became of the events.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub running: AtomicBool,
    pub recorded: AtomicU64,
    pub erased: AtomicU64,
    pub refused: AtomicU64,
    pub missed: AtomicU64,
}

/// One stream to record from.
pub(super) struct Stream {
    pub ring: Arc<Ring>,
    pub source: Arc<dyn FrameSource>,
    /// What the last clip has of it.
    last: Option<Footage>,
}

impl Stream {
    pub fn new(ring: Arc<Ring>, source: Arc<dyn FrameSource>) -> Self {
        Self { ring, source, last: None }
    }
}

/// What the recorder works with.
pub(super) struct Parts {
    pub outlet: Arc<dyn Outlet>,
    /// The best first. The recorder tries the next one when the outlet refuses, or when only that one has the event.
    pub streams: Vec<Stream>,
    pub pre_roll: Duration,
    pub events: mpsc::Receiver<Event>,
    pub counts: Arc<Counts>,
    pub recent: Arc<Recent>,
    pub conditions: Conditions,
    pub snapshots: Snapshots,
    pub drops: DropCounters,
    /// What the card has at risk. Its own threads may be waiting for it.
    pub card: Option<Arc<recording::Counts>>,
    pub stop: StopSignal,
}

/// Starts the recorder's thread.
pub(super) fn start(parts: Parts) -> Result<JoinHandle<()>, MediaError> {
    let missed = Missed::new(parts.conditions.clone());
    let mut recorder = Recorder { parts, missed, pictured: None, tended: Instant::now() };
    crate::threads::named("media-clip").spawn(move || recorder.run()).map_err(MediaError::Thread)
}

/// The state of the thread.
struct Recorder {
    parts: Parts,
    missed: Missed,
    /// The newest keyframe at the last snapshot.
    pictured: Option<Instant>,
    tended: Instant,
}

/// A clip that has begun.
struct Begun {
    stream: usize,
    clip: Clip,
    /// Of its second frame.
    position: u64,
}

/// The search for a keyframe to begin with.
struct Search {
    /// The stream in which the clip before ended too early.
    goes_on_in: Option<usize>,
    /// Streams and positions that the outlet has refused.
    refused: Vec<(usize, u64)>,
}

/// Which keyframe of a stream a clip may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// One that has the event in the clip, or goes on where the last clip ended.
    Holds,
    /// The first one after the event.
    Follows,
}

/// Where the last event is on the stream's timeline, if the ring had a frame before it.
struct Shown {
    event: Instant,
    at: Option<Duration>,
}

impl Shown {
    fn find(ring: &Ring, event: Instant) -> Self {
        Self { event, at: ring.moment(event) }
    }
}

/// Why a clip ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing more happened, or nothing more came.
    Over,
    /// It is as long as it may be.
    Longest,
    /// The next frame needs another file.
    Format,
}

impl Recorder {
    fn run(&mut self) {
        while !self.parts.stop.is_raised() {
            if let Ok(event) = self.parts.events.recv_timeout(TICK) {
                let number = self.parts.recent.begin(event.kind, event.at, self.picture());
                let before = self.tally();
                self.handle(event);
                self.parts.recent.end(number, Self::became(before, self.tally()));
            }
            self.tend();
        }
    }

    /// The newest keyframe, of the smaller stream if there is one.
    fn picture(&self) -> Option<Frame> {
        let ring = &self.parts.streams.last()?.ring;
        ring.newest_key().and_then(|at| ring.at(at)).map(Frame::without_units)
    }

    /// Clips recorded and erased, events refused and missed. Only this thread counts them.
    fn tally(&self) -> [u64; 4] {
        let Counts { recorded, erased, refused, missed, .. } = &*self.parts.counts;
        [recorded, erased, refused, missed].map(|count| count.load(Ordering::Relaxed))
    }

    /// What became of an event, told by the counts before and after it.
    fn became(before: [u64; 4], after: [u64; 4]) -> Became {
        let [recorded, erased, refused, missed] = std::array::from_fn(|n| after[n] - before[n]);
        match (recorded, erased, refused, missed) {
            (_, 1.., ..) => Became::Erased,
            (1.., ..) => Became::Recorded(recorded),
            (.., 1..) => Became::Missed,
            (.., 1.., _) => Became::NotAllowed,
            _ => Became::Ended,
        }
    }

    fn tend(&mut self) {
        if self.tended.elapsed() >= TEND {
            self.tended = Instant::now();
            self.parts.drops.expire();
            if let Some(card) = &self.parts.card {
                card.tend(&self.parts.conditions);
            }
            self.missed.tend(self.parts.streams.iter().map(|stream| &*stream.ring));
        }
    }

    /// Records clips until nothing happens any more.
    fn handle(&mut self, event: Event) {
        let mut episode = Episode::begin(event);
        let mut goes_on_in = None;
        loop {
            if episode.kind == ClipKind::Motion && episode.first_waiting().is_some() {
                self.snapshot();
            }
            let Some(begun) = self.begin(&mut episode, goes_on_in) else { return };
            let stream = begun.stream;
            self.parts.counts.running.store(true, Ordering::Relaxed);
            let goes_on = self.record(begun, &mut episode);
            self.parts.counts.running.store(false, Ordering::Relaxed);
            match goes_on {
                Ok(true) if !self.parts.stop.is_raised() => goes_on_in = Some(stream),
                Ok(_) => return,
                Err(Erased) => {
                    self.parts.counts.erased.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
    }

    /// Takes the picture at the start of an event, unless there is no keyframe since the last one. Where no clip can begin,
    /// every report of motion is an event of its own.
    fn snapshot(&mut self) {
        let moment = Moment::of(&self.parts.streams);
        let newest = moment.newest();
        if newest != self.pictured || newest.is_none() {
            self.pictured = newest;
            self.parts.snapshots.take(moment);
        }
    }

    /// Finds stream and keyframe to begin with, and asks the outlet. Waits for a keyframe if none that is held will do.
    fn begin(&mut self, episode: &mut Episode, goes_on_in: Option<usize>) -> Option<Begun> {
        let (since, mut search, mut why_not) = (Instant::now(), Search { goes_on_in, refused: Vec::new() }, None);
        loop {
            let Some(max) = self.parts.outlet.clip_max() else { return self.refuse(episode) };
            let limits = Limits { pre_roll: self.parts.pre_roll, max };
            let streams = 0..self.parts.streams.len();
            let mut choices =
                [Choice::Holds, Choice::Follows].into_iter().flat_map(|choice| streams.clone().map(move |stream| (choice, stream)));
            if let Some(begun) = choices.find_map(|(choice, stream)| self.try_stream(stream, choice, episode, limits, &mut search)) {
                let why = why_not.unwrap_or_else(|| self.why_not(episode, limits));
                let why = self.with_interval(why, begun.stream);
                let late = episode.begins(begun.clip.began);
                self.miss(late, why);
                return Some(begun);
            }
            let is_refused = |stream| search.refused.iter().any(|(refused, _)| *refused == stream);
            let only_follows = episode.first_waiting().is_none();
            if streams.clone().all(is_refused) || (only_follows && !search.refused.is_empty()) {
                return self.refuse(episode);
            }
            if why_not.is_none() {
                why_not = Some(self.why_not(episode, limits));
                self.parts.streams.iter().for_each(|stream| stream.source.request_keyframe());
            }
            let until = episode.first_waiting().map_or(episode.last + AFTER, |event| event.max(since) + FIRST_KEYFRAME);
            if Instant::now() >= until {
                return if search.refused.is_empty() { self.give_up(episode, why_not) } else { self.refuse(episode) };
            }
            if self.parts.stop.wait(SEARCH) {
                return None;
            }
            self.tend();
            for event in self.parts.events.try_iter() {
                episode.add(event);
                // What was refused may be allowed by now.
                search.refused.clear();
            }
        }
    }

    /// Begins a clip of this stream if it has such a keyframe and the outlet allows it.
    fn try_stream(&self, index: usize, choice: Choice, episode: &Episode, limits: Limits, search: &mut Search) -> Option<Begun> {
        let stream = &self.parts.streams[index];
        let goes_on = search.goes_on_in == Some(index);
        // What follows an event is shown by the stream that has the event.
        let about = episode.first_waiting().or_else(|| goes_on.then_some(episode.last))?;
        let erasures = stream.ring.erasures();
        let overview = stream.ring.overview(about)?;
        let without_pre_roll = Limits { pre_roll: Duration::ZERO, ..limits };
        let positions = match (choice, stream.last.filter(|_| goes_on)) {
            (Choice::Holds, Some(last)) => [start::going_on(&overview, limits, last), None],
            // The pre-roll may reach into the pause that the plan wants between two clips.
            (Choice::Holds, None) => [limits, without_pre_roll].map(|limits| start::holding(&overview, limits, stream.last)),
            (Choice::Follows, _) => [start::following(&overview, stream.last), None],
        };
        for position in positions.into_iter().flatten() {
            // The ring may have dropped it since: then there is another keyframe the next time.
            let Some(first) = stream.ring.at(position).filter(|_| !search.refused.contains(&(index, position))) else { continue };
            let beginning = Beginning { kind: episode.kind, ago: first.taken.elapsed(), height: first.format.height.into() };
            match self.parts.outlet.begin(beginning) {
                Some(allowed) => {
                    let identity = self.parts.outlet.identity(beginning.ago);
                    let clip = Clip::begin(first, allowed, stream.ring.clone(), erasures).identified(identity);
                    return Some(Begun { stream: index, clip, position: position + 1 });
                }
                None => search.refused.push((index, position)),
            }
        }
        None
    }

    /// The plan allows no clip.
    fn refuse(&self, episode: &mut Episode) -> Option<Begun> {
        let events = episode.give_up();
        if events > 0 {
            self.parts.counts.refused.fetch_add(events, Ordering::Relaxed);
        }
        None
    }

    /// No keyframe came.
    fn give_up(&mut self, episode: &mut Episode, why: Option<Reason>) -> Option<Begun> {
        let events = episode.give_up();
        self.miss(events, why.unwrap_or(Reason::NoPicture));
        None
    }

    fn miss(&mut self, events: u64, why: Reason) {
        self.parts.counts.missed.fetch_add(events, Ordering::Relaxed);
        self.missed.add(events, why);
    }

    /// Why no keyframe of the best stream has the event in its clip.
    fn why_not(&self, episode: &Episode, limits: Limits) -> Reason {
        let Some(ring) = self.parts.streams.first().map(|stream| &stream.ring) else { return Reason::NoPicture };
        let overview = ring.overview(episode.first_waiting().unwrap_or(episode.last));
        let Some(at) = overview.filter(|at| at.moment <= at.newest + SILENCE) else { return Reason::NoPicture };
        let newest = at.keys.iter().rfind(|key| key.pts <= at.moment);
        match (newest, ring.overflow()) {
            (Some(key), _) => Reason::Interval { max: limits.max, interval: at.moment - key.pts },
            (None, Some(_)) => Reason::PreRoll { max_bytes: ring.max_bytes() },
            (None, None) if at.moment < at.oldest && at.has_dropped => Reason::Gone,
            (None, None) => Reason::NoPicture,
        }
    }

    /// The same once the next keyframe has come: the interval is known.
    fn with_interval(&self, why: Reason, stream: usize) -> Reason {
        match (why, self.parts.streams[stream].ring.keyframe_interval()) {
            (Reason::Interval { max, interval: age }, Some(interval)) => Reason::Interval { max, interval: interval.max(age) },
            (why, _) => why,
        }
    }

    /// Records one clip. Returns whether another must go on where it ends.
    fn record(&mut self, begun: Begun, episode: &mut Episode) -> Result<bool, Erased> {
        let Begun { stream: index, mut clip, position } = begun;
        let (end, next) = self.follow(index, &mut clip, position, episode)?;
        let (began, max) = (clip.began, clip.max());
        let footage = clip.finish(next.as_ref())?;
        self.parts.counts.recorded.fetch_add(1, Ordering::Relaxed);
        let stream = &mut self.parts.streams[index];
        stream.last = Some(footage);
        let last = stream.ring.taken_before(footage.until).unwrap_or(began);
        self.parts.events.try_iter().for_each(|event| episode.add(event));
        // The last frame shows what happens until the next one.
        episode.covered(next.as_ref().map_or(last, |next| next.taken.min(last + LAST_FRAME).max(last)));
        if episode.first_waiting().is_some() {
            return Ok(true);
        }
        // What follows the last event must be as long as `start` would have it; how frames are spaced allows a little less.
        let short = |wanted: Duration| next.as_ref().is_some_and(|next| next.taken + SHORT < episode.last + wanted);
        let whole = self.parts.outlet.clip_max().is_some_and(|longest| longest <= max);
        Ok(match end {
            End::Over => false,
            // Where the spool ended it for want of room, a clip without an event would only push out the one that has it.
            End::Longest => whole && short(Limits { pre_roll: self.parts.pre_roll, max }.after()),
            End::Format => short(AFTER),
        })
    }

    /// Adds frames to a clip until it ends. Returns the frame that is not in it any more, if that is why.
    fn follow(&mut self, index: usize, clip: &mut Clip, mut position: u64, episode: &mut Episode) -> Result<(End, Option<Frame>), Erased> {
        let (ring, source) = (self.parts.streams[index].ring.clone(), self.parts.streams[index].source.clone());
        let after = Limits { pre_roll: self.parts.pre_roll, max: clip.max() }.after();
        let (mut last_frame, mut newest_key) = ((Instant::now(), ring.end()), clip.began);
        let mut shown = Shown::find(&ring, episode.last);
        while !self.parts.stop.is_raised() {
            self.tend();
            self.parts.events.try_iter().for_each(|event| episode.add(event));
            let ends = episode.last + AFTER;
            if shown.event != episode.last {
                shown = Shown::find(&ring, episode.last);
            }
            match ring.next(&mut position, TICK) {
                Next::Frame { frame, lost } => {
                    self.parts.drops.add("into a clip", lost);
                    last_frame = (Instant::now(), position);
                    clip.ask()?;
                    let end = if !clip.takes(&frame) {
                        Some(End::Format)
                    } else if frame.taken > ends && shown.at.is_none_or(|at| frame.pts >= at + AFTER) {
                        // After a stall of the network what is shown before the end comes after it.
                        Some(End::Over)
                    } else if !clip.has_room(&frame) {
                        Some(End::Longest)
                    } else {
                        None
                    };
                    if let Some(end) = end {
                        return Ok((end, Some(frame)));
                    }
                    if frame.key {
                        newest_key = frame.taken;
                    }
                    let left = clip.left(&frame);
                    if left < ASK_BEFORE_END
                        && frame.taken + left < episode.last + after
                        && frame.taken.saturating_duration_since(newest_key) > 2 * ASK_BEFORE_END
                    {
                        source.request_keyframe();
                        // Once.
                        newest_key = frame.taken;
                    }
                    clip.push(frame)?;
                }
                Next::Quiet => {
                    // After a loss the stream may flow, and only the next keyframe be missing.
                    if ring.end() > last_frame.1 {
                        last_frame = (Instant::now(), ring.end());
                    }
                    let (silent, lost) = (last_frame.0.elapsed(), ring.lost_at(position));
                    let over = Instant::now() > ends && (silent > SILENCE || lost > 0);
                    if over || silent > LONGEST_SILENCE {
                        self.parts.drops.add("into a clip", lost);
                        return Ok((End::Over, None));
                    }
                }
            }
        }
        Ok((End::Over, None))
    }
}
