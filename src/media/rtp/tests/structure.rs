//! Access units by their own structure, whatever markers, RTP times and packets say.

use super::*;

fn both() -> [(Codec, Units); 4] {
    [
        (Codec::H264, h264(40)),
        (Codec::H265, h265(40)),
        (Codec::H264, film(Codec::H264, 40, &["-g", "15", "-bf", "0", "-x264-params", "slices=4"])),
        (Codec::H265, film(Codec::H265, 40, &["-x265-params", &x265("bframes=0:open-gop=0:slices=3")])),
    ]
}

#[test]
fn a_good_stream_becomes_its_frames() {
    for (codec, units) in both() {
        let received = receive(codec, packets(codec, &units));
        assert_whole(codec, &units, &received);
        let keys: Vec<usize> = (0..40).filter(|&n| received.frames[n].key).collect();
        assert_eq!(keys, [0, 15, 30]);
        assert!(received.frames.iter().all(|frame| Arc::ptr_eq(&frame.format, &received.frames[0].format)), "the sets did not change");
        assert_eq!((received.frames[0].format.width, received.frames[0].format.height), (320, 240));
    }
}

/// What a camera may do to the markers of its packets.
type Marking = fn(Codec, &[u8], bool) -> bool;

#[test]
fn markers_decide_nothing() {
    let markings: [(&str, Marking); 6] = [
        ("never", |_, _, _| false),
        ("each packet", |_, _, _| true),
        ("messages too", |codec, payload, marked| marked || matches!((codec, kind(codec, payload)), (Codec::H264, 6) | (Codec::H265, 39))),
        ("messages only", |codec, payload, _| matches!((codec, kind(codec, payload)), (Codec::H264, 6) | (Codec::H265, 39))),
        ("parameter sets", |codec, payload, marked| marked || is_set(codec, payload)),
        ("the other way round", |_, _, marked| !marked),
    ];
    for (codec, units) in both() {
        for (name, marking) in markings {
            let marked = packets(codec, &units).into_iter().map(|packet| {
                let mark = marking(codec, &packet.payload, packet.mark);
                Packet { mark, ..packet }
            });
            println!("{codec:?}, {name}");
            assert_whole(codec, &units, &receive(codec, marked));
        }
    }
}

#[test]
fn rtp_times_do_not_part_access_units() {
    for (codec, units) in both() {
        let good = packets(codec, &units);
        type Timing = fn(u32, u32) -> u32;
        let timings: [(&str, Timing); 5] = [
            ("constant", |_, _| 7),
            ("pairs", |time, _| time / (2 * TICKS) * (2 * TICKS)),
            ("each packet its own", |time, n| time.wrapping_add(n * 10)),
            ("backwards", |time, _| 0_u32.wrapping_sub(time)),
            ("random", |_, n| n.wrapping_mul(0x9E37_79B9)),
        ];
        for (name, timing) in timings {
            let timed = (0..).zip(good.clone()).map(|(n, packet)| Packet { timestamp: timing(packet.timestamp, n), ..packet });
            println!("{codec:?}, {name}");
            assert_whole(codec, &units, &receive(codec, timed));
        }
    }
}

#[test]
fn every_packetization_gives_the_same_frames() {
    for (codec, units) in both() {
        type Packetize = fn(Codec, &[Vec<u8>]) -> Vec<Bytes>;
        let ways: [(&str, Packetize); 6] = [
            ("whole NAL units", |_, unit| unit.iter().cloned().map(Bytes::from).collect()),
            ("tiny fragments", |codec, unit| unit.iter().flat_map(|nal| fragments(codec, nal, 3)).collect()),
            ("aggregates", |codec, unit| vec![aggregate(codec, unit)]),
            ("one byte stream", |_, unit| vec![byte_stream(unit)]),
            ("a byte stream in fragments", |codec, unit| fragments(codec, &byte_stream(unit)[4..], 700)),
            ("zeros behind", |_, unit| unit.iter().map(|nal| [&nal[..], &[0; 5]].concat().into()).collect()),
        ];
        for (name, way) in ways {
            let began = Instant::now();
            let packets = (0_u32..).zip(&units).flat_map(|(n, unit)| {
                let received = began + Duration::from_secs(1) * n / FPS;
                way(codec, unit).into_iter().map(move |payload| Packet { payload, timestamp: n * TICKS, mark: false, lost: 0, received })
            });
            println!("{codec:?}, {name}");
            assert_whole(codec, &units, &receive(codec, packets));
        }
    }
}

