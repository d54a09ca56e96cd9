//! What this camera compares a document with: its record, the document in force, and both clocks. It cannot know the
//! connection over which the document will arrive, and so not when the server's certificate expires.

use std::{cmp::Ordering, time::Duration};

use care_engine::{
    Record,
    trusted_time::{AGREE_WITHIN, timestamp},
};
use care_protocol::{Digest, Entitlement, Keyset, Position};

use crate::{
    clock::{Clock, system_time},
    config::Config,
};

/// What the camera would do, or the reason code and explanation of its refusal.
pub(super) type Verdict = Result<&'static str, (&'static str, String)>;

/// The camera as it is now.
pub(super) struct Camera {
    record: Option<Record>,
    /// The document in force, and its digest.
    in_force: Option<(Entitlement, Digest)>,
    pub(super) trusted: Duration,
    system: Duration,
}

impl Camera {
    pub(super) fn new(record: Option<Record>, config: &Config) -> Self {
        let in_force = record.as_ref().and_then(|record| in_force(record, config));
        let trusted = Clock::start(record.as_ref().map(|record| Duration::from_secs(record.trusted_s))).now().trusted;
        Self { record, in_force, trusted, system: system_time() }
    }

    /// Both clocks, and where trusted time comes from.
    pub(super) fn clocks(&self) -> String {
        let source = match self.record {
            Some(_) => "on record, or the build time if that is later",
            None => "the build time; there is no record",
        };
        format!("trusted time is {} ({source}), the system clock says {}", timestamp(self.trusted), timestamp(self.system))
    }

    /// The account of this epoch, if the camera knows it.
    pub(super) fn account_of(&self, epoch: u64) -> Option<&str> {
        self.in_force.as_ref().filter(|(held, _)| held.epoch.get() == epoch).map(|(held, _)| held.account.as_str())
    }

    /// Which position a document must have, and how one is ordered that has this position and, if it was verified, digest.
    pub(super) fn order(&self, position: Position, digest: Option<Digest>) -> (String, Verdict) {
        let Some(record) = &self.record else { return ("any: the camera has no record".to_owned(), Ok("applied")) };
        let ratchet = record.ratchet;
        let expected = format!("above {ratchet}");
        let known = digest.is_some() && record.ratchet_digest == digest && position == ratchet;
        if known || self.in_force.as_ref().is_some_and(|(held, known)| Some(*known) == digest && held.position() == position) {
            return (format!("{expected}, or the one it has"), Ok("duplicate"));
        }
        let verdict = match position.cmp(&ratchet) {
            Ordering::Greater => Ok("applied"),
            Ordering::Equal if record.ratchet_digest.is_some() => {
                Err(("conflict", format!("the camera has another document at {ratchet}")))
            }
            _ => Err(("stale", format!("the camera has seen {ratchet}"))),
        };
        (expected, verdict)
    }

    /// How far ahead of trusted time a document was issued, if so far that it depends on the connection.
    pub(super) fn ahead(&self, iat: u64) -> Option<Duration> {
        Duration::from_secs(iat).checked_sub(self.trusted).filter(|ahead| *ahead > AGREE_WITHIN)
    }

    /// What its lease has left: nothing if it is over. And whether the system clock says that it is.
    pub(super) fn lease_left(&self, document: &Entitlement, digest: Digest) -> (Duration, bool) {
        let held = self.record.as_ref().filter(|_| self.in_force.as_ref().is_some_and(|(_, known)| *known == digest));
        let used = match held {
            Some(record) => Duration::from_secs(record.lease_used_s),
            None => self.trusted.saturating_sub(Duration::from_secs(document.iat)),
        };
        let by_age = Duration::from_secs(document.lease.max_age_s).saturating_sub(used);
        let by_date = |now: Duration| Duration::from_secs(document.lease.not_after).saturating_sub(now);
        (by_age.min(by_date(self.trusted)), by_date(self.system).is_zero())
    }
}

fn in_force(record: &Record, config: &Config) -> Option<(Entitlement, Digest)> {
    let token = record.entitlement.as_ref()?;
    let by = record.verified_by.as_ref().or(record.keyset.as_ref())?;
    let keyset = Keyset::verify(by.as_bytes(), &config.trust.root_keys, &config.trust.issuer).ok()?;
    let held = Entitlement::verify(token.as_bytes(), Some(&keyset.keyset), &config.trust.issuer, &config.device.id).ok()?;
    Some((held.entitlement, held.digest))
}
