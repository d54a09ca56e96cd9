//! Clips that outgrow memory while they are filmed.

use proptest::prelude::*;

use super::*;
use crate::media::Progressive;

const SECOND: Duration = Duration::from_secs(1);
/// One second of 4 Mbit/s.
const FRAGMENT: usize = 500_000;
const MEMORY: u64 = 8_000_000;
const FLASH: u64 = 64_000_000;
const DAY: u64 = 640_000_000;
const LONGEST: Verdict = Verdict::Continue { max: Duration::from_secs(60) };

fn broken() -> Diagnosis {
    Diagnosis { sentence: "EIO".into(), advice: "Mend it." }
}

/// A spool of the default sizes, under a plan with clips of 60 s.
fn default_spool() -> Spool {
    sized(MEMORY, FLASH, DAY)
}

fn sized(memory: u64, flash: u64, per_day: u64) -> Spool {
    let mut spool = Spool::new(memory, flash, per_day);
    spool.admit(admission(PAID), now(0));
    spool
}

/// What the flash thread has done.
#[derive(Default, Debug, PartialEq, Eq)]
struct Done {
    grown: u64,
    completed: u32,
    spilled: u32,
    read: u32,
    erased: u32,
}

/// What the flash thread makes of a clip that it completes.
fn written(facts: &Facts, offered: Option<&Progressive>) -> Facts {
    let Some(Progressive { header, replaces }) = offered else { return facts.clone() };
    let tail = Tail { header: header.len() as u64, replaces: *replaces as u64 };
    Facts { bytes: facts.bytes + tail.header - tail.replaces, sha256: "with header".into(), tail, ..facts.clone() }
}

/// Lets the flash thread do all there is to do.
fn serve(spool: &mut Spool, at_s: u64, done: &mut Done) {
    while let Ok(chore) = spool.chore(now(at_s)) {
        let at = now(at_s);
        assert!(spool.flash_use().held.bytes <= spool.flash.quota, "{:?}", spool.flash_use());
        match chore {
            Chore::Grow(piece) => {
                let clip = spool.ledger.clips.iter().find(|clip| clip.id == piece.id).unwrap();
                assert_eq!(piece.offset, clip.head.bytes);
                done.grown += piece.fragment.len() as u64;
                assert!(spool.piece_written(piece.id, Ok(format!("until {}", piece.offset)), at).is_some());
            }
            Chore::Complete(completion) => {
                done.completed += 1;
                let facts = written(&completion.facts, completion.offered.as_ref());
                spool.completed(completion.id, Spilled::Durable, &facts, None, at);
            }
            Chore::Read(Reading { id, .. }) => {
                done.read += 1;
                spool.headed(id, Some(["with header".into(), "behind it".into()]));
            }
            Chore::Spill(Spill { id, .. }) => {
                done.spilled += 1;
                spool.spilled(id, Spilled::Durable, None, at);
            }
            Chore::Erase(ids) => {
                done.erased += ids.len() as u32;
                spool.erasure_recorded(None, at);
                spool.unlinked(None, at);
            }
        }
        assert!(spool.memory() <= spool.memory_quota);
    }
}

/// Films seconds of a clip until it is `long_s` long or the spool ends it; how long it is. The flash thread keeps up.
fn film(spool: &mut Spool, clip: Uuid, seconds: std::ops::RangeInclusive<u64>, done: &mut Done) -> u64 {
    let until = *seconds.end();
    for second in seconds {
        let verdict = spool.append(clip, Bytes::from(vec![0; FRAGMENT]), second as u32 * SECOND, now(100 + second));
        assert!(spool.memory() <= spool.memory_quota, "{} at {second} s", spool.memory());
        if verdict != LONGEST {
            assert_eq!(verdict, Verdict::Continue { max: second as u32 * SECOND });
            return second;
        }
        serve(spool, 100 + second, done);
    }
    until
}

fn finish(spool: &mut Spool, clip: Uuid, second: u64) {
    spool.finish(clip, second as u32 * SECOND, "whole".into(), now(100 + second));
}

