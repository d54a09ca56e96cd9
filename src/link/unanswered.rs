//! Which packet made the broker close the connection. A broker that forbids a SUBSCRIBE or PUBLISH may close instead
//! of answering (AWS IoT Core, NATS): MQTT 3.1.1 has no reason codes for it. It reads in order, so the first packet
//! that it has not answered is the cause.

use std::{
    fmt,
    time::{Duration, Instant},
};

use rumqttc::{Event, Outgoing, Packet};

/// A close later than this after a packet has another cause.
const WITHIN: Duration = Duration::from_secs(5);

/// The packet that a broker rejected by closing the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RejectedPacket {
    /// SUBSCRIBE, to these topics.
    Subscribe(String),
    /// PUBLISH, to this topic.
    Publish(String),
}

impl fmt::Display for RejectedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribe(topics) => write!(f, "SUBSCRIBE to {topics}"),
            Self::Publish(topic) => write!(f, "PUBLISH to {topic}"),
        }
    }
}

/// The first packet of a connection that is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unanswered {
    Subscribe,
    /// Under this packet identifier.
    Publish(u16),
}

/// The packets of one connection that the broker has not answered: SUBSCRIBE and at most eight PUBLISHes.
#[derive(Debug, Default)]
pub(super) struct PendingReplies {
    waiting: Vec<(Unanswered, u16, Instant)>,
    /// Whether it has answered any.
    pub(super) answers: bool,
}

impl PendingReplies {
    /// Records a packet that was sent or has arrived.
    pub(super) fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Outgoing(Outgoing::Subscribe(packet)) => self.waiting.push((Unanswered::Subscribe, *packet, now)),
            Event::Outgoing(Outgoing::Publish(packet)) => self.waiting.push((Unanswered::Publish(*packet), *packet, now)),
            Event::Incoming(Packet::SubAck(suback)) => self.answer(Unanswered::Subscribe, suback.pkid),
            Event::Incoming(Packet::PubAck(puback)) => self.answer(Unanswered::Publish(puback.pkid), puback.pkid),
            _ => {}
        }
    }

    fn answer(&mut self, what: Unanswered, packet: u16) {
        self.answers = true;
        self.waiting.retain(|(waiting, identifier, _)| (*waiting, *identifier) != (what, packet));
    }

    /// The packet that is the cause if the connection closes now.
    pub(super) fn first(&self, now: Instant) -> Option<Unanswered> {
        let (what, _, sent) = self.waiting.first()?;
        (now.saturating_duration_since(*sent) <= WITHIN).then_some(*what)
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::{PubAck, SubAck};

    use super::*;

    #[test]
    fn the_first_that_is_not_answered_is_the_one() {
        let start = Instant::now();
        let mut answered = PendingReplies::default();
        assert_eq!(answered.first(start), None);
        answered.note(&Event::Outgoing(Outgoing::Subscribe(1)), start);
        answered.note(&Event::Outgoing(Outgoing::Publish(2)), start);
        answered.note(&Event::Outgoing(Outgoing::Publish(3)), start);
        assert_eq!(answered.first(start), Some(Unanswered::Subscribe));
        answered.note(&Event::Incoming(Packet::SubAck(SubAck::new(1, Vec::new()))), start);
        assert_eq!(answered.first(start), Some(Unanswered::Publish(2)));
        answered.note(&Event::Incoming(Packet::PubAck(PubAck::new(2))), start);
        assert_eq!(answered.first(start), Some(Unanswered::Publish(3)));
        assert_eq!(answered.first(start + 2 * WITHIN), None, "that long ago it was something else");
        answered.note(&Event::Incoming(Packet::PubAck(PubAck::new(3))), start);
        assert_eq!(answered.first(start), None);
    }
}
