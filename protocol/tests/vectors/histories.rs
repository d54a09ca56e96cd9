//! `vectors/histories.json`: a device's inputs step by step, with its output and actions after each step.
//!
//! The engine's tests and `vectors/run.py` play them; this file only generates them.

use care_protocol::Policy;
use serde::Serialize;
use std::collections::BTreeMap;

use super::{
    DEVICE, ISSUER, T0, check_names, check_or_write,
    keys::{ENTITLEMENT, KEYSET, Key, current, keyset, keyset_of, newer, root},
};

#[derive(Serialize)]
struct File {
    issuer: &'static str,
    device: &'static str,
    roots: BTreeMap<String, String>,
    min_keyset_version: u64,
    built: u64,
    policies: BTreeMap<&'static str, Policy>,
    histories: Vec<History>,
}

#[derive(Serialize)]
struct History {
    name: &'static str,
    tests: String,
    steps: Vec<Step>,
}

#[derive(Serialize)]
struct Step {
    #[serde(rename = "do")]
    does: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    via: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// When the earliest certificate of the connection expires, if a step sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    date: Option<u64>,
    then: Then,
}

/// The device's output and actions after a step.
#[derive(Serialize, Clone)]
struct Then {
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    in_force: [u64; 2],
    plan: Option<&'static str>,
    mode: &'static str,
    leaves: &'static str,
    ratchet: [u64; 2],
    keyset: u64,
    time: u64,
}

const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };
/// Allows more than Free in one limit and less in others.
const MIXED: Policy = Policy { clips: true, history_h: 336, clip_max_s: 6, cooldown_s: 600, max_height: 1080, snapshots: true };
/// The limits common to [`MIXED`] and [`FREE`].
const MIXED_FLOOR: Policy = Policy { clips: true, history_h: 12, clip_max_s: 6, cooldown_s: 600, max_height: 720, snapshots: false };
/// The policy of a document with reason `unbound`.
const NONE: Policy = Policy { clips: false, history_h: 0, clip_max_s: 0, cooldown_s: 300, max_height: 0, snapshots: false };

fn json(policy: Policy) -> String {
    let Policy { clips, history_h, clip_max_s, cooldown_s, max_height, snapshots } = policy;
    format!(
        r#"{{"clips":{clips},"history_h":{history_h},"clip_max_s":{clip_max_s},"cooldown_s":{cooldown_s},"max_height":{max_height},"snapshots":{snapshots}}}"#
    )
}

/// An unsigned document.
#[derive(Clone, Copy)]
struct Document {
    account: &'static str,
    epoch: u64,
    seq: u64,
    plan: &'static str,
    reason: &'static str,
    iat: u64,
    max_age_s: u64,
    not_after: u64,
    policy: Policy,
    /// The time from which Free applies.
    then_free: Option<u64>,
}

impl Document {
    fn payload(&self) -> String {
        let Self { account, epoch, seq, plan, reason, iat, max_age_s, not_after, .. } = self;
        let next = self.then_free.map_or_else(String::new, |at| {
            format!(r#""next":{{"plan":"free","effective_at":{at},"reason":"cancelled","policy":{}}},"#, json(FREE))
        });
        format!(
            r#"{{"iss":"care","aud":"{DEVICE}","account":"{account}","epoch":{epoch},"seq":{seq},"plan":"{plan}","reason":"{reason}","channel":"portal","iat":{iat},"lease":{{"max_age_s":{max_age_s},"not_after":{not_after}}},"policy":{},{next}"crit":[]}}"#,
            json(self.policy)
        )
    }

    fn by(&self, key: &Key) -> String {
        key.sign(ENTITLEMENT, &self.payload())
    }

    fn token(&self) -> String {
        self.by(&current())
    }
}

fn premium(seq: u64) -> Document {
    Document {
        account: "acct-5b1f",
        epoch: 3,
        seq,
        plan: "premium",
        reason: "subscribed",
        iat: T0,
        max_age_s: 172_800,
        not_after: T0 + 2_592_000,
        policy: PREMIUM,
        then_free: None,
    }
}

fn free(seq: u64) -> Document {
    Document { plan: "free", reason: "cancelled", policy: FREE, ..premium(seq) }
}

/// A device that was never bound; every history begins with it.
const UNBOUND: Then = Then {
    outcome: None,
    reason: None,
    in_force: [0, 0],
    plan: None,
    mode: "unbound",
    leaves: "nothing",
    ratchet: [0, 0],
    keyset: 0,
    time: T0,
};

/// A history under construction: each step lists only what it changes.
struct Play {
    history: History,
    now: Then,
}

impl Play {
    fn new(name: &'static str, heading: &str) -> Self {
        Self { history: History { name, tests: format!("docs/protocol.md#{heading}"), steps: Vec::new() }, now: UNBOUND }
    }