fn aggregate(codec: Codec, unit: &[Vec<u8>]) -> Bytes {
    let mut payload = match codec {
        Codec::H264 => vec![24],
        Codec::H265 => vec![48 << 1, 1],
    };
    for nal in unit {
        payload.extend_from_slice(&u16::try_from(nal.len()).unwrap().to_be_bytes());
        payload.extend_from_slice(nal);
    }
    payload.into()
}

fn byte_stream(unit: &[Vec<u8>]) -> Bytes {
    unit.iter().flat_map(|nal| [&[0, 0, 0, 1], &nal[..]].concat()).collect::<Vec<u8>>().into()
}

/// Cheap encoders give all their IDR pictures the same numbers: then only the first macroblock tells two pictures apart.
#[test]
fn equal_pictures_of_several_slices_are_told_apart() {
    let units = film(Codec::H264, 10, &["-g", "1", "-bf", "0", "-x264-params", "slices=4"]);
    let same: Units = (0..10).map(|_| units[0].clone()).collect();
    assert_whole(Codec::H264, &same, &receive(Codec::H264, packets(Codec::H264, &same)));
}

/// As some cameras do: a message between the slices of a picture does not end it, and one behind them belongs to the next.
#[test]
fn messages_between_slices_do_not_part_a_picture() {
    let mut units = film(Codec::H264, 20, &["-g", "10", "-bf", "0", "-x264-params", "slices=3"]);
    for unit in &mut units {
        let last = unit.len() - 1;
        unit.insert(last, vec![6, 5, 1, 0xAB, 0x80]);
    }
    assert_whole(Codec::H264, &units, &receive(Codec::H264, packets(Codec::H264, &units)));
}

#[test]
fn other_layers_delimiters_and_filler_are_left_out() {
    let units = h264(20);
    let more: Units = units
        .iter()
        .map(|unit| {
            let mut more = vec![vec![9, 0xF0]];
            for nal in unit {
                // A prefix NAL unit and an enhancement layer around each slice, as SVC has them; filler at the end.
                more.push(vec![14, 0x40, 0x80, 7]);
                more.push(nal.clone());
                more.push(vec![20, 0x40, 0x80, 7, 9]);
            }
            more.push(vec![12, 0xFF, 0xFF, 0x80]);
            more
        })
        .collect();
    assert_whole(Codec::H264, &units, &receive(Codec::H264, packets(Codec::H264, &more)));
}

#[test]
fn two_fields_make_one_frame() {
    let units = film(Codec::H264, 30, &["-g", "15", "-bf", "0", "-flags", "+ildct+ilme", "-x264-params", "tff=1"]);
    assert_whole(Codec::H264, &units, &receive(Codec::H264, packets(Codec::H264, &units)));
}

/// A time-lapse camera: a finished frame does not wait for the next one, which comes a minute later.
#[test]
fn a_finished_frame_is_given_in_silence() {
    for (marked, soon, later) in [(true, 100, 400), (false, 400, 1100)] {
        let units = h264(2);
        let mut depayloader = Depayloader::new(Codec::H264, NonZeroU32::new(90_000).unwrap(), vec![]);
        let mut received = Received::default();
        let sent: Vec<Packet> =
            packets(Codec::H264, &units[..1].to_vec()).into_iter().map(|packet| Packet { mark: marked && packet.mark, ..packet }).collect();
        let (cut, whole) = (sent.len() - 1, sent[0].received);
        for packet in &sent[..cut] {
            depayloader.push(packet.clone(), &mut |output| received.take(output));
        }
        depayloader.quiet(whole + Duration::from_secs(60), &mut |output| received.take(output));
        assert_eq!(received.frames.len(), 0, "half a frame waits for the rest");
        depayloader.push(sent[cut].clone(), &mut |output| received.take(output));
        depayloader.quiet(whole + Duration::from_millis(soon), &mut |output| received.take(output));
        assert_eq!(received.frames.len(), 0);
        depayloader.quiet(whole + Duration::from_millis(later), &mut |output| received.take(output));
        depayloader.quiet(whole + Duration::from_secs(30), &mut |output| received.take(output));
        assert_eq!((received.frames.len(), received.lost()), (1, 0));
    }
}
