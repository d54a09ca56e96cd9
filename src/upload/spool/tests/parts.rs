//! Clips that leave in parts while they are being filmed.

use super::*;
use crate::upload::flash::PartFacts;

const SECOND: Duration = Duration::from_secs(1);

/// Films the next second of a clip, `size` bytes.
fn film(spool: &mut Spool, clip: Uuid, second: u64, size: usize) -> Verdict {
    spool.append(clip, Bytes::from(vec![0; size]), Duration::from_secs(second), now(100 + second))
}

fn end_part(spool: &mut Spool, clip: Uuid, second: u64) -> Uuid {
    let next = Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..));
    spool.end_part(clip, "00".into(), next, now(100 + second));
    next
}

/// A clip of which `parts` parts of two seconds and 100 bytes wait, and one more is being filmed.
fn filming(spool: &mut Spool, parts: u64) -> (Uuid, Vec<Uuid>) {
    let clip = begin(spool, ClipKind::Motion, 100).unwrap();
    let mut entries = vec![clip];
    for part in 0..parts {
        film(spool, clip, 2 * part + 1, 50);
        film(spool, clip, 2 * part + 2, 50);
        entries.push(end_part(spool, clip, 2 * part + 2));
    }
    film(spool, clip, 2 * parts + 1, 50);
    (clip, entries)
}

fn job(spool: &mut Spool, at_s: u64) -> Option<Job> {
    match spool.next(spool.generation, now(at_s)) {
        Next::Take(job) => Some(*job),
        _ => None,
    }
}

#[test]
fn parts_leave_in_their_order_while_the_clip_is_filmed_and_say_when_it_ends() {
    let mut spool = spool(PAID);
    let (clip, entries) = filming(&mut spool, 2);
    let mut sent = Vec::new();
    let mut send = |spool: &mut Spool| {
        let job = job(spool, 106).expect("a part may leave");
        assert!(matches!(spool.next(spool.generation, now(106)), Next::Idle), "the next one waits for this one");
        sent.push((job.id, job.clip, job.part.map(|part| (part.index, part.last, part.from, part.long)), job.length, job.bytes));
        spool.settle(job.id, spool.generation, Outcome::Stored, now(106));
    };
    send(&mut spool);
    send(&mut spool);
    assert_eq!(
        (spool.tally().stored, spool.held()),
        (Erased { clips: 0, bytes: 200 }, Erased { clips: 1, bytes: 50 }),
        "a clip counts once"
    );
    assert_eq!(job(&mut spool, 106).map(|job| job.id), None, "the rest is being filmed");
    spool.finish(clip, 5 * SECOND, "00".into(), now(106));
    send(&mut spool);
    let part = |index, last, from, long| Some((index, last, from * SECOND, long * SECOND));
    assert_eq!(
        sent,
        [
            (entries[0], clip, part(0, false, 0, 2), 2 * SECOND, 100),
            (entries[1], clip, part(1, false, 2, 2), 2 * SECOND, 100),
            (entries[2], clip, part(2, true, 4, 1), SECOND, 50),
        ]
    );
    assert_eq!((spool.tally().stored, spool.held()), (Erased { clips: 1, bytes: 250 }, Erased::default()));
}

/// The pre-roll is ready at once, a picture of the event a moment later.
#[test]
fn the_first_part_leaves_the_uplink_to_the_snapshot_for_a_moment() {
    let later = |ms: u64| Now { boot: Duration::from_millis(100_000 + ms), ..now(100) };
    let taken = |spool: &mut Spool, ms: u64| match spool.next(spool.generation, later(ms)) {
        Next::Take(job) => Ok((job.facts.kind, job.part.map(|part| part.index))),
        Next::At(due) => Err(Some(due.as_millis() - 100_000)),
        Next::Idle => Err(None),
    };
    for (policy, waits) in [(PAID, true), (Policy { snapshots: false, ..PAID }, false)] {
        let mut spool = spool(policy);
        let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
        film(&mut spool, clip, 0, 100);
        end_part(&mut spool, clip, 0);
        film(&mut spool, clip, 1, 100);
        end_part(&mut spool, clip, 0);
        if !waits {
            assert_eq!(taken(&mut spool, 0), Ok((ClipKind::Motion, Some(0))));
            continue;
        }
        assert_eq!(taken(&mut spool, 0), Err(Some(300)));
        let snapshot = record(&mut spool, ClipKind::Snapshot, 100, 0, 10).unwrap();
        assert_eq!(taken(&mut spool, 200), Ok((ClipKind::Snapshot, None)));
        spool.settle(snapshot, spool.generation, Outcome::Stored, later(290));
        assert_eq!(taken(&mut spool, 299), Err(Some(300)));
        assert_eq!(taken(&mut spool, 300), Ok((ClipKind::Motion, Some(0))));
        spool.settle(clip, spool.generation, Outcome::Stored, later(310));
        assert_eq!(taken(&mut spool, 310), Ok((ClipKind::Motion, Some(1))), "only the first one waits");
    }
}