fn job(spool: &mut Spool, at_s: u64) -> Option<Job> {
    match spool.next(spool.generation, now(at_s)) {
        Next::Take(job) => Some(*job),
        _ => None,
    }
}

fn why_shortened(spool: &mut Spool) -> String {
    spool.troubles(now(200)).shortened.map(|shortened| shortened.sentence).unwrap_or_default()
}

/// Scenario 97: 30 MB in a spool of 8 MB.
#[test]
fn s97_a_clip_longer_than_memory_is_whole_and_leaves_from_flash() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=60, &mut done), 60);
    assert!(spool.memory() <= FRAGMENT as u64, "{} in memory", spool.memory());
    finish(&mut spool, clip, 60);
    assert!(matches!(spool.next(spool.generation, now(160)), Next::At(_)), "its file is being completed");
    serve(&mut spool, 160, &mut done);
    assert_eq!(done, Done { grown: 30_000_000, completed: 1, ..Done::default() });
    assert_eq!((spool.memory(), spool.flash_use().held), (0, Erased { clips: 1, bytes: 30_000_000 + HEADER_BYTES }));
    assert_eq!(why_shortened(&mut spool), "");
    let job = job(&mut spool, 160).unwrap();
    assert_eq!((job.id, job.bytes, job.length, job.sha256.as_str()), (clip, 30_000_000, 60 * SECOND, "whole"));
    assert_eq!(job.content.flash, Some(Head { bytes: 30_000_000, sha256: "whole".into(), tail: Tail::default() }));
    assert!(job.content.memory.is_empty());
    store(&mut spool, clip, 161);
    serve(&mut spool, 161, &mut done);
    assert_eq!((done.erased, spool.held(), spool.flash_use().held), (1, Erased::default(), Erased::default()));
}

#[test]
fn a_clip_that_fits_memory_is_not_written() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=12, &mut done), 12);
    finish(&mut spool, clip, 12);
    let sent = job(&mut spool, 112).unwrap();
    assert_eq!((sent.content.flash, sent.content.memory.len()), (None, 12));
    store(&mut spool, clip, 113);
    serve(&mut spool, 200, &mut done);
    assert_eq!((done, spool.flash_use().written_today), (Done::default(), 0));
}

/// What must stay counts: a clip in flight, and one that flash has not taken yet.
#[test]
fn a_clip_goes_to_flash_earlier_beside_what_must_stay_in_memory() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let sent = begin(&mut spool, ClipKind::Motion, 90).unwrap();
    assert_eq!(film(&mut spool, sent, 1..=10, &mut done), 10);
    spool.finish(sent, 10 * SECOND, String::new(), now(100));
    assert_eq!(take(&mut spool, 100), Some(sent));
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=2, &mut done), 2);
    assert_eq!(done, Done::default());
    assert_eq!(film(&mut spool, clip, 3..=3, &mut done), 3);
    assert_eq!(done.grown, 1_500_000);
    assert_eq!(film(&mut spool, clip, 4..=60, &mut done), 60);
    finish(&mut spool, clip, 60);
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.grown, done.completed, why_shortened(&mut spool)), (30_000_000, 1, String::new()));
    assert_eq!(spool.tally().dropped, Erased::default());
}

/// A picture is one fragment: it is there or not.
#[test]
fn a_snapshot_is_never_said_to_have_ended_early() {
    let mut spool = sized(1000, 0, 0);
    assert!(record(&mut spool, ClipKind::Snapshot, 100, 0, 900).is_some());
    assert_eq!(why_shortened(&mut spool), "");
}

#[test]
fn a_clip_that_ends_before_the_flash_thread_has_begun_stays_in_memory() {
    let mut spool = default_spool();
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    for second in 1..=13 {
        assert_eq!(spool.append(clip, Bytes::from(vec![0; FRAGMENT]), second * SECOND, now(100 + u64::from(second))), LONGEST);
    }
    finish(&mut spool, clip, 13);
    assert_eq!(job(&mut spool, 113).map(|job| job.content.memory.len()), Some(13));
    store(&mut spool, clip, 114);
    assert!(spool.chore(now(200)).is_err(), "no file, and no erasure to record");
}

