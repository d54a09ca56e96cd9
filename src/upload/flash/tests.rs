//! What the flash spool promises, tried on a disk that loses, tears and reorders what was not synced, at every moment
//! of histories that write:
//!
//! 1. a clip that was said to be on flash is found after any crash, whole, unless it went;
//! 2. what a document erased, or what went before it, is not found beside the record of that document or of any later
//!    one;
//! 3. nothing is found that the document on record does not allow;
//! 4. nothing torn is found, no part is left, and the quota holds.

mod growing;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use bytes::Bytes;
use care_engine::{
    Admission,
    durable::{
        disk::{Disk, Plant, Snapshot},
        filesystem::{Access, Filesystem, StateFile},
    },
    trusted_time::{HeardDate, LATEST, Readings},
};
use care_protocol::{ClipKind, Policy, Position};
use uuid::Uuid;

use super::{ClipFile, Facts, Files, HEADER_BYTES, Put, header, thread::carry_out};
use crate::{
    clock::{Clock, Dial},
    config::Spool as Limits,
    media::{Beginning, Outlet, Verdict},
    upload::{
        Event,
        gate::Gate,
        spool::{Head, Next, Outcome},
    },
};

const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 0, max_height: 720, snapshots: false };
const LIMITS: Limits = Limits { memory_bytes: 100_000, flash_bytes: 10 * (HEADER_BYTES + 120), flash_bytes_per_day: 1 << 30 };
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(5);

/// A fault planted in what surrounds the files, to see whether the tests notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Disk(Plant),
    /// The record does not wait for what its document has erased.
    RecordAtOnce,
    /// A restart does not read the journal.
    NoJournal,
}

/// The documents of a history, by number; the number is what stands on record.
fn policy(document: u64) -> Policy {
    // 1 paid, 2 cancelled, 3 paid again, 4 cancelled …
    if document % 2 == 1 { PAID } else { FREE }
}

fn position(document: u64) -> Position {
    Position { epoch: 3, seq: 40 + document }
}

fn admission(document: u64) -> Admission {
    let policy = policy(document);
    Admission { record: policy, keep: policy, leave: policy, position: position(document) }
}

/// What is known of all clips of a history, whoever recorded them.
#[derive(Clone, Default)]
struct Ledger {
    contents: BTreeMap<Uuid, Vec<u8>>,
    long: BTreeSet<Uuid>,
    /// The first document that was written after this one went.
    gone_by: BTreeMap<Uuid, u64>,
}

/// A disk at one moment, and the clips that must be found after a crash then.
struct Moment {
    disk: Snapshot,
    safe: BTreeSet<Uuid>,
}

/// A running camera, as far as its spool is concerned: the real gate and the real files on the simulated disk, and a
/// shell that does what the agent does.
struct Camera {
    limits: &'static Limits,
    disk: Disk,
    files: Files<Disk>,
    gate: Gate,
    dial: Dial,
    fault: Option<Fault>,
    ledger: Ledger,
    moments: Vec<Moment>,
    /// The newest document in force.
    document: u64,
    /// The record that waits for erasures.
    waits: Cell<Option<u64>>,
}

impl Camera {
    /// A camera that starts with this on flash, of which `safe` must be found, and with `record` on record.
    fn boot(limits: &'static Limits, found: Snapshot, safe: &BTreeSet<Uuid>, record: u64, fault: Option<Fault>, ledger: Ledger) -> Self {
        let plant = if let Some(Fault::Disk(plant)) = fault { Some(plant) } else { None };
        let disk = Disk::from(found).with(plant);
        let started = Readings { boot: Duration::from_secs(1000), system: Duration::ZERO };
        let (clock, dial) = Clock::dialled(Duration::from_secs(1_767_225_600), started);
        clock.observe_date(HeardDate { date: Duration::from_secs(1_767_225_600), sent: started.boot, valid_until: LATEST });
        let mut files = Files::new(disk.opener());
        if fault == Some(Fault::NoJournal) {
            // It may not be there.
            let _ = disk.remove("journal");
        }
        let gate = Gate::new(limits, None, clock);
        match files.scan() {
            Ok(scan) => {
                gate.spool.lock().lost_unreadable(scan.unreadable);
                gate.spool.lock().restore(scan.clips, gate.clock.now());
            }
            Err(why) => gate.spool.lock().not_restored(super::flash_fault("it cannot be looked at", &why), gate.clock.now()),
        }
        disk.attempt(record);
        disk.acknowledge(record);
        gate.open(admission(record));
        let mut camera =
            Self { limits, disk, files, gate, dial, fault, ledger, moments: Vec::new(), document: record, waits: Cell::new(None) };
        let safe: BTreeSet<Uuid> = camera.on_flash().intersection(safe).copied().collect();
        camera.moments = camera.disk.take_history().into_iter().map(|disk| Moment { disk, safe: safe.clone() }).collect();
        camera
    }

