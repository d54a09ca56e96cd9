//! The same promises of clips that outgrow memory and are written while they are filmed.

use super::*;
use crate::{
    media::{ClipWriter, Progressive},
    upload::flash::Tail,
};

const PIECE: usize = 25;
const PIECES: u32 = 8;
/// Half a clip fits into memory.
const SMALL: Limits =
    Limits { memory_bytes: 4 * PIECE as u64, flash_bytes: 3 * (HEADER_BYTES + 8 * PIECE as u64 + 40), flash_bytes_per_day: 1 << 30 };

/// The header of a progressive file.
fn offered() -> Progressive {
    Progressive { header: vec![250; 40].into(), replaces: 10 }
}

/// What was filmed, with that header.
fn progressive(filmed: &[u8]) -> Vec<u8> {
    [&offered().header, &filmed[offered().replaces..]].concat()
}

/// A clip that is being filmed, and what was accepted of it.
struct Filming {
    writer: Box<dyn ClipWriter>,
    id: Uuid,
    content: Vec<u8>,
    until: Duration,
}

impl Camera {
    /// Films a clip of up to so many pieces over this time; the flash thread has its turn after each.
    fn film(&mut self, pieces: u32, duration: Duration) -> Filming {
        let before = self.ids();
        let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::from_secs(40), height: 360 };
        let (writer, _) = self.gate.begin(beginning).expect("a clip may begin");
        let id = *self.ids().difference(&before).next().unwrap();
        let mut filming = Filming { writer, id, content: Vec::new(), until: Duration::ZERO };
        let number = self.ledger.contents.len() as u8;
        for piece in 1..=pieces {
            let bytes = vec![number.wrapping_mul(31).wrapping_add(piece as u8); PIECE];
            let until = duration * piece / PIECES;
            let verdict = filming.writer.append(Bytes::copy_from_slice(&bytes), until);
            assert!(self.gate.spool.lock().memory() <= SMALL.memory_bytes);
            let Verdict::Continue { max } = verdict else { panic!("{verdict:?}") };
            if max < until {
                break;
            }
            (filming.until, filming.content) = (until, [filming.content, bytes].concat());
            self.work();
            if max == until {
                break;
            }
        }
        filming
    }

    fn finish(&mut self, Filming { mut writer, id, content, until }: Filming) {
        self.ledger.contents.insert(id, progressive(&content));
        writer.offer(offered());
        if until > SHORT {
            self.ledger.long.insert(id);
        }
        self.step(|_| writer.finish(until));
        self.work();
    }

    fn film_whole(&mut self, duration: Duration) -> Uuid {
        let filming = self.film(PIECES, duration);
        assert_eq!((filming.until, filming.content.len()), (duration, PIECES as usize * PIECE));
        let id = filming.id;
        self.finish(filming);
        id
    }

    fn names(&self) -> Vec<String> {
        self.disk.list().unwrap()
    }
}

/// Clips that grow: one is completed and leaves, a cancel comes in the middle of another, then at the end of a third; one
/// that the plan allows stays.
fn history_of_growth(fault: Option<Fault>) -> Camera {
    let mut camera = Camera::with(&SMALL, fault);
    let first = camera.film_whole(LONG);
    assert!(camera.on_flash().contains(&first));
    camera.store_one();
    let cut = camera.film(6, LONG);
    assert!(camera.names().contains(&format!("{}.part", cut.id)));
    camera.receive();
    camera.receive();
    camera.work();
    assert_eq!(camera.names(), ["journal"]);
    drop(cut);
    camera.film_whole(LONG);
    let short = camera.film_whole(SHORT);
    // The owner comes back within the same breath.
    camera.receive();
    camera.receive();
    camera.work();
    assert_eq!(camera.on_flash(), BTreeSet::from([short]));
    camera
}

#[test]
fn s97_after_any_crash_a_clip_that_outgrew_memory_is_whole_or_gone_and_stays_erased() {
    let mut states = 0;
    assert_eq!(history_of_growth(None).crash_everywhere(&[ALL], &mut states), Ok(()));
    assert!(states > 2_000, "only {states} crash states");
}

#[test]
fn the_crash_states_of_growth_find_what_is_planted() {
    for fault in [Fault::Disk(Plant::NoFileSync), Fault::Disk(Plant::NoDirectorySync), Fault::RecordAtOnce] {
        let result = history_of_growth(Some(fault)).crash_everywhere(&[ALL], &mut 0);
        assert!(result.is_err(), "{fault:?} is not found");
    }
}

#[test]
fn what_was_written_of_a_clip_is_counted_after_a_power_cut_in_the_middle_of_it() {
    let mut camera = Camera::with(&SMALL, None);
    drop(camera.film(6, LONG));
    let scan = Files::new(Disk::from(camera.disk.now()).opener()).scan().unwrap();
    assert!(scan.clips.is_empty() && scan.written.ever >= 2, "{scan:?}");
}

