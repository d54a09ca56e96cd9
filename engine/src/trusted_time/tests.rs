use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const SAVED: Duration = Duration::from_secs(1_767_225_600);
/// The end of a server's certificate.
const ENDS: Duration = Duration::from_secs(1_767_225_600 + 500 * 86_400);

fn at(boot: u64, system: Duration) -> Readings {
    Readings { boot: Duration::from_secs(boot), system }
}

/// Built a day before the saved time, booted five seconds ago.
fn saved() -> TrustedTime {
    TrustedTime::new(SAVED - DAY, Some(SAVED), Duration::from_secs(5))
}

/// An answer at once: its request was sent at `boot`.
fn date(time: &mut TrustedTime, date: Duration, boot: u64, system: Duration) -> Now {
    let heard = HeardDate { date, sent: Duration::from_secs(boot), valid_until: ENDS };
    time.observe_date(heard, at(boot, system));
    time.now(at(boot, system))
}

/// A clock that a `Date` has confirmed.
fn confirmed() -> TrustedTime {
    let mut time = saved();
    assert!(date(&mut time, SAVED, 5, Duration::ZERO).confirmed);
    time
}

#[test]
fn starts_at_the_later_of_build_and_saved_time_and_runs_on_boottime() {
    assert_eq!(saved().now(at(65, Duration::ZERO)).trusted, SAVED + MINUTE);
    let mut time = TrustedTime::new(SAVED, Some(DAY), Duration::ZERO);
    assert_eq!(time.now(at(60, Duration::ZERO)).trusted, SAVED + MINUTE);
    assert_eq!(TrustedTime::new(SAVED, None, Duration::ZERO).now(at(0, DAY)).trusted, SAVED);
}

#[test]
fn a_saved_time_that_no_certificate_can_name_counts_for_nothing() {
    let mut time = TrustedTime::new(SAVED, Some(LATEST), Duration::ZERO);
    assert_eq!(time.now(at(0, Duration::ZERO)).trusted, LATEST);
    let milliseconds = Duration::from_secs(SAVED.as_secs() * 1000);
    let mut time = TrustedTime::new(SAVED, Some(milliseconds), Duration::ZERO);
    assert_eq!(time.now(at(0, Duration::ZERO)).trusted, SAVED);
}

#[test]
fn a_verified_iat_raises_and_never_lowers() {
    let mut time = saved();
    time.raise(SAVED + DAY, at(5, Duration::ZERO));
    assert_eq!(time.now(at(5, Duration::ZERO)).trusted, SAVED + DAY);
    time.raise(SAVED, at(5, Duration::ZERO));
    let now = time.now(at(6, Duration::ZERO));
    assert_eq!((now.trusted, now.corrected), (SAVED + DAY + Duration::from_secs(1), None), "learning the time corrects nothing");
}

#[test]
fn an_iat_beyond_a_confirmed_time_is_a_correction_and_ends_the_confirmation() {
    let mut time = confirmed();
    time.raise(SAVED + 10 * MINUTE, at(5, Duration::ZERO));
    let now = time.now(at(5, Duration::ZERO));
    assert_eq!((now.confirmed, now.corrected), (true, None));
    time.raise(SAVED + DAY, at(5, Duration::ZERO));
    let now = time.now(at(5, Duration::ZERO));
    assert!(!now.confirmed);
    let correction = now.corrected.unwrap();
    assert_eq!((correction.from, correction.to, correction.by), (SAVED + 10 * MINUTE, SAVED + DAY, Corrector::Document));
}

#[test]
fn the_system_clock_raises_within_ten_minutes_only() {
    let mut time = saved();
    assert_eq!(time.now(at(5, SAVED + 10 * MINUTE)).trusted, SAVED + 10 * MINUTE);
    assert!(!time.now(at(5, SAVED)).confirmed);
    assert_eq!(saved().now(at(5, SAVED + 11 * MINUTE)).trusted, SAVED);
}

#[test]
fn a_system_clock_that_creeps_forward_does_not_carry_trusted_time_away() {
    let mut time = saved();
    for step in 1..100 {
        time.now(at(5, SAVED + 9 * MINUTE * step));
    }
    assert_eq!(time.now(at(5, Duration::ZERO)).trusted, SAVED + 9 * MINUTE);
}

#[test]
fn a_system_clock_set_back_changes_nothing() {
    let mut time = saved();
    time.now(at(5, SAVED + MINUTE));
    assert_eq!(time.now(at(10, SAVED - YEAR)).trusted, SAVED + MINUTE + Duration::from_secs(5));
}