#[test]
fn a_clip_that_ends_within_its_first_part_leaves_whole() {
    let mut spool = spool(PAID);
    let (clip, _) = filming(&mut spool, 0);
    spool.finish(clip, SECOND, "00".into(), now(102));
    let job = job(&mut spool, 102).unwrap();
    assert_eq!((job.id, job.clip, job.part, job.length), (clip, clip, None, SECOND));
}

#[test]
fn a_cut_in_mid_clip_erases_every_part_or_none() {
    for (policy, erased) in [(FREE, 0), (Policy { clip_max_s: 4, ..FREE }, 1), (Policy { clips: false, ..PAID }, 1)] {
        let mut spool = spool(PAID);
        let (clip, _) = filming(&mut spool, 2);
        assert_eq!(take(&mut spool, 106), Some(clip));
        assert_eq!(spool.recall(Generation(1)), 1);
        let held = spool.held();
        let gone = spool.keep(policy, AT, now(106));
        assert_eq!(gone, if erased == 1 { held } else { Erased::default() }, "{policy:?}");
        let verdict = film(&mut spool, clip, 6, 50);
        assert_eq!(verdict == Verdict::Erased, erased == 1, "{policy:?}");
        spool.finish(clip, 6 * SECOND, "00".into(), now(106));
        spool.admit(admission(policy), now(106));
        assert_eq!(job(&mut spool, 106).map(|job| job.generation), (erased == 0).then_some(Generation(1)), "{policy:?}");
    }
}

#[test]
fn a_clip_that_grows_longer_than_the_plan_allows_loses_the_parts_that_wait_too() {
    let mut spool = spool(PAID);
    let (clip, _) = filming(&mut spool, 2);
    spool.recall(Generation(1));
    spool.keep(Policy { clip_max_s: 5, ..PAID }, AT, now(106));
    spool.finish(clip, 6 * SECOND, "00".into(), now(106));
    assert_eq!(spool.held(), Erased::default());
}

/// A clip's own parts are no other clip to keep a distance from.
#[test]
fn the_cooldown_counts_from_other_clips_only() {
    let mut spool = spool(FREE);
    let (clip, entries) = filming(&mut spool, 2);
    spool.finish(clip, 5 * SECOND, "00".into(), now(106));
    for entry in &entries {
        assert_eq!(take(&mut spool, 106), Some(*entry));
        store(&mut spool, *entry, 106);
    }
    assert_eq!(begin(&mut spool, ClipKind::Motion, 404), None, "the pause counts from the clip's end");
    assert!(begin(&mut spool, ClipKind::Motion, 405).is_some());
}

#[test]
fn a_snapshot_goes_first_then_the_clip_under_way_then_the_oldest() {
    let mut spool = spool(PAID);
    let old = record(&mut spool, ClipKind::Motion, 50, 5, 10).unwrap();
    let earlier = record(&mut spool, ClipKind::Snapshot, 60, 0, 10).unwrap();
    let (clip, entries) = filming(&mut spool, 1);
    let newest = record(&mut spool, ClipKind::Snapshot, 102, 0, 10).unwrap();
    let order: Vec<_> = std::iter::from_fn(|| {
        let id = take(&mut spool, 106)?;
        store(&mut spool, id, 106);
        Some(id)
    })
    .collect();
    assert_eq!(order, [newest, earlier, clip, old]);
    spool.finish(clip, 3 * SECOND, "00".into(), now(106));
    record(&mut spool, ClipKind::Motion, 90, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 106), Some(entries[1]), "what has begun to leave is completed before an older clip begins");
}

#[test]
fn a_part_that_fails_holds_up_its_own_clip_alone() {
    let mut spool = spool(PAID);
    let (clip, _) = filming(&mut spool, 2);
    assert_eq!(take(&mut spool, 106), Some(clip));
    spool.settle(clip, spool.generation, failed(Blame::Clip), now(106));
    assert_eq!(take(&mut spool, 106), None);
    let other = record(&mut spool, ClipKind::Motion, 106, 1, 10).unwrap();
    assert_eq!(take(&mut spool, 107), Some(other));
    assert_eq!(take(&mut spool, 110), Some(clip), "and is tried again");
}

