//! Events in a row, which share clips: when the last one was, and which of them are in no clip yet.

use std::{collections::VecDeque, time::Instant};

use care_protocol::ClipKind;

use crate::media::motion::Event;

#[derive(Debug)]
pub(super) struct Episode {
    pub kind: ClipKind,
    /// The clips end some time after this.
    pub last: Instant,
    /// When each event was that is in no clip yet, the oldest first.
    waiting: VecDeque<Instant>,
    /// The last clip has all until then.
    until: Option<Instant>,
}

impl Episode {
    pub fn begin(event: Event) -> Self {
        Self { kind: event.kind, last: event.at, waiting: VecDeque::from([event.at]), until: None }
    }

    pub fn add(&mut self, event: Event) {
        self.last = self.last.max(event.at);
        // The recorder may learn of an event when the clip that has it is complete.
        if self.until.is_none_or(|until| event.at > until) {
            self.waiting.push_back(event.at);
        }
    }

    /// The first event that is in no clip yet.
    pub fn first_waiting(&self) -> Option<Instant> {
        self.waiting.front().copied()
    }

    /// A clip has all that happened until then.
    pub fn covered(&mut self, until: Instant) {
        self.until = Some(until);
        self.waiting.retain(|at| *at > until);
    }

    /// The clip begins here: how many events came before it and are in no clip. The clip shows what follows them.
    pub fn begins(&mut self, at: Instant) -> u64 {
        let before = self.waiting.len();
        self.waiting.retain(|event| *event >= at);
        let missed = before - self.waiting.len();
        if missed > 0 {
            self.last = self.last.max(at);
        }
        missed as u64
    }

    /// How many events will be in no clip.
    pub fn give_up(&mut self) -> u64 {
        std::mem::take(&mut self.waiting).len() as u64
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_wait_until_a_clip_has_them_or_none_can() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let event = |s| Event { kind: ClipKind::Motion, at: at(s) };
        let mut episode = Episode::begin(event(1));
        [4, 8, 12].into_iter().for_each(|s| episode.add(event(s)));
        assert_eq!((episode.first_waiting(), episode.last), (Some(at(1)), at(12)));
        assert_eq!(episode.begins(at(1)), 0);
        episode.covered(at(4));
        assert_eq!(episode.first_waiting(), Some(at(8)));
        episode.add(event(3));
        assert_eq!((episode.first_waiting(), episode.last), (Some(at(8)), at(12)), "heard of late, and in the clip");
        assert_eq!((episode.begins(at(20)), episode.last, episode.first_waiting()), (2, at(20), None));
        episode.add(event(21));
        assert_eq!(episode.give_up(), 1);
        assert_eq!(episode.first_waiting(), None);
    }
}
