//! The command line: exit codes, output, and the permissions of files.

use std::{os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use super::{camera::Camera, cloud::Cloud};

fn exit_code(arguments: &[&str]) -> Option<i32> {
    let data = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_care-cloud"));
    command.args(arguments).arg("--data").arg(data.path().join("data")).output().unwrap().status.code()
}

#[test]
fn mistakes_have_their_exit_codes() {
    assert_eq!(exit_code(&["--help"]), Some(0));
    assert_eq!(exit_code(&["frobnicate"]), Some(64));
    assert_eq!(exit_code(&["cancel"]), Some(64));
    assert_eq!(exit_code(&["cancel", "--camera", "A/B"]), Some(64));
    assert_eq!(exit_code(&["--portal", "0.0.0.0:0"]), Some(64));
    for wrong in [["--broker", "https://broker.example"], ["--broker", "mqtt://broker.example"], ["--s3", "http://store.example/clips"]] {
        assert_eq!(exit_code(&[wrong[0], wrong[1], "--listen", "127.0.0.1:0", "--mqtt", "127.0.0.1:0"]), Some(78), "{wrong:?}");
    }
    assert_eq!(exit_code(&["camera", "add", "--id", "care-cloud", "--model", "X", "--out", "/nonexistent/out"]), Some(78));
    assert_eq!(exit_code(&["cancel", "--camera", "CAM"]), Some(78), "nothing ever ran there");
}

#[tokio::test]
async fn the_command_line_acts_on_the_running_cloud() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    let act = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_care-cloud"));
        command.args(arguments).args(["--camera", "CAM-A", "--data"]).arg(cloud.data()).output().unwrap()
    };
    assert!(act(&["subscribe", "--plan", "premium"]).status.success());
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium");
    assert!(act(&["downgrade"]).status.success());
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "plus");
    assert!(act(&["cancel"]).status.success());
    let again = act(&["cancel"]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("no subscription"));
}

#[tokio::test]
async fn accounts_and_experiments_are_made_on_the_command_line_too() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_care-cloud"));
        let output = command.args(arguments).arg("--data").arg(cloud.data()).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (made, words, _) = run(&["account", "add", "--account", "acct-2", "--login", "Ann@Example.com"]);
    assert!(made && words.starts_with("account acct-2 signs in as Ann@Example.com with "), "{words}");
    let (made, _, why) = run(&["account", "add", "--account", "acct-3", "--login", "ann@example.com"]);
    assert!(!made && why.contains("another account"), "{why}");
    let password = cloud.dir.path().join("password");
    std::fs::write(&password, "short\n").unwrap();
    let (made, _, why) =
        run(&["account", "add", "--account", "acct-3", "--login", "bob@example.com", "--password-file", password.to_str().unwrap()]);
    assert!(!made && why.contains("8 to"), "{why}");

    assert!(run(&["trial", "--camera", "CAM-A"]).0);
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium");
    assert!(run(&["cancel", "--camera", "CAM-A"]).0);
    assert!(run(&["payment-fails", "--account", "acct-1"]).0);
    let (bought, _, why) = run(&["subscribe", "--camera", "CAM-A", "--plan", "plus"]);
    assert!(!bought && why.contains("declined"), "{why}");
    assert!(run(&["payment-recovers", "--account", "acct-1"]).0);
    assert!(run(&["subscribe", "--camera", "CAM-A", "--plan", "plus"]).0);
    assert!(run(&["experiment", "refuse-grants", "--camera", "CAM-A", "--seconds", "60"]).0);
    assert_eq!(cloud.overview().await["refusing"][0][0], "CAM-A");
    let (made, _, why) = run(&["experiment", "old-key", "--camera", "CAM-A"]);
    assert!(!made && why.contains("rotate the keys first"), "{why}");
    let (made, _, why) = run(&["experiment", "frobnicate"]);
    assert!(!made && !why.is_empty());
}

#[tokio::test]
async fn secret_files_are_readable_by_their_owner_only() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.experiment(serde_json::json!({ "experiment": "rotate_key" })).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cloud.data()), 0o700);
    let mut keys = 0;
    for dir in [cloud.data().join("keys"), cloud.data().join("pki"), cloud.dir.path().join("CAM-A")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| ["key", "pk8", "secret"].iter().any(|secret| extension == *secret)) {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                keys += 1;
            }
        }
    }
    // Two CAs, server, care-cloud, its client id, root, two to sign with, store, operator, camera.
    assert_eq!(keys, 11);
    assert_eq!(mode(&cloud.data().join("demo-sign-in.json")), 0o600);
}
