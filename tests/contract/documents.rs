//! Schemas and Rust readers judge the same examples: a valid document, and variants of it with a required field
//! removed, a range exceeded by one, a name replaced by an unknown one, or a value replaced by one of another type.

use std::collections::BTreeMap;

use care_protocol::{
    Answer, DeviceId, Entitlement, Get, Grant, GrantRequest, Key, Keyset, Report, RootKeys, Signer, Stored, is_sha256_hex,
};
use kasa_care_agent::upload::vendor::UploaderMessage;
use serde_json::{Value, json};

use super::schema::{Judge, read};

const DEVICE: &str = "8006E5A1F0C2";
const ISSUER: &str = "care";

/// One change to a document: sets the value at this JSON pointer, or removes it.
#[derive(Debug, Clone)]
struct Change {
    at: String,
    to: Option<Value>,
}

impl Change {
    fn apply(&self, document: &Value) -> Value {
        let mut changed = document.clone();
        let (parent, name) = self.at.rsplit_once('/').unwrap();
        let parent = changed.pointer_mut(parent).unwrap();
        match (parent, &self.to) {
            (Value::Object(fields), Some(value)) => drop(fields.insert(name.to_owned(), value.clone())),
            (Value::Object(fields), None) => drop(fields.remove(name)),
            (Value::Array(items), Some(value)) => items[name.parse::<usize>().unwrap()] = value.clone(),
            (parent, to) => panic!("{to:?} into {parent}"),
        }
        changed
    }
}

/// One change for every constraint in the schema.
fn changes(schema: &Value, value: &Value, at: &str, found: &mut Vec<Change>) {
    if let Some(file) = schema["$ref"].as_str() {
        return changes(&read(file), value, at, found);
    }
    for alternatives in ["oneOf", "anyOf"] {
        let alternatives = schema[alternatives].as_array().into_iter().flatten();
        let mut fitting = alternatives.filter(|one| match one["properties"]["type"]["const"].as_str() {
            Some(kind) => value["type"] == kind,
            None => one["type"] != "null",
        });
        if let Some(one) = fitting.next() {
            changes(one, value, at, found);
        }
    }
    let mut change = |to: Value| {
        if !at.is_empty() {
            found.push(Change { at: at.to_owned(), to: Some(to) });
        }
    };
    change(Value::Null);
    for bound in ["minimum", "maximum"] {
        if let Some(bound) = schema[bound].as_i64() {
            for to in [bound - 1, bound, bound + 1] {
                change(json!(to));
            }
        }
    }
    match value {
        Value::Number(_) => [json!(1.5), json!("1"), json!(true)].into_iter().for_each(&mut change),
        Value::Bool(_) => [json!(1), json!("true")].into_iter().for_each(&mut change),
        Value::String(_) => change(json!(7)),
        Value::Array(_) => change(json!({})),
        Value::Object(_) => change(json!([])),
        Value::Null => {}
    }
    if schema.get("enum").or(schema.get("const")).is_some() {
        change(json!("to_come"));
    }
    for name in schema["enum"].as_array().into_iter().flatten() {
        change(name.clone());
    }
    if schema.get("pattern").is_some() || schema.get("minLength").is_some() {
        change(json!(""));
        change(json!("a\u{7}"));
    }
    if let Some(most) = schema["maxLength"].as_u64() {
        for length in [most, most + 1] {
            change(json!("é".repeat(length as usize)));
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = value.get(name) {
            let at = format!("{at}/{name}");
            found.push(Change { at: at.clone(), to: None });
            changes(schema, value, &at, found);
        }
    }
    if value.is_object() {
        found.push(Change { at: format!("{at}/to_come"), to: Some(json!({ "deep": [null, 1.5] })) });
    }
    if let Some(first) = value.get(0) {
        changes(&schema["items"], first, &format!("{at}/0"), found);
    }
}

/// How strictly a Rust reader follows its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Accepts exactly what the schema accepts.
    Same,
    /// Accepts what the schema accepts, and more.
    Lenient,
}

