mod failures;
mod growth;
mod header;
mod parts;

use care_protocol::ClipKind;
use uuid::Uuid;

use super::{clip::OnFlash, *};
use crate::{
    media::{Beginning, Verdict},
    upload::flash::{Facts, HEADER_BYTES, Tail},
};

pub(super) const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
pub(super) const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
pub(super) const AT: Position = Position { epoch: 3, seq: 41 };

pub(super) fn trouble(blame: Blame) -> Trouble {
    Trouble { blame, why: "clips.example:443 answered 500".into(), advice: "Mend it.", retry_after: None }
}

pub(super) fn failed(blame: Blame) -> Outcome {
    Outcome::Failed(trouble(blame))
}

pub(super) fn now(boot_s: u64) -> Now {
    let boot = Duration::from_secs(boot_s);
    Now { boot, trusted: Duration::from_secs(1_767_225_600) + boot, confirmed: true, ..Now::default() }
}

pub(super) fn admission(policy: Policy) -> Admission {
    Admission { record: policy, keep: policy, leave: policy, position: AT }
}

pub(super) fn spool(policy: Policy) -> Spool {
    let mut spool = Spool::new(1000, 0, 1 << 30);
    spool.admit(admission(policy), now(0));
    spool
}

fn begin(spool: &mut Spool, kind: ClipKind, at_s: u64) -> Option<Uuid> {
    let id = Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..));
    let beginning = Beginning { kind, ago: Duration::ZERO, height: 360 };
    spool.begin(id, beginning, now(at_s)).map(|_| id)
}

/// A clip of `bytes` that began at `at_s` and lasted `long_s`.
pub(super) fn record(spool: &mut Spool, kind: ClipKind, at_s: u64, long_s: u64, bytes: usize) -> Option<Uuid> {
    let id = begin(spool, kind, at_s)?;
    let duration = Duration::from_secs(long_s);
    let verdict = spool.append(id, Bytes::from(vec![0; bytes]), duration, now(at_s + long_s));
    spool.finish(id, duration, "00".into(), now(at_s + long_s));
    (verdict != Verdict::Erased).then_some(id)
}

pub(super) fn take(spool: &mut Spool, at_s: u64) -> Option<Uuid> {
    match spool.next(spool.generation, now(at_s)) {
        Next::Take(job) => Some(job.id),
        _ => None,
    }
}

pub(super) fn store(spool: &mut Spool, id: Uuid, at_s: u64) {
    spool.settle(id, spool.generation, Outcome::Stored, now(at_s));
}

#[test]
fn the_oldest_leaves_first_and_only_once() {
    let mut spool = spool(PAID);
    let first = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    let second = record(&mut spool, ClipKind::Motion, 110, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 200), Some(first));
    assert_eq!(take(&mut spool, 200), Some(second));
    assert_eq!(take(&mut spool, 200), None);
    store(&mut spool, first, 201);
    store(&mut spool, second, 201);
    assert_eq!(spool.held(), Erased::default());
    assert_eq!(spool.tally().stored, Erased { clips: 2, bytes: 20 });
}

#[test]
fn nothing_is_recorded_without_a_document_or_within_the_cooldown() {
    let mut unbound = Spool::new(1000, 0, 1 << 30);
    assert_eq!(begin(&mut unbound, ClipKind::Motion, 100), None);
    unbound.admit(Admission { position: Position::NONE, ..admission(PAID) }, now(0));
    assert_eq!(begin(&mut unbound, ClipKind::Motion, 100), None);

    let mut spool = spool(FREE);
    let first = record(&mut spool, ClipKind::Motion, 100, 10, 10).unwrap();
    assert_eq!(begin(&mut spool, ClipKind::Motion, 409), None);
    assert_eq!(begin(&mut spool, ClipKind::Snapshot, 500), None);
    assert_eq!(take(&mut spool, 200), Some(first));
    store(&mut spool, first, 201);
    assert_eq!(begin(&mut spool, ClipKind::Motion, 409), None, "the cooldown outlives the clip's leaving");
    assert!(begin(&mut spool, ClipKind::Motion, 410).is_some());
    assert_eq!(begin(&mut spool, ClipKind::Motion, 800), None, "one is being recorded");
}

