//! Power cuts at every point of a write log. QEMU logs each write to the state's disk while the plan changes; the
//! test then restores the disk as a power cut would have left it at 300 points of the log. Every document that the
//! camera had acknowledged by then, or a newer one, must be there. Part of `make proof`.

use std::{fs, path::Path, process::Command};

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    cloud::Document as Body,
    guest::{Guest, Model, PATIENCE},
    steps::in_force,
    wait::until,
    world::{DEVICE, World},
    write_log::WriteLog,
};

const MARKS: usize = 300;
/// Plan changes: each causes at least one write and one flush by the agent, so that no two marks are the same.
const CHANGES: u64 = 170;

/// Another program that creates and deletes files on the same file system, so that the journal is busy.
const NEIGHBOUR: &str = "systemd-run --quiet sh -c 'cd /var/lib/kasa-care-agent && while :; do
    for i in 1 2 3; do dd if=/dev/urandom of=neighbour.$i bs=4k count=4 conv=fsync; done; rm neighbour.*; sleep 0.5; done 2>/dev/null'";

/// A document, and the log's length before and after it was persisted.
struct Change {
    seq: u64,
    /// Entries before it was published; none of them contains the document.
    published: usize,
    /// Entries when its PUBACK had arrived; they contain the document.
    acknowledged: usize,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the image of an emulated camera: scripts/arm/whole-camera.sh"]
async fn acknowledged_documents_are_on_disk_after_a_power_cut_at_300_points() {
    let mut world = World::new().await;
    let mut camera = Guest::new(&mut world, Model { writes_logged: true, ..Model::default() });
    let blank = fs::read(camera.state_disk()).unwrap();
    camera.start();
    let mut changes = Vec::new();
    for number in 0..CHANGES {
        let draft = match number % 3 {
            0 => world.premium(),
            1 => world.plus(),
            _ => world.free(),
        };
        changes.push(change(&world, &camera, draft).await);
        if number == 0 {
            camera.run(NEIGHBOUR).await;
        }
    }
    let last = changes.last().expect("at least one change").seq;
    assert!(camera.run("ls /var/lib/kasa-care-agent").await.contains("state"), "the state is on the disk that is logged");
    camera.cut_power().await;

    let log = WriteLog::read(&camera.write_log());
    let flushes = log.flushes();
    println!("{} entries, {} flushes, {} plan changes", log.len(), flushes.len(), changes.len());
    assert!(log.len() > MARKS, "too short a log");

    let mut reader = Reader::new(&world);
    let mut random = Coin(20_261_126);
    let mut newest = 0;
    for number in 0..MARKS {
        // Of the writes since the last flush, some survive and some do not.
        let mark = number * log.len() / (MARKS - 1);
        let found = reader.seq_on(&log.power_cut(blank.clone(), mark, 0, || random.toss())).await;
        judge(&changes, mark, found).unwrap_or_else(|why| panic!("after {mark} entries: {why}"));
        newest = newest.max(found);
    }
    assert_eq!(newest, last, "the last mark is the end");

    // The same check detects a disk that loses the writes of its last flush.
    let mut lost = 0;
    for change in changes.iter().step_by(10) {
        let flush = flushes.iter().copied().rfind(|flush| *flush <= change.acknowledged).expect("its own flush");
        let found = reader.seq_on(&log.power_cut(blank.clone(), flush, 1, || true)).await;
        // Not always: another program's flush may have followed the agent's before the PUBACK was seen.
        lost += usize::from(judge(&changes, change.acknowledged, found).is_err());
    }
    println!("{lost} of {} documents missed on a disk that loses its last flush", changes.len().div_ceil(10));
    assert!(lost > 0, "a disk that loses its last flush was not detected");

    // The camera's own kernel and agent reach the same result with a disk from the middle of the log.
    let mark = changes[changes.len() / 2].acknowledged;
    let disk = log.power_cut(blank, mark, 0, || random.toss());
    let found = reader.seq_on(&disk).await;
    fs::write(camera.state_disk(), disk).unwrap();
    // The cloud publishes nothing newer.
    world.cloud.lock().entitlement = Body::Silence;
    world.issuer.heard().answer = None;
    world.issuer.publish_entitlement("").await;
    let gets = world.issuer.gets();
    camera.start();
    let get = until("a get after the restored boot", PATIENCE, || world.issuer.heard().gets.get(gets).map(|(_, get)| get.clone())).await;
    assert_eq!(get.seq, found);
}

/// Makes one plan change and waits for its PUBACK.
async fn change(world: &World, camera: &Guest, draft: care_tests::issuer::Draft) -> Change {
    let (line, published) = (world.broker.log().len(), WriteLog::entries_in(&camera.write_log()));
    let mode = if draft.0.plan.is_free() { Mode::Free } else { Mode::Paid };
    let document = world.issue(draft).await;
    until(format!("the PUBACK of {}", document.position), PATIENCE, || {
        world.broker.has_puback_of(DEVICE, line, |topic| topic.ends_with("/entitlement")).then_some(())
    })
    .await;
    let acknowledged = WriteLog::entries_in(&camera.write_log());
    in_force(&world.issuer, 0, &document, mode).await;
    Change { seq: document.position.seq, published, acknowledged }
}

/// The sequence numbers that a disk with so many entries may hold.
fn judge(changes: &[Change], mark: usize, found: u64) -> Result<(), String> {
    let newest = |reached: fn(&Change) -> usize| changes.iter().filter(|change| reached(change) <= mark).map(|change| change.seq).max();
    let (least, most) = (newest(|change| change.acknowledged).unwrap_or(0), newest(|change| change.published).unwrap_or(0));
    if (least..=most).contains(&found) { Ok(()) } else { Err(format!("{found} is on record, not {least} to {most}")) }
}

/// A local agent that reads the state on a disk.
struct Reader {
    agent: Agent,
    dir: tempfile::TempDir,
    /// The state that it last read, and the result.
    last: Option<(Option<Vec<u8>>, u64)>,
}

impl Reader {
    fn new(world: &World) -> Self {
        let nobody = ([127, 0, 0, 1], 1).into();
        let agent = Agent::new(&world.pki, DEVICE, nobody, &format!("https://{nobody}"));
        Self { agent, dir: tempfile::tempdir().unwrap(), last: None }
    }

