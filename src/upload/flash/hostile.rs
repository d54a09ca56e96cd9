//! A spool directory with hostile content, for `fuzzing`: anyone with access to the flash can write it. The first byte
//! of an input selects how the rest is used: `C` a clip's file; `F` the facts in a header with a correct checksum,
//! followed by as many bytes as they announce; `J` the journal, beside two genuine clips. The agent's start scans the
//! directory, a document judges the clips found, they are uploaded or erased, and then the camera changes its owner.

use std::time::Duration;

use care_engine::{
    Admission, Generation, durable::disk::Disk, durable::filesystem::Access, durable::filesystem::Filesystem as _,
    durable::filesystem::StateFile as _, trusted_time::Now,
};
use care_protocol::{ClipKind, Policy, Position};
use uuid::Uuid;

use super::{
    ClipFile, Files,
    files::{CLIP, JOURNAL, Scan},
    header::{self, Facts, HEADER_BYTES, Tail},
};
use crate::{
    fuzzing::Verdict,
    upload::spool::{Chore, Head, Next, Outcome, Spool},
};

const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
const OWNER: Position = Position { epoch: 3, seq: 41 };
const NEXT_OWNER: Position = Position { epoch: 4, seq: 42 };
const NOW: Now =
    Now { boot: Duration::from_secs(100), trusted: Duration::from_secs(1_767_225_600), confirmed: true, disputed: None, corrected: None };
/// No file here is longer, whatever the facts announce.
const MOST_BYTES: u64 = 4096;

/// A start that finds this input.
pub(crate) fn hostile_spool(input: &[u8]) -> Verdict {
    let Some((kind, rest)) = input.split_first() else { return Verdict::Refused };
    let disk = Disk::default().without_history();
    match kind {
        b'C' => put(&disk, &name_in(rest), rest),
        b'F' => {
            let Some(header) = header::frame(rest) else { return Verdict::Refused };
            let bytes =
                serde_json::from_slice(rest).map_or(0, |facts: Facts| facts.bytes.saturating_add(facts.tail.replaces).min(MOST_BYTES));
            put(&disk, &name_in(&header), &[header, vec![7; bytes as usize]].concat());
        }
        b'J' => {
            for number in [1, 2] {
                let header = header::encode(&genuine(number)).expect("these facts fit");
                put(&disk, &name_in(&header), &[header, vec![7; 10]].concat());
            }
            put(&disk, JOURNAL, rest);
        }
        _ => return Verdict::Refused,
    }

    let found = start(&disk).0.clips;
    let (again, files) = start(&disk);
    assert_eq!((&again.clips, again.unreadable), (&found, 0), "another start finds the same");
    for facts in &found {
        assert_eq!(header::encode(facts).as_deref().map(header::decode), Some(Ok(facts.clone())), "and can write it again");
    }
    let verdict = Verdict::of(!found.is_empty());
    live(found, files, &disk);
    verdict
}

fn genuine(number: u128) -> Facts {
    Facts {
        clip: Uuid::from_u128(number).to_string(),
        kind: ClipKind::Motion,
        epoch: OWNER.epoch,
        height: 360,
        started_ms: 1_767_225_000_000,
        duration_ms: 5000,
        bytes: 10,
        sha256: "0".repeat(64),
        tail: Tail::default(),
        part: None,
    }
}

/// The name under which a file of this content is read.
fn name_in(file: &[u8]) -> String {
    header::decode(file).map_or_else(|_| Uuid::nil().to_string(), |facts| facts.clip) + CLIP
}

fn put(disk: &Disk, name: &str, content: &[u8]) {
    let file = disk.open(name, Access::Create).expect("a disk without faults");
    file.write_at(content, 0).and_then(|()| file.sync()).and_then(|()| disk.sync()).expect("a disk without faults");
}

/// A start on this disk: the clips it finds, and the directory for later operations.
fn start(disk: &Disk) -> (Scan, Files<Disk>) {
    let mut files = Files::new(disk.opener());
    (files.scan().expect("a disk without faults"), files)
}

/// Reads a clip as a transfer does.
fn read_all(disk: &Disk, id: Uuid, head: &Head) {
    let file = ClipFile::open(disk, id).expect("a disk without faults");
    let mut read = 0;
    while read < head.bytes {
        let (at, most) = head.tail.locate(head.bytes, read);
        let piece = file.read(at, most as usize).expect("a disk without faults");
        assert_eq!(piece.len() as u64, most, "what its facts announce is there");
        read += most;
    }
}

/// Uploads the clips found as far as the policy allows. Then the camera changes its owner, and no clip may be left.
fn live(found: Vec<Facts>, mut files: Files<Disk>, disk: &Disk) {
    let mut spool = Spool::new(MOST_BYTES, 2 * (MOST_BYTES + HEADER_BYTES), 1 << 30);
    spool.restore(found, NOW);
    spool.admit(Admission { record: PAID, keep: PAID, leave: PAID, position: OWNER }, NOW);
    while let Next::Take(job) = spool.next(Generation(0), NOW) {
        let facts = job.facts;
        let oldest_ms = NOW.trusted.as_millis() - u128::from(PAID.history_h) * 3_600_000;
        let allowed = facts.epoch == OWNER.epoch
            && u128::from(facts.started_ms) >= oldest_ms
            // The length of a clip has no effect here.
            && (facts.kind == ClipKind::Snapshot || facts.duration <= Duration::from_secs(PAID.clip_max_s.into()))
            && facts.height <= PAID.max_height;
        assert!(allowed, "{facts:?} leaves");
        if let Some(head) = &job.content.flash {
            read_all(disk, job.id, head);
        }
        spool.settle(job.id, Generation(0), Outcome::Stored, NOW);
    }
    spool.keep(Policy::CLOSED, NEXT_OWNER, NOW);
    while let Ok(chore) = spool.chore(NOW) {
        let Chore::Erase(ids) = chore else { panic!("nothing is in memory that could go to flash: {chore:?}") };
        files.record_erased(ids).expect("a disk without faults");
        spool.erasure_recorded(None, NOW);
        files.unlink().expect("a disk without faults");
        spool.unlinked(None, NOW);
    }
    assert_eq!(spool.held().clips, 0);
    let left: Vec<String> = disk.list().expect("a disk without faults").into_iter().filter(|name| name != JOURNAL).collect();
    assert!(left.is_empty(), "the next owner's camera has {left:?}");
}
