//! Reads the record beside a running agent, for read-only commands. It locks, creates and changes nothing, so it may
//! read a half-written slot; the other one then counts, as after a crash.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use care_engine::durable::{
    slot::{self, FORMAT, Slot},
    slots::STATE_FILE,
};
use rustix::{fs::FlockOperation, io::Errno};

use super::{Restored, SLOT_BYTES, StoreError};

pub(super) fn peek(dir: &Path) -> Result<Restored, StoreError> {
    let path = dir.join(STATE_FILE);
    let file = match File::open(&path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Restored::Empty),
        opened => opened.map_err(|why| StoreError::Open { path, why })?,
    };
    let images = [read(&file, 0), read(&file, 1)];
    let slots = images.each_ref().map(|image| image.as_deref().map_or(Slot::Torn, slot::decode));
    if slots == [Slot::Blank, Slot::Blank] {
        return Ok(Restored::Empty);
    }
    let whole = slots.iter().filter_map(|slot| match slot {
        Slot::Whole { format, sequence, record } => Some((*sequence, *format, *record)),
        Slot::Blank | Slot::Torn => None,
    });
    Ok(match whole.max_by_key(|(sequence, ..)| *sequence) {
        None => Restored::Unreadable,
        Some((_, format, _)) if format != FORMAT => Restored::Unreadable,
        Some((_, _, [])) => Restored::Empty,
        Some((_, _, record)) => Restored::Record(record.to_vec()),
    })
}

/// Whether an agent has the lock. The check takes the lock for a moment, so it could make an agent fail that starts
/// just then. It therefore takes a shared lock, and only commands that a person types use it.
pub(super) fn is_locked(dir: &Path) -> bool {
    let Ok(dir) = File::open(dir) else { return false };
    matches!(rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK))
}

fn read(file: &File, index: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; SLOT_BYTES];
    file.read_exact_at(&mut bytes, (index * SLOT_BYTES) as u64).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn what_a_running_agent_wrote_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(peek(dir.path()).unwrap(), Restored::Empty);
        assert!(!is_locked(dir.path()));
        let (mut store, _) = Store::open(dir.path()).unwrap();
        assert!(is_locked(dir.path()));
        assert_eq!(peek(dir.path()).unwrap(), Restored::Empty);
        for record in [&b"first"[..], b"second", b"third"] {
            store.write_now(record).unwrap();
            assert_eq!(peek(dir.path()).unwrap(), Restored::Record(record.to_vec()));
        }
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked { .. })), "the agent's lock is where it was");
    }

    #[test]
    fn a_spoiled_file_is_unreadable_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(STATE_FILE), b"nonsense").unwrap();
        assert_eq!(peek(dir.path()).unwrap(), Restored::Unreadable);
    }
}
