//! Keysets: only a root key signs them, and they are read as strictly as entitlements.

use care_protocol::{Keyset, MAX_KEYSET_BYTES, Reject, Reset};
use serde_json::{Value, json};

use super::{DEVICE, ISSUER, KID, ROOT, device, key, keyset, root, roots, signer};

const TYP: &str = "care-keyset+jws";

fn payload() -> Value {
    json!({
        "iss": "care", "version": 7, "iat": 1_767_225_600,
        "keys": [{ "kid": KID, "x": key().public_key().to_base64url(), "not_before": 1_767_000_000 }],
        "revoked": ["2025-11"],
        "resets": [{ "id": 4, "aud": DEVICE, "epoch": 3, "seq": 40 }]
    })
}

fn judge(payload: &[u8]) -> Result<Keyset, Reject> {
    Keyset::verify(root().sign(TYP, payload).as_bytes(), &roots(), ISSUER).map(|verified| verified.keyset)
}

fn code(judged: Result<Keyset, Reject>) -> &'static str {
    judged.map_or_else(|reject| reject.code(), |_| "accepted")
}

#[test]
fn a_keyset_is_read_field_by_field_and_survives_a_round_trip() {
    let read = judge(payload().to_string().as_bytes()).unwrap();
    assert_eq!((read.version, read.iat, read.revoked.as_slice()), (7, 1_767_225_600, &["2025-11".to_owned()][..]));
    assert_eq!((read.keys[KID].public, read.keys[KID].not_before), (key().public_key(), 1_767_000_000));
    assert_eq!(read.resets, [Reset { id: 4, aud: DEVICE.into(), epoch: 3, seq: 40, time: None }]);
    let again = Keyset::verify(read.sign(&root()).as_bytes(), &roots(), ISSUER).unwrap();
    assert_eq!(again.keyset, read);
}

#[test]
fn only_a_root_key_signs_a_keyset() {
    let good = payload().to_string();
    let judged = |token: String| code(Keyset::verify(token.as_bytes(), &roots(), ISSUER).map(|verified| verified.keyset));
    assert_eq!(judged(signer(ROOT, [1; 32]).sign(TYP, good.as_bytes())), "bad_signature");
    assert_eq!(judged(key().sign(TYP, good.as_bytes())), "unknown_key");
    assert_eq!(judged(root().sign("care-entitlement+jws", good.as_bytes())), "bad_header");
    assert_eq!(judged("x".repeat(MAX_KEYSET_BYTES + 1)), "too_large");
    assert_eq!(code(judge(good.replace("\"care\"", "\"other\"").as_bytes())), "wrong_issuer");
}

#[test]
fn a_keyset_is_as_strict_as_an_entitlement() {
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut payload = payload();
        change(&mut payload);
        code(judge(payload.to_string().as_bytes()))
    };
    for field in ["iss", "version", "iat", "keys", "revoked", "resets"] {
        assert_eq!(changed(&|p| drop(p.as_object_mut().unwrap().remove(field))), "bad_form", "without {field}");
        assert_eq!(changed(&|p| p[field] = Value::Null), "bad_form", "{field} = null");
    }
    for field in ["kid", "x", "not_before"] {
        assert_eq!(changed(&|p| drop(p["keys"][0].as_object_mut().unwrap().remove(field))), "bad_form", "key without {field}");
    }
    for field in ["id", "aud", "epoch", "seq"] {
        assert_eq!(changed(&|p| drop(p["resets"][0].as_object_mut().unwrap().remove(field))), "bad_form", "reset without {field}");
    }
    assert_eq!(changed(&|p| p["version"] = json!(0)), "out_of_range");
    assert_eq!(changed(&|p| p["version"] = json!(-7)), "out_of_range");
    assert_eq!(changed(&|p| p["resets"][0]["id"] = json!(0)), "out_of_range");
    assert_eq!(changed(&|p| p["keys"][0]["x"] = json!("AAAA")), "bad_form");
    assert_eq!(changed(&|p| p["keys"][0]["x"] = json!(key().public_key().to_base64url() + "=")), "bad_form");
    assert_eq!(changed(&|p| p["keys"] = json!([p["keys"][0], p["keys"][0]])), "bad_form", "a kid twice");
    assert_eq!(changed(&|p| p["revoked"] = json!([7])), "bad_form");
    assert_eq!(changed(&|p| p["resets"][0]["time"] = json!(1.5)), "bad_form");
    assert_eq!(changed(&|p| p["resets"][0]["time"] = Value::Null), "bad_form");
    assert_eq!(changed(&|p| p["resets"][0]["time"] = json!(-1)), "out_of_range");
    assert_eq!(changed(&|p| p["to_come"] = json!(1)), "accepted");
    assert_eq!(changed(&|p| p["resets"] = json!([])), "accepted");
}

#[test]
fn a_reset_may_set_trusted_time() {
    let mut payload = payload();
    payload["resets"][0]["time"] = json!(1_767_225_601);
    let read = judge(payload.to_string().as_bytes()).unwrap();
    assert_eq!(read.resets[0].time, Some(1_767_225_601));
    assert_eq!(judge_token(&read.sign(&root())), read);
}

fn judge_token(token: &str) -> Keyset {
    Keyset::verify(token.as_bytes(), &roots(), ISSUER).unwrap().keyset
}

#[test]
fn a_device_applies_its_own_resets_in_order_of_their_ids() {
    let mut keyset = keyset();
    assert!(keyset.resets_for(&device()).is_empty());
    for (id, aud, seq) in [(4, DEVICE, 40), (6, "8006E5A1F0C3", 1), (5, DEVICE, 10), (3, DEVICE, 99)] {
        keyset.resets.push(Reset { id, aud: aud.into(), epoch: 3, seq, time: None });
    }
    let resets: Vec<_> = keyset.resets_for(&device()).iter().map(|reset| (reset.id, reset.seq)).collect();
    assert_eq!(resets, [(3, 99), (4, 40), (5, 10)]);
}
