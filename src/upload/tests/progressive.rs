//! Clips that leave whole get another header when they are complete, against a cloud on loopback.

use super::*;
use crate::{
    hex::hex,
    media::{ClipWriter, Progressive, Verdict},
};

const FRAGMENT: Duration = Duration::from_millis(900);

fn begin(bench: &Bench) -> Box<dyn ClipWriter> {
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    bench.gate.begin(beginning).expect("a clip may begin").0
}

/// Its first 700 bytes are the header that is replaced.
fn fragment(number: u32) -> Bytes {
    vec![number as u8; 10_000].into()
}

fn offered() -> Progressive {
    Progressive { header: vec![99; 2500].into(), replaces: 700 }
}

/// What the store should have of so many fragments.
fn whole(fragments: u32) -> Vec<u8> {
    [&offered().header, &(1..=fragments).flat_map(fragment).collect::<Vec<u8>>()[700..]].concat()
}

/// Films so many fragments, and offers the header.
fn film(bench: &Bench, fragments: u32) {
    let mut writer = begin(bench);
    for number in 1..=fragments {
        assert!(matches!(writer.append(fragment(number), number * FRAGMENT), Verdict::Continue { .. }));
    }
    writer.offer(offered());
    writer.finish(fragments * FRAGMENT);
}

fn digest(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

#[test]
fn a_clip_that_leaves_whole_has_the_header_and_counts_what_is_sent() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.open(NONE);
    film(&bench, 3);
    let whole = whole(3);
    assert_eq!(bench.status().spool, Erased { clips: 1, bytes: whole.len() as u64 });
    assert_eq!(bench.status().memory_bytes, whole.len() as u64);
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
    let (puts, asked) = (sink.puts(), sink.asked());
    assert!(puts.len() == 1 && puts[0].whole && puts[0].body == whole);
    assert_eq!((asked[0].bytes, asked[0].duration_ms), (whole.len() as u64, 2700));
    assert_eq!(asked[0].sha256, digest(&whole));
}

#[test]
fn it_has_the_same_bytes_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let bench = || Bench::on(Peers { api: sink.origin(), store: None }, 0, 1_000_000, dir.path().join("spool"));
    let first = bench();
    first.open(NONE);
    film(&first, 2);
    drop(first);
    let again = bench();
    let date = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let sent = again.gate.clock.now().boot;
    again.gate.clock.observe_date(care_engine::trusted_time::HeardDate { date, sent, valid_until: care_engine::trusted_time::LATEST });
    again.open(PAID);
    until("stored", || again.stored() == 1);
    assert!(sink.puts()[0].body == whole(2));
    assert_eq!(sink.asked()[0].sha256, digest(&whole(2)));
}

#[test]
fn a_clip_in_parts_stays_in_fragments_unless_one_part_is_all_of_it() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.uploads.as_ref().unwrap().configure(&Upload { uplink_kbps: 0, while_recording: true });
    bench.open(PAID);
    film(&bench, 3);
    until("stored", || bench.stored() == 1);
    let parts: Vec<u8> = sink.puts().into_iter().flat_map(|put| put.body).collect();
    assert!(parts == (1..=3).flat_map(fragment).collect::<Vec<u8>>());
    film(&bench, 1);
    until("stored", || bench.stored() == 2);
    assert!(sink.puts().last().unwrap().body == whole(1) && sink.asked().last().unwrap().part.is_none());
}

#[test]
fn a_cut_leaves_nothing_of_a_clip_that_would_get_its_header() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    let mut writer = begin(&bench);
    assert!(matches!(writer.append(fragment(1), FRAGMENT), Verdict::Continue { .. }));
    writer.offer(offered());
    assert_eq!(bench.gate.cut(Some((NONE, AT))).erased, Erased { clips: 1, bytes: 10_000 });
    writer.finish(FRAGMENT);
    assert_eq!(bench.status().spool, Erased::default());
    bench.open(PAID);
    bench.record(1000);
    until("another is stored", || bench.stored() == 1);
    assert_eq!(sink.puts().len(), 1);
}

/// The header lists fragments that the spool had no room for.
#[test]
fn a_clip_that_lost_its_end_stays_in_fragments() {
    let sink = Sink::generous(true);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    let mut writer = begin(&bench);
    writer.append(fragment(1), FRAGMENT);
    assert_eq!(writer.append(vec![2; 9_000_000].into(), 2 * FRAGMENT), Verdict::Continue { max: FRAGMENT });
    writer.offer(offered());
    writer.finish(2 * FRAGMENT);
    until("stored", || bench.stored() == 1);
    assert!(sink.puts()[0].body == fragment(1));
}