#[test]
fn a_cut_in_mid_clip_erases_what_is_on_flash_too() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=20, &mut done);
    assert!(spool.flash_use().held.bytes >= 9_500_000);
    spool.append(clip, Bytes::from(vec![0; FRAGMENT]), 21 * SECOND, now(121));
    // While a piece is being written.
    let Ok(Chore::Grow(piece)) = spool.chore(now(121)) else { panic!("a piece is due") };
    spool.recall(Generation(1));
    let erased = spool.keep(Policy { clips: false, ..PAID }, AT, now(121));
    assert_eq!(erased, Erased { clips: 1, bytes: 21 * FRAGMENT as u64 });
    assert!(!spool.erasures_settled() && !spool.is_wanted(clip));
    assert_eq!(spool.piece_written(piece.id, Ok(String::new()), now(121)), None);
    assert_eq!(spool.append(clip, Bytes::from_static(b"x"), 22 * SECOND, now(122)), Verdict::Erased);
    serve(&mut spool, 122, &mut done);
    assert_eq!((done.erased, spool.erasures_settled(), spool.flash_use().held), (1, true, Erased::default()));
}

#[test]
fn a_clip_that_is_given_up_leaves_no_file() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=20, &mut done);
    spool.abandon(clip);
    serve(&mut spool, 121, &mut done);
    assert_eq!((done.erased, spool.held(), spool.flash_use().held), (1, Erased::default(), Erased::default()));
}

/// The oldest clips of its class or a lower one give way to it; a clip worth more does not.
#[test]
fn a_clip_that_grows_keeps_to_the_quota_and_to_other_clips_right_to_room() {
    let (mut spool, mut done) = (sized(MEMORY, 20_000_000, DAY), Done::default());
    let manual = found(ClipKind::Manual, 3, 10, 4_000_000);
    let motion = found(ClipKind::Motion, 3, 20, 5_000_000);
    let (manual_id, motion_id) = (manual.id().unwrap(), motion.id().unwrap());
    spool.restore(vec![manual, motion], now(90));
    spool.admit(Admission { leave: Policy::CLOSED, ..admission(PAID) }, now(90));
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let long = film(&mut spool, clip, 1..=60, &mut done);
    // 20 MB without the manual clip, and nearly 8 in memory.
    assert!((44..=47).contains(&long), "{long} s");
    let there = |id: Uuid| spool.ledger.clips.iter().any(|clip| clip.id == id);
    assert!(there(manual_id) && !there(motion_id) && there(clip));
    finish(&mut spool, clip, long);
    let why = why_shortened(&mut spool);
    assert!(why.contains("1 clip ended") && why.contains("flash_bytes (20000000) was full"), "{why}");
    // It is whole, from both, and nothing was lost.
    spool.admit(admission(PAID), now(100));
    let jobs: Vec<Job> = std::iter::from_fn(|| job(&mut spool, 200)).collect();
    let mine = jobs.iter().find(|job| job.id == clip).unwrap();
    let (head, memory) = (mine.content.flash.clone().unwrap(), mine.content.memory.len());
    assert_eq!((head.bytes + (memory * FRAGMENT) as u64, mine.bytes), (mine.bytes, long * FRAGMENT as u64));
    assert!(head.sha256.starts_with("until"), "{head:?}");
}

#[test]
fn a_quota_without_room_for_what_is_held_already_is_not_begun_upon() {
    let (mut spool, mut done) = (sized(MEMORY, 5_000_000, DAY), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=60, &mut done), 15, "as long as without flash");
    assert_eq!((done, spool.flash_use().held), (Done::default(), Erased::default()));
    finish(&mut spool, clip, 15);
    assert_eq!(job(&mut spool, 120).map(|job| job.content.memory.len()), Some(15));
}