#[test]
fn a_date_confirms_wherever_the_system_clock_stands() {
    for system in [Duration::ZERO, SAVED - YEAR, SAVED, SAVED + 8 * 60 * MINUTE, SAVED + 3 * YEAR, LATEST] {
        for says in [SAVED - 10 * MINUTE, SAVED - MINUTE, SAVED, SAVED + 30 * DAY] {
            let mut time = saved();
            if says > SAVED && system < says - DAY {
                // Beyond both by more than a day: it needs a second answer.
                assert!(!date(&mut time, says, 5, system).confirmed);
                assert!(date(&mut time, says + MINUTE, 65, system).confirmed, "{system:?} {says:?}");
            } else {
                assert!(date(&mut time, says, 5, system).confirmed, "{system:?} {says:?}");
            }
        }
    }
}

#[test]
fn a_date_a_day_beyond_trusted_time_or_the_system_clock_is_followed_at_once() {
    let now = date(&mut saved(), SAVED + DAY, 5, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed, now.corrected), (SAVED + DAY, true, None));
    // Off for a month, and the system clock hours ahead.
    let truth = SAVED + 30 * DAY;
    for system in [truth - DAY, truth, truth + 480 * MINUTE, truth + YEAR] {
        let now = date(&mut saved(), truth, 5, system);
        assert!((truth..=truth + Duration::from_secs(1)).contains(&now.trusted) && now.confirmed, "{system:?}: {now:?}");
    }
}

#[test]
fn a_date_further_ahead_needs_a_second_answer_a_minute_later_that_agrees() {
    let ahead = SAVED + 400 * DAY;
    let mut time = confirmed();
    let now = date(&mut time, ahead, 5, SAVED);
    assert_eq!((now.trusted, now.confirmed), (SAVED, true), "one answer has no effect");
    assert_eq!(now.disputed.map(|dispute| (dispute.date, dispute.settles_at())), Some((ahead, Duration::from_secs(65))));
    let now = date(&mut time, ahead + 59 * MINUTE / 60, 64, SAVED);
    assert_eq!((now.trusted, now.disputed.is_some()), (SAVED + Duration::from_secs(59), true), "too soon");
    let now = date(&mut time, ahead + MINUTE, 65, SAVED);
    assert_eq!((now.trusted, now.confirmed, now.disputed), (ahead + MINUTE, true, None));
    let correction = now.corrected.unwrap();
    assert_eq!((correction.from, correction.to, correction.by), (SAVED + MINUTE, ahead + MINUTE, Corrector::Date));
}

#[test]
fn a_second_answer_that_does_not_agree_begins_anew_and_one_that_agrees_with_us_ends_it() {
    let mut time = confirmed();
    date(&mut time, SAVED + 400 * DAY, 5, SAVED);
    let now = date(&mut time, SAVED + 300 * DAY, 65, SAVED);
    assert_eq!(now.disputed.map(|dispute| dispute.since), Some(Duration::from_secs(65)));
    let now = date(&mut time, SAVED + 2 * MINUTE, 125, SAVED);
    assert_eq!((now.trusted, now.confirmed, now.disputed, now.corrected), (SAVED + 2 * MINUTE, true, None, None), "no trace");
}

#[test]
fn a_date_lowers_by_ten_minutes_at_once_and_by_more_with_a_second_answer() {
    let mut time = saved();
    let now = date(&mut time, SAVED - 9 * MINUTE, 5, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed, now.corrected), (SAVED - 9 * MINUTE + DATE_RESOLUTION, true, None));
    let mut time = TrustedTime::new(SAVED - YEAR, Some(SAVED), Duration::ZERO);
    let truth = SAVED - 200 * DAY;
    let now = date(&mut time, truth, 0, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed), (SAVED, false));
    let now = date(&mut time, truth + MINUTE, 60, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed), (truth + MINUTE + DATE_RESOLUTION, true));
    let correction = now.corrected.unwrap();
    assert_eq!(correction.from, SAVED + MINUTE);
    assert_eq!(correction.total_ms, -((200 * 86_400 - 1) * 1000));
    assert!(correction.to_string().starts_with("the API's Date set trusted time back by 17279999 s, from 2026-01-01T00:01:00Z to "));
}

#[test]
fn nothing_is_lowered_below_the_build_time() {
    let mut time = TrustedTime::new(SAVED - DAY, Some(SAVED), Duration::ZERO);
    date(&mut time, SAVED - YEAR, 0, Duration::ZERO);
    let now = date(&mut time, SAVED - YEAR + MINUTE, 60, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed), (SAVED - DAY, false));
    time.set(Duration::ZERO, at(60, Duration::ZERO));
    assert_eq!(time.now(at(60, Duration::ZERO)).trusted, SAVED - DAY);
}

