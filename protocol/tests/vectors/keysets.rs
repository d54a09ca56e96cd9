//! `vectors/keysets.json`: keysets, good and bad, each judged by itself. What depends on the keysets before it (the
//! version) is in the histories.

use std::collections::BTreeMap;

use care_protocol::{Keyset, RootKeys};
use serde::{Deserialize, Serialize};

use super::{
    ISSUER, check_names, check_or_write,
    keys::{ENTITLEMENT, KEYSET, current, keyset, keyset_of, newer, root, root_impostor},
    read,
};

#[derive(Serialize, Deserialize)]
struct File {
    issuer: String,
    roots: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Serialize, Deserialize)]
struct Case {
    name: String,
    tests: String,
    token: String,
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// The keys that may sign: listed and not revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
}

const RESET: &str = r#"{"id":4,"aud":"8006E5A1F0C2","epoch":3,"seq":40}"#;

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut push = |at: &str, name: &str, token: String, outcome: &str, reason: Option<&str>, good: Option<(u64, &[&str])>| {
        cases.push(Case {
            name: name.to_owned(),
            tests: format!("docs/protocol.md#{at}"),
            token,
            outcome: outcome.to_owned(),
            reason: reason.map(str::to_owned),
            version: good.map(|(version, _)| version),
            keys: good.map(|(_, keys)| keys.iter().map(|kid| (*kid).to_owned()).collect()),
        });
    };
    let (key, other) = (current(), newer());
    let both: &[(&super::keys::Key, u64)] = &[(&key, 1_767_000_000), (&other, 1_767_225_600)];
    let signed = |payload: &str| root().sign(KEYSET, payload);
    let mut accept = |at: &str, name: &str, payload: &str, version: u64, keys: &[&str]| {
        push(at, name, signed(payload), "accepted", None, Some((version, keys)));
    };
    accept("keyset", "one key, a revoked name and a reset", &keyset_of(7, &both[..1], &["2025-11"], RESET), 7, &["2026-11"]);
    accept("keyset", "two keys", &keyset_of(8, both, &[], ""), 8, &["2026-11", "2027-01"]);
    accept("keyset", "no key at all", &keyset_of(1, &[], &[], ""), 1, &[]);
    accept("keyset", "a key that is listed and revoked", &keyset_of(9, both, &["2026-11"], ""), 9, &["2027-01"]);
    accept("keyset", "an unknown field is ignored", &keyset(7).replace(r#""keys""#, r#""note":1.5,"keys""#), 7, &["2026-11"]);
    accept("keyset", "the largest version", &keyset(9_007_199_254_740_991), 9_007_199_254_740_991, &["2026-11"]);
    let dated = RESET.replace("40}", r#"40,"time":1767225600}"#);
    accept("resets", "a reset with a time", &keyset_of(7, &both[..1], &[], &dated), 7, &["2026-11"]);
    let of_another = format!("{RESET},{}", RESET.replace("F0C2", "F0C3"));
    accept("resets", "resets of two devices", &keyset_of(7, &both[..1], &[], &of_another), 7, &["2026-11"]);
    accept("resets", "a reset to nothing", &keyset_of(7, &both[..1], &[], &RESET.replace("3,\"seq\":40", "0,\"seq\":0")), 7, &["2026-11"]);

    let mut reject = |at: &str, reason: &str, name: &str, token: String| push(at, name, token, "rejected", Some(reason), None);
    let good = keyset(7);
    reject("keyset", "bad_signature", "signed by another key under the root's name", root_impostor().sign(KEYSET, &good));
    let (token, newer_token) = (signed(&good), signed(&keyset(8)));
    let payload_of = |token: &str| token.split('.').nth(1).unwrap().to_owned();
    reject("keyset", "bad_signature", "a payload that was altered", token.replace(&payload_of(&token), &payload_of(&newer_token)));
    reject("keyset", "bad_signature", "no signature", token.rsplit_once('.').unwrap().0.to_owned() + ".");
    reject("keyset", "unknown_key", "signed by a key that signs entitlements", current().sign(KEYSET, &good));
    reject("keyset", "bad_header", "typ of an entitlement", root().sign(ENTITLEMENT, &good));
    let with_crit = r#"{"alg":"EdDSA","crit":[],"kid":"root-2026","typ":"care-keyset+jws"}"#;
    reject("keyset", "bad_header", "crit in the header", root().sign_with(with_crit, good.as_bytes()));
    reject("keyset", "too_large", "65537 bytes", "x".repeat(65_537));
    reject("keyset", "wrong_issuer", "another issuer", signed(&good.replace("care", "prod")));
    reject("keyset", "bad_form", "two parts", token.rsplit_once('.').unwrap().0.to_owned());
    for (name, from, to) in [
        ("without iss", r#""iss":"care","#, ""),
        ("without version", r#""version":7,"#, ""),
        ("without iat", r#""iat":1767225600,"#, ""),
        ("without revoked", r#""revoked":[],"#, ""),
        ("without resets", r#","resets":[]"#, ""),
        ("version with a fraction", r#""version":7"#, r#""version":7.0"#),
        ("version twice", r#""version":7"#, r#""version":8,"version":7"#),
        ("a key without not_before", r#","not_before":1767000000"#, ""),
        ("a key without kid", r#""kid":"2026-11","#, ""),
        ("a number in revoked", r#""revoked":[]"#, r#""revoked":[7]"#),
        ("keys is null", r#""keys":["#, r#""keys":null,"others":["#),
    ] {
        assert_eq!(good.matches(from).count(), 1, "{from}");
        reject("keyset", "bad_form", name, signed(&good.replace(from, to)));
    }
    let x = current().x();
    for (name, bad) in
        [("a key of 3 bytes", "AAAA".to_owned()), ("a key with padding", format!("{x}=")), ("a key that is no base64", "*".repeat(43))]
    {
        reject("keyset", "bad_form", name, signed(&good.replace(&x, &bad)));
    }
    let twice: &[(&super::keys::Key, u64)] = &[(&key, 1_767_000_000), (&key, 1_767_000_000)];
    reject("keyset", "bad_form", "a kid twice", signed(&keyset_of(7, twice, &[], "")));
    for (name, from, to) in
        [("a reset without aud", r#""aud":"8006E5A1F0C2","#, ""), ("a reset whose time is null", "40}", r#"40,"time":null}"#)]
    {
        reject("resets", "bad_form", name, signed(&keyset_of(7, &both[..1], &[], &RESET.replace(from, to))));
    }
    for (name, from, to) in
        [("version is 0", r#""version":7"#, r#""version":0"#), ("version is negative", r#""version":7"#, r#""version":-7"#)]
    {
        reject("keyset", "out_of_range", name, signed(&good.replace(from, to)));
    }
    for (name, from, to) in [("a reset with id 0", r#""id":4"#, r#""id":0"#), ("a reset whose time is negative", "40}", r#"40,"time":-1}"#)]
    {
        reject("resets", "out_of_range", name, signed(&keyset_of(7, &both[..1], &[], &RESET.replace(from, to))));
    }
    cases
}

#[test]
fn the_file_matches_the_cases() {
    let cases = cases();
    check_names(cases.iter().map(|case| (case.name.as_str(), case.tests.as_str())));
    check_or_write("keysets.json", &File { issuer: ISSUER.into(), roots: [(root().kid.to_owned(), root().x())].into(), cases });
}

#[test]
fn every_keyset_is_judged_as_the_file_says() {
    let file: File = read("keysets.json");
    let roots: RootKeys = file.roots.iter().map(|(kid, x)| (kid.clone(), x.parse().unwrap())).collect();
    for case in &file.cases {
        let judged = Keyset::verify(case.token.as_bytes(), &roots, &file.issuer).map(|verified| verified.keyset);
        let found = match &judged {
            Ok(keyset) => {
                let usable = keyset.keys.keys().filter(|kid| keyset.key(kid).is_ok()).cloned().collect();
                ("accepted", None, Some(keyset.version), Some(usable))
            }
            Err(reject) => ("rejected", Some(reject.code()), None, None),
        };
        let expected = (case.outcome.as_str(), case.reason.as_deref(), case.version, case.keys.clone());
        assert_eq!(found, expected, "{}: {judged:?}", case.name);
    }
}
