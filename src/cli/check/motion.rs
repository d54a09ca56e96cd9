//! Says what `[motion]` means on this camera: whether anything reads it, and which time its schedule goes by. The faults of its text
//! are found where it is read (`config`).

use super::findings::Findings;
use crate::{
    clock::local_time::{self, LocalTime},
    config::{Motion, Schedule},
};

/// One line for a schedule.
pub(super) fn check(findings: &mut Findings) -> Vec<String> {
    let Some(media) = findings.parsed.media.clone().filter(|_| findings.parsed.has("motion")) else { return Vec::new() };
    if !matches!(media.motion, Motion::BuiltIn | Motion::Bitstream) {
        let right = "remove [motion], or write [media] motion = \"built-in\" or \"bitstream\"";
        findings.warn(
            "motion",
            "is for the agent's own detectors, and [media] motion names another detector, which decides by itself",
            right,
        );
        return Vec::new();
    }
    if media.motion == Motion::Bitstream && !media.detection.zones.is_empty() {
        let right = "remove them, or write [media] motion = \"built-in\" in a build that decodes";
        findings.warn("motion.zones", "have no effect: motion = \"bitstream\" does not see where in the picture something moves", right);
    }
    let schedule = &media.detection.schedule;
    if !schedule.is_limited() {
        return Vec::new();
    }
    if local_time::zone().is_none() {
        let right = "set TZ for the agent, as in TZ=CET-1CEST,M3.5.0,M10.5.0/3, or write the windows in UTC";
        findings.warn("motion.schedule", "this camera has no time zone, so its windows are in UTC", right);
    }
    vec![told(schedule, LocalTime::known(), local_time::zone())]
}

fn told(schedule: &Schedule, now: Option<LocalTime>, zone: Option<&str>) -> String {
    let Some(LocalTime { weekday, hour, minute, .. }) = now else {
        return "motion.schedule: the clock is not set, so motion counts at every hour until it is".to_owned();
    };
    let counts = if schedule.covers(weekday.into(), u16::from(hour) * 60 + u16::from(minute)) { "counts" } else { "does not count" };
    let zone = zone.map_or("UTC".to_owned(), |zone| format!("local time by {zone}"));
    format!("motion.schedule: it is {} {hour:02}:{minute:02}, {zone}; motion {counts} now", Schedule::day(weekday.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// What is found in the installed example with this detector and these lines.
    fn checked(motion: &str, lines: &str) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let example = include_str!("../../../systemd/config.toml").replace("motion = \"built-in\"", &format!("motion = {motion:?}"));
        std::fs::write(&path, example + lines).unwrap();
        let mut findings = Findings::read(&path);
        let passed = check(&mut findings);
        (passed, findings.warnings.iter().map(|warning| format!("{}: {}", warning.key, warning.wrong)).collect())
    }

    #[test]
    fn a_section_that_nothing_reads_is_a_warning() {
        let (passed, warnings) = checked("every:30s", "[motion]\nsensitivity = 80\n");
        assert_eq!((passed.len(), warnings.len()), (0, 1));
        assert!(warnings[0].starts_with("motion: warning: is for the agent's own detectors"), "{warnings:?}");
        assert_eq!(checked("every:30s", ""), (Vec::new(), Vec::new()));
        assert_eq!(checked("built-in", "[motion]\nsensitivity = 80\n"), (Vec::new(), Vec::new()));
        assert_eq!(checked("bitstream", "[motion]\nsensitivity = 80\n"), (Vec::new(), Vec::new()));
        let (_, warnings) = checked("bitstream", "[motion]\nzones = [{ exclude = [0, 0, 50, 50] }]\n");
        assert!(warnings.len() == 1 && warnings[0].starts_with("motion.zones: warning: have no effect"), "{warnings:?}");
        let (passed, _) = checked("bitstream", "[motion]\nschedule = [\"06:00-22:00\"]\n");
        assert_eq!(passed.len(), 1);
        let (passed, _) = checked("built-in", "[motion]\nschedule = [\"06:00-22:00\"]\n");
        assert!(passed.len() == 1 && passed[0].starts_with("motion.schedule: "), "{passed:?}");
    }

    #[test]
    fn a_schedule_is_explained_by_the_clock_of_this_camera() {
        let text = include_str!("../../../systemd/config.toml").to_owned() + "[motion]\nschedule = [\"sat,sun 00:00-24:00\"]\n";
        let schedule = Config::parse(&text, "config.toml".as_ref()).unwrap().media.unwrap().detection.schedule;
        let saturday = LocalTime { month: 0, day: 3, weekday: 5, hour: 4, minute: 5, second: 6 };
        let expected = "motion.schedule: it is sat 04:05, local time by TZ; motion counts now";
        assert_eq!(told(&schedule, Some(saturday), Some("TZ")), expected);
        let monday = LocalTime { weekday: 0, ..saturday };
        assert_eq!(told(&schedule, Some(monday), None), "motion.schedule: it is mon 04:05, UTC; motion does not count now");
        assert!(told(&schedule, None, None).contains("at every hour"));
    }
}
