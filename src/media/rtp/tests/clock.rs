//! Presentation times: exactly RTP's while that clock can be right, arrival's otherwise, without holes, bursts or steps back.

use proptest::prelude::*;

use super::{super::times::Times, *};

/// Of RTP time, in milliseconds.
const TICK: f64 = 1.0 / 90.0;

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
struct Picture {
    rtp: f64,
    came: u64,
}

/// When each picture is shown, milliseconds from the first.
fn shown(pictures: &[Picture]) -> Vec<f64> {
    let began = Instant::now();
    let mut times = Times::new(NonZeroU32::new(90_000).unwrap());
    let show = |picture: &Picture| {
        let ticks = (picture.rtp * 90.0).round() as i64 as u32;
        times.next(ticks.wrapping_add(4_294_000_000), began + Duration::from_millis(picture.came), false) as f64 / 1e6
    };
    pictures.iter().map(show).collect()
}

/// `n` pictures at `fps`, whose RTP times are these functions of the true time in milliseconds.
fn camera(n: u64, fps: f64, rtp: impl Fn(u64, f64) -> f64) -> Vec<Picture> {
    (0..n)
        .map(|n| {
            let true_time = n as f64 * 1000.0 / fps;
            Picture { rtp: rtp(n, true_time), came: true_time.round() as u64 }
        })
        .collect()
}

/// No step is longer than `longest`, none goes back, and the whole is as long as it took within `tolerance`.
#[track_caller]
fn assert_even(name: &str, pictures: &[Picture], longest: f64, tolerance: f64) {
    let shown = shown(pictures);
    let steps: Vec<f64> = shown.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let worst = steps.iter().copied().fold(0.0, f64::max);
    assert!(steps.iter().all(|&step| step > 0.0), "{name}: goes back");
    assert!(worst <= longest, "{name}: a hole of {worst} ms at {:?}", steps.iter().position(|&step| step == worst));
    let (length, took) = (shown.last().unwrap(), pictures.last().unwrap().came as f64);
    assert!((length - took).abs() <= tolerance, "{name}: {length} ms shown, {took} ms filmed");
}

/// A frame's RTP time, seconds, by its number and its true time.
type Clock = dyn Fn(u64, f64) -> f64;

#[test]
fn clocks_that_cannot_be_right_are_replaced_by_arrival() {
    for fps in [5.0, 12.0, 15.0, 25.0, 30.0] {
        let interval = 1000.0 / fps;
        let n = (60.0 * fps) as u64;
        let clocks: [(&str, Box<Clock>); 17] = [
            ("constant", Box::new(|_, _| 0.0)),
            ("pairs", Box::new(move |n, _| (n / 2 * 2) as f64 * interval)),
            ("fours", Box::new(move |n, _| (n / 4 * 4) as f64 * interval)),
            ("ten times too fast", Box::new(|_, t| t * 10.0)),
            ("ten times too slow", Box::new(|_, t| t / 10.0)),
            ("twice too fast", Box::new(|_, t| t * 2.0)),
            ("half as fast", Box::new(|_, t| t / 2.0)),
            ("a thousand times too fast", Box::new(|_, t| t * 1000.0)),
            ("a fifth too fast", Box::new(|_, t| t * 1.2)),
            ("a tenth too slow", Box::new(|_, t| t * 0.9)),
            ("an hour ahead after 20 s", Box::new(|_, t| if t < 20_000.0 { t } else { t + 3_600_000.0 })),
            ("an hour back after 20 s", Box::new(|_, t| if t < 20_000.0 { t } else { t - 3_600_000.0 })),
            ("3 s ahead and back", Box::new(|_, t| if (20_000.0..30_000.0).contains(&t) { t + 3000.0 } else { t })),
            ("half a second back each 10 s", Box::new(|_, t| t - (t / 10_000.0).floor() * 500.0)),
            ("backwards", Box::new(|_, t| -t)),
            ("random", Box::new(|n, _| (n as u32).wrapping_mul(0x9E37_79B9) as f64 / 90.0)),
            ("constant from 20 s to 30 s", Box::new(|_, t| if (20_000.0..30_000.0).contains(&t) { 20_000.0 } else { t })),
        ];
        for (name, clock) in clocks {
            // A wrong clock may be believed for three windows: twice as fast costs three seconds once.
            assert_even(&format!("{name} at {fps}"), &camera(n, fps, clock), interval * 2.01 + 1.0, 3100.0);
        }
    }
}