    fn new(fault: Option<Fault>) -> Self {
        Self::with(&LIMITS, fault)
    }

    fn with(limits: &'static Limits, fault: Option<Fault>) -> Self {
        Self::boot(limits, Snapshot::default(), &BTreeSet::new(), 1, fault, Ledger::default())
    }

    fn ids(&self) -> BTreeSet<Uuid> {
        self.gate.spool.lock().ids().collect()
    }

    fn on_flash(&self) -> BTreeSet<Uuid> {
        self.gate.spool.lock().ids_on_flash().collect()
    }

    /// Does one thing, and keeps every state that the disk went through meanwhile.
    fn step(&mut self, what: impl FnOnce(&mut Self)) {
        let before = (self.ids(), self.on_flash());
        what(self);
        let (ids, safe) = (self.ids(), before.1.intersection(&self.on_flash()).copied().collect::<BTreeSet<_>>());
        for gone in before.0.difference(&ids) {
            self.ledger.gone_by.entry(*gone).or_insert(self.document.max(self.disk.now().attempted + 1));
        }
        let moments = self.disk.take_history().into_iter().map(|disk| Moment { disk, safe: safe.clone() });
        self.moments.extend(moments);
    }

    /// Lets the flash thread do all there is to do.
    fn work(&mut self) {
        loop {
            let chore = self.gate.spool.lock().chore(self.gate.clock.now());
            let Ok(chore) = chore else { break };
            self.step(|camera| {
                let Self { files, gate, disk, waits, .. } = camera;
                carry_out(chore, files, gate, &|event| {
                    assert_eq!(event, Event::ErasuresSettled);
                    if gate.erasures_settled() {
                        // The store writes it at some moment from here on.
                        waits.get().into_iter().for_each(|document| disk.attempt(document));
                    }
                });
            });
            if self.gate.erasures_settled() {
                self.waits.take().into_iter().for_each(|document| self.write(document));
            }
        }
    }

    fn write(&mut self, document: u64) {
        self.step(|camera| {
            camera.disk.attempt(document);
            camera.disk.acknowledge(document);
        });
    }

