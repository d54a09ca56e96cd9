//! The keys of the vectors, from fixed seeds, and a signer that signs whatever bytes it is given: right and wrong
//! ones.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{Ed25519KeyPair, KeyPair};

pub const ENTITLEMENT: &str = "care-entitlement+jws";
pub const KEYSET: &str = "care-keyset+jws";

/// An Ed25519 key. Its seed is one byte repeated 32 times: these keys are public.
pub struct Key {
    pub kid: &'static str,
    pair: Ed25519KeyPair,
}

impl Key {
    fn new(kid: &'static str, seed: u8) -> Self {
        Self { kid, pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap() }
    }

    /// The public key, as keysets carry it.
    pub fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref())
    }

    /// A compact JWS with the header that the contract requires.
    pub fn sign(&self, typ: &str, payload: &str) -> String {
        self.sign_with(&format!(r#"{{"alg":"EdDSA","kid":"{}","typ":"{typ}"}}"#, self.kid), payload.as_bytes())
    }

    /// A compact JWS with any header.
    pub fn sign_with(&self, header: &str, payload: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// The root key, which signs keysets.
pub fn root() -> Key {
    Key::new("root-2026", 9)
}

/// The key that signs entitlements.
pub fn current() -> Key {
    Key::new("2026-11", 7)
}

/// The key that the next keyset introduces.
pub fn newer() -> Key {
    Key::new("2027-01", 8)
}

/// Another key with the id of the current one.
pub fn impostor() -> Key {
    Key::new("2026-11", 1)
}

/// Another key with the id of the root key.
pub fn root_impostor() -> Key {
    Key::new("root-2026", 2)
}

/// The payload of a keyset with the current key.
pub fn keyset(version: u64) -> String {
    keyset_of(version, &[(&current(), 1_767_000_000)], &[], "")
}

/// The payload of a keyset: its keys with their `not_before`, the ids it revokes, and its resets as JSON.
pub fn keyset_of(version: u64, keys: &[(&Key, u64)], revoked: &[&str], resets: &str) -> String {
    let key = |(key, not_before): &(&Key, u64)| format!(r#"{{"kid":"{}","x":"{}","not_before":{not_before}}}"#, key.kid, key.x());
    let keys: Vec<_> = keys.iter().map(key).collect();
    let revoked: Vec<_> = revoked.iter().map(|kid| format!("{kid:?}")).collect();
    format!(
        r#"{{"iss":"care","version":{version},"iat":1767225600,"keys":[{}],"revoked":[{}],"resets":[{resets}]}}"#,
        keys.join(","),
        revoked.join(",")
    )
}
