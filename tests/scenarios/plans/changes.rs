//! Scenarios 1 to 18: plan changes of one camera. `account` has those that concern several cameras.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use care_protocol::{Cause, Channel, Cut, Mode, Order, Outcome, Policy, Position, Reason, Refund, RefundKind};
use care_tests::{
    build::Build,
    cloud::Sink,
    in_each_build,
    issuer::{FREE, PREMIUM},
    old_kernel::OldKernel,
    strace::Strace,
    unix_now,
    wait::{PATIENCE, holds, until},
    world::World,
};

in_each_build!(s01_plus_to_free_on_the_portal_is_free_at_once);

async fn s01_plus_to_free_on_the_portal_is_free_at_once(build: Build) {
    let mut world = World::with_camera_of(build).await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let plus = world.plus();
    world.start_with(plus, Mode::Paid).await;
    let put = world.upload_in_flight(16_000).await;

    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    assert_eq!((report.reason.as_str(), report.cause, report.mode), ("cancelled", Cause::Document, Mode::Free));
    assert_eq!((report.plan.as_ref().unwrap().as_str(), report.persisted, report.keyset), ("free", true, 7));
    assert!(cancel.in_force(&report));
    assert_eq!(report.cut.transfers, 1);
    assert!(report.erased.clips >= 1 && report.erased.bytes > put.body.len() as u64, "{:?}", report.erased);

    world.cloud.lock().sink = Sink::Swallow;
    let cut = world.cloud.wait("the end of the upload", |seen| seen.puts[0].complete).await;
    assert!(!cut, "the store has the whole clip");
    holds("no grant under Free", Duration::from_secs(1), || {
        world.cloud.lock().asked.iter().find(|(_, asked)| asked.seq >= cancel.position.seq).map(|(_, asked)| format!("{asked:?}"))
    })
    .await;
}

/// A camera's kernel neither paces a socket nor counts what it sends, and its timers are late.
#[tokio::test]
async fn s01_on_a_kernel_that_counts_nothing_the_report_says_so() {
    let mut world = World::with_camera().await;
    world.agent.kernel = Some(OldKernel::CAMERA);
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let plus = world.plus();
    world.start_with(plus, Mode::Paid).await;
    world.upload_in_flight(16_000).await;
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    assert_eq!((report.mode, report.cut.transfers, report.cut.bytes_after), (Mode::Free, 1, 0));
    assert!(report.detail.as_ref().is_some_and(|detail| detail.contains("bytes_after was not counted")), "{report:?}");
    world.cloud.lock().sink = Sink::Swallow;
    let cut = world.cloud.wait("the end of the upload", |seen| seen.puts[0].complete).await;
    assert!(!cut, "the store has the whole clip");
    let lacking = world.agent.condition("pacing").await;
    for part in ["SO_MAX_PACING_RATE", "the agent's own timer spaces uploads", "TCP_INFO", "bytes_after is not counted"] {
        assert!(lacking.contains(part), "{lacking}");
    }
}

in_each_build!(s03_premium_to_plus_cuts_transfers_and_requeues_allowed_clips);

async fn s03_premium_to_plus_cuts_transfers_and_requeues_allowed_clips(build: Build) {
    let mut world = World::with_camera_of(build).await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    world.start_premium().await;
    let put = world.upload_in_flight(16_000).await;

    let plus = world.plus().because(Reason::Downgraded);
    let plus = world.issue(plus).await;
    let report = world.issuer.judged(&plus, Outcome::Applied).await;
    assert_eq!((report.reason.as_str(), report.mode, report.cut.transfers, report.erased.clips), ("downgraded", Mode::Paid, 1, 0));

    world.cloud.lock().sink = Sink::Swallow;
    let again = world
        .cloud
        .wait("the same clip, whole", |seen| seen.puts.iter().find(|p| p.clip == put.clip && p.complete == Some(true)).cloned())
        .await;
    assert_ne!(again.path, put.path, "the cut upload is not the one that completed");
    let seen = world.cloud.lock();
    assert_eq!(seen.puts[0].complete, Some(false));
    let (_, asked) = seen.asked.iter().rev().find(|(_, asked)| asked.clip == put.clip).unwrap();
    assert_eq!(Position { epoch: asked.epoch, seq: asked.seq }, plus.position, "requested under the new document");
}

