//! Raises and clears the conditions that follow from the engine's view and from the certificate files. The link, the uploads
//! and the camera raise their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::Duration,
};

use care_engine::{
    View,
    trusted_time::{Now, timestamp},
};
use care_protocol::Position;

use crate::{
    conditions::{Conditions, Kind},
    config::Config,
    rejections, tls,
};

/// Paid media that waits for less than this is not a condition: a connection is being made.
const HELD_LASTS: Duration = Duration::from_secs(30);
/// A write that takes longer than this is a condition. Flash that has stopped responding does not even fail.
const WRITE_LASTS: Duration = Duration::from_secs(10);
/// Refused clips are tried again every fifteen minutes, so a longer time without a refusal means that the cloud grants again.
const REFUSAL_LASTS: Duration = Duration::from_secs(20 * 60);
/// Our certificates and authorities are a condition once they expire within this.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// The same for a server's certificate. It may be valid for days only and be renewed automatically, but not this late.
const SERVER_ENDS_SOON: Duration = Duration::from_secs(2 * 86_400);

/// Derives conditions from the engine's view. It keeps what is needed to tell a lasting fault from a passing one. Times are
/// BOOTTIME.
pub(super) struct ConditionMonitor {
    conditions: Conditions,
    broker: String,
    held_since: Option<Duration>,
    unwritten_since: Option<Duration>,
    refused: Option<Refusal>,
    /// When this device's certificates and its authorities expire, since 1970: file, description, end.
    ends: Vec<(PathBuf, &'static str, Duration)>,
    /// When the certificates that servers have shown expire: whose, with peer and end.
    servers: BTreeMap<&'static str, (String, Duration)>,
}

/// The newest refusal of a grant.
struct Refusal {
    at: Duration,
    in_force: Position,
    sentence: String,
}

impl ConditionMonitor {
    pub(super) fn new(conditions: Conditions, config: &Config) -> Self {
        let broker = config.broker.endpoint.authority();
        let mut monitor =
            Self { conditions, broker, held_since: None, unwritten_since: None, refused: None, ends: Vec::new(), servers: BTreeMap::new() };
        monitor.read_certificates(config);
        monitor
    }

    /// Reads the certificates that `config` names, which are in use from now on.
    pub(super) fn read_certificates(&mut self, config: &Config) {
        self.broker = config.broker.endpoint.authority();
        let files = || config.broker.tls.iter().chain(&config.cloud.tls);
        // TLS was just set up from these files, so they can be read.
        let own = files().filter_map(|files| Some((&files.client_cert, tls::expires(&files.client_cert).ok()?, "the device certificate")));
        let store = config.store.iter().filter_map(|store| match &store.ca {
            tls::StoreCa::File(ca) => Some(ca),
            tls::StoreCa::Webpki => None,
        });
        let trusted: Vec<_> = files().map(|files| &files.ca).chain(store).collect();
        self.conditions.set(Kind::CaSkipped, skipped(&trusted));
        let trusted = trusted.into_iter().filter_map(|ca| Some((ca, tls::authorities_end(ca).ok()??, "the last CA certificate")));
        self.ends = own.chain(trusted).map(|(path, ends, what)| (path.clone(), what, ends)).collect();
        self.ends.sort();
        self.ends.dedup();
    }

    /// Updates all conditions that follow from `view`.
    pub(super) fn update(&mut self, view: &View, store_fault: Option<&str>, now: Now) {
        let lost = view.state_lost.then(|| "the state could not be read: nothing is uploaded until the API has answered".to_owned());
        self.conditions.set(Kind::StateLost, lost);
        let unwritten = self.unwritten(view, store_fault, now);
        self.conditions.set(Kind::StateNotWritten, unwritten);
        let ended = (view.lease_left == Some(Duration::ZERO)).then(|| {
            format!("the lease of document {} has ended without news from the cloud: only what Free allows is uploaded", view.position)
        });
        self.conditions.set(Kind::LeaseEnded, ended);
        let held = self.held(view, now);
        self.conditions.set(Kind::Held, held);
        let reset = view.factory_reset.then(|| {
            format!("the camera was reset and uploads nothing: it waits for a binding with an epoch above {}", view.ratchet.epoch)
        });
        self.conditions.set(Kind::FactoryReset, reset);
        let deaf = view.broker_deaf.then(|| {
            format!(
                "{} granted the subscription, but an entitlement that it had to deliver did not come within 10 s: the API is asked every \
                 60 s",
                self.broker
            )
        });
        self.conditions.set(Kind::BrokerDeaf, deaf);
        match (&view.rejected, view.rejection) {
            (Some(sentence), Some(code)) => {
                let advice = rejections::remedy(code).unwrap_or_else(|| Kind::DocumentRejected.advice().to_owned());
                self.conditions.raise_advising(Kind::DocumentRejected, sentence, advice);
            }
            _ => self.conditions.clear(Kind::DocumentRejected),
        }
        let conflict = view
            .conflict
            .map(|position| format!("two different documents carry the position {position}: the one on record stays in force"));
        self.conditions.set(Kind::DocumentConflict, conflict);
        self.refused.take_if(|refused| refused.in_force != view.position || now.boot.saturating_sub(refused.at) >= REFUSAL_LASTS);
        self.conditions.set(Kind::GrantRefused, self.refused.as_ref().map(|refused| refused.sentence.clone()));
        self.update_certificates(now);
    }

