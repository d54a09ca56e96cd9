//! Cameras that are none: each connects to the broker with a certificate of its own, judges documents by the contract's rules
//! as far as a plan goes (signature, order, lease, `next`, reset), and reports. They film nothing and upload nothing. They show
//! what an account change does to many cameras; how the agent does it is the agent's own business.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use care_protocol::{
    Answer, Cause, Cut, DeviceId, Digest, Entitlement, Erased, Get, Keyset, Mode, Outcome, Plan, Position, Reason, Reject, Report,
    RootKeys, Topic, Topics, VerifiedEntitlement,
};
use jiff::Timestamp;
use rumqttc::{
    AsyncClient, Event, LastWill, MqttOptions, NetworkOptions, Packet, Publish, QoS, SubscribeFilter, TlsConfiguration, Transport,
};
use thiserror::Error;
use tokio::task::JoinSet;

use crate::{clock::now_s, storage::keys::ISSUER, transport::broker::BrokerAddress};

const QUEUE: usize = 16;
const RECONNECT: Duration = Duration::from_millis(500);

/// The simulated cameras of this cloud. They end with it.
#[derive(Debug, Default)]
pub struct Fleet {
    tasks: Mutex<JoinSet<()>>,
    size: AtomicUsize,
    named: AtomicU32,
}

impl Fleet {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.size.load(Ordering::SeqCst)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An id that none has yet.
    pub fn name(&self) -> DeviceId {
        let number = self.named.fetch_add(1, Ordering::SeqCst);
        // The second of the start is part of the name: after a restart they are others.
        format!("SIM{:X}-{number:02}", now_s()).parse().expect("capitals, digits and a dash")
    }

