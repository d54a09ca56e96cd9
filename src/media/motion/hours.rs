//! When motion counts, by the camera's local time. A camera that does not know the time yet detects at every hour: a clip too many
//! does less harm than one too few. Asked by `built_in` for each picture.

use crate::{clock::local_time::LocalTime, config::Schedule};

pub(super) struct Hours {
    schedule: Schedule,
    counts: Option<bool>,
}

impl Hours {
    pub fn new(schedule: Schedule) -> Self {
        Self { schedule, counts: None }
    }

    /// Whether motion counts now.
    pub fn count_now(&mut self) -> bool {
        if !self.schedule.is_limited() {
            return true;
        }
        let counts = counts(&self.schedule, LocalTime::known());
        if self.counts.replace(counts) != Some(counts) {
            tracing::info!(counts, "motion, by its schedule");
        }
        counts
    }
}

fn counts(schedule: &Schedule, now: Option<LocalTime>) -> bool {
    now.is_none_or(|now| schedule.covers(now.weekday.into(), u16::from(now.hour) * 60 + u16::from(now.minute)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn motion_counts_within_its_windows_and_while_the_time_is_unknown() {
        let text = include_str!("../../../systemd/config.toml").to_owned() + "[motion]\nschedule = [\"mon-fri 22:00-06:00\"]\n";
        let schedule = Config::parse(&text, Path::new("config.toml")).unwrap().media.unwrap().detection.schedule;
        let at = |weekday, hour| LocalTime { month: 0, day: 1, weekday, hour, minute: 30, second: 0 };
        assert!(counts(&schedule, Some(at(0, 22))) && counts(&schedule, Some(at(5, 5))));
        assert!(!counts(&schedule, Some(at(0, 5))) && !counts(&schedule, Some(at(2, 12))));
        assert!(counts(&schedule, None));
    }
}
