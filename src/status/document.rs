//! The status document, and its newest version shared between threads. It holds no secret: no key, token, grant URL or
//! account.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use care_engine::{
    Past, View,
    trusted_time::{Now, timestamp},
};
use care_protocol::{DeviceId, Digest, Mode, Plan, Policy, Position, Reason, Report};
use jiff::Timestamp;
use serde::Serialize;
use tokio::{sync::Notify, time::timeout};

use super::{Observed, span::span};
use crate::{
    clock::Clock,
    conditions::Condition,
    config::Config,
    confinement::Confinement,
    media::{Live, MediaStatus, RecordingStatus, StreamStatus},
    timeline::{Entry, Timeline},
    upload::{Flight, vendor::UploaderStatus},
};

/// The whole status, as `/status.json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusDocument {
    /// The device id.
    pub device: DeviceId,
    /// The model's name.
    pub model: String,
    /// The agent's version.
    pub agent: String,
    /// Trusted time of this document.
    #[serde(with = "care_protocol::rfc3339")]
    pub at: Timestamp,
    /// Seconds since the agent started.
    pub up_s: u64,
    /// The mode.
    pub mode: Mode,
    /// The plan on record.
    pub plan: Option<Plan>,
    /// Why it was issued.
    pub reason: Option<Reason>,
    /// Epoch in force, 0 if none.
    pub epoch: u64,
    /// Sequence in force, 0 if none.
    pub seq: u64,
    /// Digest in force.
    pub digest: Option<Digest>,
    /// The highest position ever accepted.
    pub ratchet: Position,
    /// Version of the keyset, 0 if none.
    pub keyset: u64,
    /// Whether what is in force is on flash.
    pub persisted: bool,
    /// Whether the state was unreadable and nothing has replaced it yet.
    pub state_lost: bool,
    /// The limits on record.
    pub policy: Option<Policy>,
    /// The limits in force now: less than the policy while held or after the lease has ended.
    pub may_leave: Policy,
    /// Seconds until the lease ends; 0 once it has.
    pub lease_left_s: Option<u64>,
    /// The whole lease, for the page.
    #[serde(skip)]
    pub lease_s: Option<u64>,
    /// The next change that the document announces.
    pub next: Option<NextChange>,
    /// The order id that support asks for.
    pub order: Option<String>,
    /// The last change of mode or document.
    pub last_switch: Option<Report>,
    /// The connection to the broker.
    pub link: LinkStatus,
    /// What is being uploaded.
    pub transfers: TransferStatus,
    /// What waits for upload, and counts of what was stored, erased and dropped.
    pub spool: SpoolStatus,
    /// How many bytes recordings on the SD card may take, for the page.
    #[serde(skip)]
    pub card_quota_bytes: Option<u64>,
    /// The camera; absent without `[media]`.
    pub media: Option<MediaPart>,
    /// A vendor's own uploader; absent without `[uploader]`.
    pub uploader: Option<UploaderStatus>,
    /// The state on flash.
    pub store: StoreStatus,
    /// Trusted time.
    pub clock: ClockStatus,
    /// The device's certificate; absent without TLS.
    pub certificate: Option<CertificateStatus>,
    /// What the process may do.
    pub confinement: Confinement,
    /// What is wrong now, the most severe first.
    pub conditions: Vec<Condition>,
    /// The sentences of the conditions.
    pub warnings: Vec<String>,
    /// What happened last, oldest first.
    pub timeline: Vec<Entry>,
}

/// The next change that the document in force announces.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextChange {
    /// The plan from then on.
    pub plan: Plan,
    /// When, trusted time.
    #[serde(with = "care_protocol::rfc3339")]
    pub at: Timestamp,
}

/// The connection to the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LinkStatus {
    /// Whether it is connected and the subscription is granted.
    pub up: bool,
    /// The broker, `host:port`.
    pub broker: String,
    /// Whether the cloud has confirmed the plan on record over this connection.
    pub confirmed: bool,
    /// Connections made since the start.
    pub connections: u64,
    /// Why it is down, with the stage that failed; null while it is up.
    pub fault: Option<String>,
}