#[test]
fn a_cut_erases_what_the_new_plan_forbids_wherever_it_is() {
    let mut spool = spool(PAID);
    let in_flight = record(&mut spool, ClipKind::Motion, 100, 30, 10).unwrap();
    let kept = record(&mut spool, ClipKind::Motion, 200, 10, 20).unwrap();
    let cooling = record(&mut spool, ClipKind::Motion, 220, 10, 30).unwrap();
    let snapshot = record(&mut spool, ClipKind::Snapshot, 240, 0, 40).unwrap();
    let recording = begin(&mut spool, ClipKind::Motion, 250).unwrap();
    assert_eq!((take(&mut spool, 260), take(&mut spool, 260)), (Some(snapshot), Some(in_flight)));

    assert_eq!(spool.recall(Generation(1)), 2);
    let erased = spool.keep(FREE, AT, now(260));
    assert_eq!(erased, Erased { clips: 4, bytes: 80 }, "{in_flight} is too long, {cooling} and {recording} too soon, {snapshot} no clip");
    assert_eq!(take(&mut spool, 260), None, "closed until opened");
    assert_eq!(spool.append(recording, Bytes::from_static(b"x"), Duration::from_secs(1), now(261)), Verdict::Erased);
    spool.finish(recording, Duration::from_secs(2), "00".into(), now(262));

    spool.admit(admission(FREE), now(0));
    assert_eq!(take(&mut spool, 261), Some(kept));
    assert_eq!(spool.held(), Erased { clips: 1, bytes: 20 });
    // The task of the first transfer ends only now; it has nothing to say any more.
    spool.settle(in_flight, Generation(0), failed(Blame::Away), now(262));
    assert_eq!(spool.schedule.pause_until, Duration::ZERO);
}

#[test]
fn while_a_cut_is_under_way_nothing_is_given_out_and_what_dies_of_it_is_counted() {
    let mut spool = spool(PAID);
    let dying = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    let waiting = record(&mut spool, ClipKind::Motion, 110, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 120), Some(dying));
    // The gate's generation has advanced, ours has not yet; the aborted transfer is the first to say something.
    assert!(matches!(spool.next(Generation(1), now(120)), Next::Idle));
    spool.settle(dying, Generation(0), Outcome::Stale, now(120));
    assert_eq!(spool.recall(Generation(1)), 1);
    assert_eq!(take(&mut spool, 120), None, "closed until opened, even if nothing was erased");
    spool.admit(admission(PAID), now(0));
    assert_eq!((take(&mut spool, 120), take(&mut spool, 120)), (Some(dying), Some(waiting)));
}

#[test]
fn a_change_of_epoch_erases_the_old_owners_clips_even_under_a_better_plan() {
    let mut spool = spool(FREE);
    record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    spool.recall(Generation(1));
    assert_eq!(spool.keep(PAID, Position { epoch: 4, seq: 1 }, now(200)), Erased { clips: 1, bytes: 10 });
}

#[test]
fn what_exceeds_what_may_leave_waits_and_is_not_erased() {
    let mut spool = spool(PAID);
    let long = record(&mut spool, ClipKind::Motion, 100, 30, 10).unwrap();
    assert_eq!(take(&mut spool, 140), Some(long));
    spool.recall(Generation(1));
    spool.admit(Admission { leave: FREE, ..admission(PAID) }, now(0));
    let short = record(&mut spool, ClipKind::Motion, 500, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 510), Some(short));
    assert_eq!(take(&mut spool, 510), None);
    spool.admit(admission(PAID), now(0));
    assert_eq!(take(&mut spool, 510), Some(long));
}

#[test]
fn a_clip_that_was_stored_just_before_the_cut_does_not_come_back() {
    let mut spool = spool(PAID);
    let clip = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    take(&mut spool, 110).unwrap();
    spool.recall(Generation(1));
    spool.admit(admission(PAID), now(0));
    spool.settle(clip, Generation(0), Outcome::Stored, now(111));
    assert_eq!(take(&mut spool, 112), None);
    assert_eq!(spool.tally().stored, Erased { clips: 1, bytes: 10 });
}

