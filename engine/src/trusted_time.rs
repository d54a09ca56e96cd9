//! The rule of trusted time as a value: from readings of the machine's clocks and times sent by the cloud it computes
//! trusted time, T.
//!
//! Only the cloud moves T by more than ten minutes, and only a `Date` over mutual TLS, or a reset signed by a root
//! key, moves it back. No message raises T beyond the end of the certificates of its connection: beyond them every
//! server would look expired, and T could not be corrected any more.

use std::{fmt, time::Duration};

use jiff::Timestamp;

/// How far two clocks may be apart and still agree.
pub const AGREE_WITHIN: Duration = Duration::from_secs(600);
/// If T does not follow a `Date` at once: how long after it a second one counts.
pub const SECOND_ANSWER: Duration = Duration::from_secs(60);
/// A `Date` further than this ahead of T and of the system clock needs a second one.
const DAY: Duration = Duration::from_secs(86_400);
/// The uncertainty of a `Date`: it has no fractions of a second.
const DATE_RESOLUTION: Duration = Duration::from_secs(1);
/// The last second that a certificate can name, 9999-12-31T23:59:59Z: no T is beyond it. It is the bound where a
/// connection has no certificate (plaintext, on loopback only).
pub const LATEST: Duration = Duration::from_secs(253_402_300_799);

/// A reading of trusted time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// CLOCK_BOOTTIME: counts through suspend, never steps.
    pub boot: Duration,
    /// Trusted time T since 1970.
    pub trusted: Duration,
    /// Whether the `Date` of an HTTPS answer agrees with T within ten minutes.
    pub confirmed: bool,
    /// A `Date` that contradicts T, while it waits for a second one.
    pub disputed: Option<Dispute>,
    /// The last correction since boot.
    pub corrected: Option<Correction>,
}

/// A `Date` that T follows only once a second one agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dispute {
    /// Its time, advanced to now.
    pub date: Duration,
    /// When it arrived, on BOOTTIME.
    pub since: Duration,
}

impl Dispute {
    /// When a second answer counts, on BOOTTIME.
    pub fn settles_at(&self) -> Duration {
        self.since + SECOND_ANSWER
    }
}

/// The source of a correction of T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corrector {
    /// The `iat` of a document or keyset.
    Document,
    /// The `Date` of HTTPS answers.
    Date,
    /// A reset signed by a root key.
    Reset,
}

/// A correction of T by more than ten minutes. The first time after a boot, before any `Date` has confirmed T, is no
/// correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Correction {
    /// T before it.
    pub from: Duration,
    /// T after it.
    pub to: Duration,
    /// When, on BOOTTIME.
    pub at: Duration,
    /// Its source.
    pub by: Corrector,
    /// All corrections since boot together, milliseconds.
    pub total_ms: i64,
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = match self.by {
            Corrector::Document => "a signed document's iat",
            Corrector::Date => "the API's Date",
            Corrector::Reset => "a root-signed reset",
        };
        let (direction, span) = if self.to < self.from { ("back", self.from - self.to) } else { ("forward", self.to - self.from) };
        let (from, to, seconds) = (timestamp(self.from), timestamp(self.to), span.as_secs());
        write!(f, "{by} set trusted time {direction} by {seconds} s, from {from} to {to}")
    }
}

/// A time since 1970 as a date in whole seconds; a time beyond the calendar becomes its end.
pub fn timestamp(since_1970: Duration) -> Timestamp {
    i64::try_from(since_1970.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}

/// Readings of the machine's two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readings {
    /// CLOCK_BOOTTIME.
    pub boot: Duration,
    /// The system clock since 1970; zero if it is earlier. It may be wrong by any amount.
    pub system: Duration,
}

/// The `Date` of an answer over HTTPS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardDate {
    /// Its time, since 1970.
    pub date: Duration,
    /// When its request was sent, on BOOTTIME.
    pub sent: Duration,
    /// The earliest end of the certificates of its connection, since 1970; [`LATEST`] without TLS.
    pub valid_until: Duration,
}

/// Trusted time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedTime {
    /// The build time; the true time is not before it.
    build: Duration,
    /// T from verified sources alone, at `at`.
    verified: Duration,
    /// T, at `at`; at most `AGREE_WITHIN` above `verified`.
    trusted: Duration,
    /// BOOTTIME of the two.
    at: Duration,
    /// T after the last `Date` that agreed with it, at `at`.
    dated: Option<Duration>,
    /// The last `Date` has shown that the system clock is ahead: it no longer raises T.
    system_is_ahead: bool,
    disputed: Option<Dispute>,
    corrected: Option<Correction>,
}

impl TrustedTime {
    /// T at `boot`, from the build time and the `persisted` T (both since 1970).
    ///
    /// A persisted T beyond [`LATEST`] was written before T had a bound; no server certificate is valid at such a
    /// time.
    pub fn new(build: Duration, persisted: Option<Duration>, boot: Duration) -> Self {
        let floor = persisted.filter(|t| *t <= LATEST).map_or(build, |t| t.max(build));
        Self { build, verified: floor, trusted: floor, at: boot, dated: None, system_is_ahead: false, disputed: None, corrected: None }
    }