#[test]
fn a_wrong_clock_is_found_within_seconds() {
    for (name, rate) in [("fast", 3.0), ("slow", 0.3)] {
        let shown = shown(&camera(300, 15.0, |_, t| t * rate));
        // What it has cost until then is taken back by a sixteenth of each step.
        let worst = shown[60..].windows(2).map(|pair| (pair[1] - pair[0] - 1000.0 / 15.0).abs()).fold(0.0, f64::max);
        assert!(worst < 1000.0 / 15.0 / 16.0 + 1.0, "{name}: a step differs by {worst} ms");
    }
}

#[test]
fn a_stall_of_the_network_changes_no_step() {
    for stall in [500, 1500, 3000, 7000, 15_000] {
        assert_exact(&stalled(camera(900, 15.0, |_, t| t), &[(20_000, stall)]));
    }
}

/// A server that sends what it holds at once when somebody connects.
#[test]
fn a_burst_at_the_beginning_changes_no_step() {
    for lead in [500, 2000, 5000] {
        let pictures: Vec<Picture> =
            camera(900, 15.0, |_, t| t).into_iter().map(|picture| Picture { came: picture.came.saturating_sub(lead), ..picture }).collect();
        assert_exact(&pictures);
    }
}

#[test]
fn time_lapse_and_slow_streams_keep_rtp_time() {
    for fps in [0.0166, 0.14, 1.0, 4.0] {
        assert_exact(&camera(50, fps, |_, t| t));
    }
}

/// Each picture is shown where its RTP time says: the tick is the rounding of the times in these tests.
#[track_caller]
fn assert_exact(pictures: &[Picture]) {
    for (n, (picture, shown)) in pictures.iter().zip(shown(pictures)).enumerate() {
        assert!((picture.rtp - pictures[0].rtp - shown).abs() < TICK, "picture {n}: {} shown at {shown}", picture.rtp);
    }
}

/// A stall of each of these, from and for how long in milliseconds: what would have come then comes at its end.
fn stalled(pictures: Vec<Picture>, stalls: &[(u64, u64)]) -> Vec<Picture> {
    let mut before = 0;
    let late = |picture: Picture| {
        let mut came = picture.came;
        for &(at, length) in stalls {
            if (at..at + length).contains(&came) {
                came = at + length;
            }
        }
        before = came.max(before);
        Picture { came: before, ..picture }
    };
    pictures.into_iter().map(late).collect()
}

/// Presentation was once corrected after this: two stalls that overlap, and a clock that is a little slow.
#[test]
fn stalls_that_overlap_change_no_step() {
    assert_exact(&stalled(camera(600, 10.0, |_, t| (t * 0.9995).round()), &[(7901, 2197), (7401, 999)]));
}

/// A camera that sends a few frames together is not slow between two bursts, wherever the first of them begins.
#[test]
fn frames_that_come_in_bursts_keep_their_steps_from_the_first_on() {
    for fps in [10.0, 15.0, 25.0, 30.0] {
        for (burst, phase) in [(2, 0), (5, 0), (5, 1), (5, 3), (5, 4)] {
            let interval = 1000.0 / fps;
            let together = |n: u64| ((n + phase) / burst * burst + burst - 1 - phase) as f64 * interval;
            let pictures = camera(300, fps, |_, t| t);
            let sent = (0_u64..).zip(pictures).map(|(n, picture)| Picture { came: (together(n) - together(0)).round() as u64, ..picture });
            assert_exact(&sent.collect::<Vec<_>>());
        }
    }
}

/// A day of a camera whose clock gains or loses 43 seconds: its steps are kept nearly always, and differ by a sixteenth else.
#[test]
fn a_clock_that_gains_or_loses_seconds_a_day_stays_with_arrival() {
    for rate in [0.9995, 1.0005] {
        let pictures = camera(5 * 86_400, 5.0, |_, t| t * rate);
        let shown = shown(&pictures);
        let mut kept = 0;
        for (n, pair) in pictures.windows(2).enumerate() {
            let (step, rtp) = (shown[n + 1] - shown[n], pair[1].rtp - pair[0].rtp);
            kept += usize::from((step - rtp).abs() < TICK);
            assert!((step - rtp).abs() < rtp / 16.0 + TICK, "{rate}, picture {n}: {step} ms");
            assert!((shown[n] - pair[0].came as f64).abs() < 600.0, "{rate}, picture {n}: {} shown at {}", pair[0].came, shown[n]);
        }
        assert!(kept * 100 > pictures.len() * 98, "{rate}: {kept} of {} steps are kept", pictures.len());
    }
}