    /// Records a clip that leaves in three parts.
    fn record_in_parts(&mut self, duration: Duration) {
        let before = self.ids();
        self.gate.leave_while_recording(true);
        let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::from_secs(40), height: 360 };
        let (mut writer, _) = self.gate.begin(beginning).expect("a clip may begin");
        self.gate.leave_while_recording(false);
        let number = self.ledger.contents.len() as u8;
        let parts: Vec<Vec<u8>> = (0..3).map(|part| vec![number.wrapping_mul(31).wrapping_add(part); 40]).collect();
        for (part, end_s) in parts.iter().zip([2, 4, 5]) {
            assert_ne!(writer.append(Bytes::copy_from_slice(part), Duration::from_secs(end_s)), Verdict::Erased);
        }
        writer.finish(duration);
        let entries: Vec<Uuid> = self.gate.spool.lock().ids().filter(|id| !before.contains(id)).collect();
        assert_eq!(entries.len(), parts.len());
        if duration == LONG {
            self.ledger.long.extend(&entries);
        }
        self.ledger.contents.extend(entries.into_iter().zip(parts));
    }

    fn record(&mut self, duration: Duration) -> Uuid {
        let before = self.ids();
        let number = self.ledger.contents.len() as u8;
        let content: Vec<u8> = (0..120).map(|at| number.wrapping_mul(31).wrapping_add(at)).collect();
        let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::from_secs(40), height: 360 };
        let (mut writer, _) = self.gate.begin(beginning).expect("a clip may begin");
        for part in content.chunks(50) {
            assert_ne!(writer.append(Bytes::copy_from_slice(part), SHORT), Verdict::Erased);
        }
        writer.finish(duration);
        let id = *self.ids().difference(&before).next().expect("it waits");
        self.ledger.contents.insert(id, content);
        if duration == LONG {
            self.ledger.long.insert(id);
        }
        id
    }

    /// The cloud cannot be reached for a while.
    fn wait(&mut self) {
        self.dial.advance(Duration::from_secs(20));
        self.work();
    }

    /// A document arrives, and the shell does what the agent does; flash has its turn only afterwards.
    fn receive(&mut self) {
        self.document += 1;
        let document = self.document;
        self.step(|camera| {
            if policy(document) == FREE {
                camera.gate.cut(Some((policy(document), position(document))));
            }
        });
        if self.fault == Some(Fault::RecordAtOnce) || self.gate.erasures_settled() {
            self.write(document);
        } else {
            self.waits.set(Some(document));
        }
        self.gate.open(admission(document));
    }

    fn store_one(&mut self) {
        let next = self.gate.spool.lock().next(self.gate.generation(), self.gate.clock.now());
        let Next::Take(job) = next else { panic!("{next:?}") };
        self.step(|camera| camera.gate.spool.lock().settle(job.id, job.generation, Outcome::Stored, camera.gate.clock.now()));
        self.work();
    }

    /// Loses power at every moment so far, in so many ways spread over all there are (`ways[0]`), and starts again on
    /// every record that may be there; then goes on and loses power again, if there are more `ways`.
    fn crash_everywhere(&mut self, ways: &[usize], states: &mut u64) -> Result<(), String> {
        let Some((most, more)) = ways.split_first() else { return Ok(()) };
        let moments = std::mem::take(&mut self.moments);
        for moment in &moments {
            for record in moment.disk.acknowledged..=moment.disk.attempted {
                // A kill first: the next process sees what the last one wrote, synced or not.
                self.restart(moment.disk.clone(), record, moment, more, states)?;
                let all = moment.disk.crashes();
                for which in (0..all).step_by(all.div_ceil(*most)) {
                    self.restart(moment.disk.crash(which), record, moment, more, states)?;
                }
            }
        }
        Ok(())
    }

    fn restart(&self, found: Snapshot, record: u64, moment: &Moment, more: &[usize], states: &mut u64) -> Result<(), String> {
        *states += 1;
        let mut camera = Self::boot(self.limits, found, &moment.safe, record, self.fault, self.ledger.clone());
        camera.check(record, moment)?;
        if !more.is_empty() {
            camera.work();
            camera.receive();
            camera.receive();
            camera.work();
        }
        camera.crash_everywhere(more, states)
    }

    fn check(&self, record: u64, moment: &Moment) -> Result<(), String> {
        let found = self.ids();
        let mut used = 0;
        for id in &found {
            let content = self.ledger.contents.get(id).ok_or("a clip that nobody recorded")?;
            let (facts, read) = found_on(&self.disk, *id).map_err(|why| format!("{id}: {why}"))?;
            used += HEADER_BYTES + facts.bytes + facts.tail.replaces;
            if read != *content {
                return Err(format!("{id} does not hold what was recorded"));
            }
            if let Some(by) = self.ledger.gone_by.get(id).filter(|by| **by <= record) {
                return Err(format!("{id} went before document {by} was on record, and is found beside {record}"));
            }
            if policy(record) == FREE && self.ledger.long.contains(id) {
                return Err(format!("{id} is too long for document {record}"));
            }
        }
        let allowed = |id: &&Uuid| policy(record) == PAID || !self.ledger.long.contains(*id);
        if let Some(lost) = moment.safe.iter().filter(allowed).find(|id| !found.contains(*id)) {
            return Err(format!("{lost} was on flash, and is lost"));
        }
        let dropped = self.gate.spool.lock().tally().dropped;
        if dropped.clips > 0 {
            return Err(format!("parts were found behind a gap: {dropped:?}"));
        }
        let names = self.disk.list().map_err(|why| why.to_string())?;
        if names.iter().any(|name| name.ends_with(".part") && name != "journal.part") {
            return Err(format!("a part is left: {names:?}"));
        }
        if used > self.limits.flash_bytes { Err(format!("{used} bytes on flash")) } else { Ok(()) }
    }
}

/// The facts in a clip's file, and the clip as a transfer reads it.
fn found_on(disk: &Disk, id: Uuid) -> io::Result<(Facts, Vec<u8>)> {
    let mut header = vec![0; HEADER_BYTES as usize];
    disk.open(&format!("{id}.clip"), Access::Read)?.read_at(&mut header, 0)?;
    let facts = header::decode(&header).map_err(io::Error::other)?;
    let head = Head { bytes: facts.bytes, sha256: facts.sha256.clone(), tail: facts.tail };
    let content = read_all(disk, id, &head)?;
    Ok((facts, content))
}

