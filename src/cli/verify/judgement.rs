//! Judges a verified entitlement as the device would, field by field: form, order, age and lease. It cannot know the
//! connection over which the document will arrive, and so not when the server's certificate expires.

use std::{cmp::Ordering, time::Duration};

use care_engine::{
    Record,
    trusted_time::{AGREE_WITHIN, LATEST, timestamp},
};
use care_protocol::{Digest, Entitlement, Reject, VerifiedEntitlement};

use crate::{
    clock::{Clock, system_time},
    config::Config,
};

/// The verdict, and a remark for each field.
pub(super) struct Judgement {
    /// What the device would do, or the reason code and explanation of its refusal.
    pub(super) verdict: Result<&'static str, (&'static str, String)>,
    pub(super) clocks: String,
    pub(super) form: String,
    pub(super) account: String,
    pub(super) order: String,
    pub(super) issued: String,
    pub(super) lease: String,
}

impl Judgement {
    pub(super) fn to_text(&self) -> String {
        match &self.verdict {
            Ok(outcome) => (*outcome).to_owned(),
            Err((code, why)) => format!("refused, {code}: {why}"),
        }
    }
}

/// Judges a verified entitlement. `form` is why an MQTT message with the file's exact bytes would be rejected.
pub(super) fn judge(verified: &VerifiedEntitlement, form: Option<Reject>, record: Option<&Record>, config: &Config) -> Judgement {
    let document = &verified.entitlement;
    let trusted = Clock::start(record.map(|record| Duration::from_secs(record.trusted_s))).now().trusted;
    let system = system_time();
    let out_of_range = Duration::from_secs(document.iat) > LATEST;
    let in_force = record.and_then(|record| in_force(record, config));
    let other_account = in_force.as_ref().is_some_and(|(held, _)| held.epoch == document.epoch && held.account != document.account);
    let (order, ordered) = order(verified, record, in_force.as_ref());
    let verdict = if let Some(reject) = &form {
        Err((
            reject.code(),
            "something stands before or after the token, and an MQTT message is judged whole; HTTPS ignores blanks".to_owned(),
        ))
    } else if out_of_range {
        Err(("out_of_range", format!("iat is {}, beyond the end of any certificate; are these milliseconds?", document.iat)))
    } else if other_account && matches!(ordered, Ok("applied")) {
        Err((Reject::AccountChanged.code(), Reject::AccountChanged.to_string()))
    } else {
        ordered
    };
    Judgement {
        verdict,
        clocks: format!("trusted time is {} ({}), the system clock says {}", timestamp(trusted), time_source(record), timestamp(system)),
        form: match form {
            Some(reject) => format!("blanks or a line break beside the token: over MQTT the device rejects that ({})", reject.code()),
            None => "good".to_owned(),
        },
        account: if other_account { ": another account under the same epoch" } else { "" }.to_owned(),
        order,
        issued: issued(document, trusted, out_of_range),
        lease: lease(verified, record, in_force.as_ref(), trusted, system),
    }
}

fn time_source(record: Option<&Record>) -> &'static str {
    if record.is_some() { "on record, or the build time if that is later" } else { "the build time; there is no record" }
}

/// The document in force, and its digest.
fn in_force(record: &Record, config: &Config) -> Option<(Entitlement, Digest)> {
    let token = record.entitlement.as_ref()?;
    let by = record.verified_by.as_ref().or(record.keyset.as_ref())?;
    let keyset = care_protocol::Keyset::verify(by.as_bytes(), &config.trust.root_keys, &config.trust.issuer).ok()?;
    let held = Entitlement::verify(token.as_bytes(), Some(&keyset.keyset), &config.trust.issuer, &config.device.id).ok()?;
    Some((held.entitlement, held.digest))
}

/// How the document is ordered against those that the device has accepted, in words and as a verdict.
fn order(
    verified: &VerifiedEntitlement,
    record: Option<&Record>,
    in_force: Option<&(Entitlement, Digest)>,
) -> (String, Result<&'static str, (&'static str, String)>) {
    let Some(record) = record else { return ("the device has no record, so any is the first".to_owned(), Ok("applied")) };
    let (position, ratchet) = (verified.entitlement.position(), record.ratchet);
    let known = record.ratchet_digest == Some(verified.digest) && position == ratchet;
    if known || in_force.is_some_and(|(held, digest)| *digest == verified.digest && held.position() == position) {
        return (format!("the document that the device has, {ratchet}"), Ok("duplicate"));
    }
    match position.cmp(&ratchet) {
        Ordering::Greater => (format!("higher than the device's {ratchet}"), Ok("applied")),
        Ordering::Equal if record.ratchet_digest.is_some() => {
            let why = format!("the device has another document at {ratchet}");
            (why.clone(), Err(("conflict", why)))
        }
        _ => {
            let why = format!("the device has seen {ratchet}");
            (format!("not higher than the device's {ratchet}"), Err(("stale", why)))
        }
    }
}

fn issued(document: &Entitlement, trusted: Duration, out_of_range: bool) -> String {
    let iat = Duration::from_secs(document.iat);
    if out_of_range {
        ", out of range: beyond the end of any certificate".to_owned()
    } else if iat > trusted + AGREE_WITHIN {
        format!(", {} s ahead of trusted time: refused (out_of_range) if the server's certificate ends before", (iat - trusted).as_secs())
    } else {
        String::new()
    }
}

/// How long its lease would run.
fn lease(
    verified: &VerifiedEntitlement,
    record: Option<&Record>,
    in_force: Option<&(Entitlement, Digest)>,
    trusted: Duration,
    system: Duration,
) -> String {
    let document = &verified.entitlement;
    let held = record.filter(|_| in_force.is_some_and(|(_, digest)| *digest == verified.digest));
    let used = match held {
        Some(record) => Duration::from_secs(record.lease_used_s),
        None => trusted.saturating_sub(Duration::from_secs(document.iat)),
    };
    let by_age = Duration::from_secs(document.lease.max_age_s).saturating_sub(used);
    let by_date = |now: Duration| Duration::from_secs(document.lease.not_after).saturating_sub(now);
    let left = by_age.min(by_date(trusted));
    if left.is_zero() {
        return "over: no more leaves than [free] and this policy both allow".to_owned();
    }
    let differs = if by_date(system).is_zero() { "; by the system clock it is over" } else { "" };
    format!("{} s left{differs}", left.as_secs())
}
