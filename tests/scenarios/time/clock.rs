//! Scenarios 27 to 35: wrong clocks, and changes that take effect at a time. libfaketime moves the agent's wall
//! clock while it runs; a time namespace moves BOOTTIME. Neither touches the machine's clocks.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use care_protocol::{Cause, Cut, Mode, Outcome, Reason};
use care_tests::{
    build::Build,
    cloud::{Clock, Document as Body, Sink},
    in_each_build,
    issuer::NOTHING,
    unix_now,
    wait::{PATIENCE, RECONNECT, holds, until},
    world::World,
};

const YEAR_S: i64 = 365 * 86_400;

/// The camera's wall clock, which the test can set at any time.
pub(super) struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// Makes the camera use this clock from its next start on. `time` is in libfaketime's format: `-365d`,
    /// `@1970-01-01 00:00:05`.
    pub(super) fn under(world: &mut World, time: &str) -> Self {
        let wall = Self { file: world.agent.dir().join("wall-clock") };
        wall.set(time);
        let library = ["x86_64-linux-gnu", "aarch64-linux-gnu", "arm-linux-gnueabihf"]
            .map(|machine| PathBuf::from(format!("/usr/lib/{machine}/faketime/libfaketimeMT.so.1")))
            .into_iter()
            .find(|path| path.exists())
            .expect("libfaketime is installed (Debian package faketime)");
        // libfaketime's shared memory would outlive a camera that is killed, so it gets a private /dev/shm.
        let with_own_memory = ["unshare", "-m", "sh", "-c", "mount -t tmpfs none /dev/shm && exec \"$@\"", "sh"];
        world.agent.under = with_own_memory.map(str::to_owned).to_vec();
        world.agent.under.extend([
            "env".into(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", wall.file.display()),
            "FAKETIME_NO_CACHE=1".into(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
            "TZ=UTC".into(),
        ]);
        wall
    }

    fn set(&self, time: &str) {
        // Replaced atomically: the camera may be reading.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{time}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }
}

#[tokio::test]
async fn s27_a_camera_booted_in_1970_connects_and_keeps_leases_by_the_floor_of_trusted_time() {
    let mut world = World::new().await;
    WallClock::under(&mut world, "@1970-01-01 00:00:05");
    // The cloud gives no time: the floor of trusted time must suffice.
    world.cloud.lock().clock = Clock::Absent;
    let premium = world.premium();
    let iat = premium.0.iat;
    let premium = world.start_with(premium, Mode::Paid).await;
    let report = world.issuer.report("its time", |report| premium.in_force(report) && report.mode == Mode::Paid).await;
    assert!(report.at.as_second() >= i64::try_from(iat).unwrap(), "not before the document was issued: {}", report.at);
    let status = world.agent.mode(Mode::Paid).await;
    assert_eq!(status.0["clock"]["confirmed"], false);
    let left = status.0["lease_left_s"].as_u64().unwrap();
    assert!((170_000..=172_800).contains(&left), "{left} s");
    // The camera still has it at the next boot in 1970, before any document has arrived.
    world.cloud.lock().entitlement = Body::Silence;
    world.agent.kill().await;
    world.proxy.cut().await;
    world.agent.start();
    let status = world.agent.status("the lease", |status| status.0["lease_left_s"].is_u64()).await;
    assert!(status.0["lease_left_s"].as_u64().unwrap() <= left && status.mode() == "held", "{:#}", status.0);
}

#[tokio::test]
async fn s28_a_clock_set_back_by_a_year_extends_no_lease() {
    let mut world = World::new().await;
    let wall = WallClock::under(&mut world, "+0");
    let leased = world.premium().leased(15);
    let end = unix_now() + 15;
    let leased = world.start_with(leased, Mode::Paid).await;
    wall.set("-365d");
    let report = world.issuer.report_within(0, Duration::from_secs(60), "the end", |report| report.cause == Cause::Lease).await;
    assert!(leased.in_force(&report) && report.mode == Mode::Free, "{report:?}");
    let at = u64::try_from(report.at.as_second()).unwrap();
    assert!((end - 2..end + 20).contains(&at), "due at {end}, ended at {at}");
}

#[tokio::test]
async fn s28_a_reboot_neither_extends_nor_ends_a_lease() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let before = world.agent.mode(Mode::Paid).await.0["lease_left_s"].as_u64().unwrap();
    world.agent.stop().await;
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let since_boot: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    for offset in [5 - i64::try_from(since_boot).unwrap(), 10 * 86_400] {
        world.agent.under = ["unshare", "-T", "--boottime", &offset.to_string()].map(str::to_owned).to_vec();
        world.agent.start();
        let status = world.agent.mode(Mode::Paid).await;
        let left = status.0["lease_left_s"].as_u64().unwrap();
        assert!(left <= before && before - left < 300, "{before} s before, {left} s with BOOTTIME moved by {offset} s");
        assert_eq!(status.seq(), premium.position.seq);
        world.agent.kill().await;
    }
}

#[tokio::test]
async fn s29_a_clock_that_jumps_ahead_ends_nothing_until_https_agrees() {
    let mut world = World::new().await;
    let wall = WallClock::under(&mut world, "+0");
    let premium = world.start_premium().await;
    let mark = world.issuer.mark();
    wall.set("+365d");
    // The clock is read continuously; a document makes the reading take effect.
    let renewed = world.premium().because(Reason::Renewed);
    let renewed = world.switch(renewed, Mode::Paid).await;
    holds("the plan", Duration::from_secs(3), || {
        world.issuer.reports(mark).into_iter().find(|report| report.mode != Mode::Paid).map(|report| format!("{report:?}"))
    })
    .await;
    let trusted = |status: &care_tests::status::Status| status.0["clock"]["trusted"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let now = i64::try_from(unix_now()).unwrap();
    let status = world.agent.mode(Mode::Paid).await;
    assert!((trusted(&status).as_second() - now).abs() < 700, "{:#}", status.0);
    assert!(premium.position < renewed.position);

    // The Date of HTTPS confirms that a year has passed: the lease has ended.
    world.cloud.lock().clock = Clock::Offset(YEAR_S);
    world.proxy.cut().await;
    let status = world.agent.mode(Mode::Free).await;
    assert!(trusted(&status).as_second() >= now + YEAR_S - 10, "{:#}", status.0);
    assert_eq!(status.0["last_switch"]["cause"], "lease");
}

#[tokio::test]
async fn s33_a_lease_that_expires_offline_falls_to_the_minimum_and_erases_nothing() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let leased = world.premium().leased(12);
    let leased = world.start_with(leased, Mode::Paid).await;
    world.upload_in_flight(16_000).await;
    world.cloud.lock().entitlement = Body::Silence;
    world.proxy.cut().await;
    let status = world.agent.status_within("the end", Duration::from_secs(60), |status| status.0["last_switch"]["cause"] == "lease").await;
    assert_eq!((status.mode(), status.plan(), status.seq()), ("free", "premium", leased.position.seq), "the plan stays on record");
    assert_eq!(status.0["last_switch"]["erased"]["clips"], 0);
    assert_eq!(status.0["may_leave"]["clip_max_s"], 1, "the lower of Premium and [free]");
    assert_eq!(status.0["spool"]["erased_clips"], 0, "what exceeds the minimum waits");
    let waiting = status.0["spool"]["clips"].as_u64().unwrap();
    assert!(waiting >= 1, "{:#}", status.0["spool"]);
    // A new lease; HTTPS works again, so the waiting clips are uploaded.
    let stored = world.cloud.lock().puts.iter().filter(|put| put.complete == Some(true)).count();
    let renewed = world.premium().because(Reason::Renewed);
    let renewed = world.sign(&renewed);
    world.cloud.lock().sink = Sink::Swallow;
    world.cloud.lock().entitlement = Body::Token(renewed.token.clone());
    world.agent.status_within("paid again", Duration::from_secs(90), |status| status.mode() == "paid").await;
    world.cloud.stored(stored + 1).await;
}

#[tokio::test]
async fn s34_a_renewal_extends_the_lease_and_disturbs_no_transfer() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let short = world.premium().leased(600);
    world.start_with(short, Mode::Paid).await;
    let put = world.upload_in_flight(16_000).await;
    let generation = world.agent.mode(Mode::Paid).await.0["transfers"]["generation"].clone();

    let renewed = world.premium().because(Reason::Renewed);
    let renewed = world.switch(renewed, Mode::Paid).await;
    let report = world.issuer.judged(&renewed, Outcome::Applied).await;
    assert_eq!((report.cut, report.erased.clips, report.reason.as_str()), (Cut::default(), 0, "renewed"));
    let status = world.agent.status("the new lease", |status| status.0["lease_left_s"].as_u64() > Some(600)).await;
    assert_eq!(status.0["transfers"]["generation"], generation);
    world.cloud.lock().sink = Sink::Swallow;
    let whole = world.cloud.stored(1).await;
    assert_eq!(whole.path, put.path, "the upload in flight is the one that completed");
}

