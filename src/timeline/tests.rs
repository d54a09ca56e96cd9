//! What the timeline keeps, coalesces, forgets, and finds again after a restart or a power cut.

use std::{io, path::PathBuf, sync::mpsc, thread::JoinHandle};

use care_engine::{
    durable::{
        disk::{Disk, Snapshot},
        filesystem::{Access, Filesystem, StateFile},
    },
    trusted_time::{HeardDate, LATEST, Readings},
};
use care_protocol::{Cause, Cut, Erased, Mode, Outcome};

use super::{file::File, *};
use crate::clock::Dial;

const START: Duration = Duration::from_secs(1_767_225_600);
const PATIENCE: Duration = Duration::from_secs(60);

/// Free since a cancel.
pub(crate) fn report(seq: u64) -> Report {
    Report {
        device: "8006E5A1F0C2".parse().unwrap(),
        outcome: Outcome::Applied,
        reason: "cancelled".into(),
        detail: None,
        cause: Cause::Document,
        judged: None,
        epoch: 3,
        seq,
        digest: None,
        plan: None,
        mode: Mode::Free,
        persisted: true,
        keyset: 7,
        cut: Cut::default(),
        erased: Erased::default(),
        at: jiff::Timestamp::UNIX_EPOCH,
        agent: "0.1.0".into(),
    }
}

/// A timeline in memory whose clock is 100 s after boot, and confirmed or not.
fn timeline(confirmed: bool) -> (Timeline, Clock, Dial) {
    let (clock, dial) = Clock::dialled(START, Readings { boot: Duration::from_secs(100), system: Duration::ZERO });
    if confirmed {
        confirm(&clock);
    }
    (Timeline::new(clock.clone()), clock, dial)
}

fn confirm(clock: &Clock) {
    clock.observe_date(HeardDate { date: clock.now().trusted, sent: clock.now().boot, valid_until: LATEST });
}

fn entry(number: u64, epoch: u64, what: What) -> Entry {
    Entry { number, epoch, at: None, boot_s: 5, what }
}

fn switch(number: u64, epoch: u64, order: &str) -> Entry {
    let change = Change { report: report(number), order: Some(order.to_owned()), stages: Stages::default() };
    entry(number, epoch, What::Switch(Box::new(change)))
}

fn condition(number: u64, epoch: u64) -> Entry {
    entry(number, epoch, What::Condition(Episode { name: "stream".into(), sentence: "no picture".into(), lasted_s: None, times: 1 }))
}

fn started(number: u64, boot: &str) -> Entry {
    entry(number, 0, What::Started(Start { agent: "0.1.0".into(), boot: boot.into(), previous: None }))
}

fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.number).collect()
}

fn file(disk: &Disk) -> File<Disk> {
    let disk = disk.clone();
    File::new(move || Ok(disk.clone()))
}

fn bytes(disk: &Disk, name: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 20];
    let filled = disk.open(name, Access::Read).ok()?.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(filled);
    Some(bytes)
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Whether this text is anywhere on the disk.
fn is_on(disk: &Disk, text: &str) -> bool {
    disk.list().unwrap().iter().any(|name| holds(&bytes(disk, name).unwrap(), text))
}

#[test]
fn the_newest_entries_are_kept_and_equal_reports_are_one() {
    let (timeline, ..) = timeline(true);
    for seq in 1..=300 {
        assert!(timeline.switch(&report(seq), Some("KC-1")));
        assert!(!timeline.switch(&report(seq), Some("KC-1")));
    }
    let stages = Stages { cut: Some(40), ..Stages::default() };
    timeline.time(stages);
    let entries = timeline.entries();
    assert_eq!(entries.iter().map(|entry| entry.change().unwrap().report.seq).collect::<Vec<_>>(), (101..=300).collect::<Vec<_>>());
    assert_eq!(entries.last().unwrap().change().unwrap().stages, stages);
    assert_eq!(numbers(&timeline.newest(3)), [297, 298, 299]);
    timeline.forget();
    assert_eq!(timeline.entries(), []);
    assert!(timeline.is_erased(), "it is in memory only");
}

