//! The conditions of uploads. After every change they are derived from the state anew, so a condition ends with the
//! fault itself.

use std::{sync::Mutex, time::Duration};

use care_engine::trusted_time::Now;
use care_protocol::Erased;

use super::{
    Gate, lock,
    spool::{Diagnosis, Dropped},
};
use crate::{
    conditions::{Conditions, Kind},
    path_mtu::PATHS,
};

/// How long a vendor's uploader may be disconnected before a condition is raised: at boot it starts shortly after the
/// agent.
const AWAY: Duration = Duration::from_secs(10);
/// How long after the last loss the condition that clips are being dropped still holds.
const LOSING: Duration = Duration::from_secs(3600);

/// The conditions of uploads.
#[derive(Debug)]
pub(super) struct Faults {
    conditions: Conditions,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Clips lost recently, and the BOOTTIME of the last loss.
    dropped: Option<(Erased, Duration)>,
    /// BOOTTIME since which a vendor's uploader is disconnected.
    away: Option<Duration>,
    /// BOOTTIME of the next attempt that a condition names.
    again: Option<Duration>,
}

impl Faults {
    pub(super) fn new(conditions: Conditions) -> Self {
        Self { conditions, seen: Mutex::default() }
    }

    /// Clips were dropped to make room for newer ones.
    pub(super) fn lost(&self, losses: &[Dropped], now: Now) {
        if losses.is_empty() {
            return;
        }
        let mut seen = lock(&self.seen);
        let (before, _) = seen.dropped.unwrap_or_default();
        let bytes: u64 = losses.iter().map(|loss| loss.bytes).sum();
        let dropped = Erased { clips: before.clips + losses.len() as u32, bytes: before.bytes + bytes };
        seen.dropped = Some((dropped, now.boot));
        drop(seen);
        let Erased { clips, bytes } = dropped;
        let sentence = format!("{clips} clips of {bytes} bytes gave way to newer ones or could not be read");
        self.conditions.raise(Kind::ClipsDropped, sentence);
    }

    /// Raises the conditions that hold now, and clears the others.
    pub(super) fn name(&self, gate: &Gate) {
        let now = gate.clock.now();
        let (troubles, flash) = {
            let mut spool = gate.spool.lock();
            (spool.troubles(now), spool.flash_use())
        };
        self.set(
            Kind::UploadsFailing,
            troubles.failing.map(|words| Diagnosis { sentence: format!("clips cannot be uploaded: {}", words.sentence), ..words }),
        );
        self.set(Kind::ClipFailing, troubles.clip_failing);
        lock(&self.seen).again = troubles.again;
        self.conditions.set(Kind::GrantMisleads, troubles.bad_grant.map(|why| format!("{why}; no byte is sent there")));
        self.set(Kind::ClipsShortened, troubles.shortened);
        self.set(Kind::SpoolFault, flash.fault);
        let budget = flash.over_budget.then(|| {
            let written = flash.written_today;
            format!("{written} bytes were written to flash today, all that [spool] flash_bytes_per_day allows; clips wait in memory")
        });
        self.conditions.set(Kind::FlashBudget, budget);
        let narrow: Vec<_> = PATHS.narrow().iter().map(|(peer, segment)| format!("{peer} ({segment} bytes)")).collect();
        let narrow = (!narrow.is_empty()).then(|| {
            let peers = narrow.join(", ");
            format!("full segments vanish on the way to {peers} without a word; smaller ones get through, and are sent for an hour")
        });
        self.conditions.set(Kind::PathMtu, narrow);
        self.conditions.set(Kind::Pacing, gate.sockets.pace_fault());
        self.name_uploader(gate, now);
        let mut seen = lock(&self.seen);
        if seen.dropped.is_some_and(|(_, at)| now.boot.saturating_sub(at) > LOSING) {
            seen.dropped = None;
            drop(seen);
            self.conditions.clear(Kind::ClipsDropped);
        }
    }

    fn name_uploader(&self, gate: &Gate, now: Now) {
        let Some(uploader) = gate.uploader() else { return };
        if uploader.connected {
            lock(&self.seen).away = None;
            self.conditions.clear(Kind::UploaderAway);
            return;
        }
        let since = *lock(&self.seen).away.get_or_insert(now.boot);
        if now.boot.saturating_sub(since) >= AWAY {
            let why = uploader.fault.map_or_else(String::new, |fault| format!(": {fault}"));
            self.conditions.raise(Kind::UploaderAway, format!("the vendor's uploader is not connected, and nothing is uploaded{why}"));
        }
    }

    /// The BOOTTIME at which [`Faults::name`] has to be called again even if nothing changes.
    pub(super) fn due(&self, now: Now) -> Option<Duration> {
        let seen = lock(&self.seen);
        // Once it is raised, only a connection ends it ([`Gate::uploader_events`]).
        let away = seen.away.map(|since| since + AWAY).filter(|due| *due > now.boot);
        away.into_iter().chain(seen.again).min()
    }

    fn set(&self, kind: Kind, words: Option<Diagnosis>) {
        match words {
            Some(Diagnosis { sentence, advice }) => self.conditions.raise_advising(kind, sentence, advice),
            None => self.conditions.clear(kind),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_uploader_that_stays_away_wakes_nobody() {
        let faults = Faults::new(Conditions::default());
        let at = |boot_s: u64| Now { boot: Duration::from_secs(boot_s), ..Now::default() };
        lock(&faults.seen).away = Some(Duration::from_secs(5));
        assert_eq!([at(5), at(14)].map(|now| faults.due(now)), [Some(Duration::from_secs(15)); 2], "it is named then");
        assert_eq!(faults.due(at(15)), None, "it was named");
        lock(&faults.seen).again = Some(Duration::from_secs(20));
        assert_eq!(faults.due(at(15)), Some(Duration::from_secs(20)));
    }
}
