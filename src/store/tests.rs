//! What the store promises on a real file system, and what its thread promises on any.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use care_engine::durable::checksum::crc32;
use care_engine::durable::disk::Disk;
use care_engine::durable::slot;
use care_engine::durable::slots::{STATE_FILE, Slots, WriteFault};

use super::thread::{StoreThread, Written};
use super::{RECORD_MOST, Restored, SLOT_BYTES, Store, StoreError};

/// Bytes of a slot for the thread's tests.
const SMALL: usize = 128;

/// Record number `n`: of a length and content that no other has.
fn record(n: u64) -> Vec<u8> {
    let length = 20 + (n * 7 % 40) as usize;
    (0..length).map(|at| (n as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

struct Real(tempfile::TempDir);

impl Real {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Waits while the lock is taken: a child process of another test inherits it between its fork and its exec.
    fn open(&self) -> (Store, Restored) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Store::open(self.0.path()) {
                Err(StoreError::Locked { .. }) if Instant::now() < deadline => thread::sleep(Duration::from_millis(1)),
                opened => return opened.unwrap(),
            }
        }
    }

    fn restored(&self) -> Restored {
        self.open().1
    }

    /// Writes records 1 to `count`, the way the service does. Odd ones end in slot 1, even ones in slot 0.
    fn write(&self, count: u64) {
        let (mut store, _) = self.open();
        for n in 1..=count {
            store.slots.write(&record(n)).unwrap();
        }
    }

    fn file(&self) -> std::fs::File {
        std::fs::OpenOptions::new().read(true).write(true).open(self.0.path().join(STATE_FILE)).unwrap()
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        self.file().write_all_at(bytes, offset as u64).unwrap();
    }

    fn contents(&self) -> Vec<u8> {
        std::fs::read(self.0.path().join(STATE_FILE)).unwrap()
    }
}

#[test]
fn a_fresh_directory_is_empty_and_stays_so_until_something_is_written() {
    let real = Real::new();
    assert_eq!(real.restored(), Restored::Empty);
    assert_eq!(real.restored(), Restored::Empty);
    real.write(1);
    assert_eq!(real.restored(), Restored::Record(record(1)));
}

#[test]
fn a_missing_directory_is_made_and_a_missing_path_is_named() {
    let real = Real::new();
    let dir = real.0.path().join("state");
    Store::open(&dir).unwrap();
    assert!(dir.join(STATE_FILE).exists());
    let fault = Store::open(&real.0.path().join("no/where")).unwrap_err();
    assert!(fault.to_string().contains("no/where"), "{fault}");
}

#[test]
fn the_state_file_is_for_its_owner_only_and_never_changes_its_length() {
    use std::os::unix::fs::PermissionsExt;
    let real = Real::new();
    real.write(1);
    let before = real.file().metadata().unwrap();
    assert_eq!(before.permissions().mode() & 0o777, 0o600);
    assert_eq!(before.len(), 2 * SLOT_BYTES as u64);
    let (mut store, _) = real.open();
    store.slots.write(&vec![7; RECORD_MOST]).unwrap();
    store.slots.write(&vec![8; RECORD_MOST]).unwrap();
    drop(store);
    assert_eq!(real.file().metadata().unwrap().len(), before.len());
    assert_eq!(real.restored(), Restored::Record(vec![8; RECORD_MOST]));
}

#[test]
fn a_second_agent_is_turned_away_while_the_first_runs() {
    let real = Real::new();
    let (first, _) = real.open();
    assert!(matches!(Store::open(real.0.path()), Err(StoreError::Locked { .. })));
    let thread = first.start(|_| {});
    assert!(matches!(Store::open(real.0.path()), Err(StoreError::Locked { .. })));
    assert!(thread.stop(Duration::from_secs(5)));
    real.open();
}

#[test]
fn any_corrupt_byte_in_the_newest_slot_brings_back_the_other() {
    let real = Real::new();
    real.write(3);
    let whole = real.contents();
    for at in SLOT_BYTES..SLOT_BYTES + slot::HEADER_BYTES + record(3).len() {
        real.put(at, &[whole[at] ^ 0x40]);
        assert_eq!(real.restored(), Restored::Record(record(2)), "byte {at}");
        real.put(at, &whole[at..=at]);
    }
    assert_eq!(real.restored(), Restored::Record(record(3)));
}

#[test]
fn two_unreadable_slots_are_unreadable_until_a_record_fills_both() {
    let real = Real::new();
    real.write(3);
    let whole = real.contents();
    real.put(0, b"?");
    real.put(SLOT_BYTES, b"?");
    let (mut store, restored) = real.open();
    assert_eq!(restored, Restored::Unreadable);
    store.slots.write(&record(1)).unwrap();
    drop(store);
    assert_eq!(real.restored(), Restored::Record(record(1)));
    // A slot that reads again after all does not bring an older record back.
    for slot in [0, SLOT_BYTES] {
        let both = real.contents();
        real.put(slot, b"?");
        assert_eq!(real.restored(), Restored::Record(record(1)), "slot at {slot}");
        real.put(slot, &both[slot..=slot]);
    }
    assert_ne!(real.contents(), whole);
}

#[test]
fn a_file_of_zeros_was_never_written_and_one_cut_short_was() {
    let real = Real::new();
    std::fs::write(real.0.path().join(STATE_FILE), vec![0; 2 * SLOT_BYTES]).unwrap();
    assert_eq!(real.restored(), Restored::Empty);
    real.write(3);
    real.file().set_len(SLOT_BYTES as u64).unwrap();
    // Zeros gave record 1 to slot 0.
    assert_eq!(real.restored(), Restored::Record(record(3)));
    real.file().set_len(SLOT_BYTES as u64 - 1).unwrap();
    assert_eq!(real.restored(), Restored::Unreadable);
    real.file().set_len(0).unwrap();
    assert_eq!(real.restored(), Restored::Unreadable);
}

#[test]
fn a_newer_firmwares_record_is_unreadable_and_is_not_passed_over_for_an_older_one() {
    let real = Real::new();
    real.write(3);
    let mut newer = slot::encode(9, b"in the words of a later format").unwrap();
    newer[8] = 2;
    let checked = crc32(&[&newer[..28], &newer[slot::HEADER_BYTES..]]);
    newer[28..32].copy_from_slice(&checked.to_le_bytes());
    real.put(0, &newer);
    let (mut store, restored) = real.open();
    assert_eq!(restored, Restored::Unreadable);
    store.slots.write(&record(4)).unwrap();
    drop(store);
    assert_eq!(real.restored(), Restored::Record(record(4)));
}

#[test]
fn a_command_leaves_no_byte_of_an_earlier_record() {
    let real = Real::new();
    let (mut store, _) = real.open();
    for _ in 0..2 {
        store.slots.write(&b"secret".repeat(1000)).unwrap();
    }
    store.write_now(b"reset").unwrap();
    drop(store);
    assert!(!real.contents().windows(6).any(|bytes| bytes == b"secret"));
    assert_eq!(real.restored(), Restored::Record(b"reset".to_vec()));
}

#[test]
fn a_record_of_no_size_or_too_large_is_refused_and_the_last_one_kept() {
    let real = Real::new();
    let (mut store, _) = real.open();
    store.write_now(b"kept").unwrap();
    assert!(matches!(store.write_now(b""), Err(StoreError::Size { bytes: 0 })));
    assert!(matches!(store.write_now(&vec![1; RECORD_MOST + 1]), Err(StoreError::Size { .. })));
    drop(store);
    assert_eq!(real.restored(), Restored::Record(b"kept".to_vec()));
}

// The thread.

const SOON: Duration = Duration::from_secs(20);

fn start(disk: &Disk) -> (StoreThread, mpsc::Receiver<Written>) {
    let (slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    let (tell, told) = mpsc::channel();
    let explain = |_: &Slots<Disk>, record: &[u8], fault: WriteFault| match fault {
        WriteFault::Size => StoreError::Size { bytes: record.len() },
        WriteFault::Io(why) => StoreError::Write { path: "state".into(), why },
    };
    let thread = StoreThread::start(slots, explain, move |written| {
        let _ = tell.send(written);
    });
    (thread, told)
}

fn newest(disk: &Disk) -> Restored {
    Slots::open(Disk::from(disk.now().crash(0)), SMALL).unwrap().1
}

#[test]
fn records_that_arrive_during_a_write_cost_one_more() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    disk.set_blocked(true);
    thread.write(1, record(1));
    disk.wait_until_blocked();
    for ticket in 2..=1000 {
        thread.write(ticket, record(ticket));
    }
    disk.set_blocked(false);
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 1 }));
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 1000 }));
    assert_eq!(thread.writes(), 2);
    assert_eq!(newest(&disk), Restored::Record(record(1000)));
    assert!(thread.stop(SOON));
}

