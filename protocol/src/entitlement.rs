//! Entitlements: the signed documents that state a camera's policy now and its next change
//! (`docs/protocol.md#entitlement`). The cloud signs them with [`Entitlement::sign`], the camera checks them with
//! [`Entitlement::verify`]. The engine, not this module, judges their place in the order of documents.

use serde::{Deserialize, Serialize};

use crate::{
    DeviceId, Digest, Epoch, Keyset, MAX_INTEGER, Plan, Policy, Position, Reject, Seq, Signer,
    json::{self, Object},
    jws::Unverified,
};

/// The largest entitlement JWS, bytes: 8 KiB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
const TYP: &str = "care-entitlement+jws";

/// What `crit` may name: every top-level field that this crate reads.
const KNOWN_FIELDS: [&str; 14] =
    ["iss", "aud", "account", "epoch", "seq", "plan", "reason", "channel", "iat", "lease", "policy", "next", "order", "crit"];

macro_rules! names {
    ($(#[$doc:meta])* $type:ident { $($(#[$vdoc:meta])* $variant:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $type { $($(#[$vdoc])* $variant),+ }

        impl $type {
            /// Every value, in the order of `docs/protocol.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            fn read(name: &str) -> Result<Self, Reject> {
                Self::ALL.iter().copied().find(|value| value.as_str() == name)
                    .ok_or_else(|| Reject::OutOfRange(format!(concat!(stringify!($type), " {:?} is not known"), name)))
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// Why a document was issued.
    Reason {
        /// A paid plan began.
        Subscribed = "subscribed",
        /// The plan is a higher one.
        Upgraded = "upgraded",
        /// The plan is a lower one.
        Downgraded = "downgraded",
        /// The owner cancelled.
        Cancelled = "cancelled",
        /// The same plan has a new lease.
        Renewed = "renewed",
        /// A trial began.
        TrialStarted = "trial_started",
        /// A trial ended.
        TrialEnded = "trial_ended",
        /// A payment failed.
        PaymentFailed = "payment_failed",
        /// A failed payment was made after all.
        PaymentRecovered = "payment_recovered",
        /// The owner was given the money back.
        Refunded = "refunded",
        /// Premium has no seat left for this camera.
        SeatLimit = "seat_limit",
        /// The camera was bound to an account.
        Bound = "bound",
        /// The camera belongs to no account.
        Unbound = "unbound",
    }
}

names! {
    /// Where the subscription was bought.
    Channel {
        /// On the web portal.
        Portal = "portal",
        /// In Apple's store.
        AppStore = "app_store",
        /// In Google's store.
        PlayStore = "play_store",
    }
}

names! {
    /// How money was refunded.
    RefundKind {
        /// To the payer.
        Refund = "refund",
        /// On the next bill.
        Credit = "credit",
    }
}

/// How long a document may be trusted without news from the cloud (`docs/protocol.md#lease`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lease {
    /// Seconds after receipt, at least 1.
    pub max_age_s: u64,
    /// When it ends at the latest, Unix seconds.
    pub not_after: u64,
}

/// A change that takes effect later (`docs/protocol.md#next`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Next {
    /// The plan then.
    pub plan: Plan,
    /// When it takes effect, Unix seconds of trusted time.
    pub effective_at: u64,
    /// Why it was announced.
    pub reason: Reason,
    /// The policy then.
    pub policy: Policy,
}

/// The order behind a change and the refund: for people, never a reason to delay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The order id that support asks for.
    pub id: String,
    /// The refund.
    pub refund: Refund,
}

/// A refunded amount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refund {
    /// To the payer or on the next bill.
    pub kind: RefundKind,
    /// The amount in the currency's minor unit (cents).
    pub amount_minor: u64,
    /// The currency's ISO 4217 code.
    pub currency: String,
}

/// The whole state of a camera's plan, never a patch. Integers are at most [`MAX_INTEGER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entitlement {
    /// The issuer.
    pub iss: String,
    /// The device it is for.
    pub aud: DeviceId,
    /// The account, opaque.
    pub account: String,
    /// The binding epoch.
    pub epoch: Epoch,
    /// The sequence.
    pub seq: Seq,
    /// The plan's name.
    pub plan: Plan,
    /// Why it was issued.
    pub reason: Reason,
    /// Where the subscription was bought.
    pub channel: Channel,
    /// When it was issued, Unix seconds.
    pub iat: u64,
    /// How long it may be trusted.
    pub lease: Lease,
    /// The limits.
    pub policy: Policy,
    /// The next change, if one is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// The order and its refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<Order>,
    /// Names of top-level fields that a device must know to accept the document.
    pub crit: Vec<String>,
}

/// An entitlement whose signature, issuer, device and fields have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedEntitlement {
    /// Its content.
    pub entitlement: Entitlement,
    /// Its digest: which document it is, whatever key signed it.
    pub digest: Digest,
    /// The key that verified it.
    pub kid: String,
    /// The JWS as it arrived.
    pub token: String,
}

