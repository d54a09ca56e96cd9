//! What the slots promise: after any crash the restored record is the last acknowledged one or a later one, whole.

use std::io;

use super::Restored;
use super::disk::{Disk, Plant, Snapshot};
use super::filesystem::Filesystem as _;
use super::slots::{Slots, WriteFault};

/// Small, so that millions of crash states fit in a test.
const SMALL: usize = 128;

/// Record number `n`: of a length and content that no other has.
fn record(n: u64) -> Vec<u8> {
    let length = 20 + (n * 7 % 40) as usize;
    (0..length).map(|at| (n as u8).wrapping_mul(31).wrapping_add(at as u8)).collect()
}

/// Which record was restored, 0 for none.
fn number(restored: &Restored, attempted: u64) -> Result<u64, String> {
    match restored {
        Restored::Empty => Ok(0),
        Restored::Unreadable => Err("unreadable".into()),
        Restored::Record(bytes) => (1..=attempted).find(|n| record(*n) == *bytes).ok_or_else(|| "a record nobody wrote".to_owned()),
    }
}

fn check(snapshot: &Snapshot, restored: &Restored) -> Result<(), String> {
    let (acknowledged, attempted) = (snapshot.acknowledged, snapshot.attempted);
    match number(restored, attempted)? {
        n if n < acknowledged => Err(format!("record {n} restored, {acknowledged} acknowledged")),
        _ => Ok(()),
    }
}

/// Writes `count` records more; each failed write is tried again until it succeeds.
fn write_more(disk: &Disk, slots: &mut Slots<Disk>, count: u64) {
    for _ in 0..count {
        let n = disk.now().attempted + 1;
        disk.attempt(n);
        let mut tries = 0;
        while slots.write(&record(n)).is_err() {
            tries += 1;
            assert!(tries < 5, "one fault does not last");
        }
        disk.acknowledge(n);
    }
}

/// Loses power in every way at every moment of a history, restores, writes on, and loses power again, `depth` times.
/// `kill` also ends the process alone, with the kernel's memory intact.
fn crash_everywhere(history: &[Snapshot], plant: Option<Plant>, depth: u32, states: &mut u64) -> Result<(), String> {
    for snapshot in history {
        // A kill first: the next process sees what the last one wrote, synced or not.
        restart(snapshot.clone(), plant, depth, states)?;
        for which in 0..snapshot.crashes() {
            restart(snapshot.crash(which), plant, depth, states)?;
        }
    }
    Ok(())
}

fn restart(found: Snapshot, plant: Option<Plant>, depth: u32, states: &mut u64) -> Result<(), String> {
    *states += 1;
    let disk = Disk::from(found.clone()).with(plant);
    let (mut slots, restored) = Slots::open(disk.clone(), SMALL).map_err(|why| why.to_string())?;
    check(&found, &restored)?;
    // What a process has seen must not be taken back: the ratchet it reported was on disk.
    disk.acknowledge(number(&restored, found.attempted)?);
    if depth > 0 {
        write_more(&disk, &mut slots, 1);
        return crash_everywhere(&disk.take_history(), plant, depth - 1, states);
    }
    Ok(())
}