/// Scenario 95, of a clip that is being filmed.
#[test]
fn s95_a_days_writes_bound_what_a_clip_may_write() {
    let (mut spool, mut done) = (sized(MEMORY, FLASH, 10_000_000), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let long = film(&mut spool, clip, 1..=60, &mut done);
    assert!(spool.flash_use().written_today <= 10_000_000 && done.grown >= 9_000_000, "{done:?}");
    assert!((30..=35).contains(&long), "{long} s: 10 MB on flash, the rest in memory");
    finish(&mut spool, clip, long);
    assert!(why_shortened(&mut spool).contains("flash_bytes_per_day"), "{}", why_shortened(&mut spool));
    assert_eq!(job(&mut spool, 200).map(|job| job.bytes), Some(long * FRAGMENT as u64));
}

#[test]
fn a_flash_that_fails_in_mid_clip_ends_it_when_memory_is_full_and_nothing_filmed_is_lost() {
    for failing_from in [13, 14, 20] {
        let (mut spool, mut done) = (default_spool(), Done::default());
        let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        film(&mut spool, clip, 1..=failing_from - 1, &mut done);
        assert_eq!(spool.append(clip, Bytes::from(vec![0; FRAGMENT]), failing_from as u32 * SECOND, now(100 + failing_from)), LONGEST);
        let Ok(Chore::Grow(piece)) = spool.chore(now(100 + failing_from)) else { panic!("a piece is due") };
        spool.piece_written(piece.id, Err(broken()), now(100 + failing_from));
        let long = film(&mut spool, clip, failing_from + 1..=60, &mut done);
        assert_eq!((long * FRAGMENT as u64).saturating_sub(done.grown), 7_500_000, "what flash did not take");
        finish(&mut spool, clip, long);
        let why = why_shortened(&mut spool);
        assert!(why.contains("flash took no more (EIO)"), "{why}");
        let sent = job(&mut spool, 100 + long).unwrap();
        let head = sent.content.flash.map_or(0, |head| head.bytes);
        assert_eq!((head, head + (sent.content.memory.len() * FRAGMENT) as u64), (done.grown, sent.bytes), "from second {failing_from}");
        store(&mut spool, clip, 100 + long);
        serve(&mut spool, 100 + long, &mut done);
        assert_eq!((done.erased, spool.held()), (1, Erased::default()), "the file is to go");
    }
}

#[test]
fn a_clip_whose_file_cannot_be_completed_leaves_from_it_all_the_same() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=60, &mut done);
    finish(&mut spool, clip, 60);
    let Ok(Chore::Complete(completion)) = spool.chore(now(160)) else { panic!("it is complete") };
    assert_eq!((completion.id, completion.facts.bytes, completion.facts.duration_ms), (clip, 30_000_000, 60_000));
    spool.completed(clip, Spilled::Failed, &completion.facts, Some(broken()), now(160));
    assert!(spool.chore(now(1000)).is_err(), "and is not written anew: there is nothing to write it from");
    assert_eq!(job(&mut spool, 160).and_then(|job| job.content.flash).map(|head| head.bytes), Some(30_000_000));
}

/// A flash thread that hangs in a sync.
#[test]
fn a_flash_that_is_too_slow_ends_the_clip_within_memory_and_says_so() {
    let mut spool = default_spool();
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let mut second = 0;
    loop {
        second += 1;
        let verdict = spool.append(clip, Bytes::from(vec![0; FRAGMENT]), second as u32 * SECOND, now(100 + second));
        assert!(spool.memory() <= MEMORY);
        if verdict != LONGEST {
            break;
        }
    }
    assert_eq!(second, 16, "to the last byte");
    finish(&mut spool, clip, second);
    assert!(why_shortened(&mut spool).contains("more slowly"), "{}", why_shortened(&mut spool));
    assert_eq!(spool.tally().dropped, Erased::default());
}