/// What is being uploaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TransferStatus {
    /// Transfers in flight.
    pub in_flight: u32,
    /// Those of them whose bytes are being sent; the page shows them, the document does not.
    #[serde(skip)]
    pub flights: Vec<Flight>,
    /// The gate's generation: the number of cuts.
    pub generation: u64,
    /// The pace of transfers, bytes of payload per second.
    pub pace: u64,
    /// What the kernel lacks to keep that pace, if anything.
    pub pace_fault: Option<String>,
    /// Why a clip was last not stored.
    pub last_fault: Option<String>,
}

/// What waits for upload, and counts since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// Clips held: being recorded, waiting and in flight.
    pub clips: u32,
    /// Their bytes.
    pub bytes: u64,
    /// The limit of bytes in memory.
    pub quota_bytes: u64,
    /// Bytes of memory that clips use.
    pub memory_bytes: u64,
    /// Clips on flash: they survive a power cut.
    pub flash_clips: u32,
    /// Bytes of flash that the spool uses.
    pub flash_bytes: u64,
    /// The limit of bytes on flash.
    pub flash_quota_bytes: u64,
    /// Why clips cannot be written to flash, if they cannot.
    pub flash_fault: Option<String>,
    /// Bytes that the spool has written to flash today, counted in whole pages.
    pub flash_written_today: u64,
    /// The limit of bytes written to flash per day.
    pub flash_bytes_per_day: u64,
    /// Clips stored in the cloud.
    pub stored_clips: u32,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Clips erased because the plan does not allow them.
    pub erased_clips: u32,
    /// Their bytes.
    pub erased_bytes: u64,
    /// Clips dropped for newer ones because the spool was full.
    pub dropped_clips: u32,
    /// Their bytes.
    pub dropped_bytes: u64,
}

/// The camera.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct MediaPart {
    /// Why no clip of this stream can be uploaded now, if none can.
    pub why_not: Option<String>,
    /// The stream, its clips and the SD recording.
    #[serde(flatten)]
    pub status: MediaStatus,
}

/// The state on flash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// Writes since the start.
    pub writes: u64,
    /// Why the newest record is not on flash, if it is not.
    pub fault: Option<String>,
}

/// Trusted time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClockStatus {
    /// Trusted time.
    #[serde(with = "care_protocol::rfc3339")]
    pub trusted: Timestamp,
    /// Whether the `Date` of an HTTPS answer has confirmed it since boot.
    pub confirmed: bool,
}

/// The device's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateStatus {
    /// When it expires.
    #[serde(with = "care_protocol::rfc3339")]
    pub expires: Timestamp,
    /// Whole days left by trusted time; 0 once it has expired.
    pub days_left: u64,
}

/// The conditions that keep clips from leaving, by name.
const HOLD_UPLOADS: [&str; 16] = [
    "state_lost",
    "lease_ended",
    "held",
    "factory_reset",
    "grant_refused",
    "broker_unreachable",
    "broker_rights",
    "broker_deaf",
    "api_unreachable",
    "uploads_failing",
    "grant_misleads",
    "uploader_away",
    "stream",
    "media_not_started",
    "picture_too_tall",
    "motion_blind",
];

/// How many characters of a condition's sentence the summary shows.
const SUMMARY_MOST: usize = 160;

impl StatusDocument {
    /// The document before the engine has started: unbound, not connected.
    pub fn new(config: &Config) -> Self {
        Self {
            device: config.device.id.clone(),
            model: config.device.model.clone(),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            at: Timestamp::UNIX_EPOCH,
            up_s: 0,
            mode: Mode::Unbound,
            plan: None,
            reason: None,
            epoch: 0,
            seq: 0,
            digest: None,
            ratchet: Position::NONE,
            keyset: 0,
            persisted: true,
            state_lost: false,
            policy: None,
            may_leave: Policy::CLOSED,
            lease_left_s: None,
            lease_s: None,
            next: None,
            order: None,
            last_switch: None,
            link: LinkStatus { broker: config.broker.endpoint.authority(), ..LinkStatus::default() },
            transfers: TransferStatus::default(),
            spool: SpoolStatus {
                quota_bytes: config.spool.memory_bytes,
                flash_quota_bytes: config.spool.flash_bytes,
                flash_bytes_per_day: config.spool.flash_bytes_per_day,
                ..SpoolStatus::default()
            },
            card_quota_bytes: config.recording.as_ref().map(|recording| recording.max_bytes),
            media: config.media.as_ref().map(|_| MediaPart::default()),
            uploader: config.uploader.as_ref().map(|_| UploaderStatus::default()),
            store: StoreStatus::default(),
            clock: ClockStatus { trusted: Timestamp::UNIX_EPOCH, confirmed: false },
            certificate: None,
            confinement: Confinement::default(),
            conditions: Vec::new(),
            warnings: Vec::new(),
            timeline: Vec::new(),
        }
    }

