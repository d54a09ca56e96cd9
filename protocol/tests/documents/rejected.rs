//! Entitlements that are rejected: each reason has its own code, and the first check that fails gives the code.

use care_protocol::{Entitlement, MAX_INTEGER, MAX_TOKEN_BYTES, Reject};
use serde_json::{Value, json};

use super::{ISSUER, KID, TYP, device, example, judge, judge_changed, judge_payload, key, keyset, signer, token_of};

fn code(judged: Result<care_protocol::VerifiedEntitlement, Reject>) -> &'static str {
    judged.map_or_else(|reject| reject.code(), |_| "accepted")
}

#[track_caller]
fn rejected_as(expected: &str, change: impl FnOnce(&mut Value)) {
    assert_eq!(code(judge_changed(change)), expected);
}

#[test]
fn size_is_judged_first() {
    assert_eq!(code(judge(&vec![0xff; MAX_TOKEN_BYTES + 1])), "too_large");
    assert_eq!(code(judge(&vec![0xff; MAX_TOKEN_BYTES])), "bad_form");
    // The largest accepted size, and one byte more.
    let filled = |filler: usize| {
        let mut document = example();
        document["filler"] = json!("x".repeat(filler));
        key().sign(TYP, document.to_string().as_bytes())
    };
    let largest = (0..MAX_TOKEN_BYTES).take_while(|filler| filled(*filler).len() <= MAX_TOKEN_BYTES).last().unwrap();
    judge(filled(largest).as_bytes()).unwrap();
    assert_eq!(code(judge(filled(largest + 1).as_bytes())), "too_large");
}

