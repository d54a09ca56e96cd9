//! Scenarios 36 to 38 and 40 to 44: power cuts at the wrong moment, and failing flash. Scenario 39 needs a moment
//! that only the simulation can stop at: it is among the engine's tests.

use std::{
    os::unix::{fs::FileExt, process::ExitStatusExt},
    time::Duration,
};

use care_protocol::{Cause, Mode, Outcome};
use care_tests::{
    build::Build,
    cloud::Document as Body,
    in_each_build,
    issuer::Document,
    strace::Strace,
    wait::{PATIENCE, holds, until},
    world::{DEVICE, World},
};

/// A Premium camera, restarted under strace with this fault. Only the next document causes calls that matter: a
/// start syncs the state once and writes nothing.
async fn restarted_premium_under(build: Build, inject: &str) -> (World, Document, Strace) {
    let mut world = World::of(build).await;
    let premium = world.start_premium().await;
    world.everything_acknowledged().await;
    world.agent.stop().await;
    let strace = Strace::on(&world.agent.config.state_dir, Some(inject));
    world.agent.under = strace.command();
    world.agent.start();
    world.agent.mode(Mode::Paid).await;
    world.everything_acknowledged().await;
    (world, premium, strace)
}

async fn killed(world: &mut World) {
    let status = world.agent.ended().await;
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    world.agent.under.clear();
}

fn acknowledged(world: &World, from: usize) -> bool {
    world.broker.has_puback_of(DEVICE, from, |topic| topic.ends_with("/entitlement"))
}

/// Waits for the PUBACK of a document that was delivered after this line of the broker's log.
async fn is_acknowledged(world: &World, from: usize) {
    until("the PUBACK", PATIENCE, || acknowledged(world, from).then_some(())).await;
}

/// Panics if the camera has ever reported paid since it booted. Reports from before the boot arrive first.
async fn never_paid_since_boot(world: &World, mark: usize) {
    let reports = world.issuer.reports(mark);
    let booted = reports.iter().position(|report| report.cause == Cause::Boot && report.mode == Mode::Held);
    let booted = booted.unwrap_or_else(|| panic!("not held at boot: {reports:?}"));
    assert!(reports[booted..].iter().all(|report| report.mode != Mode::Paid), "{reports:?}");
}

in_each_build!(s36_power_lost_before_persisting_is_held_at_boot_and_applied_from_the_broker);

async fn s36_power_lost_before_persisting_is_held_at_boot_and_applied_from_the_broker(build: Build) {
    let (mut world, _, _strace) = restarted_premium_under(build, "pwrite64:signal=KILL:when=1").await;
    let from = world.broker.log().len();
    let cancel = world.cancel_over_mqtt().await;
    killed(&mut world).await;
    assert!(!world.agent.has_on_flash(&cancel.token) && !acknowledged(&world, from));

    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.report_since(mark, "the cancel", |report| cancel.in_force(report) && report.mode == Mode::Free).await;
    never_paid_since_boot(&world, mark).await;
    is_acknowledged(&world, from).await;
    assert!(world.agent.has_on_flash(&cancel.token));
}

/// A camera that was killed when the record of its cancel was on flash and nothing later had happened, because the
/// write had not returned. The cut before it was in memory only.
async fn killed_once_written(build: Build) -> (World, usize, Document) {
    let (mut world, _, _strace) = restarted_premium_under(build, "pwrite64:delay_exit=8000000:when=1").await;
    let from = world.broker.log().len();
    let cancel = world.cancel_over_mqtt().await;
    until("the record on flash", PATIENCE, || world.agent.has_on_flash(&cancel.token).then_some(())).await;
    world.agent.kill().await;
    world.agent.under.clear();
    (world, from, cancel)
}

in_each_build!(s37_power_lost_after_persisting_is_applied_at_boot_from_the_record);