#[test]
fn a_flash_that_hangs_keeps_no_clip_from_leaving() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=20, &mut done);
    spool.append(clip, Bytes::from(vec![0; FRAGMENT]), 21 * SECOND, now(121));
    let Ok(Chore::Grow(piece)) = spool.chore(now(121)) else { panic!("a piece is due") };
    finish(&mut spool, clip, 21);
    assert!(job(&mut spool, 135).is_none());
    let sent = job(&mut spool, 136).expect("it has waited long enough");
    assert_eq!((sent.content.flash.map(|head| head.bytes), sent.content.memory.len()), (Some(10_000_000), 1));
    // It goes on at last, but not beside the transfer.
    assert!(spool.piece_written(piece.id, Ok("late".into()), now(140)).is_some());
    assert!(spool.chore(now(140)).is_err());
    spool.settle(clip, spool.generation, failed(Blame::Clip), now(141));
    serve(&mut spool, 141, &mut done);
    assert_eq!((done.completed, spool.flash_use().held.clips), (1, 1));
}

#[test]
fn a_memory_of_less_than_two_fragments_and_a_spool_without_flash_end_a_clip_as_they_did() {
    for (memory, flash, long, why) in [(900_000, FLASH, 1, "two seconds"), (MEMORY, 0, 15, "flash_bytes is 0")] {
        let (mut spool, mut done) = (sized(memory, flash, DAY), Done::default());
        let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        assert_eq!(film(&mut spool, clip, 1..=60, &mut done), long);
        finish(&mut spool, clip, long);
        assert!(why_shortened(&mut spool).contains(why), "{}", why_shortened(&mut spool));
        assert_eq!(done, Done::default());
    }
}

#[test]
fn a_memory_of_two_fragments_is_enough() {
    let (mut spool, mut done) = (sized(1_000_000, FLASH, DAY), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=60, &mut done), 60);
    finish(&mut spool, clip, 60);
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.grown, done.completed, why_shortened(&mut spool)), (30_000_000, 1, String::new()));
}

#[test]
fn a_first_part_that_outgrows_memory_is_completed_on_flash_as_a_part() {
    let (mut spool, mut done) = (sized(1_500_000, FLASH, DAY), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=2, &mut done);
    let next = Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..));
    spool.end_part(clip, "first".into(), next, now(102));
    assert_eq!(film(&mut spool, clip, 3..=3, &mut done), 3);
    serve(&mut spool, 103, &mut done);
    assert_eq!(done.completed, 1);
    let job = job(&mut spool, 104).unwrap();
    assert_eq!((job.id, job.part.map(|part| part.index), job.content.flash.map(|head| head.bytes)), (clip, Some(0), Some(1_000_000)));
}

/// The header of a clip of 60 s: 100 kB in place of 1000 bytes.
fn offered() -> Progressive {
    Progressive { header: Bytes::from(vec![9; 100_000]), replaces: 1000 }
}

const HEADED: u64 = 30_000_000 + 99_000;

#[test]
fn s97_a_grown_clip_gets_its_header_on_flash_and_counts_it() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=60, &mut done);
    let before = (spool.memory(), spool.flash_use());
    spool.offer_header(clip, offered(), now(160));
    assert_eq!(spool.memory(), before.0 + 100_000);
    finish(&mut spool, clip, 60);
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.completed, done.read, spool.memory()), (1, 0, 0));
    assert_eq!(spool.held(), Erased { clips: 1, bytes: HEADED });
    // The bytes that it replaces are still in the file.
    assert_eq!(spool.flash_use().held.bytes, HEADED + 1000 + HEADER_BYTES);
    assert_eq!(spool.flash_use().written_today - before.1.written_today, (100_000 + HEADER_BYTES).div_ceil(4096) * 4096 + 4096);
    let job = job(&mut spool, 160).unwrap();
    let tail = Tail { header: 100_000, replaces: 1000 };
    assert_eq!(job.content.flash, Some(Head { bytes: HEADED, sha256: "with header".into(), tail }));
    assert_eq!((job.bytes, job.sha256.as_str()), (HEADED, "with header"));
    assert!(job.content.memory.is_empty() && job.content.header.is_empty());
    store(&mut spool, clip, 161);
    serve(&mut spool, 161, &mut done);
    assert_eq!((done.erased, spool.held(), spool.flash_use().held), (1, Erased::default(), Erased::default()));
}

