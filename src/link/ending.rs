//! The end of a connection: its cause, the state that must not leak into the next one, and the wait before the next
//! attempt. Each guard here works around a known bug of rumqttc 0.25.1 (R123 = its issue 123).

use std::time::{Duration, Instant};

use rumqttc::{Outgoing, Packet, Request};
use tokio::time::sleep;

use super::{
    Connection, Event, Intent, LinkFault, LinkState, Stage,
    fault::{GIVE_RIGHTS, GIVE_RIGHTS_OR_FIND_A_CLONE, is_closed, is_oversize},
    session::{Serving, Session, wire},
    shared::Inner,
    subscription::filters,
    unanswered::{RejectedPacket, Unanswered},
    wire::WireError,
};
use crate::{
    backoff::{Delays, Jitter},
    conditions::Kind,
};

/// After this many connections in a row that end alike, the cause is not chance.
pub(super) const REJECTED_IN_A_ROW: u32 = 2;
const CLONE: u32 = 3;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum End {
    Stopped,
    Renewed,
    /// The owner has dropped the `Link`.
    Orphaned,
    Closed(LinkFault),
    /// No subscription.
    Refused(LinkFault),
    Oversized(LinkFault),
    Failed(LinkFault),
}

/// What the broker did on a connection before it closed it.
enum Served {
    /// It answered nothing after CONNACK: it may refuse this client, or be a proxy whose broker is away.
    Nothing,
    /// It answered, and closed before the connection counted as stable: so it does when a clone connects.
    Briefly,
    Well,
}

impl End {
    pub(super) fn from_wire(error: &WireError, peer: &str) -> Self {
        let fault = LinkFault::from_wire(error, Stage::Session, peer);
        match error {
            error if is_oversize(error) => Self::Oversized(fault),
            error if is_closed(error) => Self::Closed(fault),
            _ => Self::Failed(fault),
        }
    }
}

impl Session {
    /// Handles the end of a connection. Returns whether the task ends with it.
    pub(super) async fn finish(&mut self, end: End, mut serving: Serving) -> bool {
        self.clear_up(&mut serving).await;
        let stable = serving.stable_at.is_none_or(|at| at <= Instant::now());
        if stable {
            self.backoff.reset();
            self.closed_soon = 0;
        }
        if stable || !matches!(end, End::Oversized(_)) {
            self.oversized = 0;
        }
        if !matches!(end, End::Closed(_)) {
            self.closed_soon = 0;
            self.closed_after = None;
        }
        let connection = Some(self.connection);
        match end {
            End::Stopped | End::Orphaned => return true,
            End::Renewed => {
                self.farewell_owed = true;
                let fault = LinkFault::new(Stage::Session, "reconnecting on request");
                self.shared.lock().lost(&fault, self.backoff.failures());
                self.emit(Event::Lost { connection, fault }).await;
            }
            End::Failed(fault) => {
                self.unreachable(&fault);
                self.fail(connection, fault, None).await;
            }
            // The subscription was refused: the condition is raised with the topics.
            End::Refused(fault) => {
                self.settings.conditions.clear(Kind::BrokerUnreachable);
                self.fail(connection, fault, None).await;
            }
            End::Oversized(fault) => self.oversized(fault).await,
            End::Closed(fault) => match self.rejected_packet(&serving).filter(|_| !self.closes_unasked) {
                Some(packet) => self.closed_after(packet).await,
                None => {
                    let served = match (serving.pending.answers, stable) {
                        (false, _) => Served::Nothing,
                        (true, false) => Served::Briefly,
                        (true, true) => Served::Well,
                    };
                    self.closed(fault, served).await;
                }
            },
        }
        false
    }

    /// A packet was too large. Only a clean session makes the broker discard it.
    async fn oversized(&mut self, fault: LinkFault) {
        self.oversized += 1;
        self.settings.conditions.raise(Kind::BrokerMessageTooLarge, &fault.reason);
        if self.oversized >= 2 {
            self.oversized = 0;
            self.clean_next = true;
            self.defer_until = Some(Instant::now() + self.settings.defer_subscribe);
            self.emit(Event::SubscribeDeferred { for_: self.settings.defer_subscribe }).await;
        }
        self.fail(Some(self.connection), fault, None).await;
    }

    /// The broker closed the connection instead of answering a packet of ours.
    async fn closed_after(&mut self, packet: RejectedPacket) {
        let in_a_row = match self.closed_after.take() {
            Some((last, times)) if last == packet => times + 1,
            _ => 1,
        };
        let (stage, advice) = match packet {
            RejectedPacket::Subscribe(_) => (Stage::Suback, GIVE_RIGHTS),
            RejectedPacket::Publish(_) => (Stage::Session, GIVE_RIGHTS_OR_FIND_A_CLONE),
        };
        let reason = format!("connection to {}: the broker closed it after {packet}", self.peer);
        let fault = LinkFault::new(stage, reason).advising(advice);
        if in_a_row >= REJECTED_IN_A_ROW {
            self.closed_soon = 0;
            let sentence = format!("{} closes the connection after {packet}", self.peer);
            self.settings.conditions.raise_advising(Kind::BrokerRights, sentence, advice);
            self.settings.conditions.clear(Kind::BrokerUnreachable);
        } else {
            self.unreachable(&fault);
        }
        self.closed_after = Some((packet, in_a_row));
        self.fail(Some(self.connection), fault, None).await;
    }

