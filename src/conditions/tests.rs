//! The list of active conditions, and the log lines that an hour of faults writes.

use std::sync::atomic::Ordering;

use portable_atomic::AtomicU64;
use tracing::{Event, Subscriber, field::Visit};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt};

use super::*;

const NOW: Now =
    Now { boot: Duration::from_secs(60), trusted: Duration::from_secs(1_767_225_600), confirmed: true, disputed: None, corrected: None };
const KIND: Kind = Kind::BrokerUnreachable;

#[test]
fn a_condition_is_active_from_raise_to_clear() {
    let conditions = Conditions::default();
    conditions.raise(Kind::BrokerUnreachable, "connecting to a.example:8883: connection refused");
    conditions.raise(Kind::UploadsFailing, "the store answers 503");
    conditions.raise(Kind::BrokerUnreachable, "connecting to a.example:8883: timed out");
    let list = conditions.list(NOW);
    let names: Vec<_> = list.iter().map(|condition| (condition.name.as_str(), condition.severity)).collect();
    assert_eq!(names, [("uploads_failing", Severity::Error), ("broker_unreachable", Severity::Warning)]);
    assert!(list[1].sentence.ends_with("timed out"), "the newest words: {list:?}");
    conditions.clear(Kind::UploadsFailing);
    conditions.set(Kind::BrokerUnreachable, None);
    assert_eq!(conditions.list(NOW), []);
}

#[test]
fn names_are_unique() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
}

#[test]
fn since_follows_trusted_time_as_it_is_corrected() {
    let hour = Hour::new();
    hour.conditions.raise(KIND, "x");
    hour.wait(60);
    let since = |now: Now| hour.conditions.list(now)[0].since.as_second();
    assert_eq!(since(NOW), 1_767_225_540);
    assert_eq!(since(Now { trusted: NOW.trusted + Duration::from_secs(86_400), ..NOW }), 1_767_225_540 + 86_400);
}

/// A list on a clock that the test moves, and the log lines it has written.
struct Hour {
    seconds: Arc<AtomicU64>,
    conditions: Conditions,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Hour {
    fn new() -> Self {
        let seconds = Arc::new(AtomicU64::new(1000));
        let clock = seconds.clone();
        let conditions = Conditions::with_clock(move || Duration::from_secs(clock.load(Ordering::Relaxed)));
        Self { seconds, conditions, lines: Arc::default() }
    }

    fn wait(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    /// Calls `each` once a second, then lists the conditions as the control loop does. Returns the log lines of that time.
    fn play(&self, seconds: u64, each: impl Fn(&Conditions, u64)) -> Vec<String> {
        let subscriber = tracing_subscriber::registry().with(Recorder(self.lines.clone()));
        tracing::subscriber::with_default(subscriber, || {
            for second in 0..seconds {
                each(&self.conditions, second);
                self.conditions.list(NOW);
                self.wait(1);
            }
        });
        std::mem::take(&mut self.lines.lock().unwrap())
    }
}

struct Recorder(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        struct Text(String);
        impl Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{}={value:?} ", field.name());
            }
        }
        let mut text = Text(format!("{} ", event.metadata().level()));
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}

#[test]
fn a_condition_logs_its_beginning_and_its_end() {
    let hour = Hour::new();
    let lines = hour.play(60, |conditions, second| match second {
        10 => conditions.raise(KIND, "connection refused"),
        40 => conditions.clear(KIND),
        _ => {}
    });
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].starts_with("WARN") && lines[0].contains("connection refused") && lines[0].contains("advice="), "{lines:#?}");
    assert!(lines[1].starts_with("INFO") && lines[1].contains("condition over") && lines[1].contains("lasted_s=30"), "{lines:#?}");
}

#[test]
fn a_fault_that_recurs_every_second_for_an_hour_writes_a_line_in_ten_minutes() {
    let lines = Hour::new().play(3600, |conditions, second| conditions.raise(KIND, format!("attempt {second} refused")));
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert!(lines[5].contains("attempt 3000"), "a reminder has the newest words: {lines:#?}");
}

#[test]
fn a_condition_raised_once_is_reminded_of_too() {
    let lines = Hour::new().play(3600, |conditions, second| {
        if second == 0 {
            conditions.raise(KIND, "refused");
        }
    });
    assert_eq!(lines.len(), 6, "{lines:#?}");
}

#[test]
fn a_flapping_condition_writes_no_more_lines_and_counts_recurrences() {
    let hour = Hour::new();
    let flap = |conditions: &Conditions, second: u64| match second % 2 {
        0 => conditions.raise(KIND, "refused"),
        _ => conditions.clear(KIND),
    };
    let lines = hour.play(3600, flap);
    assert!(lines.len() <= 8, "{lines:#?}");
    assert!(lines[1].contains("condition over"), "its first end is told at once: {lines:#?}");
    let again: u64 = lines.iter().filter_map(|line| line.split("again=").nth(1)?.split(' ').next()?.parse::<u64>().ok()).sum();
    assert!((1400..1800).contains(&again), "{again} of 1,799 recurrences are told of: {lines:#?}");
    // Both within one second, too.
    let both = |conditions: &Conditions, _| {
        conditions.raise(KIND, "refused");
        conditions.clear(KIND);
    };
    let lines = hour.play(3600, both);
    assert!(lines.len() <= 7, "{lines:#?}");
}

#[test]
fn the_last_log_line_is_right_however_a_condition_flapped() {
    for holds_at_last in [true, false] {
        let hour = Hour::new();
        hour.play(1501, |conditions, second| conditions.set(KIND, (second % 2 == 0).then(|| "refused".to_owned())));
        hour.conditions.set(KIND, holds_at_last.then(|| "refused".to_owned()));
        let lines = hour.play(3600, |_, _| {});
        let last = lines.last().unwrap();
        assert_eq!(last.contains("condition over"), !holds_at_last, "{lines:#?}");
        assert!(lines.len() <= 7, "{lines:#?}");
        if !holds_at_last {
            assert_eq!(lines.len(), 1, "{lines:#?}");
        }
    }
}

#[test]
fn a_condition_that_comes_back_and_stays_is_logged() {
    let hour = Hour::new();
    let lines = hour.play(700, |conditions, second| match second {
        0 | 60 => conditions.raise(KIND, "refused"),
        30 => conditions.clear(KIND),
        _ => {}
    });
    assert_eq!(lines.len(), 3, "{lines:#?}");
    assert!(lines[2].starts_with("WARN"), "{lines:#?}");
}

/// The rows of every condition in docs/conditions.md: name, severity, meaning, advice.
fn listed() -> Vec<Vec<String>> {
    let page = include_str!("../../docs/conditions.md");
    let rows = page.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 3);
    rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches(['|', ' ']).replace('`', "")).collect()).collect()
}

#[test]
fn docs_conditions_md_lists_every_condition_with_its_severity_meaning_and_advice() {
    let words =
        |kind: &Kind| [kind.name(), &kind.severity().to_string(), kind.meaning(), kind.advice()].map(|words| words.replace('`', ""));
    let mut known: Vec<_> = Kind::ALL.iter().map(|kind| words(kind).to_vec()).collect();
    let mut listed = listed();
    known.sort();
    listed.sort();
    let missing: Vec<_> = known.iter().filter(|kind| !listed.contains(kind)).collect();
    let unknown: Vec<_> = listed.iter().filter(|kind| !known.contains(kind)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "docs/conditions.md lacks {missing:?} and lists {unknown:?}");
    assert_eq!(known.len(), listed.len(), "one stands twice: {listed:?}");
}
