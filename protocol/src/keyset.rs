//! Keysets: the keys that may sign entitlements, signed by an offline root key (`docs/protocol.md#keyset`). The cloud
//! signs them with [`Keyset::sign`], the camera checks them with [`Keyset::verify`]. The engine decides which version
//! is in force.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    DeviceId, MAX_INTEGER, Position, PublicKey, Reject, Signer,
    json::{self, Object},
    jws::Unverified,
};

/// The largest keyset JWS, bytes: 64 KiB.
pub const MAX_KEYSET_BYTES: usize = 64 * 1024;
const TYP: &str = "care-keyset+jws";

/// The root public keys by name, as configured on the device.
pub type RootKeys = BTreeMap<String, PublicKey>;

/// One key that may sign entitlements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key itself.
    pub public: PublicKey,
    /// Documents with an `iat` before this (Unix seconds) do not verify under this key.
    pub not_before: u64,
}

/// Lowers one device's ratchet once, and may set its trusted time (`docs/protocol.md#resets`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// Rises with every reset; the device persists the highest it has applied.
    pub id: u64,
    /// The device.
    pub aud: String,
    /// The epoch to go back to.
    pub epoch: u64,
    /// The sequence to go back to.
    pub seq: u64,
    /// What to set the device's trusted time to, Unix seconds, if an earlier mistake has spoilt it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

impl Reset {
    /// The position to which the ratchet is lowered.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }
}

/// A list of signing keys. [`Keyset::verify`] is the only way to read one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyset {
    /// The issuer.
    pub iss: String,
    /// Its version, 1 or more. It rises with every keyset.
    pub version: u64,
    /// When it was issued, Unix seconds.
    pub iat: u64,
    /// The keys by `kid`.
    pub keys: BTreeMap<String, Key>,
    /// Names of keys that no longer verify anything new. It overrides `keys`.
    pub revoked: Vec<String>,
    /// Resets of single devices.
    pub resets: Vec<Reset>,
}

/// A keyset whose root signature has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedKeyset {
    /// Its content.
    pub keyset: Keyset,
    /// The JWS as it arrived.
    pub token: String,
}

impl Keyset {
    /// Reads and verifies a keyset JWS under one of the root keys.
    ///
    /// # Errors
    /// The first check that fails, in the order of `docs/protocol.md#keyset`.
    pub fn verify(token: &[u8], roots: &RootKeys, issuer: &str) -> Result<VerifiedKeyset, Reject> {
        let jws = Unverified::parse(token, TYP, MAX_KEYSET_BYTES)?;
        let root = roots.get(&jws.kid).ok_or_else(|| Reject::UnknownKey(jws.kid.clone()))?;
        let payload = jws.verify(root)?;
        let keyset = Self::read(&json::object(&payload)?)?;
        if keyset.iss != issuer {
            return Err(Reject::WrongIssuer { got: keyset.iss, expected: issuer.to_owned() });
        }
        let token = String::from_utf8(token.to_vec()).map_err(|_| Reject::BadForm("not UTF-8".into()))?;
        Ok(VerifiedKeyset { keyset, token })
    }

    /// The key of this name.
    ///
    /// # Errors
    /// [`Reject::RevokedKey`] or [`Reject::UnknownKey`].
    pub fn key(&self, kid: &str) -> Result<&Key, Reject> {
        if self.revoked.iter().any(|revoked| revoked == kid) {
            return Err(Reject::RevokedKey(kid.to_owned()));
        }
        self.keys.get(kid).ok_or_else(|| Reject::UnknownKey(kid.to_owned()))
    }

    /// The resets for this device in the order of their ids, so that a device that has missed some applies them as
    /// issued.
    pub fn resets_for(&self, device: &DeviceId) -> Vec<&Reset> {
        let mut resets: Vec<_> = self.resets.iter().filter(|reset| reset.aud == device.as_str()).collect();
        resets.sort_by_key(|reset| reset.id);
        resets
    }

    /// Signs this keyset with a root key.
    pub fn sign(&self, root: &Signer) -> String {
        let keys: Vec<_> = self
            .keys
            .iter()
            .map(|(kid, key)| serde_json::json!({ "kid": kid, "x": key.public.to_base64url(), "not_before": key.not_before }))
            .collect();
        let payload = serde_json::json!({
            "iss": self.iss, "version": self.version, "iat": self.iat,
            "keys": keys, "revoked": self.revoked, "resets": self.resets,
        });
        root.sign(TYP, payload.to_string().as_bytes())
    }

    fn read(object: &Object) -> Result<Self, Reject> {
        let mut keys = BTreeMap::new();
        for entry in object.array("keys")? {
            let entry = entry.as_object("keys")?;
            let key = Key { public: entry.string("x")?.parse()?, not_before: entry.integer("not_before", 0..=MAX_INTEGER)? };
            if keys.insert(entry.string("kid")?.to_owned(), key).is_some() {
                return Err(Reject::BadForm("two keys have the same kid".into()));
            }
        }
        let revoked = object.array("revoked")?.iter().map(|name| name.as_string("revoked").map(str::to_owned));
        let resets = object.array("resets")?.iter().map(|reset| {
            let reset = reset.as_object("resets")?;
            Ok(Reset {
                id: reset.integer("id", 1..=MAX_INTEGER)?,
                aud: reset.string("aud")?.to_owned(),
                epoch: reset.integer("epoch", 0..=MAX_INTEGER)?,
                seq: reset.integer("seq", 0..=MAX_INTEGER)?,
                time: match reset.optional("time") {
                    Some(_) => Some(reset.integer("time", 0..=MAX_INTEGER)?),
                    None => None,
                },
            })
        });
        Ok(Self {
            iss: object.string("iss")?.to_owned(),
            version: object.integer("version", 1..=MAX_INTEGER)?,
            iat: object.integer("iat", 0..=MAX_INTEGER)?,
            keys,
            revoked: revoked.collect::<Result<_, _>>()?,
            resets: resets.collect::<Result<_, Reject>>()?,
        })
    }
}
