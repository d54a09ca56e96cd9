//! The last 200 switches, conditions, starts of the agent and steps of the clock, in memory and in a file of the state directory, so
//! that support sees what happened before a restart. It only tells: nothing reads it to decide.
//!
//! Whoever has something to add does so in memory, in microseconds. A thread of its own writes it to flash, seldom:
//!
//! - two seconds after something new, with all that came meanwhile; a condition that flaps adds a count to its episode, which is
//!   written with what comes next, or ten minutes later;
//! - after twenty writes at most one each five minutes: some hundred pages on the worst day, a few on others.
//!
//! **An owner's entries go with the owner.** [`Timeline::forget`] erases them in memory at once, and on flash before the record of the
//! new owner's document is written, so before the new owner's first upload. A restart keeps no entry of an epoch that is not in force.

mod entry;
mod file;
#[cfg(test)]
pub(crate) mod tests;
mod thread;

use std::{
    collections::{BTreeSet, VecDeque},
    fmt, io,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use care_engine::trusted_time::{Correction, Now, timestamp};
use care_protocol::Report;

pub use self::entry::{Change, End, Entry, Episode, Moment, Stages, Start, What};
use crate::{
    clock::Clock,
    conditions::{Conditions, Kind},
    store::filesystem::Directory,
};

/// How many entries are kept.
pub const MOST: usize = 200;
/// Something new is written after this.
const SOON: Duration = Duration::from_secs(2);
/// A condition that ended less than this ago and comes back flaps, and that is written after this.
const FLAPS: Duration = Duration::from_secs(600);

/// The timeline. Clones share it.
#[derive(Clone)]
pub struct Timeline(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    clock: Clock,
}

#[derive(Default)]
struct State {
    /// Oldest first, by rising number.
    entries: VecDeque<Entry>,
    /// The number of the next one.
    next: u64,
    /// The number of the first one of this run.
    first: u64,
    /// The epoch in force, 0 if none.
    epoch: u64,
    /// The correction of the clock that it has an entry of.
    corrected: Option<Correction>,
    /// Whether the entries of this run have their trusted times.
    dated: bool,
    /// Whether a thread writes it to flash.
    written: bool,
    /// Those that are not on flash as they are.
    unwritten: BTreeSet<u64>,
    /// When they are to be written.
    write_at: Option<Instant>,
    erasure: Erasure,
    stopping: bool,
}

/// What a change of owner leaves to do on flash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Erasure {
    #[default]
    Done,
    Wanted,
    UnderWay,
    /// It is tried again.
    Failed,
}