    /// Sets the fields that come from the engine.
    pub fn set_engine_view(&mut self, view: View, now: Now) {
        self.at = timestamp(now.trusted);
        self.clock = ClockStatus { trusted: self.at, confirmed: now.confirmed };
        self.mode = view.mode;
        self.plan = view.plan;
        self.reason = view.reason;
        (self.epoch, self.seq) = (view.position.epoch, view.position.seq);
        self.digest = view.digest;
        self.ratchet = view.ratchet;
        self.keyset = view.keyset;
        self.persisted = view.persisted;
        self.state_lost = view.state_lost;
        self.policy = view.policy;
        self.may_leave = view.may_leave;
        self.lease_left_s = view.lease_left.map(|left| left.as_secs());
        self.lease_s = view.lease.map(|whole| whole.as_secs());
        let next_at = view.next_at.map(|at| timestamp(Duration::from_secs(at)));
        self.next = view.next_plan.zip(next_at).map(|(plan, at)| NextChange { plan, at });
        self.order = view.order;
        self.last_switch = view.last_switch;
    }

    /// Sets when the device's certificate expires (since 1970).
    pub fn set_certificate(&mut self, expires: Duration, now: Now) {
        let days_left = expires.saturating_sub(now.trusted).as_secs() / 86_400;
        self.certificate = Some(CertificateStatus { expires: timestamp(expires), days_left });
    }

    /// Updates `warnings` from `conditions`. Call it after these have been set.
    pub fn update_warnings(&mut self) {
        self.warnings = self.conditions.iter().map(|condition| condition.sentence.clone()).collect();
    }

    /// One line for `systemctl status` and for `supervise`: what the agent does, and the most severe condition.
    pub fn summary(&self) -> String {
        let others = self.conditions.len().saturating_sub(1);
        let wrong = self.conditions.first().map_or_else(String::new, |worst| {
            let sentence: String = worst.sentence.chars().take(SUMMARY_MOST).collect();
            let more = if others > 0 { format!(" (and {others} more)") } else { String::new() };
            format!("; {}: {sentence}{more}", worst.name)
        });
        self.activity() + &wrong
    }

    fn activity(&self) -> String {
        let plan = self.plan.as_ref().map_or("no plan", Plan::as_str);
        let link = if self.link.up { "connected" } else { "not connected" };
        format!(
            "{}, {plan} {}, {link}, {} transfers, {} clips waiting",
            self.mode,
            self.position(),
            self.transfers.in_flight,
            self.spool.clips
        )
    }

    /// Whether nothing at all may leave now.
    pub fn is_closed(&self) -> bool {
        !self.may_leave.clips && !self.may_leave.snapshots
    }

    /// The condition that keeps clips from leaving, if clips wait or nothing may leave.
    pub fn held_up_by(&self) -> Option<&Condition> {
        let waits = self.spool.clips > 0 || self.is_closed() || self.media.as_ref().is_some_and(|media| media.why_not.is_some());
        self.conditions.iter().find(|condition| HOLD_UPLOADS.contains(&condition.name.as_str())).filter(|_| waits)
    }

