//! Reads ONVIF metadata documents (ONVIF Streaming Specification, *Metadata Streaming*; Core Specification, *Event Handling*): which
//! of a document's messages tell of motion, and what they tell. Prefixes are the camera's to choose, so only local names count.
//! Pure; the fuzz target `onvif` feeds it. Called by the detector's thread.

use std::hash::{DefaultHasher, Hash, Hasher};

use quick_xml::{
    XmlVersion,
    events::{BytesStart, Event},
    reader::Reader,
};

/// Elements within elements. Cameras send seven; analytics of objects a few more.
const MOST_DEPTH: usize = 64;
/// The most messages that are read of one document. Further ones are passed over.
const MOST_NOTICES: usize = 64;
/// No topic of motion is longer, bytes.
const LONGEST_TOPIC: usize = 256;

/// Besides topics with `motion` in a word: detectors of moving things, by a word of their topic.
const DETECTORS: [&str; 7] = [
    "FieldDetector",
    "LineDetector",
    "PeopleDetector",
    // TP-Link's cars, people and pets.
    "TPSmartEventDetector",
    // Reolink's, likewise.
    "MyRuleDetector",
    // Axis's applications.
    "VMD",
    "ObjectAnalytics",
];
/// The names of items that say whether it moves, besides those that begin with `Is`: `IsMotion`, `IsInside`, `IsPeople`.
const STATES: [&str; 4] = ["State", "LogicalState", "motion", "active"];

/// A document, as far as it can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Document {
    /// In the order of the document.
    pub notices: Vec<Notice>,
    /// Why it could not be read to its end. It completes the sentence "a document …".
    pub fault: Option<&'static str>,
}

/// A message about motion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Notice {
    /// Of which detector: its topic and source.
    pub detector: u64,
    pub told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Something moves, until the same detector says otherwise.
    Moves,
    Still,
    /// Something moved, and nobody says for how long.
    Moment,
}

/// Reads all there is to read: what is complete counts, whatever follows it.
pub(super) fn read(document: &[u8]) -> Document {
    let mut reader = Reader::from_reader(document);
    // Cameras write names of rules as people typed them.
    reader.config_mut().allow_dangling_amp = true;
    let mut reading = Reading::default();
    let fault = loop {
        match reader.read_event() {
            Ok(Event::Start(_)) if reading.depth == MOST_DEPTH => break Some("has elements within elements without end"),
            Ok(Event::Start(element)) => reading.open(&element),
            Ok(Event::Empty(element)) => reading.element(&element),
            Ok(Event::End(element)) => reading.close(element.local_name().as_ref()),
            Ok(Event::Text(text)) => reading.text(&text),
            Ok(Event::CData(text)) => reading.text(&text),
            Ok(Event::GeneralRef(reference)) => {
                if let Ok(Some(c)) = reference.resolve_char_ref() {
                    reading.text(c.encode_utf8(&mut [0; 4]).as_bytes());
                }
            }
            Ok(Event::Eof) if reading.depth > 0 => break Some("is cut short"),
            Ok(Event::Eof) if !reading.began => break Some("is no XML"),
            Ok(Event::Eof) => break None,
            Ok(_) => {}
            Err(_) => break Some(if reading.began { "is not well-formed XML" } else { "is no XML" }),
        }
    };
    Document { notices: reading.notices, fault }
}

#[derive(Default)]
struct Reading {
    notices: Vec<Notice>,
    depth: usize,
    /// An element has come.
    began: bool,
    message: Option<Message>,
}

/// A `NotificationMessage` that has begun.
#[derive(Default)]
struct Message {
    topic: Vec<u8>,
    place: Place,
    source: DefaultHasher,
    operation: Operation,
    state: State,
}

/// Within which part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    Topic,
    /// Which detector, by the camera's tokens.
    Source,
    Data,
    #[default]
    Elsewhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Operation {
    Initialized,
    Deleted,
    /// Or none that is known.
    #[default]
    Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Absent,
    Unreadable,
    Moves(bool),
}

impl Reading {
    fn open(&mut self, element: &BytesStart<'_>) {
        self.depth += 1;
        if is(element.local_name().as_ref(), "NotificationMessage") {
            // One within another would be no message.
            self.message = Some(Message::default());
        } else if let Some(message) = &mut self.message {
            message.enter(element.local_name().as_ref());
        }
        self.element(element);
    }