#[test]
fn its_bytes_are_read_back_from_the_unfinished_file_too() {
    let mut camera = Camera::with(&SMALL, None);
    let filming = camera.film(6, LONG);
    let part = ClipFile::open(&camera.disk, filming.id).and_then(|file| file.read(0, 1000)).unwrap();
    assert!(part.len() >= 4 * PIECE && filming.content.starts_with(&part), "{} bytes", part.len());
}

/// Whatever fails once, the clip is there as far as it was filmed, never longer than memory and flash had room, and a
/// cancel takes all of it.
#[test]
fn every_operation_of_a_growing_clip_may_fail_once() {
    let (mut shorter, mut whole) = (0, 0);
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for operation in 0..16 {
            let mut camera = Camera::with(&SMALL, None);
            camera.disk.fail_at(operation, kind);
            let filming = camera.film(PIECES, LONG);
            let (id, until, content) = (filming.id, filming.until, filming.content.clone());
            camera.finish(filming);
            *if until < LONG { &mut shorter } else { &mut whole } += 1;
            assert!(content.len() >= 2 * PIECE, "{kind:?} at {operation}: {} bytes", content.len());
            let next = camera.gate.spool.lock().next(camera.gate.generation(), camera.gate.clock.now());
            let Next::Take(job) = next else { panic!("{kind:?} at {operation}: {next:?}") };
            let mut sent = job.content.header.to_vec();
            if let Some(head) = &job.content.flash {
                let read = read_all(&camera.disk, id, head).unwrap();
                assert_eq!(head.sha256, sha256(&read));
                sent.extend(read);
            }
            job.content.memory.iter().for_each(|fragment| sent.extend_from_slice(fragment));
            let headed = sent == progressive(&content);
            assert!(headed || sent == content, "{kind:?} at {operation}: {sent:?} of {content:?}");
            assert_eq!((job.bytes, &job.sha256), (sent.len() as u64, &sha256(&sent)), "{kind:?} at {operation}");
            let in_memory: usize = job.content.memory.iter().map(Bytes::len).sum();
            let has_room = in_memory as u64 + 40 <= SMALL.memory_bytes;
            assert!(headed || !has_room, "{kind:?} at {operation}: memory had room for the header");
            camera.receive();
            camera.receive();
            camera.work();
            camera.dial.advance(Duration::from_secs(3600));
            camera.work();
            assert!(!camera.names().iter().any(|name| name.starts_with(&id.to_string())), "{kind:?} at {operation}: {:?}", camera.names());
            assert_eq!(camera.crash_everywhere(&[4], &mut 0), Ok(()), "{kind:?} at {operation}");
            assert!(!camera.disk.misused(), "a descriptor was used after its sync failed ({kind:?}, {operation})");
        }
    }
    assert!(shorter > 0 && whole > 0, "{shorter} were shorter, {whole} were not");
}

/// A clip of several pieces as they are read, all in an unfinished file.
fn grown() -> (Files<Disk>, Disk, Uuid, Vec<u8>, Facts) {
    let disk = Disk::default();
    let mut files = Files::new(disk.opener());
    files.scan().unwrap();
    let id = Uuid::from_u128(7);
    let filmed: Vec<u8> = (0..300_000_u32).map(|at| (at / 3) as u8).collect();
    let mut offset = 0;
    for piece in filmed.chunks(70_000) {
        files.grow(id, offset, &Bytes::copy_from_slice(piece)).unwrap();
        offset += piece.len() as u64;
    }
    let facts = Facts {
        clip: id.to_string(),
        kind: ClipKind::Motion,
        epoch: 3,
        height: 360,
        started_ms: 1_767_225_000_000,
        duration_ms: 5000,
        bytes: filmed.len() as u64,
        sha256: sha256(&filmed),
        tail: Tail::default(),
        part: None,
    };
    (files, disk, id, filmed, facts)
}

#[test]
fn a_grown_clip_with_a_header_is_the_same_bytes_as_one_that_got_it_in_memory() {
    for replaces in [0, 10, 65_535, 65_536, 65_537, 200_000] {
        let (mut files, disk, id, filmed, mut facts) = grown();
        let offered = Progressive { header: vec![250; 100_000].into(), replaces };
        assert!(matches!(files.complete(id, &mut facts, Some(&offered), || true), Put::Durable));
        let clip = [&offered.header, &filmed[replaces..]].concat();
        assert_eq!((facts.bytes, &facts.sha256), (clip.len() as u64, &sha256(&clip)), "{replaces} replaced");
        assert_eq!(facts.tail, Tail { header: 100_000, replaces: replaces as u64 });
        assert!(found_on(&disk, id).unwrap() == (facts.clone(), clip));
        let scan = Files::new(Disk::from(disk.now()).opener()).scan().unwrap();
        assert_eq!((scan.clips, scan.unreadable), (vec![facts], 0));
    }
}

