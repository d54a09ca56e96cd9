//! From documents to motion: what several detectors say, how long it lasts, and what the owner is told.

use std::{sync::atomic::Ordering, thread};

use care_engine::trusted_time::Now;

use super::*;
use crate::media::tests::eventually;

fn listener() -> (Listener, mpsc::Receiver<crate::media::motion::Event>) {
    let (events, queue) = Events::new();
    (Listener { motion: Motion::new(events), detectors: Vec::new(), unreadable: 0, conditions: Conditions::default() }, queue)
}

fn document(detector: u32, state: &str) -> Report {
    let text = format!(
        "<MetadataStream><Event><NotificationMessage><Topic>tns1:VideoSource/MotionAlarm</Topic><Message><Message><Source>\
         <SimpleItem Name='Source' Value='{detector}'/></Source><Data>{state}</Data></Message></Message></NotificationMessage></Event>\
         </MetadataStream>"
    );
    Report::Document(text.into())
}

const MOVES: &str = "<SimpleItem Name='State' Value='true'/>";
const STILL: &str = "<SimpleItem Name='State' Value='false'/>";

/// A listener whose time a test turns.
struct Told {
    listener: Listener,
    queue: mpsc::Receiver<crate::media::motion::Event>,
    began: Instant,
    now: u64,
}

impl Told {
    fn new() -> Self {
        let (listener, queue) = listener();
        Self { listener, queue, began: Instant::now(), now: 0 }
    }

    fn tell(&mut self, report: Report) {
        self.listener.take(report, self.began + Duration::from_secs(self.now));
    }

    /// How often motion is raised while so many seconds pass.
    fn wait(&mut self, seconds: u64) -> usize {
        let raised = (0..seconds).map(|_| {
            self.now += 1;
            self.listener.tend(self.began + Duration::from_secs(self.now));
            self.queue.try_iter().count()
        });
        raised.sum()
    }

    fn events(&self) -> u64 {
        self.listener.motion.events.counts.events.load(Ordering::Relaxed)
    }

    fn ignored(&self) -> u64 {
        self.listener.motion.events.counts.ignored.load(Ordering::Relaxed)
    }

    fn sentence(&self) -> String {
        let now = Now { boot: Duration::ZERO, trusted: Duration::ZERO, confirmed: true, disputed: None, corrected: None };
        self.listener.conditions.list(now).iter().map(|condition| format!("{} {}", condition.sentence, condition.advice)).collect()
    }
}

#[test]
fn motion_lasts_from_true_to_false_and_counts_once_however_often_it_is_said() {
    let mut told = Told::new();
    told.tell(document(0, STILL));
    assert_eq!(told.wait(5), 0);
    told.tell(document(0, MOVES));
    assert_eq!(told.wait(5), 6, "the beginning, and once a second");
    told.tell(document(0, MOVES));
    assert_eq!(told.wait(5), 5);
    told.tell(document(0, STILL));
    assert_eq!((told.wait(5), told.events()), (0, 1));
}

#[test]
fn motion_lasts_while_one_of_several_detectors_sees_it() {
    let mut told = Told::new();
    told.tell(document(0, MOVES));
    told.tell(document(1, MOVES));
    told.tell(document(0, STILL));
    assert_eq!(told.wait(5), 6);
    told.tell(document(2, STILL));
    assert_eq!(told.wait(5), 5, "another that sees nothing");
    told.tell(document(1, STILL));
    assert_eq!((told.wait(5), told.events()), (0, 1));
    (0..MOST_DETECTORS as u32 + 5).for_each(|detector| told.tell(document(detector, MOVES)));
    assert_eq!(told.listener.detectors.len(), MOST_DETECTORS);
}

#[test]
fn an_event_without_a_state_is_a_moment() {
    let mut told = Told::new();
    told.tell(document(0, ""));
    told.tell(document(0, ""));
    assert_eq!((told.wait(5), told.events()), (2, 2));
}

#[test]
fn motion_ends_with_the_session_and_ten_minutes_after_it_was_last_said() {
    let mut told = Told::new();
    told.tell(document(0, MOVES));
    told.wait(5);
    told.tell(Report::Over);
    assert_eq!(told.wait(5), 0, "the stream has broken");
    told.tell(document(0, MOVES));
    told.wait(500);
    told.tell(document(0, MOVES));
    assert_eq!(told.wait(1000), 599, "no document comes any more");
    told.tell(document(0, MOVES));
    assert_eq!((told.wait(3), told.events()), (4, 3), "and it can begin again");
}

#[test]
fn why_the_camera_tells_nothing_is_a_condition_until_it_does() {
    let mut told = Told::new();
    for (why, expected) in [
        (Blind::NotOffered, "offers no ONVIF metadata"),
        (Blind::Encoding("vnd.onvif.metadata.gzip".into()), "as vnd.onvif.metadata.gzip alone, and the agent reads plain XML"),
        (Blind::Refused("the camera answers SETUP with 461".into()), "does not send its ONVIF metadata: the camera answers SETUP with 461"),
        (Blind::Harmful("the camera closed the connection".into()), "gives no picture while"),
    ] {
        told.tell(document(0, MOVES));
        told.tell(Report::Blind(why));
        assert!(told.sentence().contains(expected) && told.sentence().contains("or set [media] motion to"), "{}", told.sentence());
        assert!(!told.listener.motion.lasts());
    }
    told.tell(Report::Begun);
    assert_eq!(told.sentence(), "");
}

#[test]
fn documents_that_cannot_be_read_are_counted_and_named_if_there_are_no_others() {
    let mut told = Told::new();
    let garbage = || Report::Document(Bytes::from_static(b"\x1f\x8b\x08\0"));
    (1..UNREADABLE).for_each(|_| told.tell(garbage()));
    told.tell(document(0, STILL));
    (1..UNREADABLE).for_each(|_| told.tell(garbage()));
    assert_eq!((told.sentence(), told.ignored()), (String::new(), 2 * u64::from(UNREADABLE - 1)));
    told.tell(garbage());
    assert!(told.sentence().contains("cannot be read: a document is no XML"), "{}", told.sentence());
    told.tell(document(0, STILL));
    assert_eq!(told.sentence(), "");
}

#[test]
fn a_session_that_is_over_takes_no_more_documents() {
    let (events, queue) = Events::new();
    let (counts, stop) = (events.counts.clone(), StopSignal::default());
    let (sink, thread) = start(events, Conditions::default(), stop.clone()).unwrap();
    let Report::Document(moves) = document(0, MOVES) else { panic!() };
    let (first, second) = (sink.of_session(), sink.of_session());
    first.over();
    first.document(moves.clone());
    second.document(moves);
    eventually("the motion of the second one", || counts.events.load(Ordering::Relaxed) > 0);
    assert_eq!(counts.events.load(Ordering::Relaxed), 1);
    drop(queue);
    stop.raise();
    thread.join().unwrap();
}

#[test]
fn documents_that_come_faster_than_they_are_read_are_counted() {
    let (sink, _reported) = trial();
    let sink = sink.of_session();
    (0..WAITING + 3).for_each(|_| sink.document(Bytes::from_static(b"<a/>")));
    assert_eq!(sink.events.counts.ignored.load(Ordering::Relaxed), 3);
    // Whoever waits is let go when nobody listens any more.
    let waits = thread::spawn(move || sink.over());
    drop(_reported);
    waits.join().unwrap();
}
