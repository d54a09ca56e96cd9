//! Retention by time: under a clock that the test moves, clips leave the store when they grow older than their plan's
//! history; the store itself is asked what it still has.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use care_cloud::{
    actions::{Action, PaidPlan},
    catalogue::Catalogue,
    clock::Clock,
    cloud::Cloud,
    data_dir::{DataDir, Endpoints},
    db::Db,
    issuer::Issuer,
    keys::Keys,
    link::BrokerAddress,
    retention, schedule,
    store::Store,
};
use care_protocol::DeviceId;

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    cloud: Arc<Cloud>,
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let origin = "https://127.0.0.1:8443";
        let endpoints = Endpoints { api: origin.into(), broker: String::new(), portal: String::new(), prefix: "care/v1".into() };
        let issuer = Arc::new(Issuer { keys: Keys::open(&data, NOW).unwrap(), catalogue: Catalogue::built_in(), lease_s: 172_800 });
        let (db, store) = (Db::open(&data.path("care.db")).unwrap(), Store::embedded(&data, origin).unwrap());
        let nowhere = BrokerAddress { client_id: String::new(), host: String::new(), port: 0, tls: None, ca: String::new() };
        let cloud = Cloud::new(data, Clock::set_to(NOW), db, issuer, store, endpoints, nowhere, None).unwrap();
        Self { cloud: Arc::new(cloud), dir }
    }

    fn add(&self, camera: &str, model: &str) {
        let (cloud, device) = (&self.cloud, camera.parse().unwrap());
        cloud.db.transact(|tx| cloud.issuer.add_camera(tx, &device, model, camera, NOW)).unwrap();
    }

    async fn subscribe(&self, camera: &str, plan: PaidPlan) {
        let camera = camera.parse().unwrap();
        self.cloud.act(Action::Subscribe { camera, plan, cycle: None, channel: None, zone: None }).await.unwrap();
    }

    /// A clip in the store that began so long before NOW, as an upload leaves it.
    fn stored(&self, camera: &str, clip: &str, ago_s: u64) {
        let dir = self.clips(camera);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{clip}.mp4")), clip).unwrap();
        let sql = "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at)
                   VALUES (?1, ?2, 1, 'motion', ?3, 5000, 9, '', 1)";
        let started_ms = (NOW - ago_s) * 1000;
        self.cloud.db.read(|c| Ok(c.execute(sql, rusqlite::params![clip, camera, started_ms])?)).unwrap();
    }

    fn clips(&self, camera: &str) -> PathBuf {
        self.dir.path().join("store/clips").join(camera)
    }

    async fn listed(&self, camera: &str) -> BTreeSet<String> {
        let device: DeviceId = camera.parse().unwrap();
        self.cloud.store.list(&device).await.unwrap()
    }

    async fn until_listed(&self, camera: &str, clips: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let wanted: BTreeSet<String> = clips.iter().map(|&clip| clip.to_owned()).collect();
        loop {
            let listed = self.listed(camera).await;
            if listed == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "{camera}: the store has {listed:?}, expected {wanted:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn pass(&self, seconds: u64) {
        self.cloud.clock.advance(seconds);
        self.cloud.schedule.notify_one();
    }

    fn marked_gone(&self) -> u64 {
        let sql = "SELECT count(*) FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NOT NULL";
        self.cloud.db.read(|c| Ok(c.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }
}

#[tokio::test]
async fn clips_leave_the_store_when_they_grow_too_old_for_their_plan_and_not_before() {
    let world = World::new();
    for (camera, model) in [("EC", "EC70"), ("KC", "KC420WS"), ("PLUS", "KC420WS"), ("PREM", "KC420WS")] {
        world.add(camera, model);
        world.stored(camera, &format!("{camera}-old"), HOUR);
        world.stored(camera, &format!("{camera}-new"), 0);
    }
    world.subscribe("PLUS", PaidPlan::Plus).await;
    world.subscribe("PREM", PaidPlan::Premium).await;
    let schedule = tokio::spawn(schedule::run(world.cloud.clone()));

    // Each camera's history in hours, from the catalogue's own figures in the FAQ; the first clip is an hour old at NOW.
    let mut passed = 0;
    for (camera, history) in [("EC", 12 * HOUR), ("KC", 48 * HOUR), ("PLUS", 14 * DAY), ("PREM", 30 * DAY)] {
        let (old, new) = (format!("{camera}-old"), format!("{camera}-new"));
        world.pass(history - HOUR - passed);
        passed = history - HOUR;
        // A sweep of our own: it has looked at this moment when it returns.
        retention::sweep(&world.cloud).await.unwrap();
        assert_eq!(world.listed(camera).await.len(), 2, "{camera}: exactly its history old is not too old");
        world.pass(1);
        world.until_listed(camera, &[&new]).await;
        assert!(!world.clips(camera).join(format!("{old}.mp4")).exists());
        world.pass(HOUR);
        world.until_listed(camera, &[]).await;
        passed += HOUR + 1;
    }
    schedule.abort();
    // Whatever the schedule had deleted and not yet booked.
    retention::sweep(&world.cloud).await.unwrap();
    assert_eq!(world.marked_gone(), 8);
}

#[tokio::test]
async fn a_change_of_plan_erases_what_it_must_from_the_store_itself() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.subscribe("CAM", PaidPlan::Premium).await;
    for (clip, ago) in [("d20", 20 * DAY), ("d10", 10 * DAY), ("h47", 47 * HOUR)] {
        world.stored("CAM", clip, ago);
    }
    world.cloud.act(Action::Downgrade { camera: "CAM".parse().unwrap(), quote: None }).await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["d10".to_owned(), "h47".to_owned()]));
    world.cloud.act(Action::Cancel { camera: "CAM".parse().unwrap(), quote: None }).await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["h47".to_owned()]));
}

#[tokio::test]
async fn a_clip_marked_before_a_crash_still_goes_and_one_being_sent_again_stays() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.stored("CAM", "crashed", HOUR);
    world.stored("CAM", "again", HOUR);
    world
        .cloud
        .db
        .read(|c| {
            c.execute_batch("UPDATE clips SET erased_at = 1")?;
            let grant = "INSERT INTO grants VALUES ('g', 'again', 'CAM', 1, 1, ?1, 'open')";
            Ok(c.execute(grant, [care_cloud::db::now_us()])?)
        })
        .unwrap();
    retention::sweep(&world.cloud).await.unwrap();
    assert_eq!(world.listed("CAM").await, BTreeSet::from(["again".to_owned()]));
    assert_eq!(world.marked_gone(), 1);
}

#[tokio::test]
async fn an_object_that_cannot_be_deleted_is_not_booked_as_gone() {
    let world = World::new();
    world.add("CAM", "KC420WS");
    world.stored("CAM", "stuck", 3 * DAY);
    // A directory in the object's place cannot be unlinked, whoever we are.
    let stuck = world.clips("CAM").join("stuck.mp4");
    std::fs::remove_file(&stuck).unwrap();
    std::fs::create_dir(&stuck).unwrap();
    assert!(retention::sweep(&world.cloud).await.is_err());
    assert_eq!(world.marked_gone(), 0);
    std::fs::remove_dir(&stuck).unwrap();
    std::fs::write(&stuck, "x").unwrap();
    retention::sweep(&world.cloud).await.unwrap();
    assert_eq!(world.marked_gone(), 1);
}
