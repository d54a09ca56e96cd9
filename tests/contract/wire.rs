//! What a running agent writes, against the schemas: reports, `get`s, grant requests, its status, the lines to an
//! uploader.

use care_protocol::{Mode, Outcome};
use care_tests::{
    issuer::{Draft, PREMIUM},
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{interfaces::Api, schema::Judge};

/// A status document with every optional part.
pub fn status_example() -> Value {
    let policy = json!({ "clips": true, "history_h": 12, "clip_max_s": 12, "cooldown_s": 300, "max_height": 720, "snapshots": false });
    let digest = format!("sha256:{}", "0".repeat(64));
    let at = "2026-01-01T00:00:00Z";
    let stream = json!({
        "source": "test", "width": 640, "height": 360, "coding": "H.264 High", "sound": "AAC 16 kHz mono", "sound_lost": 0,
        "packets_late": 0, "frames": 9, "dropped": 0, "last_frame_age_ms": 12, "restarts": 0, "fault": "why"
    });
    let mut media = json!({
        "why_not": "why", "low": stream, "motion_events": 1, "motion_ignored": 0, "clip_running": true, "clips_recorded": 1,
        "clips_erased": 0, "clips_refused": 0, "events_missed": 0, "snapshots_failed": 0,
        "recording": {
            "frames": 9, "dropped": 0, "bytes": 7, "deleted": 0, "slow_syncs": 0, "failed_syncs": 0, "fault": "why",
            "lost": { "no_card": 0, "full": 0, "read_only": 0, "error": 0, "too_slow": 0, "no_keyframe": 0, "unsynced": 0 }
        }
    });
    media.as_object_mut().unwrap().extend(stream.as_object().unwrap().clone());
    let report = json!({
        "device": DEVICE, "outcome": "applied", "reason": "cancelled", "detail": "why", "cause": "document",
        "judged": { "epoch": 3, "seq": 41 }, "epoch": 3, "seq": 41, "digest": digest, "plan": "free", "mode": "free", "persisted": true,
        "keyset": 7, "cut": { "transfers": 2, "micros": 840, "bytes_after": 0 }, "erased": { "clips": 3, "bytes": 5 }, "at": at,
        "agent": "0.1.0"
    });
    let entry = |what: Value| json!({ "number": 1, "epoch": 3, "at": at, "boot_s": 5, "what": what });
    let timeline = json!([
        entry(json!({ "switch": {
            "report": report, "order": "KC-1", "stages": { "cut": 840, "written": 900, "acknowledged": 901, "reported": 1000 }
        } })),
        entry(json!({ "condition": { "name": "held", "sentence": "why", "lasted_s": 7, "times": 1 } })),
        entry(json!({ "started": { "agent": "0.1.0", "boot": "id", "previous": "killed" } })),
        entry(json!({ "stopped": {} })),
        entry(json!({ "clock_step": "why" }))
    ]);
    json!({
        "device": DEVICE, "model": "KC420WS", "agent": "0.1.0", "at": at, "up_s": 5, "mode": "free", "plan": "free",
        "reason": "cancelled", "epoch": 3, "seq": 41, "digest": digest, "ratchet": { "epoch": 3, "seq": 41 }, "keyset": 7,
        "persisted": true, "state_lost": false, "policy": policy, "may_leave": policy, "lease_left_s": 60,
        "next": { "plan": "free", "at": at }, "order": "KC-1",
        "last_switch": report,
        "link": { "up": true, "broker": "care.example:8883", "confirmed": true, "connections": 1, "fault": "why" },
        "transfers": { "in_flight": 0, "generation": 1, "pace": 9, "pace_fault": "why", "last_fault": "why" },
        "spool": {
            "clips": 0, "bytes": 0, "quota_bytes": 9, "memory_bytes": 0, "flash_clips": 0, "flash_bytes": 0, "flash_quota_bytes": 9,
            "flash_fault": "why", "flash_written_today": 0, "flash_bytes_per_day": 9, "stored_clips": 0, "stored_bytes": 0,
            "erased_clips": 0, "erased_bytes": 0, "dropped_clips": 0, "dropped_bytes": 0
        },
        "media": media,
        "uploader": {
            "connected": true, "pid": 7, "open": true, "closed_generation": 8, "closed_micros": 9, "stored_clips": 0, "stored_bytes": 0,
            "erased_clips": 0, "erased_bytes": 0, "fault": "why"
        },
        "store": { "writes": 1, "fault": "why" }, "clock": { "trusted": at, "confirmed": true },
        "certificate": { "expires": at, "days_left": 0 },
        "confinement": { "user": "kasa-care-agent", "capabilities": false, "no_new_privs": true, "landlock": 5 },
        "conditions": [{ "name": "held", "since": at, "severity": "error", "sentence": "why", "advice": "what" }], "warnings": ["why"],
        "timeline": timeline
    })
}

#[tokio::test]
async fn what_a_running_camera_writes_is_what_the_schemas_describe() {
    let mut judge = Judge::start();
    let mut world = World::with_camera().await;
    world.agent.config.recording = Some(world.agent.dir().join("recordings"));
    world.agent.config.allow_internal_storage = true;
    world.start_premium().await;
    world.agent.motion().await;
    world.move_until("a stored clip", |cloud| cloud.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    let paid = world.agent.status("a stored clip", |status| status.spool("stored_clips") > 0 && status.0["last_switch"].is_object()).await;
    judge.is_complete("status", &paid.0);

    let ahead = care_tests::unix_now() + 86_400;
    let next = world.premium().then_free(ahead);
    world.switch(next, Mode::Paid).await;
    let announced = world.agent.status("what comes next", |status| status.0["next"].is_object()).await;
    judge.is_complete("status", &announced.0);

    // A document that is rejected with a detail, a stale one, then the cancel.
    let mut foreign = Draft::new(&world.device, "premium", PREMIUM).at(3, 99);
    foreign.0.iss = "prod".into();
    let foreign = world.sign(&foreign);
    world.issuer.publish_entitlement(&foreign.token).await;
    world.issuer.judged(&foreign, Outcome::Rejected).await;
    let old = Draft::new(&world.device, "premium", PREMIUM).at(3, 1).signed(&world.pki.key);
    world.issuer.publish_entitlement(&old.token).await;
    world.issuer.judged(&old, Outcome::Stale).await;
    let free = world.free();
    world.switch(free, Mode::Free).await;
    let free = world.agent.mode(Mode::Free).await;
    judge.is_complete("status", &free.0);

    let heard = world.issuer.heard();
    assert_eq!(heard.unreadable, Vec::<String>::new());
    let reports: Vec<_> = heard.reports.iter().map(|(_, report)| serde_json::to_value(report).unwrap()).collect();
    let gets: Vec<_> = heard.gets.iter().map(|(_, get)| serde_json::to_value(get).unwrap()).collect();
    drop(heard);
    assert!(reports.iter().any(|report| report["detail"].is_string()) && !gets.is_empty(), "{reports:#?} {gets:#?}");
    reports.iter().for_each(|report| judge.is_complete("report", report));
    gets.iter().for_each(|get| judge.is_complete("get", get));

    let api = Api::read(&mut judge);
    let cloud = world.cloud.lock();
    let (asked, calls) = (cloud.asked.clone(), cloud.calls.clone());
    drop(cloud);
    assert!(!asked.is_empty());
    for (_, request) in asked {
        judge.is_complete("grant-request", &serde_json::to_value(request).unwrap());
    }
    for call in calls.iter().filter(|call| call.path.starts_with("/v1/")) {
        assert!(api.has(call.method.as_str(), &call.path), "{} {} is not in openapi.yaml", call.method, call.path);
    }
}

#[tokio::test]
async fn the_lines_to_an_uploader_are_what_the_schemas_describe() {
    let mut judge = Judge::start();
    let mut world = World::new().await;
    let socket = world.agent.dir().join("uploader.sock");
    world.agent.config.extra = format!("\n[uploader]\nsocket = \"unix:{}\"\n", socket.display());
    world.start_premium().await;
    let stream = until("the uploader's socket", PATIENCE, || std::os::unix::net::UnixStream::connect(&socket).ok()).await;
    stream.set_nonblocking(true).unwrap();
    let (lines, mut answers) = UnixStream::from_std(stream).unwrap().into_split();
    let mut lines = BufReader::new(lines).lines();
    let mut seen = Vec::new();
    while !seen.contains(&"open".to_owned()) {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time").unwrap().expect("the agent goes on");
        let line: Value = serde_json::from_str(&line).unwrap();
        judge.is_complete("uploader-from-agent", &line);
        if line["type"] == "close" {
            let answer = json!({ "type": "closed", "generation": line["generation"] });
            assert!(judge.validate("uploader-to-agent", &answer).0);
            answers.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
        seen.push(line["type"].as_str().unwrap().to_owned());
    }
    assert!(seen.contains(&"close".to_owned()), "{seen:?}");
    let status = world.agent.status("an uploader", |status| status.0["uploader"]["connected"] == true).await;
    judge.is_complete("status", &status.0);

    // A second uploader is refused.
    let second = UnixStream::connect(&socket).await.unwrap();
    let line = timeout(PATIENCE, BufReader::new(second).lines().next_line()).await.expect("a line in time").unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["type"], "busy");
    judge.is_complete("uploader-from-agent", &line);
}

#[test]
fn a_field_that_a_schema_lacks_is_found() {
    let mut judge = Judge::start();
    judge.is_complete("status", &status_example());
    for place in ["", "/link", "/last_switch", "/may_leave", "/media/low", "/conditions/0"] {
        let mut document = status_example();
        document.pointer_mut(place).unwrap().as_object_mut().unwrap().insert("to_come".into(), json!(1));
        assert!(judge.validate("status", &document).0, "{place}: readers ignore it");
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge.is_complete("status", &document)));
        assert!(found.is_err(), "{place}: the schema does not name it");
    }
}
