//! Timers: a `next` that is due, a lease that ends, a confirmation that expires, a poll to repeat. Called with every
//! event and on each tick; [`Engine::wake_at`] returns when the next one is due.

use std::{ops::ControlFlow, time::Duration};

use care_protocol::{Cause, Get, Mode, Next, Report};

use super::{
    Arrival, CutUnderWay, Effect, Engine, FIRST_KEYSET, FLASH_WAIT, Fetched, HOLD, KEYSET_PAUSE, REFUSED_PAUSE, REFUSED_RETRY, Refused,
    Resource, UnknownKey,
};
use crate::trusted_time::Now;

/// The report's text for a deaf connection.
const NOTHING_DELIVERED: &str = "the broker granted the subscription and delivers no entitlement; asking over HTTPS every 60 s";

impl Engine {
    /// Runs the timers that are due, until one begins a cut.
    pub(super) fn run_timers(&mut self, now: Now) -> ControlFlow<CutUnderWay> {
        if let Some((ticket, _)) = self.being_written().filter(|(_, since)| now.boot >= *since + FLASH_WAIT) {
            self.write_failed(ticket, now);
            self.unless_cutting()?;
        }
        if let Some(mut staged) = self.phase.take_staged_if(|staged| staged.document.next_is_due(now)) {
            // It is judged as if received now: the policy that it granted until now is never opened.
            staged.document.next_performed = true;
            self.take_up(staged.document, staged.confirmed_at, Arrival::unasked(None, now), now);
            return self.unless_cutting();
        }
        if self.expected_next().is_some_and(|next| now.trusted.as_secs() >= next.effective_at) {
            self.perform_next(now);
            return self.unless_cutting();
        }
        let lease_ended = self.force.as_ref().is_some_and(|force| force.lease_ended(now));
        if self.lease_over && !lease_ended {
            // Trusted time was set back, and with it the end by date.
            self.lease_over = false;
            if !self.gives_soon() {
                self.settle(Cause::Time, now);
                self.unless_cutting()?;
            }
        }
        if lease_ended && !self.lease_over {
            self.lease_over = true;
            self.settle(Cause::Lease, now);
            self.unless_cutting()?;
            // With its report, which a power cut must not lose.
            self.persist(None, now);
            return ControlFlow::Continue(());
        }
        if self.standing.deafen(now) {
            self.overtake();
            self.settle(Cause::Link, now);
            self.unless_cutting()?;
        }
        self.standing.miss_copies(now);
        self.report_deaf(now);
        if self.standing.expire(now) {
            self.settle(Cause::Link, now);
            self.unless_cutting()?;
        }
        if self.standing.end_silence(now) {
            self.settle(Cause::Link, now);
            self.unless_cutting()?;
        }
        if let Some(refused) = self.refused.as_mut().filter(|refused| refused.waiting && now.boot >= refused.retry_at) {
            refused.waiting = false;
            let cause = if refused.confirmed { Cause::Confirmed } else { Cause::Refused };
            self.effects.push(Effect::RetryRefused);
            self.settle(cause, now);
            return self.unless_cutting();
        }
        // Once trusted time is confirmed, clips held only for that reason may leave. A document that is being written
        // to flash opens by itself later; anything it no longer allows is closed at once.
        if self.gives_soon() && self.admission(now).is_less_than(&self.gate) {
            self.settle(Cause::Lease, now);
            return self.unless_cutting();
        }
        if !self.gives_soon() {
            self.settle(Cause::Confirmed, now);
            self.unless_cutting()?;
        }
        self.give_up_unknown_key(now);
        self.ask(now);
        self.reports.flush(now.boot, &mut self.effects);
        if now.boot >= self.persist_by {
            self.persist(None, now);
        }
        ControlFlow::Continue(())
    }

    /// The pending `next`. One that grants more waits while a higher document is being written to flash, because that
    /// one may no longer contain it.
    pub(super) fn expected_next(&self) -> Option<&Next> {
        let force = self.force.as_ref()?;
        force.pending_next().filter(|next| self.phase.staged().is_none() || next.policy.is_less_than(&force.policy()))
    }

    /// Puts `next` in force. This may begin a cut.
    pub(super) fn perform_next(&mut self, now: Now) {
        let Some(force) = &self.force else { return };
        let before = force.policy();
        let mut after = force.clone();
        after.next_performed = true;
        let takes = after.policy().is_less_than(&before);
        if takes || self.admission_of(Some(&after), now).is_less_than(&self.gate) {
            self.force = Some(after);
            return self.switch(Cause::Next, None, before, Arrival::unasked(None, now), now);
        }
        self.stage(after, Cause::Next, None, now);
        let report = self.report_of(self.newest(), Cause::Next, None, now);
        self.promise(Some(&report), now);
    }

