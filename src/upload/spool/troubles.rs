//! The current faults of uploads, in sentences for people. The conditions contain them ([`crate::upload::faults`]).

use std::time::Duration;

use care_engine::trusted_time::Now;
use jiff::Timestamp;

use super::{
    Spool,
    clip::{Clip, OnFlash, State},
    failures::Blame,
    growth::Shortage,
    start::trusted_ms,
};

/// How long a clip that ended early is spoken of.
const REMEMBERED: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

/// The current faults of uploads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::upload) struct Troubles {
    /// Nothing can be uploaded.
    pub(in crate::upload) failing: Option<Diagnosis>,
    /// Some clips cannot, and others can. Not while nothing can.
    pub(in crate::upload) clip_failing: Option<Diagnosis>,
    /// BOOTTIME of the next attempt that this names: then it is to be said anew.
    pub(in crate::upload) again: Option<Duration>,
    /// Grants name forbidden addresses.
    pub(in crate::upload) bad_grant: Option<String>,
    /// Clips ended early.
    pub(in crate::upload) shortened: Option<Diagnosis>,
}

/// Clips that ended early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shortened {
    pub(super) clips: u32,
    /// Why the last one did.
    pub(super) why: Shortage,
    /// BOOTTIME at which it did.
    pub(super) at: Duration,
}

/// A sentence and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::upload) struct Diagnosis {
    pub(in crate::upload) sentence: String,
    pub(in crate::upload) advice: &'static str,
}

impl Spool {
    /// The current faults of uploads.
    pub(in crate::upload) fn troubles(&mut self, now: Now) -> Troubles {
        let waiting = self.ledger.clips.iter().filter(|clip| clip.state != State::Recording).count();
        if waiting == 0 || self.nobody_suspected() {
            // While nothing is sent, there is no measurement of the path.
            self.schedule.outage = None;
        }
        let begins = |clip: &Clip| clip.state == State::Recording && clip.flash == OnFlash::No;
        if self.ledger.clips.iter().all(|clip| clip.flash == OnFlash::Yes || begins(clip)) {
            // Nothing waits for flash.
            self.flash.fault = None;
        }
        let failing = self.schedule.outage.as_ref().map(|(trouble, at)| Diagnosis {
            sentence: format!("{}, at {}; {} wait", trouble.why, moment(*at, now), clips(waiting)),
            advice: trouble.advice,
        });
        let troubled = |grant: bool| {
            let troubled = self.ledger.clips.iter().filter_map(move |clip| Some((clip, clip.trouble.as_ref()?)));
            troubled.filter(move |(clip, trouble)| match trouble.blame {
                Blame::Grant => grant,
                Blame::Server => !grant && clip.singled_out,
                Blame::Clip | Blame::Flash => !grant,
                Blame::Away => false,
            })
        };
        let singled_out = troubled(false).next().filter(|_| failing.is_none());
        let again = singled_out.map(|(clip, _)| clip.not_before.max(self.schedule.pause_until)).filter(|again| *again > now.boot);
        let clip_failing = singled_out.map(|(clip, trouble)| {
            let others = match troubled(false).count() - 1 {
                0 => String::new(),
                others => format!("; so do {} more", clips(others)),
            };
            // Never before it is tried, though the text has whole seconds.
            let again = again.map_or_else(|| "in its turn".to_owned(), |again| format!("at {}", moment(again + SECOND, now)));
            let tried = clip.failures;
            let sentence = format!("clip {} fails: {}; tried {tried} times, again {again}{others}", clip.id, trouble.why);
            Diagnosis { sentence, advice: trouble.advice }
        });
        let bad_grant = troubled(true).next_back().map(|(clip, trouble)| format!("{}; clip {} waits", trouble.why, clip.id));
        self.shortened = self.shortened.filter(|shortened| now.boot.saturating_sub(shortened.at) <= REMEMBERED);
        let shortened = self.shortened.map(|Shortened { clips: count, why, at }| {
            let (count, memory, Diagnosis { sentence: why, advice }) = (clips(count as usize), self.memory_quota, self.in_words(why));
            let at = moment(at, now);
            let sentence = format!(
                "{count} ended before the event or the plan did: [spool] memory_bytes ({memory}) was full, and {why}; the last at {at}"
            );
            Diagnosis { sentence, advice }
        });
        Troubles { failing, clip_failing, again, bad_grant, shortened }
    }
}

/// Formats a BOOTTIME as a date of trusted time.
fn moment(boot: Duration, now: Now) -> Timestamp {
    let ms = i64::try_from(trusted_ms(boot, now) + u64::try_from(boot.saturating_sub(now.boot).as_millis()).unwrap_or(0));
    let seconds = ms.map_or(i64::MAX, |ms| ms / 1000);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn clips(count: usize) -> String {
    if count == 1 { "1 clip".to_owned() } else { format!("{count} clips") }
}
