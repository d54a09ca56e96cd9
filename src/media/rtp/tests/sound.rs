//! Sound beside pictures that come at the same time: where each unit is heard, by arrival and by what the camera reports.

use std::sync::LazyLock;

use super::*;
use crate::media::sound::{Sound, SoundFormat};

/// From an access unit to the next: 1024 samples at 16 kHz.
const STEP: Duration = Duration::from_millis(64);
/// The first sound is heard so long after the first picture is shown, and comes later than it should by this.
const AFTER: Duration = Duration::from_millis(500);
const LATE: Duration = Duration::from_millis(150);
/// RTP times at the first picture.
const PICTURE: u32 = 4_000_000_000;
const SOUND: u32 = 4_294_900_000;

/// A second of the camera's clock, in a report.
const SECOND: u64 = 1 << 32;

static FILM: LazyLock<Vec<Packet>> = LazyLock::new(|| packets(Codec::H264, &h264(150)));

fn depayloader() -> SoundDepayloader {
    let format = Arc::new(SoundFormat::plain(16_000, 1).unwrap());
    SoundDepayloader::new(&SoundCoding::Aac(AuHeaders::HIGH_RATE, format), NonZeroU32::new(16_000).unwrap())
}

/// When the n-th access unit is heard.
fn heard_at(n: u32) -> Duration {
    AFTER + STEP * n
}

/// Packets of two units each.
fn sound(began: Instant) -> Vec<Packet> {
    (0..130_u32)
        .step_by(2)
        .map(|n| Packet {
            payload: Bytes::from(vec![0, 32, 0, 1 << 3, 0, 1 << 3, n as u8, n as u8 + 1]),
            timestamp: SOUND.wrapping_add((heard_at(n).as_secs_f64() * 16_000.0).round() as u32),
            mark: true,
            lost: 0,
            received: began + heard_at(n) + LATE,
        })
        .collect()
}

/// What is heard of film and sound in the order in which they come. `ahead` is by how much the camera's clock of sound is ahead of that
/// of pictures, in 1/2³² s; `None`: it reports nothing.
fn hear(ahead: Option<u64>, change: impl Fn(usize, Packet) -> Option<Packet>) -> (Vec<Sound>, u64) {
    let began = FILM[0].received;
    let (mut pictures, mut beside) = (Depayloader::new(Codec::H264, NonZeroU32::new(90_000).unwrap(), Vec::new()), depayloader());
    let mut all: Vec<(bool, Packet)> = FILM.iter().map(|packet| (false, packet.clone())).collect();
    all.extend(sound(began).into_iter().enumerate().filter_map(|(n, packet)| change(n, packet)).map(|packet| (true, packet)));
    all.sort_by_key(|(_, packet)| packet.received);
    let (mut units, mut lost, mut reported) = (Vec::new(), 0, 0);
    for (is_sound, packet) in all {
        let second = packet.received.duration_since(began).as_secs();
        if let (Some(ahead), true) = (ahead, second > reported) {
            reported = second;
            let ntp = (3_900_000_000 + second) * SECOND;
            beside.picture_reported(Report { ntp, rtp: PICTURE.wrapping_add(second as u32 * 90_000) });
            beside.sound_reported(Report { ntp: ntp.wrapping_add(ahead), rtp: SOUND.wrapping_add(second as u32 * 16_000) });
        }
        if is_sound {
            beside.push(&packet, &pictures, &mut |heard| match heard {
                Heard::Unit(_, unit) | Heard::Samples(_, unit) => units.push(unit),
                Heard::Lost(units) => lost += units,
            });
        } else {
            pictures.push(packet, &mut |_| {});
        }
    }
    (units, lost)
}

/// By how much each unit is heard later than it should be, milliseconds.
fn late(units: &[Sound]) -> Vec<i64> {
    units.iter().map(|unit| unit.pts.as_millis() as i64 - heard_at(unit.data[0].into()).as_millis() as i64).collect()
}

#[test]
fn without_reports_sound_is_heard_as_it_comes_with_the_steps_of_its_clock() {
    let (units, lost) = hear(None, |_, packet| Some(packet));
    assert_eq!((units.len(), lost), (130, 0));
    assert!(late(&units).iter().all(|late| *late == 150), "{:?}", late(&units));
    assert!(units.windows(2).all(|pair| pair[1].pts - pair[0].pts == STEP));
}

#[test]
fn with_reports_sound_is_exactly_beside_its_pictures() {
    let (units, lost) = hear(Some(0), |_, packet| Some(packet));
    assert_eq!((units.len(), lost), (130, 0));
    let late = late(&units);
    let aligned = late.iter().position(|late| *late != 150).unwrap();
    // The clock of the pictures must be found right first.
    assert!(heard_at(aligned as u32) < Duration::from_secs(5), "{late:?}");
    assert!(late[aligned..].iter().all(|late| late.abs() <= 1), "{late:?}");
    // Sound whose clock is 400 ms ahead was heard 400 ms later.
    let later = self::late(&hear(Some(SECOND * 2 / 5), |_, packet| Some(packet)).0);
    assert!((later.last().unwrap() - 400).abs() <= 1, "{later:?}");
}

#[test]
fn reports_that_cannot_be_right_are_passed_over() {
    for ahead in [SECOND * 4, SECOND * 3600, 0_u64.wrapping_sub(SECOND * 4), 1 << 63] {
        let (units, _) = hear(Some(ahead), |_, packet| Some(packet));
        assert!(late(&units).iter().all(|late| *late == 150), "{ahead}");
    }
}

#[test]
fn sound_before_the_first_picture_is_left_out_and_what_is_lost_is_counted() {
    let early = hear(None, |n, packet| {
        let early = Packet { received: FILM[0].received.checked_sub(Duration::from_secs(1)).unwrap(), ..packet.clone() };
        Some(if n == 0 { early } else { packet })
    });
    assert!(early.0.iter().all(|unit| unit.pts > Duration::ZERO), "{:?}", early.0);
    assert_eq!(early.0.len(), 128);
    // The tenth packet is lost.
    let (units, lost) = hear(None, |n, packet| match n {
        10 => None,
        11 => Some(Packet { lost: 1, ..packet }),
        _ => Some(packet),
    });
    assert_eq!((units.len(), lost), (128, 1));
    assert!(late(&units).iter().all(|late| *late == 150), "the hole stays a hole");
}