impl Entitlement {
    /// Checks a token in the order of `docs/protocol.md#judgement`: size, form, header, key, signature, claims and
    /// `crit`.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn verify(token: &[u8], keyset: Option<&Keyset>, issuer: &str, device: &DeviceId) -> Result<VerifiedEntitlement, Reject> {
        let jws = Unverified::parse(token, TYP, MAX_TOKEN_BYTES)?;
        let kid = jws.kid.clone();
        let key = keyset.ok_or_else(|| Reject::UnknownKey(kid.clone()))?.key(&kid)?;
        let payload = jws.verify(&key.public)?;
        let entitlement = Self::read(&json::object(&payload)?, issuer, device)?;
        if entitlement.iat < key.not_before {
            return Err(Reject::KeyNotYetValid { iat: entitlement.iat, not_before: key.not_before });
        }
        if let Some(name) = entitlement.crit.iter().find(|name| !KNOWN_FIELDS.contains(&name.as_str())) {
            return Err(Reject::Unsupported(name.clone()));
        }
        let token = String::from_utf8(token.to_vec()).map_err(|_| Reject::BadForm("not UTF-8".into()))?;
        Ok(VerifiedEntitlement { entitlement, digest: Digest::of(&payload), kid, token })
    }

    /// The position that a token claims, **unverified** and for reports only; `None` if it cannot be read.
    pub fn claimed_position(token: &[u8]) -> Option<Position> {
        let payload = Unverified::claims(token, MAX_TOKEN_BYTES)?;
        let object = json::object(&payload).ok()?;
        let claim = |name| object.integer(name, 1..=MAX_INTEGER).ok();
        Some(Position { epoch: claim("epoch")?, seq: claim("seq")? })
    }

    /// What a token says, **unverified** and for people only: the fields of its header as `header.kid`, those of its
    /// payload as `iss` and `lease.not_after`, with their values as text. Empty if it is no JWS of strict JSON.
    pub fn claims(token: &[u8]) -> Vec<(String, String)> {
        let objects =
            Unverified::parts(token).and_then(|[header, payload]| Some((json::object(&header).ok()?, json::object(&payload).ok()?)));
        let mut claims = Vec::new();
        if let Some((header, payload)) = objects {
            header.fields("header.", &mut claims);
            payload.fields("", &mut claims);
        }
        claims
    }

    /// Its place in the order of documents.
    pub fn position(&self) -> Position {
        Position::new(self.epoch, self.seq)
    }

    /// Signs this document.
    pub fn sign(&self, signer: &Signer) -> String {
        signer.sign(TYP, &serde_json::to_vec(self).expect("plain data"))
    }

    fn read(object: &Object, issuer: &str, device: &DeviceId) -> Result<Self, Reject> {
        let (iss, aud) = (object.string("iss")?, object.string("aud")?);
        if iss != issuer {
            return Err(Reject::WrongIssuer { got: iss.to_owned(), expected: issuer.to_owned() });
        }
        if aud != device.as_str() {
            return Err(Reject::WrongAudience { got: aud.to_owned(), expected: device.to_string() });
        }
        let time = |name| object.integer(name, 0..=MAX_INTEGER);
        let lease = object.object("lease")?;
        let entitlement = Self {
            iss: issuer.to_owned(),
            aud: device.clone(),
            account: object.string("account")?.to_owned(),
            epoch: object.integer("epoch", 1..=MAX_INTEGER)?.try_into()?,
            seq: object.integer("seq", 1..=MAX_INTEGER)?.try_into()?,
            plan: object.string("plan")?.parse()?,
            reason: Reason::read(object.string("reason")?)?,
            channel: Channel::read(object.string("channel")?)?,
            iat: time("iat")?,
            lease: Lease {
                max_age_s: lease.integer("max_age_s", 1..=MAX_INTEGER)?,
                not_after: lease.integer("not_after", 0..=MAX_INTEGER)?,
            },
            policy: Policy::read(object.object("policy")?)?,
            next: object.optional("next").map(|next| Next::read(next.as_object("next")?)).transpose()?,
            order: object.optional("order").map(|order| Order::read(order.as_object("order")?)).transpose()?,
            crit: object.array("crit")?.iter().map(|name| name.as_string("crit").map(str::to_owned)).collect::<Result<_, _>>()?,
        };
        check_unbound(entitlement.reason, &entitlement.policy)?;
        if let Some(next) = &entitlement.next {
            check_unbound(next.reason, &next.policy)?;
        }
        Ok(entitlement)
    }
}

/// With reason `unbound`, `clips` and `snapshots` must be false.
fn check_unbound(reason: Reason, policy: &Policy) -> Result<(), Reject> {
    if reason == Reason::Unbound && (policy.clips || policy.snapshots) {
        return Err(Reject::OutOfRange("an unbound camera has neither clips nor snapshots".into()));
    }
    Ok(())
}

impl Next {
    fn read(object: &Object) -> Result<Self, Reject> {
        Ok(Self {
            plan: object.string("plan")?.parse()?,
            effective_at: object.integer("effective_at", 0..=MAX_INTEGER)?,
            reason: Reason::read(object.string("reason")?)?,
            policy: Policy::read(object.object("policy")?)?,
        })
    }
}

impl Order {
    fn read(object: &Object) -> Result<Self, Reject> {
        let refund = object.object("refund")?;
        Ok(Self {
            id: object.string("id")?.to_owned(),
            refund: Refund {
                kind: RefundKind::read(refund.string("kind")?)?,
                amount_minor: refund.integer("amount_minor", 0..=MAX_INTEGER)?,
                currency: refund.string("currency")?.to_owned(),
            },
        })
    }
}