async fn s37_power_lost_after_persisting_is_applied_at_boot_from_the_record(build: Build) {
    let (mut world, from, cancel) = killed_once_written(build).await;
    assert!(!acknowledged(&world, from));

    // The cloud is silent: the camera knows from its own state.
    world.proxy.cut().await;
    world.agent.start();
    let status = world.agent.mode(Mode::Free).await;
    assert_eq!(status.seq(), cancel.position.seq);
}

in_each_build!(s38_power_lost_after_applying_before_the_puback_makes_the_redelivery_a_duplicate);

async fn s38_power_lost_after_applying_before_the_puback_makes_the_redelivery_a_duplicate(build: Build) {
    let (mut world, from, cancel) = killed_once_written(build).await;
    let mark = world.issuer.mark();
    world.agent.start();
    let report = world.issuer.report_since(mark, "the duplicate", |report| cancel.judged(report, Outcome::Duplicate)).await;
    assert_eq!(report.mode, Mode::Free);
    is_acknowledged(&world, from).await;
}

/// The slot that was written last; the store's layout defines where its sequence number is.
fn newest_slot(world: &World) -> (std::fs::File, u64) {
    let file = std::fs::File::options().read(true).write(true).open(world.agent.state_file()).unwrap();
    let half = file.metadata().unwrap().len() / 2;
    let sequence = |slot: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, slot + 16).unwrap();
        u64::from_le_bytes(bytes)
    };
    let newest = if sequence(half) > sequence(0) { half } else { 0 };
    (file, newest)
}

in_each_build!(s40_with_one_torn_slot_the_intact_one_is_used);

async fn s40_with_one_torn_slot_the_intact_one_is_used(build: Build) {
    let mut world = World::of(build).await;
    let premium = world.start_premium().await;
    let free = world.free();
    let free = world.switch(free, Mode::Free).await;
    world.everything_acknowledged().await;
    world.agent.kill().await;
    let (file, newest) = newest_slot(&world);
    file.write_all_at(&[0xff; 100], newest + 40).unwrap();

    world.cloud.lock().entitlement = Body::Silence;
    let (mark, gets, line) = (world.issuer.mark(), world.issuer.gets(), world.agent.log().len());
    world.agent.start();
    world.agent.logged(line, "the torn slot", |line| line.contains("one state slot is torn")).await;
    let get = world.issuer.get_since(gets).await;
    // The record before it, of either document. A lost state would have seq 0.
    assert!([premium.position.seq, free.position.seq].contains(&get.seq), "{get:?}");
    // Unconfirmed paid media stays held, so an older record does no harm.
    world.issuer.report_since(mark, "the cancel again", |report| free.in_force(report) && report.mode == Mode::Free).await;
    world.issuer.report_since(mark, "the boot", |report| report.cause == Cause::Boot).await;
    let reports = world.issuer.reports(mark);
    let since_boot = reports.iter().skip_while(|report| report.cause != Cause::Boot);
    assert!(since_boot.into_iter().all(|report| report.mode != Mode::Paid), "{reports:?}");
}

#[tokio::test]
async fn s41_two_unreadable_slots_close_the_gate_and_only_https_restores_keyset_and_document() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.agent.stop().await;
    let size = usize::try_from(std::fs::metadata(world.agent.state_file()).unwrap().len()).unwrap();
    std::fs::write(world.agent.state_file(), vec![0x5a; size]).unwrap();

    let (mark, calls) = (world.issuer.mark(), world.cloud.lock().calls.len());
    world.agent.start();
    let lost = world.issuer.report_since(mark, "the loss", |report| report.cause == Cause::StateLost).await;
    assert_eq!((lost.mode, lost.plan, lost.seq), (Mode::Unbound, None, 0));
    let report = world.issuer.report_since(mark, "the document", |report| premium.in_force(report) && report.mode == Mode::Paid).await;
    assert!(report.persisted && report.keyset == 7);
    let asked: Vec<String> = world.cloud.lock().calls[calls..].iter().map(|call| call.path.clone()).collect();
    let place = |end: &str| asked.iter().position(|path| path.ends_with(end)).unwrap_or_else(|| panic!("no {end} in {asked:?}"));
    assert!(place("/keyset") < place("/entitlement"), "keyset first: {asked:?}");
    assert!(world.agent.has_on_flash(&premium.token));
}

