//! Lost, malformed and endless packets: what they cost, and that it is counted.

use proptest::{prelude::*, test_runner::RngSeed};

use super::*;

/// The packets of 60 frames, and for each its frame.
fn sent(codec: Codec, units: &Units) -> Vec<(usize, Packet)> {
    packets(codec, units).into_iter().map(|packet| ((packet.timestamp.wrapping_sub(4_000_000_000) / TICKS) as usize, packet)).collect()
}

#[test]
fn after_a_loss_nothing_is_given_until_the_next_entry_point() {
    for (codec, units) in [(Codec::H264, h264(60)), (Codec::H265, h265(60))] {
        let good = sent(codec, &units);
        // The first, a middle and the last packet of a keyframe and of another frame; whole frames; the end of one and the next.
        let of = |n: usize| good.iter().enumerate().filter(move |(_, (frame, _))| *frame == n).map(|(at, _)| at);
        let (first, last) = (of(15).next().unwrap(), of(15).last().unwrap());
        for (name, missing) in [
            ("a keyframe's middle", last - 1..last),
            ("a keyframe's end", last..last + 1),
            ("a frame", of(20).next().unwrap()..of(21).next().unwrap()),
            ("three frames", of(20).next().unwrap()..of(23).next().unwrap()),
            ("the end of one and the next", of(19).last().unwrap()..of(21).next().unwrap()),
            ("a keyframe's slice from its beginning", first + 4..last),
        ] {
            let lost = u16::try_from(missing.len()).unwrap();
            let with_gap = good.iter().enumerate().filter(|(at, _)| !missing.contains(at)).map(|(at, (_, packet))| {
                let lost = if at == missing.end { lost } else { 0 };
                Packet { lost, ..packet.clone() }
            });
            let received = receive(codec, with_gap);
            let hurt = good[missing.start].0;
            let whole: Vec<Vec<u8>> = units.iter().map(|unit| as_sample(codec, unit)).collect();
            let given: Vec<usize> =
                received.frames.iter().map(|frame| whole.iter().position(|data| *data == frame.data).expect("a whole frame")).collect();
            let expected: Vec<usize> = (0..hurt).chain(30..60).collect();
            assert_eq!(given, expected, "{codec:?}, {name}");
            assert!(received.lost.iter().all(|(_, why)| *why == reason::PACKETS_LOST || *why == reason::HEADLESS), "{:?}", received.lost);
            let seen: std::collections::BTreeSet<usize> =
                good.iter().enumerate().filter(|(at, _)| !missing.contains(at)).map(|(_, (frame, _))| *frame).collect();
            assert_eq!(received.frames.len() as u64 + received.lost(), seen.len() as u64, "{codec:?}, {name}: {:?}", received.lost);
        }
    }
}

#[test]
fn the_frame_before_a_loss_is_given_if_its_marker_came() {
    let units = h264(30);
    let lossy = sent(Codec::H264, &units).into_iter().filter(|(frame, _)| !(5..15).contains(frame)).map(|(frame, packet)| {
        let first = frame == 15 && packet.payload[0] & 31 == 7;
        Packet { lost: if first { 12 } else { 0 }, ..packet }
    });
    let received = receive(Codec::H264, lossy);
    assert_eq!((received.frames.len(), received.lost(), received.gaps), (20, 0, 1));
}

#[test]
fn a_malformed_packet_costs_its_frame_and_the_rest_of_the_gop_and_no_session() {
    for (codec, units) in [(Codec::H264, h264(45)), (Codec::H265, h265(45))] {
        let malformed: &[&[u8]] = match codec {
            Codec::H264 => &[&[24, 0xFF, 0xFF, 1], &[0x7C], &[29, 1, 2, 3], &[25, 0, 0, 0], &[0x61], &[0x7C, 0x05, 7], &[24, 0, 1]],
            Codec::H265 => &[&[0x60, 1, 0xFF, 0xFF, 1], &[0x62, 1], &[0x62, 1, 0x13, 7], &[2], &[2, 1]],
        };
        for bytes in malformed {
            for (at_frame, marked) in [(20, true), (20, false), (15, true)] {
                let mut sent = sent(codec, &units);
                let place = sent.iter().rposition(|(frame, _)| *frame == at_frame).unwrap();
                let bad = Packet { payload: Bytes::copy_from_slice(bytes), mark: false, ..sent[place].1.clone() };
                sent.insert(place, (at_frame, bad));
                let received = receive(codec, sent.into_iter().map(|(_, packet)| Packet { mark: marked && packet.mark, ..packet }));
                let context = format!("{codec:?} {bytes:?} at {at_frame}, marked {marked}: {:?}", received.lost);
                assert_eq!(received.frames.len() as u64 + received.lost(), 45, "{context}");
                let (least, most) = (at_frame - 1 + 15, at_frame + 15 + 15);
                assert!((least..=most).contains(&received.frames.len()), "{context}");
                assert!(received.frames[received.frames.len() - 15].key, "{context}");
                let reasons = [reason::MALFORMED, reason::HEADLESS];
                assert!(received.lost.iter().all(|(_, why)| reasons.contains(why)), "{context}");
            }
        }
    }
}