#[test]
fn a_refused_clip_waits_and_lets_others_pass_until_it_may_ask_again() {
    let mut spool = spool(FREE);
    let refused = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    take(&mut spool, 110).unwrap();
    let until = Duration::from_secs(110 + 900);
    spool.settle(refused, Generation(0), Outcome::Refused { until, status: 402 }, now(110));
    assert_eq!(take(&mut spool, 1009), None);
    assert!(matches!(spool.next(spool.generation, now(120)), Next::At(due) if due == until));
    let later = record(&mut spool, ClipKind::Motion, 500, 5, 10).unwrap();
    assert_eq!(take(&mut spool, 510), Some(later));
    store(&mut spool, later, 511);
    spool.recall(Generation(1));
    spool.admit(admission(FREE), now(0));
    assert_eq!(take(&mut spool, 520), None, "a cut alone is no reason to ask again");
    spool.retry_refused();
    assert_eq!(take(&mut spool, 520), Some(refused), "it was there before the one that left");
}

#[test]
fn another_document_is_a_reason_to_ask_again() {
    let mut spool = spool(FREE);
    let refused = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    take(&mut spool, 110).unwrap();
    spool.settle(refused, Generation(0), Outcome::Refused { until: Duration::from_secs(1010), status: 402 }, now(110));
    spool.admit(admission(FREE), now(0));
    assert_eq!(take(&mut spool, 120), None);
    spool.admit(Admission { position: Position { seq: 42, ..AT }, ..admission(FREE) }, now(0));
    assert_eq!(take(&mut spool, 120), Some(refused));
}

#[test]
fn failures_back_off_and_a_cut_cancels_the_wait() {
    let mut spool = spool(PAID);
    let clip = record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    for failures in 0..40u32 {
        spool.schedule.clear_pauses();
        assert_eq!(take(&mut spool, 110), Some(clip));
        spool.settle(clip, Generation(0), failed(Blame::Away), now(110));
        let wait = spool.schedule.pause_until - Duration::from_secs(110);
        assert!(wait <= Duration::from_secs(1 << failures.min(9)).min(Duration::from_secs(300)), "{wait:?} after {failures}");
    }
    (spool.schedule.pause_until, spool.schedule.fresh_from) = (Duration::from_secs(1000), Duration::from_secs(1000));
    assert_eq!(take(&mut spool, 999), None);
    spool.recall(Generation(1));
    spool.admit(admission(PAID), now(0));
    assert_eq!(take(&mut spool, 110), Some(clip));
}

#[test]
fn a_full_spool_drops_the_oldest_of_the_lowest_class_and_counts() {
    let mut spool = spool(PAID);
    let manual = record(&mut spool, ClipKind::Manual, 100, 1, 300).unwrap();
    let motion = record(&mut spool, ClipKind::Motion, 110, 1, 300).unwrap();
    let snapshot = record(&mut spool, ClipKind::Snapshot, 120, 0, 300).unwrap();
    let newest = record(&mut spool, ClipKind::Motion, 130, 1, 300).unwrap();
    let gone = |spool: &Spool| [manual, motion, snapshot, newest].map(|id| !spool.ledger.clips.iter().any(|clip| clip.id == id));
    assert_eq!(gone(&spool), [false, false, true, false]);
    record(&mut spool, ClipKind::Motion, 140, 1, 300).unwrap();
    assert_eq!(gone(&spool), [false, true, true, false]);
    assert_eq!(spool.tally().dropped, Erased { clips: 2, bytes: 600 });
    let (_, losses) = spool.sweep();
    assert_eq!(losses.iter().map(|loss| loss.clip.kind).collect::<Vec<_>>(), [ClipKind::Snapshot, ClipKind::Motion]);
}