/// Flash that accepts no writes: a downgrade holds in memory, an upgrade is refused, neither is acknowledged, both
/// are reported.
async fn flash_that_takes_nothing(world: &mut World) {
    let from = world.broker.log().len();
    let free = world.free();
    let free = world.issue(free).await;
    world.issuer.report("the downgrade in memory", |report| free.in_force(report) && report.mode == Mode::Free && !report.persisted).await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    let refused = world.issuer.judged(&premium, Outcome::Rejected).await;
    assert_eq!((refused.reason.as_str(), refused.mode), ("not_persisted", Mode::Free));
    let status = world
        .agent
        .status("that nothing is written", |status| status.0["persisted"] == false && status.0["store"]["fault"].is_string())
        .await;
    assert_eq!((status.mode(), status.seq()), ("free", free.position.seq));
    holds("no PUBACK", Duration::from_secs(2), || acknowledged(world, from).then_some("it was acknowledged")).await;
    assert!(!world.agent.has_on_flash(&free.token) && !world.agent.has_on_flash(&premium.token));

    world.agent.kill().await;
    world.agent.under.clear();
    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.report_since(mark, "the newest", |report| premium.in_force(report) && report.mode == Mode::Paid).await;
    is_acknowledged(world, from).await;
    assert!(world.agent.has_on_flash(&premium.token));
}

#[tokio::test]
async fn s42_on_full_flash_a_downgrade_holds_in_memory_and_an_upgrade_is_refused() {
    let (mut world, _, _strace) = restarted_premium_under(Build::WithGstreamer, "pwrite64:error=ENOSPC:when=1+").await;
    flash_that_takes_nothing(&mut world).await;
}

#[tokio::test]
async fn s43_after_a_failed_fsync_nothing_is_acknowledged_until_a_fresh_descriptor_has_written() {
    // strace counts per thread: the store's first two syncs belong to the renewal and its delivered report.
    let (mut world, _, strace) = restarted_premium_under(Build::WithGstreamer, "fdatasync:error=EIO:when=3").await;
    let renewed = world.premium();
    world.switch(renewed, Mode::Paid).await;
    world.settled_writes().await;
    let from = world.broker.log().len();
    let plus = world.plus();
    let plus = world.issue(plus).await;
    world.issuer.report("the failure", |report| plus.in_force(report) && !report.persisted).await;
    world.issuer.report("the success", |report| plus.in_force(report) && report.persisted).await;
    is_acknowledged(&world, from).await;
    let calls = strace.calls();
    let failed = calls.iter().position(|call| call.starts_with("fdatasync(") && call.contains("EIO")).expect("the failed sync");
    let after: Vec<&str> = calls[failed + 1..].iter().map(|call| call.split('(').next().unwrap_or_default()).collect();
    let opened = after.iter().position(|call| *call == "openat").expect("a fresh descriptor");
    assert!(after[..opened].iter().all(|call| *call == "close"), "{:?}", &calls[failed..]);
    assert!(
        after[opened..].starts_with(&["openat", "pwrite64"]) || after[opened..].starts_with(&["openat", "fsync", "pwrite64"]),
        "{calls:?}"
    );
}

#[tokio::test]
async fn s44_a_state_in_a_read_only_directory_is_applied() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.everything_acknowledged().await;
    world.agent.stop().await;
    let read_only = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && exec \"$@\"";
    let state_dir = world.agent.config.state_dir.display().to_string();
    world.agent.under = ["unshare", "-m", "sh", "-c", read_only, &state_dir].map(str::to_owned).to_vec();
    world.agent.start();
    let status = world.agent.mode(Mode::Paid).await;
    assert_eq!(status.seq(), world.position.seq);
    flash_that_takes_nothing(&mut world).await;
}