    /// Lets one connect, and stay connected until [`Fleet::stop`].
    pub fn connect(&self, device: DeviceId, prefix: &str, roots: RootKeys, broker: BrokerAddress) {
        let camera = Camera::new(device, prefix, roots);
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(run(camera, broker));
        self.size.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends them all; how many that were.
    pub async fn stop(&self) -> usize {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        self.size.swap(0, Ordering::SeqCst)
    }
}

/// Why a session ended; it is begun again.
#[derive(Debug, Error)]
enum SessionError {
    #[error(transparent)]
    Connection(#[from] rumqttc::ConnectionError),
    #[error(transparent)]
    Client(#[from] rumqttc::ClientError),
}

/// Keeps the camera connected for ever.
async fn run(mut camera: Camera, broker: BrokerAddress) {
    loop {
        let Err(e) = session(&mut camera, &broker).await;
        tracing::debug!(device = %camera.device, "simulated: {e}");
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn session(camera: &mut Camera, broker: &BrokerAddress) -> Result<std::convert::Infallible, SessionError> {
    let topics = camera.topics.clone();
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(false);
    options.set_last_will(LastWill::new(topics.status(), "offline", QoS::AtLeastOnce, true));
    if let Some(tls) = &broker.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut events) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    loop {
        let due = camera.due();
        let event = tokio::select! {
            event = events.poll() => event?,
            () = tokio::time::sleep_until(due.into()) => {
                if let Some(report) = camera.pass(now_s()) {
                    client.try_publish(topics.report(), QoS::AtLeastOnce, true, to_bytes(&report))?;
                }
                continue;
            }
        };
        match event {
            Event::Incoming(Packet::ConnAck(_)) => {
                let filters = [topics.keyset(), topics.entitlement(), topics.answer()];
                client.try_subscribe_many(filters.map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce)))?;
            }
            Event::Incoming(Packet::SubAck(_)) => {
                client.try_publish(topics.status(), QoS::AtLeastOnce, true, "online")?;
                client.try_publish(topics.get(), QoS::AtLeastOnce, false, to_bytes(&camera.get()))?;
            }
            Event::Incoming(Packet::Publish(publish)) => {
                let taken = camera.take(&publish, now_s());
                if let Some(report) = taken.report {
                    client.try_publish(topics.report(), QoS::AtLeastOnce, true, to_bytes(&report))?;
                }
                if taken.ask {
                    client.try_publish(topics.get(), QoS::AtLeastOnce, false, to_bytes(&camera.get()))?;
                }
            }
            _ => {}
        }
    }
}

fn to_bytes(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

/// What a message leads to.
#[derive(Debug, Default)]
struct Taken {
    report: Option<Report>,
    /// The camera wants to be told again.
    ask: bool,
}

/// A camera's memory. No clock and no socket: seconds are given.
#[derive(Debug)]
struct Camera {
    device: DeviceId,
    topics: Topics,
    roots: RootKeys,
    keyset: Option<Keyset>,
    reset_id: u64,
    /// The highest position, with its digest unless a reset made it.
    ratchet: (Position, Option<Digest>),
    in_force: Option<InForce>,
}

#[derive(Debug)]
struct InForce {
    document: VerifiedEntitlement,
    /// When its lease ends, Unix seconds.
    lease_end: u64,
    lease_over: bool,
    next_done: bool,
}

impl Camera {
    fn new(device: DeviceId, prefix: &str, roots: RootKeys) -> Self {
        let topics = Topics::new(prefix, &device);
        Self { device, topics, roots, keyset: None, reset_id: 0, ratchet: (Position::NONE, None), in_force: None }
    }

    fn get(&self) -> Get {
        let Position { epoch, seq } = self.ratchet.0;
        Get { nonce: uuid::Uuid::new_v4().simple().to_string(), epoch, seq }
    }

    fn take(&mut self, publish: &Publish, now: u64) -> Taken {
        match self.topics.classify(&publish.topic) {
            Some(Topic::Keyset) => self.take_keyset(&publish.payload),
            Some(Topic::Entitlement) => self.judge(&publish.payload, now),
            // Nothing waits for the answer but the document in it.
            Some(Topic::Answer) => match Answer::read(&publish.payload) {
                Ok(answer) => self.judge(answer.token.as_bytes(), now),
                Err(_) => Taken::default(),
            },
            None => Taken::default(),
        }
    }

    fn take_keyset(&mut self, token: &[u8]) -> Taken {
        let Ok(verified) = Keyset::verify(token, &self.roots, ISSUER) else { return Taken::default() };
        let known = self.keyset.as_ref().map_or(0, |keyset| keyset.version);
        if verified.keyset.version <= known {
            return Taken::default();
        }
        let applied = self.reset_id;
        for reset in verified.keyset.resets_for(&self.device).into_iter().filter(|reset| reset.id > applied) {
            self.reset_id = reset.id;
            // It never raises, and what is in force stays in force.
            if reset.position() < self.ratchet.0 {
                self.ratchet = (reset.position(), None);
            }
        }
        self.keyset = Some(verified.keyset);
        // What came before the keyset could not be judged.
        Taken { report: None, ask: known == 0 }
    }

    fn judge(&mut self, token: &[u8], now: u64) -> Taken {
        if token.is_empty() {
            return Taken { report: None, ask: true };
        }
        let claimed = Entitlement::claimed_position(token);
        let verified = match Entitlement::verify(token, self.keyset.as_ref(), ISSUER, &self.device) {
            Ok(verified) => verified,
            // The retained keyset comes on the same connection: then it asks.
            Err(Reject::UnknownKey(_)) if self.keyset.is_none() => return Taken::default(),
            Err(e) => return Taken { report: Some(self.report(Outcome::Rejected, e.code(), Cause::Document, claimed, now)), ask: false },
        };
        let position = verified.entitlement.position();
        let known = |at: Position, digest: Option<Digest>| at == position && digest == Some(verified.digest);
        let in_force = self.in_force.as_ref().map(|in_force| &in_force.document);
        let duplicate = known(self.ratchet.0, self.ratchet.1) || in_force.is_some_and(|d| known(d.entitlement.position(), Some(d.digest)));
        let (outcome, reason) = match position.cmp(&self.ratchet.0) {
            _ if duplicate => (Outcome::Duplicate, "duplicate".to_owned()),
            std::cmp::Ordering::Greater => (Outcome::Applied, verified.entitlement.reason.to_string()),
            std::cmp::Ordering::Equal if self.ratchet.1.is_some() => (Outcome::Conflict, "conflict".to_owned()),
            std::cmp::Ordering::Equal | std::cmp::Ordering::Less => (Outcome::Stale, "stale".to_owned()),
        };
        if outcome == Outcome::Applied {
            let lease = verified.entitlement.lease;
            let used = now.saturating_sub(verified.entitlement.iat);
            let lease_end = lease.not_after.min((now + lease.max_age_s).saturating_sub(used));
            self.ratchet = (position, Some(verified.digest));
            self.in_force = Some(InForce { document: verified, lease_end, lease_over: lease_end <= now, next_done: false });
        }
        Taken { report: Some(self.report(outcome, &reason, Cause::Document, Some(position), now)), ask: false }
    }

    /// When something is to be done by itself.
    fn due(&self) -> Instant {
        let far = Duration::from_secs(3600);
        let Some(in_force) = &self.in_force else { return Instant::now() + far };
        let next = in_force.document.entitlement.next.as_ref().filter(|_| !in_force.next_done).map(|next| next.effective_at);
        let lease = Some(in_force.lease_end).filter(|_| !in_force.lease_over);
        let wait = next.into_iter().chain(lease).min().map(|at| Duration::from_secs(at.saturating_sub(now_s())));
        Instant::now() + wait.map_or(far, |wait| wait.min(far))
    }

    /// Does what is due at `now`: `next`, or the end of the lease.
    fn pass(&mut self, now: u64) -> Option<Report> {
        let in_force = self.in_force.as_mut()?;
        let next = in_force.document.entitlement.next.clone().filter(|next| !in_force.next_done && next.effective_at <= now);
        if let Some(next) = next {
            in_force.next_done = true;
            return Some(self.report(Outcome::Applied, next.reason.as_str(), Cause::Next, None, now));
        }
        if in_force.lease_over || now < in_force.lease_end {
            return None;
        }
        in_force.lease_over = true;
        Some(self.report(Outcome::Applied, "lease", Cause::Lease, None, now))
    }

    fn plan(&self) -> Option<Plan> {
        let in_force = self.in_force.as_ref()?;
        let document = &in_force.document.entitlement;
        Some(document.next.as_ref().filter(|_| in_force.next_done).map_or_else(|| document.plan.clone(), |next| next.plan.clone()))
    }

    fn mode(&self) -> Mode {
        match (&self.in_force, self.plan()) {
            (Some(in_force), _) if in_force.document.entitlement.reason == Reason::Unbound => Mode::Unbound,
            (Some(in_force), Some(plan)) if in_force.lease_over || plan.is_free() => Mode::Free,
            (Some(_), Some(_)) => Mode::Paid,
            _ => Mode::Unbound,
        }
    }

    fn report(&self, outcome: Outcome, reason: &str, cause: Cause, judged: Option<Position>, now: u64) -> Report {
        let position = self.in_force.as_ref().map_or(Position::NONE, |in_force| in_force.document.entitlement.position());
        Report {
            device: self.device.clone(),
            outcome,
            reason: reason.to_owned(),
            detail: None,
            cause,
            judged,
            epoch: position.epoch,
            seq: position.seq,
            digest: self.in_force.as_ref().map(|in_force| in_force.document.digest),
            plan: self.plan(),
            mode: self.mode(),
            // It has no flash: after a restart it is another camera.
            persisted: false,
            keyset: self.keyset.as_ref().map_or(0, |keyset| keyset.version),
            cut: Cut::default(),
            erased: Erased::default(),
            at: Timestamp::from_second(i64::try_from(now).unwrap_or(0)).unwrap_or_default(),
            agent: concat!("simulated-", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use care_protocol::{Channel, Key, Lease, Next, Policy, Reset, Signer};

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct World {
        root: Signer,
        signer: Signer,
        camera: Camera,
    }

    impl World {
        fn new() -> Self {
            let key = |kid: &str| Signer::from_pkcs8(kid, &Signer::generate()).unwrap();
            let (root, signer) = (key("root"), key("care"));
            let roots = RootKeys::from([("root".to_owned(), root.public_key())]);
            let camera = Camera::new("SIM".parse().unwrap(), "care/v1", roots);
            let mut world = Self { root, signer, camera };
            world.keyset(1, vec![]);
            world
        }

        fn keyset(&mut self, version: u64, resets: Vec<Reset>) -> Taken {
            let keys = BTreeMap::from([("care".to_owned(), Key { public: self.signer.public_key(), not_before: 0 })]);
            let keyset = Keyset { iss: ISSUER.into(), version, iat: NOW, keys, revoked: vec![], resets };
            self.camera.take_keyset(keyset.sign(&self.root).as_bytes())
        }

        fn document(&self, seq: u64, plan: &str) -> Entitlement {
            Entitlement {
                iss: ISSUER.into(),
                aud: self.camera.device.clone(),
                account: "acct".into(),
                epoch: 1.try_into().unwrap(),
                seq: seq.try_into().unwrap(),
                plan: plan.parse().unwrap(),
                reason: Reason::Subscribed,
                channel: Channel::Portal,
                iat: NOW,
                lease: Lease { max_age_s: 100, not_after: NOW + 100 },
                policy: Policy::CLOSED,
                next: None,
                order: None,
                crit: vec![],
            }
        }

        fn judge(&mut self, document: &Entitlement) -> Report {
            let token = document.sign(&self.signer);
            self.camera.judge(token.as_bytes(), NOW).report.unwrap()
        }
    }

    #[test]
    fn the_order_of_documents_is_the_contracts() {
        let mut world = World::new();
        let (first, second) = (world.document(1, "plus"), world.document(2, "premium"));
        assert_eq!(world.judge(&second).outcome, Outcome::Applied);
        assert_eq!(world.judge(&second).outcome, Outcome::Duplicate);
        assert_eq!(world.judge(&first).outcome, Outcome::Stale);
        let other = Entitlement { plan: "plus".parse().unwrap(), ..second };
        let conflict = world.judge(&other);
        assert_eq!((conflict.outcome, conflict.plan.unwrap().as_str(), conflict.mode), (Outcome::Conflict, "premium", Mode::Paid));
        let unbound = Entitlement { reason: Reason::Unbound, ..world.document(3, "free") };
        assert_eq!(world.judge(&unbound).mode, Mode::Unbound);
    }

    #[test]
    fn next_and_the_leases_end_are_done_once_and_a_duplicate_restores_nothing() {
        let mut world = World::new();
        let next = Next { plan: Plan::free(), effective_at: NOW + 10, reason: Reason::TrialEnded, policy: Policy::CLOSED };
        let document = Entitlement { next: Some(next), ..world.document(1, "premium") };
        assert_eq!(world.judge(&document).mode, Mode::Paid);
        assert!(world.camera.pass(NOW + 9).is_none());
        let report = world.camera.pass(NOW + 10).unwrap();
        assert_eq!((report.cause, report.reason.as_str(), report.mode, report.judged), (Cause::Next, "trial_ended", Mode::Free, None));
        assert!(world.camera.pass(NOW + 10).is_none());
        let again = world.judge(&document);
        assert_eq!((again.outcome, again.mode), (Outcome::Duplicate, Mode::Free));

        let paid = world.document(2, "premium");
        world.judge(&paid);
        assert!(world.camera.pass(NOW + 99).is_none());
        let over = world.camera.pass(NOW + 100).unwrap();
        assert_eq!((over.cause, over.mode, over.plan.unwrap().as_str()), (Cause::Lease, Mode::Free, "premium"));
        assert!(world.camera.pass(NOW + 200).is_none());
    }

    #[test]
    fn a_reset_lowers_the_ratchet_and_leaves_in_force_what_is() {
        let mut world = World::new();
        let (first, second, third) = (world.document(1, "plus"), world.document(2, "plus"), world.document(3, "premium"));
        world.judge(&third);
        assert_eq!(world.judge(&second).outcome, Outcome::Stale);
        let reset = |id, seq| Reset { id, aud: "SIM".into(), epoch: 1, seq, time: None };
        world.keyset(2, vec![reset(1, 1)]);
        let again = world.judge(&third);
        assert_eq!((again.outcome, again.mode, again.keyset), (Outcome::Duplicate, Mode::Paid, 2));
        assert_eq!(world.judge(&first).outcome, Outcome::Stale, "what it was lowered to is not above it");
        assert_eq!(world.judge(&second).outcome, Outcome::Applied);
        // Neither an old keyset nor an old reset lowers again, and none raises.
        for (version, resets) in [(2, vec![reset(2, 0)]), (3, vec![reset(1, 0)]), (4, vec![reset(3, 9)])] {
            world.keyset(version, resets);
            assert_eq!((world.judge(&first).outcome, world.camera.ratchet.0.seq), (Outcome::Stale, 2), "keyset {version}");
        }
    }
}
