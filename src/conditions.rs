//! What is wrong at this moment: one list that feeds the log, the status page, `status`, the support archive and systemd's
//! status line, so that a fault is named once and in the same words everywhere. Each part of the agent raises its own
//! conditions and clears them; raising one that holds already is cheap, so a part may do it as often as it meets the fault.
//!
//! It decides nothing: no part of the agent may read a condition to choose what to do.
//!
//! In the log, a condition's beginning and its end are a line each, and while it lasts one line in ten minutes reminds of it.
//! One that comes and goes writes no more than one that stays: after the first end each line says how often it came again.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use care_engine::trusted_time::{Now, timestamp};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::redact;

/// While a condition lasts, or comes and goes, one line reminds of it this often at most.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// How much a condition matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The camera does its work, with less than it should have.
    Warning,
    /// Something the owner pays for, or relies on, does not work.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

macro_rules! conditions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $severity:ident, $advice:literal;)*) => {
        /// The closed list of conditions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[$doc])* $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name, as machines see it: never changed once released.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How much it matters.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// What to do about it, where the fault itself does not say more.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

conditions! {
    /// The state could not be read; only HTTPS sets it anew.
    StateLost = "state_lost", Error, "Nothing to do on the camera: it asks the cloud over HTTPS every minute.";
    /// The state cannot be written.
    StateNotWritten = "state_not_written", Error, "Check that the state directory's file system has room and is writable.";
    /// The lease ended without news from the cloud.
    LeaseEnded = "lease_ended", Error, "Check the camera's connection to the broker and to the API.";
    /// Paid media waits for the cloud to confirm the plan.
    Held = "held", Warning, "It ends when the broker or the API answers; check the connections if it lasts.";
    /// The camera was reset and waits for a binding with a higher epoch.
    FactoryReset = "factory_reset", Warning, "Add the camera to an account again.";
    /// A document or keyset was rejected.
    DocumentRejected = "document_rejected", Error, "Compare what was expected with what came, and correct the publisher.";
    /// Two documents carry the same epoch and sequence.
    DocumentConflict = "document_conflict", Error, "The issuer must publish a document with a higher sequence.";
    /// The cloud refuses grants (402 or 403) although the plan on record allows the clip.
    GrantRefused = "grant_refused", Warning, "The cloud's record of the plan differs from the document: check the account's subscription.";

    /// No HTTPS `Date` has confirmed trusted time since boot.
    ClockUnconfirmed = "clock_unconfirmed", Warning, "It ends with the first answer of the API; check the connection to it.";
    /// Trusted time was corrected by more than ten minutes.
    ClockCorrected = "clock_corrected", Warning, "Nothing, if the new time is right.";
    /// An HTTPS `Date` contradicts trusted time and waits for a second one that agrees.
    ClockDisputed = "clock_disputed", Warning, "Check the API server's clock.";

    /// There is no connection to the broker.
    BrokerUnreachable = "broker_unreachable", Warning, "Check the network, the name and the certificates that the sentence names.";
    /// The broker grants the subscription and delivers nothing.
    BrokerDeaf = "broker_deaf", Warning, "Check that the broker's ACL lets this device read its topics.";
    /// The broker refuses the subscription, or closes on it.
    BrokerRights = "broker_rights", Error, "Give this device the right to subscribe to the topics named.";
    /// Another client seems to use this device's id.
    BrokerClone = "broker_clone", Error, "Find the other client, or give this device a certificate of its own.";
    /// A message too large for this device waits at the broker.
    BrokerMessageTooLarge = "broker_message_too_large", Warning, "Remove the message from the device's topic.";
    /// The API does not answer.
    ApiUnreachable = "api_unreachable", Warning, "Check the network, the name and the certificates that the sentence names.";

    /// Clips cannot be uploaded.
    UploadsFailing = "uploads_failing", Error, "The sentence has the server's own words; clips wait until it is mended.";
    /// One clip, or several, cannot be uploaded while others can.
    ClipFailing = "clip_failing", Warning, "Ask the store's operator why it refuses this clip.";
    /// A grant leads where it must not.
    GrantMisleads = "grant_misleads", Error, "Add the host to [store] hosts if it is right, or correct the cloud's grants.";
    /// Large segments do not get through to a peer.
    PathMtu = "path_mtu", Warning, "Let ICMP (fragmentation needed, packet too big) pass, or lower the link's MTU.";
    /// The kernel cannot pace an upload.
    Pacing = "pacing", Warning, "Use a kernel with SO_MAX_PACING_RATE, or set [upload] uplink_kbps.";
    /// Clips gave way to newer ones.
    ClipsDropped = "clips_dropped", Error, "Enlarge [spool], or find out why clips do not leave.";
    /// Clips cannot be put on flash.
    SpoolFault = "spool_fault", Warning, "Check the state directory's file system.";
    /// Today's share of flash writes is used up.
    FlashBudget = "flash_budget", Warning, "Clips wait in memory until tomorrow; raise [spool] flash_bytes_per_day if the flash can bear it.";
    /// The vendor's uploader is not connected.
    UploaderAway = "uploader_away", Error, "Start the vendor's uploader, or remove [uploader].";

    /// The camera's picture is missing.
    Stream = "stream", Error, "Check [media] source and the camera.";
    /// The second stream is missing.
    LowStream = "low_stream", Warning, "Check [media] low_source.";
    /// Media cannot start.
    MediaNotStarted = "media_not_started", Error, "The agent tries again; check what the sentence names.";
    /// The stream's picture is larger than the plan allows, and there is no smaller one.
    PictureTooTall = "picture_too_tall", Warning, "Set [media] low_source to a stream within the plan's max_height.";
    /// Motion cannot be seen in this stream.
    MotionBlind = "motion_blind", Error, "Set [media] motion to a socket, or low_source to a stream that the decoder can read.";
    /// The motion socket cannot be opened.
    MotionSocket = "motion_socket", Error, "Make the socket's directory; the agent tries again.";
    /// Recording to the SD card does not work.
    Recording = "recording", Error, "Check the card.";
    /// Frames were lost on the way to the card or into a clip.
    FramesLost = "frames_lost", Warning, "The card or the processor does not keep up with the stream.";

    /// A certificate ends soon, or has ended.
    CertificateEnds = "certificate_ends", Warning, "Replace the certificate on disk; the agent reloads it within ten seconds.";
    /// Certificates on disk have changed and cannot be used; the old ones are kept.
    CertificateRejected = "certificate_rejected", Error, "Correct the file that the sentence names; the agent keeps the old certificates until then.";
    /// A certificate authority in a bundle cannot be used.
    CaSkipped = "ca_skipped", Warning, "Remove the certificate from the bundle, or replace it.";
    /// The configuration on disk is bad; the old one is kept.
    ConfigRejected = "config_rejected", Error, "Correct the configuration (`check-config` lists every fault) and reload.";
    /// The status page cannot be served.
    StatusPage = "status_page", Warning, "Stop what uses the port, or change [status] listen; the agent tries again.";
}

/// One condition that holds, as machines and people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Its name ([`Kind::name`]).
    pub name: String,
    /// Since when, trusted time as it stands now.
    pub since: Timestamp,
    /// How much it matters.
    pub severity: Severity,
    /// What is wrong: one sentence, no secrets.
    pub sentence: String,
    /// What to do about it.
    pub advice: String,
}