    /// The position in force.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, seq: self.seq }
    }

    /// The document as rows of a name and a value. The page and the `status` command show them below the conditions.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![("device", format!("{}, {}", self.device, self.model))];
        let plan = self.plan.as_ref().map_or_else(|| "none on record".to_owned(), Plan::to_string);
        let reason = self.reason.map_or_else(String::new, |reason| format!(", {reason}"));
        rows.push(("plan", format!("{plan}{reason}")));
        rows.push(("mode", self.mode.to_string()));
        let written = if self.persisted { "on flash" } else { "not on flash yet" };
        rows.push((
            "document",
            match self.position() {
                Position::NONE => "none".to_owned(),
                position => format!("{position} under keyset {}, {written}", self.keyset),
            },
        ));
        rows.push(("may leave", limits(&self.may_leave)));
        rows.push((
            "lease",
            match self.lease_left_s {
                None => "none".to_owned(),
                Some(0) => "ended".to_owned(),
                Some(left) => format!("{} left", in_english(left)),
            },
        ));
        rows.push((
            "next",
            self.next.as_ref().map_or_else(|| "no change known".to_owned(), |next| format!("{} at {}", next.plan, next.at)),
        ));
        rows.push(("last switch", self.last_switch.as_ref().map_or_else(|| "none since the start".to_owned(), switch)));
        rows.push((
            "link",
            match (&self.link, &self.link.fault) {
                (LinkStatus { up: true, broker, confirmed, .. }, _) => {
                    format!("connected to {broker}{}", if *confirmed { "" } else { ", plan not confirmed yet" })
                }
                (LinkStatus { broker, .. }, Some(fault)) => format!("not connected to {broker}: {fault}"),
                (LinkStatus { broker, .. }, None) => format!("not connected to {broker}"),
            },
        ));
        let fault = self.transfers.last_fault.as_ref().map_or_else(String::new, |fault| format!("; last fault: {fault}"));
        rows.push(("transfers", format!("{} in flight{fault}", self.transfers.in_flight)));
        let spool = &self.spool;
        let (memory, flash) = (bytes(spool.memory_bytes), bytes(spool.flash_bytes));
        let quotas = (bytes(spool.quota_bytes), bytes(spool.flash_quota_bytes));
        rows.push(("spool", format!("{} clips; memory {memory} of {}, flash {flash} of {}", spool.clips, quotas.0, quotas.1)));
        if spool.flash_quota_bytes > 0 {
            let (today, per_day) = (bytes(spool.flash_written_today), bytes(spool.flash_bytes_per_day));
            rows.push(("flash writes", format!("{today} today of {per_day} a day")));
        }
        rows.push(("uploaded", format!("{} clips, {}", spool.stored_clips, bytes(spool.stored_bytes))));
        rows.push(("erased", format!("{} clips, {}", spool.erased_clips, bytes(spool.erased_bytes))));
        if spool.dropped_clips > 0 {
            rows.push(("dropped", format!("{} clips, {}", spool.dropped_clips, bytes(spool.dropped_bytes))));
        }
        if let Some(media) = &self.media {
            rows.push(("camera", picture(&media.status.stream)));
            rows.extend(media.status.low.as_ref().map(|low| ("low stream", picture(low))));
            let MediaStatus { motion_events, clips_recorded, clips_refused, clip_running, .. } = &media.status;
            let running = if *clip_running { ", one running" } else { "" };
            let refused = if *clips_refused > 0 { format!(", {clips_refused} not allowed by the plan") } else { String::new() };
            rows.push(("clips", format!("{motion_events} motion events, {clips_recorded} clips recorded{running}{refused}")));
            rows.extend(media.status.recording.as_ref().map(|card| ("SD card", recording(card))));
        }
        rows.extend(self.uploader.as_ref().map(|uploader| ("uploader", vendors(uploader))));
        if let Some(order) = &self.order {
            rows.push(("order", order.clone()));
        }
        let confirmed = if self.clock.confirmed { "confirmed" } else { "not confirmed since boot" };
        rows.push(("clock", format!("{}, {confirmed}", self.clock.trusted)));
        if let Some(certificate) = &self.certificate {
            rows.push(("certificate", format!("{} days left, until {}", certificate.days_left, certificate.expires)));
        }
        rows.push(("process", rights(&self.confinement)));
        rows.push(("agent", format!("{}, up {}", self.agent, in_english(self.up_s))));
        rows
    }
}

fn picture(stream: &StreamStatus) -> String {
    let StreamStatus { source, width, height, coding, sound, frames, dropped, fault, .. } = stream;
    let coding = coding.as_ref().map_or_else(String::new, |coding| format!(" {coding}"));
    let sound = sound.as_ref().map_or_else(String::new, |sound| format!("; sound {sound}"));
    match fault {
        Some(fault) => format!("{source}: {fault}"),
        None => format!("{source}, {width}×{height}{coding}, {frames} frames, {dropped} lost{sound}"),
    }
}

