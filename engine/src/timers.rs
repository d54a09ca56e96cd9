//! Timers: a `next` that is due, a lease that ends, a confirmation that expires, a question to ask again. Called with every
//! event and on each tick; [`Engine::wake_at`] says when the next one is due.

use std::{ops::ControlFlow, time::Duration};

use care_protocol::{Cause, Get, Mode, Next, Report};

use super::{
    Arrival, CutUnderWay, Effect, Engine, FIRST_KEYSET, FLASH_WAIT, Fetched, HOLD, KEYSET_PAUSE, PERSIST_EVERY, REFUSED_PAUSE,
    REFUSED_RETRY, Refused, Resource, UnknownKey,
};
use crate::trusted_time::Now;

/// What the report says of a deaf connection.
const NOTHING_DELIVERED: &str = "the broker granted the subscription, but neither a copy of the entitlement nor an answer to a get \
                                 came within 10 s; asking over HTTPS every 60 s";

impl Engine {
    /// Does what is due, up to a cut that this begins.
    pub(super) fn run_timers(&mut self, now: Now) -> ControlFlow<CutUnderWay> {
        if let Some((ticket, _)) = self.being_written().filter(|(_, since)| now.boot >= *since + FLASH_WAIT) {
            self.write_failed(ticket, now);
            self.unless_cutting()?;
        }
        if let Some(mut staged) = self.phase.take_staged_if(|staged| staged.document.next_is_due(now)) {
            // It is judged as if it had come now: what it gave until now is never opened.
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
        self.tell_deaf(now);
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
        // A trusted time that has become known may end what only its doubt held up. What a document that is on its way to the
        // disk confirms, it opens itself; what it no longer allows is closed at once.
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
        if now.boot >= self.persisted_at + PERSIST_EVERY {
            self.persist(None, now);
        }
        ControlFlow::Continue(())
    }

    /// The `next` that time will perform. One that gives waits while a higher document is on its way to the disk: that one may
    /// no longer know of it.
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

    /// Says once that the broker delivers nothing, and once that it does again.
    fn tell_deaf(&mut self, now: Now) {
        let deaf = self.standing.misses_something();
        if std::mem::replace(&mut self.told_deaf, deaf) != deaf {
            let undelivered = self.reports.undelivered().cloned();
            let report = undelivered.unwrap_or_else(|| self.applied_report(Cause::Link, None, now));
            let detail = deaf.then(|| Report::detail_of(NOTHING_DELIVERED));
            self.reports.applied(Report { detail, ..report }, &mut self.effects);
        }
    }

    /// Asks over HTTPS for whatever is missing.
    pub(super) fn ask(&mut self, now: Now) {
        if let Some(unknown) = &self.unknown_key {
            if !self.fetching_keyset && now.boot >= self.keyset_due(unknown) && now.boot < unknown.until {
                self.fetch_keyset(now);
            }
        }
        if self.lost && self.keyset_pause_ends().is_some_and(|end| now.boot < end) {
            return;
        }
        if self.standing.poll_is_due(now, self.needs_news()) {
            if self.standing.is_deaf() {
                // It may hear again, and nobody would know.
                self.send_get(now);
            }
            if !self.lost {
                self.effects.push(Effect::Fetch(Resource::Entitlement));
            } else if !self.fetching_keyset {
                self.fetch_keyset(now);
            }
        }
    }

    /// Until when no keyset is fetched again.
    pub(super) fn keyset_pause_ends(&self) -> Option<Duration> {
        self.keyset_fetched.map(|fetched| fetched + KEYSET_PAUSE)
    }

    /// A lost state is set anew from the keyset first, whose resets then count as applied, and from the entitlement only
    /// once that is answered: docs/protocol.md#state-loss.
    pub(super) fn ask_on(&mut self, keyset: &Fetched, now: Now) {
        match keyset {
            Fetched::Found(_) | Fetched::Missing => self.effects.push(Effect::Fetch(Resource::Entitlement)),
            Fetched::Declined | Fetched::Failed => self.standing.polled(keyset, now),
        }
    }

    /// When the keyset may be fetched for this document: once a minute, and on a new camera not before the broker has had time
    /// to send the retained one.
    pub(super) fn keyset_due(&self, unknown: &UnknownKey) -> Duration {
        let first = if self.keyset.is_none() && !self.lost { unknown.until - HOLD + FIRST_KEYSET } else { Duration::ZERO };
        self.keyset_pause_ends().map_or(first, |end| first.max(end))
    }

    pub(super) fn fetch_keyset(&mut self, now: Now) {
        self.keyset_fetched = Some(now.boot);
        self.fetching_keyset = true;
        self.effects.push(Effect::Fetch(Resource::Keyset));
    }

    /// Whether the plan itself is in doubt, beyond what the connection says.
    pub(super) fn needs_news(&self) -> bool {
        self.lost || self.refused.as_ref().is_some_and(|refused| refused.waiting && !refused.confirmed)
    }

    /// 402 or 403 on a grant, of whatever clip: the plan is not what we think: docs/protocol.md#refusals.
    pub(super) fn refused(&mut self, now: Now) {
        if self.refused.as_ref().is_some_and(|refused| refused.waiting) {
            return;
        }
        // Free has nothing that could be held; there the clip alone waits.
        if matches!(self.mode(now), Mode::Paid | Mode::Held) {
            // Whatever was stored meanwhile, another clip may be the one that is refused each time.
            let lately = self.refused.as_ref().filter(|refused| now.boot < refused.retry_at + REFUSED_PAUSE);
            let pause = lately.map_or(REFUSED_RETRY.0, |refused| refused.pause);
            self.refused = Some(Refused { waiting: true, retry_at: now.boot + REFUSED_PAUSE, confirmed: false, pause });
            self.settle(Cause::Refused, now);
        }
        if !self.send_get(now) {
            self.standing.hurry(now);
        }
    }

    pub(super) fn send_get(&mut self, now: Now) -> bool {
        if !self.standing.is_subscribed() {
            return false;
        }
        let get = Get { nonce: (self.settings.nonce)(), epoch: self.ratchet.epoch, seq: self.ratchet.seq };
        // A lost state asks HTTPS at its own pace, whatever comes of this.
        self.standing.asked(&get, self.lost, now);
        self.effects.push(Effect::Get(get));
        true
    }
}