impl Timeline {
    /// One that is in memory only.
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), clock }))
    }

    /// Notes the start of the agent, and keeps the timeline in this directory from now on. `epoch` is in force; entries of others on
    /// flash are erased. `erased` is called on the timeline's thread whenever [`Timeline::is_erased`] becomes true.
    pub fn keep_in(&self, dir: &Path, epoch: u64, conditions: Conditions, erased: impl Fn() + Send + 'static) {
        let path = dir.to_owned();
        self.begin(epoch);
        let theirs = self.clone();
        let file = file::File::new(move || Directory::open(&path));
        let path = dir.join(file::NAME);
        let thread = crate::threads::named("timeline").spawn(move || theirs.keep(file, &path, &conditions, erased));
        if let Err(why) = thread {
            tracing::error!(%why, "the timeline's thread does not start; it is in memory only");
            self.lock().written = false;
        }
    }

    /// Notes the start.
    fn begin(&self, epoch: u64) {
        // Without it nothing tells a crash from a power cut.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let mut state = self.lock();
        (state.epoch, state.written) = (epoch, true);
        let agent = env!("CARGO_PKG_VERSION").to_owned();
        self.push(&mut state, What::Started(Start { agent, boot, previous: None }));
    }

    /// Adds a change, with the order id of the document in force, unless its report equals the newest one. Returns whether it was
    /// added.
    pub fn switch(&self, report: &Report, order: Option<&str>) -> bool {
        let mut state = self.lock();
        if state.newest_change().is_some_and(|(_, change)| change.report == *report) {
            return false;
        }
        state.epoch = report.epoch;
        let change = Change { report: report.clone(), order: order.map(str::to_owned), stages: Stages::default() };
        self.push(&mut state, What::Switch(Box::new(change)));
        true
    }

    /// Sets how long the stages of the newest change took.
    pub fn time(&self, stages: Stages) {
        let mut state = self.lock();
        let Some((number, change)) = state.newest_change() else { return };
        if change.stages != stages {
            change.stages = stages;
            self.touch(&mut state, number, SOON);
        }
    }

    /// A condition has begun, with this sentence, or ended.
    pub fn condition(&self, kind: Kind, sentence: Option<&str>) {
        // It has an entry of its own.
        if kind == Kind::ClockCorrected {
            return;
        }
        let now = self.0.clock.now().boot;
        let mut state = self.lock();
        let first = state.first;
        let newest = state.entries.iter_mut().rev().take_while(|entry| entry.number >= first).find_map(|entry| {
            let (number, began) = (entry.number, Duration::from_secs(entry.boot_s));
            match &mut entry.what {
                What::Condition(episode) if episode.name == kind.name() => Some((number, now.saturating_sub(began), episode)),
                _ => None,
            }
        });
        match (newest, sentence) {
            (Some((number, ago, episode)), Some(sentence))
                if episode.lasted_s.is_some_and(|lasted| ago < Duration::from_secs(lasted) + FLAPS) =>
            {
                (episode.lasted_s, episode.times) = (None, episode.times.saturating_add(1));
                episode.sentence = Report::detail_of(sentence);
                self.touch(&mut state, number, FLAPS);
            }
            (_, Some(sentence)) => {
                let episode = Episode { name: kind.name().to_owned(), sentence: Report::detail_of(sentence), lasted_s: None, times: 1 };
                self.push(&mut state, What::Condition(episode));
            }
            (Some((number, ago, episode)), None) if episode.lasted_s.is_none() => {
                episode.lasted_s = Some(ago.as_secs());
                let within = if episode.times > 1 { FLAPS } else { SOON };
                self.touch(&mut state, number, within);
            }
            // It began under another owner.
            (_, None) => {}
        }
    }

    /// Notes a step of the clock, and the epoch in force. Call it about once a second.
    pub fn update(&self, now: Now, epoch: u64) {
        let mut state = self.lock();
        state.epoch = epoch;
        if now.corrected != state.corrected {
            state.corrected = now.corrected;
            if let Some(correction) = now.corrected {
                self.push(&mut state, What::ClockStep(correction.to_string()));
            }
        }
        if now.confirmed && !state.dated {
            state.dated = true;
            let first = state.first;
            let mut dated = Vec::new();
            for entry in state.entries.iter_mut().filter(|entry| entry.number >= first && entry.at.is_none()) {
                let ago = now.boot.saturating_sub(Duration::from_secs(entry.boot_s));
                entry.at = Some(Moment(timestamp(now.trusted.saturating_sub(ago))));
                dated.push(entry.number);
            }
            dated.into_iter().for_each(|number| self.touch(&mut state, number, SOON));
        }
    }

    /// Erases what belongs to the owner, because the camera has another one: in memory at once, on flash until
    /// [`Timeline::is_erased`].
    pub fn forget(&self) {
        let mut state = self.lock();
        state.entries.retain(|entry| !entry.what.is_owned());
        state.epoch = 0;
        if state.written {
            state.erasure = Erasure::Wanted;
            self.0.changed.notify_all();
        }
    }

    /// Whether the entries of the previous owner are gone from flash, or could not be erased, which a condition says.
    pub fn is_erased(&self) -> bool {
        let state = self.lock();
        !state.written || matches!(state.erasure, Erasure::Done | Erasure::Failed)
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    /// The newest entries, oldest first.
    pub fn newest(&self, most: usize) -> Vec<Entry> {
        let state = self.lock();
        state.entries.iter().skip(state.entries.len().saturating_sub(most)).cloned().collect()
    }

    /// Notes that the agent stops, and writes all until the deadline at most. Returns whether that is done.
    pub fn stop(&self, deadline: Duration) -> bool {
        let by = Instant::now() + deadline;
        let mut state = self.lock();
        self.push(&mut state, What::Stopped {});
        state.stopping = true;
        self.0.changed.notify_all();
        while state.written {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn push(&self, state: &mut State, what: What) {
        let now = self.0.clock.now();
        let number = state.next;
        state.next += 1;
        let at = now.confirmed.then(|| Moment(timestamp(now.trusted)));
        state.entries.push_back(Entry { number, epoch: state.epoch, at, boot_s: now.boot.as_secs(), what });
        if state.entries.len() > MOST {
            state.entries.pop_front();
        }
        self.touch(state, number, SOON);
    }

    /// An entry has changed, and is to be written within this time.
    fn touch(&self, state: &mut State, number: u64, within: Duration) {
        if !state.written {
            return;
        }
        state.unwritten.insert(number);
        let at = Instant::now() + within;
        if state.write_at.is_none_or(|before| at < before) {
            state.write_at = Some(at);
            self.0.changed.notify_all();
        }
    }

    /// Every change leaves the state consistent, so the lock's poison flag can be ignored.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newest change of this run, with its number.
    fn newest_change(&mut self) -> Option<(u64, &mut Change)> {
        let first = self.first;
        self.entries.iter_mut().rev().take_while(|entry| entry.number >= first).find_map(|entry| match &mut entry.what {
            What::Switch(change) => Some((entry.number, &mut **change)),
            _ => None,
        })
    }

    /// Puts what earlier runs have written before what is there, except for entries of another owner, which go from flash as well.
    fn prepend(&mut self, mut before: Vec<Entry>) {
        let forgotten = self.erasure == Erasure::Wanted;
        let found = before.len();
        before.retain(|entry| entry.is_of(self.epoch) && !(forgotten && entry.what.is_owned()));
        if before.len() < found {
            self.erasure = Erasure::Wanted;
        }
        let by = before.last().map_or(0, |last| last.number.saturating_add(1));
        self.entries.iter_mut().for_each(|entry| entry.number += by);
        self.unwritten = self.unwritten.iter().map(|number| number + by).collect();
        (self.first, self.next) = (self.first + by, self.next + by);
        let previous = before.iter().rev().find_map(|entry| match &entry.what {
            What::Started(start) => Some(Some(start.boot.clone())),
            What::Stopped {} => Some(None),
            _ => None,
        });
        for entry in &mut self.entries {
            if let What::Started(start) = &mut entry.what {
                start.previous = previous.as_ref().and_then(|boot| match boot {
                    None => Some(End::Stopped),
                    Some(boot) if boot.is_empty() || start.boot.is_empty() => None,
                    Some(boot) => Some(if *boot == start.boot { End::Killed } else { End::PowerLost }),
                });
            }
        }
        before.into_iter().rev().for_each(|entry| self.entries.push_front(entry));
        let surplus = self.entries.len().saturating_sub(MOST);
        self.entries.drain(..surplus);
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.lock().entries).finish()
    }
}

/// What is on flash in a state directory whose agent may not be running, without entries of other epochs than this. Changes nothing.
///
/// # Errors
/// The system's, if there is a file and it cannot be read.
pub fn on_flash(dir: &Path, epoch: u64) -> io::Result<Vec<Entry>> {
    match std::fs::read(dir.join(file::NAME)) {
        Ok(bytes) => Ok(file::parse(&bytes).0.into_iter().filter(|entry| entry.is_of(epoch)).collect()),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(why) => Err(why),
    }
}

/// Removes the timeline of a state directory whose agent is not running.
///
/// # Errors
/// The system's.
pub fn erase(dir: &Path) -> io::Result<()> {
    file::erase(&Directory::open(dir)?)
}