pub(super) fn rights(confinement: &Confinement) -> String {
    let Confinement { user, capabilities, no_new_privs, landlock } = confinement;
    let capabilities = if *capabilities { "with capabilities" } else { "no capabilities" };
    let privileges = if *no_new_privs { "no new privileges" } else { "may gain privileges" };
    let files = landlock.map_or_else(String::new, |version| format!(", files restricted by Landlock {version}"));
    format!("user {user}, {capabilities}, {privileges}{files}")
}

fn recording(card: &RecordingStatus) -> String {
    let fault = card.fault.as_ref().map_or_else(String::new, |fault| format!("; {fault}"));
    format!("{}, {} frames, {} lost, {} files made room{fault}", bytes(card.bytes), card.frames, card.dropped, card.deleted)
}

pub(super) fn vendors(uploader: &UploaderStatus) -> String {
    let UploaderStatus { stored_clips, stored_bytes, erased_clips, erased_bytes, .. } = uploader;
    let state = match (uploader.connected, uploader.open) {
        (false, _) => "not connected",
        (true, false) => "connected, closed",
        (true, true) => "connected, open under the plan",
    };
    let closed = match (uploader.closed_generation, uploader.closed_micros) {
        (Some(generation), Some(micros)) => format!(", answered close {generation} in {micros} µs"),
        _ => String::new(),
    };
    let (stored, erased) = (bytes(*stored_bytes), bytes(*erased_bytes));
    format!("{state}{closed}; {stored_clips} clips stored, {stored}; {erased_clips} clips erased, {erased}")
}

fn switch(report: &Report) -> String {
    format!("to {} at {} {}", report.mode, report.at, causes(report))
}

/// Why a switch happened, and what it cut and erased.
pub(super) fn causes(report: &Report) -> String {
    let cut = match report.cut.transfers {
        0 => String::new(),
        transfers => format!(", cut {transfers} transfers in {} µs, {} bytes after", report.cut.micros, report.cut.bytes_after),
    };
    let erased = match report.erased.clips {
        0 => String::new(),
        clips => format!(", erased {clips} clips of {}", bytes(report.erased.bytes)),
    };
    let detail = report.detail.as_ref().map_or_else(String::new, |detail| format!("; {detail}"));
    format!("by {} ({}){cut}{erased}{detail}", report.cause, report.reason)
}

fn limits(policy: &Policy) -> String {
    let mut limits = match policy.clips {
        true => {
            let Policy { clip_max_s, cooldown_s, max_height, history_h, .. } = policy;
            format!("clips to {clip_max_s} s and {max_height} lines, {cooldown_s} s apart, kept {history_h} h")
        }
        false => "no clips".to_owned(),
    };
    limits += if policy.snapshots { "; snapshots" } else { "; no snapshots" };
    limits
}