/// The list. Clones are the same list.
#[derive(Clone)]
pub struct Conditions(Arc<List>);

struct List {
    known: Mutex<BTreeMap<Kind, Known>>,
    /// How late it is: a count that runs on through suspend.
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
}

/// A condition that holds, or did, and what the log has said of it.
#[derive(Default)]
struct Known {
    holds: Option<Holding>,
    /// When the last line about it was written.
    told: Option<Duration>,
    /// Whether that line says that it holds.
    said: bool,
    /// How often it came again since, without a line.
    untold: u64,
    /// It comes and goes: its end is told once it has stayed away for as long as a reminder takes.
    flaps: bool,
    /// When it was last over, and the sentence that held then.
    left: Duration,
    last: String,
}

struct Holding {
    since: Duration,
    sentence: String,
    advice: String,
}

impl Conditions {
    /// A list that reads how late it is from `clock`, for tests of what an hour brings.
    pub fn with_clock(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(List { known: Mutex::default(), clock: Box::new(clock) }))
    }

    /// The condition holds: `sentence` says what is wrong, without secrets.
    pub fn raise(&self, kind: Kind, sentence: impl Into<String>) {
        self.raise_advising(kind, sentence, kind.advice());
    }

    /// The same, where this fault needs other advice than most of its kind.
    pub fn raise_advising(&self, kind: Kind, sentence: impl Into<String>, advice: impl Into<String>) {
        // A fault may quote an address, in another program's words.
        let (sentence, advice, now) = (redact::text(&sentence.into()), redact::text(&advice.into()), (self.0.clock)());
        let mut known = self.lock();
        let known = known.entry(kind).or_default();
        match &mut known.holds {
            Some(holding) => (holding.sentence, holding.advice) = (sentence, advice),
            None => {
                known.holds = Some(Holding { since: now, sentence, advice });
                known.untold += 1;
            }
        }
        known.tell_what_is_due(kind, now);
    }

    /// The condition holds no longer, if it did.
    pub fn clear(&self, kind: Kind) {
        let now = (self.0.clock)();
        let mut known = self.lock();
        let Some(known) = known.get_mut(&kind) else { return };
        let Some(holding) = known.holds.take() else { return };
        (known.left, known.last) = (now, holding.sentence);
        if known.said && !known.flaps {
            known.tell_end(kind, now.saturating_sub(holding.since), now);
        }
    }

    /// Raises it with this sentence, or clears it.
    pub fn set(&self, kind: Kind, sentence: Option<String>) {
        match sentence {
            Some(sentence) => self.raise(kind, sentence),
            None => self.clear(kind),
        }
    }

    /// What holds now, the gravest first and among equals the newest. Call it often: it also writes the reminders that are due.
    pub fn list(&self, now: Now) -> Vec<Condition> {
        let ticks = (self.0.clock)();
        let mut known = self.lock();
        let mut list = Vec::new();
        for (kind, known) in &mut *known {
            known.tell_what_is_due(*kind, ticks);
            if let Some(holding) = &known.holds {
                list.push((
                    holding.since,
                    Condition {
                        name: kind.name().to_owned(),
                        since: timestamp(now.trusted.saturating_sub(ticks.saturating_sub(holding.since))),
                        severity: kind.severity(),
                        sentence: holding.sentence.clone(),
                        advice: holding.advice.clone(),
                    },
                ));
            }
        }
        list.sort_by_key(|(since, condition)| Reverse((condition.severity, *since)));
        list.into_iter().map(|(_, condition)| condition).collect()
    }

    /// Every change leaves a whole map behind, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Conditions {
    fn default() -> Self {
        Self::with_clock(|| {
            let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            // BOOTTIME counts from zero.
            Duration::new(boot.tv_sec.unsigned_abs(), boot.tv_nsec.unsigned_abs() as u32)
        })
    }
}

