//! Events that wait for the end of a cut. A cut may wait for a vendor's uploader for seconds, and the engine judges
//! nothing before it has ended. Repeated events are dropped, and the driver stops reading from the broker while the
//! inbox is full ([`super::Engine::intake`]). The broker keeps unacknowledged messages, so none is lost.

use std::collections::VecDeque;

use super::Event;

/// How many events may wait before the driver stops reading from the broker. Answers to requests from before the cut
/// add to these, one each; the engine sends no requests during a cut.
pub(super) const ROOM: usize = 8;

/// Whether the driver may read more from the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "what is read while the engine is full piles up"]
pub enum Intake {
    /// Read on.
    Ready,
    /// A cut is under way, and the inbox is full: leave the rest at the broker, which keeps unacknowledged messages.
    Full,
}

/// Events in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Inbox(VecDeque<Event>);

impl Inbox {
    /// Keeps an event for later, unless it repeats another.
    pub(super) fn push(&mut self, event: Event) {
        match &event {
            // The engine checks the time at the end of the cut anyway.
            Event::Tick => return,
            Event::Written { ticket } => {
                if let Some(Event::Written { ticket: newest }) = self.0.back_mut() {
                    *newest = (*newest).max(*ticket);
                    return;
                }
            }
            // Only the newest counts.
            Event::Reconfigured { .. } => self.0.retain(|waiting| !matches!(waiting, Event::Reconfigured { .. })),
            // Every transfer is dead: grants refused now were requested before the cut.
            Event::Refused | Event::Stopping if self.0.contains(&event) => return,
            _ => {}
        }
        self.0.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.0.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.len() < ROOM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_repeats_does_not_pile_up() {
        let mut inbox = Inbox::default();
        let free = crate::tests::FREE;
        for ticket in 1..100 {
            inbox.push(Event::Written { ticket });
        }
        for _ in 0..100 {
            for event in [Event::Tick, Event::Refused, Event::Reconfigured { free }, Event::Stopping] {
                inbox.push(event);
            }
        }
        assert!(inbox.len() <= ROOM, "{inbox:?}");
        assert!(inbox.0.contains(&Event::Written { ticket: 99 }), "the newest ticket covers those before: {inbox:?}");
    }

    #[test]
    fn order_is_kept_and_a_full_inbox_says_so() {
        let mut inbox = Inbox::default();
        for ticket in 0..ROOM as u64 {
            assert!(inbox.has_room());
            inbox.push(Event::Published { ticket });
        }
        assert!(!inbox.has_room());
        assert_eq!(inbox.pop(), Some(Event::Published { ticket: 0 }));
        assert!(inbox.has_room());
    }
}
