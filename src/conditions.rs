//! The list of what is wrong now. It feeds the log, the status page, `status`, the support archive and systemd's
//! status line, so that a fault has the same name and words everywhere. Each part of the agent raises and clears its
//! own conditions. Raising an active condition again is cheap, so a part may do that whenever it meets the fault.
//!
//! Conditions only inform: no part of the agent may read one to decide what to do.
//!
//! A condition writes one log line when it begins, one when it ends, and a reminder every ten minutes in between. One
//! that flaps writes no more lines than one that lasts; each line then contains how often it returned. The timeline keeps
//! those that are over.
//! `docs/conditions.md` lists them all.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use care_engine::trusted_time::{Now, timestamp};
use jiff::Timestamp;
use serde::Serialize;

use crate::redact;

/// The interval of reminders in the log while a condition lasts or flaps.
const REMIND_EVERY: Duration = Duration::from_secs(600);

/// How serious a condition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The camera works, but not as well as it should.
    Warning,
    /// Something that the owner pays for or relies on does not work.
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
    ($(#[doc = $meaning:literal] $variant:ident = $name:literal, $severity:ident, $advice:literal;)*) => {
        /// The closed list of conditions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $meaning] $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name for machines. It never changes once released.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How serious it is.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// What it means.
            pub const fn meaning(self) -> &'static str {
                // A doc comment begins with the space after its slashes.
                match self { $(Self::$variant => $meaning.trim_ascii_start(),)* }
            }

            /// What to do about it, unless the fault gives its own advice.
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$variant => $advice,)* }
            }
        }
    };
}

conditions! {
    /// The state could not be read; only an answer over HTTPS replaces it.
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
    /// The broker grants the subscription but does not deliver the entitlement.
    BrokerDeaf = "broker_deaf", Warning, "Check that the broker's ACL lets this device read its topics.";
    /// The broker refuses the subscription, or closes the connection over it.
    BrokerRights = "broker_rights", Error, "Give this device the right to subscribe to the topics named.";
    /// Another client seems to use this device's id.
    BrokerClone = "broker_clone", Error, "Find the other client, or give this device a certificate of its own.";
    /// A message too large for this device waits at the broker.
    BrokerMessageTooLarge = "broker_message_too_large", Warning, "Remove the message from the device's topic, then reload the agent: else it subscribes again after ten minutes.";
    /// The API does not answer.
    ApiUnreachable = "api_unreachable", Warning, "Check the network, the name and the certificates that the sentence names.";

    /// Clips cannot be uploaded.
    UploadsFailing = "uploads_failing", Error, "The sentence quotes the server; clips wait until the fault is corrected.";
    /// One clip, or several, cannot be uploaded while others can.
    ClipFailing = "clip_failing", Warning, "Ask the store's operator why it refuses this clip.";
    /// A grant names a host or path that is not allowed.
    GrantMisleads = "grant_misleads", Error, "Add the host to [store] hosts if it is right, or correct the cloud's grants.";
    /// Large segments do not get through to a peer.
    PathMtu = "path_mtu", Warning, "Let ICMP (fragmentation needed, packet too big) pass, or lower the link's MTU.";
    /// The kernel does not pace uploads, or does not count what they send.
    Pacing = "pacing", Warning, "Set [upload] uplink_kbps to the uplink's rate, or use Linux 4.19 or later.";
    /// Clips were dropped for newer ones because the spool was full.
    ClipsDropped = "clips_dropped", Error, "Enlarge [spool], or find out why clips are not uploaded.";
    /// Clips are shorter than the plan allows, because neither memory nor flash had room for more of them.
    ClipsShortened = "clips_shortened", Warning, "Enlarge what the sentence names in [spool], or set [upload] while_recording = true.";
    /// Clips cannot be put on flash.
    SpoolFault = "spool_fault", Warning, "Check the state directory's file system.";
    /// Today's budget of flash writes is used up.
    FlashBudget = "flash_budget", Warning, "Clips wait in memory until tomorrow; raise [spool] flash_bytes_per_day if the flash can bear it.";
    /// The vendor's uploader is not connected.
    UploaderAway = "uploader_away", Error, "Start the vendor's uploader, or remove [uploader].";

    /// The camera's picture is missing.
    Stream = "stream", Error, "Check [media] source and the camera.";
    /// The second stream is missing.
    LowStream = "low_stream", Warning, "Check [media] low_source.";
    /// Media cannot start.
    MediaNotStarted = "media_not_started", Error, "The agent tries again; check what the sentence names.";
    /// The picture is larger than the plan allows, and there is no smaller stream.
    PictureTooTall = "picture_too_tall", Error, "Set [media] low_source to a stream within the plan's max_height.";
    /// Motion cannot be detected in this stream, or the camera tells nothing of motion.
    MotionBlind = "motion_blind", Error, "Set [media] motion to \"bitstream\" or a socket, or low_source to a stream that the decoder can read.";
    /// A snapshot cannot be had as a JPEG.
    SnapshotFailing = "snapshot_failing", Warning, "Check [media] snapshot_url; check-config tries it.";
    /// The motion socket cannot be opened.
    MotionSocket = "motion_socket", Error, "Make the socket's directory; the agent tries again.";
    /// Recording to the SD card does not work.
    Recording = "recording", Error, "Check the card.";
    /// More of the recording was at risk from a power cut than two seconds.
    CardSlow = "card_slow", Warning, "Use a faster card; one that was fast before may be wearing out. The clips and the live view lose nothing.";
    /// A keyframe interval of the stream is larger than the pre-roll may be.
    PreRollTooSmall = "pre_roll_too_small", Warning, "Raise [media] pre_roll_bytes, or shorten the encoder's keyframe interval or lower its bit rate.";
    /// Events are in no clip although the plan allows clips.
    EventsMissed = "events_missed", Error, "Set the encoder's keyframe interval to a few seconds, below the plan's longest clip; raise [media] pre_roll_bytes if the sentence names it.";
    /// Frames were lost on the way from the camera, to the card or into a clip.
    FramesLost = "frames_lost", Warning, "If they are lost on the way from the camera, check its network and its encoder; otherwise the card or the processor does not keep up.";

    /// A certificate expires soon, or has expired.
    CertificateEnds = "certificate_ends", Warning, "Replace the certificate on disk; the agent reloads it within ten seconds.";
    /// Certificates on disk have changed and cannot be used; the agent keeps the old ones.
    CertificateRejected = "certificate_rejected", Error, "Correct the file that the sentence names; the agent keeps the old certificates until then.";
    /// A certificate authority in a bundle cannot be used.
    CaSkipped = "ca_skipped", Warning, "Remove the certificate from the bundle, or replace it.";
    /// The configuration on disk is bad; the agent keeps the old one.
    ConfigRejected = "config_rejected", Error, "Correct the configuration (`check-config` lists every fault) and reload.";
    /// The agent runs as root, because its user does not exist.
    RunsAsRoot = "runs_as_root", Warning, "Make the user, or write [process] user = \"root\" if the camera has no other.";
    /// Home Assistant is told nothing, or not everything. Plan and uploads do not depend on it.
    LocalBroker = "local_broker", Warning, "Check [local_mqtt] url, user and password, and the broker in the home; plan and uploads do not depend on it.";
    /// The timeline cannot be written, or its file was damaged.
    TimelineFault = "timeline_fault", Warning, "Check the state directory's file system; what happens is kept in memory meanwhile.";
    /// The status page cannot be served.
    StatusPage = "status_page", Warning, "Stop what uses the port, or change [status] listen; the agent tries again.";
}

