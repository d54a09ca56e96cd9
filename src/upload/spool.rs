//! The clips: being recorded, waiting, leaving. A plain value without clock, lock or I/O; the gate holds it under its
//! lock and nothing slow is done there: what is erased is only moved aside, the uploads' thread lets go of its memory.
//! Clips live in memory within a quota; time inside is BOOTTIME, so that a corrected clock ages no clip.

use std::{collections::VecDeque, mem, time::Duration};

use bytes::Bytes;
use care_protocol::{ClipKind, Erased, Policy, Position};
use uuid::Uuid;

use crate::{
    clock::Now,
    engine::{Admission, ClipFacts, Generation, Judge},
    media::{Beginning, Verdict},
};

/// How many clips that have left are remembered for the cooldown.
const LEFT: usize = 64;

#[derive(Debug)]
pub(super) struct Spool {
    quota: u64,
    /// Oldest first.
    clips: Vec<Clip>,
    admission: Admission,
    /// The generation under which clips may be taken; set together with `admission`.
    generation: Generation,
    /// Starts and ends of the newest clips that left.
    left: VecDeque<(Duration, Duration)>,
    /// Tombstones: no way leads from here to the network; the uploads' thread drops them.
    doomed: Vec<Clip>,
    dropped: Vec<Loss>,
    /// Nothing is tried before this, because the cloud could not be reached or asked for patience.
    pause_until: Duration,
    failures: u32,
    tally: Tally,
}

/// What became of clips since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    pub(super) stored: Erased,
    pub(super) erased: Erased,
    pub(super) dropped: Erased,
}

/// A clip that gave way to newer ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) clip: ClipFacts,
    pub(super) bytes: u64,
}

/// One clip; outside the spool only something to let go of.
#[derive(Debug)]
pub(super) struct Clip {
    id: Uuid,
    kind: ClipKind,
    epoch: u64,
    height: u32,
    /// BOOTTIME of its first frame.
    started: Duration,
    duration: Duration,
    fragments: Vec<Bytes>,
    bytes: u64,
    /// Lowercase hex, once it is whole.
    sha256: String,
    state: State,
    /// Being recorded, and the spool has no room for more of it.
    full: bool,
    /// Not tried before this.
    not_before: Duration,
    failures: u32,
    refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Recording,
    Waiting,
    Leaving(Generation),
}

/// A clip on its way out.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: Uuid,
    pub(super) generation: Generation,
    pub(super) position: Position,
    pub(super) facts: ClipFacts,
    pub(super) bytes: u64,
    pub(super) sha256: String,
    pub(super) fragments: Vec<Bytes>,
}

/// What there is to do.
#[derive(Debug)]
pub(super) enum Next {
    /// This clip may leave; it is marked as leaving.
    Take(Job),
    /// Nothing before this moment of BOOTTIME, unless something changes.
    At(Duration),
    /// Nothing, unless something changes.
    Idle,
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The store has it.
    Stored,
    /// The cloud refused the grant: not before this.
    Refused { until: Duration, status: u16 },
    /// This clip failed: it waits for `pause`.
    Later { pause: Pause },
    /// The cloud could not be reached or asked for patience: all clips wait for `pause`.
    AllLater { pause: Pause },
    /// Cut.
    Stale,
}

/// The shape of a wait: full jitter over a span that doubles with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Pause {
    fn after(self, failures: u32) -> Duration {
        let span = self.first.saturating_mul(1u32.checked_shl(failures).unwrap_or(u32::MAX)).min(self.longest);
        span.mul_f64(fastrand::f64())
    }
}

impl Clip {
    /// What it is judged by: its start on trusted time is counted back from now, whatever T was when it began.
    fn facts(&self, now: Now) -> ClipFacts {
        ClipFacts {
            kind: self.kind,
            epoch: self.epoch,
            started_ms: trusted_ms(self.started, now),
            duration: self.duration,
            height: self.height,
        }
    }

    fn ended(&self) -> Duration {
        self.started.saturating_add(self.duration)
    }