#[test]
fn the_clip_being_written_stays_unless_nothing_else_can_go() {
    let mut spool = spool(PAID);
    record(&mut spool, ClipKind::Motion, 100, 1, 600).unwrap();
    assert!(record(&mut spool, ClipKind::Snapshot, 110, 0, 600).is_some(), "an older clip gives way to what is being written");
    assert!(take(&mut spool, 120).is_some());
    assert_eq!(record(&mut spool, ClipKind::Motion, 130, 1, 600), None, "a clip in flight does not");
    assert_eq!(record(&mut spool, ClipKind::Motion, 140, 1, 1001), None);
    assert!(spool.held().bytes <= 1000);
}

#[test]
fn a_clip_that_fills_the_spool_ends_there_and_is_kept() {
    let mut spool = spool(PAID);
    record(&mut spool, ClipKind::Motion, 100, 1, 300).unwrap();
    let id = begin(&mut spool, ClipKind::Motion, 110).unwrap();
    let append = |spool: &mut Spool, second| spool.append(id, Bytes::from(vec![0; 200]), Duration::from_secs(second), now(110 + second));
    let longest = Verdict::Continue { max: Duration::from_secs(PAID.clip_max_s.into()) };
    assert_eq!((append(&mut spool, 1), append(&mut spool, 2), append(&mut spool, 3)), (longest, longest, longest));
    let here = Verdict::Continue { max: Duration::from_secs(4) };
    assert_eq!((append(&mut spool, 4), spool.limit(id)), (here, here), "the older clip has made room, and there is none for two more");
    spool.finish(id, Duration::from_secs(4), String::new(), now(114));
    assert_eq!((take(&mut spool, 120), spool.held().bytes), (Some(id), 800));
}

#[test]
fn clips_are_erased_by_age_and_a_corrected_clock_ages_none() {
    let mut spool = spool(FREE);
    record(&mut spool, ClipKind::Motion, 100, 5, 10).unwrap();
    let corrected = Now { trusted: now(200).trusted + Duration::from_secs(400 * 86_400), ..now(200) };
    assert_eq!(spool.expire(corrected), Erased::default());
    assert!(
        matches!(spool.next(spool.generation, corrected), Next::Take(job) if job.facts.started_ms == (corrected.trusted.as_secs() - 100) * 1000)
    );
    spool.recall(Generation(1));
    assert_eq!(spool.expire(now(100 + 12 * 3600)), Erased::default());
    assert_eq!(spool.expire(now(101 + 12 * 3600)), Erased { clips: 1, bytes: 10 });
    assert_eq!(spool.tally().erased, Erased { clips: 1, bytes: 10 });
}

#[test]
fn a_clip_that_is_not_finished_or_too_long_is_gone() {
    let mut spool = spool(FREE);
    let id = begin(&mut spool, ClipKind::Motion, 100).unwrap();
    spool.append(id, Bytes::from_static(b"abc"), Duration::from_secs(1), now(101));
    spool.abandon(id);
    assert_eq!(spool.held(), Erased::default());
    record(&mut spool, ClipKind::Motion, 200, 13, 10);
    assert_eq!(spool.held(), Erased::default());
    assert_eq!(take(&mut spool, 300), None);
}

fn found(kind: ClipKind, epoch: u64, started_s: u64, bytes: u64) -> Facts {
    Facts {
        clip: Uuid::from_u64_pair(fastrand::u64(..), fastrand::u64(..)).to_string(),
        kind,
        epoch,
        height: 360,
        started_ms: (1_767_225_600 + started_s) * 1000,
        duration_ms: 5000,
        bytes,
        sha256: "00".into(),
        tail: Tail::default(),
        part: None,
    }
}

#[test]
fn what_is_found_on_flash_leaves_only_once_judged_and_once_the_time_is_known() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    let facts = found(ClipKind::Motion, 3, 100, 10);
    let id = facts.id();
    spool.restore(vec![facts], now(200));
    assert_eq!((spool.held(), spool.memory()), (Erased { clips: 1, bytes: 10 }, 0));
    assert_eq!(spool.expire(now(10_000_000)), Erased::default(), "without a document nothing is known, not even how long it is kept");
    assert_eq!(take(&mut spool, 200), None);
    assert_eq!(spool.admit(admission(PAID), now(200)), Erased::default());
    let unconfirmed = Now { confirmed: false, ..now(200) };
    assert!(matches!(spool.next(spool.generation, unconfirmed), Next::At(_)), "how long the camera was off is not known");
    assert_eq!(take(&mut spool, 200), id);
}

