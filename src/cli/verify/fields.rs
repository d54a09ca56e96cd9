//! Judges a token as the camera would, and shows every field that can be read, of refused tokens too: what was expected,
//! what came, and whether it fits.

use std::time::Duration;

use care_engine::trusted_time::LATEST;
use care_protocol::{Digest, Entitlement, Keyset, MAX_TOKEN_BYTES, Position, Reject, VerifiedEntitlement};
use jiff::Timestamp;

use super::camera::{Camera, Verdict};
use crate::config::Config;

/// How a field stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It fits.
    Ok,
    /// The camera refuses the document for it.
    Failed,
    /// Nothing depends on it, or an earlier fault kept it from being judged.
    None,
}

impl Mark {
    /// As `check-config` marks its steps.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::None => "",
        }
    }
}

impl From<bool> for Mark {
    fn from(fits: bool) -> Self {
        if fits { Self::Ok } else { Self::Failed }
    }
}

/// One line of the table.
pub(super) struct Row {
    pub(super) mark: Mark,
    pub(super) field: &'static str,
    pub(super) expected: String,
    pub(super) got: String,
}

/// The checks in their order (`docs/protocol.md#judgement`): whatever comes after the one that fails is not judged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Check {
    Size,
    Form,
    Header,
    Key,
    Signature,
    Issuer,
    Device,
    Fields,
    Issued,
    Crit,
}

/// Which check a reject comes from; `claims` are empty if the token has no form.
fn failed(reject: &Reject, claims: &[(String, String)]) -> Check {
    match reject {
        Reject::TooLarge { .. } => Check::Size,
        Reject::BadForm(_) if claims.is_empty() => Check::Form,
        Reject::BadHeader(_) => Check::Header,
        Reject::UnknownKey(_) | Reject::RevokedKey(_) => Check::Key,
        Reject::BadSignature => Check::Signature,
        Reject::WrongIssuer { .. } => Check::Issuer,
        Reject::WrongAudience { .. } => Check::Device,
        Reject::KeyNotYetValid { .. } => Check::Issued,
        Reject::Unsupported(_) => Check::Crit,
        // What is missing, mistyped or out of its range; the others come from the camera, not from the token.
        _ => Check::Fields,
    }
}

/// What `crit` may name.
const KNOWN_FIELDS: &str = "fields that this agent knows";

/// The table of a file's token, and the verdict.
pub(super) fn judge(file: &[u8], keyset: &Keyset, camera: &Camera, config: &Config) -> (Vec<Row>, Verdict) {
    let token = file.trim_ascii();
    let verify = |token: &[u8]| Entitlement::verify(token, Some(keyset), &config.trust.issuer, &config.device.id);
    let verified = verify(token);
    let claims = Entitlement::claims(token);
    let mut table = Table { rows: Vec::new(), claims: &claims, failed: verified.as_ref().err().map(|reject| failed(reject, &claims)) };

    // HTTPS ignores white space around the token; in an MQTT message it is part of the token.
    let beside = verified.is_ok() && verify(file).is_err();
    table.check(Check::Size, "size", format!("at most {MAX_TOKEN_BYTES} bytes"), format!("{} bytes", token.len()));
    match (table.mark(Check::Form), beside) {
        (_, true) => table.add(Mark::Failed, "form", "a compact JWS alone", "blanks or a line break beside it: refused over MQTT"),
        (Mark::Ok, _) => table.add(Mark::Ok, "form", "a compact JWS alone", "good"),
        (mark, _) => table.add(mark, "form", "a compact JWS alone", "none that can be read"),
    }
    if claims.is_empty() {
        let verdict = verified.map(|_| "applied").map_err(|reject| (reject.code(), reject.to_string()));
        return (table.rows, verdict);
    }
    let header = "EdDSA or Ed25519, care-entitlement+jws".to_owned();
    table.check(Check::Header, "alg, typ", header, format!("{}, {}", table.claim("header.alg"), table.claim("header.typ")));
    let known: Vec<_> = keyset.keys.keys().filter(|kid| !keyset.revoked.contains(kid)).map(|kid| format!("{kid:?}")).collect();
    let keys = format!("{} of keyset {}", known.join(" or "), keyset.version);
    table.check(Check::Key, "kid", keys, format!("{:?}", table.claim("header.kid")));
    let signature = match table.mark(Check::Signature) {
        Mark::Ok => "good",
        Mark::Failed => "of another key, or of another payload",
        Mark::None => "not judged",
    };
    table.check(Check::Signature, "signature", "good under that key".to_owned(), signature.to_owned());
    table.equal("issuer", "iss", &config.trust.issuer);
    table.equal("device", "aud", config.device.id.as_str());
    let verdict = match &verified {
        Ok(verified) => table.standing(verified, beside, camera),
        Err(reject) => {
            table.unverified(reject, camera);
            Err((reject.code(), reject.to_string()))
        }
    };
    (table.rows, verdict)
}

