//! `vectors/tokens.json`: entitlements, good and bad, each judged by itself under one keyset.

use std::collections::BTreeMap;

use care_protocol::{Digest, Entitlement, Keyset, RootKeys};
use serde::{Deserialize, Serialize};

use super::{
    DEVICE, ISSUER, T0, check_names, check_or_write,
    keys::{ENTITLEMENT, KEYSET, current, impostor, keyset, keyset_of, newer, root},
    read,
};

#[derive(Serialize, Deserialize)]
struct File {
    issuer: String,
    device: String,
    roots: BTreeMap<String, String>,
    keysets: BTreeMap<String, String>,
    cases: Vec<Case>,
}

#[derive(Serialize, Deserialize)]
struct Case {
    name: String,
    tests: String,
    keyset: Option<String>,
    /// The token's bytes: as text if they are ASCII, otherwise as hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hex: Option<String>,
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    plan: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// A payload with all required fields.
const PLAIN: &str = r#"{"iss":"care","aud":"8006E5A1F0C2","account":"acct-5b1f","epoch":3,"seq":41,"plan":"free","reason":"cancelled","channel":"portal","iat":1767225600,"lease":{"max_age_s":172800,"not_after":1767398400},"policy":{"clips":true,"history_h":12,"clip_max_s":12,"cooldown_s":300,"max_height":720,"snapshots":false},"crit":[]}"#;
/// The fields between `policy` and `crit` in the example of docs/protocol.md#entitlement.
const NEXT_AND_ORDER: &str = r#""next":{"plan":"free","effective_at":1769817600,"reason":"cancelled","policy":{"clips":true,"history_h":12,"clip_max_s":12,"cooldown_s":300,"max_height":720,"snapshots":false}},"order":{"id":"KC-2026-000123","refund":{"kind":"refund","amount_minor":412,"currency":"USD"}},"crit""#;

/// The plain payload with one substring replaced.
#[track_caller]
fn plain(from: &str, to: &str) -> String {
    replaced(PLAIN, from, to)
}

/// The payload with `next` and `order`, with one substring replaced.
#[track_caller]
fn full(from: &str, to: &str) -> String {
    let full = replaced(PLAIN, r#""crit""#, NEXT_AND_ORDER);
    if from.is_empty() { full } else { replaced(&full, from, to) }
}

#[track_caller]
fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from} stands not once in the payload");
    text.replace(from, to)
}

/// The list of cases under construction.
struct Cases(Vec<Case>);

impl Cases {
    fn push(&mut self, heading: &str, name: &str, token: &str, keyset: Option<&str>, outcome: &str, reason: Option<&str>) -> &mut Case {
        self.0.push(Case {
            name: name.to_owned(),
            tests: format!("docs/protocol.md#{heading}"),
            keyset: keyset.map(str::to_owned),
            token: Some(token.to_owned()),
            hex: None,
            outcome: outcome.to_owned(),
            reason: reason.map(str::to_owned),
            epoch: None,
            seq: None,
            plan: None,
            digest: None,
        });
        self.0.last_mut().unwrap()
    }

    /// A valid token with this `(epoch, seq, plan)`.
    fn accept_token(&mut self, heading: &str, name: &str, token: &str, payload: &str, says: (u64, u64, &str), keyset: &str) {
        let case = self.push(heading, name, token, Some(keyset), "accepted", None);
        case.digest = Some(Digest::of(payload.as_bytes()).to_string());
        (case.epoch, case.seq, case.plan) = (Some(says.0), Some(says.1), Some(says.2.to_owned()));
    }

    /// A valid payload signed with the current key, with the position and plan of [`PLAIN`].
    fn accept(&mut self, heading: &str, name: &str, payload: &str) {
        let token = current().sign(ENTITLEMENT, payload);
        self.accept_token(heading, name, &token, payload, (3, 41, "free"), "current");
    }

    /// An invalid token, unchanged.
    fn reject_token(&mut self, heading: &str, reason: &str, name: &str, token: &str) {
        self.push(heading, name, token, Some("current"), "rejected", Some(reason));
    }