    fn loss(&self, now: Now) -> Loss {
        Loss { clip: self.facts(now), bytes: self.bytes }
    }
}

/// A moment of BOOTTIME on trusted time, milliseconds since 1970.
fn trusted_ms(boot: Duration, now: Now) -> u64 {
    let ago = now.boot.saturating_sub(boot);
    u64::try_from(now.trusted.saturating_sub(ago).as_millis()).unwrap_or(u64::MAX)
}

/// Lower classes give way first.
fn class(kind: ClipKind) -> u8 {
    match kind {
        ClipKind::Snapshot => 0,
        ClipKind::Motion => 1,
        ClipKind::Manual => 2,
    }
}

impl Spool {
    pub(super) fn new(quota: u64) -> Self {
        Self {
            quota,
            clips: Vec::new(),
            admission: Admission::CLOSED,
            generation: Generation::default(),
            left: VecDeque::new(),
            doomed: Vec::new(),
            dropped: Vec::new(),
            pause_until: Duration::ZERO,
            failures: 0,
            tally: Tally::default(),
        }
    }

    pub(super) fn admission(&self) -> Admission {
        self.admission
    }

    /// Clips and bytes held.
    pub(super) fn held(&self) -> Erased {
        sum(&self.clips)
    }

    pub(super) fn leaving(&self) -> u32 {
        self.clips.iter().filter(|clip| matches!(clip.state, State::Leaving(_))).count() as u32
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    // --- the gate ---

    /// What is recorded and what may leave from now on, under the generation that stands.
    pub(super) fn admit(&mut self, admission: Admission) {
        if admission.position != self.admission.position {
            // Another document: what was refused under the last one may be asked again.
            self.retry_refused();
        }
        self.admission = admission;
    }

    /// After a cut: nothing leaves, every transfer is a waiting clip again, and no retry is pending. Returns how many were
    /// leaving.
    pub(super) fn recall(&mut self, generation: Generation) -> u32 {
        let transfers = self.leaving();
        self.generation = generation;
        self.admission.leave = Policy::CLOSED;
        for clip in &mut self.clips {
            if clip.state != State::Recording {
                clip.state = State::Waiting;
            }
            if !clip.refused {
                clip.not_before = Duration::ZERO;
            }
        }
        self.pause_until = Duration::ZERO;
        transfers
    }

    /// Judges every clip, oldest first, under what may be kept from now on; the others get their tombstone.
    pub(super) fn keep(&mut self, policy: Policy, position: Position, now: Now) -> Erased {
        self.admit(Admission::after_cut(policy, position, &self.admission));
        let newest_left = self.left.iter().map(|(_, end)| trusted_ms(*end, now)).max();
        let mut judge = Judge::new(policy, position.epoch, trusted_ms(now.boot, now), newest_left);
        self.doom(|clip| !judge.allows(&clip.facts(now)))
    }

    /// Erases what is older than the plan keeps.
    pub(super) fn expire(&mut self, now: Now) -> Erased {
        let history = Duration::from_secs(u64::from(self.admission.keep.history_h) * 3600);
        self.doom(|clip| clip.state == State::Waiting && now.boot.saturating_sub(clip.started) > history)
    }

    fn doom(&mut self, condemned: impl FnMut(&mut Clip) -> bool) -> Erased {
        let (doomed, kept) = split(mem::take(&mut self.clips), condemned);
        self.clips = kept;
        let erased = sum(&doomed);
        self.doomed.extend(doomed);
        self.tally.erased = add(self.tally.erased, erased);
        erased
    }

    pub(super) fn retry_refused(&mut self) {
        for clip in self.clips.iter_mut().filter(|clip| clip.refused) {
            clip.refused = false;
            clip.not_before = Duration::ZERO;
        }
    }

    // --- recording ---

    /// Whether a clip may begin, and how long it may get.
    pub(super) fn begin(&mut self, id: Uuid, beginning: Beginning, now: Now) -> Option<Duration> {
        let Admission { record, position, .. } = self.admission;
        let clip = Clip {
            id,
            kind: beginning.kind,
            epoch: position.epoch,
            height: beginning.height,
            started: now.boot.saturating_sub(beginning.ago),
            duration: Duration::ZERO,
            fragments: Vec::new(),
            bytes: 0,
            sha256: String::new(),
            state: State::Recording,
            full: false,
            not_before: Duration::ZERO,
            failures: 0,
            refused: false,
        };
        let held = self.clips.iter().filter(|clip| clip.kind != ClipKind::Snapshot).map(|clip| match clip.state {
            // It has not ended yet.
            State::Recording => clip.ended().max(now.boot),
            State::Waiting | State::Leaving(_) => clip.ended(),
        });
        let newest = self.left.iter().map(|(_, end)| *end).chain(held).max().map(|end| trusted_ms(end, now));
        let mut judge = Judge::new(record, position.epoch, trusted_ms(now.boot, now), newest);
        let bound = position != Position::NONE;
        if !bound || !judge.allows(&clip.facts(now)) {
            return None;
        }
        let place = self.clips.partition_point(|other| other.started <= clip.started);
        self.clips.insert(place, clip);
        Some(Duration::from_secs(record.clip_max_s.into()))
    }

    /// Takes more of a clip; [`Verdict::Erased`] if it is here no more.
    pub(super) fn append(&mut self, id: Uuid, fragment: Bytes, duration: Duration, now: Now) -> Verdict {
        let size = fragment.len() as u64;
        let Some(clip) = self.recording(id) else { return Verdict::Erased };
        clip.duration = clip.duration.max(duration);
        clip.bytes += size;
        clip.fragments.push(fragment);
        if !self.make_room(id, now) {
            return Verdict::Erased;
        }
        // What comes next is about as large. A clip that ends early is worth more than one that is dropped for its last second.
        let fixed: u64 = self.clips.iter().filter(|clip| clip.state != State::Waiting).map(|clip| clip.bytes).sum();
        let full = fixed.saturating_add(2 * size) > self.quota;
        if let Some(clip) = self.recording(id) {
            clip.full = full;
        }
        self.limit(id)
    }

    /// How long a clip that is being recorded may get; [`Verdict::Erased`] if it is here no more.
    pub(super) fn limit(&self, id: Uuid) -> Verdict {
        let longest = Duration::from_secs(self.admission.record.clip_max_s.into());
        match self.clips.iter().find(|clip| clip.id == id && clip.state == State::Recording) {
            Some(clip) if clip.full => Verdict::Continue { max: longest.min(clip.duration) },
            Some(_) => Verdict::Continue { max: longest },
            None => Verdict::Erased,
        }
    }

    /// The clip is whole and waits. What is longer than the plan allows is erased.
    pub(super) fn finish(&mut self, id: Uuid, duration: Duration, sha256: String) {
        let longest = Duration::from_secs(self.admission.keep.clip_max_s.into());
        let Some(clip) = self.recording(id) else { return };
        clip.duration = clip.duration.max(duration);
        clip.sha256 = sha256;
        clip.state = State::Waiting;
        if clip.kind != ClipKind::Snapshot && clip.duration > longest {
            self.doom(|clip| clip.id == id);
        }
    }

    /// The clip will not be finished.
    pub(super) fn abandon(&mut self, id: Uuid) {
        if self.recording(id).is_some() {
            let (doomed, kept) = split(mem::take(&mut self.clips), |clip| clip.id == id);
            self.clips = kept;
            self.doomed.extend(doomed);
        }
    }

    fn recording(&mut self, id: Uuid) -> Option<&mut Clip> {
        self.clips.iter_mut().find(|clip| clip.id == id && clip.state == State::Recording)
    }

    /// Drops the oldest of the lowest class until all fits: never the clip that is being written, unless it alone is too
    /// much. Whether that clip is still here.
    fn make_room(&mut self, writing: Uuid, now: Now) -> bool {
        while self.held().bytes > self.quota {
            let waiting = self.clips.iter().enumerate().filter(|(_, clip)| clip.state == State::Waiting);
            let first = waiting.min_by_key(|(index, clip)| (class(clip.kind), *index)).map(|(index, _)| index);
            // Only clips being sent and being recorded are left: the newest must go.
            let index = first.or_else(|| self.clips.iter().position(|clip| clip.id == writing));
            let Some(index) = index else { return false };
            let clip = self.clips.remove(index);
            let loss = clip.loss(now);
            self.tally.dropped = add(self.tally.dropped, Erased { clips: 1, bytes: loss.bytes });
            self.dropped.push(loss);
            let gone = clip.id == writing;
            self.doomed.push(clip);
            if gone {
                return false;
            }
        }
        true
    }

    // --- leaving ---

    /// The next clip to send, oldest first, of those that may leave now; none while a cut is under way, which `generation`,
    /// the gate's, then runs ahead of ours.
    pub(super) fn next(&mut self, generation: Generation, now: Now) -> Next {
        if generation != self.generation {
            return Next::Idle;
        }
        let Admission { leave, position, .. } = self.admission;
        let now_ms = trusted_ms(now.boot, now);
        let mut passed: Vec<(Duration, Duration)> = self.left.iter().copied().collect();
        let mut soonest: Option<Duration> = None;
        for clip in self.clips.iter_mut().filter(|clip| clip.state == State::Waiting) {
            // The cooldown counts from what left, or is about to, before this clip: one that waits for a retry is not
            // overtaken for good by the next.
            let before = passed.iter().filter(|(start, _)| *start <= clip.started).map(|(_, end)| trusted_ms(*end, now));
            let facts = clip.facts(now);
            if !Judge::new(leave, position.epoch, now_ms, before.max()).allows(&facts) {
                continue;
            }
            let due = clip.not_before.max(self.pause_until);
            if due <= now.boot {
                clip.state = State::Leaving(self.generation);
                return Next::Take(Job {
                    id: clip.id,
                    generation: self.generation,
                    position,
                    facts,
                    bytes: clip.bytes,
                    sha256: clip.sha256.clone(),
                    fragments: clip.fragments.clone(),
                });
            }
            if clip.kind != ClipKind::Snapshot {
                passed.push((clip.started, clip.ended()));
            }
            soonest = Some(soonest.map_or(due, |other| other.min(due)));
        }
        soonest.map_or(Next::Idle, Next::At)
    }

    /// A transfer that began under `generation` has ended.
    pub(super) fn settle(&mut self, id: Uuid, generation: Generation, end: End, now: Now) {
        let Some(index) = self.clips.iter().position(|clip| clip.id == id) else {
            if end == End::Stored {
                // The last byte was acknowledged before the cut that doomed it.
                self.tally.stored.clips += 1;
            }
            return;
        };
        if end == End::Stored {
            // Whatever generation it is now: it has left.
            let clip = self.clips.remove(index);
            self.tally.stored = add(self.tally.stored, Erased { clips: 1, bytes: clip.bytes });
            if clip.kind != ClipKind::Snapshot {
                self.left.push_back((clip.started, clip.ended()));
                if self.left.len() > LEFT {
                    self.left.pop_front();
                }
            }
            self.doomed.push(clip);
            self.failures = 0;
            return;
        }
        let clip = &mut self.clips[index];
        if clip.state != State::Leaving(generation) || end == End::Stale {
            // The cut that made it stale has counted it and made it wait, or is about to.
            return;
        }
        clip.state = State::Waiting;
        match end {
            End::Refused { until, .. } => {
                clip.refused = true;
                clip.not_before = until;
            }
            End::Later { pause } => {
                clip.not_before = now.boot + pause.after(clip.failures);
                clip.failures += 1;
            }
            End::AllLater { pause } => {
                self.pause_until = now.boot + pause.after(self.failures);
                self.failures += 1;
            }
            End::Stored | End::Stale => {}
        }
    }

    /// Whether this clip is on its way under this generation: invariant 3, asked before each of its bytes in debug builds.
    pub(super) fn may_send(&self, id: Uuid, generation: Generation) -> bool {
        self.clips.iter().any(|clip| clip.id == id && clip.state == State::Leaving(generation))
    }

    // --- the uploads' thread ---

    /// What is to be let go of, and what was lost for want of room.
    pub(super) fn sweep(&mut self) -> (Vec<Clip>, Vec<Loss>) {
        (mem::take(&mut self.doomed), mem::take(&mut self.dropped))
    }
}

fn split(clips: Vec<Clip>, condemned: impl FnMut(&mut Clip) -> bool) -> (Vec<Clip>, Vec<Clip>) {
    let mut condemned = condemned;
    let mut doomed = Vec::new();
    let mut kept = Vec::with_capacity(clips.len());
    for mut clip in clips {
        if condemned(&mut clip) { doomed.push(clip) } else { kept.push(clip) }
    }
    (doomed, kept)
}

fn sum(clips: &[Clip]) -> Erased {
    Erased { clips: clips.len() as u32, bytes: clips.iter().map(|clip| clip.bytes).sum() }
}

fn add(a: Erased, b: Erased) -> Erased {
    Erased { clips: a.clips + b.clips, bytes: a.bytes + b.bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
    const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
    const AT: Position = Position { epoch: 3, seq: 41 };
    const PAUSE: Pause = Pause { first: Duration::from_secs(1), longest: Duration::from_secs(300) };

    fn now(boot_s: u64) -> Now {
        let boot = Duration::from_secs(boot_s);
        Now { boot, trusted: Duration::from_secs(1_767_225_600) + boot, confirmed: true }
    }

    fn admission(policy: Policy) -> Admission {
        Admission { record: policy, keep: policy, leave: policy, position: AT }
    }

    fn spool(policy: Policy) -> Spool {
        let mut spool = Spool::new(1000);
        spool.admit(admission(policy));
        spool
    }

    fn begin(spool: &mut Spool, kind: ClipKind, at_s: u64) -> Option<Uuid> {
        let id = Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..));
        let beginning = Beginning { kind, ago: Duration::ZERO, height: 360 };
        spool.begin(id, beginning, now(at_s)).map(|_| id)
    }