impl Known {
    /// Writes the line that is due: that it holds, at once or as a reminder, or that it has stayed away.
    fn tell_what_is_due(&mut self, kind: Kind, now: Duration) {
        let due = self.told.is_none_or(|told| now.saturating_sub(told) >= REMIND_EVERY);
        match &self.holds {
            Some(holding) if due => {
                // The first time is no recurrence.
                let again = self.untold.saturating_sub(u64::from(self.told.is_none() || !self.said));
                log(kind, holding, again);
                self.flaps = again > 0;
                (self.told, self.said, self.untold) = (Some(now), true, 0);
            }
            None if self.said && now.saturating_sub(self.left) >= REMIND_EVERY => self.tell_end(kind, Duration::ZERO, now),
            _ => {}
        }
    }

    fn tell_end(&mut self, kind: Kind, lasted: Duration, now: Duration) {
        tracing::info!(condition = kind.name(), lasted_s = lasted.as_secs(), again = self.untold, "condition over: {}", self.last);
        (self.told, self.said, self.untold, self.flaps) = (Some(now), false, 0, false);
    }
}

fn log(kind: Kind, holding: &Holding, again: u64) {
    let Holding { sentence, advice, .. } = holding;
    match (kind.severity(), again) {
        (Severity::Warning, 0) => tracing::warn!(condition = kind.name(), advice, "{sentence}"),
        (Severity::Warning, _) => tracing::warn!(condition = kind.name(), again, advice, "{sentence}"),
        (Severity::Error, 0) => tracing::error!(condition = kind.name(), advice, "{sentence}"),
        (Severity::Error, _) => tracing::error!(condition = kind.name(), again, advice, "{sentence}"),
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.lock();
        f.debug_set().entries(known.iter().filter(|(_, known)| known.holds.is_some()).map(|(kind, _)| kind.name())).finish()
    }
}

#[cfg(test)]
mod tests;