/// A clock that is off by a few parts in a hundred is found wrong, without a jump.
#[test]
fn a_clock_that_is_a_little_off_is_left_smoothly() {
    for rate in [0.95, 0.97, 1.03, 1.05] {
        let pictures = camera(15 * 600, 15.0, |_, t| t * rate);
        let shown = shown(&pictures);
        for (pair, came) in shown.windows(2).zip(&pictures[1..]) {
            let step = pair[1] - pair[0];
            assert!((step - 66.7).abs() < 66.7 * 0.15, "{rate}: {step}");
            assert!((pair[1] - came.came as f64).abs() < 1500.0, "{rate}: {} shown at {}", came.came, pair[1]);
        }
    }
}

/// The steps of a stream with B pictures, as they are decoded: 0, 4, 2, 1, 3, 8, 6, 5, 7, …
#[test]
fn b_pictures_go_back_and_nothing_else_does() {
    let began = Instant::now();
    let mut times = Times::new(NonZeroU32::new(90_000).unwrap());
    let order = std::iter::once(0).chain((0..100).flat_map(|gop| [4, 2, 1, 3].map(|n| gop * 4 + n)));
    for (n, place) in (0_u32..).zip(order) {
        let shown = times.next(place * TICKS, began + Duration::from_secs(1) * n / FPS, place % 4 != 0);
        assert_eq!(shown / 1000, i64::from(place) * 1_000_000 / i64::from(FPS), "picture {n}");
    }
}

#[test]
fn frames_of_a_camera_with_constant_times_are_shown_as_they_come() {
    let units = h264(45);
    let sent = packets(Codec::H264, &units).into_iter().map(|packet| Packet { timestamp: 5, ..packet });
    let received = receive(Codec::H264, sent);
    assert_whole(Codec::H264, &units, &received);
    assert!(received.steps_ms().iter().all(|step| (65..=68).contains(step)), "{:?}", received.steps_ms());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A good camera behind a network that delays each picture by less than an interval, and now and then stalls, also at the
    /// very beginning.
    #[test]
    fn a_good_stream_keeps_its_steps(
        fps in prop_oneof![Just(10.0), Just(15.0), Just(25.0), Just(30.0)],
        delays in proptest::collection::vec(0.0..0.25_f64, 300..600),
        early in (0..4_000_u64, 0..4_000_u64),
        mut stalls in proptest::collection::vec((8_000..20_000_u64, 100..4_000_u64), 0..3),
        rate in 0.9995..1.0005_f64,
        burst in prop_oneof![Just(1_u64), 1..6_u64],
    ) {
        let interval = 1000.0 / fps;
        let sent = (0_u64..).zip(&delays).map(|(n, delay)| Picture {
            rtp: (n as f64 * interval * rate).round(),
            came: ((n / burst * burst) as f64 * interval + delay * interval) as u64,
        });
        let mut before = 0;
        let in_order = sent.map(|picture| { before = picture.came.max(before); Picture { came: before, ..picture } });
        stalls.push(early);
        let mut pictures = stalled(in_order.collect(), &stalls);
        let first = pictures[0].came;
        pictures.iter_mut().for_each(|picture| picture.came -= first);
        for (n, (picture, shown)) in pictures.iter().zip(shown(&pictures)).enumerate() {
            prop_assert!((picture.rtp - shown).abs() < TICK, "picture {} of {}: {} shown at {}", n, delays.len(), picture.rtp, shown);
        }
    }

    /// Any clock at all: never back, never more than twenty seconds from arrival.
    #[test]
    fn any_clock_is_bounded(pictures in proptest::collection::vec((any::<u32>(), 0..3_000_u64, any::<bool>()), 2..300), few in any::<bool>()) {
        let began = Instant::now();
        let mut times = Times::new(NonZeroU32::new(90_000).unwrap());
        let (mut came, mut latest) = (0, i64::MIN);
        for (n, (rtp, wait, reorders)) in pictures.into_iter().enumerate() {
            came += if n > 0 { wait } else { 0 };
            let rtp = if few { rtp % 50 * 9000 } else { rtp };
            let shown = times.next(rtp, began + Duration::from_millis(came), reorders);
            let away = (shown / 1_000_000 - i64::try_from(came).unwrap()).abs();
            prop_assert!(away <= 20_100, "{away} ms from arrival");
            if !reorders {
                prop_assert!(shown > latest, "goes back");
            }
            latest = latest.max(shown);
        }
    }
}
