//! The agent's publications: a bounded queue in order, of which at most eight are sent and unacknowledged at a time,
//! so that rumqttc's packet identifiers (1 to 100) do not collide.

use std::collections::{BTreeMap, VecDeque};

/// One publication, QoS 1. Without a ticket it is the link's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) ticket: Option<u64>,
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) retain: bool,
}

/// Publications in flight.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Publication>,
    /// Passed to the wire, without a packet identifier yet; in order.
    submitted: VecDeque<Submitted>,
    /// Sent under a packet identifier.
    sent: BTreeMap<u16, Submitted>,
}

/// A publication in flight, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Submitted {
    ticket: Option<u64>,
    topic: String,
}

impl Outbox {
    /// The largest number in flight.
    pub(super) const OUTSTANDING: usize = 8;
    /// The largest number in the queue.
    pub(super) const QUEUED: usize = 64;

    /// Queues a publication; if there are too many, the oldest is returned and will not be sent.
    pub(super) fn push(&mut self, publication: Publication) -> Option<Publication> {
        self.queue.push_back(publication);
        if self.queue.len() > Self::QUEUED { self.queue.pop_front() } else { None }
    }

    /// Puts back a publication that could not be passed on.
    pub(super) fn put_back(&mut self, publication: Publication) {
        self.queue.push_front(publication);
    }

    /// Puts the link's own publication before all others. It replaces an unsent one of a former connection.
    pub(super) fn push_front(&mut self, publication: Publication) {
        self.queue.retain(|queued| queued.ticket.is_some());
        self.queue.push_front(publication);
    }

    /// The next publication that may be sent now.
    pub(super) fn next(&mut self) -> Option<Publication> {
        if self.outstanding() < Self::OUTSTANDING { self.queue.pop_front() } else { None }
    }

    /// A publication was passed to the wire.
    pub(super) fn submitted(&mut self, ticket: Option<u64>, topic: String) {
        self.submitted.push_back(Submitted { ticket, topic });
    }

    /// The wire sent a PUBLISH under this identifier: the first that was submitted, or one that it repeats.
    pub(super) fn sent(&mut self, packet: u16) {
        if !self.sent.contains_key(&packet)
            && let Some(submitted) = self.submitted.pop_front()
        {
            self.sent.insert(packet, submitted);
        }
    }

    /// The topic of the unacknowledged publication under this identifier.
    pub(super) fn topic(&self, packet: u16) -> Option<&str> {
        self.sent.get(&packet).map(|submitted| submitted.topic.as_str())
    }

    /// The broker acknowledged this identifier; its ticket, if it was an owner's publication.
    pub(super) fn acknowledged(&mut self, packet: u16) -> Option<u64> {
        self.sent.remove(&packet)?.ticket
    }

    /// The session is lost, and with it the publications in flight. The queue stays.
    pub(super) fn forget_outstanding(&mut self) {
        self.submitted.clear();
        self.sent.clear();
    }

    pub(super) fn outstanding(&self) -> usize {
        self.submitted.len() + self.sent.len()
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(ticket: u64) -> Publication {
        Publication { ticket: Some(ticket), topic: "t".into(), payload: vec![], retain: false }
    }

    fn hand_all(outbox: &mut Outbox) -> Vec<u64> {
        std::iter::from_fn(|| {
            let ticket = outbox.next()?.ticket;
            outbox.submitted(ticket, "t".into());
            ticket
        })
        .collect()
    }

    #[test]
    fn at_most_eight_are_outstanding_and_the_rest_follows_in_order() {
        let mut outbox = Outbox::default();
        for ticket in 0..20 {
            assert_eq!(outbox.push(publication(ticket)), None);
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
            assert_eq!(outbox.push(publication(ticket)), None);
        }
        assert_eq!(outbox.push(publication(1000)), Some(publication(0)));
        assert_eq!(outbox.queued(), Outbox::QUEUED);
    }

    #[test]
    fn repeats_keep_their_ticket() {
        let mut outbox = Outbox::default();
        outbox.push(publication(1));
        outbox.push(publication(2));
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
        (0..10).for_each(|ticket| drop(outbox.push(publication(ticket))));
        hand_all(&mut outbox);
        outbox.forget_outstanding();
        assert_eq!(hand_all(&mut outbox), [8, 9]);
    }
}
