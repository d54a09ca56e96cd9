//! The uploads of a simulated camera: clips that wait, leave, fail and sleep, under the gate's generation. A model,
//! not the product's spool: it obeys what the engine tells the gate.

use std::time::Duration;

use care_protocol::{ClipKind, Policy, Position};

use super::{
    super::{Admission, ClipFacts, Judge},
    step::Upload,
};
use crate::trusted_time::Now;

/// Maximum number of clips kept.
const MOST: usize = 6;

#[derive(Default)]
pub(super) struct Uploader {
    pub(super) clips: Vec<Clip>,
    generation: u64,
}

#[derive(Debug)]
pub(super) struct Clip {
    pub(super) kind: ClipKind,
    pub(super) epoch: u64,
    pub(super) started: Duration,
    pub(super) long: Duration,
    pub(super) height: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Leaving(u64),
    /// Failed; retried from this moment on.
    Sleeping(u64, Duration),
}

impl Clip {
    fn facts(&self, now: Now) -> ClipFacts {
        let since_1970 = now.trusted.saturating_sub(now.boot.saturating_sub(self.started));
        let started_ms = u64::try_from(since_1970.as_millis()).unwrap();
        ClipFacts { kind: self.kind, epoch: self.epoch, started_ms, duration: self.long, height: self.height }
    }
}

impl Uploader {
    /// A clip that has just been recorded.
    pub(super) fn record(&mut self, snapshot: bool, seconds: u8, height: u16, open: &Admission, now: Now) {
        let long = if snapshot { Duration::ZERO } else { Duration::from_secs(seconds.into()) };
        let clip = Clip {
            kind: if snapshot { ClipKind::Snapshot } else { ClipKind::Motion },
            epoch: open.position.epoch,
            started: now.boot.saturating_sub(long),
            long,
            height: height.into(),
            state: State::Waiting,
        };
        if open.position != Position::NONE && self.clips.len() < MOST && self.judge(&open.record, open, now).allows(&clip.facts(now)) {
            self.clips.push(clip);
        }
    }

    fn judge(&self, policy: &Policy, open: &Admission, now: Now) -> Judge {
        // The cooldown between clips belongs to the spool, which has its own tests.
        let policy = Policy { cooldown_s: 0, ..*policy };
        Judge::new(policy, open.position.epoch, u64::try_from(now.trusted.as_millis()).unwrap(), None)
    }

    /// Does one thing. Calls `sent` for each clip that sends a byte, with whether it is the clip's first.
    pub(super) fn act(&mut self, what: Upload, open: &Admission, now: Now, mut sent: impl FnMut(&Clip, bool)) {
        let generation = self.generation;
        let mut judge = self.judge(&open.leave, open, now);
        match what {
            Upload::Begin => {
                let next = self.clips.iter_mut().find(|clip| clip.state == State::Waiting && judge.allows(&clip.facts(now)));
                if let Some(clip) = next {
                    clip.state = State::Leaving(generation);
                    sent(clip, true);
                }
            }
            Upload::Send => {
                for clip in &mut self.clips {
                    match clip.state {
                        State::Sleeping(of, until) if now.boot >= until && of == generation => {
                            clip.state = State::Leaving(generation);
                            sent(clip, false);
                        }
                        State::Leaving(of) if of == generation => sent(clip, false),
                        _ => {}
                    }
                }
            }
            Upload::Fail => {
                for clip in self.clips.iter_mut().filter(|clip| clip.state == State::Leaving(generation)) {
                    clip.state = State::Sleeping(generation, now.boot + Duration::from_secs(2));
                }
            }
            Upload::Done => self.clips.retain(|clip| clip.state != State::Leaving(generation)),
        }
    }

    /// Performs a cut: all transfers stop, and clips that `keep` does not allow are deleted.
    pub(super) fn cut(&mut self, keep: Option<(Policy, Position)>, now: Now) {
        self.generation += 1;
        for clip in &mut self.clips {
            clip.state = State::Waiting;
        }
        if let Some((policy, position)) = keep {
            let admission = Admission { position, ..Admission::CLOSED };
            let mut judge = self.judge(&policy, &admission, now);
            self.clips.retain(|clip| judge.allows(&clip.facts(now)));
        }
    }
}