    /// A history that begins with the first keyset.
    fn begun(name: &'static str, heading: &str) -> Self {
        Self::new(name, heading).keyset(keyset(7), "taken", 7)
    }

    /// A history in which Premium (3, 41) is in force.
    fn premium(name: &'static str, heading: &str) -> Self {
        Self::begun(name, heading).document(premium(41), "applied").force([3, 41], "premium", "paid", "premium")
    }

    fn step(mut self, does: &'static str) -> Self {
        (self.now.outcome, self.now.reason) = (None, None);
        let then = self.now.clone();
        self.history.steps.push(Step { does, via: None, token: None, valid_until: None, seconds: None, date: None, then });
        self
    }

    fn last(&mut self) -> &mut Step {
        self.history.steps.last_mut().unwrap()
    }

    /// Changes the expectation after the last step, and the starting point of the next.
    fn now(mut self, change: impl FnOnce(&mut Then)) -> Self {
        change(&mut self.now);
        self.last().then = self.now.clone();
        self
    }

    fn said(self, outcome: &'static str) -> Self {
        let (outcome, reason) = outcome.split_once(' ').map_or((outcome, None), |(outcome, reason)| (outcome, Some(reason)));
        self.now(|then| (then.outcome, then.reason) = (Some(outcome), reason))
    }

    fn token(mut self, does: &'static str, via: &'static str, token: String, outcome: &'static str) -> Self {
        self = self.step(does);
        (self.last().via, self.last().token) = (Some(via), Some(token));
        self.said(outcome)
    }

    /// A document that arrives as the retained copy: `applied`, `duplicate`, …, or `rejected CODE`.
    fn document(self, document: Document, outcome: &'static str) -> Self {
        self.token("document", "retained", document.token(), outcome)
    }

    fn document_via(self, via: &'static str, document: Document, outcome: &'static str) -> Self {
        self.token("document", via, document.token(), outcome)
    }

    /// A keyset on its topic, from its payload: `taken`, `known`, or `rejected CODE`; and the current version after
    /// it.
    fn keyset(self, payload: String, outcome: &'static str, version: u64) -> Self {
        self.keyset_via("topic", payload, outcome, version)
    }

    fn keyset_via(self, via: &'static str, payload: String, outcome: &'static str, version: u64) -> Self {
        self.token("keyset", via, root().sign(KEYSET, &payload), outcome).now(|then| then.keyset = version)
    }

    fn wait(mut self, seconds: u64) -> Self {
        self = self.step("wait");
        self.last().seconds = Some(seconds);
        self.now(|then| then.time += seconds)
    }

    /// An answer over HTTPS with this `Date`, and trusted time after it.
    fn date(mut self, date: u64, time: u64) -> Self {
        self = self.step("date");
        self.last().date = Some(date);
        self.now(|then| then.time = time)
    }

    /// Sets when the certificates of this step's connection expire.
    fn valid_until(mut self, end: u64) -> Self {
        self.last().valid_until = Some(end);
        self
    }

    /// Sets what is in force now. The ratchet is at the same position unless set separately.
    fn force(self, position: [u64; 2], plan: &'static str, mode: &'static str, leaves: &'static str) -> Self {
        self.now(|then| {
            then.in_force = position;
            then.ratchet = then.ratchet.max(position);
            then.plan = Some(plan);
            (then.mode, then.leaves) = (mode, leaves);
        })
    }