    /// The seq recorded on this disk, 0 if there is none.
    async fn seq_on(&mut self, disk: &[u8]) -> u64 {
        let state = state_on(disk, self.dir.path());
        if let Some((_, seq)) = self.last.as_ref().filter(|(read, _)| *read == state) {
            return *seq;
        }
        match &state {
            Some(state) => fs::write(self.agent.state_file(), state).unwrap(),
            None => drop(fs::remove_file(self.agent.state_file())),
        }
        let line = self.agent.log().len();
        self.agent.start();
        let seq = self.agent.ratchet_at_start(line).await.seq;
        self.agent.status("the document of that seq", |status| status.seq() == seq).await;
        self.agent.kill().await;
        self.last = Some((state, seq));
        seq
    }
}

/// The state file on this disk after journal replay, as a mount would show it, if it exists.
fn state_on(disk: &[u8], dir: &Path) -> Option<Vec<u8>> {
    let (image, state) = (dir.join("image"), dir.join("state"));
    fs::write(&image, disk).unwrap();
    let run = |command: &mut Command| command.output().unwrap_or_else(|why| panic!("e2fsprogs is not installed: {why}"));
    let checked = run(Command::new("/sbin/e2fsck").args(["-f", "-y"]).arg(&image));
    // Exit code 1: errors were corrected, which is normal after a power cut.
    assert!(matches!(checked.status.code(), Some(0 | 1)), "e2fsck: {}", String::from_utf8_lossy(&checked.stdout));
    let _ = fs::remove_file(&state);
    run(Command::new("/sbin/debugfs").args(["-R", &format!("dump /state {}", state.display())]).arg(&image));
    fs::read(&state).ok()
}

/// The same random sequence in each run.
struct Coin(u64);

impl Coin {
    fn toss(&mut self) -> bool {
        // The high bits of a multiplicative generator are the good ones.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 63 == 0
    }
}
