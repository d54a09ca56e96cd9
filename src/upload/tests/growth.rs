//! Clips longer than memory, on a real file system and against a cloud on loopback.

use std::{fs, path::Path};

use super::*;
use crate::media::{ClipWriter, Progressive, Verdict};

const SECOND: Duration = Duration::from_secs(1);
const MEMORY: u64 = 8_000_000;
const FRAGMENT: usize = 500_000;

fn bench(sink: &Sink, dir: &Path, flash_bytes: u64) -> Bench {
    Bench::on(Peers { api: sink.origin(), store: None }, 1_000_000, flash_bytes, dir.join("spool"))
}

fn begin(bench: &Bench) -> Box<dyn ClipWriter> {
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    bench.gate.begin(beginning).expect("a clip may begin").0
}

/// Films up to so many seconds of 4 Mbit/s, as fast as the flash thread writes them; what was accepted.
fn film(bench: &Bench, writer: &mut dyn ClipWriter, seconds: u32) -> Vec<u8> {
    let mut content = Vec::new();
    for second in 1..=seconds {
        let fragment: Vec<u8> = (0..FRAGMENT).map(|at| (at / 7) as u8 ^ second as u8).collect();
        let Verdict::Continue { max } = writer.append(Bytes::copy_from_slice(&fragment), second * SECOND) else { panic!("erased") };
        assert!(bench.status().memory_bytes <= MEMORY);
        if max < second * SECOND {
            break;
        }
        content.extend(fragment);
        if max == second * SECOND {
            break;
        }
        until("flash keeps up, or takes no more", || bench.status().memory_bytes <= MEMORY - 2 * FRAGMENT as u64 || !bench.is_growing());
    }
    content
}

impl Bench {
    fn is_growing(&self) -> bool {
        self.gate.spool.lock().is_growing()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("spool")).map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    entries.map(Iterator::collect).unwrap_or_default()
}

/// The header of a progressive file, in place of the first 700 bytes.
fn offered() -> Progressive {
    Progressive { header: vec![99; 90_000].into(), replaces: 700 }
}

/// What the store should have.
fn headed(filmed: &[u8]) -> Vec<u8> {
    [&offered().header, &filmed[offered().replaces..]].concat()
}

fn digest(bytes: &[u8]) -> String {
    crate::hex::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Scenario 97: a clip of 60 s and 30 MB, where memory takes 8 MB, arrives as a progressive file.
#[test]
fn s97_a_clip_longer_than_memory_is_stored_whole() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let bench = bench(&sink, dir.path(), 64_000_000);
    bench.open(PAID);
    let mut writer = begin(&bench);
    let content = film(&bench, &mut *writer, 60);
    assert_eq!(content.len(), 60 * FRAGMENT);
    writer.offer(offered());
    writer.finish(60 * SECOND);
    let content = headed(&content);
    until("stored", || bench.stored() == 1);
    let (puts, asked) = (sink.puts(), sink.asked());
    assert_eq!((puts.len(), asked[0].duration_ms, asked[0].bytes), (1, 60_000, content.len() as u64));
    assert!(puts[0].whole && puts[0].body == content);
    assert_eq!(asked[0].sha256, digest(&content));
    until("its file is gone", || names(dir.path()).iter().all(|name| name.starts_with("journal")));
    until("its room is free", || bench.status().flash == Erased::default());
}

#[test]
fn s97_a_clip_longer_than_memory_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let first = bench(&sink, dir.path(), 64_000_000);
    first.open(NONE);
    let mut writer = begin(&first);
    let content = film(&first, &mut *writer, 30);
    writer.offer(offered());
    writer.finish(30 * SECOND);
    until("it is on flash", || first.status().flash.clips == 1);
    drop(first);
    let date = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let again = bench(&sink, dir.path(), 64_000_000);
    let clock = &again.gate.clock;
    clock.observe_date(care_engine::trusted_time::HeardDate {
        date,
        sent: clock.now().boot,
        valid_until: care_engine::trusted_time::LATEST,
    });
    again.open(PAID);
    until("stored", || again.stored() == 1);
    assert!(sink.puts()[0].body == headed(&content));
    assert_eq!(sink.asked()[0].sha256, digest(&headed(&content)));
}

/// Flash takes a part of it: the clip ends when memory is full too, and leaves from both.
#[test]
fn a_clip_that_flash_has_no_room_for_leaves_from_flash_and_memory() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let bench = bench(&sink, dir.path(), 10_000_000);
    bench.open(PAID);
    let mut writer = begin(&bench);
    let content = film(&bench, &mut *writer, 60);
    assert!((34..=35).contains(&(content.len() / FRAGMENT)), "{} s", content.len() / FRAGMENT);
    writer.offer(offered());
    writer.finish(60 * SECOND);
    until("stored", || bench.stored() == 1);
    assert!(sink.puts()[0].whole && sink.puts()[0].body == headed(&content));
    assert_eq!(sink.asked()[0].sha256, digest(&headed(&content)));
    let shortened = bench.gate.spool.lock().troubles(bench.gate.clock.now()).shortened.unwrap();
    assert!(shortened.sentence.contains("flash_bytes (10000000)"), "{shortened:?}");
}

#[test]
fn a_cut_while_a_clip_is_filmed_to_flash_erases_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let bench = bench(&sink, dir.path(), 64_000_000);
    bench.open(PAID);
    let mut writer = begin(&bench);
    film(&bench, &mut *writer, 20);
    assert!(names(dir.path()).iter().any(|name| name.ends_with(".part")), "{:?}", names(dir.path()));
    let figures = bench.gate.cut(Some((NONE, AT)));
    assert_eq!(figures.erased, Erased { clips: 1, bytes: 20 * FRAGMENT as u64 });
    assert_eq!(writer.append(Bytes::from_static(b"more"), 21 * SECOND), Verdict::Erased);
    until("it is durably gone", || bench.gate.erasures_settled());
    until("its file is gone", || names(dir.path()).iter().all(|name| name.starts_with("journal")));
    drop(writer);
    until("its room is free", || bench.status().flash == Erased::default());
    assert!(sink.puts().is_empty());
}

/// A file that was damaged after it was written never becomes a whole object, with a header in front of it either.
#[test]
fn a_grown_clip_whose_file_has_rotted_behind_its_header_is_given_up() {
    use std::os::unix::fs::FileExt;
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let bench = bench(&sink, dir.path(), 64_000_000);
    bench.open(NONE);
    let mut writer = begin(&bench);
    film(&bench, &mut *writer, 20);
    writer.offer(offered());
    writer.finish(20 * SECOND);
    until("it is on flash", || bench.status().flash.clips == 1);
    let name = names(dir.path()).into_iter().find(|name| name.ends_with(".clip")).unwrap();
    let file = fs::OpenOptions::new().write(true).open(dir.path().join("spool").join(name)).unwrap();
    file.write_all_at(b"rot", 5_000_000).unwrap();
    bench.open(PAID);
    until("it is given up", || bench.status().dropped.clips == 1);
    assert!(sink.puts().iter().all(|put| !put.whole));
    assert!(bench.status().last_fault.unwrap().contains("its file is damaged"));
}