/// Scenario 97: what memory cannot hold goes to flash while the clip is being filmed, in order, and nothing is shorter.
#[test]
fn s97_a_long_clip_over_a_dead_link_goes_to_flash_part_by_part() {
    let mut spool = Spool::new(1000, 1 << 20, 1 << 30);
    spool.admit(admission(PAID), now(0));
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    let longest = Verdict::Continue { max: Duration::from_secs(PAID.clip_max_s.into()) };
    let mut written = Vec::new();
    for part in 0..20 {
        assert_eq!((film(&mut spool, clip, 2 * part + 1, 100), film(&mut spool, clip, 2 * part + 2, 100)), (longest, longest), "{part}");
        end_part(&mut spool, clip, 2 * part + 2);
        while let Ok(Chore::Spill(spill)) = spool.chore(now(101 + 2 * part)) {
            written.push(spill.facts.part.clone().map(|part| part.index));
            spool.spilled(spill.id, Spilled::Durable, None, now(101 + 2 * part));
        }
    }
    assert_eq!(spool.troubles(now(140)).shortened, None);
    assert!(written.iter().flatten().copied().eq(0..written.len() as u32), "{written:?}");
    assert!(written.len() > 15 && spool.memory() <= 1000 && spool.tally().dropped == Erased::default());
}

/// Of parts on flash behind one that a power cut loses, none would play.
#[test]
fn no_part_goes_to_flash_before_the_one_before_it() {
    let mut spool = Spool::new(50_000, 1 << 20, 4 * 4096);
    spool.admit(admission(PAID), now(0));
    let clip = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    film(&mut spool, clip, 1, 30_000);
    let second = end_part(&mut spool, clip, 1);
    film(&mut spool, clip, 2, 100);
    spool.finish(clip, 2 * SECOND, "00".into(), now(102));
    assert!(spool.chore(now(200)).is_err(), "the first is more than may be written today");
    assert!(spool.flash_use().over_budget);
    assert_eq!(take(&mut spool, 200), Some(clip));
    store(&mut spool, clip, 200);
    assert!(matches!(spool.chore(now(200)), Ok(Chore::Spill(spill)) if spill.id == second), "once it has left");
}

#[test]
fn without_room_the_clip_ends_early_keeps_what_it_has_and_says_so() {
    let mut spool = spool(PAID);
    let (clip, _) = filming(&mut spool, 4);
    let mut second = 10;
    while film(&mut spool, clip, second, 50) == (Verdict::Continue { max: Duration::from_secs(PAID.clip_max_s.into()) }) {
        second += 1;
    }
    assert!(matches!(spool.limit(clip), Verdict::Continue { max } if max == Duration::from_secs(second)));
    spool.finish(clip, Duration::from_secs(second), "00".into(), now(120));
    assert_eq!(spool.tally().dropped, Erased::default());
    assert!(spool.troubles(now(120)).shortened.is_some_and(|said| said.sentence.starts_with("1 clip ended")));
    assert_eq!(spool.troubles(now(4000)).shortened, None, "an hour later it is history");
}

#[test]
fn a_part_that_is_dropped_takes_along_what_would_not_play_without_it() {
    let mut spool = spool(PAID);
    let (clip, entries) = filming(&mut spool, 3);
    spool.finish(clip, 7 * SECOND, "00".into(), now(108));
    assert_eq!(take(&mut spool, 108), Some(clip));
    store(&mut spool, clip, 108);
    let index = spool.ledger.clips.iter().position(|entry| entry.id == entries[2]).unwrap();
    assert_eq!(spool.ledger.drop_clip(index, now(108)), clip);
    assert_eq!(spool.tally().dropped, Erased { clips: 1, bytes: 150 });
    assert_eq!((take(&mut spool, 108), spool.held()), (Some(entries[1]), Erased { clips: 1, bytes: 100 }));
    assert_eq!(spool.sweep().1.len(), 1, "it is told of once");
}

fn part(clip: Uuid, index: u32, last: bool, known_s: u64) -> Facts {
    let from_ms = u64::from(index) * 2000;
    let part = PartFacts { of: clip.to_string(), index, last, from_ms, long_ms: 2000 };
    Facts { duration_ms: known_s * 1000, part: Some(part), ..found(ClipKind::Motion, 3, 100, 10) }
}

#[test]
fn after_a_power_cut_what_is_left_of_a_clip_leaves_in_order_up_to_the_first_gap() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    let clip = Uuid::from_u128(7);
    let parts = [part(clip, 2, false, 6), part(clip, 4, false, 10), part(clip, 1, false, 4), part(clip, 5, true, 12)];
    spool.restore(parts.to_vec(), now(200));
    assert_eq!((spool.held(), spool.tally().dropped), (Erased { clips: 1, bytes: 20 }, Erased { clips: 1, bytes: 20 }));
    spool.admit(admission(PAID), now(200));
    for (index, id) in [(1, parts[2].id()), (2, parts[0].id())] {
        let job = job(&mut spool, 300).unwrap();
        assert_eq!((Some(job.id), job.clip, job.part.map(|part| part.index)), (id, clip, Some(index)));
        assert_eq!(job.facts.duration, 12 * SECOND, "the policy judges the clip");
        store(&mut spool, job.id, 300);
    }
    assert_eq!(take(&mut spool, 300), None);
}
