//! The broker matrix: fifteen scenarios on five brokers. [`CANNOT`] lists what a broker cannot do, with the reason.
//! The matrix tries those too, so that the list stays true.
//!
//! The tests read no broker's log: they judge by what the camera reports and uploads.

use std::{future::Future, pin::Pin};

use care_protocol::{Mode, Outcome};
use care_tests::{
    broker::Kind,
    cloud::Document as Body,
    issuer::Document,
    pki::{KID, signer},
    wait::{RECONNECT, until},
    world::World,
};

type Scenario = for<'w> fn(&'w mut World) -> Pin<Box<dyn Future<Output = ()> + 'w>>;

/// A case's name and its function.
macro_rules! scenarios {
    ($($name:ident)*) => { &[$((stringify!($name), |world| Box::pin($name(world)))),*] };
}

const SCENARIOS: &[(&str, Scenario)] = scenarios!(
    s01_a_cancel_is_applied_at_once
    s05_an_upgrade_opens
    s10_a_cancel_and_a_new_subscription_end_paid
    s19_a_duplicate_changes_nothing
    s21_a_replay_after_boot_is_stale
    s22_another_document_at_the_same_position_is_a_conflict
    s25_an_empty_retained_payload_triggers_get
    s26_the_last_of_a_burst_applies
    s36_a_cancel_while_the_camera_is_off_is_applied_at_boot
    s46_a_cancel_while_the_wire_is_down_is_applied_on_reconnect
    s52_the_camera_reconnects_to_a_restarted_broker
    s57_without_retained_messages_get_works
    s58_a_forged_document_is_rejected
    s61_200_kib_are_rejected_and_the_connection_stays
    the_last_will_says_offline
);

/// What a broker does not support, and why.
const CANNOT: &[(Kind, &str, &str)] = &[];

/// Starts the camera if needed and waits until it is connected and `paid`.
async fn paid(world: &mut World) -> Document {
    if world.agent.try_status().await.is_none() {
        return world.start_premium().await;
    }
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await
}

async fn s01_a_cancel_is_applied_at_once(world: &mut World) {
    paid(world).await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
}

async fn s05_an_upgrade_opens(world: &mut World) {
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    let premium = world.premium();
    let premium = world.switch(premium, Mode::Paid).await;
    assert!(world.issuer.in_force(&premium, Mode::Paid).await.persisted);
}

async fn s10_a_cancel_and_a_new_subscription_end_paid(world: &mut World) {
    paid(world).await;
    let (cancel, again) = (world.free(), world.premium());
    world.issue(cancel).await;
    let again = world.issue(again).await;
    world.issuer.in_force(&again, Mode::Paid).await;
}

async fn s19_a_duplicate_changes_nothing(world: &mut World) {
    let premium = paid(world).await;
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&premium.token).await;
    let report = world.issuer.report_since(mark, "the duplicate", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Paid);
}

async fn s21_a_replay_after_boot_is_stale(world: &mut World) {
    let recorded = paid(world).await;
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    world.agent.kill().await;
    world.hand_out(&recorded).await;
    let mark = world.issuer.mark();
    world.agent.start();
    let stale = world.issuer.report_within(mark, RECONNECT, "the replay", |report| recorded.judged(report, Outcome::Stale)).await;
    assert!(cancel.in_force(&stale) && stale.mode == Mode::Free, "{stale:?}");
}

async fn s22_another_document_at_the_same_position_is_a_conflict(world: &mut World) {
    let premium = paid(world).await;
    let mut other = world.free();
    other.0.seq = premium.position.seq.try_into().unwrap();
    let other = world.sign(&other);
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&other.token).await;
    let report = world.issuer.report_since(mark, "the conflict", |report| other.judged(report, Outcome::Conflict)).await;
    assert!(premium.in_force(&report) && report.mode == Mode::Paid);
}

