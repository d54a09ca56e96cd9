//! Which clip is uploaded next, and what the end of a transfer means for it. Of those that the plan allows and that have
//! not failed: the newest snapshot, which says most per byte; the next part of a clip that is being filmed or has begun to
//! leave; the oldest clip. Then those that have failed. [`super::failures`] sets how long a failed clip waits.

use std::{cmp::Reverse, collections::BTreeSet, time::Duration};

use bytes::Bytes;
use care_engine::{Admission, ClipFacts, Generation, trusted_time::Now};
use care_protocol::{ClipKind, Position};
use uuid::Uuid;

use super::{
    Spool,
    clip::{Clip, OnFlash, Part, Passed, State, allows},
    failures::Trouble,
    growth::Head,
    start::{Start, trusted_ms},
};

/// How often a clip of an earlier boot checks whether the time is known by now.
const CLOCK_ROUND: Duration = Duration::from_secs(2);
/// How long a clip that outgrew memory waits for its file to be complete, or for the next piece that is read of it: so that a
/// power cut does not lose it, and it is a progressive file. A flash that hangs keeps no clip from leaving.
const COMPLETION: Duration = Duration::from_secs(15);
/// How often it is looked at meanwhile.
const COMPLETION_ROUND: Duration = Duration::from_secs(2);

/// A clip in flight.
#[derive(Debug, Clone)]
pub(in crate::upload) struct Job {
    /// Names its file.
    pub(in crate::upload) id: Uuid,
    /// The clip that it is, or is part of.
    pub(in crate::upload) clip: Uuid,
    pub(in crate::upload) part: Option<Part>,
    pub(in crate::upload) generation: Generation,
    pub(in crate::upload) position: Position,
    pub(in crate::upload) facts: ClipFacts,
    /// The length of what is sent.
    pub(in crate::upload) length: Duration,
    pub(in crate::upload) bytes: u64,
    pub(in crate::upload) sha256: String,
    pub(in crate::upload) content: Content,
}

/// Where a transfer reads a clip's bytes: a header in memory, if it has one there, then those in its file, if there are any,
/// then those in memory.
#[derive(Debug, Clone)]
pub(in crate::upload) struct Content {
    pub(in crate::upload) header: Bytes,
    pub(in crate::upload) flash: Option<Head>,
    pub(in crate::upload) memory: Vec<Bytes>,
}

/// The next thing to do.
#[derive(Debug)]
pub(in crate::upload) enum Next {
    /// This clip may leave; it is marked as in flight.
    Take(Box<Job>),
    /// Nothing before this moment of BOOTTIME, unless something changes.
    At(Duration),
    /// Nothing, unless something changes.
    Idle,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) enum Outcome {
    /// It is stored.
    Stored,
    /// The cloud refused the grant: not before this.
    Refused { until: Duration, status: u16 },
    /// This clip was not stored.
    Failed(Trouble),
    /// Cut.
    Stale,
}

/// The lowest leaves first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    failed: bool,
    order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Snapshot(Reverse<Start>),
    UnderWay(Start),
    Waiting(Start),
}

