//! Presentation times: exactly RTP's while that clock can be right, arrival's otherwise, without holes, bursts or steps back.

use proptest::{prelude::*, test_runner::RngSeed};

use super::{super::times::Times, *};

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
        let from = shown[60];
        assert!((shown[299] - from - 239.0 * 1000.0 / 15.0).abs() < 20.0, "{name}: {} ms", shown[299] - from);
    }
}

#[test]
fn a_stall_of_the_network_changes_no_step() {
    for stall in [500, 1500, 3000, 7000] {
        let pictures: Vec<Picture> = camera(900, 15.0, |_, t| t)
            .into_iter()
            .map(|picture| Picture {
                came: if (20_000..20_000 + stall).contains(&picture.came) { 20_000 + stall } else { picture.came },
                ..picture
            })
            .collect();
        assert_exact(&pictures);
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

#[track_caller]
fn assert_exact(pictures: &[Picture]) {
    for (n, (picture, shown)) in pictures.iter().zip(shown(pictures)).enumerate() {
        assert!((picture.rtp - pictures[0].rtp - shown).abs() < 0.02, "picture {n}: {} shown at {shown}", picture.rtp);
    }
}

/// A clock that is off by less than an eighth is followed, and the drift is taken back without a jump.
#[test]
fn drift_is_corrected_smoothly() {
    for rate in [0.95, 1.0001, 1.05] {
        let pictures = camera(15 * 600, 15.0, |_, t| t * rate);
        let shown = shown(&pictures);
        for (pair, came) in shown.windows(2).zip(&pictures[1..]) {
            let step = pair[1] - pair[0];
            assert!((step - 66.7).abs() < 66.7 * 0.2, "{rate}: {step}");
            assert!((pair[1] - came.came as f64).abs() < 1500.0, "{rate}");
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

/// Always the same cases, so that a run says the same of the same program.
fn cases() -> ProptestConfig {
    ProptestConfig { rng_seed: RngSeed::Fixed(20_261_130), ..ProptestConfig::with_cases(300) }
}

proptest! {
    #![proptest_config(cases())]

    /// A good camera behind a network that delays each picture by less than an interval, and now and then stalls.
    #[test]
    fn a_good_stream_keeps_its_steps(
        fps in prop_oneof![Just(10.0), Just(15.0), Just(25.0), Just(30.0)],
        delays in proptest::collection::vec(0.0..0.25_f64, 300..600),
        stalls in proptest::collection::vec((5_000..20_000_u64, 100..4_000_u64), 0..3),
        rate in 0.9995..1.0005_f64,
    ) {
        let mut before = 0;
        let pictures: Vec<Picture> = (0_u64..).zip(&delays).map(|(n, delay)| {
            let interval = 1000.0 / fps;
            let mut came = (n as f64 * interval + delay * interval) as u64;
            for &(at, length) in &stalls {
                if (at..at + length).contains(&came) {
                    came = at + length;
                }
            }
            before = came.max(before);
            Picture { rtp: (n as f64 * interval * rate).round(), came: before }
        }).collect();
        for (n, (picture, shown)) in pictures.iter().zip(shown(&pictures)).enumerate() {
            // Not exact: two stalls that overlap look like drift, and one case was 1.05 ms off by picture 98. How far that goes
            // has not been measured; 20 ms is a bound that these cases keep, not one that is derived.
            prop_assert!((picture.rtp - shown).abs() < 20.0, "picture {} of {}: {} shown at {}", n, delays.len(), picture.rtp, shown);
        }
    }

    /// Any clock at all: never back, never more than twenty seconds from arrival.
    #[test]
    fn any_clock_is_bounded(pictures in proptest::collection::vec((any::<u32>(), 0..3_000_u64, any::<bool>()), 2..300), few in any::<bool>()) {
        let began = Instant::now();
        let mut times = Times::new(NonZeroU32::new(90_000).unwrap());
        let (mut came, mut latest) = (0, i64::MIN);
        for (rtp, wait, reorders) in pictures {
            came += wait;
            let rtp = if few { rtp % 50 * 9000 } else { rtp };
            let shown = times.next(rtp, began + Duration::from_millis(came), reorders);
            let away = (shown / 1_000_000 - i64::try_from(came).unwrap()).abs();
            prop_assert!(away <= 21_000, "{away} ms from arrival");
            if !reorders {
                prop_assert!(shown > latest, "goes back");
            }
            latest = latest.max(shown);
        }
    }
}