async fn s25_an_empty_retained_payload_triggers_get(world: &mut World) {
    let premium = paid(world).await;
    let (gets, mark) = (world.issuer.gets(), world.issuer.mark());
    world.issuer.publish_entitlement("").await;
    world.issuer.get_since(gets).await;
    world.issuer.report_since(mark, "the answer", |report| premium.judged(report, Outcome::Duplicate)).await;
    assert_eq!(world.agent.mode(Mode::Paid).await.seq(), premium.position.seq);
}

async fn s26_the_last_of_a_burst_applies(world: &mut World) {
    paid(world).await;
    let topic = world.issuer.topics().entitlement();
    for _ in 0..299 {
        let draft = world.premium();
        let document = world.sign(&draft);
        world.issuer.post(&topic, true, document.token);
    }
    let last = world.free();
    let last = world.sign(&last);
    world.cloud.lock().entitlement = Body::Token(last.token.clone());
    world.issuer.heard().answer = Some(last.token.clone());
    world.issuer.publish_entitlement(&last.token).await;
    world.agent.status_within("the last one", RECONNECT, |status| status.seq() == last.position.seq && status.mode() == "free").await;
    world.issuer.in_force(&last, Mode::Free).await;
}

async fn s36_a_cancel_while_the_camera_is_off_is_applied_at_boot(world: &mut World) {
    paid(world).await;
    world.agent.kill().await;
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    // HTTPS is down: MQTT alone must deliver it.
    world.cloud.lock().entitlement = Body::Silence;
    world.issuer.heard().answer = Some(cancel.token.clone());
    world.issuer.publish_entitlement(&cancel.token).await;
    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.report_within(mark, RECONNECT, "the cancel", |report| cancel.judged(report, Outcome::Applied)).await;
    world.issuer.in_force(&cancel, Mode::Free).await;
}

async fn s46_a_cancel_while_the_wire_is_down_is_applied_on_reconnect(world: &mut World) {
    paid(world).await;
    world.cloud.lock().entitlement = Body::Silence;
    world.proxy.cut().await;
    world.agent.mode(Mode::Held).await;
    let cancel = world.free();
    let cancel = world.sign(&cancel);
    world.issuer.heard().answer = Some(cancel.token.clone());
    world.issuer.publish_entitlement(&cancel.token).await;
    let mark = world.issuer.mark();
    world.proxy.restore();
    world.issuer.report_within(mark, RECONNECT, "the cancel", |report| cancel.judged(report, Outcome::Applied)).await;
    world.issuer.in_force(&cancel, Mode::Free).await;
}

async fn s52_the_camera_reconnects_to_a_restarted_broker(world: &mut World) {
    let premium = paid(world).await;
    let (mark, accepted) = (world.issuer.mark(), world.proxy.accepted());
    world.broker.restart().await;
    until("the camera to reconnect", RECONNECT, || (world.proxy.accepted() > accepted).then_some(())).await;
    if !world.broker.kind().keeps_data() {
        // The cloud publishes again what the broker has lost.
        world.hand_out(&premium).await;
    }
    // The report is for a duplicate: nothing was applied twice.
    let again = |report: &care_protocol::Report| premium.in_force(report) && report.mode == Mode::Paid;
    world.issuer.report_within(mark, RECONNECT, "a report after the restart", again).await;
    let cancel = world.free();
    let cancel = world.issue(cancel).await;
    world.issuer.report_within(mark, RECONNECT, "the cancel", |report| cancel.judged(report, Outcome::Applied)).await;
}

async fn s57_without_retained_messages_get_works(world: &mut World) {
    if world.agent.try_status().await.is_some() {
        world.agent.kill().await;
    }
    // An empty payload deletes the retained message.
    world.issuer.publish_entitlement("").await;
    world.issuer.publish_keyset("").await;
    let premium = world.premium();
    let premium = world.sign(&premium);
    world.issuer.heard().answer = Some(premium.token.clone());
    let mark = world.issuer.mark();
    world.agent.start();
    world.issuer.report_within(mark, RECONNECT, "the answer", |report| premium.judged(report, Outcome::Applied)).await;
    world.issuer.in_force(&premium, Mode::Paid).await;
}

