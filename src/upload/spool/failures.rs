//! What a failed upload means. A fault that may lie in one clip delays that clip alone: it waits longer each time, and
//! the others continue. All clips pause only if the API or the network is unreachable, or if several different clips
//! fail alike.
//!
//! Pauses live in memory: after a restart every clip is tried soon, and its pauses grow again from the first.

use std::time::Duration;

use care_engine::trusted_time::Now;
use uuid::Uuid;

use super::{Spool, clip::Clip};
use crate::backoff::{Delays, Jitter};

/// How often reading a clip's file may fail before the clip is dropped.
const READS: u32 = 3;
/// A clip that fails waits half to all of one second, two, four, up to a quarter of an hour: each pause is longer than
/// the one before.
const CLIP_PAUSE: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(15 * 60), Jitter::Equal);
/// The pause of all clips: full jitter over one second, two, four, up to five minutes, so that a fleet does not
/// reconnect at once.
const ALL_PAUSE: Delays = Delays::new(Duration::from_secs(1), Duration::from_secs(300), Jitter::Full);
/// If this many different clips fail in a row, with none stored in between, the fault lies in the server, and all of
/// them pause.
const SEVERAL: usize = 3;
/// The same where the server itself asks for patience.
const SEVERAL_ASKED: usize = 2;
/// While all pause because the server may be at fault, a clip that was never tried waits no longer than this: it may
/// be stored.
const FRESH: Duration = Duration::from_secs(30);
/// When uploads succeed again, clips that had failed are tried again within this.
const SOON: Duration = Duration::from_secs(2);
/// The longest `Retry-After` that is obeyed.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// The cause of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upload) enum Blame {
    /// The API or the network is unreachable: every clip would fail.
    Away,
    /// The server, or the clip: the next uploads will show which.
    Server,
    /// The clip, as reported by the server.
    Clip,
    /// The grant names a forbidden address.
    Grant,
    /// Its file cannot be read.
    Flash,
}

/// Why a clip was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Trouble {
    pub(in crate::upload) blame: Blame,
    /// What went wrong, with the peer's name and its message.
    pub(in crate::upload) why: String,
    pub(in crate::upload) advice: &'static str,
    /// How long the server has asked us to wait.
    pub(in crate::upload) retry_after: Option<Duration>,
}

/// When clips may be tried again after failures.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Nothing is tried before this.
    pub(super) pause_until: Duration,
    /// Clips that were never tried need not wait longer than this.
    pub(super) fresh_from: Duration,
    /// How often all clips were paused since one was stored.
    stops: u32,
    /// The clips that have failed since one was stored and in which the fault may not lie.
    suspects: Vec<Uuid>,
    /// How often they have.
    in_a_row: u32,
    /// Why nothing can be uploaded: the newest fault and its BOOTTIME.
    pub(super) outage: Option<(Trouble, Duration)>,
}

impl Schedule {
    /// Ends all waiting.
    pub(super) fn clear_pauses(&mut self) {
        (self.pause_until, self.fresh_from) = (Duration::ZERO, Duration::ZERO);
    }

    fn pause_all(&mut self, trouble: &Trouble, now: Now) {
        let asked = trouble.retry_after.map_or(Duration::ZERO, obeyed);
        self.pause_until = now.boot + ALL_PAUSE.after(self.stops).max(asked);
        self.stops += 1;
        let only_suspected = trouble.blame == Blame::Server && trouble.retry_after.is_none();
        self.fresh_from = if only_suspected { self.pause_until.min(now.boot + FRESH) } else { self.pause_until };
    }

    /// API and network have answered: neither is away.
    fn reached(&mut self) {
        self.outage.take_if(|(trouble, _)| trouble.blame == Blame::Away);
    }

    fn note(&mut self, trouble: Trouble, now: Now) {
        self.outage = Some((trouble, now.boot));
    }
}

/// How long the agent waits if the server asks for it, with a tenth of jitter: other cameras got the same answer.
fn obeyed(asked: Duration) -> Duration {
    asked.min(LONGEST_ASKED).mul_f64(1.0 + 0.1 * fastrand::f64())
}

impl Clip {
    /// Records one more failure. Returns when the clip is tried again.
    fn fail(&mut self, trouble: Trouble, now: Now) {
        let own = CLIP_PAUSE.after(self.failures);
        let asked = trouble.retry_after.map_or(Duration::ZERO, obeyed);
        self.failures += 1;
        self.not_before = now.boot + own.max(asked);
        self.trouble = Some(trouble);
    }
}

impl Spool {
    pub(super) fn failed(&mut self, index: usize, trouble: Trouble, now: Now) {
        let clip = &mut self.ledger.clips[index];
        match trouble.blame {
            Blame::Away => {
                self.schedule.pause_all(&trouble, now);
                self.schedule.note(trouble, now);
                return;
            }
            Blame::Flash => {
                clip.unreadable += 1;
                if clip.unreadable >= READS {
                    self.ledger.drop_clip(index, now);
                    return;
                }
            }
            Blame::Clip => {
                clip.singled_out = true;
                let id = clip.id;
                self.schedule.suspects.retain(|suspect| *suspect != id);
                self.schedule.reached();
            }
            Blame::Server if !clip.singled_out => {
                let schedule = &mut self.schedule;
                if !schedule.suspects.contains(&clip.id) {
                    schedule.suspects.push(clip.id);
                }
                schedule.in_a_row += 1;
                if schedule.in_a_row > 1 {
                    schedule.note(trouble.clone(), now);
                }
                if schedule.suspects.len() >= if trouble.retry_after.is_some() { SEVERAL_ASKED } else { SEVERAL } {
                    schedule.pause_all(&trouble, now);
                }
            }
            Blame::Server => {}
            Blame::Grant => self.schedule.reached(),
        }
        self.ledger.clips[index].fail(trouble, now);
    }

    /// Servers were said to refuse everything, and no clip is left that shows it.
    pub(super) fn nobody_suspected(&self) -> bool {
        let Schedule { suspects, outage, .. } = &self.schedule;
        let servers = outage.as_ref().is_some_and(|(trouble, _)| trouble.blame == Blame::Server);
        servers && !self.ledger.clips.iter().any(|clip| suspects.contains(&clip.id))
    }

    /// A clip was stored. A clip that has failed and still waits either is at fault itself or failed with all the
    /// others: trying it again soon shows which.
    pub(super) fn upload_succeeded(&mut self, now: Now) {
        self.schedule = Schedule::default();
        for clip in self.ledger.clips.iter_mut().filter(|clip| clip.failures > 0 && !clip.singled_out && !clip.refused) {
            clip.singled_out = true;
            let asked = clip.trouble.as_ref().is_some_and(|trouble| trouble.retry_after.is_some());
            if !asked {
                clip.trouble = clip.trouble.take().filter(|trouble| trouble.blame != Blame::Server);
                clip.not_before = clip.not_before.min(now.boot + SOON.mul_f64(fastrand::f64()));
            }
        }
    }
}
