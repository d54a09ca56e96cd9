//! The service unit under a real systemd: what its sandbox must allow.

use std::{
    io::Write,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use care_tests::{media::has_recordings, status::Status, systemd_camera::SystemdCamera, wait::PATIENCE};

/// The paths of the installed example, and a cloud that does not exist.
const CONFIG: &str = r#"
[device]
id = "8006E5A1F0C2"
model = "KC420WS"
state_dir = "/var/lib/kasa-care-agent"
[broker]
url = "mqtt://127.0.0.1:1"
[cloud]
url = "http://127.0.0.1:1"
[trust]
issuer = "care"
root_keys = { "root-2026" = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8" }
[free]
clips = true
history_h = 12
clip_max_s = 12
cooldown_s = 300
max_height = 720
snapshots = false
[media]
source = "test"
motion = "socket:/run/kasa-care-agent/motion.sock"
[recording]
dir = "/mnt/sd/recordings"
max_bytes = 8_000_000
[status]
listen = "unix:/run/kasa-care-agent/status.sock"
"#;

fn frames(status: &Status) -> u64 {
    status.0["media"]["recording"]["frames"].as_u64().unwrap_or_default()
}

fn reports_no_card(status: &Status) -> bool {
    status.sentence("recording").contains("no card is mounted")
}

/// Includes a card that is mounted before the service starts: a sandbox might keep that mount.
#[tokio::test]
async fn s94_three_cards_are_swapped_under_systemd_and_the_motion_socket_is_at_its_documented_path() {
    let camera = SystemdCamera::boot(CONFIG).await;
    camera.status("no card", reports_no_card).await;
    for card in ["first", "second", "third"] {
        let image = format!("/cards/{card}");
        camera.run(&format!("truncate -s 40M {image} && mkfs.ext4 -q -m 0 {image} && mount -o loop {image} /mnt/sd"));
        camera.run("mkdir /mnt/sd/recordings && chown kasa-care-agent: /mnt/sd/recordings");
        if card == "first" {
            camera.run("systemctl restart kasa-care-agent");
        }
        let before = frames(&camera.status("recording", |status| !reports_no_card(status)).await);
        camera.status("frames on the card", |status| frames(status) > before + 30).await;
        assert_ne!(camera.run("ls /mnt/sd/recordings"), "", "nothing is on the {card} card");

        let began = Instant::now();
        while !camera.runs("umount /mnt/sd") {
            // While one of its syncs is under way, the agent holds the card.
            assert!(began.elapsed() < PATIENCE, "the {card} card cannot be unmounted");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        camera.status("no card", reports_no_card).await;
        assert_eq!(camera.run("ls /mnt/sd/recordings"), "", "recorded beneath the mount point after the {card} card");
        let recorded = has_recordings("/media/recordings");
        camera.run(&format!("mount -o loop,ro {image} /media && {recorded} && umount /media"));
    }

    let socket = camera.path("/run/kasa-care-agent/motion.sock");
    let mut detector = UnixStream::connect(&socket).unwrap();
    detector.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
    camera.status("motion", |status| status.0["media"]["motion_events"] == 1).await;
    let connect = "/usr/bin/python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"/run/kasa-care-agent/motion.sock\")'";
    assert!(camera.runs(&format!("setpriv --reuid games --regid games --groups kasa-care-agent {connect}")), "a member of the group");
    assert!(!camera.runs(&format!("setpriv --reuid games --regid games --clear-groups {connect}")), "a user outside the group");
    assert_eq!(camera.run("systemctl show --value -p NRestarts kasa-care-agent").trim(), "0");
}