#[test]
fn a_condition_that_flaps_is_one_entry_with_a_count() {
    let (timeline, _, dial) = timeline(true);
    for _ in 0..50 {
        timeline.condition(Kind::BrokerUnreachable, Some("connection refused"));
        dial.advance(Duration::from_secs(20));
        timeline.condition(Kind::BrokerUnreachable, None);
        timeline.condition(Kind::BrokerUnreachable, None);
        dial.advance(Duration::from_secs(10));
    }
    let flapped = |entry: &Entry| match &entry.what {
        What::Condition(episode) => (episode.times, episode.lasted_s),
        other => panic!("{other:?}"),
    };
    assert_eq!(timeline.entries().iter().map(flapped).collect::<Vec<_>>(), [(50, Some(49 * 30 + 20))]);
    dial.advance(FLAPS);
    timeline.condition(Kind::BrokerUnreachable, Some("connection refused"));
    timeline.condition(Kind::ClockCorrected, Some("has an entry of its own"));
    assert_eq!(timeline.entries().iter().map(flapped).collect::<Vec<_>>(), [(50, Some(49 * 30 + 20)), (1, None)]);
}

#[test]
fn conditions_are_heard_of_whoever_raises_them() {
    let (timeline, ..) = timeline(true);
    let (conditions, theirs) = (Conditions::default(), timeline.clone());
    conditions.observe(move |kind, sentence| theirs.condition(kind, sentence));
    conditions.raise(Kind::Stream, format!("cannot open rtsp://admin:canary@camera/live {}", "long ".repeat(100)));
    conditions.raise(Kind::Stream, "another sentence of the same");
    conditions.clear(Kind::Stream);
    conditions.clear(Kind::Stream);
    let [Entry { what: What::Condition(episode), .. }] = &timeline.entries()[..] else { panic!("{timeline:?}") };
    assert_eq!((episode.name.as_str(), episode.times, episode.lasted_s), ("stream", 1, Some(0)));
    assert!(
        episode.sentence.starts_with("cannot open rtsp://…@camera/live long") && episode.sentence.chars().count() == 200,
        "{episode:?}"
    );
}

#[test]
fn entries_get_their_time_once_it_is_confirmed_and_a_step_is_one() {
    let (timeline, clock, dial) = timeline(false);
    timeline.condition(Kind::Stream, Some("no picture"));
    dial.advance(Duration::from_secs(50));
    timeline.update(clock.now(), 3);
    assert_eq!(timeline.entries()[0].at, None);
    confirm(&clock);
    timeline.update(clock.now(), 3);
    assert_eq!(timeline.entries()[0].at, Some(Moment(timestamp(START))), "not when it was confirmed");
    for ahead in [0, 61] {
        dial.advance(Duration::from_secs(ahead));
        let date = START + Duration::from_secs(10 * 86_400 + ahead);
        clock.observe_date(HeardDate { date, sent: clock.now().boot, valid_until: LATEST });
        timeline.update(clock.now(), 3);
    }
    timeline.update(clock.now(), 3);
    let entries = timeline.entries();
    let [_, Entry { what: What::ClockStep(step), .. }] = &entries[..] else { panic!("{entries:?}") };
    assert!(step.contains("the API's Date set trusted time forward"), "{step}");
}

#[test]
fn what_was_appended_is_read_and_a_later_entry_replaces_an_earlier_one() {
    let disk = Disk::default();
    let mut written = file(&disk);
    assert_eq!(written.read(), file::Found::default());
    assert!(!written.append(&[switch(1, 3, "KC-1")]).unwrap(), "there is no file");
    written.replace(&[switch(1, 3, "KC-1")]).unwrap();
    assert!(written.append(&[condition(2, 3), switch(3, 3, "KC-3")]).unwrap());
    let mut after = file(&disk);
    after.read();
    let over = entry(2, 3, What::Stopped {});
    assert!(after.append(std::slice::from_ref(&over)).unwrap(), "a restart goes on with the same file");
    assert_eq!(file(&disk).read().entries, [switch(1, 3, "KC-1"), over, switch(3, 3, "KC-3")]);
}

#[test]
fn the_file_has_a_bound_and_the_oldest_give_way() {
    let disk = Disk::default().without_history();
    let mut written = file(&disk);
    let all: Vec<Entry> = (0..400).map(|number| switch(number, 3, &"KC-".repeat(50))).collect();
    let oldest = written.replace(&all).unwrap();
    assert!(bytes(&disk, file::NAME).unwrap().len() <= file::REPLACED_BYTES);
    assert_eq!(numbers(&file(&disk).read().entries), (oldest..400).collect::<Vec<_>>());
    let mut appended = 0;
    while written.append(&[switch(400 + appended, 3, "KC-2")]).unwrap() {
        appended += 1;
    }
    assert!(appended > 20, "{appended}");
    assert!(bytes(&disk, file::NAME).unwrap().len() <= file::MOST_BYTES);
    assert_eq!(written.replace(&all[..1]).unwrap(), 0);
    assert_eq!(written.replace(&[]).unwrap(), 0);
    assert_eq!(file(&disk).read().entries, []);
}