struct Table<'a> {
    rows: Vec<Row>,
    claims: &'a [(String, String)],
    failed: Option<Check>,
}

impl Table<'_> {
    fn add(&mut self, mark: Mark, field: &'static str, expected: impl Into<String>, got: impl Into<String>) {
        self.rows.push(Row { mark, field, expected: expected.into(), got: got.into() });
    }

    fn check(&mut self, check: Check, field: &'static str, expected: String, got: String) {
        self.add(self.mark(check), field, expected, got);
    }

    fn mark(&self, check: Check) -> Mark {
        match self.failed {
            Some(failed) if failed == check => Mark::Failed,
            Some(failed) if failed < check => Mark::None,
            _ => Mark::Ok,
        }
    }

    /// What the token claims, safe to print: anybody may have written it.
    fn claim(&self, name: &str) -> String {
        let value = self.claims.iter().find(|(claim, _)| claim == name).map_or("nothing", |(_, value)| value);
        let escaped: String = value.chars().take(80).collect::<String>().escape_debug().to_string();
        if value.chars().nth(80).is_some() { escaped + "…" } else { escaped }
    }

    /// The fields of an object, `clips true, history_h 12`.
    fn object(&self, name: &str) -> Option<String> {
        let fields: Vec<_> = self
            .claims
            .iter()
            .filter_map(|(claim, _)| Some(format!("{} {}", claim.strip_prefix(name)?.strip_prefix('.')?, self.claim(claim))))
            .collect();
        (!fields.is_empty()).then(|| fields.join(", "))
    }

    /// A claim that must be one text, which is judged whatever else is wrong.
    fn equal(&mut self, field: &'static str, name: &str, expected: &str) {
        let fits = self.claims.iter().any(|(claim, value)| claim == name && value == expected);
        self.add(fits.into(), field, expected, self.claim(name));
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.claims.iter().find(|(claim, _)| claim == name)?.1.parse().ok()
    }

    /// The rest of a token that is refused whatever the camera has seen.
    fn unverified(&mut self, reject: &Reject, camera: &Camera) {
        self.add(Mark::None, "account", "", self.claim("account"));
        if let (Some(epoch), Some(seq)) = (self.number("epoch"), self.number("seq")) {
            let position = Position { epoch, seq };
            let (expected, order) = camera.order(position, None);
            self.add(order.is_ok().into(), "epoch, seq", expected, position.to_string());
        }
        self.unjudged();
        let bounds = match reject {
            Reject::KeyNotYetValid { not_before, .. } => format!("{} or later", at(*not_before)),
            _ => String::new(),
        };
        let issued = self.number("iat").map_or_else(|| self.claim("iat"), at);
        let mark = if self.failed == Some(Check::Issued) { Mark::Failed } else { Mark::None };
        self.add(mark, "issued", bounds, issued);
        self.add(Mark::None, "lease", "", self.object("lease").unwrap_or_else(|| self.claim("lease")));
        match self.failed {
            Some(Check::Crit) => self.add(Mark::Failed, "crit", KNOWN_FIELDS, reject.to_string()),
            _ => self.add(Mark::None, "crit", "", self.claim("crit")),
        }
        if self.failed == Some(Check::Fields) {
            self.add(Mark::Failed, "fields", "what docs/protocol.md lists", reject.to_string());
        }
    }

    /// Fields of which the camera takes whatever is in their lists.
    fn unjudged(&mut self) {
        self.add(Mark::None, "plan", "", self.claim("plan"));
        self.add(Mark::None, "reason", "", format!("{}, through {}", self.claim("reason"), self.claim("channel")));
        for name in ["policy", "next", "order"] {
            self.add(Mark::None, name, "", self.object(name).unwrap_or_else(|| "none".to_owned()));
        }
    }

    /// The rest of a good token: order, age and lease against what the camera has.
    fn standing(&mut self, verified: &VerifiedEntitlement, beside: bool, camera: &Camera) -> Verdict {
        let VerifiedEntitlement { entitlement: document, digest, .. } = verified;
        let (expected, ordered) = camera.order(document.position(), Some(*digest));
        let out_of_range = Duration::from_secs(document.iat) > LATEST;
        let account = camera.account_of(document.epoch.get());
        let other_account = account.is_some_and(|account| account != document.account);
        let of_epoch = account.map_or_else(|| "any".to_owned(), |account| format!("{account}, of this epoch"));
        self.add((!other_account).into(), "account", of_epoch, self.claim("account"));
        self.add(ordered.is_ok().into(), "epoch, seq", expected, document.position().to_string());
        self.unjudged();
        self.issued(document.iat, out_of_range, camera);
        self.lease(document, *digest, camera);
        self.add(Mark::Ok, "crit", KNOWN_FIELDS, if document.crit.is_empty() { "none".to_owned() } else { self.claim("crit") });
        self.add(Mark::None, "digest", "", digest.to_string());
        if beside {
            let why = "something stands before or after the token, and an MQTT message is judged whole; HTTPS ignores blanks";
            Err(("bad_form", why.to_owned()))
        } else if out_of_range {
            Err(("out_of_range", format!("iat is {}, beyond the end of any certificate; are these milliseconds?", document.iat)))
        } else if other_account && matches!(ordered, Ok("applied")) {
            Err((Reject::AccountChanged.code(), Reject::AccountChanged.to_string()))
        } else {
            ordered
        }
    }

    fn issued(&mut self, iat: u64, out_of_range: bool, camera: &Camera) {
        let bound = format!("at most {}", at(camera.trusted.as_secs()));
        match camera.ahead(iat) {
            _ if out_of_range => self.add(Mark::Failed, "issued", bound, format!("{}, beyond the end of any certificate", at(iat))),
            Some(ahead) => {
                let so = format!("{}, {} s ahead: refused if the server's certificate ends before", at(iat), ahead.as_secs());
                self.add(Mark::Ok, "issued", bound, so);
            }
            None => self.add(Mark::Ok, "issued", bound, at(iat)),
        }
    }

    fn lease(&mut self, document: &Entitlement, digest: Digest, camera: &Camera) {
        let (left, over_by_system) = camera.lease_left(document, digest);
        let lease = &document.lease;
        let left = match left.as_secs() {
            0 => "over: no more leaves than [free] and this policy both allow".to_owned(),
            left => format!("{left} s left{}", if over_by_system { "; by the system clock it is over" } else { "" }),
        };
        let got = format!("{} s after receipt, at most until {}: {left}", lease.max_age_s, at(lease.not_after));
        self.add(Mark::None, "lease", "some time left", got);
    }
}

/// A Unix time as RFC 3339, with the number from the document.
fn at(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| format!("{time} ({seconds})"))
}