/// Scenarios 45, 68 and 32: before anything leaves, what the document on record does not allow is gone.
#[test]
fn s68_what_is_found_is_judged_by_the_document_on_record() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    let kept = found(ClipKind::Motion, 3, 1000, 1);
    let id = kept.id();
    let snapshot = found(ClipKind::Snapshot, 3, 1100, 2);
    let of_another_owner = found(ClipKind::Motion, 2, 1200, 4);
    let too_long = Facts { duration_ms: 13_000, ..found(ClipKind::Motion, 3, 1300, 8) };
    let too_tall = Facts { height: 1080, ..found(ClipKind::Motion, 3, 2300, 16) };
    let too_old = Facts { started_ms: 1_767_000_000_000, ..found(ClipKind::Motion, 3, 0, 32) };
    spool.restore(vec![kept, snapshot, of_another_owner, too_long, too_tall, too_old], now(3000));
    assert_eq!(spool.admit(admission(FREE), now(3000)), Erased { clips: 5, bytes: 62 });
    assert!(!spool.erasures_settled(), "and flash has to be told");
    assert!(matches!(spool.chore(now(3000)), Ok(Chore::Erase(ids)) if ids.len() == 5));
    assert_eq!(spool.admit(admission(PAID), now(3000)), Erased::default(), "once");
    assert_eq!(take(&mut spool, 3000), id);
}

/// An age that is not known is taken to be the most it can be: the clip began no earlier than it says.
#[test]
fn a_clip_of_an_earlier_boot_is_aged_by_a_clock_that_turns_out_to_be_later() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    spool.restore(vec![found(ClipKind::Motion, 3, 100, 10)], now(200));
    spool.admit(admission(FREE), now(200));
    let day_later = Now { trusted: now(200).trusted + Duration::from_secs(86_400), ..now(200) };
    assert!(!matches!(spool.next(spool.generation, day_later), Next::Take(_)));
    assert_eq!(spool.expire(day_later), Erased { clips: 1, bytes: 10 });
}

#[test]
fn a_clip_goes_to_flash_when_it_has_waited_or_memory_is_half_full_and_not_before() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    spool.admit(admission(PAID), now(0));
    let first = record(&mut spool, ClipKind::Motion, 100, 1, 400).unwrap();
    assert!(matches!(spool.chore(now(110)), Err(due) if due == Duration::from_secs(101) + Duration::from_secs(15)));
    let second = record(&mut spool, ClipKind::Motion, 110, 1, 200).unwrap();
    assert!(matches!(spool.chore(now(111)), Ok(Chore::Spill(spill)) if spill.id == first), "600 of 1000");
    let freed = spool.spilled(first, Spilled::Durable, None, now(112));
    assert_eq!((freed.len(), spool.memory(), spool.flash_use().held.clips), (1, 200, 1));
    assert!(spool.chore(now(112)).is_err(), "200 of 1000");
    assert!(matches!(spool.chore(now(130)), Ok(Chore::Spill(spill)) if spill.id == second), "it has waited");
    // It leaves while it is being written: what may be there of it must be said to be gone.
    spool.spilled(second, Spilled::Failed, Some(Diagnosis { sentence: "EIO".into(), advice: "Mend it." }), now(131));
    assert!(spool.chore(now(140)).is_err(), "a flash that failed is left alone for a while");
    assert!(spool.flash_use().fault.is_some());
    assert_eq!((take(&mut spool, 140), take(&mut spool, 140)), (Some(first), Some(second)));
    store(&mut spool, second, 141);
    assert!(matches!(spool.chore(now(141)), Ok(Chore::Erase(ids)) if ids.contains(&second)));
}

