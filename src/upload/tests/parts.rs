//! Clips that leave in parts, against a cloud on loopback.

use http::{HeaderValue, Method, header};

use super::{
    sink::{grant, status},
    *,
};
use crate::{hex::hex, media::Verdict};

/// How long a fragment lasts: two make a part.
const FRAGMENT: Duration = Duration::from_millis(500);

/// What a fragment of a clip holds.
fn fragment(number: u64) -> Bytes {
    vec![number as u8; 10_000].into()
}

fn in_parts(sink: &Sink) -> Bench {
    let bench = Bench::new(sink);
    bench.uploads.as_ref().unwrap().configure(&Upload { uplink_kbps: 0, while_recording: true });
    bench.open(PAID);
    bench
}

/// Whole bodies in the order in which they came. One that comes twice, because a cut kept the answer away, counts once.
fn stored(sink: &Sink) -> Vec<u8> {
    let mut bodies: Vec<_> = sink.puts().into_iter().filter(|put| put.whole).map(|put| put.body).collect();
    bodies.dedup();
    bodies.concat()
}

#[test]
fn a_clip_is_in_the_store_part_by_part_while_it_is_being_filmed() {
    let sink = Sink::generous(true);
    let bench = in_parts(&sink);
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, max) = bench.gate.begin(beginning).unwrap();
    let mut clip = Vec::new();
    for number in 1..=7 {
        assert_eq!(writer.append(fragment(number), number as u32 * FRAGMENT), Verdict::Continue { max });
        clip.extend_from_slice(&fragment(number));
    }
    until("three parts are stored before the clip is over", || stored(&sink).len() == 60_000);
    assert_eq!(bench.stored(), 0, "the clip is not whole");
    writer.finish(7 * FRAGMENT);
    until("the clip is whole", || bench.stored() == 1);
    assert_eq!(stored(&sink), clip, "the parts, one after the other, are the clip");

    let asked = sink.asked();
    let said: Vec<_> = asked.iter().map(|asked| (asked.part.map(|part| (part.index, part.last)), asked.duration_ms, asked.bytes)).collect();
    let part = |index, last| Some((index, last));
    assert_eq!(
        said,
        [(part(0, false), 1000, 20_000), (part(1, false), 1000, 20_000), (part(2, false), 1000, 20_000), (part(3, true), 500, 10_000)]
    );
    assert!(asked.iter().all(|other| (&other.clip, other.started_at) == (&asked[0].clip, asked[0].started_at)));
    let digests = sink.puts().iter().map(|put| hex(ring::digest::digest(&ring::digest::SHA256, &put.body).as_ref())).collect::<Vec<_>>();
    assert_eq!(asked.iter().map(|asked| asked.sha256.clone()).collect::<Vec<_>>(), digests);
    assert_eq!(bench.status().spool, Erased::default());
}

#[test]
fn a_large_fragment_is_a_part_of_its_own() {
    let sink = Sink::generous(false);
    let bench = in_parts(&sink);
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, _) = bench.gate.begin(beginning).unwrap();
    for number in 1..=3 {
        writer.append(vec![number as u8; 1_500_000].into(), number * FRAGMENT);
        until("what came before it is stored", || stored(&sink).len() == (number as usize - 1) * 1_500_000);
    }
    writer.finish(3 * FRAGMENT);
    until("the clip is whole", || bench.stored() == 1);
    assert_eq!(sink.asked().iter().map(|asked| asked.duration_ms).collect::<Vec<_>>(), [500; 3]);
}

/// Scenario 99, at the gate: no byte after the cut, and what the plan forbids is gone, filmed or waiting.
#[test]
fn s99_a_cancel_in_mid_event_erases_the_rest_of_the_clip() {
    let sink = Sink::generous(true);
    let bench = in_parts(&sink);
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, _) = bench.gate.begin(beginning).unwrap();
    for number in 1..=3 {
        assert!(matches!(writer.append(fragment(number), number as u32 * FRAGMENT), Verdict::Continue { .. }));
    }
    until("the first part is stored", || bench.status().spool.bytes == 10_000);
    let figures = bench.gate.cut(Some((NONE, AT)));
    assert_eq!(figures.erased, Erased { clips: 1, bytes: 10_000 });
    assert_eq!(writer.append(fragment(4), 4 * FRAGMENT), Verdict::Erased);
    drop(writer);
    bench.open(PAID);
    let next = bench.record(1000);
    until("another clip is stored", || bench.stored() == 1);
    let puts = sink.puts();
    assert_eq!((puts.len(), &puts[1].body), (2, &next), "of the first nothing more was sent");
}

