//! What became of the frames that were to be recorded, and how much of them a power cut would take at this moment. The threads
//! of the card write it without waiting; the status and the conditions read it at any time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use portable_atomic::AtomicU64;

use crate::{
    conditions::{Conditions, Kind},
    media::status::{LostFrames, RecordingStatus},
};

/// How much of the recording a power cut may take (docs/media.md#what-a-power-cut-takes).
pub(crate) const PROMISED: Duration = Duration::from_secs(2);
/// The condition ends when the promise has been kept for this long.
const OVER_AFTER: Duration = Duration::from_secs(60);

/// Why a frame is not on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    NoCard,
    Full,
    ReadOnly,
    Error,
    TooSlow,
    /// Decoding cannot begin with it, and what came before it is not in the file.
    NoKeyframe,
    /// Written, but the card failed to keep it.
    Unsynced,
}

/// Read by the status at any time.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub frames: AtomicU64,
    lost: [AtomicU64; 7],
    pub bytes: AtomicU64,
    pub deleted: AtomicU64,
    slow_syncs: AtomicU64,
    pub failed_syncs: AtomicU64,
    fault: Mutex<Option<String>>,
    risk: Mutex<Risk>,
}

/// When the oldest frame was taken that is not safe from a power cut, by where it is.
#[derive(Debug, Default)]
struct Risk {
    in_memory: Option<Instant>,
    written: Option<Instant>,
    being_synced: Option<Instant>,
    /// The most that would have been lost since the promise was broken, and when that was seen last.
    broken: Option<(Duration, Instant)>,
}

impl Counts {
    pub fn status(&self) -> RecordingStatus {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let lost = |loss: Loss| read(&self.lost[loss as usize]);
        let lost = LostFrames {
            no_card: lost(Loss::NoCard),
            full: lost(Loss::Full),
            read_only: lost(Loss::ReadOnly),
            error: lost(Loss::Error),
            too_slow: lost(Loss::TooSlow),
            no_keyframe: lost(Loss::NoKeyframe),
            unsynced: lost(Loss::Unsynced),
        };
        RecordingStatus {
            frames: read(&self.frames),
            // What could not be synced had been written, and counts there.
            dropped: self.lost.iter().map(read).sum::<u64>() - lost.unsynced,
            lost,
            bytes: read(&self.bytes),
            deleted: read(&self.deleted),
            slow_syncs: read(&self.slow_syncs),
            failed_syncs: read(&self.failed_syncs),
            fault: self.fault().clone(),
        }
    }

    pub fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn lose(&self, loss: Loss, frames: u64) {
        self.lost[loss as usize].fetch_add(frames, Ordering::Relaxed);
    }

    /// What is in memory begins with a frame taken then; `None`: nothing is.
    pub fn wait_in_memory(&self, since: Option<Instant>) {
        self.risk().in_memory = since;
    }

    /// What is in memory will be written from now on, and may be synced as soon as it is.
    pub fn write_begins(&self) {
        let mut risk = self.risk();
        risk.written = risk.written.or(risk.in_memory);
    }

    /// The recording has ended with a fault, which says what is lost.
    pub fn give_up(&self) {
        let mut risk = self.risk();
        (risk.in_memory, risk.written) = (None, None);
    }

    /// All that has been written is being synced from now on.
    pub fn sync_begins(&self) {
        let mut risk = self.risk();
        risk.being_synced = risk.written.take();
    }

    /// That is over.
    pub fn sync_ends(&self) {
        let at_risk = self.risk().being_synced.take().map_or(Duration::ZERO, |since| since.elapsed());
        if at_risk > PROMISED {
            self.slow_syncs.fetch_add(1, Ordering::Relaxed);
            self.broke(at_risk);
        }
    }

    fn broke(&self, at_risk: Duration) {
        let mut risk = self.risk();
        let worst = risk.broken.map_or(at_risk, |(worst, _)| worst.max(at_risk));
        risk.broken = Some((worst, Instant::now()));
    }

    /// Says if a power cut would take more than was promised. Called every second or so by a thread that never waits for the card.
    pub fn tend(&self, conditions: &Conditions) {
        let risk = self.risk();
        let oldest = [risk.in_memory, risk.written, risk.being_synced].into_iter().flatten().min();
        drop(risk);
        if let Some(at_risk) = oldest.map(|oldest| oldest.elapsed()).filter(|at_risk| *at_risk > PROMISED) {
            self.broke(at_risk);
        }
        let mut risk = self.risk();
        if risk.broken.is_some_and(|(_, last)| last.elapsed() >= OVER_AFTER) {
            risk.broken = None;
        }
        let sentence = risk.broken.map(|(worst, _)| format!("a power cut would have taken {:.1} s of the recording", worst.as_secs_f64()));
        drop(risk);
        conditions.set(Kind::CardSlow, sentence);
    }

    fn risk(&self) -> MutexGuard<'_, Risk> {
        self.risk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::tests::named;

    #[test]
    fn what_is_at_risk_for_too_long_is_said_and_counted_until_a_minute_after() {
        let (counts, conditions) = (Counts::default(), Conditions::default());
        let ago = |ms| Instant::now().checked_sub(Duration::from_millis(ms));
        counts.wait_in_memory(ago(1500));
        counts.write_begins();
        counts.wait_in_memory(ago(100));
        counts.sync_begins();
        counts.sync_ends();
        counts.tend(&conditions);
        assert_eq!((named(&conditions, "card_slow"), counts.status().slow_syncs), (None, 0));

        counts.wait_in_memory(ago(3000));
        counts.write_begins();
        counts.wait_in_memory(ago(100));
        counts.tend(&conditions);
        assert!(named(&conditions, "card_slow").unwrap().contains("taken 3.0 s"), "said while it lasts, not only afterwards");
        counts.sync_begins();
        counts.sync_ends();
        assert_eq!(counts.status().slow_syncs, 1);
        counts.tend(&conditions);
        assert!(named(&conditions, "card_slow").is_some());
        let (worst, last) = counts.risk().broken.unwrap();
        counts.risk().broken = Some((worst, last.checked_sub(OVER_AFTER).unwrap()));
        counts.tend(&conditions);
        assert_eq!(named(&conditions, "card_slow"), None);
    }
}