/// A span of time, in English.
pub(super) fn in_english(seconds: u64) -> String {
    let (number, unit) = span(seconds, "days");
    format!("{number} {unit}")
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

/// How many entries of the timeline the document has.
const SHOWN: usize = 8;

/// How long a reader waits for a change that is not in the document yet.
const FRESH_WITHIN: Duration = Duration::from_millis(500);

/// The newest document, shared between threads. The control thread writes it and the server reads it; neither locks it
/// for longer than a copy takes.
#[derive(Debug)]
pub struct SharedStatus {
    state: Mutex<State>,
    changed: Notify,
    owner_changed: Notify,
    timeline: Timeline,
}

#[derive(Debug)]
struct State {
    document: StatusDocument,
    documents: Vec<Past>,
    observed: Observed,
    live: Option<Live>,
    version: u64,
    /// How often the camera's owner has changed.
    owners: u64,
    since: Instant,
    /// Whether something has happened that the document does not show yet.
    stale: bool,
}

impl SharedStatus {
    /// Shares a first document, with a timeline in memory.
    pub fn new(document: StatusDocument) -> Self {
        Self::with_timeline(document, Timeline::new(Clock::start(None)))
    }

    /// Shares a first document, with what happened until now.
    pub fn with_timeline(document: StatusDocument, timeline: Timeline) -> Self {
        let state = State {
            document,
            documents: Vec::new(),
            observed: Observed::default(),
            live: None,
            version: 0,
            owners: 0,
            since: Instant::now(),
            stale: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), owner_changed: Notify::new(), timeline }
    }

    /// Changes the document. The control loop must call it at least every few seconds: `/healthz` fails if it does not.
    pub fn update(&self, change: impl FnOnce(&mut StatusDocument)) {
        let mut state = self.lock();
        change(&mut state.document);
        state.version += 1;
        state.since = Instant::now();
        state.stale = false;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Notes that something has happened which the next [`SharedStatus::update`] will show.
    pub fn mark_stale(&self) {
        self.lock().stale = true;
    }

    /// Waits until the document shows what has already happened, half a second at most. A reader who has seen a report
    /// must not find an older status here, but must get an answer even if the agent hangs.
    pub async fn wait_until_fresh(&self) {
        let changed = self.changed.notified();
        if self.lock().stale {
            // On timeout the reader gets the document as it is.
            let _ = timeout(FRESH_WITHIN, changed).await;
        }
    }

    /// Adds a change to the timeline, with the order id of the document in force, and counts it. Returns whether it is a new one.
    pub fn record_switch(&self, report: &Report, order: Option<&str>) -> bool {
        let is_new = self.timeline.switch(report, order);
        if is_new {
            self.lock().observed.switch(report);
        }
        is_new
    }

    /// Counts something for `/metrics`.
    pub fn observe(&self, count: impl FnOnce(&mut Observed)) {
        count(&mut self.lock().observed);
    }

    /// Sets what can be seen of the camera, once media has started.
    pub fn set_live(&self, live: Live) {
        self.lock().live = Some(live);
    }

    /// What can be seen of the camera.
    pub fn live(&self) -> Option<Live> {
        self.lock().live.clone()
    }

    /// How often the document has been updated.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// Waits until it has been updated after this version.
    pub async fn changed_since(&self, version: u64) {
        let changed = self.changed.notified();
        if self.version() == version {
            changed.await;
        }
    }

    /// Erases the owner's part of the timeline, and the order, because the camera's owner has changed.
    pub fn forget(&self) {
        self.timeline.forget();
        let mut state = self.lock();
        state.documents.clear();
        state.document.order = None;
        state.document.last_switch = None;
        state.owners += 1;
        drop(state);
        self.owner_changed.notify_waiters();
    }

    /// How often the camera's owner has changed.
    #[cfg(feature = "local-mqtt")]
    pub fn owners(&self) -> u64 {
        self.lock().owners
    }

    /// Waits until the owner has changed after so many changes, and the document is the new owner's.
    #[cfg(feature = "local-mqtt")]
    pub async fn owner_changed_since(&self, owners: u64) {
        let changed = self.owner_changed.notified();
        if self.owners() == owners {
            changed.await;
        }
        self.wait_until_fresh().await;
    }

    /// Sets the documents accepted under this owner.
    pub fn set_documents(&self, documents: Vec<Past>) {
        self.lock().documents = documents;
    }

    /// The documents accepted under this owner, oldest first, including those from before the start.
    pub fn documents(&self) -> Vec<Past> {
        self.lock().documents.clone()
    }

    /// What happened, before the start too.
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The newest document.
    pub fn read(&self) -> StatusDocument {
        let document = self.lock().document.clone();
        StatusDocument { timeline: self.timeline.newest(SHOWN), ..document }
    }

    /// The newest document, what was counted, and the document's age, of one moment.
    #[cfg(feature = "metrics")]
    pub(super) fn read_for_metrics(&self) -> (StatusDocument, Observed, Duration) {
        let state = self.lock();
        (state.document.clone(), state.observed.clone(), state.since.elapsed())
    }

    /// The time since the last [`SharedStatus::update`].
    pub fn age(&self) -> Duration {
        self.lock().since.elapsed()
    }

    /// Makes the document look this much older.
    #[cfg(test)]
    pub(super) fn grow_old(&self, by: Duration) {
        let mut state = self.lock();
        state.since = state.since.checked_sub(by).expect("the machine is up for longer");
    }

    /// A document is plain data, so a panic during a change leaves at worst an old value.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
