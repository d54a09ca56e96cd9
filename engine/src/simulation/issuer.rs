//! The cloud's side of a simulation: good and bad documents and keysets. Position, variant and defect define a
//! document, so each is signed and verified once.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use care_protocol::{Channel, Digest, Entitlement, Key, Keyset, Lease, Next, Policy, Position, Reason, Reset, Signer};
use fastrand::Rng;

pub(super) use crate::tests::FREE;
use crate::{Settings, tests::settings};

pub(super) const T0: u64 = 1_767_225_600;
/// When the certificates of broker and API expire.
pub(super) const CERTIFICATES_END: Duration = Duration::from_secs(T0 + 300 * 86_400);
/// Number of document variants; 0 is Premium and 1 is Free.
pub(super) const VARIANTS: u8 = 96;
/// Number of kinds of defects.
pub(super) const DEFECTS: u8 = 7;
pub(super) const CLOSED: Policy =
    Policy { clips: false, history_h: 0, clip_max_s: 0, cooldown_s: i32::MAX as u32, max_height: 0, snapshots: false };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };
const POLICIES: [(&str, Policy); 6] = [
    ("free", FREE),
    ("free", Policy { history_h: 48, ..FREE }),
    ("trial", Policy { clips: true, history_h: 6, clip_max_s: 8, cooldown_s: 600, max_height: 360, snapshots: true }),
    ("plus", Policy { clips: true, history_h: 336, clip_max_s: 60, cooldown_s: 30, max_height: 1080, snapshots: true }),
    ("odd", Policy { clips: true, history_h: 9999, clip_max_s: 59, cooldown_s: 30, max_height: 1080, snapshots: false }),
    ("premium", PREMIUM),
];

/// Whether `after` allows less than `before` in any limit.
pub(super) fn takes(after: &Policy, before: &Policy) -> bool {
    let flags = before.clips && !after.clips || before.snapshots && !after.snapshots;
    let limits = [(after.history_h, before.history_h), (after.clip_max_s, before.clip_max_s), (after.max_height, before.max_height)];
    flags || limits.iter().any(|(after, before)| after < before) || after.cooldown_s > before.cooldown_s
}

/// The limits that both policies allow.
pub(super) fn both(a: Policy, b: Policy) -> Policy {
    Policy {
        clips: a.clips & b.clips,
        snapshots: a.snapshots & b.snapshots,
        history_h: a.history_h.min(b.history_h),
        clip_max_s: a.clip_max_s.min(b.clip_max_s),
        max_height: a.max_height.min(b.max_height),
        cooldown_s: a.cooldown_s.max(b.cooldown_s),
    }
}

/// A document, and the facts by which the oracle judges it.
#[derive(Debug)]
pub(super) struct Doc {
    pub(super) token: String,
    /// Signed by a known key, for this camera, and readable.
    pub(super) good: bool,
    /// The lowest keyset version that contains its key.
    pub(super) needs_version: u64,
    pub(super) position: Position,
    pub(super) digest: Digest,
    pub(super) account: String,
    pub(super) policy: Policy,
    pub(super) next: Option<(u64, Policy)>,
    pub(super) iat: u64,
    pub(super) max_age_s: u64,
    pub(super) not_after: u64,
    pub(super) paid: bool,
    pub(super) next_paid: bool,
}

/// Epoch and seq, variant, and defect.
type Contents = (u64, u64, u8, Option<u8>);
/// Version, iat, and the resets as id, epoch, seq and time: everything in which keysets differ.
type Edition = (u64, u64, Vec<(u64, u64, u64, Option<u64>)>);

/// The cloud's keys, and all documents signed so far.
pub(super) struct Issuer {
    root: Signer,
    first: Signer,
    /// In keysets from version 2 on.
    second: Signer,
    stranger: Signer,
    issued: RefCell<HashMap<Contents, Rc<Doc>>>,
    keysets: RefCell<HashMap<Edition, String>>,
}

impl Issuer {
    pub(super) fn new() -> Self {
        // RFC 8410: the same keys in every run.
        let signer = |kid, seed| {
            let head = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
            Signer::from_pkcs8(kid, &[&head[..], &[seed; 32]].concat()).unwrap()
        };
        let (root, first, second, stranger) = (signer("root", 1), signer("k1", 2), signer("k2", 3), signer("k1", 4));
        Self { root, first, second, stranger, issued: RefCell::default(), keysets: RefCell::default() }
    }

    pub(super) fn settings(&self) -> Settings {
        settings(&self.root)
    }

    pub(super) fn keyset(&self, version: u64, resets: Vec<Reset>) -> Keyset {
        let key = |signer: &Signer| Key { public: signer.public_key(), not_before: 0 };
        let mut keys = std::collections::BTreeMap::from([("k1".to_owned(), key(&self.first))]);
        if version >= 2 {
            keys.insert("k2".to_owned(), key(&self.second));
        }
        Keyset { iss: "care".into(), version, iat: T0, keys, revoked: vec![], resets }
    }