    fn unwritten(&mut self, view: &View, fault: Option<&str>, now: Now) -> Option<String> {
        if view.persisted && fault.is_none() {
            self.unwritten_since = None;
            return None;
        }
        let waited = now.boot.saturating_sub(*self.unwritten_since.get_or_insert(now.boot));
        let waits = match view.persisted {
            true => "",
            false => "; what is in force is not on flash, and an upgrade waits",
        };
        match fault {
            Some(fault) => Some(format!("the state cannot be written: {fault}{waits}")),
            None if waited >= WRITE_LASTS => {
                Some(format!("flash does not answer: the state has been waiting to be written for {} s{waits}", waited.as_secs()))
            }
            None => None,
        }
    }

    fn held(&mut self, view: &View, now: Now) -> Option<String> {
        let Some(why) = view.held_because else {
            self.held_since = None;
            return None;
        };
        let since = *self.held_since.get_or_insert(now.boot);
        let plan = view.plan.as_ref().map_or("paid", |plan| plan.as_str());
        (now.boot.saturating_sub(since) >= HELD_LASTS).then(|| format!("what only {plan} allows waits: {why}"))
    }

    /// Notes that a grant was refused with this status.
    pub(super) fn grant_refused(&mut self, status: u16, in_force: Position, now: Now) {
        let sentence = format!("the API answers {status} to a grant request, although document {in_force} allows the clip: it waits");
        self.conditions.raise(Kind::GrantRefused, &sentence);
        self.refused = Some(Refusal { at: now.boot, in_force, sentence });
    }

    /// Notes that a clip was stored, so the cloud grants again.
    pub(super) fn clip_stored(&mut self) {
        self.refused = None;
        self.conditions.clear(Kind::GrantRefused);
    }

    /// Notes when the first certificate of a server's chain expires (since 1970; zero if unknown). `whose` is the server's role.
    pub(super) fn server_certificate(&mut self, whose: &'static str, peer: String, ends: Duration) {
        if !ends.is_zero() {
            self.servers.insert(whose, (peer, ends));
        }
    }

    fn update_certificates(&self, now: Now) {
        let soon = |ends: Duration, within: Duration| ends.saturating_sub(now.trusted) < within;
        let ours = self.ends.iter().filter(|(_, _, ends)| soon(*ends, ENDS_SOON));
        let ours: Vec<_> = ours.map(|(path, what, ends)| ending(what, &path.display(), *ends, now)).collect();
        let theirs = self.servers.iter().filter(|(_, (_, ends))| soon(*ends, SERVER_ENDS_SOON));
        let theirs: Vec<_> = theirs.map(|(whose, (peer, ends))| ending(&format!("{whose} certificate"), peer, *ends, now)).collect();
        let advice = match (ours.is_empty(), theirs.is_empty()) {
            (true, true) => return self.conditions.clear(Kind::CertificateEnds),
            (true, false) => "The server's operator must renew it.",
            (false, _) => Kind::CertificateEnds.advice(),
        };
        self.conditions.raise_advising(Kind::CertificateEnds, [ours, theirs].concat().join("; "), advice);
    }
}

fn ending(what: &str, place: &dyn fmt::Display, ends: Duration, now: Now) -> String {
    let at = timestamp(ends);
    match ends.saturating_sub(now.trusted).as_secs() {
        0 => format!("{what} ended on {at} ({place})"),
        left => format!("{what} ends on {at}, in {} ({place})", days(left / 86_400)),
    }
}

fn days(days: u64) -> String {
    match days {
        0 => "less than a day".to_owned(),
        1 => "one day".to_owned(),
        days => format!("{days} days"),
    }
}

/// The certificates in these CA files that cannot be read.
fn skipped(files: &[&PathBuf]) -> Option<String> {
    let files: BTreeSet<_> = files.iter().collect();
    let sentences = files.into_iter().filter_map(|ca| {
        // TLS was just set up from these files, so they can be read.
        let skipped: Vec<_> = tls::skipped(ca).ok()?.iter().map(ToString::to_string).collect();
        (!skipped.is_empty()).then(|| format!("the CA file {} is read without its {}", ca.display(), skipped.join(", its ")))
    });
    let sentences: Vec<_> = sentences.collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

#[cfg(test)]
mod tests;
