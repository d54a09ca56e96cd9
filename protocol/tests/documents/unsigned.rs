//! The unsigned documents, names and topics, exactly as on the wire: `get`, answers, grants, reports.

use care_protocol::{
    Answer, Cause, ClipKind, DeviceId, Digest, Entitlement, Epoch, Get, Grant, GrantRequest, Keyset, MAX_INTEGER, MAX_KEYSET_BYTES,
    MAX_TOKEN_BYTES, Mode, Outcome, Part, Plan, Position, Reject, Report, Reset, Seq, Signer, Stored, Topic, Topics, is_sha256_hex,
};
use proptest::prelude::*;
use serde_json::json;

use super::{DEVICE, ISSUER, device};

#[test]
fn topics_are_those_of_the_specification() {
    let topics = Topics::new("care/v1", &device());
    assert_eq!(topics.entitlement(), "care/v1/8006E5A1F0C2/entitlement");
    assert_eq!(topics.answer(), "care/v1/8006E5A1F0C2/entitlement/answer");
    assert_eq!(topics.keyset(), "care/v1/keyset");
    assert_eq!(topics.get(), "care/v1/8006E5A1F0C2/get");
    assert_eq!(topics.report(), "care/v1/8006E5A1F0C2/report");
    assert_eq!(topics.status(), "care/v1/8006E5A1F0C2/status");
}

#[test]
fn every_topic_has_exactly_one_class() {
    let topics = Topics::new("care/v1", &device());
    for (topic, class) in [(topics.entitlement(), Topic::Entitlement), (topics.answer(), Topic::Answer), (topics.keyset(), Topic::Keyset)] {
        assert_eq!(topics.classify(&topic), Some(class));
    }
    for other in [
        topics.get(),
        topics.report(),
        topics.status(),
        "care/v1/8006E5A1F0C3/entitlement".into(),
        "care/v1/8006E5A1F0C2entitlement".into(),
        "care/v1/8006E5A1F0C2/entitlement/".into(),
        "care/v1/8006E5A1F0C2/entitlement/answer/x".into(),
        "care/v1/8006E5A1F0C2/keyset".into(),
        "care/v2/keyset".into(),
        "care/v1keyset".into(),
        String::new(),
    ] {
        assert_eq!(topics.classify(&other), None, "{other}");
    }
}

#[test]
fn a_device_called_keyset_still_reads_its_own_topics() {
    let topics = Topics::new("care/v1", &"keyset".parse().unwrap());
    assert_eq!(topics.classify(&topics.keyset()), Some(Topic::Keyset));
    assert_eq!(topics.classify(&topics.entitlement()), Some(Topic::Entitlement));
}

#[test]
fn device_ids_are_safe_as_topic_level_path_segment_and_cn() {
    for good in [DEVICE, "a", "A.b-c_9", &"x".repeat(64)] {
        assert_eq!(good.parse::<DeviceId>().unwrap().as_str(), good);
    }
    for bad in ["", ".", "..", "...", "a/b", "+", "#", "a b", "a\0", "é", "a\n", "$SYS/x", "%2e", &"x".repeat(65)] {
        assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
    }
}

#[test]
fn counters_end_at_2_to_the_53_minus_1_and_never_wrap() {
    let last = Seq::try_from(MAX_INTEGER).unwrap();
    assert_eq!(last.next(), None);
    assert_eq!(Seq::try_from(1).unwrap().next().unwrap().get(), 2);
    assert!(Seq::try_from(0).is_err() && Seq::try_from(MAX_INTEGER + 1).is_err() && Epoch::try_from(u64::MAX).is_err());
    assert!(serde_json::from_value::<Epoch>(json!(0)).is_err());
}

