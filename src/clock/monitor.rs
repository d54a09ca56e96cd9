//! Raises and clears the conditions of the clock: a correction, a `Date` that contradicts trusted time, and trusted
//! time that nothing confirms.

use std::{sync::atomic::Ordering, time::Duration};

use care_engine::trusted_time::{Correction, Now, Readings, timestamp};

use super::Clock;
use crate::conditions::{Conditions, Kind};

/// How long trusted time may stay unconfirmed before that is a condition. The API is asked at once and every minute.
const UNCONFIRMED_FOR: Duration = Duration::from_secs(300);
/// How long the condition of a correction lasts.
const SHOWN_FOR: Duration = Duration::from_secs(86_400);

/// Keeps the clock's conditions up to date.
#[derive(Debug)]
pub struct ConditionMonitor {
    clock: Clock,
    conditions: Conditions,
    /// Since when trusted time is unconfirmed, BOOTTIME.
    unconfirmed_since: Option<Duration>,
    /// The correction that was reported last.
    reported: Option<Correction>,
}

impl ConditionMonitor {
    /// Monitors this clock. Call [`ConditionMonitor::update`] about once a second.
    pub fn new(clock: Clock, conditions: Conditions) -> Self {
        Self { clock, conditions, unconfirmed_since: None, reported: None }
    }

    /// Updates the conditions.
    pub fn update(&mut self) {
        let readings = self.clock.source.read();
        let now = self.clock.lock().now(readings);
        self.conditions.set(Kind::ClockDisputed, disputed(now));
        match self.unconfirmed(now, readings) {
            Some(sentence) if self.clock.undated.load(Ordering::Relaxed) => {
                let sentence = format!("{sentence}; the API answers without a Date that can be read");
                let advice = "Let the API, and what stands before it, send Date as RFC 9110 has it.";
                self.conditions.raise_advising(Kind::ClockUnconfirmed, sentence, advice);
            }
            unconfirmed => self.conditions.set(Kind::ClockUnconfirmed, unconfirmed),
        }
        if now.corrected != self.reported {
            self.reported = now.corrected;
            if let Some(correction) = now.corrected {
                // Each correction gets its own log line.
                self.conditions.clear(Kind::ClockCorrected);
                self.conditions.raise(Kind::ClockCorrected, correction.to_string());
            }
        }
        if self.reported.is_none_or(|reported| now.boot >= reported.at + SHOWN_FOR) {
            self.conditions.clear(Kind::ClockCorrected);
        }
    }

    fn unconfirmed(&mut self, now: Now, readings: Readings) -> Option<String> {
        if now.confirmed {
            self.unconfirmed_since = None;
            return None;
        }
        let since = *self.unconfirmed_since.get_or_insert(now.boot);
        if now.boot < since + UNCONFIRMED_FOR {
            return None;
        }
        Some(format!(
            "no HTTPS Date has confirmed trusted time for {} minutes: it says {}, the system clock says {}",
            UNCONFIRMED_FOR.as_secs() / 60,
            timestamp(now.trusted),
            timestamp(readings.system)
        ))
    }
}

fn disputed(now: Now) -> Option<String> {
    let dispute = now.disputed?;
    let (date, trusted) = (timestamp(dispute.date), timestamp(now.trusted));
    Some(format!("the API's Date says {date}, trusted time is {trusted}; a second answer that agrees will be followed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use care_engine::trusted_time::{HeardDate, LATEST};

    const START: Duration = Duration::from_secs(1_767_225_600);

    #[test]
    fn an_answer_without_a_date_is_named_and_moves_no_time() {
        let (clock, dial) = Clock::dialled(START, Readings { boot: Duration::from_secs(5), system: Duration::ZERO });
        let conditions = Conditions::default();
        let mut monitor = ConditionMonitor::new(clock.clone(), conditions.clone());
        clock.observe_no_date();
        monitor.update();
        dial.advance(UNCONFIRMED_FOR);
        monitor.update();
        assert_eq!(clock.now().trusted, START + UNCONFIRMED_FOR);
        let named = |words: &str| conditions.list(clock.now()).iter().any(|condition| condition.sentence.contains(words));
        assert!(named("without a Date that can be read"));
        // One that can be read, but contradicts trusted time, is another fault.
        clock.observe_date(HeardDate { date: START + Duration::from_secs(400 * 86_400), sent: clock.now().boot, valid_until: LATEST });
        monitor.update();
        assert!(named("has confirmed trusted time") && !named("without a Date"));
    }

    #[test]
    fn each_condition_of_the_clock_is_raised_and_cleared() {
        let (clock, dial) = Clock::dialled(START, Readings { boot: Duration::from_secs(5), system: Duration::ZERO });
        let conditions = Conditions::default();
        let mut monitor = ConditionMonitor::new(clock.clone(), conditions.clone());
        let mut names = |after: u64, date: Option<Duration>| {
            dial.advance(Duration::from_secs(after));
            if let Some(date) = date {
                clock.observe_date(HeardDate { date, sent: clock.now().boot, valid_until: LATEST });
            }
            monitor.update();
            conditions.list(clock.now()).into_iter().map(|condition| condition.name).collect::<Vec<_>>()
        };
        assert_eq!(names(0, None), Vec::<String>::new());
        assert_eq!(names(299, None), Vec::<String>::new());
        assert_eq!(names(1, None), ["clock_unconfirmed"]);
        assert_eq!(names(0, Some(START + Duration::from_secs(300))), Vec::<String>::new());
        let ahead = START + Duration::from_secs(400 * 86_400);
        assert_eq!(names(0, Some(ahead)), ["clock_disputed"]);
        assert_eq!(names(60, Some(ahead + Duration::from_secs(60))), ["clock_corrected"]);
        assert_eq!(names(86_399, None), ["clock_corrected"]);
        assert_eq!(names(1, None), Vec::<String>::new());
    }
}