/// Every way to lose power after every operation of a history.
fn after_each_power_cut(history: Vec<Snapshot>, mut check: impl FnMut(Disk)) {
    for moment in history {
        (0..moment.crashes()).for_each(|which| check(Disk::from(moment.crash(which))));
    }
}

#[test]
fn a_power_cut_at_any_point_leaves_the_old_or_the_new_entries_and_no_damage() {
    let disk = Disk::default();
    let mut written = file(&disk);
    let all: Vec<Entry> = (0..6).map(|number| switch(number, 3, "KC-1")).collect();
    // Each step with what must be there from then on, and what may be.
    let mut safe = 0;
    let mut steps: Vec<(usize, usize, Vec<Snapshot>)> = Vec::new();
    let mut step = |safe: &mut usize, may: usize| {
        steps.push((*safe, may, disk.take_history()));
        *safe = may;
    };
    written.replace(&all[..1]).unwrap();
    step(&mut safe, 1);
    assert!(written.append(&all[1..3]).unwrap());
    step(&mut safe, 3);
    assert!(written.append(&all[3..4]).unwrap());
    step(&mut safe, 4);
    written.replace(&all).unwrap();
    step(&mut safe, 6);
    let mut crashes = 0;
    for (safe, may, history) in steps {
        after_each_power_cut(history, |crashed| {
            crashes += 1;
            let found = file(&crashed).read();
            assert_eq!(found.damage, None);
            let count = found.entries.len();
            assert!(count == safe || count == may, "{count} entries, {safe} were safe and {may} written");
            assert_eq!(found.entries, all[..count]);
            // The next run goes on, over what was torn.
            let mut next = file(&crashed);
            let kept = next.read().entries;
            let more = [switch(9, 3, "KC-9")];
            if !next.append(&more).unwrap() {
                next.replace(&[&kept[..], &more].concat()).unwrap();
            }
            let found = file(&crashed).read();
            assert_eq!((found.damage, found.entries.len()), (None, count + 1));
        });
    }
    assert!(crashes > 50, "{crashes}");
}

#[test]
fn a_power_cut_during_an_erasure_leaves_all_or_nothing_of_the_owner() {
    let disk = Disk::default();
    let mut written = file(&disk);
    let all = [started(0, "a"), switch(1, 3, "KC-OLD"), condition(2, 3)];
    written.replace(&all).unwrap();
    disk.take_history();
    written.erase_but(&all[..1]).unwrap();
    let (mut old, mut new) = (0, 0);
    after_each_power_cut(disk.take_history(), |crashed| match file(&crashed).read().entries.len() {
        3 => old += 1,
        1 => new += 1,
        other => panic!("{other} entries"),
    });
    assert!(old > 0 && new > 0, "{old}, {new}");
    assert!(!is_on(&disk, "KC-OLD"));
    after_each_power_cut(vec![disk.now()], |crashed| assert!(!is_on(&crashed, "KC-OLD"), "it was said to be gone"));
}

#[test]
fn a_damaged_file_is_set_aside_and_what_can_be_read_is_kept() {
    let disk = Disk::default();
    let all: Vec<Entry> = (0..3).map(|number| switch(number, 3, "KC-1")).collect();
    file(&disk).replace(&all).unwrap();
    let whole = bytes(&disk, file::NAME).unwrap();
    let second = whole.iter().position(|byte| *byte == b'\n').unwrap() + 20;
    for (at, kept, damage) in
        [(second, &[1, 2][..], "1 of its lines"), (3, &[0, 1, 2][..], "does not begin"), (whole.len() - 9, &[0, 1][..], "")]
    {
        let disk = Disk::default();
        let mut bad = whole.clone();
        bad[at] ^= 0x10;
        disk.open(file::NAME, Access::Create).unwrap().write_at(&bad, 0).unwrap();
        let found = file(&disk).read();
        assert_eq!(numbers(&found.entries), kept, "{at}");
        if damage.is_empty() {
            assert_eq!((found.damage, bytes(&disk, file::DAMAGED)), (None, None), "a power cut leaves such a file");
            continue;
        }
        let why = found.damage.unwrap();
        assert!(why.contains(damage) && why.contains("set aside as timeline.damaged"), "{why}");
        assert_eq!(bytes(&disk, file::DAMAGED), Some(bad));
        assert_eq!(bytes(&disk, file::NAME), None);
        // It goes with its owner.
        file(&disk).erase_but(&[]).unwrap();
        assert!(!is_on(&disk, "KC-1"));
    }
    let disk = Disk::default();
    disk.open(file::NAME, Access::Create).unwrap().write_at(&[0xFF; file::MOST_BYTES + 10], 0).unwrap();
    assert!(file(&disk).read().damage.is_some());
}

