//! The cloud's side of MQTT in a test: issues documents, collects reports, answers `get`s.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use care_protocol::{
    Channel, DeviceId, Digest, Entitlement, Epoch, Get, Lease, Mode, Next, Outcome, Plan, Policy, Position, Reason, Report, Seq, Signer,
    Topics,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, Publish, QoS, TlsConfiguration, Transport};

use crate::{
    broker::{Broker, ISSUER_CN, Kind},
    pki::{ISSUER, Pki},
    unix_now,
    wait::{PATIENCE, until},
};

/// The Premium policy of the tests: clips of three seconds, so that a clip is soon complete, kept for thirty days.
/// No snapshots, so that every upload is a clip.
pub const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 3, cooldown_s: 0, max_height: 1080, snapshots: false };
/// Plus: the same clips, kept for fourteen days.
pub const PLUS: Policy = Policy { history_h: 336, ..PREMIUM };
/// Free: clips of one second with a long cooldown. Free does not allow a Premium clip.
pub const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 1, cooldown_s: 300, max_height: 720, snapshots: false };
/// No uploads at all.
pub const NOTHING: Policy = Policy::CLOSED;

/// An unsigned document.
#[derive(Debug, Clone)]
pub struct Draft(pub Entitlement);

impl Draft {
    /// A document for `device` with this plan and policy, at position (1, 1) until the [`Issuer`] assigns another.
    pub fn new(device: &DeviceId, plan: &str, policy: Policy) -> Self {
        let now = unix_now();
        Self(Entitlement {
            iss: ISSUER.into(),
            aud: device.clone(),
            account: "acct-5b1f".into(),
            epoch: Epoch::try_from(1).unwrap(),
            seq: Seq::try_from(1).unwrap(),
            plan: plan.parse().unwrap(),
            reason: if plan == "free" { Reason::Cancelled } else { Reason::Subscribed },
            channel: Channel::Portal,
            iat: now,
            lease: Lease { max_age_s: 172_800, not_after: now + 172_800 },
            policy,
            next: None,
            order: None,
            crit: Vec::new(),
        })
    }

    /// Sets the position.
    pub fn at(mut self, epoch: u64, seq: u64) -> Self {
        self.0.epoch = Epoch::try_from(epoch).unwrap();
        self.0.seq = Seq::try_from(seq).unwrap();
        self
    }

    /// Sets the reason.
    pub fn because(mut self, reason: Reason) -> Self {
        self.0.reason = reason;
        self
    }

    /// Sets the policy.
    pub fn limited(mut self, policy: Policy) -> Self {
        self.0.policy = policy;
        self
    }

    /// Sets `next`: Free from this Unix second on.
    pub fn then_free(mut self, effective_at: u64) -> Self {
        self.0.next = Some(Next { plan: Plan::free(), effective_at, reason: Reason::Cancelled, policy: FREE });
        self
    }

    /// Sets the lease in seconds.
    pub fn leased(mut self, seconds: u64) -> Self {
        self.0.lease = Lease { max_age_s: seconds, not_after: self.0.iat + seconds };
        self
    }

    /// Sets the account.
    pub fn of(mut self, account: &str) -> Self {
        self.0.account = account.into();
        self
    }

    /// Sets the source of the purchase.
    pub fn through(mut self, channel: Channel) -> Self {
        self.0.channel = channel;
        self
    }

    /// Sets the signing key.
    pub fn signed(&self, key: &Signer) -> Document {
        let token = self.0.sign(key);
        Document { position: self.0.position(), digest: digest_of(&token), plan: self.0.plan.clone(), token }
    }
}

/// A signed document.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its position.
    pub position: Position,
    /// Its digest.
    pub digest: Digest,
    /// Its plan.
    pub plan: Plan,
    /// The JWS.
    pub token: String,
}

impl Document {
    /// Whether this report says that this document is in force.
    pub fn in_force(&self, report: &Report) -> bool {
        (report.epoch, report.seq, report.digest) == (self.position.epoch, self.position.seq, Some(self.digest))
    }

    /// Whether this report gives this outcome for this document.
    pub fn judged(&self, report: &Report, outcome: Outcome) -> bool {
        report.judged == Some(self.position) && report.outcome == outcome
    }
}