/// Full flash can still unlink, so an erasure that succeeds says nothing of writing.
#[test]
fn that_flash_takes_no_clip_is_said_until_it_does_or_none_waits() {
    let full = || Some(Diagnosis { sentence: "No space left".into(), advice: "Make room." });
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    spool.admit(admission(PAID), now(0));
    let first = record(&mut spool, ClipKind::Motion, 100, 1, 600).unwrap();
    assert!(matches!(spool.chore(now(101)), Ok(Chore::Spill(spill)) if spill.id == first));
    spool.spilled(first, Spilled::Failed, full(), now(102));
    // It gives way to a newer one, and what may be there of it is erased.
    let second = record(&mut spool, ClipKind::Motion, 110, 1, 600).unwrap();
    assert_eq!(spool.tally().dropped.clips, 1);
    assert!(matches!(spool.chore(now(111)), Ok(Chore::Erase(ids)) if ids.contains(&first)));
    spool.erasure_recorded(None, now(111));
    spool.unlinked(None, now(111));
    spool.troubles(now(111));
    assert_eq!(spool.flash_use().fault, full(), "clips are dropped, and flash is the cause");
    // An erasure that fails is named for as long as it does.
    spool.erasure_recorded(Some(Diagnosis { sentence: "EIO".into(), advice: "Mend it." }), now(112));
    assert_eq!(spool.flash_use().fault.unwrap().sentence, "EIO");
    spool.erasure_recorded(None, now(200));
    spool.unlinked(None, now(200));
    assert_eq!(spool.flash_use().fault, full());
    // It ends with the first clip that is written,
    let mut mended = now(2000);
    while !matches!(spool.chore(mended), Ok(Chore::Spill(_))) {
        mended = now(mended.boot.as_secs() + 1);
        spool.erasure_recorded(None, mended);
    }
    spool.spilled(second, Spilled::Durable, None, mended);
    assert_eq!(spool.flash_use().fault, None);
    // or when none waits for it.
    let third = record(&mut spool, ClipKind::Motion, 3000, 1, 600).unwrap();
    assert!(matches!(spool.chore(now(3001)), Ok(Chore::Spill(spill)) if spill.id == third));
    spool.spilled(third, Spilled::Failed, full(), now(3002));
    for _ in 0..2 {
        let id = take(&mut spool, 3003).unwrap();
        assert!(spool.flash_use().fault.is_some());
        store(&mut spool, id, 3004);
    }
    spool.troubles(now(3004));
    assert_eq!(spool.flash_use().fault, None);
}

/// Scenario 75.
#[test]
fn s75_what_makes_room_on_flash_is_the_oldest_of_the_lowest_class_and_never_worth_more() {
    let mut spool = Spool::new(10_000, 2 * (HEADER_BYTES + 300), 1 << 30);
    spool.admit(admission(PAID), now(0));
    let manual = found(ClipKind::Manual, 3, 100, 300);
    let motion = found(ClipKind::Motion, 3, 110, 300);
    let (manual_id, motion_id) = (manual.id().unwrap(), motion.id().unwrap());
    spool.restore(vec![manual, motion], now(200));
    let snapshot = record(&mut spool, ClipKind::Snapshot, 210, 0, 300).unwrap();
    assert!(spool.chore(now(300)).is_err(), "a snapshot displaces no clip");
    let newer = record(&mut spool, ClipKind::Motion, 310, 1, 300).unwrap();
    assert!(matches!(spool.chore(now(400)), Ok(Chore::Erase(ids)) if ids.contains(&motion_id)), "what makes room goes first");
    spool.erasure_recorded(None, now(400));
    spool.unlinked(None, now(400));
    assert!(matches!(spool.chore(now(400)), Ok(Chore::Spill(spill)) if spill.id == newer));
    assert!([manual_id, snapshot, newer].iter().all(|id| spool.is_wanted(*id)));
    assert_eq!(spool.tally().dropped, Erased { clips: 1, bytes: 300 });
}