    /// A clip of `bytes` that began at `at_s` and lasted `long_s`.
    fn record(spool: &mut Spool, kind: ClipKind, at_s: u64, long_s: u64, bytes: usize) -> Option<Uuid> {
        let id = begin(spool, kind, at_s)?;
        let duration = Duration::from_secs(long_s);
        let verdict = spool.append(id, Bytes::from(vec![0; bytes]), duration, now(at_s + long_s));
        spool.finish(id, duration, "00".into());
        (verdict != Verdict::Erased).then_some(id)
    }

    fn take(spool: &mut Spool, at_s: u64) -> Option<Uuid> {
        match spool.next(spool.generation, now(at_s)) {
            Next::Take(job) => Some(job.id),
            _ => None,
        }
    }

    fn store(spool: &mut Spool, id: Uuid, at_s: u64) {
        spool.settle(id, spool.generation, End::Stored, now(at_s));
    }

    #[test]
    fn the_oldest_leaves_first_and_only_once() {
        let mut spool = spool(PAID);
        let first = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        let second = record(&mut spool, ClipKind::Motion, 110, 5, 10).unwrap();
        assert_eq!(take(&mut spool, 200), Some(first));
        assert_eq!(take(&mut spool, 200), Some(second));
        assert_eq!(take(&mut spool, 200), None);
        store(&mut spool, first, 201);
        store(&mut spool, second, 201);
        assert_eq!(spool.held(), Erased::default());
        assert_eq!(spool.tally().stored, Erased { clips: 2, bytes: 20 });
    }

