//! Which clip leaves next, and what a failure means. A fault that may be one clip's own delays that clip alone: it waits
//! longer each time and the others go on, those that have not failed first, the oldest of them before the newer. Only what
//! shows that the API or the network is away, or that several different clips fare the same, stops all of them.
//!
//! Pauses live in memory: after a restart every clip is tried soon, and its pauses grow again from the first.

#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::Bytes;
use care_engine::{Admission, ClipFacts, Generation, trusted_time::Now};
use care_protocol::{ClipKind, Erased, Position};
use jiff::Timestamp;
use uuid::Uuid;

use super::{Clip, LEFT, OnFlash, Spool, State, add, allows, trusted_ms};
use crate::backoff::{Delays, Jitter};

/// How often a clip of an earlier boot asks whether the time is known by now.
const CLOCK_ROUND: Duration = Duration::from_secs(2);
/// How often a clip's file may fail to be read before it is given up.
const READS: u32 = 3;
/// A clip that fails waits half to all of one second, two, four, up to a quarter of an hour: each pause is longer than the
/// one before.
const CLIP_PAUSE: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(15 * 60), Jitter::Equal);
/// When all wait: full jitter over one second, two, four, up to five minutes, so that a fleet does not come back at once.
const ALL_PAUSE: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(300), Jitter::Full);
/// So many different clips that fail in a row, with none stored in between, are the server's fault and stop all of them.
const SEVERAL: usize = 3;
/// The same where the server itself asks for patience.
const SEVERAL_ASKED: usize = 2;
/// While only suspicion stops all, a clip that was never tried waits no longer than this: it may be the one that passes.
const FRESH: Duration = Duration::from_secs(30);
/// When others pass again, clips that have failed with them are tried again within this.
const SOON: Duration = Duration::from_secs(2);
/// The most that a server's `Retry-After` is obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// A clip on its way out.
#[derive(Debug, Clone)]
pub(in crate::upload) struct Job {
    pub(in crate::upload) id: Uuid,
    pub(in crate::upload) generation: Generation,
    pub(in crate::upload) position: Position,
    pub(in crate::upload) facts: ClipFacts,
    pub(in crate::upload) bytes: u64,
    pub(in crate::upload) sha256: String,
    pub(in crate::upload) content: Content,
}

/// Where a transfer finds a clip's bytes.
#[derive(Debug, Clone)]
pub(in crate::upload) enum Content {
    Memory(Vec<Bytes>),
    Flash,
}

/// What there is to do.
#[derive(Debug)]
pub(in crate::upload) enum Next {
    /// This clip may leave; it is marked as leaving.
    Take(Job),
    /// Nothing before this moment of BOOTTIME, unless something changes.
    At(Duration),
    /// Nothing, unless something changes.
    Idle,
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) enum End {
    /// The store has it.
    Stored,
    /// The cloud refused the grant: not before this.
    Refused { until: Duration, status: u16 },
    /// This clip was not stored.
    Failed(Trouble),
    /// Cut.
    Stale,
}

/// What a failure is put down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) enum Blame {
    /// The API or the network is away: no clip would fare better.
    Away,
    /// The server, or the clip: that shows when others are tried.
    Server,
    /// The clip: the server has said so.
    Clip,
    /// The grant leads where it must not.
    Grant,
    /// Its file cannot be read.
    Flash,
}

/// Why a clip was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Trouble {
    pub(in crate::upload) blame: Blame,
    /// What went wrong, with the peer's name and its own words.
    pub(in crate::upload) why: String,
    pub(in crate::upload) advice: &'static str,
    /// How long the server has asked us to wait.
    pub(in crate::upload) retry_after: Option<Duration>,
}

/// What is wrong with uploads at this moment, in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::upload) struct Troubles {
    /// Nothing can be uploaded.
    pub(in crate::upload) failing: Option<Words>,
    /// Some clips cannot, and others can.
    pub(in crate::upload) clip_failing: Option<Words>,
    /// Grants lead where they must not.
    pub(in crate::upload) misled: Option<String>,
}

/// A sentence and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Words {
    pub(in crate::upload) sentence: String,
    pub(in crate::upload) advice: &'static str,
}

/// What is known of the way out.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Nothing is tried before this.
    pub(super) pause_until: Duration,
    /// Clips that were never tried need not wait longer than this.
    pub(super) fresh_from: Duration,
    /// How often all were stopped since one was stored.
    stops: u32,
    /// The clips that have failed since one was stored, and may not be to blame.
    suspects: Vec<Uuid>,
    /// How often they have.
    in_a_row: u32,
    /// Why nothing can be uploaded: the newest trouble and its moment on BOOTTIME.
    outage: Option<(Trouble, Duration)>,
}