    /// An invalid payload with a correct signature.
    fn reject(&mut self, heading: &str, reason: &str, name: &str, payload: &str) {
        self.reject_token(heading, reason, name, &current().sign(ENTITLEMENT, payload));
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    accepted(&mut cases);
    form(&mut cases);
    header(&mut cases);
    keys(&mut cases);
    claims(&mut cases);
    ranges(&mut cases);
    order_of_judgement(&mut cases);
    cases.0
}

fn accepted(cases: &mut Cases) {
    let at = "entitlement";
    cases.accept(at, "with next and order", &full("", ""));
    cases.accept(at, "without next and order", PLAIN);
    cases.accept(at, "unknown fields are ignored", &plain(r#""crit""#, r#""lens":{"cover":[null,1.5,2e3]},"crit""#));
    cases.accept(at, "unknown fields in policy and lease are ignored", &{
        replaced(&plain(r#""clips":true"#, r#""clips":true,"fps":30"#), r#""max_age_s""#, r#""grace_s":null,"max_age_s""#)
    });
    cases.accept(at, "crit names fields that every device knows", &plain(r#""crit":[]"#, r#""crit":["policy","next","plan"]"#));
    cases.accept(at, "spaces and line ends between members", &PLAIN.replace(",\"", " ,\n  \""));
    cases.accept(at, "an escaped character in a string", &plain(r#""care""#, r#""\u0063are""#));
    cases.accept("encoding", "an unknown field eight levels deep", &plain(r#""crit""#, r#""x":[[[[[[[1]]]]]]],"crit""#));
    cases.accept(
        at,
        "reason unbound with neither clips nor snapshots",
        &replaced(&plain("cancelled", "unbound"), r#""clips":true"#, r#""clips":false"#),
    );
    cases.accept(
        "policy",
        "limits at the ends of their range",
        &plain(
            r#""history_h":12,"clip_max_s":12,"cooldown_s":300,"max_height":720"#,
            r#""history_h":0,"clip_max_s":2147483647,"cooldown_s":0,"max_height":2147483647"#,
        ),
    );
    cases.accept("lease", "the shortest lease, already over by its date", &{
        replaced(&plain(r#""max_age_s":172800"#, r#""max_age_s":1"#), r#""not_after":1767398400"#, r#""not_after":0"#)
    });
    let say = |cases: &mut Cases, at: &str, name: &str, payload: String, says| {
        let token = current().sign(ENTITLEMENT, &payload);
        cases.accept_token(at, name, &token, &payload, says, "current");
    };
    let largest = r#""epoch":9007199254740991,"seq":9007199254740991"#;
    say(cases, "encoding", "the largest epoch and seq", plain(r#""epoch":3,"seq":41"#, largest), (MOST, MOST, "free"));
    say(cases, at, "a plan name to come", plain(r#""plan":"free""#, r#""plan":"family""#), (3, 41, "family"));
    say(
        cases,
        at,
        "a plan name of 64 characters",
        plain(r#""plan":"free""#, &format!(r#""plan":"{}""#, "é".repeat(64))),
        (3, 41, &"é".repeat(64)),
    );
    for (name, header) in [
        ("alg Ed25519", r#"{"alg":"Ed25519","kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("the header's members in another order", r#"{"typ":"care-entitlement+jws","alg":"EdDSA","kid":"2026-11"}"#),
        ("spaces in the header", r#"{ "alg": "EdDSA", "kid": "2026-11", "typ": "care-entitlement+jws" }"#),
    ] {
        let token = current().sign_with(header, PLAIN.as_bytes());
        cases.accept_token("header", name, &token, PLAIN, (3, 41, "free"), "current");
    }
    let token = newer().sign(ENTITLEMENT, PLAIN);
    cases.accept_token("digest", "another key changes no digest", &token, PLAIN, (3, 41, "free"), "two keys");
    let token = current().sign(ENTITLEMENT, PLAIN);
    cases.accept_token("keyset", "iat at not_before", &token, PLAIN, (3, 41, "free"), "not before iat");
    let largest = filled(8192);
    cases.accept("encoding", "8192 bytes", &largest);
}

const MOST: u64 = 9_007_199_254_740_991;

/// A payload whose token has exactly this many bytes.
fn filled(bytes: usize) -> String {
    let of = |filler: usize| plain(r#""crit""#, &format!(r#""x":"{}","crit""#, "x".repeat(filler)));
    let longest = (0..bytes).find(|filler| current().sign(ENTITLEMENT, &of(*filler)).len() >= bytes).unwrap();
    of(longest)
}

fn form(cases: &mut Cases) {
    let good = current().sign(ENTITLEMENT, PLAIN);
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("a JWS has three parts") };
    cases.reject("encoding", "too_large", "8194 bytes, otherwise good", &filled(8193));
    cases.reject_token("encoding", "too_large", "8193 bytes that are no token", &"x".repeat(8193));
    cases.reject_token("encoding", "bad_form", "8192 bytes that are no token", &"x".repeat(8192));
    for (name, token) in [
        ("nothing", String::new()),
        ("two parts", format!("{header}.{payload}")),
        ("four parts", format!("{good}.{signature}")),
        ("padding", format!("{good}==")),
        ("padding inside", format!("{header}.{payload}=.{signature}")),
        ("a space before", format!(" {good}")),
        ("a line end behind", format!("{good}\n")),
        ("the alphabet of plain base64", format!("{header}.{payload}.+{}", &signature[1..])),
        ("bits set behind the last byte of the signature", format!("{}B", &good[..good.len() - 1])),
    ] {
        cases.reject_token("encoding", "bad_form", name, &token);
    }
    let case = cases.push("encoding", "bytes that are no text", "", Some("current"), "rejected", Some("bad_form"));
    (case.token, case.hex) = (None, Some("ff2eff2eff".to_owned()));
    for (name, payload) in [
        ("no payload", String::new()),
        ("null", "null".to_owned()),
        ("an array", "[]".to_owned()),
        ("a cut object", PLAIN[..100].to_owned()),
        ("two objects", format!("{PLAIN}{PLAIN}")),
        ("text behind the object", format!("{PLAIN}x")),
        ("a byte order mark", format!("\u{feff}{PLAIN}")),
        ("a comment", plain(r#"{"iss""#, r#"{/**/"iss""#)),
        ("a comma too many", plain(r#""crit":[]}"#, r#""crit":[],}"#)),
        ("a key twice", plain(r#"{"iss""#, r#"{"iss":"care","iss""#)),
        ("a key twice in policy", plain(r#""clips":true"#, r#""clips":true,"clips":true"#)),
        ("a key twice in an unknown field", plain(r#""crit""#, r#""x":[{"a":1,"a":1}],"crit""#)),
        ("a key twice, once escaped", plain(r#"{"iss""#, r#"{"\u0069ss":"care","iss""#)),
        ("nine levels deep", plain(r#""crit""#, r#""x":[[[[[[[[1]]]]]]]],"crit""#)),
        ("a control character in a string", plain("acct-5b1f", "acct\u{1}")),
        ("half a surrogate pair", plain("acct-5b1f", r"acct\ud800")),
        ("NaN", plain(r#""crit""#, r#""x":NaN,"crit""#)),
        ("seq with a fraction", plain(r#""seq":41"#, r#""seq":41.0"#)),
        ("seq with an exponent", plain(r#""seq":41"#, r#""seq":41e0"#)),
        ("seq with a leading zero", plain(r#""seq":41"#, r#""seq":041"#)),
        ("seq as a string", plain(r#""seq":41"#, r#""seq":"41""#)),
        ("clips as a number", plain(r#""clips":true"#, r#""clips":1"#)),
        ("history_h as a boolean", plain(r#""history_h":12"#, r#""history_h":true"#)),
        ("lease as an array", plain(r#"{"max_age_s":172800,"not_after":1767398400}"#, "[172800,1767398400]")),
        ("crit as a string", plain(r#""crit":[]"#, r#""crit":"policy""#)),
        ("a number in crit", plain(r#""crit":[]"#, r#""crit":[1]"#)),
        ("next is null", plain(r#""crit""#, r#""next":null,"crit""#)),
        ("order is null", plain(r#""crit""#, r#""order":null,"crit""#)),
        ("next without policy", plain(r#""crit""#, r#""next":{"plan":"free","effective_at":1769817600,"reason":"cancelled"},"crit""#)),
        ("order without refund", plain(r#""crit""#, r#""order":{"id":"KC-1"},"crit""#)),
    ] {
        cases.reject("encoding", "bad_form", name, &payload);
    }
    let invalid_utf8 = [br#"{"iss":""#, &b"\xff"[..], br#""}"#].concat();
    let header = r#"{"alg":"EdDSA","kid":"2026-11","typ":"care-entitlement+jws"}"#;
    cases.reject_token("encoding", "bad_form", "a payload that is no UTF-8", &current().sign_with(header, &invalid_utf8));
    for field in [
        r#""iss":"care","#,
        r#""aud":"8006E5A1F0C2","#,
        r#""account":"acct-5b1f","#,
        r#""epoch":3,"#,
        r#""seq":41,"#,
        r#""plan":"free","#,
        r#""reason":"cancelled","#,
        r#""channel":"portal","#,
        r#""iat":1767225600,"#,
        r#""lease":{"max_age_s":172800,"not_after":1767398400},"#,
        r#","crit":[]"#,
        r#""max_age_s":172800,"#,
        r#","not_after":1767398400"#,
        r#""clips":true,"#,
        r#""history_h":12,"#,
        r#""clip_max_s":12,"#,
        r#""cooldown_s":300,"#,
        r#""max_height":720,"#,
        r#","snapshots":false"#,
    ] {
        let name = field.trim_matches(',').split('"').nth(1).unwrap();
        let at = if PLAIN.find(field) < PLAIN.find("clips") { "entitlement" } else { "policy" };
        cases.reject(at, "bad_form", &format!("without {name}"), &plain(field, ""));
    }
    cases.reject("entitlement", "bad_form", "account is null", &plain(r#""acct-5b1f""#, "null"));
}

fn header(cases: &mut Cases) {
    for (name, header) in [
        ("no header", ""),
        ("a header that is an array", "[]"),
        ("no alg", r#"{"kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("no kid", r#"{"alg":"EdDSA","typ":"care-entitlement+jws"}"#),
        ("no typ", r#"{"alg":"EdDSA","kid":"2026-11"}"#),
        ("alg none", r#"{"alg":"none","kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("alg HS256", r#"{"alg":"HS256","kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("alg in lower case", r#"{"alg":"eddsa","kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("alg in an array", r#"{"alg":["EdDSA"],"kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("kid as a number", r#"{"alg":"EdDSA","kid":2026,"typ":"care-entitlement+jws"}"#),
        ("typ of a keyset", r#"{"alg":"EdDSA","kid":"2026-11","typ":"care-keyset+jws"}"#),
        ("typ JWT", r#"{"alg":"EdDSA","kid":"2026-11","typ":"JWT"}"#),
        ("a key in the header", r#"{"alg":"EdDSA","jwk":{"kty":"OKP"},"kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("crit in the header", r#"{"alg":"EdDSA","crit":["exp"],"kid":"2026-11","typ":"care-entitlement+jws"}"#),
        ("alg twice", r#"{"alg":"none","alg":"EdDSA","kid":"2026-11","typ":"care-entitlement+jws"}"#),
    ] {
        cases.reject_token("header", "bad_header", name, &current().sign_with(header, PLAIN.as_bytes()));
    }
}

fn keys(cases: &mut Cases) {
    let good = current().sign(ENTITLEMENT, PLAIN);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (_, of_another) = current().sign(ENTITLEMENT, "{}").rsplit_once('.').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let (_, other_payload) = signed.split_once('.').unwrap();
    let upgraded = current().sign(ENTITLEMENT, &plain(r#""history_h":12"#, r#""history_h":99"#));
    let altered = upgraded.split('.').nth(1).unwrap();
    for (name, token) in [
        ("signed by another key of this name", impostor().sign(ENTITLEMENT, PLAIN)),
        ("the signature of another payload", format!("{signed}.{of_another}")),
        ("a payload that was altered", format!("{}.{signature}", signed.replace(other_payload, altered))),
        ("no signature", format!("{signed}.")),
        ("a short signature", format!("{signed}.{}", &signature[..80])),
        ("a signature of zeros", format!("{signed}.{}", "A".repeat(86))),
        ("the group order added to the signature", format!("{signed}.{}", twin(signature))),
    ] {
        cases.reject_token("keyset", "bad_signature", name, &token);
    }
    let unknown = newer().sign(ENTITLEMENT, PLAIN);
    cases.reject_token("unknown-keys", "unknown_key", "a kid that no keyset names", &unknown);
    cases.push("unknown-keys", "no keyset yet", &good, None, "rejected", Some("unknown_key"));
    for (name, keyset) in [("a key that is listed and revoked", "listed and revoked"), ("a key that is only revoked", "revoked")] {
        cases.push("keyset", name, &good, Some(keyset), "rejected", Some("revoked_key"));
    }
    cases.push("keyset", "iat before not_before", &good, Some("not before a later time"), "rejected", Some("key_not_yet_valid"));
}

/// The same signature with the group order added to its second half; RFC 8032 section 5.1.7 requires rejection.
fn twin(signature: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0x10,
    ];
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut carry = 0;
    for (byte, add) in bytes[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

fn claims(cases: &mut Cases) {
    for (name, aud) in [("another device", "8006E5A1F0C3"), ("its device in lower case", "8006e5a1f0c2"), ("no device", "")] {
        cases.reject("judgement", "wrong_audience", name, &plain("8006E5A1F0C2", aud));
    }
    for (name, iss) in [("another issuer", "prod"), ("its issuer in another case", "Care"), ("no issuer's name", "")] {
        cases.reject("judgement", "wrong_issuer", name, &plain(r#""iss":"care""#, &format!(r#""iss":"{iss}""#)));
    }
    let unknown = plain(r#""crit":[]"#, r#""crit":["policy","lens_cover"]"#);
    cases.reject("entitlement", "unsupported", "crit names an unknown field", &unknown);
    let present = plain(r#""crit":[]"#, r#""lens_cover":true,"crit":["lens_cover"]"#);
    cases.reject("entitlement", "unsupported", "crit names an unknown field that is there", &present);
    cases.reject("entitlement", "unsupported", "crit names an empty field", &plain(r#""crit":[]"#, r#""crit":[""]"#));
}

fn ranges(cases: &mut Cases) {
    for (field, good) in [("epoch", "3"), ("seq", "41")] {
        for bad in ["0", "-1", "9007199254740992"] {
            let payload = plain(&format!(r#""{field}":{good},"#), &format!(r#""{field}":{bad},"#));
            cases.reject("encoding", "out_of_range", &format!("{field} is {bad}"), &payload);
        }
    }
    for (at, name, payload) in [
        ("entitlement", "iat is negative", plain(r#""iat":1767225600"#, r#""iat":-1"#)),
        ("entitlement", "iat is 2^53", plain(r#""iat":1767225600"#, r#""iat":9007199254740992"#)),
        ("lease", "max_age_s is 0", plain(r#""max_age_s":172800"#, r#""max_age_s":0"#)),
        ("lease", "not_after is negative", plain(r#""not_after":1767398400"#, r#""not_after":-1"#)),
        ("policy", "history_h is 2^31", plain(r#""history_h":12"#, r#""history_h":2147483648"#)),
        ("policy", "clip_max_s is negative", plain(r#""clip_max_s":12"#, r#""clip_max_s":-1"#)),
        ("policy", "cooldown_s is 2^31", plain(r#""cooldown_s":300"#, r#""cooldown_s":2147483648"#)),
        ("policy", "max_height is negative", plain(r#""max_height":720"#, r#""max_height":-720"#)),
        ("entitlement", "a reason that is not listed", plain("cancelled", "because")),
        ("entitlement", "a channel that is not listed", plain("portal", "fax")),
        ("entitlement", "a plan without a name", plain(r#""plan":"free""#, r#""plan":"""#)),
        ("entitlement", "a plan name of 65 characters", plain(r#""plan":"free""#, &format!(r#""plan":"{}""#, "p".repeat(65)))),
        ("entitlement", "a control character in a plan name", plain(r#""plan":"free""#, r#""plan":"a\u0007""#)),
        ("entitlement", "reason unbound with clips", plain("cancelled", "unbound")),
        (
            "entitlement",
            "reason unbound with snapshots",
            replaced(
                &replaced(&plain("cancelled", "unbound"), r#""clips":true"#, r#""clips":false"#),
                r#""snapshots":false"#,
                r#""snapshots":true"#,
            ),
        ),
        ("next", "next with a reason that is not listed", full(r#"1769817600,"reason":"cancelled""#, r#"1769817600,"reason":"x""#)),
        ("next", "next with reason unbound and clips", full(r#"1769817600,"reason":"cancelled""#, r#"1769817600,"reason":"unbound""#)),
        ("next", "effective_at is negative", full(r#""effective_at":1769817600"#, r#""effective_at":-1"#)),
        ("entitlement", "a kind of refund that is not listed", full(r#""kind":"refund""#, r#""kind":"voucher""#)),
        ("entitlement", "amount_minor is negative", full(r#""amount_minor":412"#, r#""amount_minor":-412"#)),
    ] {
        cases.reject(at, "out_of_range", name, &payload);
    }
}

fn order_of_judgement(cases: &mut Cases) {
    let mut reject = |reason: &str, name: &str, token: &str| cases.reject_token("judgement", reason, name, token);
    let no_alg = r#"{"alg":"none","kid":"nobody","typ":"care-entitlement+jws"}"#;
    reject("bad_header", "the header before the key and the payload", &current().sign_with(no_alg, b"no JSON"));
    let nobody = r#"{"alg":"EdDSA","kid":"nobody","typ":"care-entitlement+jws"}"#;
    reject("unknown_key", "the key before the signature and the payload", &impostor().sign_with(nobody, b"no JSON"));
    reject("bad_signature", "the signature before the payload", &impostor().sign(ENTITLEMENT, "no JSON"));
    let mut claim = |reason: &str, name: &str, payload: &str| reject(reason, name, &current().sign(ENTITLEMENT, payload));
    let foreign = replaced(&plain("8006E5A1F0C2", "8006E5A1F0C3"), r#""iss":"care""#, r#""iss":"prod""#);
    claim("wrong_issuer", "the issuer before the audience", &foreign);
    claim("wrong_audience", "the audience before the other claims", &replaced(&plain("8006E5A1F0C2", "X"), r#""seq":41,"#, ""));
    claim("out_of_range", "the claims before crit", &replaced(&plain(r#""seq":41"#, r#""seq":0"#), r#"[]"#, r#"["lens_cover"]"#));
}

/// The keysets that the cases name.
fn keysets() -> BTreeMap<String, String> {
    let (key, other) = (current(), newer());
    let of = |keys: &[(&super::keys::Key, u64)], revoked: &[&str]| root().sign(KEYSET, &keyset_of(7, keys, revoked, ""));
    [
        ("current", root().sign(KEYSET, &keyset(7))),
        ("two keys", of(&[(&key, 1_767_000_000), (&other, 1_767_000_000)], &["2025-11"])),
        ("not before iat", of(&[(&key, T0)], &[])),
        ("not before a later time", of(&[(&key, T0 + 1)], &[])),
        ("listed and revoked", of(&[(&key, 1_767_000_000)], &["2026-11"])),
        ("revoked", of(&[], &["2026-11"])),
    ]
    .map(|(name, token)| (name.to_owned(), token))
    .into()
}

#[test]
fn the_file_matches_the_cases() {
    let roots = [(root().kid.to_owned(), root().x())].into();
    let cases = cases();
    check_names(cases.iter().map(|case| (case.name.as_str(), case.tests.as_str())));
    check_or_write("tokens.json", &File { issuer: ISSUER.into(), device: DEVICE.into(), roots, keysets: keysets(), cases });
}

/// Each reason that a token alone can cause occurs several times.
#[test]
fn every_reason_occurs_more_than_once() {
    let cases = cases();
    let count = |reason: &str| cases.iter().filter(|case| case.reason.as_deref() == Some(reason)).count();
    for reason in ["too_large", "bad_form", "bad_header", "bad_signature", "unknown_key", "revoked_key"] {
        assert!(count(reason) >= 2, "{reason}");
    }
    for reason in ["wrong_audience", "wrong_issuer", "unsupported", "out_of_range"] {
        assert!(count(reason) >= 3, "{reason}");
    }
    assert!(count("key_not_yet_valid") >= 1);
    assert!(cases.iter().filter(|case| case.outcome == "accepted").count() >= 15);
}

#[test]
fn every_token_is_judged_as_the_file_says() {
    let file: File = read("tokens.json");
    let roots: RootKeys = file.roots.iter().map(|(kid, x)| (kid.clone(), x.parse().unwrap())).collect();
    let keyset_named = |name: &String| Keyset::verify(file.keysets[name].as_bytes(), &roots, &file.issuer).unwrap().keyset;
    for case in &file.cases {
        let bytes = case.token.clone().map_or_else(|| unhex(case.hex.as_deref().unwrap()), String::into_bytes);
        let keyset = case.keyset.as_ref().map(keyset_named);
        let judged = Entitlement::verify(&bytes, keyset.as_ref(), &file.issuer, &file.device.parse().unwrap());
        let found = match &judged {
            Ok(good) => {
                let said = &good.entitlement;
                let (epoch, seq) = (said.epoch.get(), said.seq.get());
                ("accepted", None, Some((epoch, seq, said.plan.to_string(), good.digest.to_string())))
            }
            Err(reject) => ("rejected", Some(reject.code()), None),
        };
        let says = case.digest.clone().map(|digest| (case.epoch.unwrap(), case.seq.unwrap(), case.plan.clone().unwrap(), digest));
        assert_eq!(found, (case.outcome.as_str(), case.reason.as_deref(), says), "{}: {judged:?}", case.name);
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