#[test]
fn an_answer_is_read_strictly() {
    let answer = Answer::read(br#"{"nonce":"AAAAAAAAAAAAAAAAAAAAAA","token":"a.b.c","to_come":1}"#).unwrap();
    assert_eq!((answer.nonce.as_str(), answer.token.as_str()), ("AAAAAAAAAAAAAAAAAAAAAA", "a.b.c"));
    for bad in [
        &b""[..],
        br#"{"nonce":"a"}"#,
        br#"{"token":"a"}"#,
        br#"{"nonce":null,"token":"a"}"#,
        br#"{"nonce":"a","nonce":"b","token":"a"}"#,
        br#"{"nonce":"a","token":1}"#,
        b"[]",
    ] {
        assert_eq!(Answer::read(bad).unwrap_err().code(), "bad_form", "{}", String::from_utf8_lossy(bad));
    }
    assert_eq!(Answer::read(&vec![b' '; Answer::MAX_BYTES + 1]).unwrap_err().code(), "too_large");
}

#[test]
fn size_limits_are_those_of_the_specification() {
    assert_eq!((MAX_TOKEN_BYTES, MAX_KEYSET_BYTES, MAX_INTEGER), (8192, 65_536, 9_007_199_254_740_991));
}

#[test]
fn an_answer_has_room_for_the_largest_token() {
    let around = r#"{"nonce":"n","token":""}"#;
    let of = |bytes: usize| around.replace(r#""""#, &format!("\"{}\"", "a".repeat(bytes - around.len())));
    assert_eq!(Answer::MAX_BYTES, 9 * 1024);
    assert_eq!(Answer::read(of(Answer::MAX_BYTES).as_bytes()).unwrap().token.len(), Answer::MAX_BYTES - around.len());
    assert_eq!(
        Answer::read(of(Answer::MAX_BYTES + 1).as_bytes()),
        Err(Reject::TooLarge { got: Answer::MAX_BYTES + 1, limit: Answer::MAX_BYTES })
    );

    // Invalid input larger than any document is rejected for its size.
    assert_eq!(Answer::read(&[b'x'; MAX_TOKEN_BYTES]).unwrap_err().code(), "bad_form");
    assert_eq!(Answer::read(&[b'x'; MAX_TOKEN_BYTES + 1]), Err(Reject::TooLarge { got: MAX_TOKEN_BYTES + 1, limit: MAX_TOKEN_BYTES }));
}

#[test]
fn a_grant_is_read_strictly() {
    let text =
        r#"{"method":"PUT","url":"https://clips.example/7","headers":{"a":"1","b":"2"},"expires_at":"2026-01-01T00:05:00Z","more":1}"#;
    let grant = Grant::read(text.as_bytes()).unwrap();
    assert_eq!((grant.method.as_str(), grant.url.as_str()), ("PUT", "https://clips.example/7"));
    assert_eq!(grant.headers, [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into());
    assert_eq!(grant.expires_at.to_string(), "2026-01-01T00:05:00Z");
    assert!(Grant::read(text.replace(r#""headers":{"a":"1","b":"2"},"#, "").as_bytes()).unwrap().headers.is_empty());
    for (from, to) in [
        ("PUT\"", "PUT\",\"method\":\"PUT\""),
        ("\"url\"", "\"to\""),
        ("\"2\"", "2"),
        (r#"{"a":"1","b":"2"}"#, "null"),
        ("05:00Z", "05:00"),
        ("2026-01-01T00:05:00Z", "soon"),
    ] {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        assert_eq!(Grant::read(changed.as_bytes()).unwrap_err().code(), "bad_form", "{changed}");
    }
}

#[test]
fn only_stored_true_means_stored() {
    assert!(Stored::read(br#"{"stored":true,"more":1}"#).unwrap().stored);
    for bad in [r#"{"stored":false}"#, r#"{"stored":1}"#, r#"{"stored":null}"#, "{}", "true", ""] {
        assert_eq!(Stored::read(bad.as_bytes()).unwrap_err().code(), "bad_form", "{bad}");
    }
}

#[test]
fn the_claimed_position_of_an_unverified_token_is_read_if_possible() {
    let claimed =
        |payload: serde_json::Value| Entitlement::claimed_position(super::root().sign("any", payload.to_string().as_bytes()).as_bytes());
    assert_eq!(claimed(json!({ "epoch": 3, "seq": 41, "aud": "other" })), Some(Position { epoch: 3, seq: 41 }));
    assert_eq!(claimed(json!({ "epoch": MAX_INTEGER, "seq": 1 })), Some(Position { epoch: MAX_INTEGER, seq: 1 }));
    for bad in [json!({ "seq": 41 }), json!({ "epoch": 0, "seq": 41 }), json!({ "epoch": 3, "seq": MAX_INTEGER + 1 }), json!([3, 41])] {
        assert_eq!(claimed(bad.clone()), None, "{bad}");
    }
    for bad in [&b""[..], b"a", b"a.b.c", b"\xff.\xff.\xff"] {
        assert_eq!(Entitlement::claimed_position(bad), None);
    }
    let of = |bytes: usize| {
        let token = super::root().sign("any", json!({ "epoch": 3, "seq": 41 }).to_string().as_bytes());
        let more = "A".repeat(bytes - token.len());
        Entitlement::claimed_position((token + &more).as_bytes())
    };
    assert_eq!((of(MAX_TOKEN_BYTES), of(MAX_TOKEN_BYTES + 1)), (Some(Position { epoch: 3, seq: 41 }), None));
}

#[test]
fn generated_keys_differ_and_sign() {
    let [a, b] = [Signer::generate(), Signer::generate()].map(|key| Signer::from_pkcs8("fresh", &key).unwrap());
    assert_eq!(a.kid(), "fresh");
    assert_ne!(a.public_key(), b.public_key());
    let roots = [("fresh".to_owned(), a.public_key())].into();
    let verify = |signer: &Signer| Keyset::verify(super::keyset().sign(signer).as_bytes(), &roots, ISSUER);
    assert_eq!(verify(&a).map(|verified| verified.keyset), Ok(super::keyset()));
    assert_eq!(verify(&b).map_err(|reject| reject.code()).err(), Some("bad_signature"));
}

#[test]
fn display_and_wire_formats_agree() {
    assert_eq!(device().to_string(), DEVICE);
    assert_eq!(Position { epoch: 3, seq: 41 }.to_string(), "(3, 41)");
    let reset = Reset { id: 1, aud: DEVICE.into(), epoch: 3, seq: 41, time: None };
    assert_eq!(reset.position(), Position { epoch: 3, seq: 41 });
    assert_eq!((Seq::try_from(41).unwrap().to_string(), Epoch::try_from(3).unwrap().to_string()), ("41".to_owned(), "3".to_owned()));
    let plan: Plan = "plus".parse().unwrap();
    assert_eq!((plan.to_string(), plan.as_str(), plan.is_free()), ("plus".to_owned(), "plus", false));
    assert!(Plan::free().is_free());
    let digest = Digest::of(b"abc");
    assert_eq!(digest.to_string(), format!("sha256:{}", digest.hex()));
    assert_eq!(format!("{digest:?}"), digest.to_string());
    assert_eq!(digest.hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(format!("{:?}", super::key()), "Signer { kid: \"2026-11\", .. }");
    assert_eq!(format!("{:?}", super::key().public_key()), super::key().public_key().to_base64url());
}

#[test]
fn a_clip_digest_is_64_lowercase_hex_digits() {
    let digits = "0123456789abcdef".repeat(4);
    assert!(is_sha256_hex(&digits));
    for bad in ["", &digits[1..], &format!("{digits}0"), &digits.to_uppercase(), &digits.replace('0', "g"), &digits.replace("01", "é")] {
        assert!(!is_sha256_hex(bad), "{bad}");
    }
}

#[test]
fn get_and_grant_request_are_written_as_the_specification_says() {
    let get = Get { nonce: "AAAAAAAAAAAAAAAAAAAAAA".into(), epoch: 3, seq: 41 };
    assert_eq!(serde_json::to_value(&get).unwrap(), json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "epoch": 3, "seq": 41 }));
    let request = GrantRequest {
        clip: "5b0c3a6e-0d5c-4f6e-9d52-2d3b8a4e7f10".into(),
        kind: ClipKind::Motion,
        started_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        duration_ms: 12_000,
        bytes: 7,
        sha256: "00".into(),
        part: None,
        epoch: 3,
        seq: 41,
    };
    let written = serde_json::to_value(&request).unwrap();
    assert_eq!((&written["kind"], &written["started_at"]), (&json!("motion"), &json!("2026-01-01T00:00:00Z")));
    let names: Vec<_> = written.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 8);
    assert_eq!(serde_json::from_value::<GrantRequest>(written).unwrap(), request);
    let part = GrantRequest { part: Some(Part { index: 0, last: false }), ..request };
    let written = serde_json::to_value(&part).unwrap();
    assert_eq!(written["part"], json!({ "index": 0, "last": false }));
    assert_eq!(serde_json::from_value::<GrantRequest>(written).unwrap(), part);
}

#[test]
fn a_report_is_written_as_the_specification_says() {
    let text = r#"{ "device": "8006E5A1F0C2", "outcome": "applied", "reason": "cancelled", "cause": "document",
        "judged": { "epoch": 3, "seq": 41 },
        "epoch": 3, "seq": 41, "digest": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "plan": "free", "mode": "free", "persisted": true, "keyset": 7,
        "cut": { "transfers": 2, "micros": 840, "bytes_after": 0 },
        "erased": { "clips": 3, "bytes": 5242880 },
        "at": "2026-01-01T00:00:00Z", "agent": "0.1.0" }"#;
    let report: Report = serde_json::from_str(text).unwrap();
    assert_eq!((report.outcome, report.cause, report.mode), (Outcome::Applied, Cause::Document, Mode::Free));
    assert_eq!(serde_json::to_value(&report).unwrap(), serde_json::from_str::<serde_json::Value>(text).unwrap());

    let nothing = Report { judged: None, epoch: 0, seq: 0, digest: None, plan: None, mode: Mode::Unbound, ..report };
    let written = serde_json::to_value(nothing).unwrap();
    for name in ["judged", "digest", "plan"] {
        assert_eq!(written.get(name), Some(&serde_json::Value::Null), "{name} is there, and null");
    }
    assert_eq!(written["mode"], json!("unbound"));
}

#[test]
fn the_detail_of_a_report_is_optional_and_at_most_200_characters() {
    let text = r#"{ "device": "8006E5A1F0C2", "outcome": "rejected", "reason": "wrong_issuer", "cause": "document", "judged": null,
        "epoch": 0, "seq": 0, "digest": null, "plan": null, "mode": "unbound", "persisted": true, "keyset": 0,
        "cut": { "transfers": 0, "micros": 0, "bytes_after": 0 }, "erased": { "clips": 0, "bytes": 0 },
        "at": "2026-01-01T00:00:00Z", "agent": "0.1.0" }"#;
    let report: Report = serde_json::from_str(text).unwrap();
    assert!(serde_json::to_value(&report).unwrap().get("detail").is_none());
    let detail = |text: &str| Report::detail_of(text);
    assert_eq!(detail("issuer is \"prod\""), "issuer is \"prod\"");
    assert_eq!(detail(&"é".repeat(200)), "é".repeat(200));
    assert_eq!(detail(&"é".repeat(201)), "é".repeat(199) + "…");
    let written = serde_json::to_value(Report { detail: Some("why".into()), ..report }).unwrap();
    assert_eq!(written["detail"], json!("why"));
    assert_eq!(serde_json::from_value::<Report>(written).unwrap().detail.as_deref(), Some("why"));
}

#[test]
fn the_names_on_the_wire_are_those_of_the_specification() {
    let names = |values: serde_json::Value| values.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let outcomes = [Outcome::Applied, Outcome::Duplicate, Outcome::Stale, Outcome::Conflict, Outcome::Rejected];
    assert_eq!(names(json!(outcomes)), ["applied", "duplicate", "stale", "conflict", "rejected"]);
    assert_eq!(names(json!(outcomes)), outcomes.map(|outcome| outcome.to_string()));
    let causes = [
        (Cause::Document, "document"),
        (Cause::Next, "next"),
        (Cause::Lease, "lease"),
        (Cause::Boot, "boot"),
        (Cause::Link, "link"),
        (Cause::Confirmed, "confirmed"),
        (Cause::Refused, "refused"),
        (Cause::StateLost, "state_lost"),
        (Cause::FactoryReset, "factory_reset"),
        (Cause::Time, "time"),
    ];
    let (causes, spelt): (Vec<_>, Vec<_>) = causes.into_iter().unzip();
    assert_eq!(names(json!(causes)), spelt);
    let causes: Vec<_> = causes.into_iter().map(|cause| cause.to_string()).collect();
    assert_eq!(causes, spelt);
}

proptest! {
    #[test]
    fn a_topic_never_belongs_to_two_devices(a in "[A-Za-z0-9._-]{1,64}", b in "[A-Za-z0-9._-]{1,64}") {
        prop_assume!(a != b);
        let (Ok(a), Ok(b)) = (a.parse::<DeviceId>(), b.parse::<DeviceId>()) else { return Ok(()) };
        let (a, b) = (Topics::new("care/v1", &a), Topics::new("care/v1", &b));
        for topic in [b.entitlement(), b.answer()] {
            prop_assert!(a.classify(&topic).is_none_or(|class| class == Topic::Keyset));
        }
    }

    #[test]
    fn a_plan_name_is_kept_unchanged(name in "\\PC{1,64}") {
        if let Ok(plan) = name.parse::<Plan>() {
            prop_assert_eq!(plan.as_str(), &name);
            prop_assert_eq!(plan.is_free(), name == "free");
        }
    }
}