#[test]
fn a_date_raises_to_the_end_of_the_servers_certificate_at_most_and_a_far_one_stops_a_day_short() {
    let mut time = confirmed();
    let ahead = ENDS + 100 * DAY;
    date(&mut time, ahead, 5, Duration::ZERO);
    let now = date(&mut time, ahead + MINUTE, 65, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed), (ENDS - DAY, false));
    // It goes on saying so: T runs, and is not raised again.
    for minute in 2..10 {
        let boot = 5 + 60 * minute;
        let now = date(&mut time, ahead + MINUTE * u32::try_from(minute).unwrap(), boot, Duration::ZERO);
        assert_eq!(now.trusted, ENDS - DAY + Duration::from_secs(boot - 65));
    }
    let mut near = TrustedTime::new(ENDS - DAY, None, Duration::ZERO);
    assert_eq!(date(&mut near, ENDS - MINUTE, 0, Duration::ZERO).trusted, ENDS - MINUTE);
    assert_eq!(date(&mut near, ENDS + MINUTE, 0, Duration::ZERO).trusted, ENDS);
    // Right again: two answers bring it back.
    date(&mut time, SAVED + 20 * MINUTE, 1205, Duration::ZERO);
    let now = date(&mut time, SAVED + 21 * MINUTE, 1265, Duration::ZERO);
    assert_eq!((now.trusted, now.confirmed), (SAVED + 21 * MINUTE + DATE_RESOLUTION, true));
}

#[test]
fn a_reset_sets_it_at_once_either_way_and_ends_a_dispute() {
    let mut time = confirmed();
    date(&mut time, SAVED + 400 * DAY, 5, Duration::ZERO);
    time.set(SAVED + 30 * DAY, at(6, Duration::ZERO));
    let now = time.now(at(6, Duration::ZERO));
    assert_eq!((now.trusted, now.confirmed, now.disputed), (SAVED + 30 * DAY, false, None));
    time.set(SAVED, at(6, Duration::ZERO));
    let now = time.now(at(6, Duration::ZERO));
    assert_eq!(now.trusted, SAVED);
    let correction = now.corrected.unwrap();
    assert_eq!((correction.by, correction.total_ms), (Corrector::Reset, -1000), "both together");
}

#[test]
fn a_system_clock_that_a_date_has_shown_to_be_ahead_raises_nothing() {
    let mut time = saved();
    assert_eq!(time.now(at(5, SAVED + 9 * MINUTE)).trusted, SAVED + 9 * MINUTE);
    let now = date(&mut time, SAVED, 5, SAVED + 9 * MINUTE);
    assert_eq!((now.trusted, now.confirmed), (SAVED + DATE_RESOLUTION, true));
    assert_eq!(time.now(at(65, SAVED + 10 * MINUTE)).trusted, SAVED + MINUTE + DATE_RESOLUTION, "it does not swing back and forth");
}

#[test]
fn an_answer_that_took_longer_than_the_tolerance_confirms_nothing() {
    let mut time = saved();
    let late = 5 + 12 * 60;
    let heard = HeardDate { date: SAVED + DAY, sent: Duration::from_secs(5), valid_until: ENDS };
    time.observe_date(heard, at(late, Duration::ZERO));
    let now = time.now(at(late, Duration::ZERO));
    assert_eq!((now.trusted, now.confirmed), (SAVED + DAY, false));
}

#[test]
fn readings_that_arrive_out_of_order_do_not_turn_time_back() {
    let mut time = saved();
    time.now(at(100, Duration::ZERO));
    assert_eq!(time.now(at(50, Duration::ZERO)).boot, Duration::from_secs(100));
    assert_eq!(time.now(at(105, Duration::ZERO)).trusted, SAVED + Duration::from_secs(100));
}

#[test]
fn nothing_overflows() {
    let mut time = confirmed();
    for valid_until in [Duration::ZERO, LATEST, Duration::MAX] {
        for says in [Duration::ZERO, SAVED, LATEST, Duration::MAX] {
            for boot in [6, 70, 140] {
                time.raise(says, at(boot, Duration::MAX));
                let sent = Duration::from_secs(boot + 7);
                time.observe_date(HeardDate { date: says, sent, valid_until }, at(boot, Duration::MAX));
                time.set(says, at(boot, Duration::MAX));
                let now = time.now(at(boot, Duration::MAX));
                assert!(now.trusted >= SAVED - DAY);
                assert!(now.corrected.is_none_or(|correction| !correction.to_string().is_empty()));
            }
        }
    }
}