/// An active condition, as machines and people see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// Its name ([`Kind::name`]).
    pub name: String,
    /// Since when, by trusted time as it is now.
    #[serde(with = "care_protocol::rfc3339")]
    pub since: Timestamp,
    /// How serious it is.
    pub severity: Severity,
    /// What is wrong: one sentence, no secrets.
    pub sentence: String,
    /// What to do about it.
    pub advice: String,
}

/// The list of conditions. Clones share it.
#[derive(Clone)]
pub struct Conditions(Arc<List>);

struct List {
    entries: Mutex<BTreeMap<Kind, Entry>>,
    /// A clock that continues during suspend.
    clock: Box<dyn Fn() -> Duration + Send + Sync>,
    observer: OnceLock<Observer>,
}

/// What hears of every beginning, with the sentence, and of every end.
type Observer = Box<dyn Fn(Kind, Option<&str>) + Send + Sync>;

/// A condition that is or was active, and its last log line.
#[derive(Default)]
struct Entry {
    active: Option<Active>,
    /// When the last log line about it was written.
    logged_at: Option<Duration>,
    /// Whether that line reports the condition as active.
    logged_active: bool,
    /// How often it was raised again without a log line since then.
    unlogged: u64,
    /// It flaps. Its end is then logged only once it has stayed away for a whole reminder interval.
    flapping: bool,
    /// When it last ended, and its sentence at that time.
    ended_at: Duration,
    last_sentence: String,
}

struct Active {
    since: Duration,
    sentence: String,
    advice: String,
}