#[test]
fn anything_but_a_compact_jws_is_bad_form() {
    let good = key().sign(TYP, example().to_string().as_bytes());
    let (header, rest) = good.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    for token in [
        String::new(),
        "a.b".into(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{header}.{payload}.{}", signature.replace(['-', '_'], "+")) + "+",
        format!("{header}.{payload}=.{signature}"),
        // The last character of a 64-byte signature carries four bits that must be zero.
        format!("{}{}", &good[..good.len() - 1], 'B'),
    ] {
        assert_eq!(code(judge(token.as_bytes())), "bad_form", "{token}");
    }
    assert_eq!(code(judge(b"\xff.\xff.\xff")), "bad_form");
}

#[test]
fn anything_but_strict_json_is_bad_form() {
    let good = example().to_string();
    for payload in [
        String::new(),
        "null".into(),
        "[]".into(),
        format!("{good}{good}"),
        format!("{good}x"),
        good.replacen('{', "{\"iss\":\"care\",", 1),
        good.replacen("\"clips\":true", "\"clips\":true,\"clips\":true", 1),
        good.replacen("\"seq\":41", "\"seq\":41.0", 1),
        good.replacen("\"seq\":41", "\"seq\":4.1e1", 1),
        good.replacen("\"seq\":41", "\"seq\":99999999999999999999999", 1),
        good.replacen("\"seq\":41", "\"seq\":041", 1),
        good.replacen('{', "{\"x\":[[[[[[[[1]]]]]]]],", 1),
        good.replacen('{', "{\"x\":\"\u{1}\",", 1),
        good.replacen('{', "{\"x\":\"\\ud800\",", 1),
        good.replacen('{', "{\"x\":NaN,", 1),
        good.replacen('{', "{/**/", 1),
    ] {
        assert_eq!(code(judge_payload(payload.as_bytes())), "bad_form", "{payload}");
    }
    assert_eq!(code(judge_payload(b"{\"iss\":\"\xff\"}")), "bad_form");
    assert_eq!(code(judge_payload(&[b"\xef\xbb\xbf", good.as_bytes()].concat())), "bad_form", "a byte order mark");
}

#[test]
fn a_field_that_is_missing_null_or_mistyped_is_bad_form() {
    let required = "/iss /aud /account /epoch /seq /plan /reason /channel /iat /lease /policy /crit /lease/max_age_s /lease/not_after \
                    /policy/clips /policy/history_h /policy/clip_max_s /policy/cooldown_s /policy/max_height /policy/snapshots \
                    /next/plan /next/effective_at /next/reason /next/policy /next/policy/clips \
                    /order/id /order/refund /order/refund/kind /order/refund/amount_minor /order/refund/currency";
    for pointer in required.split_whitespace() {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let removed = judge_changed(|d| drop(d.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(name)));
        assert_eq!(code(removed), "bad_form", "without {pointer}");
        for wrong in [Value::Null, json!([1]), json!({ "x": 1 })] {
            // For arrays and objects these values have the right type and wrong content.
            let judged = judge_changed(|document| *document.pointer_mut(pointer).unwrap() = wrong.clone());
            assert_eq!(code(judged), "bad_form", "{pointer} = {wrong}");
        }
    }
    for optional in ["next", "order"] {
        rejected_as("bad_form", |document| document[optional] = Value::Null);
        rejected_as("bad_form", |document| document[optional] = json!("x"));
    }
    rejected_as("bad_form", |document| document["clips"] = document["policy"]["clips"].take());
    rejected_as("bad_form", |document| document["crit"] = json!([null]));
}

#[test]
fn a_header_with_anything_but_alg_kid_and_typ_is_bad_header() {
    let payload = example().to_string();
    for header in [
        json!({}),
        json!([]),
        json!({ "alg": "EdDSA", "kid": KID }),
        json!({ "alg": "EdDSA", "typ": TYP }),
        json!({ "kid": KID, "typ": TYP }),
        json!({ "alg": "none", "kid": KID, "typ": TYP }),
        json!({ "alg": "None", "kid": KID, "typ": TYP }),
        json!({ "alg": "HS256", "kid": KID, "typ": TYP }),
        json!({ "alg": "ES256", "kid": KID, "typ": TYP }),
        json!({ "alg": "eddsa", "kid": KID, "typ": TYP }),
        json!({ "alg": ["EdDSA"], "kid": KID, "typ": TYP }),
        json!({ "alg": "EdDSA", "kid": 1, "typ": TYP }),
        json!({ "alg": "EdDSA", "kid": KID, "typ": "care-keyset+jws" }),
        json!({ "alg": "EdDSA", "kid": KID, "typ": "JWT" }),
        json!({ "alg": "EdDSA", "kid": KID, "typ": TYP, "crit": ["exp"] }),
        json!({ "alg": "EdDSA", "kid": KID, "typ": TYP, "jwk": { "kty": "OKP" } }),
        json!({ "alg": "EdDSA", "kid": KID, "typ": TYP, "b64": false }),
    ] {
        assert_eq!(code(judge(key().sign_with_header(&header, payload.as_bytes()).as_bytes())), "bad_header", "{header}");
    }
    let twice = format!("{{\"alg\":\"none\",\"alg\":\"EdDSA\",\"kid\":\"{KID}\",\"typ\":\"{TYP}\"}}");
    assert_eq!(code(judge(token_of(&twice, &payload, "x").as_bytes())), "bad_header");
}

#[test]
fn a_signature_by_another_key_is_bad_signature() {
    let good = key().sign(TYP, example().to_string().as_bytes());
    let other_payload = key().sign(TYP, b"{}");
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for token in [
        signer(KID, [1; 32]).sign(TYP, example().to_string().as_bytes()),
        format!("{signed}.{}", other_payload.rsplit_once('.').unwrap().1),
        format!("{signed}."),
        format!("{signed}.{}", &signature[..80]),
        format!("{signed}.{}", "A".repeat(86)),
    ] {
        assert_eq!(code(judge(token.as_bytes())), "bad_signature", "{token}");
    }
}

#[test]
fn a_malleable_signature_is_rejected() {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    // RFC 8032 section 5.1.7: S must be below L, or every signature would have a second form.
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0x10,
    ];
    let good = key().sign(TYP, example().to_string().as_bytes());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(code(judge(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(&signature)).as_bytes())), "bad_signature");
}

#[test]
fn a_key_may_be_unknown_revoked_or_not_yet_valid() {
    let token = key().sign(TYP, example().to_string().as_bytes());
    let judge = |keyset: Option<&care_protocol::Keyset>| code(Entitlement::verify(token.as_bytes(), keyset, ISSUER, &device()));
    assert_eq!(judge(None), "unknown_key");
    let mut other = keyset();
    let key = other.keys.remove(KID).unwrap();
    assert_eq!(judge(Some(&other)), "unknown_key");
    other.revoked.push(KID.into());
    assert_eq!(judge(Some(&other)), "revoked_key", "revoked beats unknown");
    other.keys.insert(KID.into(), key);
    assert_eq!(judge(Some(&other)), "revoked_key", "revoked beats keys");
    let mut young = keyset();
    young.keys.get_mut(KID).unwrap().not_before = 1_767_225_601;
    assert_eq!(judge(Some(&young)), "key_not_yet_valid");
    young.keys.get_mut(KID).unwrap().not_before = 1_767_225_600;
    assert_eq!(judge(Some(&young)), "accepted", "not_before itself is good");
}

#[test]
fn audience_and_issuer_are_compared_exactly() {
    for aud in ["8006E5A1F0C3", "8006e5a1f0c2", " 8006E5A1F0C2", "", "8006E5A1F0C22"] {
        rejected_as("wrong_audience", |document| document["aud"] = json!(aud));
    }
    for iss in ["Care", "care ", "", "care.example"] {
        rejected_as("wrong_issuer", |document| document["iss"] = json!(iss));
    }
}