#[test]
fn a_file_that_cannot_be_read_is_given_up_in_the_end_and_counted() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    let facts = found(ClipKind::Motion, 3, 100, 10);
    let id = facts.id().unwrap();
    spool.restore(vec![facts], now(200));
    spool.admit(admission(PAID), now(200));
    for _ in 0..3 {
        assert_eq!(take(&mut spool, 2000), Some(id));
        spool.settle(id, Generation(0), failed(Blame::Flash), now(200));
    }
    assert_eq!((spool.held(), spool.tally().dropped), (Erased::default(), Erased { clips: 1, bytes: 10 }));
    assert!(matches!(spool.chore(now(200)), Ok(Chore::Erase(_))));
}

/// Scenario 95.
#[test]
fn s95_beyond_a_days_writes_clips_wait_in_memory_and_nothing_gives_way_on_flash() {
    // Two clips of a page each, with their names.
    let mut spool = Spool::new(10_000, 2 * (HEADER_BYTES + 1000), 4 * 4096);
    spool.admit(admission(PAID), now(0));
    let ids = [100, 110, 120].map(|at| record(&mut spool, ClipKind::Motion, at, 1, 1000).unwrap());
    for id in &ids[..2] {
        assert!(!spool.flash_use().over_budget);
        // The newest are worth most.
        assert!(matches!(spool.chore(now(200)), Ok(Chore::Spill(_))), "{id}");
        let writing = spool.ledger.clips.iter().find(|clip| clip.flash == OnFlash::Writing).unwrap().id;
        spool.spilled(writing, Spilled::Durable, None, now(200));
    }
    assert_eq!((spool.flash_use().written_today, spool.flash_use().held.clips), (4 * 4096, 2));
    let fourth = record(&mut spool, ClipKind::Motion, 210, 1, 1000).unwrap();
    assert!(spool.chore(now(300)).is_err());
    assert!(spool.flash_use().over_budget && spool.tally().dropped.clips == 0, "{:?}", spool.flash_use());
    spool.spill_all();
    assert!(spool.chore(now(300)).is_err(), "not even when the agent stops");
    // What is erased is said to be gone all the same.
    spool.keep(Policy { history_h: 0, ..PAID }, AT, now(300));
    assert!(matches!(spool.chore(now(300)), Ok(Chore::Erase(gone)) if gone.len() == 2));
    assert!(spool.flash_use().written_today > 4 * 4096);
    spool.erasure_recorded(None, now(300));
    spool.unlinked(None, now(300));
    // The next day it goes on.
    spool.admit(admission(PAID), now(300));
    let tomorrow = 86_400;
    let next = record(&mut spool, ClipKind::Motion, tomorrow, 1, 1000).unwrap();
    assert!(matches!(spool.chore(now(tomorrow + 60)), Ok(Chore::Spill(spill)) if spill.id == next && spill.id != fourth));
    assert!(!spool.flash_use().over_budget);
}

#[test]
fn a_clip_of_an_earlier_run_that_was_stamped_in_the_future_is_stamped_anew_once_the_time_is_known() {
    let mut spool = Spool::new(1000, 100_000, 1 << 30);
    // Trusted time ran a day ahead when it was recorded; the agent found it at 200 s.
    let ahead = Facts { duration_ms: 5000, ..found(ClipKind::Motion, 3, 86_400, 10) };
    let stamped_ms = ahead.started_ms;
    spool.restore(vec![ahead, found(ClipKind::Motion, 3, 100, 10)], now(200));
    let starts = |spool: &Spool, now: Now| -> Vec<u64> { spool.ledger.clips.iter().map(|clip| clip.facts(now).started_ms).collect() };
    let unconfirmed = Now { confirmed: false, ..now(200) };
    assert!(starts(&spool, unconfirmed).contains(&stamped_ms), "until the cloud says what time it is, the stamp is all there is");
    let (ended, untouched) = ((1_767_225_600 + 195) * 1000, (1_767_225_600 + 100) * 1000);
    let mut anew = starts(&spool, now(3000));
    anew.sort_unstable();
    assert_eq!(anew, [untouched, ended], "it had ended when it was found");
}