    #[test]
    fn nothing_is_recorded_without_a_document_or_within_the_cooldown() {
        let mut unbound = Spool::new(1000);
        assert_eq!(begin(&mut unbound, ClipKind::Motion, 100), None);
        unbound.admit(Admission { position: Position::NONE, ..admission(PAID) });
        assert_eq!(begin(&mut unbound, ClipKind::Motion, 100), None);

        let mut spool = spool(FREE);
        let first = record(&mut spool, ClipKind::Motion, 100, 10, 10).unwrap();
        assert_eq!(begin(&mut spool, ClipKind::Motion, 409), None);
        assert_eq!(begin(&mut spool, ClipKind::Snapshot, 500), None);
        assert_eq!(take(&mut spool, 200), Some(first));
        store(&mut spool, first, 201);
        assert_eq!(begin(&mut spool, ClipKind::Motion, 409), None, "the cooldown outlives the clip's leaving");
        assert!(begin(&mut spool, ClipKind::Motion, 410).is_some());
        assert_eq!(begin(&mut spool, ClipKind::Motion, 800), None, "one is being recorded");
    }

    #[test]
    fn a_cut_erases_what_the_new_plan_forbids_wherever_it_is() {
        let mut spool = spool(PAID);
        let in_flight = record(&mut spool, ClipKind::Motion, 100, 30, 10).unwrap();
        let kept = record(&mut spool, ClipKind::Motion, 200, 10, 20).unwrap();
        let cooling = record(&mut spool, ClipKind::Motion, 220, 10, 30).unwrap();
        let snapshot = record(&mut spool, ClipKind::Snapshot, 240, 0, 40).unwrap();
        let recording = begin(&mut spool, ClipKind::Motion, 250).unwrap();
        assert_eq!(take(&mut spool, 260), Some(in_flight));

        assert_eq!(spool.recall(Generation(1)), 1);
        let erased = spool.keep(FREE, AT, now(260));
        assert_eq!(
            erased,
            Erased { clips: 4, bytes: 80 },
            "{in_flight} is too long, {cooling} and {recording} too soon, {snapshot} no clip"
        );
        assert_eq!(take(&mut spool, 260), None, "closed until opened");
        assert_eq!(spool.append(recording, Bytes::from_static(b"x"), Duration::from_secs(1), now(261)), Verdict::Erased);
        spool.finish(recording, Duration::from_secs(2), "00".into());

        spool.admit(admission(FREE));
        assert_eq!(take(&mut spool, 261), Some(kept));
        assert_eq!(spool.held(), Erased { clips: 1, bytes: 20 });
        // The task of the first transfer ends only now; it has nothing to say any more.
        spool.settle(in_flight, Generation(0), End::AllLater { pause: PAUSE }, now(262));
        assert_eq!(spool.pause_until, Duration::ZERO);
    }