    /// The time at these readings. The system clock raises T only if it is within 10 minutes of the verified time, so
    /// that a clock that runs fast cannot move T away step by step. Once a `Date` has shown it to be ahead, it no
    /// longer raises T.
    pub fn now(&mut self, readings: Readings) -> Now {
        self.run_to(readings.boot);
        let near = readings.system <= self.verified.saturating_add(AGREE_WITHIN) && !self.system_is_ahead;
        if near {
            self.trusted = self.trusted.max(readings.system);
        }
        Now { boot: self.at, trusted: self.trusted, confirmed: self.is_confirmed(), disputed: self.disputed, corrected: self.corrected }
    }

    /// A document that was verified was issued at `iat`, within the bound of its connection: T is not before it.
    pub fn raise(&mut self, iat: Duration, readings: Readings) {
        self.now(readings);
        let (before, confirmed) = (self.trusted, self.is_confirmed());
        self.verify(iat);
        if confirmed {
            self.note(before, Corrector::Document);
        }
    }

    /// A reset signed by a root key sets T.
    pub fn set(&mut self, time: Duration, readings: Readings) {
        self.now(readings);
        let before = self.trusted;
        self.verified = time.max(self.build);
        self.trusted = self.verified;
        self.disputed = None;
        self.note(before, Corrector::Reset);
    }

    /// An answer over HTTPS carries a `Date`.
    ///
    /// The answer was made after its request was sent and before now, so the true time is from `date` to `date` plus
    /// that span: T is moved into that span. A large difference waits for a second answer that agrees: a T more than
    /// ten minutes too high, and a `Date` more than a day beyond both T and the system clock.
    pub fn observe_date(&mut self, heard: HeardDate, readings: Readings) {
        self.now(readings);
        let earliest = heard.date;
        let latest = earliest.saturating_add(self.at.saturating_sub(heard.sent)).saturating_add(DATE_RESOLUTION);
        let day_ahead = |of: Duration| earliest > of.saturating_add(DAY);
        let far = (day_ahead(self.trusted) && day_ahead(readings.system)) || self.trusted > latest.saturating_add(AGREE_WITHIN);
        let second = match self.disputed {
            Some(first) if far && agree(first.date, earliest, latest) => {
                if self.at < first.settles_at() {
                    return;
                }
                true
            }
            _ if far => {
                self.disputed = Some(Dispute { date: earliest, since: self.at });
                return;
            }
            _ => false,
        };
        self.disputed = None;
        self.system_is_ahead = readings.system > latest;
        let (before, confirmed) = (self.trusted, self.is_confirmed());
        // A large correction stops a day before the bound: at the bound itself the server's certificate would expire a
        // second later, and no connection could correct a mistake any more. A right correction continues in steps of a
        // day.
        let bound = if far { heard.valid_until.saturating_sub(DAY) } else { heard.valid_until };
        self.verify(earliest.min(bound));
        if self.trusted > latest {
            self.trusted = latest.max(self.build);
            self.verified = self.verified.min(self.trusted);
        }
        if agree(self.trusted, earliest, latest) {
            self.dated = Some(self.trusted.clamp(earliest, latest));
        }
        if confirmed || second || self.trusted < before {
            self.note(before, Corrector::Date);
        }
    }

    fn is_confirmed(&self) -> bool {
        self.dated.is_some_and(|dated| self.trusted.abs_diff(dated) <= AGREE_WITHIN)
    }

    fn verify(&mut self, time: Duration) {
        self.verified = self.verified.max(time);
        self.trusted = self.trusted.max(self.verified);
    }

    /// Notes a correction, if T has moved by more than ten minutes.
    fn note(&mut self, from: Duration, by: Corrector) {
        let to = self.trusted;
        let moved = from.abs_diff(to);
        if moved <= AGREE_WITHIN {
            return;
        }
        let moved_ms = i64::try_from(moved.as_millis()).unwrap_or(i64::MAX);
        let before_ms = self.corrected.map_or(0, |before| before.total_ms);
        let total_ms = if to < from { before_ms.saturating_sub(moved_ms) } else { before_ms.saturating_add(moved_ms) };
        self.corrected = Some(Correction { from, to, at: self.at, by, total_ms });
    }

    /// Advances to BOOTTIME `boot`. Two threads may read the clock in one order and call this in the other: an older
    /// reading changes nothing.
    fn run_to(&mut self, boot: Duration) {
        let since = boot.saturating_sub(self.at);
        self.at = self.at.max(boot);
        let disputed = self.disputed.as_mut().map(|dispute| &mut dispute.date);
        for time in [&mut self.verified, &mut self.trusted].into_iter().chain(&mut self.dated).chain(disputed) {
            *time = time.saturating_add(since);
        }
    }
}

/// Whether `time` is within ten minutes of the whole span.
fn agree(time: Duration, earliest: Duration, latest: Duration) -> bool {
    time <= earliest.saturating_add(AGREE_WITHIN) && latest <= time.saturating_add(AGREE_WITHIN).saturating_add(DATE_RESOLUTION)
}

#[cfg(test)]
mod tests;