impl Leaving {
    /// Ends all waiting.
    pub(super) fn hurry(&mut self) {
        (self.pause_until, self.fresh_from) = (Duration::ZERO, Duration::ZERO);
    }

    fn stop_all(&mut self, trouble: &Trouble, now: Now) {
        let asked = trouble.retry_after.map_or(Duration::ZERO, obeyed);
        self.pause_until = now.boot + ALL_PAUSE.after(self.stops).max(asked);
        self.stops += 1;
        let only_suspected = trouble.blame == Blame::Server && trouble.retry_after.is_none();
        self.fresh_from = if only_suspected { self.pause_until.min(now.boot + FRESH) } else { self.pause_until };
    }

    fn note(&mut self, trouble: Trouble, now: Now) {
        self.outage = Some((trouble, now.boot));
    }
}

/// How long we wait when asked to, a little more than that: whoever else was asked comes back then, too.
fn obeyed(asked: Duration) -> Duration {
    asked.min(LONGEST_ASKED).mul_f64(1.0 + 0.1 * fastrand::f64())
}

impl Clip {
    /// One more failure: when it is tried again.
    fn fail(&mut self, trouble: Trouble, now: Now) {
        let own = CLIP_PAUSE.after(self.failures);
        let asked = trouble.retry_after.map_or(Duration::ZERO, obeyed);
        self.failures += 1;
        self.not_before = now.boot + own.max(asked);
        self.trouble = Some(trouble);
    }
}

impl Spool {
    /// The next clip to send, of those that may leave now; none while a cut is under way, which `generation`, the gate's,
    /// then runs ahead of ours.
    pub(in crate::upload) fn next(&mut self, generation: Generation, now: Now) -> Next {
        if generation != self.generation {
            return Next::Idle;
        }
        let Admission { leave, position, .. } = self.admission;
        let now_ms = trusted_ms(now.boot, now);
        // The cooldown counts from what left, or is about to, before a clip: one that waits for a retry is not overtaken for
        // good by the next.
        let mut passed: Vec<_> = self.left.iter().copied().collect();
        let mut soonest: Option<Duration> = None;
        let mut due_now: Option<usize> = None;
        for (index, clip) in self.clips.iter().enumerate().filter(|(_, clip)| clip.state == State::Waiting) {
            if !allows(leave, position.epoch, now_ms, &passed, clip, now) {
                continue;
            }
            if clip.started.is_earlier() && !now.confirmed {
                // How long the camera was off is not known: the clip may be older than the plan keeps.
                let again = now.boot + CLOCK_ROUND;
                soonest = Some(soonest.map_or(again, |other| other.min(again)));
                continue;
            }
            if clip.kind != ClipKind::Snapshot {
                passed.push((clip.started, clip.duration));
            }
            let fresh = clip.failures == 0;
            let due = clip.not_before.max(if fresh { self.leaving.fresh_from } else { self.leaving.pause_until });
            if due > now.boot {
                soonest = Some(soonest.map_or(due, |other| other.min(due)));
            } else if fresh {
                due_now = Some(index);
                break;
            } else if due_now.is_none() {
                due_now = Some(index);
            }
        }
        let Some(index) = due_now else { return soonest.map_or(Next::Idle, Next::At) };
        let clip = &mut self.clips[index];
        clip.state = State::Leaving(self.generation);
        Next::Take(Job {
            id: clip.id,
            generation: self.generation,
            position,
            facts: clip.facts(now),
            bytes: clip.bytes,
            sha256: clip.sha256.clone(),
            content: if clip.flash == OnFlash::Yes && clip.fragments.is_empty() {
                Content::Flash
            } else {
                Content::Memory(clip.fragments.clone())
            },
        })
    }