impl Spool {
    /// The next clip to send, of those that may leave now. None during a cut: the gate's `generation` is then ahead of
    /// the spool's.
    pub(in crate::upload) fn next(&mut self, generation: Generation, now: Now) -> Next {
        if generation != self.generation {
            return Next::Idle;
        }
        let Admission { leave, position, .. } = self.admission;
        let now_ms = trusted_ms(now.boot, now);
        // The cooldown counts from clips that left, or are about to leave, before this one, so the next clip cannot
        // take the place of one that waits for a retry.
        let mut passed: Vec<_> = self.ledger.uploaded.iter().copied().collect();
        let mut soonest: Option<Duration> = None;
        let mut due_now: Option<(Turn, usize)> = None;
        let recorded = self.ledger.being_recorded();
        let mut seen = BTreeSet::new();
        for (index, clip) in self.ledger.clips.iter().enumerate() {
            // The parts of a clip leave in their order.
            if !seen.insert(clip.clip()) || clip.state != State::Waiting {
                continue;
            }
            if !allows(leave, position.epoch, now_ms, &passed, clip, now) {
                continue;
            }
            if clip.started.is_earlier() && !now.confirmed {
                // It is unknown how long the camera was off: the clip may be older than the plan keeps.
                let again = now.boot + CLOCK_ROUND;
                soonest = Some(soonest.map_or(again, |other| other.min(again)));
                continue;
            }
            if clip.kind != ClipKind::Snapshot {
                passed.push(Passed::of(clip));
            }
            let unfinished = clip.flash == OnFlash::Growing || clip.offered.is_some();
            if unfinished && clip.since.saturating_add(COMPLETION) > now.boot {
                // The flash thread wakes the uploads; this is in case it has nothing to do.
                let again = now.boot + COMPLETION_ROUND;
                soonest = Some(soonest.map_or(again, |other| other.min(again)));
                continue;
            }
            let fresh = clip.failures == 0;
            let due = clip.not_before.max(if fresh { self.schedule.fresh_from } else { self.schedule.pause_until });
            if due > now.boot {
                soonest = Some(soonest.map_or(due, |other| other.min(due)));
                continue;
            }
            let turn = Turn { failed: !fresh, order: order(clip, &recorded) };
            if due_now.is_none_or(|(earlier, _)| turn < earlier) {
                due_now = Some((turn, index));
            }
        }
        let Some((_, index)) = due_now else { return soonest.map_or(Next::Idle, Next::At) };
        let clip = &mut self.ledger.clips[index];
        clip.state = State::InFlight(self.generation);
        // Every attempt to send it has the same bytes.
        clip.offered = None;
        Next::Take(Box::new(Job {
            id: clip.id,
            clip: clip.clip(),
            part: clip.part,
            generation: self.generation,
            position,
            facts: clip.facts(now),
            length: clip.length(),
            bytes: clip.bytes,
            sha256: clip.sha256.clone(),
            content: content(clip),
        }))
    }

    /// A transfer that began under `generation` has ended.
    pub(in crate::upload) fn settle(&mut self, id: Uuid, generation: Generation, end: Outcome, now: Now) {
        let Some(index) = self.ledger.clips.iter().position(|clip| clip.id == id) else {
            if end == Outcome::Stored {
                // The last byte was acknowledged before the cut that erased it.
                self.ledger.tally.stored.clips += 1;
            }
            return;
        };
        if end == Outcome::Stored {
            // It is stored, whatever the current generation.
            self.ledger.stored(index);
            self.upload_succeeded(now);
            return;
        }
        let clip = &mut self.ledger.clips[index];
        if clip.state != State::InFlight(generation) {
            // The cut that made it stale has counted it and set it to wait, or is about to.
            return;
        }
        match end {
            // As above.
            Outcome::Stale | Outcome::Stored => {}
            Outcome::Refused { until, .. } => {
                clip.state = State::Waiting;
                clip.refused = true;
                clip.not_before = until;
            }
            Outcome::Failed(trouble) => {
                clip.state = State::Waiting;
                self.failed(index, trouble, now);
            }
        }
    }

    /// Whether this clip is in flight under this generation: invariant 3, checked before each of its pieces in debug
    /// builds.
    pub(in crate::upload) fn may_send(&self, id: Uuid, generation: Generation) -> bool {
        self.ledger.clips.iter().any(|clip| clip.id == id && clip.state == State::InFlight(generation))
    }

    /// Lets clips whose grant was refused (402, 403) be tried again now.
    pub(in crate::upload) fn retry_refused(&mut self) {
        for clip in self.ledger.clips.iter_mut().filter(|clip| clip.refused) {
            clip.refused = false;
            clip.not_before = Duration::ZERO;
        }
    }
}

fn content(clip: &Clip) -> Content {
    let flash = match clip.flash {
        OnFlash::Yes if clip.fragments.is_empty() => Some(Head { bytes: clip.bytes, sha256: clip.sha256.clone(), tail: clip.tail }),
        OnFlash::Growing | OnFlash::Stuck(_) => Some(clip.head.clone()),
        _ => None,
    };
    Content { header: clip.header.clone(), flash, memory: clip.fragments.clone() }
}

fn order(clip: &Clip, recorded: &BTreeSet<Uuid>) -> Order {
    match clip.part {
        None if clip.kind == ClipKind::Snapshot => Order::Snapshot(Reverse(clip.started)),
        Some(part) if part.index > 0 || recorded.contains(&part.clip) => Order::UnderWay(clip.started),
        _ => Order::Waiting(clip.started),
    }
}