    #[test]
    fn while_a_cut_is_under_way_nothing_is_given_out_and_what_dies_of_it_is_counted() {
        let mut spool = spool(PAID);
        let dying = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        let waiting = record(&mut spool, ClipKind::Motion, 110, 5, 10).unwrap();
        assert_eq!(take(&mut spool, 120), Some(dying));
        // The gate's generation has advanced, ours has not yet; the aborted transfer is the first to say something.
        assert!(matches!(spool.next(Generation(1), now(120)), Next::Idle));
        spool.settle(dying, Generation(0), End::Stale, now(120));
        assert_eq!(spool.recall(Generation(1)), 1);
        assert_eq!(take(&mut spool, 120), None, "closed until opened, even if nothing was erased");
        spool.admit(admission(PAID));
        assert_eq!((take(&mut spool, 120), take(&mut spool, 120)), (Some(dying), Some(waiting)));
    }

    #[test]
    fn a_change_of_epoch_erases_the_old_owners_clips_even_under_a_better_plan() {
        let mut spool = spool(FREE);
        record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        spool.recall(Generation(1));
        assert_eq!(spool.keep(PAID, Position { epoch: 4, seq: 1 }, now(200)), Erased { clips: 1, bytes: 10 });
    }

    #[test]
    fn what_exceeds_what_may_leave_waits_and_is_not_erased() {
        let mut spool = spool(PAID);
        let long = record(&mut spool, ClipKind::Motion, 100, 30, 10).unwrap();
        assert_eq!(take(&mut spool, 140), Some(long));
        spool.recall(Generation(1));
        spool.admit(Admission { leave: FREE, ..admission(PAID) });
        let short = record(&mut spool, ClipKind::Motion, 500, 5, 10).unwrap();
        assert_eq!(take(&mut spool, 510), Some(short));
        assert_eq!(take(&mut spool, 510), None);
        spool.admit(admission(PAID));
        assert_eq!(take(&mut spool, 510), Some(long));
    }