in_each_build!(s30_next_is_performed_on_time_after_a_reboot_and_with_the_broker_away);

async fn s30_next_is_performed_on_time_after_a_reboot_and_with_the_broker_away(build: Build) {
    let mut world = World::of(build).await;
    world.start_premium().await;
    let effective_at = unix_now() + 6;
    let pending = world.premium().then_free(effective_at);
    let pending = world.switch(pending, Mode::Paid).await;
    world.proxy.cut().await;
    world.agent.kill().await;
    let mark = world.issuer.mark();
    world.agent.start();
    let status = world.agent.status("a plan after boot", |status| status.plan() == "premium").await;
    assert!(unix_now() < effective_at, "this machine is too slow for this test");
    assert_ne!(status.mode(), "free");

    world.agent.mode(Mode::Free).await;
    let now = unix_now();
    assert!((effective_at..effective_at + 3).contains(&now), "due at {effective_at}, free at {now}");
    world.proxy.restore();
    let report = world.issuer.report_within(mark, RECONNECT, "the change", |report| report.cause == Cause::Next).await;
    assert!(pending.in_force(&report) && report.mode == Mode::Free && report.judged.is_none());
    assert!(report.at.as_second() >= i64::try_from(effective_at).unwrap());
}

#[tokio::test]
async fn s31_next_in_the_past_on_arrival_applies_now() {
    let mut world = World::new().await;
    world.start_premium().await;
    let late = world.premium().then_free(unix_now() - 10);
    let late = world.switch(late, Mode::Free).await;
    let report = world.issuer.in_force(&late, Mode::Free).await;
    assert_eq!(report.plan.unwrap().as_str(), "free");
}