    pub(super) fn sign_keyset(&self, keyset: &Keyset) -> String {
        let resets = keyset.resets.iter().map(|reset| (reset.id, reset.epoch, reset.seq, reset.time)).collect();
        self.keysets.borrow_mut().entry((keyset.version, keyset.iat, resets)).or_insert_with(|| keyset.sign(&self.root)).clone()
    }

    /// Creates a document; `defect` selects what is wrong with it.
    pub(super) fn issue(&self, epoch: u64, seq: u64, variant: u8, defect: Option<u8>) -> Rc<Doc> {
        let make = || Rc::new(self.make(epoch, seq, variant, defect));
        self.issued.borrow_mut().entry((epoch, seq, variant, defect)).or_insert_with(make).clone()
    }

    fn make(&self, epoch: u64, seq: u64, variant: u8, defect: Option<u8>) -> Doc {
        let long = Lease { max_age_s: 1_000_000_000, not_after: T0 + 1_000_000_000 };
        match variant {
            0 => return self.sign(entitlement(epoch, seq, T0, "premium", PREMIUM, long), defect, false),
            1 => return self.sign(entitlement(epoch, seq, T0, "free", FREE, long), defect, false),
            _ => {}
        }
        let random = &mut Rng::with_seed(variant.into());
        let pick = |random: &mut Rng| POLICIES[random.usize(0..POLICIES.len())];
        let (plan, policy) = pick(random);
        let iat = T0 + [0, 0, 0, 60, 4000, 0, 0, 100 * 86_400][random.usize(0..8)];
        let lease = match random.u32(0..5) {
            0 => Lease { max_age_s: [20, 600][random.usize(0..2)], ..long },
            1 => Lease { not_after: T0 + [30, 5000][random.usize(0..2)], ..long },
            2 => Lease { max_age_s: 10_000, not_after: T0 + 40_000 },
            _ => long,
        };
        let mut document = entitlement(epoch, seq, iat, plan, policy, lease);
        match random.u32(0..8) {
            0 | 1 => {
                let (plan, policy) = pick(random);
                let effective_at = T0 + [0, 20, 900, 5000, 20_000][random.usize(0..5)];
                document.next = Some(Next { plan: plan.parse().unwrap(), effective_at, reason: Reason::Downgraded, policy });
            }
            2 => {
                document.reason = Reason::Unbound;
                document.policy = Policy { clips: false, snapshots: false, ..policy };
            }
            3 if random.bool() => document.account = "thief".into(),
            _ => {}
        }
        let rotated = random.u32(0..6) == 0;
        self.sign(document, defect, rotated)
    }

    fn sign(&self, mut document: Entitlement, defect: Option<u8>, rotated: bool) -> Doc {
        match defect {
            Some(0) => document.aud = "OTHER".parse().unwrap(),
            Some(1) => document.iss = "someone".into(),
            Some(2) => document.crit = vec!["warp".into()],
            Some(5) => document.iat *= 1000,
            Some(6) => document.iat = CERTIFICATES_END.as_secs() + 1,
            _ => {}
        }
        let signer = match defect {
            Some(3) => &self.stranger,
            _ if rotated => &self.second,
            _ => &self.first,
        };
        let mut token = document.sign(signer);
        if defect == Some(4) {
            token.truncate(token.len() / 2);
        }
        let free = |plan: &care_protocol::Plan| plan.as_str() == "free";
        Doc {
            digest: Digest::of(&serde_json::to_vec(&document).unwrap()),
            token,
            good: defect.is_none(),
            needs_version: match defect {
                Some(4) => 0,
                Some(3) => 1,
                _ => 1 + u64::from(rotated),
            },
            position: document.position(),
            account: document.account,
            policy: document.policy,
            next_paid: document.next.as_ref().is_some_and(|next| !free(&next.plan)),
            next: document.next.map(|next| (next.effective_at, next.policy)),
            iat: document.iat,
            max_age_s: document.lease.max_age_s,
            not_after: document.lease.not_after,
            paid: !free(&document.plan) && document.reason != Reason::Unbound,
        }
    }
}

fn entitlement(epoch: u64, seq: u64, iat: u64, plan: &str, policy: Policy, lease: Lease) -> Entitlement {
    Entitlement {
        iss: "care".into(),
        aud: "CAM1".parse().unwrap(),
        account: format!("account {epoch}"),
        epoch: epoch.try_into().unwrap(),
        seq: seq.try_into().unwrap(),
        plan: plan.parse().unwrap(),
        reason: Reason::Subscribed,
        channel: Channel::Portal,
        iat,
        lease,
        policy,
        next: None,
        order: None,
        crit: vec![],
    }
}