    #[test]
    fn a_clip_that_was_stored_just_before_the_cut_does_not_come_back() {
        let mut spool = spool(PAID);
        let clip = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        take(&mut spool, 110).unwrap();
        spool.recall(Generation(1));
        spool.admit(admission(PAID));
        spool.settle(clip, Generation(0), End::Stored, now(111));
        assert_eq!(take(&mut spool, 112), None);
        assert_eq!(spool.tally().stored, Erased { clips: 1, bytes: 10 });
    }

    #[test]
    fn a_refused_clip_waits_and_lets_others_pass_until_it_may_ask_again() {
        let mut spool = spool(FREE);
        let refused = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        take(&mut spool, 110).unwrap();
        let until = Duration::from_secs(110 + 900);
        spool.settle(refused, Generation(0), End::Refused { until, status: 402 }, now(110));
        assert_eq!(take(&mut spool, 1009), None);
        assert!(matches!(spool.next(spool.generation, now(120)), Next::At(due) if due == until));
        let later = record(&mut spool, ClipKind::Motion, 500, 5, 10).unwrap();
        assert_eq!(take(&mut spool, 510), Some(later));
        store(&mut spool, later, 511);
        spool.recall(Generation(1));
        spool.admit(admission(FREE));
        assert_eq!(take(&mut spool, 520), None, "a cut alone is no reason to ask again");
        spool.retry_refused();
        assert_eq!(take(&mut spool, 520), Some(refused), "it was there before the one that left");
    }