#[test]
fn what_the_rfcs_reserve_is_ignored() {
    for (codec, units, reserved) in [
        (Codec::H264, h264(30), &[&[31, 1, 2][..], &[0x60, 9], &[0xFF; 20], &[]][..]),
        (Codec::H265, h265(30), &[&[0x64, 1, 2][..], &[0x7E, 1, 9], &[50 << 1, 1, 0, 0], &[]]),
    ] {
        let with_reserved = packets(codec, &units).into_iter().flat_map(|packet| {
            let mut both: Vec<Packet> =
                reserved.iter().map(|bytes| Packet { payload: Bytes::copy_from_slice(bytes), mark: false, ..packet.clone() }).collect();
            both.push(packet);
            both
        });
        assert_whole(codec, &units, &receive(codec, with_reserved));
    }
}

#[test]
fn an_access_unit_without_end_is_counted_and_holds_no_more_than_its_limit() {
    let units = film(Codec::H264, 30, &["-g", "15", "-bf", "0", "-x264-params", "slices=2", "-qp", "40"]);
    let mut sent = packets(Codec::H264, &units);
    let place = sent.iter().rposition(|packet| packet.timestamp == sent[0].timestamp.wrapping_add(3 * TICKS)).unwrap();
    // More slices of the same picture, for ever.
    let slice = units[3].last().unwrap();
    let more = Packet { payload: [&slice[..], &[0x55; 60_000]].concat().into(), mark: false, ..sent[place].clone() };
    sent.splice(place + 1..place + 1, std::iter::repeat_n(more, 100));
    let received = receive(Codec::H264, sent);
    assert!(received.lost_for(reason::TOO_LARGE) >= 1, "{:?}", received.lost);
    assert!(received.frames.iter().all(|frame| frame.data.len() <= LARGEST));
    assert!(received.frames.len() >= 15 && received.frames[received.frames.len() - 15].key);
}

#[test]
fn a_stream_joined_in_mid_frame_begins_at_its_next_keyframe() {
    for (codec, units) in [(Codec::H264, h264(40)), (Codec::H265, h265(40))] {
        let good = sent(codec, &units);
        let place = good.iter().rposition(|(frame, _)| *frame == 0).unwrap();
        let received = receive(codec, good[place..].iter().map(|(_, packet)| packet.clone()));
        assert_eq!((received.frames.len(), received.frames[0].key), (25, true), "{:?}", received.lost);
        assert_eq!(received.lost(), 15, "{:?}", received.lost);
    }
}

fn any_packet() -> impl Strategy<Value = (Vec<u8>, u32, bool, u16, u32)> {
    (proptest::collection::vec(any::<u8>(), 0..40), any::<u32>(), any::<bool>(), prop_oneof![9 => Just(0), 1 => any::<u16>()], 0..5_000_u32)
}

proptest! {
    // The same cases each time; the fuzz target `rtp` looks for others.
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(20_261_130), ..ProptestConfig::with_cases(500) })]

    /// Whatever comes, every access unit is a frame or counted, frames after a loss begin with a keyframe, and nothing panics.
    #[test]
    fn any_packets_are_survived(h265 in any::<bool>(), packets in proptest::collection::vec(any_packet(), 0..200)) {
        let codec = if h265 { Codec::H265 } else { Codec::H264 };
        let mut received = Instant::now();
        let packets = packets.into_iter().map(|(payload, timestamp, mark, lost, wait)| {
            received += Duration::from_millis(wait.into());
            Packet { payload: payload.into(), timestamp, mark, lost, received }
        });
        receive(codec, packets);
    }

    /// A real stream with any packets missing, repeated in bits or cut.
    #[test]
    fn a_damaged_stream_gives_whole_frames_and_begins_again_at_keyframes(
        h265 in any::<bool>(),
        faults in proptest::collection::vec((0..400_usize, 0..4_u8, any::<u16>()), 0..12),
    ) {
        static FILMS: std::sync::LazyLock<[(Codec, Units); 2]> =
            std::sync::LazyLock::new(|| [(Codec::H264, h264(60)), (Codec::H265, super::h265(60))]);
        let (codec, units) = &FILMS[usize::from(h265)];
        let mut sent = packets(*codec, units);
        for (at, fault, value) in faults {
            let at = at % sent.len();
            let payload = sent[at].payload.to_vec();
            match fault {
                0 if sent.len() > 1 => {
                    let gone = sent.remove(at);
                    if let Some(next) = sent.get_mut(at) {
                        next.lost = next.lost.saturating_add(gone.lost).saturating_add(1);
                    }
                }
                1 => sent[at].mark = !sent[at].mark,
                2 => sent[at].payload = Bytes::copy_from_slice(&payload[..usize::from(value) % (payload.len() + 1)]),
                _ => {
                    let mut payload = payload;
                    let place = usize::from(value / 8) % payload.len().max(1);
                    if let Some(byte) = payload.get_mut(place) {
                        *byte ^= 1 << (value % 8);
                    }
                    sent[at].payload = payload.into();
                }
            }
        }
        let mut depayloader = Depayloader::new(*codec, NonZeroU32::new(90_000).unwrap(), vec![]);
        let mut incomplete = true;
        let mut check = |output: Output| match output {
            Output::Frame(frame) => {
                assert!(frame.key || !incomplete, "a frame after a loss that is no keyframe");
                incomplete = false;
            }
            Output::Lost { .. } | Output::Gap => incomplete = true,
        };
        for packet in sent {
            depayloader.push(packet, &mut check);
        }
        depayloader.end(&mut check);
    }
}