#[tokio::test]
async fn s32_next_that_passes_while_the_camera_is_off_applies_before_the_first_upload() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let mut pending = world.premium().then_free(unix_now() + 8);
    pending.0.next.as_mut().unwrap().policy = NOTHING;
    let effective_at = pending.0.next.as_ref().unwrap().effective_at;
    let pending = world.start_with(pending, Mode::Paid).await;
    world.upload_in_flight(16_000).await;
    world.agent.stop().await;
    let asked = world.cloud.grants_asked();
    world.cloud.lock().sink = Sink::Swallow;
    until("the time of the change", Duration::from_secs(15), || (unix_now() > effective_at).then_some(())).await;

    let mark = world.issuer.mark();
    world.agent.start();
    let report = world.issuer.report_since(mark, "Free after boot", |report| pending.in_force(report) && report.mode == Mode::Free).await;
    assert_eq!(report.plan.unwrap().as_str(), "free");
    world.agent.motion().await.report_motion().await;
    holds("no grant is requested", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    assert!(world.issuer.reports(mark).iter().all(|report| report.mode != Mode::Paid));
}

#[tokio::test]
async fn s35_an_answer_with_another_nonce_does_not_confirm_but_is_judged() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.agent.stop().await;
    // Nothing is retained and nothing answers: after boot, paid media waits.
    world.issuer.heard().answer = None;
    world.issuer.publish_entitlement("").await;
    world.cloud.lock().entitlement = Body::Silence;
    let (mark, gets) = (world.issuer.mark(), world.issuer.gets());
    world.agent.start();
    world.issuer.get_since(gets).await;

    world.issuer.answer("AAAAAAAAAAAAAAAAAAAAAA", &premium.token).await;
    let report = world.issuer.report_since(mark, "the duplicate", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert_eq!(report.mode, Mode::Held);
    let (newer, gets) = (world.premium(), world.issuer.gets());
    let newer = world.sign(&newer);
    world.issuer.answer("AAAAAAAAAAAAAAAAAAAAAB", &newer.token).await;
    let report = world.issuer.judged(&newer, Outcome::Applied).await;
    assert!(newer.in_force(&report) && report.mode == Mode::Held, "judged as a document, confirming nothing: {report:?}");

    // A document applied while unconfirmed triggers a fresh get at once; only the answer to its nonce counts.
    let get = world.issuer.get_since(gets).await;
    assert!(get.nonce.len() >= 22 && get.seq == newer.position.seq, "{get:?}");
    let asked = Instant::now();
    world.issuer.answer(&get.nonce, &newer.token).await;
    let report = world.issuer.in_force(&newer, Mode::Paid).await;
    assert_eq!(report.cause, Cause::Confirmed);
    assert!(asked.elapsed() < PATIENCE);
}

/// Small firmware has neither zone files nor a zone.
#[tokio::test]
async fn without_a_time_zone_every_time_is_utc() {
    let mut world = World::new().await;
    let hidden =
        "mount -t tmpfs none /usr/share/zoneinfo && { [ ! -e /etc/localtime ] || mount --bind /dev/null /etc/localtime; } && exec \"$@\"";
    world.agent.under =
        ["unshare", "-m", "--propagation", "private", "env", "-u", "TZ", "sh", "-c", hidden, "sh"].map(str::to_owned).to_vec();
    world.start_premium().await;
    let before = unix_now();
    let line = world.agent.logged(0, "being ready", |line| line.contains("agent: ready ")).await;
    let logged: jiff::Timestamp = line.split_whitespace().next().unwrap().parse().expect("RFC 3339");
    assert!(line.split_whitespace().next().unwrap().ends_with('Z'), "{line}");
    assert!(logged.as_second().abs_diff(i64::try_from(before).unwrap()) < 120, "{line}");
    let status = world.agent.mode(Mode::Paid).await;
    let at = status.0["at"].as_str().unwrap();
    assert!(at.ends_with('Z') && at.parse::<jiff::Timestamp>().unwrap().as_second().abs_diff(logged.as_second()) < 120, "{at}");
}
