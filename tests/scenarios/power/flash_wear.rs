//! Scenario 95: the uplink carries less than the camera films, for days. Flash writes stay within the daily limit,
//! across restarts too, and a condition says so.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use care_protocol::Mode;
use care_tests::{cloud::GrantAnswer, status::Status, world::World};

const FLASH: u64 = 400_000;
const A_DAY: u64 = 1_000_000;
/// Journal lines about deleted clips are written beyond the limit too: a page or two for each line.
const JOURNAL: u64 = 200_000;

/// Every clip seen on flash, with its file size.
type Seen = BTreeMap<String, u64>;

fn look(world: &World, seen: &mut Seen) {
    let Ok(entries) = std::fs::read_dir(world.agent.config.state_dir.join("spool")) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        // The file may be deleted between the listing and the lookup.
        if let Ok(metadata) = entry.metadata()
            && name.ends_with(".clip")
        {
            seen.insert(name, metadata.len());
        }
    }
}

async fn move_until(world: &World, what: &str, seen: &mut Seen, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut motion = world.agent.motion().await;
    let started = Instant::now();
    loop {
        motion.report_motion().await;
        look(world, seen);
        let status = world.agent.status("its spool", |_| true).await;
        let written: u64 = seen.values().sum();
        assert!(written <= A_DAY, "{written} bytes of clips were written to flash");
        assert!(status.spool("flash_written_today") <= A_DAY + JOURNAL, "{:#}", status.0["spool"]);
        if wanted(&status) {
            return status;
        }
        assert!(started.elapsed() < Duration::from_secs(150), "{what} did not come: {:#}", status.0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn s95_the_daily_flash_write_limit_holds_on_a_slow_uplink_and_across_restarts() {
    let mut world = World::with_camera().await;
    world.agent.config.extra = format!("[spool]\nmemory_bytes = 400_000\nflash_bytes = {FLASH}\nflash_bytes_per_day = {A_DAY}\n");
    world.cloud.lock().grants = GrantAnswer::Status(503);
    world.start_premium().await;
    let mut seen = Seen::new();
    let told = |status: &Status| status.condition("flash_budget").is_some();
    let status = move_until(&world, "the limit", &mut seen, told).await;
    assert_eq!(status.spool("flash_bytes_per_day"), A_DAY);
    assert!(seen.len() >= 3 && seen.values().sum::<u64>() > FLASH, "more was written than the limit allows at once: {seen:?}");
    // From here on, clips wait in memory and the oldest are dropped.
    let dropped = status.spool("dropped_clips");
    move_until(&world, "a dropped clip", &mut seen, |status| status.spool("dropped_clips") > dropped).await;

    let written = world.agent.status("its spool", |_| true).await.spool("flash_written_today");
    for _ in 0..2 {
        world.agent.kill().await;
        world.agent.start();
        world.agent.mode(Mode::Paid).await;
        let status = world.agent.status("what was written", |status| status.spool("flash_written_today") > 0).await;
        assert!(status.spool("flash_written_today") + 8192 >= written, "{written} bytes before the restart: {:#}", status.0["spool"]);
        move_until(&world, "the limit", &mut seen, told).await;
    }
    world.agent.stop().await;
    look(&world, &mut seen);
    assert!(seen.values().sum::<u64>() <= A_DAY, "a stop writes no more: {seen:?}");
}
