//! `/metrics`: the status document and what was observed, as Prometheus reads it. `docs/metrics.md` lists the metrics,
//! and a test compares. Labels have few values, and none is a secret, an account or an address.

use std::time::Duration;

use care_metrics::Exposition;
use care_protocol::{Cause, Mode, Outcome};

use super::{MediaPart, Observed, SharedStatus, SpoolStatus, StatusDocument};
use crate::{
    conditions::Kind,
    media::{RecordingStatus, StreamStatus},
    upload::vendor::UploaderStatus,
};

/// The text of `/metrics`.
pub(super) fn render(status: &SharedStatus) -> String {
    let (document, observed, age) = status.read_for_metrics();
    let mut metrics = Exposition::default();
    plan(&mut metrics, &document);
    switches(&mut metrics, &document, &observed);
    uploads(&mut metrics, &document);
    spool(&mut metrics, &document.spool);
    camera(&mut metrics, document.media.as_ref());
    card(&mut metrics, document.media.as_ref().and_then(|media| media.status.recording.as_ref()));
    uploader(&mut metrics, document.uploader.as_ref());
    agent(&mut metrics, &document, &observed, age);
    metrics.process();
    metrics.text()
}

fn plan(metrics: &mut Exposition, document: &StatusDocument) {
    let mut modes = metrics.gauge("kasa_care_mode", "Whether this is the mode.");
    for mode in Mode::ALL {
        modes.add(&[("mode", mode.as_str())], truth(document.mode == *mode));
    }
    let mut on_record = metrics.gauge("kasa_care_plan_info", "The plan on record and why it was issued.");
    if let (Some(plan), Some(reason)) = (&document.plan, document.reason) {
        on_record.add(&[("plan", plan.as_str()), ("reason", reason.as_str())], 1.0);
    }
    metrics
        .gauge("kasa_care_plan_confirmed", "Whether the cloud has confirmed the plan over this connection.")
        .set(Some(truth(document.link.confirmed)));
    let allowed = &document.may_leave;
    metrics.gauge("kasa_care_clips_allowed", "Whether clips may leave now.").set(Some(truth(allowed.clips)));
    metrics.gauge("kasa_care_snapshots_allowed", "Whether snapshots may leave now.").set(Some(truth(allowed.snapshots)));
    metrics.gauge("kasa_care_document_epoch", "Epoch of the document in force.").set(Some(number(document.epoch)));
    metrics.gauge("kasa_care_document_seq", "Sequence of the document in force.").set(Some(number(document.seq)));
    metrics.gauge("kasa_care_document_persisted", "Whether the document in force is on flash.").set(Some(truth(document.persisted)));
    metrics.gauge("kasa_care_keyset_version", "Version of the keyset.").set(Some(number(document.keyset)));
    metrics.gauge("kasa_care_lease_remaining_seconds", "Time until the lease ends.").set(document.lease_left_s.map(number));
}

fn switches(metrics: &mut Exposition, document: &StatusDocument, observed: &Observed) {
    let mut switches = metrics.counter("kasa_care_switches_total", "Changes of document or mode, by cause and the mode after.");
    for (cause, by_mode) in Cause::ALL.iter().zip(observed.switches) {
        for (mode, count) in Mode::ALL.iter().zip(by_mode) {
            switches.add(&[("cause", cause.as_str()), ("mode", mode.as_str())], number(count));
        }
    }
    let mut reports = metrics.counter("kasa_care_reports_total", "Reports given to the broker connection, repeats included.");
    for (outcome, count) in Outcome::ALL.iter().zip(observed.reports) {
        reports.add(&[("outcome", outcome.as_str())], number(count));
    }
    metrics.counter("kasa_care_cuts_total", "Cuts of the gate.").set(Some(number(document.transfers.generation)));
    metrics.counter("kasa_care_cut_transfers_total", "Transfers that cuts aborted.").set(Some(number(observed.cut_transfers)));
    metrics
        .counter("kasa_care_payload_after_cut_bytes_total", "Payload that left after the gate had closed.")
        .set(Some(number(observed.bytes_after)));
    metrics.histogram("kasa_care_cut_duration_seconds", "From a document's receipt to the end of the last socket.", &observed.cut);
    metrics.histogram(
        "kasa_care_report_duration_seconds",
        "From a document's receipt until the broker has acknowledged its report.",
        &observed.report,
    );
}