/// The whole clip and its file's header fit to the byte, or without the header to come.
#[test]
fn a_grown_clip_stays_in_fragments_where_flash_or_memory_has_no_room_for_its_header() {
    let exact = 30_000_000 + HEADER_BYTES;
    for (flash, per_day, memory, headed) in [
        (exact + 100_000, DAY, MEMORY, true),
        (exact + 99_999, DAY, MEMORY, false),
        // A fragment costs 124 pages, the header with the file's own 26.
        (FLASH, (60 * 124 + 26) * 4096, MEMORY, true),
        (FLASH, (60 * 124 + 25) * 4096, MEMORY, false),
        (FLASH, DAY, 1_000_000, true),
    ] {
        let (mut spool, mut done) = (sized(memory, flash, per_day), Done::default());
        let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        assert_eq!(film(&mut spool, clip, 1..=60, &mut done), 60);
        spool.offer_header(clip, offered(), now(160));
        finish(&mut spool, clip, 60);
        serve(&mut spool, 160, &mut done);
        let bytes = if headed { HEADED } else { 30_000_000 };
        assert_eq!((done.completed, spool.held().bytes), (1, bytes), "{flash} {per_day} {memory}");
        assert!(spool.flash_use().written_today <= per_day);
        assert_eq!(job(&mut spool, 160).map(|job| (job.bytes, job.content.flash.unwrap().bytes)), Some((bytes, bytes)));
    }
    let mut spool = sized(1_000_000, FLASH, DAY);
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    spool.append(clip, Bytes::from(vec![0; FRAGMENT]), SECOND, now(101));
    let Ok(Chore::Grow(_)) = spool.chore(now(101)) else { panic!("a piece is due") };
    spool.append(clip, Bytes::from(vec![0; FRAGMENT]), 2 * SECOND, now(102));
    spool.offer_header(clip, offered(), now(102));
    assert_eq!(spool.memory(), 1_000_000, "memory is full");
}

/// Older clips on flash give way to the header as to every other byte of the clip.
#[test]
fn an_older_clip_on_flash_gives_way_to_a_header() {
    let (mut spool, mut done) = (sized(MEMORY, 31_000_000, DAY), Done::default());
    spool.restore(vec![found(ClipKind::Motion, 3, 20, 950_000)], now(90));
    spool.admit(Admission { leave: Policy::CLOSED, ..admission(PAID) }, now(90));
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    assert_eq!(film(&mut spool, clip, 1..=60, &mut done), 60);
    assert_eq!(spool.held().clips, 2);
    spool.offer_header(clip, offered(), now(160));
    finish(&mut spool, clip, 60);
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.erased, done.completed, spool.held()), (1, 1, Erased { clips: 1, bytes: HEADED }));
}