impl Conditions {
    /// A list with its own clock, for tests.
    pub fn with_clock(clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Arc::new(List { entries: Mutex::default(), clock: Box::new(clock), observer: OnceLock::new() }))
    }

    /// Calls this whenever a condition begins, with its sentence, or ends: on any thread, so it must not block, nor raise or clear
    /// one. The first observer stays.
    pub fn observe(&self, observer: impl Fn(Kind, Option<&str>) + Send + Sync + 'static) {
        self.0.observer.get_or_init(|| Box::new(observer));
    }

    /// Raises a condition, or updates its sentence. `sentence` describes the fault, without secrets.
    pub fn raise(&self, kind: Kind, sentence: impl Into<String>) {
        self.raise_advising(kind, sentence, kind.advice());
    }

    /// The same, with advice for this particular fault.
    pub fn raise_advising(&self, kind: Kind, sentence: impl Into<String>, advice: impl Into<String>) {
        // A fault may quote another program's message with an address in it.
        let (sentence, advice, now) = (redact::text(&sentence.into()), redact::text(&advice.into()), (self.0.clock)());
        let mut entries = self.lock();
        let entry = entries.entry(kind).or_default();
        match &mut entry.active {
            Some(active) => (active.sentence, active.advice) = (sentence, advice),
            None => {
                self.tell(kind, Some(&sentence));
                entry.active = Some(Active { since: now, sentence, advice });
                entry.unlogged += 1;
            }
        }
        entry.log_if_due(kind, now);
    }

    /// Clears a condition, if it is active.
    pub fn clear(&self, kind: Kind) {
        let now = (self.0.clock)();
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&kind) else { return };
        let Some(active) = entry.active.take() else { return };
        self.tell(kind, None);
        (entry.ended_at, entry.last_sentence) = (now, active.sentence);
        if entry.logged_active && !entry.flapping {
            entry.log_end(kind, now.saturating_sub(active.since), now);
        }
    }

    /// Raises the condition with this sentence, or clears it.
    pub fn set(&self, kind: Kind, sentence: Option<String>) {
        match sentence {
            Some(sentence) => self.raise(kind, sentence),
            None => self.clear(kind),
        }
    }

    /// The active conditions, the most severe first, and the newest first among equals. Call it often, because it also
    /// writes the reminders that are due.
    pub fn list(&self, now: Now) -> Vec<Condition> {
        let ticks = (self.0.clock)();
        let mut entries = self.lock();
        let mut list = Vec::new();
        for (kind, entry) in &mut *entries {
            entry.log_if_due(*kind, ticks);
            if let Some(active) = &entry.active {
                list.push((
                    active.since,
                    Condition {
                        name: kind.name().to_owned(),
                        since: timestamp(now.trusted.saturating_sub(ticks.saturating_sub(active.since))),
                        severity: kind.severity(),
                        sentence: active.sentence.clone(),
                        advice: active.advice.clone(),
                    },
                ));
            }
        }
        list.sort_by_key(|(since, condition)| Reverse((condition.severity, *since)));
        list.into_iter().map(|(_, condition)| condition).collect()
    }

    fn tell(&self, kind: Kind, sentence: Option<&str>) {
        if let Some(observer) = self.0.observer.get() {
            observer(kind, sentence);
        }
    }

    /// Every change leaves the map consistent, so the lock's poison flag can be ignored.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Entry {
    /// Writes the log line that is due: that the condition is active, or that it has ended for good.
    fn log_if_due(&mut self, kind: Kind, now: Duration) {
        let due = self.logged_at.is_none_or(|at| now.saturating_sub(at) >= REMIND_EVERY);
        match &self.active {
            Some(active) if due => {
                // The first time is not a recurrence.
                let again = self.unlogged.saturating_sub(u64::from(self.logged_at.is_none() || !self.logged_active));
                log(kind, active, again);
                self.flapping = again > 0;
                (self.logged_at, self.logged_active, self.unlogged) = (Some(now), true, 0);
            }
            None if self.logged_active && now.saturating_sub(self.ended_at) >= REMIND_EVERY => self.log_end(kind, Duration::ZERO, now),
            _ => {}
        }
    }

    fn log_end(&mut self, kind: Kind, lasted: Duration, now: Duration) {
        tracing::info!(
            condition = kind.name(),
            lasted_s = lasted.as_secs(),
            again = self.unlogged,
            "condition over: {}",
            self.last_sentence
        );
        (self.logged_at, self.logged_active, self.unlogged, self.flapping) = (Some(now), false, 0, false);
    }
}

fn log(kind: Kind, active: &Active, again: u64) {
    let Active { sentence, advice, .. } = active;
    match (kind.severity(), again) {
        (Severity::Warning, 0) => tracing::warn!(condition = kind.name(), advice, "{sentence}"),
        (Severity::Warning, _) => tracing::warn!(condition = kind.name(), again, advice, "{sentence}"),
        (Severity::Error, 0) => tracing::error!(condition = kind.name(), advice, "{sentence}"),
        (Severity::Error, _) => tracing::error!(condition = kind.name(), again, advice, "{sentence}"),
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.lock();
        f.debug_set().entries(entries.iter().filter(|(_, entry)| entry.active.is_some()).map(|(kind, _)| kind.name())).finish()
    }
}

#[cfg(test)]
mod tests;
