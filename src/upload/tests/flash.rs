use std::{
    fs,
    os::unix::fs::FileExt,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use care_engine::trusted_time::{HeardDate, LATEST};

use super::*;

const SIZE: usize = 300_000;

fn bench(sink: &Sink, dir: &Path) -> Bench {
    let bench = Bench::on(Peers { api: sink.origin(), store: None }, 100_000, 10_000_000, dir.join("spool"));
    // As an answer over HTTPS would.
    let clock = &bench.gate.clock;
    let date = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    clock.observe_date(HeardDate { date, sent: clock.now().boot, valid_until: LATEST });
    bench
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|ending| ending == "clip")).collect()
}

/// Records a clip while nothing may leave, and stops.
fn left_behind(sink: &Sink, dir: &Path) -> Vec<u8> {
    let bench = bench(sink, dir);
    bench.open(NONE);
    let content = bench.record(SIZE);
    drop(bench);
    assert_eq!(files(dir).len(), 1, "a stop puts it on flash");
    content
}

#[test]
fn a_clip_on_flash_is_sent_after_a_restart_and_its_file_goes() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    let content = left_behind(&sink, dir.path());
    assert!(sink.puts().is_empty());

    let bench = bench(&sink, dir.path());
    assert_eq!((bench.status().flash.clips, bench.status().memory_bytes), (1, 0));
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
    let puts = sink.puts();
    assert!(puts.len() == 1 && puts[0].whole && puts[0].body == content);
    until("its file is gone", || files(dir.path()).is_empty());
    until("its room is free", || bench.status().flash == Erased::default());
}

#[test]
fn a_cut_while_a_clip_is_read_from_flash_erases_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    left_behind(&sink, dir.path());
    let bench = bench(&sink, dir.path());
    bench.uploads.as_ref().unwrap().configure(&Upload { uplink_kbps: 1_000, while_recording: false });
    bench.open(PAID);
    until("some body has arrived", || sink.puts().first().is_some_and(|put| put.body.len() > 10_000));
    let figures = bench.gate.cut(Some((NONE, AT)));
    assert_eq!((figures.transfers, figures.erased), (1, Erased { clips: 1, bytes: SIZE as u64 }));
    until("it is durably gone", || bench.gate.erasures_settled());
    assert!(bench.events().contains(&Event::ErasuresSettled));
    until("its file is gone", || files(dir.path()).is_empty());
    assert!(!sink.puts()[0].whole);
}

#[test]
fn a_file_that_has_rotted_never_becomes_a_whole_object() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    left_behind(&sink, dir.path());
    let file = fs::OpenOptions::new().write(true).open(&files(dir.path())[0]).unwrap();
    file.write_all_at(b"rot", 100_000).unwrap();
    let bench = bench(&sink, dir.path());
    bench.open(PAID);
    until("it is given up", || bench.status().dropped.clips == 1);
    assert!(sink.puts().iter().all(|put| !put.whole));
    assert!(bench.status().last_fault.unwrap().contains("its file is damaged"));
    until("its file is gone", || files(dir.path()).is_empty());
}

#[test]
fn a_spool_directory_that_cannot_be_used_is_visible_and_uploads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("spool"), b"in the way").unwrap();
    let sink = Sink::generous(true);
    let bench = bench(&sink, dir.path());
    assert!(bench.status().flash_fault.is_some());
    bench.open(PAID);
    bench.record(1000);
    until("stored", || bench.stored() == 1);
}

#[test]
fn what_was_written_today_is_known_after_a_restart_also_once_the_clips_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Sink::generous(true);
    left_behind(&sink, dir.path());
    let bench_of = |dir: &Path| bench(&sink, dir);
    let bench = bench_of(dir.path());
    let written = bench.status().flash_written_today;
    assert!(written >= SIZE as u64, "{written}");
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
    until("its room is free", || bench.status().flash == Erased::default());
    let after = bench.status().flash_written_today;
    assert!(after > written, "what says that it is gone is counted too");
    drop(bench);
    assert_eq!(bench_of(dir.path()).status().flash_written_today, after, "from the journal alone");
}
