//! Which reports go out, and when: the newest `applied` one until it is acknowledged, the others within their rate (section 3.5).

use std::{collections::BTreeMap, time::Duration};

use care_protocol::{Cause, Cut, Entitlement, Erased, Outcome, Position, Report};

use super::{Effect, Engine, force::InForce};
use crate::clock::Now;

/// How many reports of one other outcome may go out at once.
const BURST: u32 = 5;
/// How long until one more may.
const REFILL: Duration = Duration::from_secs(60);

/// The reports that are on their way.
#[derive(Debug, Default)]
pub(super) struct Reports {
    tickets: u64,
    /// The report that was in the record at boot: it goes out before any other.
    owed: Option<Sent>,
    applied: Option<Sent>,
    others: BTreeMap<&'static str, Bucket>,
}

#[derive(Debug)]
struct Sent {
    ticket: u64,
    report: Report,
}

#[derive(Debug)]
struct Bucket {
    tokens: u32,
    refilled: Duration,
    waiting: Option<Report>,
}

impl Reports {
    /// Starts with what the record still owes the cloud.
    pub(super) fn restored(owed: Option<Report>) -> Self {
        let mut reports = Self::default();
        reports.owed = owed.map(|report| Sent { ticket: reports.ticket(), report });
        reports
    }

    /// Takes over a new `applied` report.
    pub(super) fn applied(&mut self, report: Report, connected: bool, effects: &mut Vec<Effect>) {
        let sent = Sent { ticket: self.ticket(), report };
        // The topic is retained: what was judged before this must not come after it.
        self.drop_waiting();
        if connected {
            effects.push(sent.effect());
        }
        self.applied = Some(sent);
    }

    /// Takes over a report of another outcome; it goes out now, within its rate, or not at all.
    pub(super) fn other(&mut self, report: Report, now: Duration, connected: bool, effects: &mut Vec<Effect>) {
        if !connected {
            return;
        }
        let bucket = self.others.entry(report.outcome.as_str()).or_insert(Bucket { tokens: BURST, refilled: now, waiting: None });
        bucket.waiting = Some(report);
        self.flush(now, effects);
    }

    /// Sends what had to wait for its rate.
    pub(super) fn flush(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        for bucket in self.others.values_mut() {
            let refills = now.saturating_sub(bucket.refilled).as_secs() / REFILL.as_secs();
            if refills > 0 {
                bucket.tokens = BURST.min(bucket.tokens.saturating_add(u32::try_from(refills).unwrap_or(u32::MAX)));
                bucket.refilled += REFILL * u32::try_from(refills).unwrap_or(u32::MAX);
            }
            if bucket.tokens == BURST {
                bucket.refilled = now;
            }
            if bucket.tokens == 0 {
                continue;
            }
            if let Some(report) = bucket.waiting.take() {
                bucket.tokens -= 1;
                self.tickets += 1;
                effects.push(Sent { ticket: self.tickets, report }.effect());
            }
        }
    }

    /// A connection is up: what is not acknowledged goes out again.
    pub(super) fn connected(&self, effects: &mut Vec<Effect>) {
        effects.extend(self.owed.iter().chain(&self.applied).map(Sent::effect));
    }

    /// A connection is gone: other outcomes are not worth keeping.
    pub(super) fn disconnected(&mut self) {
        self.drop_waiting();
    }

    fn drop_waiting(&mut self) {
        for bucket in self.others.values_mut() {
            bucket.waiting = None;
        }
    }

    /// The broker has it.
    pub(super) fn published(&mut self, ticket: u64) {
        for slot in [&mut self.owed, &mut self.applied] {
            if slot.as_ref().is_some_and(|sent| sent.ticket == ticket) {
                *slot = None;
            }
        }
    }

    /// The report that a crash must not lose.
    pub(super) fn undelivered(&self) -> Option<&Report> {
        self.applied.as_ref().or(self.owed.as_ref()).map(|sent| &sent.report)
    }

    /// When a report that had to wait may go out.
    pub(super) fn wake_at(&self) -> Duration {
        let waiting = self.others.values().filter(|bucket| bucket.waiting.is_some());
        waiting.map(|bucket| bucket.refilled + REFILL).min().unwrap_or(Duration::MAX)
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }
}

impl Sent {
    fn effect(&self) -> Effect {
        Effect::Publish { ticket: self.ticket, report: Box::new(self.report.clone()) }
    }
}

impl Engine {
    /// An `applied` report of what is in force now, without a cut.
    pub(super) fn applied_report(&self, cause: Cause, judged: Option<Position>, now: Now) -> Report {
        self.report_of(self.force.as_ref(), cause, judged, now)
    }

    /// The same as if `document` were in force.
    pub(super) fn report_of(&self, document: Option<&InForce>, cause: Cause, judged: Option<Position>, now: Now) -> Report {
        let entitlement = document.map(|document| &document.document.entitlement);
        let position = entitlement.map_or(Position::NONE, Entitlement::position);
        let reason = document.map(|document| document.reason().as_str()).unwrap_or(if self.lost { "state_lost" } else { "unbound" });
        Report {
            device: self.settings.device.clone(),
            outcome: Outcome::Applied,
            reason: reason.to_owned(),
            cause,
            judged,
            epoch: position.epoch,
            seq: position.seq,
            digest: document.map(|document| document.document.digest),
            plan: document.map(|document| document.plan().clone()),
            mode: self.mode_of(document, now),
            persisted: self.unwritten.is_none(),
            keyset: self.keyset.as_ref().map_or(0, |keyset| keyset.keyset.version),
            cut: Cut::default(),
            erased: Erased::default(),
            at: jiff::Timestamp::from_second(i64::try_from(now.trusted.as_secs()).unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX),
            agent: self.settings.agent.clone(),
        }
    }

    pub(super) fn announce(&mut self, report: Report) {
        self.announced = Some(report.mode);
        self.last_switch = Some(report.clone());
        self.reports.applied(report, self.standing.is_connected(), &mut self.effects);
    }
}