    /// An element's own attributes.
    fn element(&mut self, element: &BytesStart<'_>) {
        self.began = true;
        let Some(message) = &mut self.message else { return };
        let name = element.local_name();
        if is(name.as_ref(), "Message") {
            match attribute(element, "PropertyOperation").as_deref() {
                Some("Initialized") => message.operation = Operation::Initialized,
                Some("Deleted") => message.operation = Operation::Deleted,
                _ => {}
            }
        } else if is(name.as_ref(), "SimpleItem") {
            let (name, value) = (attribute(element, "Name"), attribute(element, "Value"));
            message.item(name.as_deref().unwrap_or_default().trim(), value.as_deref().unwrap_or_default().trim());
        }
    }

    fn text(&mut self, text: &[u8]) {
        if let Some(message) = self.message.as_mut().filter(|message| message.place == Place::Topic) {
            let room = LONGEST_TOPIC.saturating_sub(message.topic.len());
            message.topic.extend(text.iter().take(room));
        }
    }

    fn close(&mut self, name: &[u8]) {
        self.depth = self.depth.saturating_sub(1);
        if is(name, "NotificationMessage") {
            let notice = self.message.take().and_then(Message::notice);
            self.notices.extend(notice.filter(|_| self.notices.len() < MOST_NOTICES));
        } else if let Some(message) = self.message.as_mut().filter(|_| Place::of(name) != Place::Elsewhere) {
            message.place = Place::Elsewhere;
        }
    }
}

impl Place {
    fn of(element: &[u8]) -> Self {
        let places = [("Topic", Self::Topic), ("Source", Self::Source), ("Key", Self::Source), ("Data", Self::Data)];
        places.into_iter().find(|(name, _)| is(element, name)).map_or(Self::Elsewhere, |(_, place)| place)
    }
}

impl Message {
    fn enter(&mut self, element: &[u8]) {
        let place = Place::of(element);
        if place != Place::Elsewhere {
            self.place = place;
        }
    }

    fn item(&mut self, name: &str, value: &str) {
        match self.place {
            Place::Source => (name, value).hash(&mut self.source),
            Place::Data if self.state == State::Absent && says_state(name) => {
                self.state = match value {
                    "1" => State::Moves(true),
                    "0" => State::Moves(false),
                    _ if value.eq_ignore_ascii_case("true") => State::Moves(true),
                    _ if value.eq_ignore_ascii_case("false") => State::Moves(false),
                    _ => State::Unreadable,
                };
            }
            _ => {}
        }
    }

    /// What it tells, if it is about motion.
    fn notice(mut self) -> Option<Notice> {
        let topic = std::str::from_utf8(&self.topic).ok()?;
        if !is_motion(topic) {
            return None;
        }
        let told = match (self.operation, self.state) {
            (Operation::Deleted, _) | (_, State::Moves(false)) => Told::Still,
            (_, State::Moves(true)) => Told::Moves,
            (Operation::Changed, State::Absent) => Told::Moment,
            // That there is such a detector, or what cannot be told from it.
            (Operation::Initialized, State::Absent) | (_, State::Unreadable) => return None,
        };
        words(topic).for_each(|word| word.hash(&mut self.source));
        Some(Notice { detector: self.source.finish(), told })
    }
}

/// The words of a topic such as `tns1:RuleEngine/CellMotionDetector/Motion`, without prefixes.
fn words(topic: &str) -> impl Iterator<Item = &str> {
    topic.trim().split('/').map(|word| word.rsplit(':').next().unwrap_or_default())
}

fn is_motion(topic: &str) -> bool {
    words(topic).any(|word| word.to_ascii_lowercase().contains("motion") || DETECTORS.contains(&word))
}

fn says_state(name: &str) -> bool {
    name.starts_with("Is") || STATES.iter().any(|state| state.eq_ignore_ascii_case(name))
}

/// The value of an attribute, whatever prefix it has.
fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let mut attributes = element.attributes();
    // Whether one stands there twice takes long to find out, and means nothing here.
    let found = attributes.with_checks(false).flatten().find(|attribute| is(attribute.key.local_name().as_ref(), name))?;
    found.normalized_value(XmlVersion::Implicit1_0).ok().map(|value| value.into_owned())
}

/// Whether an element or attribute has this name. Cameras differ in capitals.
fn is(name: &[u8], expected: &str) -> bool {
    name.eq_ignore_ascii_case(expected.as_bytes())
}

#[cfg(test)]
mod tests;
