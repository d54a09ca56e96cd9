//! Which reports are sent, and when: the newest `applied` one until the broker acknowledges it, the others within
//! their rate (docs/protocol.md#report). The engine sets the content of a report; [`super::Ports::publish`] sends it.

use std::{collections::BTreeMap, time::Duration};

use care_protocol::{Cause, Cut, Entitlement, Erased, Outcome, Position, Reason, Reject, Report};

use super::{Effect, Engine, force::InForce};
use crate::{token_bucket::TokenBucket, trusted_time::Now};

/// How many reports of one other outcome may be sent at once.
const BURST: u32 = 5;
/// The interval until one more may be sent.
const REFILL: Duration = Duration::from_secs(60);

/// The reports that are not delivered yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    tickets: u64,
    /// Whether there is a connection to send them on.
    connected: bool,
    /// The report to send first: the one in the record at boot, or the one that the state was lost.
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
    rate: TokenBucket,
    waiting: Option<Report>,
}

impl Reports {
    /// Starts with the undelivered report of the record.
    pub(super) fn restored(owed: Option<Report>) -> Self {
        let mut reports = Self::default();
        reports.owed = owed.map(|report| Sent { ticket: reports.ticket(), report });
        reports
    }

    /// Queues a new `applied` report.
    pub(super) fn applied(&mut self, report: Report, effects: &mut Vec<Effect>) {
        let sent = Sent { ticket: self.ticket(), report };
        // The topic is retained: an earlier verdict must not be published after this one.
        for bucket in self.others.values_mut() {
            bucket.waiting = None;
        }
        if self.connected {
            effects.push(sent.effect());
        }
        let about_time = sent.report.cause == Cause::Time;
        let older = self.applied.replace(sent);
        // Reports of a lost state or a corrected time are sent even if no connection existed before the next report;
        // and a correction suppresses no other report.
        if let Some(older) = older.filter(|older| about_time || matches!(older.report.cause, Cause::StateLost | Cause::Time)) {
            self.owed.get_or_insert(older);
        }
    }

    /// Queues a report of another outcome. It is sent within its rate, once there is a connection; a newer one of the
    /// same outcome replaces it.
    pub(super) fn other(&mut self, report: Report, now: Duration, effects: &mut Vec<Effect>) {
        let bucket = self.others.entry(report.outcome.as_str()).or_insert(Bucket { rate: TokenBucket::full(BURST, REFILL), waiting: None });
        bucket.waiting = Some(report);
        self.flush(now, effects);
    }

    /// Sends reports that waited for their rate.
    pub(super) fn flush(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        if !self.connected {
            return;
        }
        for bucket in self.others.values_mut() {
            if bucket.rate.ready_at() > now {
                continue;
            }
            if let Some(report) = bucket.waiting.take() {
                bucket.rate.spend(REFILL, now);
                self.tickets += 1;
                effects.push(Sent { ticket: self.tickets, report }.effect());
            }
        }
    }

    /// A connection is up: sends unacknowledged reports again, then those since.
    pub(super) fn connected(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        self.connected = true;
        effects.extend(self.owed.iter().chain(&self.applied).map(Sent::effect));
        self.flush(now, effects);
    }

    /// The connection is lost.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
    }

    /// The broker has acknowledged it. Returns whether no other report needs to survive a crash.
    pub(super) fn published(&mut self, ticket: u64) -> bool {
        let undelivered = self.undelivered().is_some();
        for slot in [&mut self.owed, &mut self.applied] {
            slot.take_if(|sent| sent.ticket == ticket);
        }
        undelivered && self.undelivered().is_none()
    }

    /// The report that must survive a crash.
    pub(super) fn undelivered(&self) -> Option<&Report> {
        self.applied.as_ref().or(self.owed.as_ref()).map(|sent| &sent.report)
    }

    /// When the next waiting report may be sent.
    pub(super) fn wake_at(&self) -> Duration {
        if !self.connected {
            return Duration::MAX;
        }
        let waiting = self.others.values().filter(|bucket| bucket.waiting.is_some());
        waiting.map(|bucket| bucket.rate.ready_at()).min().unwrap_or(Duration::MAX)
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
        let reason = document.map(|document| document.reason().as_str()).unwrap_or_else(|| match self.lost {
            true => Reject::StateLost.code(),
            false => Reason::Unbound.as_str(),
        });
        Report {
            device: self.settings.device.clone(),
            outcome: Outcome::Applied,
            reason: reason.to_owned(),
            detail: None,
            cause,
            judged,
            epoch: position.epoch,
            seq: position.seq,
            digest: document.map(|document| document.document.digest),
            plan: document.map(|document| document.plan().clone()),
            mode: self.mode_of(document, now),
            persisted: self.phase.unwritten().is_none(),
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
        self.reports.applied(report, &mut self.effects);
    }
}