    fn mode(self, mode: &'static str, leaves: &'static str) -> Self {
        self.now(|then| (then.mode, then.leaves) = (mode, leaves))
    }

    fn ratchet(self, ratchet: [u64; 2]) -> Self {
        self.now(|then| then.ratchet = ratchet)
    }

    fn time(self, time: u64) -> Self {
        self.now(|then| then.time = time)
    }

    fn unbound(self) -> Self {
        self.now(|then| {
            let ratchet = then.ratchet;
            *then = Then { keyset: then.keyset, time: then.time, ratchet, outcome: then.outcome, reason: then.reason, ..UNBOUND };
        })
    }
}

fn histories() -> Vec<History> {
    [order(), keysets(), resets(), lost_and_reset(), leases(), next(), time(), confirmation()]
        .into_iter()
        .flatten()
        .map(|play| play.history)
        .collect()
}

fn order() -> Vec<Play> {
    let other_account = Document { account: "acct-9d20", ..premium(43) };
    let next_owner = Document { epoch: 4, account: "acct-9d20", reason: "bound", ..free(1) };
    let unbound = Document { reason: "unbound", policy: NONE, ..free(42) };
    vec![
        Play::premium("a cancel, and everything that comes late", "order")
            .document(free(42), "applied")
            .force([3, 42], "free", "free", "free")
            .document(free(42), "duplicate")
            .document(premium(41), "stale")
            .document(premium(42), "conflict")
            .document(premium(50), "applied")
            .force([3, 50], "premium", "paid", "premium")
            .document(free(49), "stale"),
        Play::begun("the first document binds, whatever its seq", "order").document(Document { epoch: 9, ..free(900) }, "applied").force(
            [9, 900],
            "free",
            "free",
            "free",
        ),
        Play::premium("another owner comes with a higher epoch only", "order")
            .document(other_account, "rejected account_changed")
            .document(next_owner, "applied")
            .force([4, 1], "free", "free", "free")
            .document(premium(99), "stale")
            .document(Document { seq: 2, reason: "renewed", ..next_owner }, "applied")
            .force([4, 2], "free", "free", "free"),
        Play::premium("an unbound camera uploads nothing", "policy")
            .document(unbound, "applied")
            .force([3, 42], "free", "unbound", "nothing")
            .document(premium(43), "applied")
            .force([3, 43], "premium", "paid", "premium"),
        Play::premium("a plan is a name, the policy decides", "policy")
            .document(Document { plan: "family", reason: "upgraded", policy: MIXED, ..premium(42) }, "applied")
            .force([3, 42], "family", "paid", "mixed")
            .document(Document { plan: "premium", reason: "downgraded", policy: FREE, ..premium(43) }, "applied")
            .force([3, 43], "premium", "paid", "free"),
    ]
}

fn keysets() -> Vec<Play> {
    let both = |version, revoked: &[&str]| keyset_of(version, &[(&current(), 1_767_000_000), (&newer(), 1_767_000_000)], revoked, "");
    let only_newer = |version| keyset_of(version, &[(&newer(), 1_767_000_000)], &[], "");
    vec![
        Play::premium("a lower version is refused, the same one changes nothing", "keyset")
            .keyset(keyset(6), "rejected old_keyset", 7)
            .keyset(both(7, &[]), "known", 7)
            .token("document", "retained", free(42).by(&newer()), "waits")
            .keyset(both(9, &[]), "applied", 9)
            .force([3, 42], "free", "free", "free")
            .keyset(both(8, &[]), "rejected old_keyset", 9),
        Play::new("a keyset below the configured minimum is refused", "keyset").keyset(keyset(4), "rejected old_keyset", 0).keyset(
            keyset(5),
            "taken",
            5,
        ),
        Play::premium("a document under an unknown key waits for its keyset", "unknown-keys")
            .token("document", "retained", free(42).by(&newer()), "waits")
            .wait(20)
            .keyset(both(8, &[]), "applied", 8)
            .force([3, 42], "free", "free", "free"),
        Play::premium("a document under an unknown key is rejected after 30 s", "unknown-keys")
            .token("document", "retained", free(42).by(&newer()), "waits")
            .wait(29)
            .wait(2)
            .said("rejected unknown_key"),
        Play::premium("the document in force outlives its key", "keyset")
            .keyset(both(8, &["2026-11"]), "taken", 8)
            .document(free(42), "rejected revoked_key")
            .step("restart")
            .mode("held", "free")
            .token("document", "retained", premium(41).by(&newer()), "duplicate")
            .mode("paid", "premium"),
        Play::premium("the same document under another key is a duplicate", "digest")
            .keyset(only_newer(8), "taken", 8)
            .token("document", "retained", premium(41).by(&newer()), "duplicate")
            .token("document", "retained", free(42).by(&newer()), "applied")
            .force([3, 42], "free", "free", "free"),
    ]
}

fn reset(id: u64, device: &str, epoch: u64, seq: u64) -> String {
    format!(r#"{{"id":{id},"aud":"{device}","epoch":{epoch},"seq":{seq}}}"#)
}

fn resetting(version: u64, resets: &str) -> String {
    keyset_of(version, &[(&current(), 1_767_000_000)], &[], resets)
}

fn resets() -> Vec<Play> {
    let timed = format!(r#"{{"id":5,"aud":"{DEVICE}","epoch":3,"seq":41,"time":{}}}"#, T0 + 86_400);
    vec![
        Play::premium("a reset lowers the ratchet once", "resets")
            .keyset(resetting(8, &reset(4, DEVICE, 3, 30)), "taken", 8)
            .ratchet([3, 30])
            .document(premium(41), "duplicate")
            .document(free(30), "stale")
            .document(free(31), "applied")
            .now(|then| then.ratchet = [3, 31])
            .force([3, 31], "free", "free", "free")
            .keyset(resetting(9, &reset(4, DEVICE, 3, 1)), "taken", 9)
            .keyset(resetting(10, &reset(3, DEVICE, 3, 1)), "taken", 10)
            .document(premium(30), "stale"),
        Play::premium("a reset never raises", "resets")
            .keyset(resetting(8, &reset(4, DEVICE, 3, 99)), "taken", 8)
            .document(free(42), "applied")
            .force([3, 42], "free", "free", "free"),
        Play::premium("a reset is for one device", "resets")
            .keyset(resetting(8, &reset(4, "8006E5A1F0C3", 3, 1)), "taken", 8)
            .document(free(40), "stale"),
        Play::premium("several resets apply in the order of their ids", "resets")
            .keyset(resetting(8, &format!("{},{}", reset(6, DEVICE, 3, 20), reset(5, DEVICE, 3, 10))), "taken", 8)
            .ratchet([3, 10])
            .document(free(11), "applied")
            .now(|then| then.ratchet = [3, 11])
            .force([3, 11], "free", "free", "free"),
        Play::premium("a reset may set trusted time", "resets")
            .wait(10 * 86_400)
            .mode("free", "free")
            .keyset(resetting(8, &timed), "taken", 8)
            .time(T0 + 86_400),
    ]
}

fn lost_and_reset() -> Vec<Play> {
    let next_owner = Document { epoch: 4, account: "acct-9d20", reason: "bound", ..free(1) };
    vec![
        Play::premium("after a factory reset only a higher epoch binds", "factory-reset")
            .step("factory_reset")
            .unbound()
            .document(premium(41), "rejected factory_reset")
            .document(Document { reason: "renewed", ..premium(42) }, "rejected factory_reset")
            .document(Document { epoch: 2, ..premium(99) }, "stale")
            .step("restart")
            .document(premium(43), "rejected factory_reset")
            .document(next_owner, "applied")
            .force([4, 1], "free", "free", "free")
            .document(Document { seq: 2, reason: "renewed", ..next_owner }, "applied")
            .force([4, 2], "free", "free", "free"),
        Play::premium("a lost state is set anew over HTTPS only", "state-loss")
            .document(free(42), "applied")
            .force([3, 42], "free", "free", "free")
            .step("lose_state")
            .unbound()
            .now(|then| (then.ratchet, then.keyset, then.time) = ([0, 0], 0, T0))
            .keyset(resetting(8, &reset(4, DEVICE, 3, 10)), "taken", 8)
            .document(free(42), "rejected state_lost")
            .document_via("https", premium(40), "applied")
            .force([3, 40], "premium", "paid", "premium")
            .document(free(39), "stale")
            .keyset(resetting(9, &reset(4, DEVICE, 3, 1)), "taken", 9)
            .document(free(38), "stale"),
    ]
}

fn leases() -> Vec<Play> {
    let hour = Document { max_age_s: 3600, ..premium(42) };
    let renewed = |seq, iat| Document { reason: "renewed", iat, ..premium(seq) };
    vec![
        Play::premium("a lease runs from receipt, and a document renews it", "lease")
            .wait(172_799)
            .wait(2)
            .mode("free", "free")
            .document(premium(41), "duplicate")
            .document(renewed(42, T0 + 172_801), "applied")
            .force([3, 42], "premium", "paid", "premium"),
        Play::begun("the age of a document at receipt counts as used", "lease")
            .wait(3000)
            .document(hour, "applied")
            .force([3, 42], "premium", "paid", "premium")
            .wait(599)
            .wait(2)
            .mode("free", "free"),
        Play::begun("a lease ends by date too", "lease")
            .document(Document { not_after: T0 + 1000, ..premium(41) }, "applied")
            .force([3, 41], "premium", "paid", "premium")
            .wait(999)
            .wait(2)
            .mode("free", "free"),
        Play::begun("a document whose lease is over is applied and gives Free", "lease").wait(4000).document(hour, "applied").force(
            [3, 42],
            "premium",
            "free",
            "free",
        ),
        Play::premium("the used part of a lease survives a restart", "lease")
            .document(hour, "applied")
            .force([3, 42], "premium", "paid", "premium")
            .wait(3000)
            .step("restart")
            .mode("held", "free")
            .document(hour, "duplicate")
            .mode("paid", "premium")
            .wait(599)
            .wait(2)
            .mode("free", "free"),
        Play::begun("when a lease ends the stricter of each limit counts", "lease")
            .document(Document { plan: "family", policy: MIXED, max_age_s: 100, ..premium(41) }, "applied")
            .force([3, 41], "family", "paid", "mixed")
            .wait(101)
            .mode("free", "mixed under free"),
    ]
}

fn next() -> Vec<Play> {
    let ending = Document { reason: "cancelled", then_free: Some(T0 + 5000), ..premium(42) };
    vec![
        Play::premium("next takes effect by itself, and its document is a duplicate", "next")
            .date(T0, T0)
            .document(ending, "applied")
            .force([3, 42], "premium", "paid", "premium")
            .wait(4999)
            .wait(2)
            .force([3, 42], "free", "free", "free")
            .document(ending, "duplicate")
            .step("restart")
            .document(ending, "duplicate")
            .document(Document { then_free: None, reason: "renewed", ..premium(43) }, "applied")
            .force([3, 43], "premium", "paid", "premium"),
        Play::begun("a document whose next is due already is applied as what it has become", "next")
            .wait(6000)
            .document(ending, "applied")
            .force([3, 42], "free", "free", "free"),
        Play::premium("a pending next keeps paid media back until the time is confirmed", "next")
            .document(ending, "applied")
            .force([3, 42], "premium", "held", "free")
            .date(T0 + 2, T0 + 2)
            .mode("paid", "premium"),
        Play::premium("a newer document takes a next back", "next")
            .date(T0, T0)
            .document(ending, "applied")
            .force([3, 42], "premium", "paid", "premium")
            .document(Document { reason: "renewed", ..premium(43) }, "applied")
            .force([3, 43], "premium", "paid", "premium")
            .wait(6000),
    ]
}

fn time() -> Vec<Play> {
    let certificates_end = T0 + 31_536_000;
    let in_milliseconds = Document { iat: T0 * 1000, ..free(42) };
    let from_the_future = Document { iat: T0 + 2_000_000, not_after: T0 + 5_000_000, ..premium(41) };
    vec![
        Play::premium("an iat beyond every certificate changes nothing", "trusted-time")
            .document(in_milliseconds, "rejected out_of_range")
            .valid_until(certificates_end)
            .document(Document { iat: certificates_end + 1, ..free(42) }, "rejected out_of_range")
            .valid_until(certificates_end)
            .document(Document { iat: certificates_end, not_after: certificates_end + 1000, ..free(42) }, "applied")
            .valid_until(certificates_end)
            .force([3, 42], "free", "free", "free")
            .time(certificates_end),
        Play::new("a keyset beyond every certificate changes nothing", "trusted-time")
            .keyset(keyset(7).replace(r#""iat":1767225600"#, r#""iat":1767225600000"#), "rejected out_of_range", 0)
            .valid_until(certificates_end)
            .keyset(resetting(7, &reset(4, DEVICE, 3, 1).replace("1}", r#"1,"time":1767225600000}"#)), "rejected out_of_range", 0)
            .valid_until(certificates_end)
            .keyset(keyset(7), "taken", 7)
            .valid_until(certificates_end),
        Play::begun("a verified iat raises trusted time, a stale one does not lower it", "trusted-time")
            .document(Document { iat: T0 + 5000, ..premium(41) }, "applied")
            .force([3, 41], "premium", "paid", "premium")
            .time(T0 + 5000)
            .document(free(40), "stale")
            .document(free(42), "applied")
            .force([3, 42], "free", "free", "free"),
        Play::premium("a Date raises trusted time, and a day and more only with a second answer", "trusted-time")
            .date(T0 + 80_000, T0 + 80_000)
            .date(T0 + 300_000, T0 + 80_000)
            .date(T0 + 300_000, T0 + 80_000)
            .wait(60)
            .date(T0 + 300_060, T0 + 300_060)
            .now(|then| (then.mode, then.leaves) = ("paid", "premium")),
        Play::premium("a Date lowers trusted time, and by more than ten minutes only with a second answer", "trusted-time")
            .wait(5000)
            .date(T0 + 4500, T0 + 4501)
            .date(T0 + 100, T0 + 4501)
            .wait(61)
            .date(T0 + 161, T0 + 162),
        Play::begun("a lease that seemed over runs again once trusted time is set right", "trusted-time")
            .document(from_the_future, "applied")
            .force([3, 41], "premium", "paid", "premium")
            .time(T0 + 2_000_000)
            .document(Document { reason: "renewed", ..premium(42) }, "applied")
            .force([3, 42], "premium", "free", "free")
            .date(T0, T0 + 2_000_000)
            .wait(60)
            .date(T0 + 60, T0 + 61)
            .mode("paid", "premium"),
    ]
}

fn confirmation() -> Vec<Play> {
    vec![
        Play::premium("after a restart paid media waits until the cloud confirms", "confirmation")
            .step("restart")
            .mode("held", "free")
            .document_via("live", premium(41), "duplicate")
            .document_via("retained", premium(41), "duplicate")
            .mode("paid", "premium"),
        Play::premium("a cancel that was missed while the camera was off costs nothing", "confirmation")
            .step("restart")
            .mode("held", "free")
            .document(free(42), "applied")
            .force([3, 42], "free", "free", "free"),
        Play::begun("a live copy of a new document alone confirms nothing", "confirmation")
            .document_via("live", premium(41), "applied")
            .force([3, 41], "premium", "held", "free")
            .document_via("https", premium(41), "duplicate")
            .mode("paid", "premium"),
    ]
}

#[test]
fn the_file_matches_the_histories() {
    let histories = histories();
    check_names(histories.iter().map(|history| (history.name, history.tests.as_str())));
    let policies = [("free", FREE), ("premium", PREMIUM), ("mixed", MIXED), ("mixed under free", MIXED_FLOOR)].into();
    let roots = [(root().kid.to_owned(), root().x())].into();
    let file = File { issuer: ISSUER, device: DEVICE, roots, min_keyset_version: 5, built: T0, policies, histories };
    check_or_write("histories.json", &file);
}
