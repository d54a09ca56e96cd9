//! Which PUBACKs may go out: in order of arrival (`docs/protocol.md#acknowledgement`, MQTT-4.6.0-2), whatever the
//! order in which documents are processed, and only on the connection that delivered them.

use std::collections::VecDeque;

use super::Connection;

/// The right to acknowledge one PUBLISH, only on the connection that delivered it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    connection: Connection,
    order: u64,
}

/// The unacknowledged PUBLISHes of one connection, in order of arrival.
#[derive(Debug)]
pub(super) struct AckWindow {
    connection: Connection,
    /// The order number of the first of `waiting`.
    first: u64,
    waiting: VecDeque<Waiting>,
    ready: VecDeque<u16>,
}

#[derive(Debug)]
struct Waiting {
    packet: u16,
    done: bool,
}

impl AckWindow {
    /// MQTT has this many packet identifiers, so no broker may have more outstanding.
    const MOST: usize = u16::MAX as usize;

    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, first: 0, waiting: VecDeque::new(), ready: VecDeque::new() }
    }

    /// Adds a PUBLISH that arrived; `None` if the broker has more outstanding than it has identifiers for.
    pub(super) fn arrived(&mut self, packet: u16) -> Option<Ack> {
        if self.waiting.len() >= Self::MOST {
            return None;
        }
        self.waiting.push_back(Waiting { packet, done: false });
        Some(Ack { connection: self.connection, order: self.first + self.waiting.len() as u64 - 1 })
    }

    /// Marks this one as processed. An `Ack` of another connection, or a repeated one, has no effect.
    pub(super) fn done(&mut self, ack: Ack) {
        let index = ack.order.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let waiting = index.filter(|_| ack.connection == self.connection).and_then(|index| self.waiting.get_mut(index));
        let Some(waiting) = waiting else { return };
        waiting.done = true;
        while self.waiting.front().is_some_and(|first| first.done) {
            self.ready.extend(self.waiting.pop_front().map(|first| first.packet));
            self.first += 1;
        }
    }

    /// The packet identifier to acknowledge next.
    pub(super) fn ready(&self) -> Option<u16> {
        self.ready.front().copied()
    }

    /// The one that was [`ready`](Self::ready) has been sent.
    pub(super) fn sent(&mut self) {
        self.ready.pop_front();
    }

    /// How many are held back, processed or not.
    pub(super) fn held(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(window: &mut AckWindow) -> Vec<u16> {
        std::iter::from_fn(|| {
            let packet = window.ready();
            window.sent();
            packet
        })
        .collect()
    }

    #[test]
    fn go_out_in_order_of_arrival() {
        let mut window = AckWindow::new(Connection(1));
        let acks: Vec<_> = [7, 3, 9].into_iter().map(|packet| window.arrived(packet).unwrap()).collect();
        window.done(acks[2]);
        window.done(acks[1]);
        assert!(drain(&mut window).is_empty());
        assert_eq!(window.held(), 3);
        window.done(acks[0]);
        assert_eq!(drain(&mut window), [7, 3, 9]);
        let next = window.arrived(7).unwrap();
        window.done(next);
        assert_eq!(drain(&mut window), [7]);
    }

    #[test]
    fn of_another_connection_or_twice_do_nothing() {
        let mut old = AckWindow::new(Connection(1));
        let stale = old.arrived(5).unwrap();
        let mut window = AckWindow::new(Connection(2));
        let ack = window.arrived(5).unwrap();
        window.done(stale);
        assert!(drain(&mut window).is_empty());
        window.done(ack);
        window.done(ack);
        assert_eq!(drain(&mut window), [5]);
    }

    #[test]
    fn are_bounded() {
        let mut window = AckWindow::new(Connection(1));
        for packet in 1..=u16::MAX {
            assert!(window.arrived(packet).is_some());
        }
        assert!(window.arrived(1).is_none());
    }
}
