//! Targets for documents: unsigned ones that any client can send, and signed ones from a hostile signer. The first
//! byte of an input selects: `T` a token as it stands, `P` a payload that is signed here, `A` an answer to a `get`.

use std::{collections::BTreeMap, sync::LazyLock};

use care_protocol::{Answer, DeviceId, Digest, Entitlement, Key, Keyset, MAX_TOKEN_BYTES, Reject, RootKeys, Signer};

use super::Verdict;

pub(super) const ISSUER: &str = "care";

/// The trust anchors of the fuzzed camera.
pub(super) struct Trusted {
    pub(super) key: Signer,
    pub(super) root: Signer,
    pub(super) roots: RootKeys,
    pub(super) keyset: Keyset,
    pub(super) device: DeviceId,
}

/// Always the same keys, so that an input means the same on every machine. They are used only in these targets.
pub(super) static TRUSTED: LazyLock<Trusted> = LazyLock::new(|| {
    let (key, root) = (signer("2026-11", 7), signer("root-2026", 9));
    let keyset = Keyset {
        iss: ISSUER.into(),
        version: 7,
        iat: 1_767_225_600,
        keys: BTreeMap::from([("2026-11".to_owned(), Key { public: key.public_key(), not_before: 1_767_000_000 })]),
        revoked: vec!["2025-11".into()],
        resets: Vec::new(),
    };
    let roots = BTreeMap::from([("root-2026".to_owned(), root.public_key())]);
    let device = "8006E5A1F0C2".parse().expect("a device id");
    Trusted { key, root, roots, keyset, device }
});

/// PKCS#8 (RFC 8410) around an Ed25519 seed.
fn signer(kid: &str, seed: u8) -> Signer {
    let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    pkcs8.extend([seed; 32]);
    Signer::from_pkcs8(kid, &pkcs8).expect("a key")
}

fn token(input: &[u8], signer: &Signer, typ: &str) -> Vec<u8> {
    match input.split_first() {
        Some((b'P', payload)) => signer.sign(typ, payload).into_bytes(),
        Some((b'T', token)) => token.to_vec(),
        _ => input.to_vec(),
    }
}

/// An entitlement: by MQTT, in an answer, or over HTTPS.
pub(super) fn entitlement(input: &[u8]) -> Verdict {
    let Trusted { key, keyset, device, .. } = &*TRUSTED;
    let token = token(input, key, "care-entitlement+jws");
    // The report contains fields read from a token before it is verified.
    let claimed = Entitlement::claimed_position(&token);
    if let Some((b'A', answer)) = input.split_first() {
        return Verdict::of(Answer::read(answer).is_ok_and(|answer| answer.token.len() <= Answer::MAX_BYTES));
    }
    let verified = match Entitlement::verify(&token, Some(keyset), ISSUER, device) {
        Ok(verified) => verified,
        Err(reject) => {
            assert!(!reject.code().is_empty() && !reject.to_string().is_empty());
            return Verdict::Refused;
        }
    };
    assert!(token.len() <= MAX_TOKEN_BYTES);
    let document = &verified.entitlement;
    assert_eq!((document.iss.as_str(), &document.aud), (ISSUER, device));
    assert_eq!(claimed, Some(document.position()));
    if let Some((b'P', payload)) = input.split_first() {
        assert_eq!(verified.digest, Digest::of(payload));
    }
    // A parsed document can be serialized, and parses to the same value.
    match Entitlement::verify(document.sign(key).as_bytes(), Some(keyset), ISSUER, device) {
        Ok(again) => assert_eq!(again.entitlement, *document),
        Err(reject) => assert!(matches!(reject, Reject::TooLarge { .. }), "{reject}"),
    }
    Verdict::Accepted
}

/// A keyset: by MQTT or over HTTPS.
pub(super) fn keyset(input: &[u8]) -> Verdict {
    let Trusted { root, roots, device, .. } = &*TRUSTED;
    let token = token(input, root, "care-keyset+jws");
    let verified = match Keyset::verify(&token, roots, ISSUER) {
        Ok(verified) => verified,
        Err(reject) => {
            assert!(!reject.code().is_empty() && !reject.to_string().is_empty());
            return Verdict::Refused;
        }
    };
    let keyset = &verified.keyset;
    for revoked in &keyset.revoked {
        assert!(matches!(keyset.key(revoked), Err(Reject::RevokedKey(_))), "revoked beats keys");
    }
    let resets = keyset.resets_for(device);
    assert!(resets.iter().all(|reset| reset.aud == device.as_str()) && resets.is_sorted_by_key(|reset| reset.id));
    match Keyset::verify(keyset.sign(root).as_bytes(), roots, ISSUER) {
        Ok(again) => assert_eq!(again.keyset, *keyset),
        Err(reject) => assert!(matches!(reject, Reject::TooLarge { .. }), "{reject}"),
    }
    Verdict::Accepted
}