fn uploads(metrics: &mut Exposition, document: &StatusDocument) {
    let (spool, transfers) = (&document.spool, &document.transfers);
    metrics.gauge("kasa_care_transfers_in_flight", "Transfers in flight.").set(Some(number(transfers.in_flight)));
    metrics.gauge("kasa_care_upload_pace_bytes_per_second", "The pace of transfers.").set(Some(number(transfers.pace)));
    let media = document.media.as_ref().map(|media| &media.status);
    let mut clips = metrics.counter("kasa_care_clips_total", "Clips by what became of them.");
    for (outcome, count) in [("stored", spool.stored_clips), ("erased", spool.erased_clips), ("dropped", spool.dropped_clips)] {
        clips.add(&[("outcome", outcome)], number(count));
    }
    let refused = media.map_or(0, |media| media.clips_refused);
    clips.add(&[("outcome", "refused")], number(refused));
    let mut bytes = metrics.counter("kasa_care_clip_bytes_total", "Bytes of clips by what became of them.");
    for (outcome, count) in [("stored", spool.stored_bytes), ("erased", spool.erased_bytes), ("dropped", spool.dropped_bytes)] {
        bytes.add(&[("outcome", outcome)], number(count));
    }
}

fn spool(metrics: &mut Exposition, spool: &SpoolStatus) {
    metrics.gauge("kasa_care_spool_clips", "Clips held: being recorded, waiting and in flight.").set(Some(number(spool.clips)));
    metrics.gauge("kasa_care_spool_flash_clips", "Clips that survive a power cut.").set(Some(number(spool.flash_clips)));
    let mut used = metrics.gauge("kasa_care_spool_bytes", "Bytes that clips take, by where they are.");
    used.add(&[("place", "memory")], number(spool.memory_bytes)).add(&[("place", "flash")], number(spool.flash_bytes));
    let mut limits = metrics.gauge("kasa_care_spool_limit_bytes", "The limit of these bytes.");
    limits.add(&[("place", "memory")], number(spool.quota_bytes)).add(&[("place", "flash")], number(spool.flash_quota_bytes));
    metrics
        .gauge("kasa_care_flash_written_today_bytes", "Bytes that the spool wrote to flash today.")
        .set(Some(number(spool.flash_written_today)));
    metrics
        .gauge("kasa_care_flash_daily_limit_bytes", "The limit of bytes written to flash per day.")
        .set(Some(number(spool.flash_bytes_per_day)));
}

fn camera(metrics: &mut Exposition, media: Option<&MediaPart>) {
    let status = media.map(|media| &media.status);
    let low = status.and_then(|status| status.low.as_ref()).map(|low| ("low", low));
    let streams: Vec<(&str, &StreamStatus)> = status.map(|status| ("main", &status.stream)).into_iter().chain(low).collect();
    let mut up = metrics.gauge("kasa_care_stream_up", "Whether the stream runs.");
    for (name, stream) in &streams {
        up.add(&[("stream", name)], truth(stream.fault.is_none()));
    }
    let mut age = metrics.gauge("kasa_care_stream_last_frame_age_seconds", "Time since the last frame.");
    for (name, stream) in &streams {
        if let Some(milliseconds) = stream.last_frame_age_ms {
            age.add(&[("stream", name)], Duration::from_millis(milliseconds).as_secs_f64());
        }
    }
    type Count = fn(&StreamStatus) -> u64;
    const COUNTS: [(&str, &str, Count); 5] = [
        ("kasa_care_stream_frames_total", "Frames received from the camera.", |stream| stream.frames),
        ("kasa_care_stream_frames_dropped_total", "Those lost on the way, or useless because one before them was.", |stream| {
            stream.dropped
        }),
        ("kasa_care_stream_restarts_total", "Starts of the stream after the first.", |stream| stream.restarts),
        ("kasa_care_stream_late_packets_total", "RTP packets that came after they had been given up.", |stream| stream.packets_late),
        ("kasa_care_stream_sound_lost_total", "Access units of sound that are in no recording.", |stream| stream.sound_lost),
    ];
    for (family, help, count) in COUNTS {
        let mut series = metrics.counter(family, help);
        for (name, stream) in &streams {
            series.add(&[("stream", name)], number(count(stream)));
        }
    }
    metrics.counter("kasa_care_motion_events_total", "Motion events.").set(status.map(|status| number(status.motion_events)));
    metrics.counter("kasa_care_clips_recorded_total", "Clips that were filmed.").set(status.map(|status| number(status.clips_recorded)));
    metrics
        .counter("kasa_care_events_missed_total", "Events that are in no clip although one was allowed.")
        .set(status.map(|status| number(status.events_missed)));
    metrics
        .counter("kasa_care_snapshots_failed_total", "Snapshots for which a frame of the stream stood in.")
        .set(status.map(|status| number(status.snapshots_failed)));
}

