//! Scenarios 46 to 52 and 57: outages of network and cloud, refused grants, brokers without retained messages.

use std::time::{Duration, Instant};

use care_protocol::{Cause, Mode, Outcome, Report};
use care_tests::{
    cloud::{Document as Body, GrantAnswer},
    issuer::Document,
    proxy::{Fault, Proxy},
    unix_now,
    wait::{PATIENCE, RECONNECT, holds, until},
    world::{DEVICE, World},
};

/// The first report from index `mark` on that does not give this document as paid.
fn not_paid(world: &World, mark: usize, document: &Document) -> Option<String> {
    let paid = |report: &Report| document.in_force(report) && report.mode == Mode::Paid;
    world.issuer.reports(mark).into_iter().find(|report| !paid(report)).map(|report| format!("{report:?}"))
}

#[tokio::test]
async fn s46_a_camera_offline_at_the_cancel_is_held_on_reconnect_and_free_before_any_paid_upload() {
    let mut world = World::with_camera().await;
    world.start_premium().await;
    world.cloud.lock().entitlement = Body::Silence;
    world.proxy.cut().await;
    world.agent.mode(Mode::Held).await;
    let (held_at, mark, asked) = (unix_now(), world.issuer.mark(), world.cloud.grants_asked());
    let mut motion = world.agent.motion().await;
    motion.report_motion().await;
    world.agent.status("a clip that could leave", |status| status.whole_clips() > 0).await;

    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.issuer.heard().answer = Some(cancel.token.clone());
    world.issuer.publish_entitlement(&cancel.token).await;
    world.proxy.restore();
    world.issuer.report_within(mark, RECONNECT, "the cancel applied", |report| cancel.judged(report, Outcome::Applied)).await;
    world.issuer.in_force(&cancel, Mode::Free).await;
    // Reports from before the outage may arrive again; their time tells them apart.
    let since = |report: &Report| report.at.as_second() >= i64::try_from(held_at).unwrap();
    assert!(
        world.issuer.reports(mark).iter().all(|report| report.mode != Mode::Paid || !since(report)),
        "{:?}",
        world.issuer.reports(mark)
    );
    let paid: Vec<_> = world.cloud.lock().asked[asked..].iter().filter(|(_, asked)| asked.seq < cancel.position.seq).cloned().collect();
    assert!(paid.is_empty(), "{paid:?}");
}

