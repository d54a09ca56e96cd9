//! `verify`: judges one entitlement as the device would now, with its keys, its record and its trusted time, and prints the
//! contents in plain words.

mod judgement;

use std::{
    fmt::Display,
    fs::File,
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use care_engine::Record;
use care_protocol::{Entitlement, Keyset, MAX_KEYSET_BYTES, MAX_TOKEN_BYTES, Policy, Reject, VerifiedEntitlement};
use jiff::Timestamp;

use self::judgement::Judgement;
use super::Exit;
use crate::{
    config::Config,
    store::{Restored, Store},
    text_file,
};

pub(super) fn run(config: &Config, token: &Path, keyset: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let token_bytes = contents(token, MAX_TOKEN_BYTES)?;
    let record = record(&config.device.state_dir);
    let keyset = match keyset {
        Some(file) => contents(file, MAX_KEYSET_BYTES)?,
        None => keyset_on_record(&config.device.state_dir, &record)?,
    };
    let keyset = Keyset::verify(keyset.trim_ascii(), &config.trust.root_keys, &config.trust.issuer)
        .map_err(|reject| anyhow::anyhow!("the keyset is refused, {}: {reject}", reject.code()))?
        .keyset;
    let least = config.trust.min_keyset_version;
    if keyset.version < least {
        let reject = Reject::OldKeyset { got: keyset.version, least };
        bail!("the keyset is refused, {}: {reject}, trust.min_keyset_version", reject.code());
    }
    let verify = |token: &[u8]| Entitlement::verify(token, Some(&keyset), &config.trust.issuer, &config.device.id);
    let refused = |code: &str, why: &dyn Display| anyhow::anyhow!("{} is refused, {code}: {why}", token.display());
    let verified = verify(token_bytes.trim_ascii()).map_err(|reject| refused(reject.code(), &reject))?;
    // HTTPS ignores whitespace around the token; in an MQTT message it is part of the token.
    let form = verify(&token_bytes).err();
    let judged = judgement::judge(&verified, form, record.ok().flatten().as_ref(), config);
    print(&verified, &keyset, &judged, out)?;
    match judged.verdict {
        Ok(_) => Ok(Exit::Done),
        Err((code, why)) => Err(refused(code, &why)),
    }
}

/// The device's state, if it has one. Locks and changes nothing, since the agent may be running.
fn record(state_dir: &Path) -> anyhow::Result<Option<Record>> {
    match Store::peek(state_dir)? {
        Restored::Record(bytes) => {
            let record = Record::read(&bytes).context("the device's state cannot be understood; name a keyset with --keyset FILE")?;
            Ok(Some(record))
        }
        Restored::Empty => Ok(None),
        Restored::Unreadable => bail!("the device's state in {} cannot be read; name a keyset with --keyset FILE", state_dir.display()),
    }
}

/// The keyset that the agent has stored.
fn keyset_on_record(state_dir: &Path, record: &anyhow::Result<Option<Record>>) -> anyhow::Result<Vec<u8>> {
    let none = "it has no keyset yet; name one with --keyset FILE";
    match record {
        Ok(Some(record)) => {
            let keyset = record.keyset.clone();
            Ok(keyset.context(format!("the device's state in {} is read, but {none}", state_dir.display()))?.into_bytes())
        }
        Ok(None) => bail!("the device has no state in {}: {none}", state_dir.display()),
        Err(why) => bail!("{why:#}"),
    }
}

/// Reads a file up to a little over `limit`; verification then reports that it is too long.
fn contents(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = limit as u64 + 1024;
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    // Skip a byte order mark; anything else is part of the token.
    if let Some(what) = text_file::not_text(&bytes) {
        bail!("cannot read {}: {what}", path.display());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

fn print(verified: &VerifiedEntitlement, keyset: &Keyset, judged: &Judgement, out: &mut dyn Write) -> anyhow::Result<()> {
    let VerifiedEntitlement { entitlement, digest, kid, .. } = verified;
    let mut line = |name: &str, value: String| writeln!(out, "{name:<12} {value}");
    line("verdict", judged.to_text())?;
    line("clocks", judged.clocks.clone())?;
    line("form", judged.form.clone())?;
    line("signature", format!("good: by {kid:?} of keyset {}", keyset.version))?;
    line("digest", digest.to_string())?;
    line("issuer", entitlement.iss.clone())?;
    line("device", entitlement.aud.to_string())?;
    line("account", format!("{}{}", entitlement.account, judged.account))?;
    line("epoch, seq", format!("{}: {}", entitlement.position(), judged.order))?;
    line("plan", entitlement.plan.to_string())?;
    line("reason", format!("{}, through {}", entitlement.reason, entitlement.channel))?;
    line("issued", format!("{}{}", at(entitlement.iat), judged.issued))?;
    let lease = &entitlement.lease;
    line("lease", format!("{} s after receipt, at most until {}: {}", lease.max_age_s, at(lease.not_after), judged.lease))?;
    line("policy", policy(&entitlement.policy))?;
    match &entitlement.next {
        Some(next) => {
            line("next", format!("{} at {}, {}", next.plan, at(next.effective_at), next.reason))?;
            line("next policy", policy(&next.policy))?;
        }
        None => line("next", "none".to_owned())?,
    }
    match &entitlement.order {
        Some(order) => {
            let refund = &order.refund;
            line("order", format!("{}, {} of {} {} (minor units)", order.id, refund.kind, refund.amount_minor, refund.currency))?;
        }
        None => line("order", "none".to_owned())?,
    }
    line("crit", if entitlement.crit.is_empty() { "none".to_owned() } else { entitlement.crit.join(", ") })?;
    Ok(())
}

fn policy(policy: &Policy) -> String {
    let Policy { clips, history_h, clip_max_s, cooldown_s, max_height, snapshots } = policy;
    format!(
        "clips {clips}, snapshots {snapshots}, history {history_h} h, clip at most {clip_max_s} s, pause {cooldown_s} s, height at most {max_height}"
    )
}

/// A Unix time as RFC 3339, with the number from the document.
fn at(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| format!("{time} ({seconds})"))
}
