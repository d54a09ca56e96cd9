//! Scenarios 45, 74 and 75: clips that wait survive a power cut, and erased clips stay erased.

use std::{path::PathBuf, time::Duration};

use care_protocol::{Mode, Outcome};
use care_tests::{
    cloud::{Document as Body, GrantAnswer, Sink},
    status::Status,
    wait::{PATIENCE, RECONNECT, holds, until},
    world::World,
};

/// How long a clip may take to reach flash: it first stays in memory for 15 s.
const TO_FLASH: Duration = Duration::from_secs(60);

/// Ids of the clips on flash, oldest write first.
fn on_flash(world: &World) -> Vec<String> {
    let entries = std::fs::read_dir(spool(world)).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
    let mut clips: Vec<_> = entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| {
            let clip = entry.file_name().into_string().ok()?.strip_suffix(".clip")?.to_owned();
            // The file may be deleted between the listing and the lookup.
            Some((entry.metadata().ok()?.modified().ok()?, clip))
        })
        .collect();
    clips.sort();
    clips.into_iter().map(|(_, clip)| clip).collect()
}

fn spool(world: &World) -> PathBuf {
    world.agent.config.state_dir.join("spool")
}

/// Bytes used by the spool's files.
fn bytes_on_flash(world: &World) -> u64 {
    let entries = std::fs::read_dir(spool(world)).map(|entries| entries.filter_map(Result::ok).collect::<Vec<_>>());
    // The file may be deleted between the listing and the lookup.
    entries.unwrap_or_default().iter().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// A Premium camera with a clip on flash, whose cloud grants nothing.
async fn with_a_clip_on_flash() -> (World, String) {
    let mut world = World::with_camera().await;
    world.cloud.lock().grants = GrantAnswer::Status(503);
    world.start_premium().await;
    world.move_until("a grant request", |seen| (!seen.asked.is_empty()).then_some(())).await;
    let clip = until("a clip to be on flash", TO_FLASH, || on_flash(&world).into_iter().next()).await;
    world.agent.status("the clip on flash", |status| status.spool("flash_clips") >= 1).await;
    (world, clip)
}

fn stored(world: &World, clip: &str) -> bool {
    world.cloud.lock().puts.iter().any(|put| put.clip == clip && put.complete == Some(true))
}

#[tokio::test]
async fn a_waiting_clip_survives_a_kill_and_is_uploaded_once_the_plan_is_confirmed() {
    let (mut world, clip) = with_a_clip_on_flash().await;
    world.agent.kill().await;
    world.proxy.cut().await;
    let premium = std::mem::replace(&mut world.cloud.lock().entitlement, Body::Status(503));
    world.cloud.lock().grants = GrantAnswer::Here;
    let asked = world.cloud.grants_asked();
    world.agent.start();
    let status = world.agent.mode(Mode::Held).await;
    assert!(status.spool("flash_clips") >= 1, "{:#}", status.0);
    holds("it waits until the plan is confirmed", Duration::from_secs(3), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;

    world.cloud.lock().entitlement = premium;
    world.proxy.restore();
    until("the clip to be stored", RECONNECT, || stored(&world, &clip).then_some(())).await;
    let (put, asked) = {
        let seen = world.cloud.lock();
        let put = seen.puts.iter().find(|put| put.clip == clip && put.complete == Some(true)).cloned().unwrap();
        let asked = seen.asked.iter().map(|(_, asked)| asked).find(|asked| asked.clip == clip).cloned().unwrap();
        (put, asked)
    };
    assert_eq!(put.body.len() as u64, asked.bytes);
    let picture = care_tests::media::probe_bytes(&put.body);
    assert!(picture.complaints.is_empty() && picture.starts_with_keyframe, "{picture:?}");
    until("its file to be deleted", PATIENCE, || (!on_flash(&world).contains(&clip)).then_some(())).await;
}

#[tokio::test]
async fn a_clean_stop_saves_waiting_clips_to_flash() {
    let mut world = World::with_camera().await;
    world.cloud.lock().grants = GrantAnswer::Status(503);
    world.start_premium().await;
    let clip = world.move_until("a grant request", |seen| seen.asked.first().map(|(_, asked)| asked.clip.clone())).await;
    world.agent.stop().await;
    assert!(on_flash(&world).contains(&clip), "{:?}", on_flash(&world));
    world.cloud.lock().grants = GrantAnswer::Here;
    world.agent.start();
    until("the clip to be stored", RECONNECT, || stored(&world, &clip).then_some(())).await;
}

#[tokio::test]
async fn s45_a_cancel_erases_clips_on_flash_and_neither_a_kill_nor_a_new_plan_restores_them() {
    let (mut world, clip) = with_a_clip_on_flash().await;
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    world.agent.kill().await;
    assert!(report.erased.clips >= 1 && report.erased.bytes > 10_000, "{report:?}");
    let asked = world.cloud.grants_asked();
    world.cloud.lock().grants = GrantAnswer::Here;
    let again = world.premium();
    let again = world.issue(again).await;
    world.agent.start();
    world.issuer.in_force(&again, Mode::Paid).await;
    until("its file to be deleted", PATIENCE, || (!on_flash(&world).contains(&clip)).then_some(())).await;
    // A new clip is uploaded; the erased one never is.
    world.move_until("a new clip stored", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert!(world.cloud.lock().asked[asked..].iter().all(|(_, asked)| asked.clip != clip));
}

#[tokio::test]
async fn s10_clips_erased_from_flash_stay_erased_after_an_immediate_resubscription() {
    let (mut world, clip) = with_a_clip_on_flash().await;
    let cancel = world.free();
    let (cancel, again) = (world.sign(&cancel), world.premium());
    let again = world.sign(&again);
    world.issuer.publish_entitlement(&cancel.token).await;
    world.hand_out(&again).await;
    world.issuer.in_force(&again, Mode::Paid).await;
    world.agent.kill().await;
    let asked = world.cloud.grants_asked();
    world.cloud.lock().grants = GrantAnswer::Here;
    world.agent.start();
    world.issuer.in_force(&again, Mode::Paid).await;
    until("its file to be deleted", PATIENCE, || (!on_flash(&world).contains(&clip)).then_some(())).await;
    world.move_until("a new clip stored", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert!(world.cloud.lock().asked[asked..].iter().all(|(_, asked)| asked.clip != clip));
}

const MEMORY: u64 = 500_000;
const FLASH: u64 = 500_000;

/// Checks both parts of the spool against their quotas, by the agent's status and by the files.
fn within_quota(world: &World, status: &Status) {
    let (memory, flash) = (status.spool("memory_bytes"), status.spool("flash_bytes"));
    assert!(memory <= MEMORY && flash <= FLASH, "{:#}", status.0["spool"]);
    // Clips and journal.
    let files = bytes_on_flash(world);
    assert!(files <= FLASH + 64 * 1024, "{files} bytes of files");
}

/// Reports motion until clips were dropped, checking the quotas meanwhile.
async fn move_until_dropped(world: &mut World, clips: u64, mut look: impl FnMut(&World)) -> Status {
    let mut motion = world.agent.motion().await;
    let started = std::time::Instant::now();
    loop {
        motion.report_motion().await;
        let status = world.agent.status("its spool", |_| true).await;
        within_quota(world, &status);
        look(world);
        if status.spool("dropped_clips") >= clips {
            return status;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "nothing was dropped: {:#}", status.0["spool"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn s74_memory_and_flash_stay_within_their_quotas_while_the_cloud_stalls() {
    let mut world = World::with_camera().await;
    world.agent.config.extra = format!("[spool]\nmemory_bytes = {MEMORY}\nflash_bytes = {FLASH}\n");
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    world.start_premium().await;
    world.upload_in_flight(16_000).await;
    let status = move_until_dropped(&mut world, 1, |_| {}).await;
    assert!(status.spool("flash_clips") >= 1 && status.spool("dropped_bytes") > 10_000, "{:#}", status.0["spool"]);
    world.cloud.lock().sink = Sink::Swallow;
    until("the clips on flash to be stored", RECONNECT, || on_flash(&world).is_empty().then_some(())).await;
    world.agent.status("them as stored", |status| status.spool("stored_clips") >= 2 && status.spool("flash_clips") == 0).await;
}

#[tokio::test]
async fn s75_on_full_flash_the_oldest_clips_are_dropped_first() {
    let mut world = World::with_camera().await;
    world.agent.config.extra = format!("[spool]\nmemory_bytes = {MEMORY}\nflash_bytes = {FLASH}\n");
    world.cloud.lock().grants = GrantAnswer::Status(503);
    world.start_premium().await;
    let mut seen: Vec<String> = Vec::new();
    move_until_dropped(&mut world, 3, |world| {
        let here = on_flash(world);
        let new: Vec<String> = here.iter().filter(|clip| !seen.contains(clip)).cloned().collect();
        seen.extend(new);
        let first = seen.iter().position(|clip| here.contains(clip)).unwrap_or(seen.len());
        assert!(seen[first..].iter().all(|clip| here.contains(clip)), "{seen:?} came in this order, {here:?} are left");
    })
    .await;
    assert!(seen.len() >= 3, "{seen:?}");
}