/// Judges `good` and every change of it by schema and reader. Returns how many the schema accepted and refused.
pub fn compare(name: &str, reader: Reader, good: &Value, accepts: impl Fn(&[u8]) -> bool) -> (usize, usize) {
    let mut judge = Judge::start();
    let (valid, why) = judge.validate(name, good);
    assert!(valid && accepts(good.to_string().as_bytes()), "{name}: the good one is refused: {why}");
    let mut found = Vec::new();
    changes(&read(&format!("{name}.json")), good, "", &mut found);
    let (mut admitted, mut refused) = (0, 0);
    for change in found {
        let document = change.apply(good);
        let (valid, why) = judge.validate(name, &document);
        let accepted = accepts(document.to_string().as_bytes());
        let agreed = valid == accepted || (reader == Reader::Lenient && accepted);
        assert!(agreed, "{name}: {change:?}: the schema says {valid} ({why}), the reader {accepted}");
        *(if valid { &mut admitted } else { &mut refused }) += 1;
    }
    (admitted, refused)
}

/// PKCS#8 (RFC 8410) around an Ed25519 seed.
fn signer(kid: &str, seed: u8) -> Signer {
    let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    pkcs8.extend([seed; 32]);
    Signer::from_pkcs8(kid, &pkcs8).unwrap()
}

fn accepts_entitlement(payload: &[u8]) -> bool {
    let key = signer("2026-11", 7);
    let keys = BTreeMap::from([("2026-11".to_owned(), Key { public: key.public_key(), not_before: 0 })]);
    let keyset = Keyset { iss: ISSUER.into(), version: 1, iat: 0, keys, revoked: Vec::new(), resets: Vec::new() };
    let device: DeviceId = DEVICE.parse().unwrap();
    Entitlement::verify(key.sign("care-entitlement+jws", payload).as_bytes(), Some(&keyset), ISSUER, &device).is_ok()
}

fn entitlement() -> Value {
    let policy = json!({ "clips": true, "history_h": 12, "clip_max_s": 12, "cooldown_s": 300, "max_height": 720, "snapshots": false });
    json!({
        "iss": ISSUER, "aud": DEVICE, "account": "acct-5b1f", "epoch": 3, "seq": 41, "plan": "free", "reason": "cancelled",
        "channel": "portal", "iat": 1_767_225_600, "lease": { "max_age_s": 172_800, "not_after": 1_767_398_400 }, "policy": policy,
        "next": { "plan": "free", "effective_at": 1_769_817_600, "reason": "cancelled", "policy": policy },
        "order": { "id": "KC-1", "refund": { "kind": "refund", "amount_minor": 412, "currency": "USD" } }, "crit": ["plan"]
    })
}

#[test]
fn an_entitlement_is_judged_alike() {
    let (admitted, refused) = compare("entitlement", Reader::Same, &entitlement(), accepts_entitlement);
    assert!(admitted > 60 && refused > 150, "{admitted} admitted, {refused} refused");
    // Fields that an unbound camera may not have: each alone, in `policy` and in `next`.
    let mut unbound = entitlement();
    unbound["reason"] = json!("unbound");
    unbound["policy"]["clips"] = json!(false);
    compare("entitlement", Reader::Same, &unbound, accepts_entitlement);
    unbound["next"]["reason"] = json!("unbound");
    unbound["next"]["policy"]["clips"] = json!(false);
    compare("entitlement", Reader::Same, &unbound, accepts_entitlement);
}

#[test]
fn a_keyset_is_judged_alike() {
    let root = signer("root-2026", 9);
    let roots = RootKeys::from([("root-2026".to_owned(), root.public_key())]);
    let good = json!({
        "iss": ISSUER, "version": 7, "iat": 1_767_225_600,
        "keys": [{ "kid": "2026-11", "x": root.public_key().to_base64url(), "not_before": 1_767_000_000 }],
        "revoked": ["2025-11"], "resets": [{ "id": 4, "aud": DEVICE, "epoch": 3, "seq": 40, "time": 1_767_225_600 }]
    });
    let accepts = |payload: &[u8]| Keyset::verify(root.sign("care-keyset+jws", payload).as_bytes(), &roots, ISSUER).is_ok();
    let (admitted, refused) = compare("keyset", Reader::Same, &good, accepts);
    assert!(admitted > 15 && refused > 50, "{admitted} admitted, {refused} refused");
    for (x, good) in [("A".repeat(43), true), ("A".repeat(42) + "B", false), ("A".repeat(42), false), ("A".repeat(43) + "=", false)] {
        let document = json!({ "iss": ISSUER, "version": 7, "iat": 0, "keys": [{ "kid": "k", "x": x, "not_before": 0 }], "revoked": [], "resets": [] });
        let (valid, why) = Judge::start().validate("keyset", &document);
        assert_eq!((valid, accepts(document.to_string().as_bytes())), (good, good), "{x}: {why}");
    }
}