#[test]
fn a_burst_of_a_thousand_costs_at_most_a_hundred_however_fast_the_disk() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    for ticket in 1..=1000 {
        thread.write(ticket, record(ticket));
        // Half of them wait for the disk, as documents that arrive one by one do.
        if ticket % 2 == 0 && ticket < 20 {
            while told.recv_timeout(SOON).unwrap() != (Written::Done { ticket }) {}
        }
    }
    while told.recv_timeout(SOON).unwrap() != (Written::Done { ticket: 1000 }) {}
    assert!(thread.writes() <= 100, "{} writes", thread.writes());
    assert_eq!(newest(&disk), Restored::Record(record(1000)));
}

#[test]
fn done_is_said_only_when_the_record_survives() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    for ticket in 1..=30 {
        thread.write(ticket, record(ticket));
        assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket }));
        assert_eq!(newest(&disk), Restored::Record(record(ticket)));
    }
}

#[test]
fn a_failure_is_told_at_once_and_mended_alone() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    thread.write(1, record(1));
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 1 }));
    disk.set_failing(Some(io::ErrorKind::StorageFull));
    thread.write(2, record(2));
    let failed = told.recv_timeout(SOON).unwrap();
    assert!(matches!(&failed, Written::Failed { ticket: 2, why } if why.contains("cannot write the record")), "{failed:?}");
    assert_eq!(newest(&disk), Restored::Record(record(1)));
    disk.set_failing(None);
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 2 }));
    assert_eq!(newest(&disk), Restored::Record(record(2)));
    assert!(!disk.misused());
    assert!(thread.stop(SOON));
    assert!(told.try_recv().is_err(), "said once");
}