/// Scenario 99: under a plan that allows the clip it goes on, and no part is stored twice or left out.
#[test]
fn s99_a_downgrade_that_allows_the_clip_lets_it_go_on() {
    let sink = Sink::generous(true);
    let bench = in_parts(&sink);
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, _) = bench.gate.begin(beginning).unwrap();
    let lesser = Policy { clip_max_s: 12, ..PAID };
    for number in 1..=9 {
        if number == 5 {
            assert_eq!(bench.gate.cut(Some((lesser, AT))).erased, Erased::default());
            bench.gate.open(Admission { record: lesser, keep: lesser, leave: lesser, position: AT });
        }
        assert!(matches!(writer.append(fragment(number), number as u32 * FRAGMENT), Verdict::Continue { .. }));
    }
    writer.finish(9 * FRAGMENT);
    until("the clip is whole", || bench.stored() == 1);
    assert_eq!(stored(&sink), (1..=9).flat_map(fragment).collect::<Vec<u8>>());
}

/// A clip of four parts, each filmed once the part before it is stored.
fn film(bench: &Bench, sink: &Sink, mut between: impl FnMut(u32)) -> Vec<u8> {
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, _) = bench.gate.begin(beginning).unwrap();
    let (before, clips) = (stored(sink).len(), bench.stored());
    let mut clip = Vec::new();
    for number in 1..=8 {
        writer.append(fragment(number.into()), number * FRAGMENT);
        clip.extend_from_slice(&fragment(number.into()));
        // A part ends with the fragment after it.
        let stored_by_now = (number as usize - 1) / 2 * 20_000;
        until("what came before it is stored", || stored(sink).len() == before + stored_by_now);
        between(number);
    }
    writer.finish(8 * FRAGMENT);
    until("the clip is whole", || bench.stored() == clips + 1);
    clip
}

#[test]
fn the_parts_of_a_clip_share_connections_and_the_next_clip_has_its_own() {
    for tls in [false, true] {
        let sink = Sink::generous(tls);
        let bench = in_parts(&sink);
        let clip = film(&bench, &sink, |_| ());
        assert_eq!((stored(&sink), sink.asked().len(), sink.connections()), (clip, 4, 2), "one to the API, one to the store");
        until("they are closed", || bench.gate.sockets.is_empty());
        film(&bench, &sink, |_| ());
        assert_eq!(sink.connections(), 4);
    }
}

#[test]
fn a_server_that_closes_after_each_answer_gets_the_parts_all_the_same() {
    let sink = Sink::start(true, |call| {
        let mut reply = if *call.method == Method::PUT { status(200) } else { grant(call) };
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        Some(reply)
    });
    let bench = in_parts(&sink);
    let clip = film(&bench, &sink, |_| ());
    assert_eq!((stored(&sink), sink.asked().len(), sink.connections()), (clip, 4, 8));
    assert_eq!(bench.status().last_fault, None);
}

#[test]
fn a_connection_that_ended_between_two_parts_fails_no_part() {
    let sink = Sink::generous(true);
    let bench = in_parts(&sink);
    let clip = film(&bench, &sink, |number| {
        if number == 5 {
            // As if a router had forgotten them.
            sink.hang_up();
        }
    });
    assert_eq!((stored(&sink), sink.asked().len(), sink.connections()), (clip, 4, 4));
    assert_eq!(bench.status().last_fault, None);
}

#[test]
fn a_cut_between_two_parts_kills_their_connections() {
    let sink = Sink::generous(true);
    let bench = in_parts(&sink);
    let lesser = Policy { clip_max_s: 12, ..PAID };
    film(&bench, &sink, |number| {
        if number == 5 {
            assert_eq!(bench.gate.sockets.open_count(), 2, "they wait for the next part");
            bench.gate.cut(Some((lesser, AT)));
            assert!(bench.gate.sockets.is_empty());
            bench.gate.open(Admission { record: lesser, keep: lesser, leave: lesser, position: AT });
        }
    });
    assert_eq!(sink.connections(), 4, "none is used across a cut");
}
