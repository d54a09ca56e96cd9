//! What the agent publishes: a bounded queue in order, of which at most eight are with the broker at a time, so that
//! rumqttc's packet identifiers (1 to 100) do not collide.

use std::collections::{BTreeMap, VecDeque};

/// One publication, QoS 1. Without a ticket it is the link's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) ticket: Option<u64>,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
}

/// Publications on their way.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Letter>,
    /// Given to the wire, without a packet identifier yet; in order.
    handed: VecDeque<Handed>,
    /// Sent under a packet identifier.
    sent: BTreeMap<u16, Handed>,
}

/// A letter that is on its way, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Handed {
    ticket: Option<u64>,
    topic: String,
}

impl Outbox {
    /// How many may be with the broker.
    pub(super) const OUTSTANDING: usize = 8;
    /// How many may wait here.
    pub(super) const QUEUED: usize = 64;

    /// Queues a letter; if there are too many, the oldest is given back and will not be sent.
    pub(super) fn push(&mut self, letter: Letter) -> Option<Letter> {
        self.queue.push_back(letter);
        if self.queue.len() > Self::QUEUED { self.queue.pop_front() } else { None }
    }

    /// Puts a letter back that could not be handed on.
    pub(super) fn push_first(&mut self, letter: Letter) {
        self.queue.push_front(letter);
    }

    /// Puts the link's own letter before all others, in place of one of a former connection that was not sent.
    pub(super) fn open_with(&mut self, letter: Letter) {
        self.queue.retain(|queued| queued.ticket.is_some());
        self.queue.push_front(letter);
    }

    /// The next letter that may go to the broker now.
    pub(super) fn next(&mut self) -> Option<Letter> {
        if self.outstanding() < Self::OUTSTANDING { self.queue.pop_front() } else { None }
    }

    /// A letter was given to the wire.
    pub(super) fn handed(&mut self, ticket: Option<u64>, topic: String) {
        self.handed.push_back(Handed { ticket, topic });
    }

    /// The wire sent a PUBLISH under this identifier: the first that was handed, or one that it repeats.
    pub(super) fn sent(&mut self, packet: u16) {
        if !self.sent.contains_key(&packet) {
            if let Some(handed) = self.handed.pop_front() {
                self.sent.insert(packet, handed);
            }
        }
    }

    /// The topic of what was sent under this identifier and is not acknowledged.
    pub(super) fn topic(&self, packet: u16) -> Option<&str> {
        self.sent.get(&packet).map(|handed| handed.topic.as_str())
    }

    /// The broker acknowledged this identifier; its ticket, if it was an owner's letter.
    pub(super) fn acknowledged(&mut self, packet: u16) -> Option<u64> {
        self.sent.remove(&packet)?.ticket
    }

    /// The session is lost, and with it what was with the broker. What is queued stays.
    pub(super) fn forget_outstanding(&mut self) {
        self.handed.clear();
        self.sent.clear();
    }

    pub(super) fn outstanding(&self) -> usize {
        self.handed.len() + self.sent.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(ticket: u64) -> Letter {
        Letter { ticket: Some(ticket), topic: "t".into(), payload: vec![], retain: false }
    }

    fn hand_all(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| {
            let ticket = outbox.next()?.ticket;
            outbox.handed(ticket, "t".into());
            ticket
        })
        .collect()
    }

    #[test]
    fn at_most_eight_are_outstanding_and_the_rest_follows_in_order() {
        let mut outbox = Outbox::default();
        for ticket in 0..20 {
            assert_eq!(outbox.push(letter(ticket)), None);
        }
        assert_eq!(hand_all(&mut outbox), (0..8).collect::<Vec<_>>());
        (1..=8).for_each(|packet| outbox.sent(packet));
        assert_eq!(outbox.acknowledged(2), Some(1));
        assert_eq!(hand_all(&mut outbox), [8]);
        outbox.sent(9);
        assert_eq!(outbox.acknowledged(9), Some(8));
        assert_eq!(outbox.acknowledged(9), None);
        assert_eq!((outbox.outstanding(), outbox.queued()), (7, 11));
    }

    #[test]
    fn the_oldest_gives_way_when_too_many_wait() {
        let mut outbox = Outbox::default();
        for ticket in 0..Outbox::QUEUED as u64 {
            assert_eq!(outbox.push(letter(ticket)), None);
        }
        assert_eq!(outbox.push(letter(1000)), Some(letter(0)));
        assert_eq!(outbox.queued(), Outbox::QUEUED);
    }

    #[test]
    fn repeats_keep_their_ticket() {
        let mut outbox = Outbox::default();
        outbox.push(letter(1));
        outbox.push(letter(2));
        hand_all(&mut outbox);
        outbox.sent(1);
        // The connection is lost and resumed: rumqttc repeats 1, then sends what it had not yet sent.
        outbox.sent(1);
        outbox.sent(2);
        assert_eq!((outbox.acknowledged(1), outbox.acknowledged(2)), (Some(1), Some(2)));
    }

    #[test]
    fn a_lost_session_takes_what_was_outstanding_and_leaves_the_queue() {
        let mut outbox = Outbox::default();
        (0..10).for_each(|ticket| drop(outbox.push(letter(ticket))));
        hand_all(&mut outbox);
        outbox.forget_outstanding();
        assert_eq!(hand_all(&mut outbox), [8, 9]);
    }
}
