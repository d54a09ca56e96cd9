//! What is counted. Everything is prepared the same way however often an operation is repeated, so that the preparation
//! drops out of the difference: keys have fixed seeds, and each decision has an engine of its own.

use std::{collections::VecDeque, hint::black_box, time::Duration};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use care_engine::{
    Admission, Connection, CutFigures, CutProgress, Delivery, Engine, Event, Fetched, Generation, Message, Ports, Resource, Restored,
    Settings,
    trusted_time::{LATEST, Now},
};
use care_protocol::{
    Channel, DeviceId, Entitlement, Erased, Get, Key, Keyset, Lease, Mode, Outcome, Policy, Position, Reason, Report, Signer, Topic,
};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::rival;

/// The most repetitions of a run.
pub(crate) const MOST: usize = 33;
/// Trusted time, Unix seconds.
const NOW: u64 = 1_767_225_600;
const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Ed25519 alone, by ring: what every row below it contains once.
    Signature,
    /// A rival: `jsonwebtoken` reads and verifies the same token under a key that it is given.
    Jsonwebtoken,
    /// Ours, strictly, under the key that the token names, with its digest.
    Verification,
    /// A cancel, from the message to the report, through the record.
    Cancel,
    /// The document in force arrives again.
    Duplicate,
    /// An older document arrives.
    Stale,
}

impl Operation {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [Self::Signature, Self::Jsonwebtoken, Self::Verification, Self::Cancel, Self::Duplicate, Self::Stale];

    /// Its key in the results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Signature => "signature",
            Self::Jsonwebtoken => "jsonwebtoken",
            Self::Verification => "verification",
            Self::Cancel => "cancel",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
        }
    }

    /// Prepares all repetitions, and does so many of them.
    pub(crate) fn run(self, repetitions: usize) -> anyhow::Result<()> {
        let keys = Keys::fixed()?;
        let (before, in_force, cancel) =
            (keys.token(1, "premium", PREMIUM)?, keys.token(2, "premium", PREMIUM)?, keys.token(3, "free", FREE)?);
        match self {
            Self::Signature => {
                let (signed, signature) = cancel.rsplit_once('.').context("a token has dots")?;
                let signature = URL_SAFE_NO_PAD.decode(signature)?;
                let public = UnparsedPublicKey::new(&ED25519, keys.public()?);
                for _ in 0..repetitions {
                    ensure!(public.verify(black_box(signed.as_bytes()), black_box(&signature)).is_ok(), "the signature holds");
                }
            }
            Self::Jsonwebtoken => {
                let rival = rival::Verifier::new(&keys.public()?, "care", "CAM1")?;
                for _ in 0..repetitions {
                    black_box(rival.verify(black_box(&cancel))?);
                }
            }
            Self::Verification => {
                let (keyset, device) = (keys.keyset(), keys.device()?);
                for _ in 0..repetitions {
                    black_box(Entitlement::verify(black_box(cancel.as_bytes()), Some(&keyset), "care", &device)?);
                }
            }
            Self::Cancel => decide(&keys, &in_force, &cancel, Outcome::Applied, repetitions)?,
            Self::Duplicate => decide(&keys, &in_force, &in_force, Outcome::Duplicate, repetitions)?,
            Self::Stale => decide(&keys, &in_force, &before, Outcome::Stale, repetitions)?,
        }
        Ok(())
    }
}

/// Delivers a document to so many cameras on which another one is in force.
fn decide(keys: &Keys, in_force: &str, document: &str, outcome: Outcome, repetitions: usize) -> anyhow::Result<()> {
    let mut cameras = Vec::new();
    for _ in 0..MOST {
        let mut camera = Camera::new(keys)?;
        camera.deliver(Topic::Entitlement, in_force, true);
        ensure!(camera.world.judged == Some((Outcome::Applied, Mode::Paid)), "Premium was judged {:?}", camera.world.judged);
        cameras.push(camera);
    }
    for camera in cameras.iter_mut().take(repetitions) {
        camera.deliver(Topic::Entitlement, document, false);
        let judged = camera.world.judged.map(|(outcome, _)| outcome);
        ensure!(judged == Some(outcome), "the document was judged {judged:?}");
    }
    Ok(())
}

/// A root key and a signing key whose secrets everybody knows.
struct Keys {
    root: Signer,
    signer: Signer,
}

impl Keys {
    fn fixed() -> anyhow::Result<Self> {
        Ok(Self { root: signer("root", 1)?, signer: signer("2026-11", 2)? })
    }

    fn device(&self) -> anyhow::Result<DeviceId> {
        Ok("CAM1".parse()?)
    }

    fn public(&self) -> anyhow::Result<Vec<u8>> {
        Ok(URL_SAFE_NO_PAD.decode(self.signer.public_key().to_base64url())?)
    }

    fn keyset(&self) -> Keyset {
        let key = Key { public: self.signer.public_key(), not_before: NOW - 1000 };
        let keys = [(self.signer.kid().to_owned(), key)].into();
        Keyset { iss: "care".into(), version: 1, iat: NOW, keys, revoked: vec![], resets: vec![] }
    }