/// The digest of a token's payload.
pub fn digest_of(token: &str) -> Digest {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    Digest::of(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap())
}

/// Messages from a device, in order.
#[derive(Debug, Default)]
pub struct Heard {
    /// Reports.
    pub reports: Vec<(Instant, Report)>,
    /// Payloads of `status`.
    pub status: Vec<String>,
    /// `get`s.
    pub gets: Vec<(Instant, Get)>,
    /// Reports that could not be parsed, with the error.
    pub unreadable: Vec<String>,
    /// The answer to each `get`.
    pub answer: Option<String>,
    subacks: usize,
    sent: usize,
    acknowledged: usize,
}

impl Heard {
    /// Number of the issuer's messages that the broker has acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged
    }
}

/// The cloud's MQTT client; disconnected on drop.
pub struct Issuer {
    client: AsyncClient,
    topics: Topics,
    heard: Arc<Mutex<Heard>>,
    task: tokio::task::JoinHandle<()>,
}

impl Issuer {
    /// Connects and subscribes to one device's topics.
    pub async fn connect(pki: &Pki, broker: &Broker, device: &DeviceId) -> Self {
        // Brokers with a single listener trust a single authority.
        let authority = if broker.kind() == Kind::Mosquitto { &pki.cloud_ca } else { &pki.ca };
        let identity = authority.client(ISSUER_CN);
        let broker = broker.issuer_addr;
        let topics = Topics::new("care/v1", device);
        let mut options = MqttOptions::new(format!("issuer-for-{device}"), broker.ip().to_string(), broker.port());
        options.set_clean_session(false).set_keep_alive(Duration::from_secs(30)).set_max_packet_size(4 << 20, 4 << 20).set_inflight(1000);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(pki.client_tls(&identity)))));
        let (client, mut events) = AsyncClient::new(options, 4096);
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        let heard = Arc::new(Mutex::new(Heard::default()));
        let task = tokio::spawn({
            let (heard, client, topics) = (heard.clone(), client.clone(), topics.clone());
            async move {
                loop {
                    match events.poll().await {
                        Ok(Event::Incoming(Packet::ConnAck(_))) => {
                            for topic in [topics.report(), topics.status(), topics.get()] {
                                client.try_subscribe(topic, QoS::AtLeastOnce).unwrap();
                            }
                        }
                        Ok(Event::Incoming(Packet::SubAck(_))) => heard.lock().unwrap().subacks += 1,
                        Ok(Event::Incoming(Packet::PubAck(_))) => heard.lock().unwrap().acknowledged += 1,
                        Ok(Event::Incoming(Packet::Publish(publish))) => hear(&heard, &client, &topics, &publish),
                        Ok(_) => {}
                        // Some tests stop the broker for a while.
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            }
        });
        let issuer = Self { client, topics, heard, task };
        issuer.connected(3).await;
        issuer
    }

    /// Waits for so many SUBACKs since the start; each connection brings three.
    pub async fn connected(&self, subacks: usize) {
        until("the issuer to be subscribed", PATIENCE, || (self.heard().subacks >= subacks).then_some(())).await;
    }

    /// Publishes a payload and waits until the broker has acknowledged it.
    pub async fn publish(&self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        self.post(topic, retain, payload);
        let sent = self.heard().sent;
        until("the broker to take a PUBLISH", PATIENCE, || (self.heard().acknowledged >= sent).then_some(())).await;
    }

    /// Queues a payload for publishing.
    pub fn post(&self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        self.heard().sent += 1;
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload).unwrap();
    }

    /// Publishes a retained document.
    pub async fn publish_entitlement(&self, token: &str) {
        self.publish(&self.topics.entitlement(), true, token).await;
    }

    /// Publishes a retained keyset.
    pub async fn publish_keyset(&self, token: &str) {
        self.publish(&self.topics.keyset(), true, token).await;
    }

    /// Answers a nonce.
    pub async fn answer(&self, nonce: &str, token: &str) {
        let body = serde_json::json!({ "nonce": nonce, "token": token }).to_string();
        self.publish(&self.topics.answer(), false, body).await;
    }

    /// The device's topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// The received messages and the answer to each `get`. Do not hold the guard across an await.
    pub fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Number of reports received.
    pub fn mark(&self) -> usize {
        self.heard().reports.len()
    }

    /// The reports from index `mark` on.
    pub fn reports(&self, mark: usize) -> Vec<Report> {
        self.heard().reports.iter().skip(mark).map(|(_, report)| report.clone()).collect()
    }

    /// Waits for a matching report among all reports.
    pub async fn report(&self, what: impl fmt::Display, wanted: impl Fn(&Report) -> bool) -> Report {
        self.report_since(0, what, wanted).await
    }

    /// Waits for a matching report from index `mark` on.
    pub async fn report_since(&self, mark: usize, what: impl fmt::Display, wanted: impl Fn(&Report) -> bool) -> Report {
        self.report_within(mark, PATIENCE, what, wanted).await
    }

    /// The same with an explicit timeout.
    pub async fn report_within(
        &self,
        mark: usize,
        patience: Duration,
        what: impl fmt::Display,
        wanted: impl Fn(&Report) -> bool,
    ) -> Report {
        until(format!("a report of {what}"), patience, || {
            self.heard().reports.iter().skip(mark).map(|(_, report)| report).find(|report| wanted(report)).cloned()
        })
        .await
    }

    /// Waits for a report with this outcome for this document.
    pub async fn judged(&self, document: &Document, outcome: Outcome) -> Report {
        self.report(format!("{} {outcome}", document.position), |report| document.judged(report, outcome)).await
    }

    /// Waits until the newest report about the state in force names this document and this mode.
    pub async fn in_force(&self, document: &Document, mode: Mode) -> Report {
        let what = format!("{} in force as {mode}", document.position);
        until(what, PATIENCE, || {
            self.heard().reports.last().map(|(_, report)| report).filter(|r| document.in_force(r) && r.mode == mode).cloned()
        })
        .await
    }

    /// Waits for a `get` from index `mark` on.
    pub async fn get_since(&self, mark: usize) -> Get {
        until("a get", PATIENCE, || self.heard().gets.get(mark).map(|(_, get)| get.clone())).await
    }

    /// Number of `get`s received.
    pub fn gets(&self) -> usize {
        self.heard().gets.len()
    }

    /// Waits until the newest `status` payload is this.
    pub async fn status(&self, wanted: &str) {
        until(format!("status {wanted}"), PATIENCE, || self.heard().status.last().filter(|s| *s == wanted).map(drop)).await;
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            let heard = self.heard();
            eprintln!("--- the issuer heard status {:?}, {} gets and {} reports:", heard.status, heard.gets.len(), heard.reports.len());
            for (_, report) in heard.reports.iter().rev().take(40).rev() {
                eprintln!("    {}", serde_json::to_string(report).unwrap());
            }
            heard.unreadable.iter().for_each(|fault| eprintln!("    unreadable: {fault}"));
        }
    }
}

fn hear(heard: &Mutex<Heard>, client: &AsyncClient, topics: &Topics, publish: &Publish) {
    let mut heard = heard.lock().unwrap();
    let now = Instant::now();
    if publish.topic == topics.status() {
        heard.status.push(String::from_utf8_lossy(&publish.payload).into_owned());
    } else if publish.topic == topics.report() {
        match serde_json::from_slice(&publish.payload) {
            Ok(report) => heard.reports.push((now, report)),
            Err(e) => heard.unreadable.push(format!("report: {e}: {}", String::from_utf8_lossy(&publish.payload))),
        }
    } else if publish.topic == topics.get() {
        match serde_json::from_slice::<Get>(&publish.payload) {
            Ok(get) => {
                if let Some(token) = &heard.answer {
                    let body = serde_json::json!({ "nonce": get.nonce, "token": token }).to_string();
                    client.try_publish(topics.answer(), QoS::AtLeastOnce, false, body).unwrap();
                    heard.sent += 1;
                }
                heard.gets.push((now, get));
            }
            Err(e) => heard.unreadable.push(format!("get: {e}: {}", String::from_utf8_lossy(&publish.payload))),
        }
    }
}
