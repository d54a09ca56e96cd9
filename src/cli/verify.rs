//! `verify`: checks one entitlement with the keys that this device has, and says in plain words what it contains.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use care_protocol::{Entitlement, Keyset, MAX_KEYSET_BYTES, MAX_TOKEN_BYTES, Policy, Reject, VerifiedEntitlement};
use jiff::Timestamp;

use super::Exit;
use crate::{
    config::Config,
    engine::Record,
    store::{Restored, Store},
    text_file,
};

pub(super) fn run(config: &Config, token: &Path, keyset: Option<&Path>, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let token_bytes = contents(token, MAX_TOKEN_BYTES)?;
    let keyset = match keyset {
        Some(file) => contents(file, MAX_KEYSET_BYTES)?,
        None => keyset_on_record(&config.device.state_dir)?,
    };
    let keyset = Keyset::verify(keyset.trim_ascii(), &config.trust.root_keys, &config.trust.issuer)
        .map_err(|reject| anyhow::anyhow!("the keyset is refused, {}: {reject}", reject.code()))?
        .keyset;
    let least = config.trust.min_keyset_version;
    if keyset.version < least {
        let reject = Reject::OldKeyset { got: keyset.version, least };
        bail!("the keyset is refused, {}: {reject}, trust.min_keyset_version", reject.code());
    }
    let judged = Entitlement::verify(token_bytes.trim_ascii(), Some(&keyset), &config.trust.issuer, &config.device.id);
    match judged {
        Ok(verified) => {
            print(&verified, &keyset, out)?;
            Ok(Exit::Done)
        }
        Err(reject) => bail!("{} is refused, {}: {reject}", token.display(), reject.code()),
    }
}

/// The keyset that the agent has stored. The agent may be running meanwhile: nothing is locked or changed.
fn keyset_on_record(state_dir: &Path) -> anyhow::Result<Vec<u8>> {
    let none = "it has no keyset yet; name one with --keyset FILE";
    match Store::peek(state_dir)? {
        Restored::Record(bytes) => {
            let record = Record::read(&bytes).context("the device's state cannot be understood; name a keyset with --keyset FILE")?;
            Ok(record.keyset.context(format!("the device's state in {} is read, but {none}", state_dir.display()))?.into_bytes())
        }
        Restored::Empty => bail!("the device has no state in {}: {none}", state_dir.display()),
        Restored::Unreadable => bail!("the device's state in {} cannot be read; name a keyset with --keyset FILE", state_dir.display()),
    }
}

/// A file, at most a little longer than `limit`: the judge says what is too long.
fn contents(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = limit as u64 + 1024;
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    // A token is read as it is, but for what programs put before it.
    if let Some(what) = text_file::not_text(&bytes) {
        bail!("cannot read {}: {what}", path.display());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

fn print(verified: &VerifiedEntitlement, keyset: &Keyset, out: &mut dyn Write) -> anyhow::Result<()> {
    let VerifiedEntitlement { entitlement, digest, kid, .. } = verified;
    let mut line = |name: &str, value: String| writeln!(out, "{name:<12} {value}");
    line("verdict", format!("good: signed by {kid:?} of keyset {}", keyset.version))?;
    line("digest", digest.to_string())?;
    line("issuer", entitlement.iss.clone())?;
    line("device", entitlement.aud.to_string())?;
    line("account", entitlement.account.clone())?;
    line("epoch, seq", entitlement.position().to_string())?;
    line("plan", entitlement.plan.to_string())?;
    line("reason", format!("{}, through {}", entitlement.reason, entitlement.channel))?;
    line("issued", at(entitlement.iat))?;
    line("lease", format!("{} s after receipt, at most until {}", entitlement.lease.max_age_s, at(entitlement.lease.not_after)))?;
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

/// The time in words beside the number that stands in the document.
fn at(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| seconds.to_string(), |time| format!("{time} ({seconds})"))
}
