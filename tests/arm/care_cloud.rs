//! An ordinary day of an emulated camera with the real care-cloud on this machine: subscribe, film a clip, cancel.

use std::{fs, path::PathBuf, time::Instant};

use care_tests::{
    care_cloud::{CareCloud, reports, switch_of, transfers},
    guest::{Guest, HOST, IDENTITY, PATIENCE, RUNTIME, STATE},
    world::DEVICE,
};
use serde_json::Value;

/// Starts a care-cloud with a Premium camera that will run as a guest. Returns the directory of the camera's files.
pub(crate) async fn with_a_camera() -> (CareCloud, PathBuf) {
    let cloud = CareCloud::reached_at(HOST).await;
    let files = cloud.provision(DEVICE, "acct-5b1f").await;
    cloud.command(&["subscribe", "--camera", DEVICE, "--plan", "premium"]).await;
    let config = files.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, in_the_guest(text.replace(&files.display().to_string(), IDENTITY))).unwrap();
    (cloud, files)
}

/// As provisioned, but with the recorded video and the guest's directories. Clips start every eight seconds and take
/// nearly as long to upload.
fn in_the_guest(mut config: String) -> String {
    for (from, to) in [
        (format!("\"{IDENTITY}/state\""), format!("\"{STATE}\"")),
        ("source = \"test\"".to_owned(), format!("source = \"file:{IDENTITY}/picture.mp4\"")),
        ("pre_roll_s = 5".to_owned(), "pre_roll_s = 1".to_owned()),
        ("every:30s".to_owned(), "every:8s".to_owned()),
        ("flash_bytes = 64_000_000".to_owned(), "flash_bytes = 2_000_000".to_owned()),
        ("uplink_kbps = 0".to_owned(), "uplink_kbps = 500".to_owned()),
        ("127.0.0.1:9180".to_owned(), format!("unix:{RUNTIME}/status.sock")),
    ] {
        assert!(config.contains(&from), "the provisioned configuration has no {from}: {config}");
        config = config.replace(&from, &to);
    }
    config
}

/// Checks that the plan is in force, a clip is stored, and a cancel cuts the next clip in mid-upload.
pub(crate) async fn a_plain_day(cloud: &CareCloud, camera: &Guest) {
    cloud.until("Premium in force", PATIENCE, |state| reports(state, DEVICE, "premium", "paid")).await;
    let stored = |transfer: &&Value| transfer["stored"] == true && transfer["kind"] == "motion";
    cloud.until("a clip", PATIENCE, |state| transfers(state).iter().any(|transfer| stored(&transfer))).await;
    cloud.until("another in progress", PATIENCE, |state| transfers(state).iter().any(is_on_its_way)).await;

    let cancelled = Instant::now();
    cloud.command(&["cancel", "--camera", DEVICE]).await;
    let state = cloud.until("Free in force", PATIENCE, |state| reports(state, DEVICE, "free", "free")).await;
    let report = &switch_of(&state, DEVICE)["report"];
    eprintln!("care-cloud: cancelled and reported within {:.1} s; {}", cancelled.elapsed().as_secs_f64(), report["cut"]);
    assert!(report["cut"]["transfers"].as_u64() >= Some(1) && report["persisted"] == true, "{report}");
    let ended = |state: &Value| {
        let mut revoked = transfers(state).iter().filter(|transfer| transfer["revoked"] == true).peekable();
        revoked.peek().is_some() && revoked.all(|transfer| transfer["stored"] == false && !transfer["ended_us"].is_null())
    };
    cloud.until("the end of the cut upload", PATIENCE, ended).await;
    let status = camera.run("kasa-care-agent status").await;
    assert!(status.contains("mode         free"), "{status}");
}

/// Neither just begun nor nearly complete.
fn is_on_its_way(transfer: &Value) -> bool {
    let (received, expected) = (transfer["received"].as_u64().unwrap_or(0), transfer["expected"].as_u64().unwrap_or(0));
    transfer["kind"] == "motion" && transfer["ended_us"].is_null() && received > expected / 20 && received < expected / 2
}