    fn token(&self, seq: u64, plan: &str, policy: Policy) -> anyhow::Result<String> {
        let entitlement = Entitlement {
            iss: "care".into(),
            aud: self.device()?,
            account: "acct-5b1f".into(),
            epoch: 1.try_into()?,
            seq: seq.try_into()?,
            plan: plan.parse()?,
            reason: if plan == "free" { Reason::Cancelled } else { Reason::Subscribed },
            channel: Channel::Portal,
            iat: NOW,
            lease: Lease { max_age_s: 172_800, not_after: NOW + 172_800 },
            policy,
            next: None,
            order: None,
            crit: vec![],
        };
        Ok(entitlement.sign(&self.signer))
    }
}

/// A key of this seed, as PKCS#8 (RFC 8410).
fn signer(kid: &str, seed: u8) -> anyhow::Result<Signer> {
    let head = [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
    Ok(Signer::from_pkcs8(kid, &[&head[..], &[seed; 32]].concat())?)
}

/// An engine, and what it acts on.
struct Camera {
    engine: Engine,
    world: World,
}

/// Everything succeeds at once and takes no time.
struct World {
    now: Now,
    events: VecDeque<Event>,
    cuts: u64,
    judged: Option<(Outcome, Mode)>,
}

impl Camera {
    /// Connected, with a keyset.
    fn new(keys: &Keys) -> anyhow::Result<Self> {
        let now = Now { boot: Duration::from_secs(100), trusted: Duration::from_secs(NOW), confirmed: true, ..Now::default() };
        let mut nonces = 0;
        let settings = Settings {
            device: keys.device()?,
            issuer: "care".into(),
            roots: [("root".to_owned(), keys.root.public_key())].into(),
            min_keyset_version: 1,
            free: FREE,
            agent: "bench".into(),
            nonce: Box::new(move || {
                nonces += 1;
                format!("nonce-{nonces:022}")
            }),
        };
        let engine = Engine::new(settings, Restored::Empty, now);
        let mut camera = Self { engine, world: World { now, events: VecDeque::new(), cuts: 0, judged: None } };
        camera.engine.start(&mut camera.world);
        camera.handle(Event::Connected(Connection(1)));
        camera.handle(Event::SubscribeSent(Connection(1)));
        camera.handle(Event::Subscribed(Connection(1)));
        camera.deliver(Topic::Keyset, &keys.keyset().sign(&keys.root), true);
        Ok(camera)
    }

    fn deliver(&mut self, topic: Topic, token: &str, retain: bool) {
        self.handle(Event::Message(Message {
            connection: Connection(1),
            topic,
            payload: Bytes::copy_from_slice(token.as_bytes()),
            retain,
            dup: false,
            received: self.world.now.boot,
            delivery: Some(Delivery(1)),
            valid_until: LATEST,
        }));
    }

    /// Handles an event and everything that follows from it.
    fn handle(&mut self, event: Event) {
        self.world.events.push_back(event);
        while let Some(event) = self.world.events.pop_front() {
            self.engine.handle(event, &mut self.world);
        }
    }
}

impl Ports for World {
    fn now(&mut self) -> Now {
        self.now
    }
    fn cut(&mut self, _keep: Option<(Policy, Position)>) -> CutProgress {
        self.cuts += 1;
        let erased = Erased { clips: 0, bytes: 0 };
        CutProgress::Done(CutFigures { generation: Generation(self.cuts), transfers: 1, bytes_after: Some(0), erased })
    }
    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        black_box(record);
        self.events.push_back(Event::Written { ticket });
    }
    fn publish(&mut self, ticket: u64, report: Report) {
        if report.judged.is_some() {
            self.judged = Some((report.outcome, report.mode));
        }
        black_box(report);
        self.events.push_back(Event::Published { ticket });
    }
    fn fetch(&mut self, resource: Resource) {
        self.events.push_back(Event::Fetched(resource, Fetched::Missing));
    }
    fn raise_time(&mut self, issued: Duration) {
        self.now.trusted = self.now.trusted.max(issued);
    }
    fn set_time(&mut self, time: Duration) {
        self.now.trusted = time;
    }
    fn open(&mut self, admission: Admission) {
        black_box(admission);
    }
    fn retry_refused(&mut self) {}
    fn forget(&mut self) {}
    fn acknowledge(&mut self, delivery: Delivery) {
        black_box(delivery);
    }
    fn get(&mut self, get: Get) {
        black_box(get);
    }
    fn alarm(&mut self, _position: Position) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_comes_to_its_end() {
        for operation in Operation::ALL {
            operation.run(1).unwrap();
        }
    }

    #[test]
    fn both_refuse_a_changed_token() {
        let keys = Keys::fixed().unwrap();
        let token = keys.token(3, "free", FREE).unwrap();
        let rival = rival::Verifier::new(&keys.public().unwrap(), "care", "CAM1").unwrap();
        let ours = |token: &str| Entitlement::verify(token.as_bytes(), Some(&keys.keyset()), "care", &keys.device().unwrap()).is_ok();
        assert!(ours(&token) && rival.verify(&token).is_ok());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let changed = format!("{signed}.{first}{}", &signature[1..]);
        assert!(!ours(&changed) && rival.verify(&changed).is_err());
    }
}