/// What a transfer reads of a clip's file; its digest must be right.
fn read_all(disk: &Disk, id: Uuid, head: &Head) -> io::Result<Vec<u8>> {
    let file = ClipFile::open(disk, id)?;
    let mut content = Vec::new();
    while (content.len() as u64) < head.bytes {
        let (at, most) = head.tail.locate(head.bytes, content.len() as u64);
        let piece = file.read(at, most as usize)?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

fn sha256(bytes: &[u8]) -> String {
    crate::hex::hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Clips go to flash, one leaves, a cancel erases, the owner comes back within the same breath, more clips, another
/// cancel.
fn history(fault: Option<Fault>) -> Camera {
    let mut camera = Camera::new(fault);
    camera.record(LONG);
    camera.record(SHORT);
    camera.wait();
    camera.store_one();
    camera.record(LONG);
    camera.wait();
    camera.receive();
    camera.receive();
    camera.work();
    camera.record(LONG);
    camera.wait();
    camera.receive();
    camera.work();
    camera
}

/// Clips in parts: they go to flash in order, one part leaves, a cancel erases the clip that is too long, more follow.
fn history_of_parts() -> Camera {
    let mut camera = Camera::new(None);
    camera.record_in_parts(LONG);
    camera.record_in_parts(SHORT);
    camera.wait();
    camera.store_one();
    camera.receive();
    camera.receive();
    camera.work();
    camera.record_in_parts(SHORT);
    camera.wait();
    camera.store_one();
    camera.receive();
    camera.work();
    camera
}

/// Enough ways to lose power to be all of them wherever no more than eight pieces are unsynced.
const ALL: usize = 256;

fn crash_states(fault: Option<Fault>, ways: &[usize]) -> (Result<(), String>, u64) {
    let mut states = 0;
    let result = history(fault).crash_everywhere(ways, &mut states);
    (result, states)
}

fn assert_crash_states(ways: &[usize], least: u64) {
    let (result, states) = crash_states(None, ways);
    assert_eq!(result, Ok(()));
    println!("{states} crash states");
    assert!(states > least, "only {states} crash states");
}

#[test]
fn s45_after_any_crash_what_was_erased_is_gone_and_what_waits_is_there() {
    assert_crash_states(&[ALL], 2_000);
}

/// Scenario 99: the same of parts; and none is found behind a gap.
#[test]
fn s99_after_any_crash_the_parts_of_a_clip_are_there_in_order_or_gone() {
    let mut states = 0;
    assert_eq!(history_of_parts().crash_everywhere(&[ALL], &mut states), Ok(()));
    assert!(states > 2_000, "only {states} crash states");
}

#[test]
fn after_two_crashes_too() {
    assert_crash_states(&[4, 8], 5_000);
}

#[test]
#[ignore = "takes minutes: make proof"]
fn after_two_crashes_in_more_ways() {
    assert_crash_states(&[ALL, 16], 100_000);
}

#[test]
fn the_crash_states_find_what_is_planted() {
    for fault in [Fault::Disk(Plant::NoFileSync), Fault::Disk(Plant::NoDirectorySync), Fault::RecordAtOnce, Fault::NoJournal] {
        let (result, _) = crash_states(Some(fault), &[ALL]);
        assert!(result.is_err(), "{fault:?} is not found");
        println!("{fault:?}: {result:?}");
    }
}

/// Whatever fails once, the promises hold: a clip that could not be put on flash waits in memory, and what could not
/// be said in the journal is unlinked before the record is written.
#[test]
fn every_operation_may_fail_once() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for operation in 0..30 {
            let mut camera = Camera::new(None);
            camera.disk.fail_at(operation, kind);
            for _ in 0..2 {
                camera.record(LONG);
                camera.record(SHORT);
                camera.wait();
                // Past the pause after a fault.
                camera.dial.advance(Duration::from_secs(60));
                camera.work();
            }
            assert_eq!(camera.on_flash().len(), 4, "{kind:?} at {operation}: what failed once is tried again");
            camera.receive();
            camera.receive();
            camera.work();
            assert_eq!(camera.disk.now().acknowledged, 3);
            let result = camera.crash_everywhere(&[4], &mut 0);
            assert_eq!(result, Ok(()), "{kind:?} at operation {operation}");
            assert!(!camera.disk.misused(), "a descriptor was used after its sync failed ({kind:?}, {operation})");
        }
    }
}

#[test]
fn a_flash_that_takes_nothing_leaves_clips_in_memory_and_holds_up_no_record() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem] {
        let mut camera = Camera::new(None);
        camera.record(LONG);
        camera.wait();
        camera.disk.set_failing(Some(kind));
        let waiting = camera.record(SHORT);
        camera.wait();
        let usage = camera.gate.spool.lock().flash_use();
        assert_eq!(usage.held.clips, 1);
        assert!(usage.fault.is_some(), "it is visible");
        assert!(camera.ids().contains(&waiting), "it waits in memory");
        camera.receive();
        camera.work();
        assert_eq!(camera.disk.now().acknowledged, 2, "a flash that fails holds no record up");
        assert_eq!(camera.gate.spool.lock().flash_use().held.bytes, HEADER_BYTES + 120, "what cannot be unlinked takes room");

        camera.disk.set_failing(None);
        camera.dial.advance(Duration::from_secs(3600));
        camera.work();
        let usage = camera.gate.spool.lock().flash_use();
        assert_eq!((usage.held.clips, usage.held.bytes, usage.fault), (1, HEADER_BYTES + 120, None), "tried again, and well");
    }
}