    #[test]
    fn another_document_is_a_reason_to_ask_again() {
        let mut spool = spool(FREE);
        let refused = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        take(&mut spool, 110).unwrap();
        spool.settle(refused, Generation(0), End::Refused { until: Duration::from_secs(1010), status: 402 }, now(110));
        spool.admit(admission(FREE));
        assert_eq!(take(&mut spool, 120), None);
        spool.admit(Admission { position: Position { seq: 42, ..AT }, ..admission(FREE) });
        assert_eq!(take(&mut spool, 120), Some(refused));
    }

    #[test]
    fn failures_back_off_and_a_cut_cancels_the_wait() {
        let mut spool = spool(PAID);
        let clip = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        for failures in 0..40 {
            spool.pause_until = Duration::ZERO;
            assert_eq!(take(&mut spool, 110), Some(clip));
            spool.settle(clip, Generation(0), End::AllLater { pause: PAUSE }, now(110));
            let wait = spool.pause_until - Duration::from_secs(110);
            assert!(wait <= Duration::from_secs(1 << failures.min(9)).min(PAUSE.longest), "{wait:?} after {failures}");
        }
        spool.pause_until = Duration::from_secs(1000);
        assert_eq!(take(&mut spool, 999), None);
        spool.recall(Generation(1));
        spool.admit(admission(PAID));
        assert_eq!(take(&mut spool, 110), Some(clip));
    }