#[tokio::test]
async fn s05_the_gate_opens_for_paid_clips_only_after_the_document_is_on_disk() {
    let mut world = World::with_camera().await;
    let free = world.free().limited(Policy { clips: false, ..FREE });
    world.start_with(free, Mode::Free).await;
    world.agent.stop().await;
    // Slow flash: a clip of one second could request a grant long before the document's sync returns.
    let strace = Arc::new(Strace::on(&world.agent.config.state_dir, Some("fdatasync:delay_enter=4000000")));
    world.agent.under = strace.command();
    world.agent.start();
    world.agent.mode(Mode::Free).await;

    let premium = world.premium().limited(Policy { clip_max_s: 1, ..PREMIUM });
    let premium = world.sign(&premium);
    // Syncs that had returned when the document appeared in the file: the next one to return is the document's.
    let written = Arc::new(OnceLock::new());
    let (found, flash) = (Arc::new(Mutex::new(Vec::new())), strace.clone());
    let (finds, when_written) = (found.clone(), written.clone());
    world.cloud.lock().on_grant = Some(Box::new(move |asked| {
        let on_flash = when_written.get().is_some_and(|before| flash.returned("fdatasync") > *before);
        finds.lock().unwrap().push((asked.seq, on_flash));
    }));
    world.hand_out(&premium).await;
    until("the document in the file", PATIENCE, || world.agent.has_on_flash(&premium.token).then_some(())).await;
    written.set(strace.returned("fdatasync")).unwrap();
    world.move_until("a paid clip", |seen| seen.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    let found = found.lock().unwrap();
    assert!(found.iter().all(|found| *found == (premium.position.seq, true)), "(seq asked under, document on flash): {found:?}");
}

#[tokio::test]
async fn s06_plus_to_premium_disturbs_no_transfer() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let plus = world.plus();
    world.start_with(plus, Mode::Paid).await;
    let put = world.upload_in_flight(16_000).await;

    let premium = world.premium().because(Reason::Upgraded);
    let premium = world.switch(premium, Mode::Paid).await;
    let report = world.issuer.judged(&premium, Outcome::Applied).await;
    assert_eq!((report.cut, report.erased.clips), (Cut::default(), 0));
    world.cloud.lock().sink = Sink::Swallow;
    let whole = world.cloud.stored(1).await;
    assert_eq!(whole.path, put.path, "the upload in flight is the one that completed");
    assert_eq!(world.cloud.lock().puts.iter().filter(|p| p.clip == put.clip).count(), 1);
}

#[tokio::test]
async fn s07_a_store_cancel_stays_paid_until_its_time_then_free() {
    let mut world = World::new().await;
    world.start_premium().await;
    let effective_at = unix_now() + 4;
    let pending = world.premium().because(Reason::Cancelled).through(Channel::AppStore).then_free(effective_at);
    let pending = world.switch(pending, Mode::Paid).await;

    let report = world.issuer.report("the change on time", |report| report.cause == Cause::Next).await;
    assert_eq!((report.outcome, report.judged, report.mode), (Outcome::Applied, None, Mode::Free));
    assert_eq!(report.plan.as_ref().unwrap().as_str(), "free");
    assert!(pending.in_force(&report), "the document keeps its position and digest");
    assert!(unix_now() >= effective_at && report.at.as_second() >= i64::try_from(effective_at).unwrap(), "not before its time");

    // The same document again is a duplicate and never restores the old policy.
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&pending.token).await;
    let report = world.issuer.report_since(mark, "the duplicate", |report| pending.judged(report, Outcome::Duplicate)).await;
    assert_eq!((report.mode, report.plan.unwrap().as_str()), (Mode::Free, "free"));
}

#[tokio::test]
async fn s08_a_withdrawn_store_cancel_is_cleared_by_a_document_without_next() {
    let mut world = World::new().await;
    let effective_at = unix_now() + 4;
    let pending = world.premium().because(Reason::Cancelled).through(Channel::AppStore).then_free(effective_at);
    world.start_with(pending, Mode::Paid).await;
    let withdrawn = world.premium().because(Reason::Renewed).through(Channel::AppStore);
    let withdrawn = world.switch(withdrawn, Mode::Paid).await;

    let left = Duration::from_secs(effective_at + 2 - unix_now());
    holds("paid past the withdrawn time", left, || {
        world.issuer.heard().reports.iter().find(|(_, r)| r.cause == Cause::Next || r.mode == Mode::Free).map(|(_, r)| format!("{r:?}"))
    })
    .await;
    assert_eq!(world.agent.mode(Mode::Paid).await.seq(), withdrawn.position.seq);
}

#[tokio::test]
async fn s09_an_immediate_cancel_beats_a_pending_one() {
    let mut world = World::new().await;
    let pending = world.premium().because(Reason::Cancelled).through(Channel::AppStore).then_free(unix_now() + 3600);
    world.start_with(pending, Mode::Paid).await;
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    let report = world.issuer.judged(&cancel, Outcome::Applied).await;
    assert_eq!((report.cause, report.plan.unwrap().as_str()), (Cause::Document, "free"));
}

