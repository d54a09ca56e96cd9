//! The state directory: full, worn, damaged; and clips for which there is no room.

use std::{fs, io::Write, path::Path};

use care_protocol::{Mode, Policy};
use care_tests::{
    cloud::{Document as Body, GrantAnswer},
    issuer::PREMIUM,
    strace::Traced,
    world::World,
};
use tempfile::TempDir;

use super::{Drill, Group, Kind, while_moving};

/// A small file system for the camera's state.
struct SmallFlash(TempDir);

impl SmallFlash {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=3m", "none"]).arg(dir.path()).status().unwrap();
        assert!(mounted.success(), "a mount needs root");
        Self(dir)
    }

    /// Takes all the space there is. Removing the file gives it back.
    fn fill(&self) -> std::path::PathBuf {
        let path = self.0.path().join("other");
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        for piece in [&[0; 4096][..], &[0]] {
            while file.write(piece).is_ok() {}
        }
        path
    }
}

impl Drop for SmallFlash {
    fn drop(&mut self) {
        // Whatever still holds it, the mount point itself must become free.
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn damage(state: &Path) {
    let bytes = fs::read(state).unwrap();
    fs::write(state, bytes.iter().map(|byte| byte ^ 1).collect::<Vec<_>>()).unwrap();
}

#[tokio::test]
async fn flash() {
    let mut drill = Drill::new(Group::Flash);
    let flash = SmallFlash::mount();
    let mut world = World::with_camera().await;
    world.agent.config.state_dir = flash.0.path().join("state");
    fs::create_dir(&world.agent.config.state_dir).unwrap();
    let short = Policy { clip_max_s: 1, ..PREMIUM };

    // The first document of a new camera has no room.
    let full = drill.fault(&world.agent, "The state directory's file system is full");
    let other = flash.fill();
    let premium = world.premium().limited(short);
    world.issue(premium).await;
    world.agent.start();
    full.named(&world.agent).await;
    fs::remove_file(&other).unwrap();
    full.over(&world.agent).await;
    world.agent.mode(Mode::Paid).await;

    let worn = drill.fault(&world.agent, "Flash is worn, and its syncs fail");
    let syncs = Traced::start(&world.agent, "store", "fdatasync,fsync", "fdatasync:error=EIO");
    syncs.attached().await;
    let premium = world.premium().limited(short);
    world.issue(premium).await;
    worn.named(&world.agent).await;
    syncs.stop().await;
    worn.over(&world.agent).await;

    let lost = drill.fault(&world.agent, "A power cut has damaged the state");
    world.agent.kill().await;
    damage(&world.agent.state_file());
    let document = std::mem::replace(&mut world.cloud.lock().entitlement, Body::Status(503));
    let place = drill.fault(&world.agent, "A file stands where clips belong on flash");
    let _ = fs::remove_dir_all(world.agent.config.state_dir.join("spool"));
    fs::write(world.agent.config.state_dir.join("spool"), "").unwrap();
    let unreadable = drill.fault(&world.agent, "The file of the timeline is damaged");
    fs::write(world.agent.config.state_dir.join("timeline"), "other bytes\n".repeat(9)).unwrap();
    world.agent.start();
    lost.named(&world.agent).await;
    unreadable.named(&world.agent).await;
    unreadable.lasts(&world.agent);
    place.named(&world.agent).await;
    place.lasts(&world.agent);
    world.cloud.lock().entitlement = document;
    lost.over(&world.agent).await;

    world.agent.stop().await;
    fs::remove_file(world.agent.config.state_dir.join("spool")).unwrap();
    world.agent.config.extra = "[spool]\nmemory_bytes = 250_000\nflash_bytes = 0\n".into();
    world.cloud.lock().grants = GrantAnswer::Status(503);
    // Both are spoken of for an hour.
    let shortened = drill.fault(&world.agent, "A clip is longer than memory, and may not go to flash");
    let dropped = drill.fault(&world.agent, "More clips wait than memory can hold");
    let long = world.premium().limited(Policy { clip_max_s: 14, ..PREMIUM });
    world.start_with(long, Mode::Paid).await;
    world.agent.condition_gone(Kind::SpoolFault.name()).await;
    while_moving(&world.agent, shortened.named(&world.agent)).await;
    while_moving(&world.agent, dropped.named(&world.agent)).await;
    shortened.lasts(&world.agent);
    dropped.lasts(&world.agent);
    drill.end();
}