#[test]
fn small_documents_are_judged_alike() {
    let answer = json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "token": "a.b.c" });
    compare("answer", Reader::Same, &answer, |bytes| Answer::read(bytes).is_ok());
    compare("stored", Reader::Same, &json!({ "stored": true }), |bytes| Stored::read(bytes).is_ok());
    let get = json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "epoch": 3, "seq": 41 });
    compare("get", Reader::Lenient, &get, |bytes| serde_json::from_slice::<Get>(bytes).is_ok());
}

#[test]
fn a_grant_and_what_asks_for_it_are_judged_alike() {
    let grant = json!({ "method": "PUT", "url": "https://clips.example/7", "headers": { "a": "1" }, "expires_at": "2026-01-01T00:05:00Z" });
    compare("grant", Reader::Lenient, &grant, |bytes| Grant::read(bytes).is_ok());
    let mut judge = Judge::start();
    for (name, good) in [("Host", false), ("content-length", false), ("Connection", false), ("transfer-encoding", false), ("x-host", true)]
    {
        let mut grant = grant.clone();
        grant["headers"] = json!({ name: "1" });
        assert_eq!(judge.validate("grant", &grant).0, good, "{name}");
    }
    let request = json!({
        "clip": "5b0c3a6e-0d5c-4f6e-9d52-2d3b8a4e7f10", "kind": "motion", "started_at": "2026-01-01T00:00:00.250Z", "duration_ms": 12_000,
        "bytes": 7, "sha256": "0".repeat(64), "epoch": 3, "seq": 41
    });
    compare("grant-request", Reader::Lenient, &request, |bytes| {
        serde_json::from_slice::<GrantRequest>(bytes)
            .is_ok_and(|request| uuid::Uuid::try_parse(&request.clip).is_ok() && is_sha256_hex(&request.sha256))
    });
}

fn report() -> Value {
    json!({
        "device": DEVICE, "outcome": "rejected", "reason": "wrong_issuer", "detail": "issuer is \"prod\"", "cause": "document",
        "judged": { "epoch": 3, "seq": 42 }, "epoch": 3, "seq": 41, "digest": format!("sha256:{}", "0".repeat(64)), "plan": "free",
        "mode": "free", "persisted": true, "keyset": 7, "cut": { "transfers": 2, "micros": 840, "bytes_after": 0 },
        "erased": { "clips": 3, "bytes": 5_242_880 }, "at": "2026-01-01T00:00:00Z", "agent": "0.1.0"
    })
}

#[test]
fn a_report_that_its_schema_admits_is_read() {
    let (admitted, refused) = compare("report", Reader::Lenient, &report(), |bytes| serde_json::from_slice::<Report>(bytes).is_ok());
    assert!(admitted > 30 && refused > 80, "{admitted} admitted, {refused} refused");
}

#[test]
fn reasons_belong_to_their_outcomes() {
    let mut judge = Judge::start();
    for (outcome, reason, good) in [
        ("applied", "cancelled", true),
        ("applied", "state_lost", true),
        ("applied", "bad_form", false),
        ("rejected", "bad_form", true),
        ("rejected", "cancelled", false),
        ("stale", "stale", true),
        ("stale", "duplicate", false),
        ("conflict", "conflict", true),
        ("duplicate", "renewed", false),
    ] {
        let mut report = report();
        report["outcome"] = json!(outcome);
        report["reason"] = json!(reason);
        assert_eq!(judge.validate("report", &report).0, good, "{outcome} because of {reason}");
    }
}

#[test]
fn a_line_from_an_uploader_is_judged_alike() {
    let closed =
        json!({ "type": "closed", "generation": 8, "transfers": 1, "bytes_after": 0, "erased": { "clips": 3, "bytes": 5_242_880 } });
    for line in [closed, json!({ "type": "stored", "bytes": 7 }), json!({ "type": "refused", "status": 402 })] {
        compare("uploader-to-agent", Reader::Same, &line, |bytes| UploaderMessage::read(bytes).is_ok());
    }
    let mut judge = Judge::start();
    for line in [json!({ "type": "open" }), json!({ "type": "refused", "status": 404 }), json!({})] {
        assert!(!judge.validate("uploader-to-agent", &line).0 && UploaderMessage::read(line.to_string().as_bytes()).is_err(), "{line}");
    }
}
