//! The world of one test: a PKI, a broker, a cloud, an issuer and one camera, shared with no other test.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use care_protocol::{DeviceId, Mode, Outcome, Policy, Position};

use rtsp_camera::Camera;

use crate::{
    agent::Agent,
    broker::{Broker, Kind},
    build::Build,
    cloud::{Cloud, CloudState, Document as Body, Put},
    issuer::{Document, Draft, Issuer, PLUS, PREMIUM},
    media,
    pki::Pki,
    proxy::Proxy,
    wait::PATIENCE,
};

/// The camera id used in all tests.
pub const DEVICE: &str = "8006E5A1F0C2";

/// Everything a scenario needs. The agent is not started yet.
pub struct World {
    /// The camera. Declared first, so that it is dropped before the servers it uses.
    pub agent: Agent,
    /// The cloud's MQTT client.
    pub issuer: Issuer,
    /// The proxy between camera and broker.
    pub proxy: Proxy,
    /// The broker: Mosquitto unless the test asks for another.
    pub broker: Broker,
    /// The HTTPS side.
    pub cloud: Cloud,
    /// Keys and authorities.
    pub pki: Pki,
    /// The camera's device id.
    pub device: DeviceId,
    /// The position of the newest document created here.
    pub position: Position,
    /// The vendor's streamer, if the agent films from one.
    pub streamer: Option<Camera>,
}

impl World {
    /// Starts broker, cloud and issuer with keyset 7 published; no document yet.
    pub async fn new() -> Self {
        Self::with_broker("").await
    }

    /// The same with additional lines for Mosquitto's configuration.
    pub async fn with_broker(extra: &str) -> Self {
        let pki = Pki::new();
        let broker = Broker::start_with(&pki, &pki.ca.server(), extra).await;
        Self::around(pki, broker).await
    }

    /// The same, but the camera reaches broker and cloud at another address of this machine or of the test's network, without
    /// a proxy. Nothing but the way limits what the store takes.
    pub async fn at(address: Ipv4Addr, extra: &str) -> Self {
        let pki = Pki::new();
        let broker = Broker::start_at(address, &pki, &pki.ca.server(), extra).await;
        let mut world = Self::around(pki, broker).await;
        let cloud = Cloud::start_roomy_at(address, Some(world.pki.mutual_tls(&world.pki.ca.server()))).await;
        world.move_to(cloud).await;
        world.agent.config.broker = format!("mqtts://{}", world.broker.addr);
        world
    }

    /// The same with a broker of this kind.
    pub async fn with_broker_of(kind: Kind) -> Self {
        let pki = Pki::new();
        let broker = Broker::start_kind(kind, &pki, &pki.ca.server(), "").await;
        Self::around(pki, broker).await
    }

    async fn around(pki: Pki, broker: Broker) -> Self {
        let device: DeviceId = DEVICE.parse().unwrap();
        let proxy = Proxy::to(broker.addr).await;
        let cloud = Cloud::start(&pki).await;
        let issuer = Issuer::connect(&pki, &broker, &device).await;
        let agent = Agent::new(&pki, DEVICE, proxy.addr, &cloud.url());
        let world = Self { agent, issuer, proxy, broker, cloud, pki, device, position: Position { epoch: 3, seq: 40 }, streamer: None };
        world.hand_out_first_keyset().await;
        world
    }

    /// The same with the recorded file as video source, a motion socket of the test, and a fast uplink configured.
    pub async fn with_camera() -> Self {
        let mut world = Self::new().await;
        world.agent.config.uplink_kbps = 100_000;
        world.agent.config.source = Some(format!("file:{}", media::recorded().display()));
        world
    }

    /// [`World::new`] for a build of the agent. Without GStreamer the agent also films, over RTSP.
    pub async fn of(build: Build) -> Self {
        let mut world = Self::new().await;
        world.agent.config.uplink_kbps = 100_000;
        world.streamer = build.equip(&mut world.agent);
        world
    }

    /// [`World::with_camera`] for a build of the agent.
    pub async fn with_camera_of(build: Build) -> Self {
        match build {
            Build::WithGstreamer => Self::with_camera().await,
            Build::WithoutGstreamer => Self::of(build).await,
        }
    }

    /// Switches the camera to `cloud` from its next start on, with the keyset published there. Returns the previous
    /// cloud.
    pub async fn move_to(&mut self, cloud: Cloud) -> Cloud {
        let before = std::mem::replace(&mut self.cloud, cloud);
        self.agent.config.cloud = self.cloud.url();
        self.hand_out_first_keyset().await;
        before
    }

    async fn hand_out_first_keyset(&self) {
        self.hand_out_keyset(&self.pki.keyset(7).sign(&self.pki.root)).await;
    }