/// An erasure waits for one piece at most. If it was of another clip, the reading begins anew.
#[test]
fn a_clip_that_is_read_back_lets_an_erasure_run_between_any_two_pieces() {
    let pieces = 300_000_usize.div_ceil(64 * 1024);
    for until in 0..=pieces {
        let (mut files, disk, id, filmed, facts) = grown();
        let asked = Cell::new(0);
        let wanted = || asked.replace(asked.get() + 1) < until;
        let put = files.complete(id, &mut facts.clone(), Some(&offered()), wanted);
        assert!(matches!(put, Put::Unwanted), "{put:?} after {until}");
        assert_eq!((disk.list().unwrap(), asked.get()), (vec![format!("{id}.part")], until + 1));
        if until % 2 == 0 {
            files.record_erased([Uuid::from_u128(8)]).unwrap();
            let mut facts = facts;
            assert!(matches!(files.complete(id, &mut facts, Some(&offered()), || true), Put::Durable));
            assert!(found_on(&disk, id).unwrap().1 == progressive(&filmed));
        } else {
            files.record_erased([id]).unwrap();
            files.unlink().unwrap();
            assert_eq!(disk.list().unwrap(), ["journal"]);
            assert!(matches!(files.complete(id, &mut facts.clone(), Some(&offered()), || true), Put::Failed(_)));
        }
    }
}

/// Its digest with the header would vouch for what nobody filmed.
#[test]
fn a_file_that_does_not_have_what_was_filmed_gets_no_header() {
    let (mut files, disk, id, filmed, mut facts) = grown();
    let raw = facts.clone();
    disk.open(&format!("{id}.part"), Access::Write).unwrap().write_at(b"rot", HEADER_BYTES + 150_000).unwrap();
    assert!(matches!(files.complete(id, &mut facts, Some(&offered()), || true), Put::Durable));
    assert_eq!(facts, raw, "which the transfer finds out");
    let head = Head { bytes: raw.bytes, sha256: raw.sha256, tail: raw.tail };
    assert!(files.read_back(id, &head, &offered(), || true).is_err());
    assert_ne!(read_all(&disk, id, &head).unwrap(), filmed);
}

#[test]
fn a_header_that_would_take_what_is_kept_for_the_state_is_not_written() {
    let (mut files, disk, id, filmed, mut facts) = grown();
    let needed = super::super::files::RESERVE + HEADER_BYTES + 40;
    disk.set_free(needed - 1);
    assert!(matches!(files.complete(id, &mut facts, Some(&offered()), || true), Put::Durable));
    assert!(found_on(&disk, id).unwrap() == (facts, filmed));
}

/// Whatever fails while the header is written or after it, the clip leaves with it in front, from memory.
#[test]
fn a_fault_at_the_end_loses_neither_the_clip_nor_its_header() {
    let mut faults = 0;
    for operation in 0..8 {
        let mut camera = Camera::with(&SMALL, None);
        let filming = camera.film(PIECES, LONG);
        let (id, content) = (filming.id, filming.content.clone());
        camera.disk.fail_at(operation, io::ErrorKind::Other);
        camera.finish(filming);
        faults += u32::from(!camera.on_flash().contains(&id));
        let next = camera.gate.spool.lock().next(camera.gate.generation(), camera.gate.clock.now());
        let Next::Take(job) = next else { panic!("at {operation}: {next:?}") };
        let head = job.content.flash.clone().unwrap();
        let sent = [job.content.header.to_vec(), read_all(&camera.disk, id, &head).unwrap()].concat();
        assert_eq!((sent == progressive(&content), &job.sha256), (true, &sha256(&sent)), "at {operation}");
        assert_eq!(camera.crash_everywhere(&[ALL], &mut 0), Ok(()), "at {operation}");
    }
    assert!((4..8).contains(&faults), "{faults} of them hit its end");
}

/// A file of firmware that left such clips in fragments.
#[test]
fn a_grown_clip_of_earlier_firmware_is_found_and_read() {
    let (mut files, disk, id, filmed, mut facts) = grown();
    assert!(matches!(files.complete(id, &mut facts, None, || true), Put::Durable));
    let json = serde_json::to_string(&facts).unwrap();
    let earlier = r#"{"clip":"00000000-0000-0000-0000-000000000007","kind":"motion","epoch":3,"height":360,"started_ms":1767225000000,"duration_ms":5000,"bytes":300000,"sha256":""#;
    assert!(json.starts_with(earlier) && json.len() == earlier.len() + 66, "{json}");
    let scan = Files::new(Disk::from(disk.now()).opener()).scan().unwrap();
    assert_eq!(scan.clips, std::slice::from_ref(&facts));
    assert!(found_on(&disk, id).unwrap() == (facts, filmed));
}

#[test]
fn a_file_without_the_end_of_its_header_is_torn() {
    let (mut files, disk, id, _, mut facts) = grown();
    assert!(matches!(files.complete(id, &mut facts, Some(&offered()), || true), Put::Durable));
    let name = format!("{id}.clip");
    let mut file = vec![0; HEADER_BYTES as usize + 300_040];
    disk.open(&name, Access::Read).unwrap().read_at(&mut file, 0).unwrap();
    disk.open(&name, Access::Create).unwrap().write_at(&file[..file.len() - 1], 0).unwrap();
    let scan = Files::new(disk.opener()).scan().unwrap();
    assert_eq!((scan.clips, scan.unreadable), (Vec::new(), 1));
}