#[test]
fn an_unknown_name_in_crit_is_unsupported_once_the_claims_are_good() {
    rejected_as("unsupported", |document| document["crit"] = json!(["policy", "lens_cover"]));
    rejected_as("unsupported", |document| {
        document["lens_cover"] = json!(true);
        document["crit"] = json!(["lens_cover"]);
    });
    rejected_as("out_of_range", |document| {
        document["seq"] = json!(0);
        document["crit"] = json!(["lens_cover"]);
    });
}

#[test]
fn a_value_outside_its_range_is_out_of_range() {
    for field in ["epoch", "seq"] {
        for value in [json!(0), json!(-1), json!(MAX_INTEGER + 1), json!(u64::MAX), json!(i64::MIN)] {
            rejected_as("out_of_range", |document| document[field] = value.clone());
        }
    }
    for pointer in ["/iat", "/lease/not_after", "/next/effective_at", "/order/refund/amount_minor"] {
        for value in [json!(-1), json!(MAX_INTEGER + 1)] {
            rejected_as("out_of_range", |document| *document.pointer_mut(pointer).unwrap() = value.clone());
        }
    }
    rejected_as("out_of_range", |document| document["lease"]["max_age_s"] = json!(0));
    for policy in ["/policy", "/next/policy"] {
        for limit in ["history_h", "clip_max_s", "cooldown_s", "max_height"] {
            for value in [json!(-1), json!(2_147_483_648_u64)] {
                rejected_as("out_of_range", |document| document.pointer_mut(policy).unwrap()[limit] = value.clone());
            }
        }
    }
    for (pointer, value) in [
        ("/reason", json!("because")),
        ("/channel", json!("fax")),
        ("/next/reason", json!("")),
        ("/order/refund/kind", json!("voucher")),
        ("/plan", json!("")),
        ("/plan", json!("a\u{7}")),
        ("/plan", json!("p".repeat(65))),
    ] {
        rejected_as("out_of_range", |document| *document.pointer_mut(pointer).unwrap() = value.clone());
    }
}

#[test]
fn an_unbound_camera_has_neither_clips_nor_snapshots() {
    let unbound = |policy: &str, clips: bool, snapshots: bool| {
        judge_changed(|document| {
            let holder = if policy == "policy" { document } else { &mut document["next"] };
            holder["reason"] = json!("unbound");
            holder["policy"]["clips"] = json!(clips);
            holder["policy"]["snapshots"] = json!(snapshots);
        })
    };
    for policy in ["policy", "next"] {
        assert_eq!(code(unbound(policy, true, false)), "out_of_range");
        assert_eq!(code(unbound(policy, false, true)), "out_of_range");
        assert_eq!(code(unbound(policy, false, false)), "accepted");
    }
}

#[test]
fn the_first_check_that_fails_gives_the_code() {
    // Form before header, header before key, key before signature, signature before claims.
    let bad_header = json!({ "alg": "none", "kid": "nobody", "typ": TYP });
    assert_eq!(code(judge(key().sign_with_header(&bad_header, b"not json").as_bytes())), "bad_header");
    let unknown = json!({ "alg": "EdDSA", "kid": "nobody", "typ": TYP });
    assert_eq!(code(judge(key().sign_with_header(&unknown, b"not json").as_bytes())), "unknown_key");
    assert_eq!(code(judge(signer(KID, [1; 32]).sign(TYP, b"not json").as_bytes())), "bad_signature");
    rejected_as("wrong_issuer", |document| {
        document["iss"] = json!("x");
        document["aud"] = json!("x");
    });
}

#[test]
fn every_variant_has_a_code_of_its_own() {
    let all = [
        Reject::TooLarge { got: 2, limit: 1 },
        Reject::BadForm(String::new()),
        Reject::BadHeader(String::new()),
        Reject::BadSignature,
        Reject::UnknownKey(String::new()),
        Reject::RevokedKey(String::new()),
        Reject::KeyNotYetValid { iat: 1, not_before: 2 },
        Reject::WrongAudience { got: String::new(), expected: String::new() },
        Reject::WrongIssuer { got: String::new(), expected: String::new() },
        Reject::Unsupported(String::new()),
        Reject::OutOfRange(String::new()),
        Reject::AccountChanged,
        Reject::OldKeyset { got: 1, least: 2 },
        Reject::StateLost,
        Reject::FactoryReset { epoch: 3 },
        Reject::NotPersisted,
    ];
    let codes: std::collections::BTreeSet<_> = all.iter().map(Reject::code).collect();
    assert_eq!(codes.len(), all.len());
    assert!(codes.iter().all(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
}