#[tokio::test]
async fn s10_cancel_and_resubscribe_within_seconds_ends_paid_and_erased_clips_stay_erased() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    world.start_premium().await;
    let put = world.upload_in_flight(16_000).await;

    let (cancel, again) = (world.free(), world.premium());
    let cancel = world.issue(cancel).await;
    let again = world.issue(again).await;
    world.issuer.in_force(&again, Mode::Paid).await;
    // Reports may be coalesced, cuts never: the cancel's report or the next one includes the cut.
    let cuts: u32 = world.issuer.reports(0).iter().filter(|report| report.judged >= Some(cancel.position)).map(|r| r.cut.transfers).sum();
    assert_eq!(cuts, 1);
    let asked = world.cloud.grants_asked();
    world.cloud.lock().sink = Sink::Swallow;
    // A new clip is uploaded; the old one is erased.
    world.move_until("a new clip", |seen| seen.puts.iter().find(|p| p.complete == Some(true)).cloned()).await;
    let seen = world.cloud.lock();
    assert!(seen.asked.iter().all(|(_, asked)| asked.seq != cancel.position.seq), "no grant was requested while Free");
    assert!(seen.asked[asked..].iter().all(|(_, asked)| asked.clip != put.clip), "an erased clip is back");
    assert!(seen.puts.iter().all(|p| p.clip != put.clip || p.complete == Some(false)));
}

#[tokio::test]
async fn s11_a_trial_ends_in_free() {
    let mut world = World::new().await;
    let trial = world.premium().because(Reason::TrialStarted);
    world.start_with(trial, Mode::Paid).await;
    let end = world.free().because(Reason::TrialEnded);
    let end = world.switch(end, Mode::Free).await;
    assert_eq!(world.issuer.judged(&end, Outcome::Applied).await.reason, "trial_ended");
}

#[tokio::test]
async fn s12_a_cancelled_trial_does_what_the_document_says() {
    let mut world = World::new().await;
    let trial = world.premium().because(Reason::TrialStarted);
    world.start_with(trial, Mode::Paid).await;
    let effective_at = unix_now() + 3;
    let runs_out = world.premium().because(Reason::Cancelled).then_free(effective_at);
    world.switch(runs_out, Mode::Paid).await;
    let report = world.issuer.report("the end of the trial", |report| report.cause == Cause::Next).await;
    assert_eq!(report.mode, Mode::Free);
    let back = world.premium().because(Reason::TrialStarted);
    world.switch(back, Mode::Paid).await;
    let at_once = world.free().because(Reason::Cancelled);
    world.switch(at_once, Mode::Free).await;
}

#[tokio::test]
async fn s13_a_refund_does_what_the_document_says() {
    let mut world = World::new().await;
    world.start_premium().await;
    let order =
        Order { id: "KC-2026-000123".into(), refund: Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() } };
    let mut goodwill = world.premium().because(Reason::Refunded);
    goodwill.0.order = Some(order.clone());
    world.switch(goodwill, Mode::Paid).await;
    let mut chargeback = world.free().because(Reason::Refunded);
    chargeback.0.order = Some(order);
    let chargeback = world.switch(chargeback, Mode::Free).await;
    assert_eq!(world.issuer.judged(&chargeback, Outcome::Applied).await.reason, "refunded");
}

#[tokio::test]
async fn s14_grace_stays_paid_hold_is_free_and_recovery_restores_paid() {
    let mut world = World::new().await;
    world.start_premium().await;
    let grace = world.premium().because(Reason::PaymentFailed);
    world.switch(grace, Mode::Paid).await;
    let hold = world.free().because(Reason::PaymentFailed);
    world.switch(hold, Mode::Free).await;
    let recovered = world.premium().because(Reason::PaymentRecovered);
    let recovered = world.switch(recovered, Mode::Paid).await;
    assert_eq!(world.issuer.judged(&recovered, Outcome::Applied).await.reason, "payment_recovered");
}

#[tokio::test]
async fn s17_an_unknown_plan_name_with_a_valid_policy_applies_and_is_shown_as_received() {
    let mut world = World::new().await;
    world.start_premium().await;
    let family = world.draft("Família 2030", PREMIUM);
    let family = world.switch(family, Mode::Paid).await;
    assert_eq!(world.issuer.judged(&family, Outcome::Applied).await.plan.unwrap().as_str(), "Família 2030");
    let status = world.agent.status("the plan", |status| status.plan() == "Família 2030").await;
    assert_eq!(status.mode(), "paid");
}

#[tokio::test]
async fn s18_an_unknown_name_in_crit_is_rejected_without_changing_state() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut beyond = world.free();
    beyond.0.crit = vec!["policy".into(), "lens_cover".into()];
    let beyond = world.sign(&beyond);
    world.issuer.publish_entitlement(&beyond.token).await;
    let report = world.issuer.judged(&beyond, Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.mode), ("unsupported", Mode::Paid));
    assert!(premium.in_force(&report));
    until("its PUBACK", PATIENCE, || {
        (world.broker.acknowledged_by(care_tests::world::DEVICE) >= world.broker.sent_to(care_tests::world::DEVICE)).then_some(())
    })
    .await;
}
