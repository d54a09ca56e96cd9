//! Motion as the camera itself sees it: its ONVIF metadata, a stream of XML documents beside the picture. Whoever receives the
//! stream puts documents into a [`MetadataSink`]; a thread of this module reads them, so that no document can delay a frame.
//! How documents come over RTSP is `media::rtsp`'s matter.
//!
//! Several detectors of a camera may see the same motion: it lasts while any of them says so.

mod document;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;

use self::document::{Notice, Told};
use super::{Events, lasting::Motion};
use crate::{
    conditions::{Conditions, Kind},
    media::{MediaError, stop_signal::StopSignal},
};

/// The longest document, bytes.
pub(in crate::media) const LONGEST_DOCUMENT: usize = 64 << 10;
/// How many reports may wait for the thread.
const WAITING: usize = 32;
/// How often the stop signal is checked, and motion that lasts is looked after.
const TICK: Duration = Duration::from_millis(200);
/// So many documents in a row that cannot be read are no accident.
const UNREADABLE: u32 = 5;
/// The most detectors that are remembered to see motion. Another takes the place of the oldest.
const MOST_DETECTORS: usize = 16;

const OTHERWISE: &str = "or set [media] motion to \"built-in\", \"bitstream\" or a motion socket";

/// Why the camera's metadata tells nothing of motion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blind {
    /// The camera describes no such stream.
    NotOffered,
    /// It has none but in this encoding.
    Encoding(String),
    /// It refuses the stream, in these words.
    Refused(String),
    /// It gives no picture while the stream is asked for, in these words.
    Harmful(String),
}

impl Blind {
    /// What is wrong, in one sentence.
    pub fn sentence(&self) -> String {
        match self {
            Self::NotOffered => "the camera offers no ONVIF metadata beside its picture, so it tells nothing of motion".to_owned(),
            Self::Encoding(encoding) => format!("the camera offers its ONVIF metadata as {encoding} alone, and the agent reads plain XML"),
            Self::Refused(words) => format!("the camera does not send its ONVIF metadata: {words}"),
            Self::Harmful(words) => format!("the camera gives no picture while its ONVIF metadata is asked for: {words}"),
        }
    }

    /// What to do about it.
    pub fn advice(&self) -> String {
        let first = match self {
            Self::NotOffered => {
                "Switch metadata (analytics, events) on in the camera's media profile, name the address of a profile that has it"
            }
            Self::Encoding(_) => "Switch the compression of metadata off in the camera's media profile",
            Self::Refused(_) | Self::Harmful(_) => "Let the camera's user read metadata, and end other programs that read it",
        };
        format!("{first}, {OTHERWISE}.")
    }
}

/// What happens to the metadata of a stream.
#[derive(Debug)]
enum Report {
    /// The camera has agreed to send it.
    Begun,
    Document(Bytes),
    Blind(Blind),
    /// No more will come: what lasted is over.
    Over,
}

/// Where the metadata of a stream goes. Clones belong to the same session with the camera.
#[derive(Debug, Clone)]
pub(in crate::media) struct MetadataSink {
    queue: mpsc::SyncSender<Report>,
    events: Events,
    /// The session is over, and takes nothing more.
    over: Arc<Mutex<bool>>,
}

impl MetadataSink {
    fn new(queue: mpsc::SyncSender<Report>, events: Events) -> Self {
        Self { queue, events, over: Arc::default() }
    }

    /// One for another session.
    pub fn of_session(&self) -> Self {
        Self::new(self.queue.clone(), self.events.clone())
    }

    /// The camera has agreed to send it.
    pub fn begun(&self) {
        self.report(Report::Begun);
    }

    /// The camera will not send it.
    pub fn blind(&self, why: Blind) {
        self.report(Report::Blind(why));
    }

    /// The session is over, and what lasted in it.
    pub fn over(&self) {
        // Waits for a document under way, so that none comes after it.
        *self.is_over() = true;
        self.report(Report::Over);
    }

    /// A document. Never waits: where too many wait it is counted instead.
    pub fn document(&self, document: Bytes) {
        let is_over = self.is_over();
        if !*is_over && self.queue.try_send(Report::Document(document)).is_err() {
            self.lost();
        }
    }

    /// A document came that cannot be used.
    pub fn lost(&self) {
        self.events.ignore();
    }

    /// May wait until a few documents have been read.
    fn report(&self, report: Report) {
        // The thread has ended: so has media.
        let _ = self.queue.send(report);
    }