/// A timeline whose thread keeps it on a simulated disk.
struct Kept {
    timeline: Timeline,
    clock: Clock,
    conditions: Conditions,
    erased: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Kept {
    fn on(disk: &Disk, epoch: u64) -> Self {
        let (timeline, clock, _) = timeline(true);
        let (conditions, theirs) = (Conditions::default(), timeline.clone());
        conditions.observe(move |kind, sentence| theirs.condition(kind, sentence));
        timeline.begin(epoch);
        let (said, erased) = mpsc::channel();
        let (theirs, file, listed) = (timeline.clone(), file(disk), conditions.clone());
        let keep = move || theirs.keep(file, &PathBuf::from("/state/timeline"), &listed, || said.send(()).unwrap_or_default());
        Self { timeline, clock, conditions, erased, thread: Some(std::thread::spawn(keep)) }
    }

    fn fault(&self) -> Option<String> {
        let list = self.conditions.list(self.clock.now());
        list.into_iter().find(|condition| condition.name == "timeline_fault").map(|condition| condition.sentence)
    }

    fn stop(mut self) {
        assert!(self.timeline.stop(PATIENCE));
        self.thread.take().unwrap().join().unwrap();
    }
}

fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Some(found) => return found,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            None => panic!("waited in vain for {what}"),
        }
    }
}

fn ends(entries: &[Entry]) -> Vec<Option<End>> {
    let start = |entry: &Entry| if let What::Started(start) = &entry.what { Some(start.previous) } else { None };
    entries.iter().filter_map(start).collect()
}

#[test]
fn a_restart_finds_what_happened_and_says_how_the_one_before_ended() {
    let disk = Disk::default().without_history();
    let first = Kept::on(&disk, 3);
    first.timeline.switch(&report(41), Some("KC-1"));
    first.timeline.time(Stages { cut: Some(40), ..Stages::default() });
    until("the switch on flash", || is_on(&disk, "\"cut\":40").then_some(()));
    // It is killed: nothing more is written.
    let killed = Disk::from(disk.now()).without_history();
    let second = Kept::on(&killed, 3);
    let entries = until("what was on flash", || Some(second.timeline.entries()).filter(|entries| entries.len() >= 3));
    assert_eq!(entries.iter().find_map(Entry::change).unwrap().order.as_deref(), Some("KC-1"));
    assert_eq!(ends(&entries), [None, Some(End::Killed)]);
    assert!(numbers(&entries).is_sorted());
    assert!(second.timeline.switch(&report(41), None), "of another run");
    second.stop();
    let third = Kept::on(&killed, 3);
    until("a start after a stop", || (ends(&third.timeline.entries()) == [None, Some(End::Killed), Some(End::Stopped)]).then_some(()));
    third.stop();
    first.stop();
    let rebooted = Disk::default();
    file(&rebooted).replace(&[started(7, "another boot")]).unwrap();
    let after = Kept::on(&rebooted, 3);
    until("a start after a power cut", || (ends(&after.timeline.entries()) == [None, Some(End::PowerLost)]).then_some(()));
    after.stop();
}

#[test]
fn the_owner_before_is_gone_from_flash_before_that_is_said() {
    let disk = Disk::default().without_history();
    let kept = Kept::on(&disk, 3);
    kept.timeline.switch(&report(41), Some("KC-OLD"));
    kept.conditions.raise(Kind::ClipFailing, "clip of KC-OLD");
    until("it on flash", || is_on(&disk, "clip of KC-OLD").then_some(()));
    kept.timeline.forget();
    assert_eq!(ends(&kept.timeline.entries()).len(), kept.timeline.entries().len(), "in memory at once");
    kept.erased.recv_timeout(PATIENCE).unwrap();
    assert!(kept.timeline.is_erased() && !is_on(&disk, "KC-OLD"));
    assert!(is_on(&disk, "started"), "what has no owner stays");
    // Its end is no news for the new owner.
    kept.conditions.clear(Kind::ClipFailing);
    kept.timeline.switch(&Report { epoch: 4, ..report(1) }, Some("KC-NEW"));
    kept.stop();
    let found = file(&disk).read().entries;
    assert_eq!(found.iter().filter_map(|entry| entry.change()?.order.clone()).collect::<Vec<_>>(), ["KC-NEW"]);
}

