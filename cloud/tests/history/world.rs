//! A cloud inside the test process, with a clock that the test sets and the real embedded store.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, StatusCode, header};
use care_cloud::{
    clock::Clock,
    domain::{
        actions::{Action, PaidPlan},
        catalogue::{Catalogue, Cycle},
        issuer::Issuer,
        preview::Offer,
    },
    params,
    portal::playback,
    storage::{
        data_dir::{DataDir, Endpoints},
        db::Db,
        keys::Keys,
    },
    transport::{broker::BrokerAddress, cloud::Cloud, store::Store},
};
use care_protocol::DeviceId;
use http_body_util::BodyExt as _;

pub const NOW: u64 = 1_800_000_000;
pub const HOUR: u64 = 3600;
pub const DAY: u64 = 24 * HOUR;
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub cloud: Arc<Cloud>,
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let origin = "https://127.0.0.1:8443";
        let endpoints = Endpoints {
            api: origin.into(),
            broker: String::new(),
            broker_cloud: None,
            portal: String::new(),
            metrics: None,
            prefix: "care/v1".into(),
            store: None,
        };
        let issuer = Arc::new(Issuer { keys: Keys::open(&data, NOW).unwrap(), catalogue: Catalogue::built_in(), lease_s: 172_800 });
        let (db, store) = (Db::open(&data.path("care.db")).unwrap(), Store::embedded(&data, origin).unwrap());
        let nowhere = BrokerAddress { client_id: String::new(), host: String::new(), port: 0, tls: None, ca: String::new() };
        let cloud = Cloud::new(data, Clock::set_to(NOW), db, issuer, store, endpoints, nowhere, None).unwrap();
        Self { cloud: Arc::new(cloud), dir }
    }

    /// A camera in an account of its own.
    pub fn add(&self, camera: &str, model: &str) {
        self.add_to(camera, camera, model);
    }

    pub fn add_to(&self, account: &str, camera: &str, model: &str) {
        let (cloud, device) = (&self.cloud, camera.parse().unwrap());
        cloud.db.transact(|tx| cloud.issuer.add_camera(tx, &device, model, account, NOW)).unwrap();
    }

    pub async fn subscribe(&self, camera: &str, plan: PaidPlan) {
        let camera = camera.parse().unwrap();
        self.act(Action::Subscribe { camera, plan, cycle: None, channel: None, zone: None }).await;
    }

    pub async fn subscribe_by(&self, camera: &str, plan: PaidPlan, cycle: Cycle) {
        let camera = camera.parse().unwrap();
        self.act(Action::Subscribe { camera, plan, cycle: Some(cycle), channel: None, zone: None }).await;
    }

    /// A clip in the store that began so long before NOW, as an upload leaves it.
    pub fn stored(&self, camera: &str, clip: &str, ago_s: u64) {
        let dir = self.clips(camera);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(format!("{clip}.mp4")), clip).unwrap();
        let sql = "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at)
                   VALUES (?1, ?2, 1, 'motion', ?3, 5000, 9, '', 1)";
        let started_ms = (NOW - ago_s) * 1000;
        self.cloud.db.read(|c| Ok(c.execute(sql, params![clip, camera, started_ms])?)).unwrap();
    }

    /// The same in parts with these contents, of which the last is still to come.
    pub fn stored_in_parts(&self, camera: &str, clip: &str, parts: &[&str], ago_s: u64) {
        self.stored(camera, clip, ago_s);
        let dir = self.clips(camera);
        std::fs::remove_file(dir.join(format!("{clip}.mp4"))).unwrap();
        let sql = "INSERT INTO parts (clip, part, last, duration_ms, bytes, sha256, stored_at) VALUES (?1, ?2, 0, 2000, ?3, '', 1)";
        for (part, content) in parts.iter().enumerate() {
            std::fs::write(dir.join(format!("{clip}.{part}.mp4")), content).unwrap();
            self.cloud.db.read(|c| Ok(c.execute(sql, params![clip, part, content.len()])?)).unwrap();
        }
    }

    pub fn clips(&self, camera: &str) -> PathBuf {
        self.dir.path().join("store/clips").join(camera)
    }

    pub async fn listed(&self, camera: &str) -> BTreeSet<String> {
        let device: DeviceId = camera.parse().unwrap();
        self.cloud.store.list(&device).await.unwrap()
    }

    pub async fn until_listed(&self, camera: &str, clips: &[&str]) {
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

    pub fn pass(&self, seconds: u64) {
        self.cloud.clock.advance(seconds);
        self.cloud.schedule.notify_one();
    }

    pub fn marked_gone(&self) -> u64 {
        let sql = "SELECT count(*) FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NOT NULL";
        self.cloud.db.read(|c| Ok(c.query_row(sql, [], |row| row.get(0))?)).unwrap()
    }

    pub async fn act(&self, action: Action) {
        self.cloud.act(action).await.unwrap();
    }

    /// What the confirm page shows.
    pub fn offer(&self, camera: &str, downgrade: bool) -> Offer {
        let (cloud, device) = (&self.cloud, camera.parse().unwrap());
        cloud.db.transact(|tx| cloud.issuer.offer(tx, &device, downgrade, cloud.clock.now_s())).unwrap()
    }

    /// What the owner's page lists, newest first.
    pub async fn shown(&self, account: &str, camera: &str) -> Vec<String> {
        let device = camera.parse().unwrap();
        let clips = care_cloud::portal::account_view::clips(&self.cloud, account, &device).await.unwrap();
        clips.into_iter().map(|clip| clip.clip).collect()
    }

    /// What somebody who is signed in to this account gets of a clip, under this range.
    pub async fn watch_range(&self, account: &str, camera: &str, clip: &str, range: Option<&str>) -> (StatusCode, HeaderMap, String) {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(header::RANGE, range.parse().unwrap());
        }
        let answer = playback::serve(&self.cloud, account, &camera.parse().unwrap(), clip, &headers).await;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    pub async fn watch(&self, account: &str, camera: &str, clip: &str) -> (StatusCode, String) {
        let (status, _, body) = self.watch_range(account, camera, clip, None).await;
        (status, body)
    }
}