    /// A transfer that began under `generation` has ended.
    pub(in crate::upload) fn settle(&mut self, id: Uuid, generation: Generation, end: End, now: Now) {
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
                self.left.push_back((clip.started, clip.duration));
                if self.left.len() > LEFT {
                    self.left.pop_front();
                }
            }
            self.flash.condemn(&clip);
            self.doomed.push(clip);
            self.way_is_open(now);
            return;
        }
        let clip = &mut self.clips[index];
        if clip.state != State::Leaving(generation) {
            // The cut that made it stale has counted it and made it wait, or is about to.
            return;
        }
        match end {
            // As above.
            End::Stale | End::Stored => {}
            End::Refused { until, .. } => {
                clip.state = State::Waiting;
                clip.refused = true;
                clip.not_before = until;
            }
            End::Failed(trouble) => {
                clip.state = State::Waiting;
                self.failed(index, trouble, now);
            }
        }
    }

    fn failed(&mut self, index: usize, trouble: Trouble, now: Now) {
        let clip = &mut self.clips[index];
        match trouble.blame {
            Blame::Away => {
                self.leaving.stop_all(&trouble, now);
                self.leaving.note(trouble, now);
                return;
            }
            Blame::Flash => {
                clip.unreadable += 1;
                if clip.unreadable >= READS {
                    self.drop_clip(index, now);
                    return;
                }
            }
            Blame::Clip => clip.singled_out = true,
            Blame::Server if !clip.singled_out => {
                let leaving = &mut self.leaving;
                if !leaving.suspects.contains(&clip.id) {
                    leaving.suspects.push(clip.id);
                }
                leaving.in_a_row += 1;
                if leaving.in_a_row > 1 {
                    leaving.note(trouble.clone(), now);
                }
                if leaving.suspects.len() >= if trouble.retry_after.is_some() { SEVERAL_ASKED } else { SEVERAL } {
                    leaving.stop_all(&trouble, now);
                }
            }
            Blame::Server | Blame::Grant => {}
        }
        clip.fail(trouble, now);
    }

    /// A clip was stored: whoever failed and waits still is either to blame itself, or fared badly with all the others. Which
    /// it is shows when it is tried again, soon.
    fn way_is_open(&mut self, now: Now) {
        self.leaving = Leaving::default();
        for clip in self.clips.iter_mut().filter(|clip| clip.failures > 0 && !clip.singled_out && !clip.refused) {
            clip.singled_out = true;
            let asked = clip.trouble.as_ref().is_some_and(|trouble| trouble.retry_after.is_some());
            if !asked {
                clip.trouble = clip.trouble.take().filter(|trouble| trouble.blame != Blame::Server);
                clip.not_before = clip.not_before.min(now.boot + SOON.mul_f64(fastrand::f64()));
            }
        }
    }

    /// Whether this clip is on its way under this generation: invariant 3, asked before each of its bytes in debug builds.
    pub(in crate::upload) fn may_send(&self, id: Uuid, generation: Generation) -> bool {
        self.clips.iter().any(|clip| clip.id == id && clip.state == State::Leaving(generation))
    }

    /// What is wrong with uploads.
    pub(in crate::upload) fn troubles(&mut self, now: Now) -> Troubles {
        let waiting = self.clips.iter().filter(|clip| clip.state != State::Recording).count();
        if waiting == 0 {
            // Nothing is known of a way that nobody takes.
            self.leaving.outage = None;
        }
        let failing = self.leaving.outage.as_ref().map(|(trouble, at)| Words {
            sentence: format!("{}, at {}; {} wait", trouble.why, moment(*at, now), clips(waiting)),
            advice: trouble.advice,
        });
        let troubled = |grant: bool| {
            let troubled = self.clips.iter().filter_map(move |clip| Some((clip, clip.trouble.as_ref()?)));
            troubled.filter(move |(clip, trouble)| match trouble.blame {
                Blame::Grant => grant,
                Blame::Server => !grant && clip.singled_out,
                Blame::Clip | Blame::Flash => !grant,
                Blame::Away => false,
            })
        };
        let clip_failing = troubled(false).next().map(|(clip, trouble)| {
            let others = match troubled(false).count() - 1 {
                0 => String::new(),
                others => format!("; so do {} more", clips(others)),
            };
            let (tried, again) = (clip.failures, moment(clip.not_before, now));
            let sentence = format!("clip {} fails: {}; tried {tried} times, again at {again}{others}", clip.id, trouble.why);
            Words { sentence, advice: trouble.advice }
        });
        let misled = troubled(true).next_back().map(|(clip, trouble)| format!("{}; clip {} waits", trouble.why, clip.id));
        Troubles { failing, clip_failing, misled }
    }
}

/// A moment of BOOTTIME for people, on trusted time.
fn moment(boot: Duration, now: Now) -> Timestamp {
    let ms = i64::try_from(trusted_ms(boot, now) + u64::try_from(boot.saturating_sub(now.boot).as_millis()).unwrap_or(0));
    let seconds = ms.map_or(i64::MAX, |ms| ms / 1000);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn clips(count: usize) -> String {
    if count == 1 { "1 clip".to_owned() } else { format!("{count} clips") }
}
