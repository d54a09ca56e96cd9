//! Scenarios 67 to 69: the camera changes its owner, or has none.

use std::{collections::BTreeSet, time::Duration};

use care_protocol::{Mode, Order, Outcome, Position, Reason, Refund, RefundKind};
use care_tests::{
    build::Build,
    cloud::{Document as Body, Sink},
    in_each_build,
    issuer::NOTHING,
    media,
    wait::{PATIENCE, holds, until},
    world::World,
};

in_each_build!(s67_a_factory_reset_unbinds_and_keeps_ratchet_keyset_and_time);

async fn s67_a_factory_reset_unbinds_and_keeps_ratchet_keyset_and_time(build: Build) {
    let mut world = World::with_camera_of(build).await;
    let premium = world.start_premium().await;
    world.agent.stop().await;
    let output = world.agent.command(&["factory-reset"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The cloud does not publish the keyset again: the camera must have kept it.
    world.cloud.lock().keyset = Body::Silence;
    world.issuer.publish_keyset("").await;

    let (mark, gets) = (world.issuer.mark(), world.issuer.gets());
    world.agent.start();
    let get = world.issuer.get_since(gets).await;
    assert_eq!((get.epoch, get.seq), (premium.position.epoch, premium.position.seq), "get carries the ratchet");
    let report = world.issuer.report_since(mark, "the equal document", |report| premium.judged(report, Outcome::Rejected)).await;
    assert_eq!((report.mode, report.plan, report.keyset), (Mode::Unbound, None, 7), "an equal document does not bind");
    assert_eq!(report.reason, "factory_reset");
    world.agent.motion().await.report_motion().await;
    let asked = world.cloud.grants_asked();
    holds("nothing is uploaded", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    assert_eq!(world.agent.mode(Mode::Unbound).await.plan(), "");

    world.position = Position { epoch: world.position.epoch + 1, seq: 0 };
    let again = world.premium().because(Reason::Bound);
    world.switch(again, Mode::Paid).await;
}

#[tokio::test]
async fn s68_the_support_archive_has_the_owners_orders_and_none_of_the_previous_owners() {
    let mut world = World::new().await;
    let mut first = world.premium();
    let refund = Refund { kind: RefundKind::Credit, amount_minor: 412, currency: "USD".into() };
    first.0.order = Some(Order { id: "KC-2026-000123".into(), refund });
    world.start_with(first, Mode::Paid).await;
    let plus = world.plus().because(Reason::Downgraded);
    world.switch(plus, Mode::Paid).await;
    world.agent.status("plus", |status| status.plan() == "plus").await;
    let archive = world.agent.dir().join("support.json");
    let made = world.agent.command(&["support", "--output", archive.to_str().unwrap()]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(&archive).unwrap();
    let support: serde_json::Value = serde_json::from_str(&text).unwrap();
    let timeline = support["running"]["timeline"].as_array().unwrap();
    let switches = timeline.iter().map(|entry| &entry["what"]["switch"]).filter(|change| change.is_object());
    let orders: Vec<_> = switches.map(|change| (&change["report"]["reason"], &change["order"])).collect();
    assert!(orders.contains(&(&"subscribed".into(), &"KC-2026-000123".into())), "{timeline:#?}");
    assert_eq!(orders.last().unwrap().0, "downgraded");
    assert_eq!(support["running"]["status"]["plan"], "plus");
    assert_eq!(support["on_flash"]["ratchet"]["seq"], world.position.seq);
    assert!(!text.contains("acct-") && !text.contains("eyJ"), "no account and no token: {text}");

    world.position = Position { epoch: 4, seq: 0 };
    let next = world.premium().of("acct-other").because(Reason::Bound);
    world.switch(next, Mode::Paid).await;
    let support = String::from_utf8(world.agent.command(&["support"]).await.stdout).unwrap();
    assert!(!support.contains("KC-2026-000123") && !support.contains("downgraded"), "{support}");
    assert!(support.contains("\"bound\""), "{support}");

    // A camera whose agent is down has more to report.
    world.agent.stop().await;
    let support: serde_json::Value = serde_json::from_slice(&world.agent.command(&["support"]).await.stdout).unwrap();
    assert!(support["not_running"].as_str().unwrap().contains("no agent answers"), "{support:#}");
    assert_eq!(support["on_flash"]["document"]["epoch"], 4);
}

#[tokio::test]
async fn s68_a_new_account_gets_no_media_of_the_previous_owner() {
    let mut world = World::with_camera().await;
    let sd = world.agent.dir().join("sd");
    std::fs::create_dir(&sd).unwrap();
    world.agent.config.recording = Some(sd.clone());
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    let mut old = world.premium();
    let refund = Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() };
    old.0.order = Some(Order { id: "KC-OF-THE-OLD-OWNER".into(), refund });
    world.start_with(old, Mode::Paid).await;
    world.upload_in_flight(16_000).await;
    // One clip is being uploaded and another waits.
    let mut motion = world.agent.motion().await;
    motion.report_motion().await;
    world.agent.status("a waiting clip", |status| status.clips_held() >= 2).await;
    world.agent.status("the order", |status| status.order() == "KC-OF-THE-OLD-OWNER").await;
    let recordings = || -> BTreeSet<_> { media::recordings(&sd).into_iter().collect() };
    let recorded = until("a recording", PATIENCE, || Some(recordings()).filter(|files| !files.is_empty())).await;

    world.position.epoch += 1;
    world.position.seq = 0;
    let new = world.premium().of("acct-new").because(Reason::Bound);
    let (asked, puts) = (world.cloud.grants_asked(), world.cloud.lock().puts.len());
    world.cloud.lock().sink = Sink::Swallow;
    let new = world.issue(new).await;
    let report = world.issuer.judged(&new, Outcome::Applied).await;
    assert!(report.erased.clips >= 2 && report.cut.transfers == 1, "{report:?}");
    let of_the_old: BTreeSet<_> = world.cloud.lock().asked[..asked].iter().map(|(_, request)| request.clip.clone()).collect();
    let status = world.agent.status("the new document", |status| status.seq() == new.position.seq).await;
    assert!(!status.text_of_all().contains("KC-OF-THE-OLD-OWNER"), "{status:#?}");

    // The new account's first clip begins after the change of owner, including its pre-roll.
    world.move_until("a clip of the new owner", |seen| seen.puts.iter().skip(puts).find(|put| put.complete == Some(true)).cloned()).await;
    let seen = world.cloud.lock();
    for (_, request) in seen.asked.iter().filter(|(_, request)| !of_the_old.contains(&request.clip)) {
        assert_eq!(request.epoch, world.position.epoch);
        assert!(request.started_at >= report.at, "a clip from {} in an account since {}", request.started_at, report.at);
    }
    let late: Vec<_> =
        seen.asked.iter().filter(|(_, request)| of_the_old.contains(&request.clip) && request.epoch == world.position.epoch).collect();
    assert!(late.is_empty(), "the old owner's clips were offered again: {late:?}");
    assert!(seen.puts.iter().skip(puts).all(|put| !of_the_old.contains(&put.clip)), "the old owner's clips were sent");
    assert!(recorded.is_subset(&recordings()), "recordings stay on the card");
}

#[tokio::test]
async fn s69_an_unbound_camera_uploads_nothing_and_keeps_no_clip() {
    let mut world = World::with_camera().await;
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    world.start_premium().await;
    world.upload_in_flight(16_000).await;
    let unbound = world.draft("free", NOTHING).because(Reason::Unbound);
    let unbound = world.issue(unbound).await;
    let report = world.issuer.judged(&unbound, Outcome::Applied).await;
    assert_eq!((report.reason.as_str(), report.mode, report.cut.transfers), ("unbound", Mode::Unbound, 1));
    assert!(report.erased.clips >= 1);
    let asked = world.cloud.grants_asked();
    world.cloud.lock().sink = Sink::Swallow;
    world.agent.motion().await.report_motion().await;
    holds("nothing is uploaded", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    world.agent.mode(Mode::Unbound).await;
    assert_eq!(world.cloud.lock().puts[0].complete, Some(false));
}