/// Flash takes a part of it: the header stands in memory, in front of both.
#[test]
fn a_clip_in_file_and_memory_gets_its_header_in_memory() {
    let (mut spool, mut done) = (sized(MEMORY, FLASH, 10_000_000), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let long = film(&mut spool, clip, 1..=60, &mut done);
    spool.offer_header(clip, offered(), now(100 + long));
    finish(&mut spool, clip, long);
    assert!(job(&mut spool, 100 + long).is_none(), "it is to be read first");
    serve(&mut spool, 100 + long, &mut done);
    assert_eq!((done.read, done.completed), (1, 0));
    let filmed = long * FRAGMENT as u64;
    let in_memory = filmed - done.grown + 100_000;
    assert_eq!((spool.memory(), spool.held().bytes), (in_memory, filmed + 99_000));
    let sent = job(&mut spool, 100 + long).unwrap();
    let tail = Tail { header: 0, replaces: 1000 };
    assert_eq!(sent.content.flash, Some(Head { bytes: done.grown - 1000, sha256: "behind it".into(), tail }));
    assert_eq!((sent.content.header, sent.bytes, sent.sha256.as_str()), (offered().header, filmed + 99_000, "with header"));
    assert_eq!(spool.flash_use().held.bytes, done.grown + HEADER_BYTES);
    store(&mut spool, clip, 200);
    serve(&mut spool, 200, &mut done);
    assert_eq!((done.erased, spool.held(), spool.memory()), (1, Erased::default(), 0));
}

/// A clip of a minute that is over, and its file, which is to be completed before it gets its header.
fn filmed_for_a_minute(spool: &mut Spool, done: &mut Done) -> (Uuid, Completion) {
    let clip = begin(spool, ClipKind::Motion, 100).unwrap();
    film(spool, clip, 1..=60, done);
    spool.offer_header(clip, offered(), now(160));
    finish(spool, clip, 60);
    let Ok(Chore::Complete(completion)) = spool.chore(now(160)) else { panic!("it is complete") };
    (clip, completion)
}

/// So it does where flash fails at the very end, or at the beginning when the clip is over already.
#[test]
fn a_fault_of_flash_keeps_no_header_from_a_clip() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let (clip, completion) = filmed_for_a_minute(&mut spool, &mut done);
    spool.completed(clip, Spilled::Failed, &completion.facts, Some(broken()), now(160));
    serve(&mut spool, 160, &mut done);
    let sent = job(&mut spool, 160).unwrap();
    assert_eq!((done.read, sent.bytes, sent.content.header.len()), (1, HEADED, 100_000));
    assert_eq!(sent.content.flash.map(|head| head.bytes), Some(30_000_000 - 1000));

    let mut spool = default_spool();
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    for second in 1..=13 {
        spool.append(clip, Bytes::from(vec![0; FRAGMENT]), second * SECOND, now(100 + u64::from(second)));
    }
    let Ok(Chore::Grow(piece)) = spool.chore(now(113)) else { panic!("a piece is due") };
    spool.offer_header(clip, offered(), now(113));
    finish(&mut spool, clip, 13);
    spool.piece_written(piece.id, Err(broken()), now(114));
    let Ok(Chore::Read(Reading { head, .. })) = spool.chore(now(114)) else { panic!("it is to be read") };
    assert_eq!(head.bytes, 0);
    spool.headed(clip, Some(["with header".into(), String::new()]));
    let sent = job(&mut spool, 114).unwrap();
    let sizes: Vec<usize> = sent.content.memory.iter().map(Bytes::len).collect();
    assert_eq!((sizes.len(), sizes[0], sizes[1], sizes[2]), (14, 100_000, FRAGMENT - 1000, FRAGMENT));
    assert_eq!((sent.bytes, sent.content.flash), (13 * FRAGMENT as u64 + 99_000, None));
}

#[test]
fn a_clip_that_cannot_be_read_leaves_as_it_was_filmed() {
    let (mut spool, mut done) = (sized(MEMORY, FLASH, 10_000_000), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let long = film(&mut spool, clip, 1..=60, &mut done);
    spool.offer_header(clip, offered(), now(100 + long));
    finish(&mut spool, clip, long);
    let Ok(Chore::Read(reading)) = spool.chore(now(100 + long)) else { panic!("it is to be read") };
    assert!(spool.headed(reading.id, None).is_some());
    let sent = job(&mut spool, 100 + long).unwrap();
    assert_eq!((sent.bytes, sent.sha256.as_str()), (long * FRAGMENT as u64, "whole"));
    assert!(sent.content.header.is_empty() && spool.memory() <= MEMORY);
}

/// Each piece that is read shows that flash does not hang. Once the clip has begun to leave, it keeps its bytes.
#[test]
fn a_clip_that_is_read_waits_as_long_as_flash_goes_on() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let (clip, completion) = filmed_for_a_minute(&mut spool, &mut done);
    for at in [170, 180, 190] {
        assert!(spool.is_read(clip, now(at)));
        assert!(job(&mut spool, at + 14).is_none(), "{at}");
    }
    let sent = job(&mut spool, 205).expect("it hangs");
    assert_eq!((sent.bytes, sent.content.flash.map(|head| head.bytes)), (30_000_000, Some(30_000_000)));
    assert!(!spool.is_read(clip, now(206)));
    // The last sync returns after all: its file has the header, and every attempt the same bytes.
    let facts = written(&completion.facts, completion.offered.as_ref());
    spool.completed(clip, Spilled::Durable, &facts, None, now(210));
    spool.settle(clip, spool.generation, failed(Blame::Clip), now(211));
    let again = job(&mut spool, 2000).unwrap();
    let plain = Head { bytes: 30_000_000, sha256: "whole".into(), tail: Tail::default() };
    assert_eq!((again.bytes, again.sha256.as_str(), again.content.flash), (30_000_000, "whole", Some(plain)));
    assert_eq!(spool.flash_use().held.bytes, 30_000_000 + 100_000 + HEADER_BYTES);
}