fn crash_states(plant: Option<Plant>, writes: u64, depth: u32) -> (Result<(), String>, u64) {
    let disk = Disk::planted(plant);
    let mut states = 0;
    let (mut slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    write_more(&disk, &mut slots, writes);
    let result = crash_everywhere(&disk.take_history(), plant, depth, &mut states);
    (result, states)
}

fn assert_crash_states(writes: u64, depth: u32, least: u64) {
    let (result, states) = crash_states(None, writes, depth);
    assert_eq!(result, Ok(()));
    assert!(states > least, "only {states} crash states");
    println!("{states} crash states");
}

#[test]
fn after_any_crash_the_last_acknowledged_record_or_a_later_one_is_restored() {
    assert_crash_states(5, 1, 10_000);
}

#[test]
fn after_three_crashes_too() {
    let disk = Disk::default();
    let (mut slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    // The making of the file has more states than all the rest: see below.
    disk.take_history();
    write_more(&disk, &mut slots, 5);
    let mut states = 0;
    assert_eq!(crash_everywhere(&disk.take_history(), None, 2, &mut states), Ok(()));
    assert!(states > 1_000_000, "only {states} crash states");
    println!("{states} crash states");
}

#[test]
#[ignore = "takes a minute: make proof"]
fn after_three_crashes_from_the_making_of_the_file_on() {
    assert_crash_states(5, 2, 5_000_000);
}

#[test]
fn the_crash_states_find_a_missing_sync() {
    assert!(crash_states(Some(Plant::NoFileSync), 5, 1).0.is_err());
}

#[test]
fn the_crash_states_find_a_missing_directory_sync() {
    assert!(crash_states(Some(Plant::NoDirectorySync), 5, 1).0.is_err());
}

#[test]
fn the_crash_states_find_a_write_over_the_newest_record() {
    assert!(crash_states(Some(Plant::InPlace), 5, 1).0.is_err());
}

#[test]
fn the_crash_states_find_a_restart_that_trusts_the_kernels_memory() {
    assert!(crash_states(Some(Plant::NoSettling), 5, 1).0.is_err());
}

#[test]
fn the_crash_states_find_a_file_made_in_place() {
    assert!(crash_states(Some(Plant::NoRename), 5, 1).0.is_err());
}

#[test]
fn every_operation_may_fail_once_and_nothing_acknowledged_is_lost() {
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for operation in 0..40 {
            let disk = Disk::default();
            disk.fail_at(operation, kind);
            // An opening that fails outright is tried again, as the service is started again.
            let (mut slots, _) = Slots::open(disk.clone(), SMALL).or_else(|_| Slots::open(disk.clone(), SMALL)).unwrap();
            write_more(&disk, &mut slots, 5);
            let mut states = 0;
            let result = crash_everywhere(&disk.take_history(), None, 0, &mut states);
            assert_eq!(result, Ok(()), "{kind:?} at operation {operation}");
            assert!(!disk.misused(), "a descriptor was used after its sync failed ({kind:?}, {operation})");
        }
    }
}

/// JFFS2, UBIFS and F2FS write elsewhere, so a full file system refuses to overwrite what is there already.
#[test]
fn a_file_system_that_stays_full_keeps_the_last_acknowledged_record() {
    let disk = Disk::default();
    let (mut slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    write_more(&disk, &mut slots, 3);
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        disk.take_history();
        disk.attempt(disk.now().attempted + 1);
        disk.set_failing(Some(kind));
        for _ in 0..4 {
            assert!(matches!(slots.write(&record(disk.now().attempted)), Err(WriteFault::Io(why)) if why.kind() == kind));
        }
        let mut states = 0;
        assert_eq!(crash_everywhere(&disk.take_history(), None, 0, &mut states), Ok(()), "{kind:?}, {states} states");
        // Room again: the next write counts, on a fresh descriptor.
        disk.set_failing(None);
        let n = disk.now().attempted;
        slots.write(&record(n)).unwrap();
        disk.acknowledge(n);
        assert_eq!(crash_everywhere(&disk.take_history(), None, 1, &mut states), Ok(()), "{kind:?}");
        assert!(!disk.misused() && states > 8, "{states} states");
    }
}

/// JFFS2 renames in two steps: a power cut between them leaves both names.
#[test]
fn the_crash_states_have_both_names_of_a_file_that_was_being_renamed() {
    let disk = Disk::default();
    let (slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    drop(slots);
    let mut both = 0;
    for snapshot in disk.take_history() {
        for which in 0..snapshot.crashes() {
            let crashed = Disk::from(snapshot.crash(which));
            if crashed.list().unwrap() != ["state", "state.new"] {
                continue;
            }
            both += 1;
            let (mut slots, restored) = Slots::open(crashed.clone(), SMALL).unwrap();
            assert_eq!(restored, Restored::Empty);
            slots.write(&record(1)).unwrap();
            assert_eq!(Slots::open(crashed, SMALL).unwrap().1, Restored::Record(record(1)));
        }
    }
    assert!(both > 0);
}

#[test]
fn a_restart_during_faults_loses_nothing() {
    let disk = Disk::default();
    let (mut slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    write_more(&disk, &mut slots, 3);
    disk.attempt(4);
    disk.take_history();
    // Record 4 fails to sync: the kernel's memory has it, the platter has a part of it.
    disk.fail_at(1, io::ErrorKind::Other);
    assert!(matches!(slots.write(&record(4)), Err(WriteFault::Io(_))));
    let mut states = 0;
    assert_eq!(crash_everywhere(&disk.take_history(), None, 1, &mut states), Ok(()));
}

#[test]
fn a_torn_first_write_leaves_a_camera_that_was_never_bound() {
    let disk = Disk::default();
    let (mut slots, restored) = Slots::open(disk.clone(), SMALL).unwrap();
    assert_eq!(restored, Restored::Empty);
    disk.fail_at(1, io::ErrorKind::Other);
    assert!(slots.write(&record(1)).is_err());
    let (_, restored) = Slots::open(Disk::from(disk.now().crash(0)), SMALL).unwrap();
    assert_eq!(restored, Restored::Empty);
}

#[test]
fn a_read_only_directory_is_read_and_every_write_fails_until_it_is_writable() {
    let disk = Disk::default();
    let (mut slots, _) = Slots::open(disk.clone(), SMALL).unwrap();
    write_more(&disk, &mut slots, 2);
    drop(slots);
    disk.set_read_only(true);
    let (mut slots, restored) = Slots::open(disk.clone(), SMALL).unwrap();
    assert_eq!(restored, Restored::Record(record(2)));
    for _ in 0..2 {
        assert!(matches!(slots.write(&record(3)), Err(WriteFault::Io(why)) if why.kind() == io::ErrorKind::ReadOnlyFilesystem));
    }
    disk.set_read_only(false);
    write_more(&disk, &mut slots, 1);
    assert_eq!(Slots::open(disk, SMALL).unwrap().1, Restored::Record(record(3)));
}

#[test]
fn an_empty_read_only_directory_is_a_camera_that_was_never_bound() {
    let disk = Disk::default();
    disk.set_read_only(true);
    let (mut slots, restored) = Slots::open(disk.clone(), SMALL).unwrap();
    assert_eq!(restored, Restored::Empty);
    assert!(slots.write(&record(1)).is_err());
    disk.set_read_only(false);
    slots.write(&record(1)).unwrap();
}