#[test]
fn a_newer_record_takes_the_place_of_one_that_failed() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    disk.set_failing(Some(io::ErrorKind::Other));
    thread.write(1, record(1));
    assert!(matches!(told.recv_timeout(SOON), Ok(Written::Failed { ticket: 1, .. })));
    disk.set_failing(None);
    thread.write(2, record(2));
    // Unless the retry of the first came in between.
    let mut last = told.recv_timeout(SOON).unwrap();
    if last == (Written::Done { ticket: 1 }) {
        last = told.recv_timeout(SOON).unwrap();
    }
    assert_eq!(last, Written::Done { ticket: 2 });
    assert!(thread.stop(SOON));
    assert_eq!(newest(&disk), Restored::Record(record(2)));
}

#[test]
fn a_record_that_cannot_fit_is_refused_and_not_tried_again() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    thread.write(1, vec![1; SMALL]);
    assert!(matches!(told.recv_timeout(SOON), Ok(Written::Failed { ticket: 1, .. })));
    assert!(thread.stop(SOON));
    assert!(told.try_recv().is_err());
}

#[test]
fn the_first_record_of_another_owner_leaves_nothing_of_those_before() {
    let real = Real::new();
    let secret = b"secret".repeat(1000);
    let holds = || real.contents().windows(6).any(|bytes| bytes == b"secret");
    let (mut store, _) = real.open();
    store.slots.write(&secret).unwrap();
    let (tell, told) = mpsc::channel();
    let thread = store.start(move |written| tell.send(written).unwrap());
    thread.write(1, secret.clone());
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 1 }));
    // A newer record that takes its place does so too.
    thread.write_only(2, b"the first one".to_vec());
    thread.write(3, b"another".to_vec());
    while told.recv_timeout(SOON) != Ok(Written::Done { ticket: 3 }) {}
    assert!(!holds());
    thread.write(4, secret);
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 4 }));
    assert!(holds(), "the control");
    assert!(thread.stop(SOON));
}

#[test]
fn stopping_writes_what_waits() {
    let disk = Disk::default();
    let (thread, _told) = start(&disk);
    for ticket in 1..=50 {
        thread.write(ticket, record(ticket));
    }
    assert!(thread.stop(SOON));
    assert_eq!(newest(&disk), Restored::Record(record(50)));
}

#[test]
fn stopping_tries_a_failed_record_once_more_without_waiting() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    disk.set_failing(Some(io::ErrorKind::Other));
    thread.write(1, record(1));
    assert!(matches!(told.recv_timeout(SOON), Ok(Written::Failed { .. })));
    disk.set_failing(None);
    assert!(thread.stop(SOON));
    assert_eq!(newest(&disk), Restored::Record(record(1)));
}

#[test]
fn stopping_is_bounded_by_its_deadline() {
    let disk = Disk::default();
    let (thread, told) = start(&disk);
    disk.set_blocked(true);
    thread.write(1, record(1));
    disk.wait_until_blocked();
    assert!(!thread.stop(Duration::from_millis(50)));
    // The thread ends by itself once the disk answers.
    disk.set_blocked(false);
    assert_eq!(told.recv_timeout(SOON), Ok(Written::Done { ticket: 1 }));
    assert!(told.recv_timeout(SOON).is_err());
}