#[test]
fn a_clip_whose_reading_an_erasure_has_interrupted_is_read_anew() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let other = record(&mut spool, ClipKind::Snapshot, 90, 0, 1000).unwrap();
    while let Ok(Chore::Spill(spill)) = spool.chore(now(106)) {
        spool.spilled(spill.id, Spilled::Durable, None, now(106));
    }
    let (clip, completion) = filmed_for_a_minute(&mut spool, &mut done);
    assert!(spool.is_read(clip, now(160)));
    spool.ledger.erase(|clip| clip.id == other);
    assert!(!spool.is_read(clip, now(160)));
    spool.completed(clip, Spilled::Interrupted, &completion.facts, None, now(160));
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.erased, done.completed, spool.held()), (1, 1, Erased { clips: 1, bytes: HEADED }));
}

/// There may be no time to read it.
#[test]
fn a_stop_completes_a_grown_clip_as_it_was_filmed() {
    let (mut spool, mut done) = (default_spool(), Done::default());
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1..=60, &mut done);
    spool.offer_header(clip, offered(), now(160));
    finish(&mut spool, clip, 60);
    spool.spill_all();
    assert!(!spool.is_read(clip, now(160)));
    serve(&mut spool, 160, &mut done);
    assert_eq!((done.completed, spool.memory(), spool.flash_use().held.bytes), (1, 0, 30_000_000 + HEADER_BYTES));
}

proptest! {
    /// Whatever sizes fragments have and however fast flash is: memory and flash keep to their quotas, the clip is never
    /// dropped, and what was accepted of it is what leaves.
    #[test]
    fn a_clip_that_grows_keeps_to_both_quotas_and_loses_nothing(
        fragments in prop::collection::vec((1_usize..400, 0_usize..3, prop::bool::weighted(0.05)), 1..80),
        memory in 800_u64..3000,
        flash in 0_u64..20_000,
    ) {
        let mut spool = sized(memory, flash, DAY);
        let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        let (mut accepted, mut second) = (0, 0);
        for (size, chores, fails) in fragments {
            second += 1;
            if !spool.has_room_for(clip, size as u64) {
                let verdict = spool.end_before(clip, size as u64, now(100 + second));
                prop_assert_eq!(verdict, Verdict::Continue { max: (second as u32 - 1) * SECOND });
                second -= 1;
                break;
            }
            let verdict = spool.append(clip, Bytes::from(vec![0; size]), second as u32 * SECOND, now(100 + second));
            accepted += size as u64;
            prop_assert!(verdict != Verdict::Erased && spool.memory() <= memory);
            for _ in 0..chores {
                let Ok(chore) = spool.chore(now(100 + second)) else { break };
                let Chore::Grow(piece) = chore else { return Err(TestCaseError::fail(format!("{chore:?}"))) };
                let written = if fails { Err(broken()) } else { Ok(String::new()) };
                spool.piece_written(piece.id, written, now(100 + second));
                prop_assert!(spool.flash_use().held.bytes <= flash);
            }
            if verdict != LONGEST || second == 60 {
                break;
            }
        }
        finish(&mut spool, clip, second);
        spool.stop_growth(super::super::growth::Shortage::Fault);
        let sent = job(&mut spool, 100 + second).unwrap();
        let in_memory: usize = sent.content.memory.iter().map(Bytes::len).sum();
        prop_assert_eq!(sent.content.flash.map_or(0, |head| head.bytes) + in_memory as u64, accepted);
        prop_assert_eq!((sent.bytes, sent.length), (accepted, second as u32 * SECOND));
    }
}