    /// The broker closed the connection for an unknown reason.
    async fn closed(&mut self, mut fault: LinkFault, served: Served) {
        self.closed_after = None;
        match served {
            Served::Nothing => {
                fault.reason.push_str(" right after CONNACK");
                self.closes_unasked = true;
                self.settings.conditions.clear(Kind::BrokerRights);
            }
            Served::Briefly => {
                self.closed_soon += 1;
                if self.closed_soon == CLONE {
                    self.emit(Event::CloneSuspected).await;
                }
            }
            Served::Well => {}
        }
        let mut delay = None;
        if self.closed_soon >= CLONE {
            let clone_backoff = self.settings.clone_backoff;
            delay = Some(Delays::new(clone_backoff, clone_backoff, Jitter::Equal).after(0));
            let soon = self.settings.stable_after.as_secs_f64();
            let sentence = format!(
                "another client seems to use this device's id: {} closed {} connections in a row within {soon} s, though it had answered everything",
                self.peer, self.closed_soon
            );
            self.settings.conditions.raise(Kind::BrokerClone, sentence);
            self.settings.conditions.clear(Kind::BrokerUnreachable);
        } else {
            self.unreachable(&fault);
        }
        self.fail(Some(self.connection), fault, delay).await;
    }

    /// The packet that the broker rejected by closing this connection, if there is one.
    fn rejected_packet(&self, serving: &Serving) -> Option<RejectedPacket> {
        match serving.pending.first(Instant::now())? {
            Unanswered::Subscribe => Some(RejectedPacket::Subscribe(filters(&self.topics).join(", "))),
            Unanswered::Publish(packet) => self.shared.lock().outbox.topic(packet).map(|topic| RejectedPacket::Publish(topic.to_owned())),
        }
    }

    pub(super) fn unreachable(&self, fault: &LinkFault) {
        self.settings.conditions.raise_advising(Kind::BrokerUnreachable, &fault.reason, fault.advice);
    }

    /// Removes state that would otherwise leak into the next connection. The order of the steps matters.
    async fn clear_up(&mut self, serving: &mut Serving) {
        // From here on nothing is passed to the wire.
        self.shared.lock().client = None;
        // Our own timeouts end a connection without the wire's knowledge; after its own errors this finds nothing to
        // do.
        self.wire.clean();
        self.guard = None;
        // A publication that waits for its identifier would block all others for ever (R1056, R1014). It is sent again
        // under a new one, ahead of those that were still in the channel.
        if let Some(mut waiting) = self.wire.state.collision.take() {
            waiting.pkid = 0;
            let pending = &mut self.wire.pending;
            let unsent = |request: &Request| !matches!(request, Request::Publish(publish) if publish.pkid != 0);
            let place = pending.iter().position(unsent).unwrap_or(pending.len());
            pending.insert(place, Request::Publish(waiting));
        }
        // SUBSCRIBE, DISCONNECT and PUBREL belong to the old connection (R664).
        self.wire.pending.retain(|request| matches!(request, Request::Publish(_)));
        // Publications with an identifier were sent before, so the next copy must set DUP (MQTT-3.3.1-1); rumqttc does
        // not set it.
        for request in &mut self.wire.pending {
            if let Request::Publish(publish) = request {
                publish.dup = publish.pkid != 0;
            }
        }
        // Messages read before the end would be yielded after the next CONNACK, where their acknowledgements would hit
        // other messages. One of them may be a cancel.
        let connection = self.connection;
        while let Some(event) = self.wire.state.events.pop_front() {
            serving.pending.note(&event, Instant::now());
            match event {
                rumqttc::Event::Incoming(Packet::Publish(publish)) => drop(self.deliver(publish, connection, false).await),
                rumqttc::Event::Incoming(Packet::PubAck(puback)) => drop(self.published(puback.pkid).await),
                rumqttc::Event::Outgoing(Outgoing::Publish(packet)) => self.shared.lock().outbox.sent(packet),
                _ => {}
            }
        }
    }

    /// Reports a failure and waits before the next attempt, at least `delay`.
    pub(super) async fn fail(&mut self, connection: Option<Connection>, fault: LinkFault, delay: Option<Duration>) {
        let delay = self.backoff.next_delay().max(delay.unwrap_or_default());
        let failures = self.backoff.failures();
        // Operators see the condition; this line serves to count attempts.
        tracing::debug!(stage = %fault.stage, reason = fault.reason, failures, ?delay, "no connection to the broker");
        {
            let mut inner = self.shared.lock();
            inner.lost(&fault, failures);
            inner.status.next_attempt_in = Some(delay);
        }
        self.emit(Event::Lost { connection, fault }).await;
        if self.settings.rebuild_after != 0 && failures.is_multiple_of(self.settings.rebuild_after) {
            (self.client, self.wire) = wire(&self.settings, &self.topics);
            let mut inner = self.shared.lock();
            inner.outbox.forget_outstanding();
            inner.status.rebuilds += 1;
        }
        let wanted = || self.shared.lock().intent != Intent::Run;
        tokio::select! {
            biased;
            () = self.events.closed() => {}
            () = async { while !wanted() { self.shared.changed.notified().await } } => {}
            () = sleep(delay) => {}
        }
    }
}

impl Inner {
    fn lost(&mut self, fault: &LinkFault, failures: u32) {
        self.status.state = LinkState::Down;
        self.status.connection = None;
        self.status.last_fault = Some(fault.clone());
        self.status.failures = failures;
    }
}