    fn is_over(&self) -> MutexGuard<'_, bool> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the thread.
pub(in crate::media) fn start(
    events: Events,
    conditions: Conditions,
    stop: StopSignal,
) -> Result<(MetadataSink, JoinHandle<()>), MediaError> {
    let (queue, reports) = mpsc::sync_channel(WAITING);
    let sink = MetadataSink::new(queue, events.clone());
    let mut listener = Listener { motion: Motion::new(events), detectors: Vec::new(), unreadable: 0, conditions };
    let run = move || {
        while !stop.is_raised() {
            match reports.recv_timeout(TICK) {
                Ok(report) => listener.take(report, Instant::now()),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            listener.tend(Instant::now());
        }
    };
    let thread = crate::threads::named("media-motion").spawn(run).map_err(MediaError::Thread)?;
    Ok((sink, thread))
}

/// A sink for a trial, and what is reported first: whether the camera sends metadata, once that is known.
pub(in crate::media) fn trial() -> (MetadataSink, impl FnMut() -> Option<Result<(), Blind>>) {
    let (queue, reports) = mpsc::sync_channel(WAITING);
    let outcome = move || {
        reports.try_iter().find_map(|report| match report {
            Report::Begun => Some(Ok(())),
            Report::Blind(why) => Some(Err(why)),
            Report::Document(_) | Report::Over => None,
        })
    };
    (MetadataSink::new(queue, Events::new().0), outcome)
}

/// The state of the thread.
struct Listener {
    motion: Motion,
    /// Those that see motion, the one that has said so first in front.
    detectors: Vec<u64>,
    /// How many documents in a row could not be read.
    unreadable: u32,
    conditions: Conditions,
}

impl Listener {
    fn take(&mut self, report: Report, now: Instant) {
        match report {
            Report::Begun => {
                self.unreadable = 0;
                self.conditions.clear(Kind::MotionBlind);
            }
            Report::Document(document) => self.read(&document, now),
            Report::Blind(why) => {
                self.over();
                self.conditions.raise_advising(Kind::MotionBlind, why.sentence(), why.advice());
            }
            Report::Over => self.over(),
        }
    }

    fn over(&mut self) {
        self.detectors.clear();
        self.motion.end();
    }

    fn read(&mut self, bytes: &[u8], now: Instant) {
        let read = document::read(bytes);
        read.notices.iter().for_each(|notice| self.hear(*notice, now));
        let Some(fault) = read.fault else {
            if self.unreadable >= UNREADABLE {
                self.conditions.clear(Kind::MotionBlind);
            }
            self.unreadable = 0;
            return;
        };
        tracing::debug!(fault, bytes = bytes.len(), "a document of ONVIF metadata cannot be read");
        self.motion.events.ignore();
        self.unreadable = self.unreadable.saturating_add(1);
        if self.unreadable >= UNREADABLE {
            let advice = format!("Correct the metadata in the camera's media profile, {OTHERWISE}.");
            self.conditions.raise_advising(
                Kind::MotionBlind,
                format!("the camera's ONVIF metadata cannot be read: a document {fault}"),
                advice,
            );
        }
    }

    fn hear(&mut self, Notice { detector, told }: Notice, now: Instant) {
        match told {
            Told::Moment => self.motion.moment(),
            Told::Moves if self.detectors.contains(&detector) => self.motion.renew(now),
            Told::Moves => {
                if self.motion.lasts() {
                    self.motion.renew(now);
                } else {
                    self.motion.begin(now);
                }
                if self.detectors.len() == MOST_DETECTORS {
                    self.detectors.remove(0);
                }
                self.detectors.push(detector);
            }
            Told::Still => {
                self.detectors.retain(|other| *other != detector);
                if self.detectors.is_empty() {
                    self.motion.end();
                }
            }
        }
    }

    fn tend(&mut self, now: Instant) {
        self.motion.go_on(now);
        if !self.motion.lasts() {
            // The end of what is over need not be told.
            self.detectors.clear();
        }
    }
}

/// The fuzz target `onvif`: a document, and what follows from it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn metadata_document(input: &[u8]) -> crate::fuzzing::Verdict {
    let read = document::read(input);
    let (events, _queue) = Events::new();
    let mut listener = Listener { motion: Motion::new(events), detectors: Vec::new(), unreadable: 0, conditions: Conditions::default() };
    let now = Instant::now();
    listener.take(Report::Document(Bytes::copy_from_slice(input)), now);
    assert!(listener.detectors.len() <= MOST_DETECTORS && listener.motion.lasts() != listener.detectors.is_empty());
    listener.take(Report::Over, now);
    assert!(!listener.motion.lasts());
    crate::fuzzing::Verdict::of(read.fault.is_none() && !read.notices.is_empty())
}

#[cfg(test)]
mod tests;
