//! Property tests: no input panics, and nothing is accepted but what was signed.

use care_protocol::{Answer, Digest, Entitlement, Get, Grant, GrantRequest, Keyset, MotionEvent, Report, Stored};
use proptest::{prelude::*, sample::Index};

use super::{ISSUER, TYP, device, example, judge, judge_payload, key, keyset, root, roots};

fn read_as_everything(bytes: &[u8]) {
    let _ = judge(bytes);
    let _ = Entitlement::verify(bytes, None, ISSUER, &device());
    let _ = Keyset::verify(bytes, &roots(), ISSUER);
    let _ = Answer::read(bytes);
    let _ = serde_json::from_slice::<Get>(bytes);
    let _ = (Grant::read(bytes), Stored::read(bytes));
    let _ = serde_json::from_slice::<GrantRequest>(bytes);
    let _ = serde_json::from_slice::<Report>(bytes);
    let _ = serde_json::from_slice::<MotionEvent>(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = Digest::try_from(text.to_owned());
        let _ = text.parse::<care_protocol::PublicKey>();
        let _ = text.parse::<care_protocol::DeviceId>();
    }
}

/// Arbitrary JSON with names and values that the readers know.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|b| b.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        ".{0,8}".prop_map(|s| format!("{s:?}")),
        proptest::sample::select(&["iss", "seq", "policy", "crit", "lease", "keys", "resets"][..]).prop_map(|s| format!("{s:?}")),
    ];
    leaf.prop_recursive(12, 64, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec(("[a-z_]{0,6}", inner), 0..4).prop_map(|fields| {
                let fields: Vec<_> = fields.into_iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

proptest! {
    // A case takes twenty times as long under emulation, where only the word size differs.
    #![proptest_config(ProptestConfig::with_cases(if cfg!(target_arch = "x86_64") { 2_000 } else { 200 }))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..10_000)) {
        read_as_everything(&bytes);
    }

    #[test]
    fn no_text_in_the_token_alphabet_panics(text in "[A-Za-z0-9_.=-]{0,300}") {
        read_as_everything(text.as_bytes());
    }

    #[test]
    fn no_well_signed_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        prop_assert!(judge_payload(&bytes).is_err());
        read_as_everything(root().sign("care-keyset+jws", &bytes).as_bytes());
    }

    #[test]
    fn no_well_signed_json_panics(json in any_json(), field in any::<Index>()) {
        let _ = judge_payload(json.as_bytes());
        let _ = Keyset::verify(root().sign("care-keyset+jws", json.as_bytes()).as_bytes(), &roots(), ISSUER);
        // The same JSON in place of one field of a valid document.
        let mut document = example();
        let fields = document.as_object_mut().unwrap();
        let name = field.get(&fields.keys().cloned().collect::<Vec<_>>()).clone();
        fields[&name] = "HERE".into();
        let _ = judge_payload(document.to_string().replace("\"HERE\"", &json).as_bytes());
    }

    #[test]
    fn every_change_to_a_token_is_rejected(at in any::<Index>(), to: u8) {
        let token = key().sign(TYP, example().to_string().as_bytes()).into_bytes();
        let mut changed = token.clone();
        let at = at.index(token.len());
        changed[at] = to;
        prop_assert_eq!(judge(&changed).is_ok(), changed == token);
    }

    #[test]
    fn a_shortened_or_extended_token_is_rejected(at in any::<Index>(), more in proptest::collection::vec(any::<u8>(), 1..20)) {
        let token = key().sign(TYP, example().to_string().as_bytes()).into_bytes();
        prop_assert!(judge(&token[..at.index(token.len())]).is_err());
        prop_assert!(judge(&[&token[..], &more].concat()).is_err());
        prop_assert!(judge(&[&more, &token[..]].concat()).is_err());
    }

    #[test]
    fn every_change_to_a_keyset_is_rejected(at in any::<Index>(), to: u8) {
        let token = keyset().sign(&root()).into_bytes();
        let mut changed = token.clone();
        let at = at.index(token.len());
        changed[at] = to;
        prop_assert_eq!(Keyset::verify(&changed, &roots(), ISSUER).is_ok(), changed == token);
    }
}
