//! The same promises of clips that outgrow memory and are written while they are filmed.

use super::*;
use crate::media::ClipWriter;

const PIECE: usize = 25;
const PIECES: u32 = 8;
/// Half a clip fits into memory.
const SMALL: Limits =
    Limits { memory_bytes: 4 * PIECE as u64, flash_bytes: 3 * (HEADER_BYTES + 8 * PIECE as u64), flash_bytes_per_day: 1 << 30 };

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

    fn finish(&mut self, Filming { writer, id, content, until }: Filming) {
        self.ledger.contents.insert(id, content);
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
            let mut sent = Vec::new();
            if let Some(head) = &job.content.flash {
                sent.extend(ClipFile::open(&camera.disk, id).and_then(|file| file.read(0, head.bytes as usize)).unwrap());
                assert_eq!(head.sha256, crate::hex::hex(ring::digest::digest(&ring::digest::SHA256, &sent).as_ref()));
            }
            job.content.memory.iter().for_each(|fragment| sent.extend_from_slice(fragment));
            assert!(sent == content && job.bytes == content.len() as u64, "{kind:?} at {operation}");
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