    /// Reports once that the broker does not deliver the entitlement, and once that it does again.
    fn report_deaf(&mut self, now: Now) {
        let deaf = self.standing.document_missing();
        if std::mem::replace(&mut self.told_deaf, deaf) != deaf {
            let undelivered = self.reports.undelivered().cloned();
            let report = undelivered.unwrap_or_else(|| self.applied_report(Cause::Link, None, now));
            let detail = with_deafness(report.detail.as_deref(), deaf);
            self.reports.applied(Report { detail, ..report }, &mut self.effects);
        }
    }

    /// Fetches missing documents over HTTPS.
    pub(super) fn ask(&mut self, now: Now) {
        if let Some(unknown) = &self.unknown_key
            && !self.fetching_keyset
            && now.boot >= self.keyset_due(unknown)
            && now.boot < unknown.until
        {
            self.fetch_keyset(now);
        }
        if self.lost && self.keyset_pause_ends().is_some_and(|end| now.boot < end) {
            return;
        }
        if self.standing.poll_is_due(now, self.needs_news()) {
            if self.standing.is_deaf() || self.standing.hears_only_answers() {
                // The connection may deliver again, or nothing but answers.
                self.send_get(now);
            }
            if !self.lost {
                self.effects.push(Effect::Fetch(Resource::Entitlement));
            } else if !self.fetching_keyset {
                self.fetch_keyset(now);
            }
        }
    }

    /// The time before which no keyset is fetched again.
    pub(super) fn keyset_pause_ends(&self) -> Option<Duration> {
        self.keyset_fetched.map(|fetched| fetched + KEYSET_PAUSE)
    }

    /// A lost state is restored from the keyset first, whose resets then count as applied, and from the entitlement
    /// only after the keyset's answer: docs/protocol.md#state-loss.
    pub(super) fn ask_on(&mut self, keyset: &Fetched, now: Now) {
        match keyset {
            Fetched::Found(_) | Fetched::Missing => self.effects.push(Effect::Fetch(Resource::Entitlement)),
            Fetched::Declined | Fetched::Failed => self.standing.polled(keyset, now),
        }
    }

    /// When the keyset may be fetched for this document: once a minute, and on a new camera not before the broker has
    /// had time to send the retained one.
    pub(super) fn keyset_due(&self, unknown: &UnknownKey) -> Duration {
        let first = if self.keyset.is_none() && !self.lost { unknown.until - HOLD + FIRST_KEYSET } else { Duration::ZERO };
        self.keyset_pause_ends().map_or(first, |end| first.max(end))
    }

    pub(super) fn fetch_keyset(&mut self, now: Now) {
        self.keyset_fetched = Some(now.boot);
        self.fetching_keyset = true;
        self.effects.push(Effect::Fetch(Resource::Keyset));
    }

    /// Whether the plan itself is in doubt, apart from the connection.
    pub(super) fn needs_news(&self) -> bool {
        self.lost || self.refused.as_ref().is_some_and(|refused| refused.waiting && !refused.confirmed)
    }

    /// 402 or 403 on a grant, for any clip: the cloud has another plan: docs/protocol.md#refusals.
    pub(super) fn refused(&mut self, now: Now) {
        if self.refused.as_ref().is_some_and(|refused| refused.waiting) {
            return;
        }
        // Under Free no media can be held; only the clip itself waits.
        if matches!(self.mode(now), Mode::Paid | Mode::Held) {
            // Even if other clips were stored meanwhile, one clip may be refused each time.
            let lately = self.refused.as_ref().filter(|refused| now.boot < refused.retry_at + REFUSED_PAUSE);
            let pause = lately.map_or(REFUSED_RETRY.0, |refused| refused.pause);
            self.refused = Some(Refused { waiting: true, retry_at: now.boot + REFUSED_PAUSE, confirmed: false, pause });
            self.settle(Cause::Refused, now);
        }
        if !self.send_get(now) {
            self.standing.poll_now(now);
        }
    }

    pub(super) fn send_get(&mut self, now: Now) -> bool {
        if !self.standing.is_subscribed() {
            return false;
        }
        let get = Get { nonce: (self.settings.nonce)(), epoch: self.ratchet.epoch, seq: self.ratchet.seq };
        // A lost state polls HTTPS at its own interval, independent of this.
        self.standing.asked(&get, self.lost, now);
        self.effects.push(Effect::Get(get));
        true
    }
}

/// What an undelivered report says by itself, followed by the sentence on the deaf connection while there is one.
fn with_deafness(detail: Option<&str>, deaf: bool) -> Option<String> {
    let own = detail.map(|detail| detail.strip_suffix(NOTHING_DELIVERED).map_or(detail, |own| own.trim_end_matches("; ")));
    let parts = own.into_iter().filter(|own| !own.is_empty()).chain(deaf.then_some(NOTHING_DELIVERED));
    let sentence = parts.collect::<Vec<_>>().join("; ");
    (!sentence.is_empty()).then(|| Report::detail_of(&sentence))
}