/// A start that could not look at its clips lets none of them leave, and a document that erases takes them all.
#[test]
fn what_could_not_be_looked_at_is_erased_before_the_next_record_that_erases() {
    let mut first = Camera::new(None);
    first.record(LONG);
    first.record(SHORT);
    first.wait();
    let disk = Disk::from(first.disk.now());
    disk.fail_at(0, io::ErrorKind::Other);
    let mut files = Files::new(disk.opener());
    assert!(files.scan().is_err(), "the sync of the directory fails");
    let gate = Gate::new(&LIMITS, None, Clock::at(Duration::from_secs(1_767_225_600), true));
    gate.spool.lock().not_restored(super::flash_fault("it cannot be looked at", &io::Error::from_raw_os_error(5)), gate.clock.now());
    gate.open(admission(1));
    gate.cut(Some((FREE, position(2))));
    assert!(!gate.erasures_settled());
    let chore = gate.spool.lock().chore(gate.clock.now()).unwrap();
    carry_out(chore, &mut files, &gate, &|_| {});
    assert!(gate.erasures_settled());
    assert!(disk.list().unwrap().iter().all(|name| !name.ends_with(".clip")), "{:?}", disk.list());
}

#[test]
fn s75_on_a_full_flash_the_oldest_of_the_lowest_class_gives_way_and_the_quota_always_holds() {
    let mut camera = Camera::new(None);
    let clips: Vec<Uuid> = (0..14).map(|_| camera.record(SHORT)).collect();
    camera.wait();
    let usage = camera.gate.spool.lock().flash_use();
    assert_eq!((usage.held.clips, usage.held.bytes), (10, LIMITS.flash_bytes));
    assert_eq!(camera.on_flash(), clips[4..].iter().copied().collect(), "the newest are on flash");
    assert_eq!(camera.gate.spool.lock().tally().dropped.clips, 4);
    for moment in &camera.moments {
        let names = Disk::from(moment.disk.clone()).list().unwrap();
        assert!(names.iter().filter(|name| name.ends_with(".clip") || name.ends_with(".part")).count() <= 10 + 1, "{names:?}");
    }
    assert_eq!(camera.crash_everywhere(&[4], &mut 0), Ok(()));
}

#[test]
fn no_clip_takes_the_room_that_is_kept_for_the_state() {
    let mut camera = Camera::new(None);
    let needed = super::files::RESERVE + HEADER_BYTES + 120;
    camera.disk.set_free(needed - 1);
    camera.record(SHORT);
    camera.wait();
    let usage = camera.gate.spool.lock().flash_use();
    let fault = usage.fault.expect("it is said");
    assert!(fault.sentence.contains(&format!("{} bytes are free", needed - 1)) && fault.advice.contains("room"), "{fault:?}");
    assert_eq!(camera.on_flash(), BTreeSet::new());
    camera.disk.set_free(needed);
    camera.dial.advance(Duration::from_secs(31));
    camera.work();
    assert_eq!(camera.on_flash(), camera.ids());
}

/// Scenario 70: after a rollback a newer firmware's files are erased, never misread.
#[test]
fn s70_what_another_firmware_wrote_is_erased_and_counted() {
    let mut camera = Camera::new(None);
    let kept = camera.record(SHORT);
    let newer = camera.record(SHORT);
    camera.wait();
    let file = camera.disk.open(&format!("{newer}.clip"), Access::Write).unwrap();
    file.write_at(b"KCASPOOL\x02\0\0\0", 0).unwrap();
    let again = Camera::boot(&LIMITS, camera.disk.now(), &BTreeSet::new(), 1, None, camera.ledger.clone());
    assert_eq!((again.ids(), again.gate.spool.lock().tally().dropped.clips), (BTreeSet::from([kept]), 1));
    let file = camera.disk.open("journal", Access::Create).unwrap();
    file.write_at(b"kasa-care-agent spool 2\n", 0).unwrap();
    let again = Camera::boot(&LIMITS, camera.disk.now(), &BTreeSet::new(), 1, None, camera.ledger.clone());
    assert_eq!(again.ids(), BTreeSet::new(), "a journal that is not understood may have said anything");
}
