//! `kasa-care-agent motion`, as a streamer's motion script calls it.

use std::time::Duration;

use care_protocol::{Mode, Policy};
use care_tests::{
    issuer::PREMIUM,
    wait::{PATIENCE, holds, until},
    world::World,
};

#[tokio::test]
async fn a_motion_script_starts_a_clip() {
    let mut world = World::with_camera().await;
    world.start_premium().await;
    // Until the first picture there is nothing to film.
    world.agent.motion().await;
    let out = until_done(&world, &["motion", "10", "20", "640", "360"]).await;
    assert!(out.stdout.is_empty() && out.stderr.is_empty(), "{out:?}");
    let events = |status: &care_tests::status::Status| status.0["media"]["motion_events"].as_u64().unwrap_or(0);
    world.agent.status("the event", |status| events(status) >= 1).await;
    until("a clip", PATIENCE, || (world.cloud.grants_asked() > 0).then_some(())).await;
}

/// Runs the command until it exits with 0: the agent's media may be starting.
async fn until_done(world: &World, arguments: &[&str]) -> std::process::Output {
    let began = std::time::Instant::now();
    loop {
        let out = world.agent.command(arguments).await;
        if out.status.success() {
            return out;
        }
        assert!(began.elapsed() < PATIENCE, "{out:?}");
    }
}

/// Between `start` and `stop` the clip goes on, although a single event's clip would end after five seconds.
#[tokio::test]
async fn motion_lasts_from_start_to_stop() {
    let mut world = World::with_camera().await;
    let premium = world.premium().limited(Policy { clip_max_s: 60, cooldown_s: 0, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    world.agent.motion().await;
    until_done(&world, &["motion", "start"]).await;
    holds("it is still filmed", Duration::from_secs(9), || (world.cloud.grants_asked() > 0).then_some("a clip has ended")).await;
    until_done(&world, &["motion", "stop"]).await;
    until("a clip", PATIENCE, || (world.cloud.grants_asked() > 0).then_some(())).await;
    let (_, asked) = world.cloud.lock().asked.last().cloned().unwrap();
    assert!(asked.duration_ms >= 12_000, "{asked:?}");
}

#[tokio::test]
async fn a_script_is_told_why_nothing_happens() {
    let mut world = World::with_camera().await;
    let said = |out: std::process::Output| (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned());
    world.agent.write_config();
    let (code, text) = said(world.agent.command(&["motion"]).await);
    assert_eq!(code, Some(70), "{text}");
    assert!(text.contains("is it running?") && text.contains("motion.sock") && !text.contains("systemctl"), "{text}");
    // A stale socket is no agent.
    drop(std::os::unix::net::UnixListener::bind(world.agent.dir().join("motion.sock")).unwrap());
    let (code, text) = said(world.agent.command(&["motion", "start"]).await);
    assert_eq!(code, Some(70), "{text}");
    assert!(text.contains("is it running?"), "{text}");
    // One that never answers holds no script up.
    std::fs::remove_file(world.agent.dir().join("motion.sock")).unwrap();
    let _silent = std::os::unix::net::UnixListener::bind(world.agent.dir().join("motion.sock")).unwrap();
    let began = std::time::Instant::now();
    let (code, text) = said(world.agent.command(&["motion", "stop"]).await);
    assert!(code == Some(70) && text.contains("did not take the event") && began.elapsed() < Duration::from_secs(10), "{text}");

    world.agent.config.motion = "built-in".into();
    world.agent.write_config();
    let (code, text) = said(world.agent.command(&["motion"]).await);
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("built-in") && text.contains("socket:/run/kasa-care-agent/motion.sock"), "{text}");
    world.agent.config.source = None;
    world.agent.write_config();
    assert_eq!(world.agent.command(&["motion"]).await.status.code(), Some(78));
    assert_eq!(world.agent.command(&["motion", "sideways"]).await.status.code(), Some(64));
}