    /// Publishes a keyset over MQTT and HTTPS.
    pub async fn hand_out_keyset(&self, token: &str) {
        self.cloud.lock().keyset = Body::Token(token.to_owned());
        self.issuer.publish_keyset(token).await;
    }

    /// A draft for this camera at the next position.
    pub fn draft(&mut self, plan: &str, policy: Policy) -> Draft {
        self.position.seq += 1;
        Draft::new(&self.device, plan, policy).at(self.position.epoch, self.position.seq)
    }

    /// A Premium draft at the next position.
    pub fn premium(&mut self) -> Draft {
        self.draft("premium", PREMIUM)
    }

    /// A Plus draft at the next position.
    pub fn plus(&mut self) -> Draft {
        self.draft("plus", PLUS)
    }

    /// A Free draft at the next position.
    pub fn free(&mut self) -> Draft {
        self.draft("free", crate::issuer::FREE)
    }

    /// Signs a draft.
    pub fn sign(&self, draft: &Draft) -> Document {
        draft.signed(&self.pki.key)
    }

    /// Signs a draft and publishes it: retained, and as the answer to every `get` and `GET`.
    pub async fn issue(&self, draft: Draft) -> Document {
        let document = self.sign(&draft);
        self.hand_out(&document).await;
        document
    }

    /// Publishes a document everywhere.
    pub async fn hand_out(&self, document: &Document) {
        self.cloud.lock().entitlement = Body::Token(document.token.clone());
        self.issuer.heard().answer = Some(document.token.clone());
        self.issuer.publish_entitlement(&document.token).await;
    }

    /// Publishes a cancel over MQTT only; HTTPS does not answer.
    pub async fn cancel_over_mqtt(&mut self) -> Document {
        let cancel = self.free();
        let cancel = self.sign(&cancel);
        self.cloud.lock().entitlement = Body::Silence;
        self.issuer.heard().answer = Some(cancel.token.clone());
        self.issuer.publish_entitlement(&cancel.token).await;
        cancel
    }

    /// Issues a draft and waits until the camera has applied it and is in `mode`.
    pub async fn switch(&self, draft: Draft, mode: Mode) -> Document {
        let document = self.issue(draft).await;
        self.issuer.judged(&document, Outcome::Applied).await;
        self.issuer.in_force(&document, mode).await;
        document
    }

    /// Starts the camera with a Premium document published; returns once it is `paid`.
    pub async fn start_premium(&mut self) -> Document {
        let draft = self.premium();
        self.start_with(draft, Mode::Paid).await
    }

    /// Starts the camera with this document published; returns once it is in `mode`.
    pub async fn start_with(&mut self, draft: Draft, mode: Mode) -> Document {
        let document = self.issue(draft).await;
        self.agent.start();
        self.issuer.in_force(&document, mode).await;
        document
    }

    /// Makes the camera record a clip; returns once its upload has sent `bytes`.
    pub async fn upload_in_flight(&self, bytes: usize) -> Put {
        let seen = self.cloud.lock().puts.len();
        self.move_until("an upload in progress", |cloud| {
            cloud.puts.iter().skip(seen).find(|put| put.complete.is_none() && put.body.len() >= bytes).cloned()
        })
        .await
    }

    /// Reports motion until the cloud's records satisfy `wanted`. Repeats, because frames may not have arrived yet,
    /// but only after the time in which a clip would be complete.
    pub async fn move_until<T>(&self, what: &str, wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        self.move_every(Duration::from_secs(5), what, wanted).await
    }

    /// The same, with this long between two reports of motion.
    pub async fn move_every<T>(&self, pause: Duration, what: &str, mut wanted: impl FnMut(&CloudState) -> Option<T>) -> T {
        let mut motion = self.agent.motion().await;
        let started = Instant::now();
        loop {
            motion.report_motion().await;
            let moved = Instant::now();
            while moved.elapsed() < pause {
                if let Some(value) = wanted(&self.cloud.lock()) {
                    return value;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(started.elapsed() < PATIENCE, "despite motion, the cloud does not see {what}");
        }
    }

    /// Waits until the store has stopped writing; returns its number of writes.
    pub async fn settled_writes(&self) -> u64 {
        let mut last = (u64::MAX, Instant::now());
        loop {
            let writes = self.agent.status("its store", |_| true).await.store_writes();
            if writes != last.0 {
                last = (writes, Instant::now());
            } else if last.1.elapsed() > Duration::from_millis(3_500) {
                // The delivery of a report is noted two seconds later, and the status document may be a second old.
                return writes;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the camera has acknowledged everything that the broker sent to it.
    pub async fn everything_acknowledged(&self) {
        crate::wait::until("all PUBACKs", PATIENCE, || (self.broker.acknowledged_by(DEVICE) >= self.broker.sent_to(DEVICE)).then_some(()))
            .await;
    }
}
