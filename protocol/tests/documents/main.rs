//! The documents as the other side sends them: what is accepted, each way of being rejected, and that
//! `docs/protocol.md` says so.
#![allow(clippy::unwrap_used, reason = "a test's helpers may fail the test")]

mod accepted;
mod any_bytes;
mod keysets;
mod rejected;
mod specification;
mod unsigned;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{DeviceId, Entitlement, Key, Keyset, Reject, RootKeys, Signer, VerifiedEntitlement};
use serde_json::{Value, json};

const ISSUER: &str = "care";
const DEVICE: &str = "8006E5A1F0C2";
const KID: &str = "2026-11";
const ROOT: &str = "root-2026";
const TYP: &str = "care-entitlement+jws";

/// PKCS#8 (RFC 8410) around an Ed25519 seed.
fn signer(kid: &str, seed: [u8; 32]) -> Signer {
    let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    pkcs8.extend(seed);
    Signer::from_pkcs8(kid, &pkcs8).unwrap()
}

fn key() -> Signer {
    signer(KID, [7; 32])
}

fn root() -> Signer {
    signer(ROOT, [9; 32])
}

fn roots() -> RootKeys {
    BTreeMap::from([(ROOT.to_owned(), root().public_key())])
}

fn keyset() -> Keyset {
    Keyset {
        iss: ISSUER.into(),
        version: 7,
        iat: 1_767_225_600,
        keys: BTreeMap::from([(KID.to_owned(), Key { public: key().public_key(), not_before: 1_767_000_000 })]),
        revoked: vec!["2025-11".into()],
        resets: Vec::new(),
    }
}

fn device() -> DeviceId {
    DEVICE.parse().unwrap()
}

/// An entitlement with every field.
fn example() -> Value {
    let free = json!({ "clips": true, "history_h": 12, "clip_max_s": 12, "cooldown_s": 300, "max_height": 720, "snapshots": false });
    json!({
        "iss": "care", "aud": DEVICE, "account": "acct-5b1f", "epoch": 3, "seq": 41,
        "plan": "free", "reason": "cancelled", "channel": "portal", "iat": 1_767_225_600,
        "lease": { "max_age_s": 172_800, "not_after": 1_767_398_400 },
        "policy": free,
        "next": { "plan": "free", "effective_at": 1_769_817_600, "reason": "cancelled", "policy": free },
        "order": { "id": "KC-2026-000123", "refund": { "kind": "refund", "amount_minor": 412, "currency": "USD" } },
        "crit": []
    })
}

fn judge(token: &[u8]) -> Result<VerifiedEntitlement, Reject> {
    Entitlement::verify(token, Some(&keyset()), ISSUER, &device())
}

/// Signs a payload correctly and judges it.
fn judge_payload(payload: &[u8]) -> Result<VerifiedEntitlement, Reject> {
    judge(key().sign(TYP, payload).as_bytes())
}

/// Judges [`example`] after a change.
fn judge_changed(change: impl FnOnce(&mut Value)) -> Result<VerifiedEntitlement, Reject> {
    let mut document = example();
    change(&mut document);
    judge_payload(document.to_string().as_bytes())
}

/// A token made of any three parts, unsigned.
fn token_of(header: &str, payload: &str, signature: &str) -> String {
    format!("{}.{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload), URL_SAFE_NO_PAD.encode(signature))
}