/// The power fails between the erasure and the record, or the other way round on flash that fails: the record decides.
#[test]
fn a_restart_under_another_epoch_shows_and_keeps_nothing_of_the_one_before() {
    for epoch in [4, 0] {
        let disk = Disk::default();
        file(&disk).replace(&[started(0, "a"), switch(1, 3, "KC-OLD"), condition(2, 3)]).unwrap();
        let kept = Kept::on(&disk, epoch);
        kept.erased.recv_timeout(PATIENCE).unwrap();
        assert!(!is_on(&disk, "KC-OLD"));
        assert_eq!(ends(&kept.timeline.entries()).len(), 2, "{:?}", kept.timeline);
        assert!(!format!("{:?}", kept.timeline).contains("KC-OLD"));
        kept.stop();
    }
    let disk = Disk::default();
    file(&disk).replace(&[switch(1, 3, "KC-SAME"), condition(2, 0)]).unwrap();
    let kept = Kept::on(&disk, 3);
    until("both", || (kept.timeline.entries().len() >= 3).then_some(()));
    assert!(kept.timeline.is_erased());
    kept.stop();
    assert!(is_on(&disk, "KC-SAME"));
}

#[test]
fn a_flash_that_fails_holds_nothing_up_is_named_and_is_tried_again() {
    let disk = Disk::default().without_history();
    file(&disk).replace(&[switch(1, 3, "KC-OLD")]).unwrap();
    disk.set_failing(Some(io::ErrorKind::StorageFull));
    let kept = Kept::on(&disk, 3);
    kept.timeline.switch(&report(41), Some("KC-1"));
    kept.timeline.forget();
    kept.erased.recv_timeout(PATIENCE).unwrap();
    assert!(kept.timeline.is_erased(), "no record waits for it");
    let fault = until("the condition", || kept.fault());
    assert!(fault.contains("/state/timeline"), "{fault}");
    disk.set_failing(None);
    kept.stop();
    assert!(!is_on(&disk, "KC-OLD"), "the stop tries once more");
}

#[test]
fn an_erasure_that_cannot_replace_the_file_removes_it() {
    let (mut replaced, mut removed, mut failed) = (0, 0, 0);
    for operation in 0..60 {
        let disk = Disk::default().without_history();
        let mut written = file(&disk);
        disk.fail_at(operation, io::ErrorKind::StorageFull);
        if written.replace(&[started(0, "a"), switch(1, 3, "KC-OLD")]).is_err() {
            continue;
        }
        match written.erase_but(&[started(0, "a")]) {
            Ok(()) if bytes(&disk, file::NAME).is_some() => replaced += 1,
            Ok(()) => removed += 1,
            Err(_) => {
                failed += 1;
                continue;
            }
        }
        assert!(!is_on(&disk, "KC-OLD"), "operation {operation}");
    }
    assert!(replaced > 0 && removed > 0 && failed > 0, "{replaced}, {removed}, {failed}");
}

#[test]
fn a_factory_reset_removes_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    erase(dir.path()).unwrap();
    for name in [file::NAME, file::PART, file::DAMAGED, "state"] {
        std::fs::write(dir.path().join(name), "KC-OLD").unwrap();
    }
    erase(dir.path()).unwrap();
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["state"]);
}

/// Flash is written seldom, however much flaps: a clock that is not real would be needed to see it in hours, so the rule is tested.
#[test]
fn what_flaps_waits_for_what_comes_next() {
    let (timeline, _, dial) = timeline(true);
    timeline.begin(3);
    let due = || timeline.lock().write_at.map(|at| at.saturating_duration_since(Instant::now()));
    assert!(due().unwrap() <= SOON);
    let written = || {
        let mut state = timeline.lock();
        state.write_at = None;
        state.unwritten.clear();
    };
    written();
    timeline.condition(Kind::Stream, Some("no picture"));
    assert!(due().unwrap() <= SOON);
    timeline.condition(Kind::Stream, None);
    written();
    for _ in 0..10 {
        dial.advance(Duration::from_secs(5));
        timeline.condition(Kind::Stream, Some("no picture"));
        timeline.condition(Kind::Stream, None);
        assert!(due().unwrap() > SOON, "it waits");
    }
    timeline.switch(&report(41), None);
    assert!(due().unwrap() <= SOON);
    assert_eq!(timeline.lock().unwritten, BTreeSet::from([1, 2]), "and goes with what is written at once");
}
