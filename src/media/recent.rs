//! The newest motion events, for the status page: when they were, what became of them, and the keyframe of that moment, which the
//! browser decodes. In memory only, bounded in number and bytes, and erased with the pre-roll when the camera's owner changes.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use care_protocol::ClipKind;

use super::frame::Frame;

/// How many are kept.
const MOST: usize = 8;
/// How many bytes their pictures may take; the oldest lose theirs first.
const PICTURES: usize = 512 * 1024;

/// An event, or several in a row that shared clips.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MotionEvent {
    /// Counted from the start.
    pub number: u64,
    /// What it was.
    pub kind: ClipKind,
    /// How long ago.
    pub ago: Duration,
    /// What became of it.
    pub became: Became,
    /// Whether there is a picture of it.
    pub pictured: bool,
}

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    /// Its clip is being recorded, or waits for a keyframe.
    Running,
    /// It is in this many clips.
    Recorded(u64),
    /// The plan allowed no clip.
    NotAllowed,
    /// A clip was allowed, and none has it: the condition `events_missed` says why.
    Missed,
    /// A change of plan erased its clip while it was being recorded.
    Erased,
    /// The agent stopped.
    Ended,
}

/// Those events. The recorder adds to them; anyone reads them.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    /// The newest first.
    events: VecDeque<Event>,
    begun: u64,
}

#[derive(Debug)]
struct Event {
    number: u64,
    kind: ClipKind,
    at: Instant,
    became: Became,
    picture: Option<Frame>,
}

impl Recent {
    /// One begins. Returns its number.
    pub fn begin(&self, kind: ClipKind, at: Instant, picture: Option<Frame>) -> u64 {
        let mut held = self.held();
        held.begun += 1;
        let number = held.begun;
        held.events.push_front(Event { number, kind, at, became: Became::Running, picture });
        held.events.truncate(MOST);
        let mut left = PICTURES;
        for event in &mut held.events {
            event.picture.take_if(|picture| picture.bytes() > left);
            left -= event.picture.as_ref().map_or(0, Frame::bytes);
        }
        number
    }

    /// And this became of it.
    pub fn end(&self, number: u64, became: Became) {
        let mut held = self.held();
        held.events.iter_mut().filter(|event| event.number == number).for_each(|event| event.became = became);
    }

    /// Erases all of them.
    pub fn erase(&self) {
        self.held().events.clear();
    }

    pub fn list(&self) -> Vec<MotionEvent> {
        let told = |Event { number, kind, at, became, picture }: &Event| MotionEvent {
            number: *number,
            kind: *kind,
            ago: at.elapsed(),
            became: *became,
            pictured: picture.is_some(),
        };
        self.held().events.iter().map(told).collect()
    }

    pub fn picture(&self, number: u64) -> Option<Frame> {
        self.held().events.iter().find(|event| event.number == number)?.picture.clone()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::media::frame::{Codec, Format};

    fn picture(bytes: usize) -> Option<Frame> {
        let format = Arc::new(Format { codec: Codec::H264, width: 2, height: 2, configuration: Vec::new().into() });
        let data = vec![0; bytes].into();
        Some(Frame { pts: Duration::ZERO, key: true, taken: Instant::now(), data, format, sound: None })
    }

    #[test]
    fn the_newest_are_kept_and_their_pictures_are_bounded_in_bytes() {
        let recent = Recent::default();
        for _ in 0..12 {
            recent.begin(ClipKind::Motion, Instant::now(), picture(PICTURES / 4));
        }
        let list = recent.list();
        assert_eq!(list.iter().map(|event| event.number).collect::<Vec<_>>(), [12, 11, 10, 9, 8, 7, 6, 5]);
        assert_eq!(list.iter().filter(|event| event.pictured).count(), 4);
        assert!(recent.picture(12).is_some() && recent.picture(8).is_none());
        let huge = recent.begin(ClipKind::Motion, Instant::now(), picture(PICTURES + 1));
        assert!(recent.picture(huge).is_none() && recent.picture(12).is_some(), "one that is too large costs no other");
    }

    #[test]
    fn an_event_says_what_became_of_it_until_it_is_erased() {
        let recent = Recent::default();
        let number = recent.begin(ClipKind::Motion, Instant::now(), None);
        assert_eq!(recent.list()[0].became, Became::Running);
        recent.end(number, Became::NotAllowed);
        assert_eq!(recent.list()[0].became, Became::NotAllowed);
        recent.erase();
        recent.end(number, Became::Missed);
        assert_eq!(recent.list(), []);
        assert_eq!(recent.begin(ClipKind::Motion, Instant::now(), None), number + 1, "a number never means another event");
    }
}