    #[test]
    fn a_full_spool_drops_the_oldest_of_the_lowest_class_and_counts() {
        let mut spool = spool(PAID);
        let manual = record(&mut spool, ClipKind::Manual, 100, 1, 300).unwrap();
        let motion = record(&mut spool, ClipKind::Motion, 110, 1, 300).unwrap();
        let snapshot = record(&mut spool, ClipKind::Snapshot, 120, 0, 300).unwrap();
        let newest = record(&mut spool, ClipKind::Motion, 130, 1, 300).unwrap();
        let gone = |spool: &Spool| [manual, motion, snapshot, newest].map(|id| !spool.clips.iter().any(|clip| clip.id == id));
        assert_eq!(gone(&spool), [false, false, true, false]);
        record(&mut spool, ClipKind::Motion, 140, 1, 300).unwrap();
        assert_eq!(gone(&spool), [false, true, true, false]);
        assert_eq!(spool.tally().dropped, Erased { clips: 2, bytes: 600 });
        let (_, losses) = spool.sweep();
        assert_eq!(losses.iter().map(|loss| loss.clip.kind).collect::<Vec<_>>(), [ClipKind::Snapshot, ClipKind::Motion]);
    }

    #[test]
    fn the_clip_being_written_stays_unless_nothing_else_can_go() {
        let mut spool = spool(PAID);
        record(&mut spool, ClipKind::Motion, 100, 1, 600).unwrap();
        assert!(record(&mut spool, ClipKind::Snapshot, 110, 0, 600).is_some(), "an older clip gives way to what is being written");
        assert!(take(&mut spool, 120).is_some());
        assert_eq!(record(&mut spool, ClipKind::Motion, 130, 1, 600), None, "a clip in flight does not");
        assert_eq!(record(&mut spool, ClipKind::Motion, 140, 1, 1001), None);
        assert!(spool.held().bytes <= 1000);
    }

    #[test]
    fn a_clip_that_fills_the_spool_ends_there_and_is_kept() {
        let mut spool = spool(PAID);
        record(&mut spool, ClipKind::Motion, 100, 1, 300).unwrap();
        let id = begin(&mut spool, ClipKind::Motion, 110).unwrap();
        let append =
            |spool: &mut Spool, second| spool.append(id, Bytes::from(vec![0; 200]), Duration::from_secs(second), now(110 + second));
        let longest = Verdict::Continue { max: Duration::from_secs(PAID.clip_max_s.into()) };
        assert_eq!((append(&mut spool, 1), append(&mut spool, 2), append(&mut spool, 3)), (longest, longest, longest));
        let here = Verdict::Continue { max: Duration::from_secs(4) };
        assert_eq!((append(&mut spool, 4), spool.limit(id)), (here, here), "the older clip has made room, and there is none for two more");
        spool.finish(id, Duration::from_secs(4), String::new());
        assert_eq!((take(&mut spool, 120), spool.held().bytes), (Some(id), 800));
    }

    #[test]
    fn clips_are_erased_by_age_and_a_corrected_clock_ages_none() {
        let mut spool = spool(FREE);
        record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
        let corrected = Now { trusted: now(200).trusted + Duration::from_secs(400 * 86_400), ..now(200) };
        assert_eq!(spool.expire(corrected), Erased::default());
        assert!(
            matches!(spool.next(spool.generation, corrected), Next::Take(job) if job.facts.started_ms == (corrected.trusted.as_secs() - 100) * 1000)
        );
        spool.recall(Generation(1));
        assert_eq!(spool.expire(now(100 + 12 * 3600)), Erased::default());
        assert_eq!(spool.expire(now(101 + 12 * 3600)), Erased { clips: 1, bytes: 10 });
        assert_eq!(spool.tally().erased, Erased { clips: 1, bytes: 10 });
    }

    #[test]
    fn a_clip_that_is_not_finished_or_too_long_is_gone() {
        let mut spool = spool(FREE);
        let id = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        spool.append(id, Bytes::from_static(b"abc"), Duration::from_secs(1), now(101));
        spool.abandon(id);
        assert_eq!(spool.held(), Erased::default());
        record(&mut spool, ClipKind::Motion, 200, 13, 10);
        assert_eq!(spool.held(), Erased::default());
        assert_eq!(take(&mut spool, 300), None);
    }
}