#[tokio::test]
async fn s47_with_mqtt_down_a_get_every_60_s_keeps_paid_open_and_finds_the_cancel() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.agent.mode(Mode::Paid).await;
    let gets = world.cloud.entitlement_gets();
    let down = Instant::now();
    world.proxy.cut().await;
    until("a GET at once", Duration::from_secs(5), || (world.cloud.entitlement_gets() > gets).then_some(())).await;
    let answered = Instant::now();
    // Longer than the 10 s after which an unanswered GET would hold paid media.
    while answered.elapsed() < Duration::from_secs(13) {
        let status = world.agent.status("its mode", |_| true).await;
        assert_eq!(status.mode(), "paid", "{:?} after the answer", answered.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.cloud.lock().entitlement = Body::Token(cancel.token.clone());
    // Paid media stays open until the GET that brings the cancel.
    let status = loop {
        let status = world.agent.status("its mode", |_| true).await;
        if status.mode() == "free" {
            break status;
        }
        assert_eq!(status.mode(), "paid", "{:?} after the answer", answered.elapsed());
        assert!(down.elapsed() < Duration::from_secs(75), "the cancel was not found after {:?}", down.elapsed());
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(status.seq(), cancel.position.seq);
    assert_ne!(premium.position, cancel.position);
}

#[tokio::test]
async fn s48_with_uploads_down_the_camera_still_switches_and_reports() {
    let mut world = World::with_camera().await;
    world.cloud.lock().grants = GrantAnswer::Status(503);
    world.start_premium().await;
    world.move_until("a grant request", |seen| (!seen.asked.is_empty()).then_some(())).await;
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    assert!(world.issuer.judged(&cancel, Outcome::Applied).await.erased.clips >= 1, "the waiting clip is erased");
    let again = world.premium();
    world.switch(again, Mode::Paid).await;
    let plus = world.plus();
    world.switch(plus, Mode::Paid).await;
}

#[tokio::test]
async fn s49_a_refused_grant_pauses_paid_media_and_asks_but_changes_no_entitlement() {
    for refusal in [402, 403] {
        let mut world = World::with_camera().await;
        let premium = world.start_premium().await;
        world.issuer.heard().answer = None;
        world.cloud.lock().entitlement = Body::Silence;
        world.cloud.lock().grants = GrantAnswer::Status(refusal);
        let (mark, gets) = (world.issuer.mark(), world.issuer.gets());
        world.move_until("a grant request", |seen| (!seen.asked.is_empty()).then_some(())).await;
        let report = world.issuer.report_since(mark, "the refusal", |report| report.cause == Cause::Refused).await;
        assert!(premium.in_force(&report) && report.mode == Mode::Held && report.outcome == Outcome::Applied, "{report:?}");
        assert_eq!((report.plan.unwrap().as_str(), report.erased.clips, report.judged), ("premium", 0, None));
        world.issuer.get_since(gets).await;
        let asked = world.cloud.grants_asked();
        world.agent.motion().await.report_motion().await;
        holds("paid media pauses", Duration::from_secs(4), || {
            (world.cloud.grants_asked() > asked).then(|| format!("{:?}", world.cloud.lock().asked.last()))
        })
        .await;
    }
}

#[tokio::test]
async fn s49_a_refused_put_gets_a_fresh_grant() {
    let mut world = World::with_camera().await;
    world.cloud.lock().next_puts.push_back(403);
    let premium = world.start_premium().await;
    let mark = world.issuer.mark();
    world.move_until("a second PUT of the clip", |seen| seen.puts.get(1).and_then(|put| put.complete)).await;
    let seen = world.cloud.lock();
    assert_eq!(seen.puts[0].clip, seen.puts[1].clip);
    assert_ne!(seen.puts[0].path, seen.puts[1].path, "the second URL is a fresh one");
    assert_eq!(seen.asked.iter().filter(|(_, asked)| asked.clip == seen.puts[0].clip).count(), 2);
    drop(seen);
    assert_eq!(not_paid(&world, mark, &premium), None);
}

#[tokio::test]
async fn s50_a_grant_refused_despite_confirmation_is_retried_from_5_s_doubling_and_reported() {
    let mut world = World::with_camera().await;
    world.cloud.lock().grants = GrantAnswer::Status(402);
    let premium = world.start_premium().await;
    let mark = world.issuer.mark();
    world.move_until("a grant request", |seen| seen.asked.first().cloned()).await;
    world.issuer.report_since(mark, "the refusal", |report| report.cause == Cause::Refused && report.mode == Mode::Held).await;
    let times = world
        .cloud
        .wait_for("two retries", Duration::from_secs(30), |seen| {
            (seen.asked.len() >= 3).then(|| seen.asked.iter().map(|(at, _)| *at).collect::<Vec<_>>())
        })
        .await;
    let (first, second) = (times[1] - times[0], times[2] - times[1]);
    assert!((Duration::from_millis(4500)..Duration::from_secs(8)).contains(&first), "{first:?}");
    assert!((Duration::from_millis(9000)..Duration::from_secs(14)).contains(&second), "{second:?}");
    let held = world.issuer.reports(mark).into_iter().filter(|report| report.cause == Cause::Refused).collect::<Vec<_>>();
    assert!(held.iter().all(|report| premium.in_force(report)));

    world.cloud.lock().grants = GrantAnswer::Here;
    let mark = world.issuer.mark();
    world
        .cloud
        .wait_for("the clip after all", Duration::from_secs(25), |seen| seen.puts.iter().find(|p| p.complete == Some(true)).cloned())
        .await;
    world.issuer.report_since(mark, "paid again", |report| report.mode == Mode::Paid).await;
}

#[tokio::test]
async fn s51_other_failures_back_off_and_change_nothing_about_the_plan() {
    for (grants, puts) in [(vec![401, 429, 500], vec![]), (vec![503], vec![413, 500])] {
        let mut world = World::with_camera().await;
        {
            let mut cloud = world.cloud.lock();
            cloud.next_grants.extend(grants.iter().copied().map(GrantAnswer::Status));
            cloud.next_puts.extend(puts.iter().copied());
        }
        let premium = world.start_premium().await;
        let mark = world.issuer.mark();
        let clip = world.move_until("a grant request", |seen| seen.asked.first().map(|(_, asked)| asked.clip.clone())).await;
        let scripted = grants.len() + puts.len();
        world
            .cloud
            .wait_for("the clip stored at last", Duration::from_secs(60), |seen| {
                let failed = seen.next_grants.is_empty() && seen.next_puts.is_empty() && seen.asked.len() > scripted;
                (failed && seen.puts.iter().any(|put| put.clip == clip && put.complete == Some(true))).then_some(())
            })
            .await;
        assert_eq!(not_paid(&world, mark, &premium), None);
    }
}

#[tokio::test]
async fn s51_a_grant_that_is_never_answered_times_out_and_changes_nothing() {
    let mut world = World::with_camera().await;
    world.cloud.lock().next_grants.push_back(GrantAnswer::Silence);
    let premium = world.start_premium().await;
    let mark = world.issuer.mark();
    let clip = world.move_until("a grant request", |seen| seen.asked.first().map(|(_, asked)| asked.clip.clone())).await;
    world
        .cloud
        .wait_for("the clip stored at last", Duration::from_secs(90), |seen| {
            seen.puts.iter().any(|put| put.clip == clip && put.complete == Some(true)).then_some(())
        })
        .await;
    assert_eq!(not_paid(&world, mark, &premium), None);
}

#[tokio::test]
async fn s52_a_broker_restart_applies_nothing_twice_and_after_data_loss_the_camera_sends_get() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let writes = world.settled_writes().await;
    let (mark, connects) = (world.issuer.mark(), world.broker.connects_of(DEVICE));
    world.broker.restart().await;
    until("the camera to reconnect", RECONNECT, || (world.broker.connects_of(DEVICE) > connects).then_some(())).await;
    world.issuer.report_since(mark, "the duplicate", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert_eq!(world.settled_writes().await, writes);
    assert_eq!(world.agent.mode(Mode::Paid).await.seq(), premium.position.seq);
    let applied = |report: &Report| report.outcome == Outcome::Applied && report.judged.is_some() && report.at.as_second() > 0;
    let first = world.issuer.reports(0).into_iter().find(|report| applied(report)).unwrap();
    assert!(world.issuer.reports(mark).iter().all(|report| !applied(report) || report.at == first.at), "applied twice");
    let log = world.broker.log().clone();
    assert!(log.find(0, |line| line.contains(&format!(" as {DEVICE} (p2, c0, k30"))).is_some(), "a persistent session, keep-alive 30 s");

    // The broker loses its data: the camera subscribes again, sends `get`, and the answer brings what it missed.
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.issuer.heard().answer = Some(cancel.token.clone());
    world.cloud.lock().entitlement = Body::Token(cancel.token.clone());
    let seen = log.len();
    world.broker.restart_empty().await;
    let said = |what: &str| log.find(seen, |line| line.contains(what));
    until("the camera to subscribe", RECONNECT, || said(&format!("Received SUBSCRIBE from {DEVICE}"))).await;
    until("its get", PATIENCE, || log.find(seen, |l| l.contains(&format!("PUBLISH from {DEVICE}")) && l.contains("/get'"))).await;
    world.issuer.in_force(&cancel, Mode::Free).await;
}

#[tokio::test]
async fn s57_a_broker_that_grants_qos_1_and_retains_nothing_works_through_get() {
    let mut world = World::with_broker("max_qos 1").await;
    world.issuer.publish_keyset("").await;
    let premium = world.premium();
    let premium = world.sign(&premium);
    world.issuer.heard().answer = Some(premium.token.clone());
    let started = Instant::now();
    world.agent.start();
    world.issuer.in_force(&premium, Mode::Paid).await;
    let get = world.issuer.get_since(0).await;
    assert_eq!((get.epoch, get.seq), (0, 0), "the first get of a camera without state");

    // A live publish that is not retained works too.
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.issuer.heard().answer = Some(cancel.token.clone());
    world.issuer.publish(&world.issuer.topics().entitlement(), false, cancel.token.clone()).await;
    world.issuer.in_force(&cancel, Mode::Free).await;
    let log = world.broker.log().clone();
    let connect = log.find(0, |line| line.contains(&format!(" as {DEVICE} ("))).unwrap();
    assert!(connect.contains("(p2,"), "MQTT 3.1.1, not 5: {connect}");
    assert!(started.elapsed() < PATIENCE);
}

#[tokio::test]
async fn s57_get_is_sent_after_every_suback_with_a_fresh_nonce() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.issuer.get_since(0).await;
    let gets = world.issuer.gets();
    world.proxy.cut().await;
    world.proxy.restore();
    world.issuer.get_since(gets).await;
    holds("nonces are fresh", Duration::from_millis(100), || {
        let heard = world.issuer.heard();
        let nonces: std::collections::BTreeSet<_> = heard.gets.iter().map(|(_, get)| &get.nonce).collect();
        (nonces.len() != heard.gets.len()).then(|| format!("{:?}", heard.gets))
    })
    .await;
}

/// With MQTT up, nothing polls the API; the agent must still notice that it works again.
#[tokio::test]
async fn api_unreachable_ends_once_the_api_answers_again() {
    let mut world = World::new().await;
    let api = Proxy::to(world.cloud.addr).await;
    world.agent.config.cloud = format!("https://{}", api.addr);
    world.start_premium().await;
    until("a request to the API", PATIENCE, || (world.cloud.entitlement_gets() > 0).then_some(())).await;
    world.agent.status("an API that is well", |status| status.condition("api_unreachable").is_none()).await;
    api.control.inject(Fault::Refused);
    // A connection that the system has taken, and the proxy has not, would be reset instead.
    until("nothing listening", PATIENCE, || std::net::TcpStream::connect(api.addr).is_err().then_some(())).await;
    // A lost connection triggers a poll at once.
    world.proxy.cut().await;
    let status = world.agent.status("the API being away", |status| status.condition("api_unreachable").is_some()).await;
    let sentence = status.sentence("api_unreachable");
    assert!(sentence.contains(&format!("connecting to {}: connection refused", api.addr)), "{sentence}");
    world.proxy.restore();
    world.agent.status_within("a confirmed connection", RECONNECT, |status| status.0["link"]["confirmed"] == true).await;
    api.control.lift();
    world.agent.status_within("the API being back", RECONNECT, |status| status.condition("api_unreachable").is_none()).await;
    assert!(world.agent.log().count("condition=\"api_unreachable\"") <= 2, "{:?}", world.agent.log().all());
}
