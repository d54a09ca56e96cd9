//! The engine's use of trusted time: it raises trusted time by verified documents, refuses documents dated after the
//! end of certificates, and adjusts the lease after a correction. The arithmetic itself is in [`crate::trusted_time`].

use std::time::Duration;

use care_protocol::{Cause, Keyset, Reject, Report};

use super::{Arrival, Effect, Engine};
use crate::trusted_time::{Now, timestamp};

/// The changes of trusted time by the documents of one event. They apply at once, and an effect passes them to the
/// clock.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Learnt {
    /// A reset signed by a root key has set it.
    set: Option<Duration>,
    /// Trusted time is not before this.
    issued: Duration,
}

impl Learnt {
    /// Whether there is no change for the clock.
    pub(super) fn is_nothing(self) -> bool {
        self.set.is_none() && self.issued.is_zero()
    }

    /// Whether a reset has set the time.
    pub(super) fn is_set(self) -> bool {
        self.set.is_some()
    }

    /// `now` with the changes since it was read.
    pub(super) fn apply(self, now: Now) -> Now {
        Now { trusted: self.set.unwrap_or(now.trusted).max(self.issued), ..now }
    }
}

impl Engine {
    /// Refuses a document that was issued after the end of the certificates of its connection: if it were accepted,
    /// every server would look expired. This also catches milliseconds given as seconds.
    pub(super) fn check_range(&self, iat: u64, arrival: Arrival) -> Result<(), Reject> {
        let valid_until = arrival.valid_until;
        if Duration::from_secs(iat) <= valid_until {
            return Ok(());
        }
        let ends = timestamp(valid_until);
        Err(Reject::OutOfRange(format!(
            "iat is {iat}, the certificates of the connection it came by end at {} ({ends})",
            valid_until.as_secs()
        )))
    }

    /// The same for a keyset, and for the time in its reset for this device: trusted time beyond every certificate
    /// could not be corrected over any connection.
    pub(super) fn check_times(&self, keyset: &Keyset, arrival: Arrival) -> Result<(), Reject> {
        self.check_range(keyset.iat, arrival)?;
        let resets = keyset.resets_for(&self.settings.device).into_iter().filter(|reset| reset.id > self.reset_id);
        match resets.filter_map(|reset| reset.time).find(|time| Duration::from_secs(*time) > arrival.valid_until) {
            Some(time) => Err(Reject::OutOfRange(format!(
                "a reset sets the time to {time}, the certificates of the connection it came by end at {}",
                arrival.valid_until.as_secs()
            ))),
            None => Ok(()),
        }
    }

    /// A new verified document was issued at this time: trusted time is not before it.
    pub(super) fn learn_time(&mut self, issued: Duration, now: Now) -> Now {
        self.effects.push(Effect::RaiseTime(issued));
        self.learnt.issued = self.learnt.issued.max(issued);
        self.learnt.apply(now)
    }

    /// A reset signed by a root key sets trusted time.
    pub(super) fn set_time(&mut self, time: Duration, now: Now) -> Now {
        self.effects.push(Effect::SetTime(time));
        self.learnt = Learnt { set: Some(time), issued: Duration::ZERO };
        self.learnt.apply(now)
    }

    /// A correction by more than ten minutes is reported once. The part of a lease that counted as used because
    /// trusted time was too high at receipt no longer counts once trusted time is set back.
    pub(super) fn notice_correction(&mut self, now: Now) {
        if now.corrected == self.corrected {
            return;
        }
        let before = self.corrected.map_or(0, |before| before.total_ms);
        self.corrected = now.corrected;
        let Some(correction) = now.corrected else { return };
        let moved_ms = correction.total_ms.saturating_sub(before);
        if moved_ms < 0 {
            let back = Duration::from_millis(moved_ms.unsigned_abs());
            let staged = self.phase.staged_mut().into_iter().map(|staged| &mut staged.document);
            self.force.iter_mut().chain(staged).for_each(|document| document.is_younger_by(back));
        }
        let detail = Report::detail_of(&correction.to_string());
        let report = Report { detail: Some(detail), ..self.applied_report(Cause::Time, None, now) };
        // A correction is not a switch: any change of mode that follows is reported with its own cause.
        self.reports.applied(report, &mut self.effects);
        self.persist(None, now);
    }
}
