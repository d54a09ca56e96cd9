//! Scenario 97: a clip that goes up whole and is longer than memory goes to flash while it is filmed.

use std::time::Duration;

use care_protocol::{GrantRequest, Mode, Outcome, Policy};
use care_tests::{
    build::Build,
    cloud::{CloudState, Put},
    in_each_build,
    issuer::PREMIUM,
    media::{self, probe_bytes},
    wait::{PATIENCE, until},
    world::World,
};

/// A clip of this length is several times as large as memory.
const LONG: Policy = Policy { clip_max_s: 14, ..PREMIUM };
/// Several seconds of the camera's stream.
const MEMORY: u64 = 250_000;

/// A Premium camera with little memory for clips and this much flash.
async fn small_memory(build: Build, flash_bytes: u64) -> World {
    let mut world = World::with_camera_of(build).await;
    world.agent.config.extra =
        format!("[spool]\nmemory_bytes = {MEMORY}\nflash_bytes = {flash_bytes}\nflash_bytes_per_day = 100_000_000\n");
    let premium = world.premium().limited(LONG);
    world.start_with(premium, Mode::Paid).await;
    world
}

/// The first clip in the store that is no snapshot.
fn stored(seen: &CloudState) -> Option<(GrantRequest, Put)> {
    let clip = |put: &Put| {
        let asked = seen.asked.iter().map(|(_, asked)| asked).find(|asked| asked.clip == put.clip && asked.duration_ms > 1000)?;
        Some((asked.clone(), put.clone()))
    };
    seen.puts.iter().filter(|put| put.complete == Some(true)).find_map(clip)
}

/// Motion goes on, so that a clip gets as long as it may.
async fn long_motion(world: &World) -> (GrantRequest, Put) {
    world.move_every(Duration::from_secs(1), "a clip", stored).await
}

/// How long the film is by its header alone, which players show that read no fragments; 0 if fragments are to say it.
fn indexed_ms(file: &[u8]) -> u64 {
    let at = file.windows(4).position(|name| name == b"mvhd").expect("a header") + 4;
    let number = |at: usize| u64::from(u32::from_be_bytes(file[at..at + 4].try_into().unwrap()));
    assert_eq!(file[at], 0, "32 bits for each time");
    number(at + 16) * 1000 / number(at + 12)
}

in_each_build!(s97_a_clip_longer_than_memory_arrives_whole_without_parts);

async fn s97_a_clip_longer_than_memory_arrives_whole_without_parts(build: Build) {
    let world = small_memory(build, 20_000_000).await;
    let (asked, put) = long_motion(&world).await;
    assert_eq!((asked.part, asked.bytes), (None, put.body.len() as u64));
    assert!(asked.bytes > 2 * MEMORY, "{} bytes do not show it", asked.bytes);
    let longest = u64::from(LONG.clip_max_s) * 1000;
    assert!(asked.duration_ms > longest - 1500 && asked.duration_ms <= longest, "{} ms", asked.duration_ms);
    // The index comes first, and lists every frame with the duration of the whole.
    assert_eq!(media::boxes(&put.body), media::PROGRESSIVE);
    let indexed = indexed_ms(&put.body);
    assert!(indexed.abs_diff(asked.duration_ms) < 200, "{indexed} ms in the index of {} ms", asked.duration_ms);
    let whole = probe_bytes(&put.body);
    assert_eq!((whole.complaints.as_str(), whole.starts_with_keyframe), ("", true));
    assert!(whole.longest_step() < 1.5, "{:?}", whole.pts);
    let frames_ms = whole.pts.len() as u64 * 1000 / u64::from(media::FPS);
    assert!(frames_ms.abs_diff(indexed) < 200, "frames of {frames_ms} ms in {indexed} ms");
    assert!((whole.duration() - asked.duration_ms as f64 / 1000.0).abs() < 0.2, "{} s of {} ms", whole.duration(), asked.duration_ms);
    let status = world.agent.status("what flash has taken", |status| status.spool("flash_written_today") > asked.bytes).await;
    assert!(status.condition("clips_shortened").is_none(), "{:#}", status.0["conditions"]);
    assert_eq!(status.spool("dropped_clips"), 0, "{:#}", status.0["spool"]);
}

in_each_build!(s97_where_neither_memory_nor_flash_has_room_a_clip_ends_early_and_says_why);

async fn s97_where_neither_memory_nor_flash_has_room_a_clip_ends_early_and_says_why(build: Build) {
    let world = small_memory(build, 0).await;
    let (asked, put) = long_motion(&world).await;
    assert!(asked.bytes <= MEMORY && asked.duration_ms < 12_000, "{asked:?}");
    assert_eq!(probe_bytes(&put.body).complaints, "");
    let status = world.agent.status("the condition", |status| status.condition("clips_shortened").is_some()).await;
    let said = status.sentence("clips_shortened");
    assert!(said.contains("memory_bytes (250000) was full, and [spool] flash_bytes is 0"), "{said}");
}

/// Names in the spool's directory of clips, whole or unfinished.
fn files(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(world.agent.config.state_dir.join("spool")).into_iter().flatten().filter_map(Result::ok);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with("journal")).collect()
}

in_each_build!(s97_a_cancel_or_a_kill_while_a_clip_is_filmed_to_flash_leaves_no_file);

async fn s97_a_cancel_or_a_kill_while_a_clip_is_filmed_to_flash_leaves_no_file(build: Build) {
    let mut world = small_memory(build, 20_000_000).await;
    let unfinished = |world: &World| files(world).into_iter().find(|name| name.ends_with(".part"));
    let killed = world.move_every(Duration::from_millis(200), "an unfinished file", |_| unfinished(&world)).await;
    world.agent.kill().await;
    assert!(files(&world).contains(&killed));
    world.agent.start();
    world.agent.mode(Mode::Paid).await;
    assert!(!files(&world).contains(&killed), "{:?}", files(&world));

    let cut = world.move_every(Duration::from_millis(200), "an unfinished file", |_| unfinished(&world)).await;
    let asked = world.cloud.grants_asked();
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    assert!(report.erased.clips >= 1 && report.erased.bytes > MEMORY / 2, "{report:?}");
    until("its file to be deleted", PATIENCE, || (!files(&world).contains(&cut)).then_some(())).await;
    let (killed, cut) = (killed.trim_end_matches(".part"), cut.trim_end_matches(".part"));
    let seen = world.cloud.lock();
    assert!(seen.asked[asked..].iter().all(|(_, asked)| asked.clip != cut));
    assert!(seen.puts.iter().all(|put| put.clip != killed && put.clip != cut));
}
