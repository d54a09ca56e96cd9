//! Entitlements that are accepted: every field as read, its limits, and the digest.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use care_protocol::{Channel, Digest, Entitlement, MAX_INTEGER, Policy, Position, Reason, RefundKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ISSUER, KID, TYP, device, example, judge, judge_changed, judge_payload, key, keyset, signer};

#[test]
fn every_field_of_an_entitlement_is_read() {
    let verified = judge_payload(example().to_string().as_bytes()).unwrap();
    let said = verified.entitlement;
    let free = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
    assert_eq!(said.position(), Position { epoch: 3, seq: 41 });
    assert_eq!((said.iss.as_str(), said.aud, said.account.as_str()), ("care", device(), "acct-5b1f"));
    assert_eq!((said.plan.as_str(), said.reason, said.channel), ("free", Reason::Cancelled, Channel::Portal));
    assert_eq!((said.iat, said.lease.max_age_s, said.lease.not_after), (1_767_225_600, 172_800, 1_767_398_400));
    assert_eq!(said.policy, free);
    let next = said.next.unwrap();
    assert_eq!((next.plan.as_str(), next.effective_at, next.reason, next.policy), ("free", 1_769_817_600, Reason::Cancelled, free));
    let order = said.order.unwrap();
    assert_eq!((order.id.as_str(), order.refund.kind, order.refund.amount_minor), ("KC-2026-000123", RefundKind::Refund, 412));
    assert_eq!((order.refund.currency.as_str(), said.crit.len(), verified.kid.as_str()), ("USD", 0, KID));
}

#[test]
fn next_and_order_are_optional_and_unknown_fields_are_ignored() {
    let verified = judge_changed(|document| {
        let document = document.as_object_mut().unwrap();
        document.remove("next");
        document.remove("order");
        document.insert("to_come".into(), json!({ "deep": [null, 1, "x"] }));
        document["policy"]["frames"] = json!(30);
        document["lease"]["to_come"] = Value::Null;
    })
    .unwrap();
    assert_eq!((verified.entitlement.next, verified.entitlement.order), (None, None));
}

#[test]
fn an_unknown_plan_name_is_accepted_and_crit_may_name_known_fields() {
    let verified = judge_changed(|document| {
        document["plan"] = json!("family");
        document["crit"] = json!(["policy", "next", "plan"]);
    })
    .unwrap();
    assert_eq!(verified.entitlement.plan.as_str(), "family");
}

#[test]
fn values_at_their_limits_are_accepted() {
    judge_changed(|document| {
        document["epoch"] = json!(MAX_INTEGER);
        document["seq"] = json!(MAX_INTEGER);
        document["iat"] = json!(MAX_INTEGER);
        document["lease"] = json!({ "max_age_s": 1, "not_after": 0 });
        document["policy"] =
            json!({ "clips": true, "history_h": 0, "clip_max_s": 2_147_483_647, "cooldown_s": 0, "max_height": 0, "snapshots": true });
    })
    .unwrap();
}

#[test]
fn both_names_of_the_algorithm_are_accepted() {
    for alg in ["EdDSA", "Ed25519"] {
        let header = json!({ "alg": alg, "kid": KID, "typ": TYP });
        judge(key().sign_with_header(&header, example().to_string().as_bytes()).as_bytes()).unwrap();
    }
}

#[test]
fn the_digest_covers_the_decoded_payload_and_not_the_key() {
    let payload = example().to_string();
    let verified = judge_payload(payload.as_bytes()).unwrap();
    assert_eq!(verified.digest, Digest::of(payload.as_bytes()));

    let other = signer("2027-01", [8; 32]);
    let mut both = keyset();
    both.keys.insert("2027-01".into(), care_protocol::Key { public: other.public_key(), not_before: 0 });
    let again = Entitlement::verify(other.sign(TYP, payload.as_bytes()).as_bytes(), Some(&both), ISSUER, &device()).unwrap();
    assert_eq!((again.digest, again.kid.as_str()), (verified.digest, "2027-01"));

    // The same payload with an added space is another document.
    let spaced = judge_payload(payload.replacen(':', ": ", 1).as_bytes()).unwrap();
    assert_ne!(spaced.digest, verified.digest);
    assert_eq!(spaced.entitlement, verified.entitlement);
}

#[test]
fn digests_are_written_as_sha256_and_lowercase_hex() {
    // NIST FIPS 180-2, appendix B.1.
    let digest = Digest::of(b"abc");
    assert_eq!(digest.to_string(), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(serde_json::to_value(digest).unwrap(), json!(digest.to_string()));
    assert_eq!(Digest::try_from(digest.to_string()).unwrap(), digest);
    for bad in ["", "sha256:", "ba7816bf", &digest.hex(), &format!("sha512:{}", digest.hex()), &format!("sha256:{}", "é".repeat(32))] {
        assert!(Digest::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

#[test]
fn rfc_8037_appendix_a_4_signs_to_the_published_token() {
    let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let published = signer("published", seed.try_into().unwrap());
    assert_eq!(published.public_key().to_base64url(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    assert_eq!(
        published.sign_with_header(&json!({ "alg": "EdDSA" }), b"Example of Ed25519 signing"),
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.\
         hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    );
}

fn any_reason() -> impl Strategy<Value = Reason> {
    proptest::sample::select(Reason::ALL)
}

proptest! {
    #[test]
    fn a_signed_document_reads_back_unchanged(
        epoch in 1..=MAX_INTEGER, seq in 1..=MAX_INTEGER, iat in 1_767_000_000..=MAX_INTEGER, account in ".{0,40}", plan in "[^\\p{Cc}]{1,64}",
        reason in any_reason(), limit in 0..=2_147_483_647_u32, clips: bool, with_next: bool
    ) {
        let mut document = judge_payload(example().to_string().as_bytes()).unwrap().entitlement;
        document.epoch = epoch.try_into().unwrap();
        document.seq = seq.try_into().unwrap();
        document.iat = iat;
        document.account = account;
        document.plan = plan.parse().unwrap();
        document.reason = reason;
        document.policy = Policy { clips: clips && reason != Reason::Unbound, history_h: limit, clip_max_s: limit, cooldown_s: limit, max_height: limit, snapshots: false };
        if !with_next {
            document.next = None;
        }
        let verified = judge(document.sign(&key()).as_bytes()).unwrap();
        prop_assert_eq!(verified.entitlement, document);
    }
}