async fn s58_a_forged_document_is_rejected(world: &mut World) {
    let premium = paid(world).await;
    let forged = world.free().signed(&signer(KID));
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&forged.token).await;
    let report = world.issuer.report_since(mark, "the forgery", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!(report.reason, "bad_signature");
    assert!(premium.in_force(&report) && report.mode == Mode::Paid);
}

async fn s61_200_kib_are_rejected_and_the_connection_stays(world: &mut World) {
    let premium = paid(world).await;
    let (mark, accepted) = (world.issuer.mark(), world.proxy.accepted());
    world.issuer.publish(&world.issuer.topics().entitlement(), false, vec![b'x'; 200 * 1024]).await;
    let report = world.issuer.report_since(mark, "200 KiB", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!(report.reason, "too_large");
    assert!(premium.in_force(&report) && report.mode == Mode::Paid);
    assert_eq!(world.proxy.accepted(), accepted, "the connection was lost");
}

async fn the_last_will_says_offline(world: &mut World) {
    paid(world).await;
    world.issuer.status("online").await;
    world.agent.kill().await;
    until("the last will", RECONNECT, || world.issuer.heard().status.last().filter(|status| *status == "offline").map(drop)).await;
}

/// Runs three cases in turn with one camera: what `make test` runs against a broker other than Mosquitto.
async fn run_three(kind: Kind) {
    let mut world = World::with_broker_of(kind).await;
    s57_without_retained_messages_get_works(&mut world).await;
    s01_a_cancel_is_applied_at_once(&mut world).await;
    s36_a_cancel_while_the_camera_is_off_is_applied_at_boot(&mut world).await;
}

#[tokio::test]
async fn three_cases_pass_on_mosquitto() {
    run_three(Kind::Mosquitto).await;
}

#[tokio::test]
async fn three_cases_pass_on_nats() {
    run_three(Kind::Nats).await;
}

#[tokio::test]
async fn three_cases_pass_on_rabbitmq() {
    run_three(Kind::RabbitMq).await;
}

/// Runs all fifteen cases against one broker, each in its own world, and prints the broker's row of the matrix.
/// `CARE_CASE=s61` selects cases.
async fn all_of(kind: Kind) {
    let wanted = std::env::var("CARE_CASE").unwrap_or_default();
    let mut wrong = Vec::new();
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| name.starts_with(&wanted)) {
        let started = std::time::Instant::now();
        // A panic fails one cell, not the row.
        let passed = tokio::task::LocalSet::new()
            .run_until(async {
                let cell = tokio::task::spawn_local(async move { scenario(&mut World::with_broker_of(kind).await).await });
                cell.await.is_ok()
            })
            .await;
        let reason = CANNOT.iter().find(|(of, what, _)| *of == kind && what == name).map(|(.., reason)| *reason);
        let seconds = started.elapsed().as_secs_f64();
        println!("{kind:?} | {name} | {} | {seconds:.1} s", reason.unwrap_or(if passed { "pass" } else { "FAIL" }));
        if passed == reason.is_some() {
            wrong.push(*name);
        }
    }
    assert!(wrong.is_empty(), "{kind:?}: not as the table says: {wrong:?}");
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn matrix_mosquitto() {
    all_of(Kind::Mosquitto).await;
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn matrix_nats() {
    all_of(Kind::Nats).await;
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn matrix_rabbitmq() {
    all_of(Kind::RabbitMq).await;
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn matrix_aedes() {
    all_of(Kind::Aedes).await;
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn matrix_rumqttd() {
    all_of(Kind::Rumqttd).await;
}

#[test]
fn the_matrix_names_only_what_it_runs() {
    assert!(SCENARIOS.len() >= 15);
    for (kind, name, reason) in CANNOT {
        assert!(SCENARIOS.iter().any(|(known, _)| known == name), "{kind:?}: {name} is not a scenario");
        assert!(reason.len() > 20, "{kind:?} {name}: no reason");
    }
}