fn card(metrics: &mut Exposition, card: Option<&RecordingStatus>) {
    metrics.gauge("kasa_care_card_up", "Whether the SD card records.").set(card.map(|card| truth(card.fault.is_none())));
    metrics.gauge("kasa_care_card_recordings_bytes", "Bytes of recordings on the card.").set(card.map(|card| number(card.bytes)));
    metrics.counter("kasa_care_card_frames_total", "Frames written to the card.").set(card.map(|card| number(card.frames)));
    let mut lost = metrics.counter("kasa_care_card_frames_lost_total", "Frames that are not on the card, by reason.");
    if let Some(card) = card {
        let reasons = card.lost;
        for (reason, count) in [
            ("no_card", reasons.no_card),
            ("full", reasons.full),
            ("read_only", reasons.read_only),
            ("error", reasons.error),
            ("too_slow", reasons.too_slow),
            ("no_keyframe", reasons.no_keyframe),
            ("unsynced", reasons.unsynced),
        ] {
            lost.add(&[("reason", reason)], number(count));
        }
    }
    metrics
        .counter("kasa_care_card_segments_deleted_total", "Segments that gave way to newer ones.")
        .set(card.map(|card| number(card.deleted)));
    let mut syncs = metrics.counter("kasa_care_card_bad_syncs_total", "Syncs that failed, or left more than two seconds at risk.");
    if let Some(card) = card {
        syncs.add(&[("fault", "slow")], number(card.slow_syncs)).add(&[("fault", "failed")], number(card.failed_syncs));
    }
}

fn uploader(metrics: &mut Exposition, uploader: Option<&UploaderStatus>) {
    metrics
        .gauge("kasa_care_uploader_connected", "Whether the vendor's uploader is connected.")
        .set(uploader.map(|it| truth(it.connected)));
    let mut clips = metrics.counter("kasa_care_uploader_clips_total", "Clips of the vendor's uploader by what became of them.");
    if let Some(it) = uploader {
        clips.add(&[("outcome", "stored")], number(it.stored_clips)).add(&[("outcome", "erased")], number(it.erased_clips));
    }
    let mut bytes = metrics.counter("kasa_care_uploader_clip_bytes_total", "Their bytes.");
    if let Some(it) = uploader {
        bytes.add(&[("outcome", "stored")], number(it.stored_bytes)).add(&[("outcome", "erased")], number(it.erased_bytes));
    }
}

fn agent(metrics: &mut Exposition, document: &StatusDocument, observed: &Observed, age: Duration) {
    metrics.gauge("kasa_care_broker_connected", "Whether the broker has granted the subscription.").set(Some(truth(document.link.up)));
    metrics.counter("kasa_care_broker_connections_total", "Connections made to the broker.").set(Some(number(document.link.connections)));
    let mut conditions = metrics.gauge("kasa_care_condition", "Whether this condition holds; docs/conditions.md says what to do.");
    for kind in Kind::ALL {
        let holds = document.conditions.iter().any(|condition| condition.name == kind.name());
        conditions.add(&[("name", kind.name()), ("severity", &kind.severity().to_string())], truth(holds));
    }
    metrics
        .gauge("kasa_care_clock_confirmed", "Whether an HTTPS date has confirmed trusted time since boot.")
        .set(Some(truth(document.clock.confirmed)));
    metrics.gauge("kasa_care_clock_offset_seconds", "Trusted time minus the system clock.").set(observed.clock_offset);
    let expires = document.certificate.as_ref().map(|certificate| certificate.expires.as_second() as f64);
    metrics.gauge("kasa_care_certificate_expiry_timestamp_seconds", "When the device's certificate expires, since 1970.").set(expires);
    metrics.counter("kasa_care_state_writes_total", "Writes of the state to flash.").set(Some(number(document.store.writes)));
    metrics.gauge("kasa_care_control_loop_age_seconds", "Time since the control loop last went round.").set(Some(age.as_secs_f64()));
    metrics.gauge("kasa_care_uptime_seconds", "Time since the agent started.").set(Some(number(document.up_s)));
    let labels = [("device", document.device.as_str()), ("model", &document.model), ("version", &document.agent)];
    metrics.gauge("kasa_care_agent_info", "The camera and the agent's version.").add(&labels, 1.0);
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Exact to 2^53, as Prometheus itself is.
fn number(count: impl Into<u64>) -> f64 {
    count.into() as f64
}
