//! Scenarios 83 to 86: right and wrong times from the cloud. The machine's clock is right unless a test moves it;
//! the cloud's `Date` and signed times are wrong by days and years.

use std::time::Duration;

use care_protocol::{Cause, Mode, Outcome, Report};
use care_tests::{
    cloud::Clock,
    status::Status,
    unix_now,
    wait::{RECONNECT, until},
    world::World,
};

use super::clock::WallClock;

const DAY_S: u64 = 86_400;
/// A second answer counts after a minute, and polls come once a minute.
const TWO_ANSWERS: Duration = Duration::from_secs(150);

/// Trusted time, Unix seconds.
fn trusted(status: &Status) -> u64 {
    let trusted = status.0["clock"]["trusted"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    u64::try_from(trusted.as_second()).unwrap()
}

fn is_right(status: &Status) -> bool {
    trusted(status).abs_diff(unix_now()) < 600
}

/// Makes the camera poll HTTPS by breaking its connection.
async fn poll_https(world: &World) {
    let (asked, gets) = (world.cloud.entitlement_gets(), world.issuer.gets());
    world.proxy.cut().await;
    until("a GET", Duration::from_secs(20), || (world.cloud.entitlement_gets() > asked).then_some(())).await;
    world.proxy.restore();
    until("a connection again", RECONNECT, || (world.issuer.gets() > gets).then_some(())).await;
}

#[tokio::test]
async fn s83_a_document_issued_in_milliseconds_is_rejected_and_changes_no_time() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut broken = world.free();
    broken.0.iat *= 1000;
    let broken = world.issue(broken).await;
    let report = world.issuer.judged(&broken, Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.mode), ("out_of_range", Mode::Paid));
    assert!(premium.in_force(&report), "{report:?}");
    let status = world.agent.status("the rejection", |status| status.condition("document_rejected").is_some()).await;
    assert!(is_right(&status) && status.sentence("document_rejected").contains("iat is"), "{:#}", status.0);

    // Nothing of it remains after a restart: the next document applies, and the same servers are trusted.
    world.agent.kill().await;
    world.agent.start();
    let renewed = world.premium();
    let renewed = world.switch(renewed, Mode::Paid).await;
    let status = world.agent.status("the next document", |status| status.seq() == renewed.position.seq).await;
    assert!(is_right(&status), "{:#}", status.0);
}

#[tokio::test]
async fn s83_a_keyset_issued_in_milliseconds_is_rejected_and_changes_no_time() {
    let mut world = World::new().await;
    world.start_premium().await;
    let mark = world.issuer.mark();
    let mut keyset = world.pki.keyset(8);
    keyset.0.iat *= 1000;
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    let report = world.issuer.report_since(mark, "the keyset", |report| report.outcome == Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.judged, report.keyset, report.mode), ("out_of_range", None, 7, Mode::Paid));

    world.agent.kill().await;
    world.hand_out_keyset(&world.pki.keyset(9).sign(&world.pki.root)).await;
    world.agent.start();
    let status = world.agent.status("the next keyset", |status| status.keyset() == 9 && status.mode() == "paid").await;
    assert!(is_right(&status), "{:#}", status.0);
}

#[tokio::test]
async fn s83_a_key_valid_from_a_time_in_milliseconds_signs_nothing_until_a_right_keyset_comes() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut keyset = world.pki.keyset(8);
    keyset.0.keys.values_mut().for_each(|key| key.not_before = unix_now() * 1000);
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    world.agent.status("the keyset", |status| status.keyset() == 8).await;
    let early = world.free();
    let early = world.issue(early).await;
    let report = world.issuer.judged(&early, Outcome::Rejected).await;
    assert_eq!((report.reason.as_str(), report.mode), ("key_not_yet_valid", Mode::Paid));
    assert!(premium.in_force(&report), "{report:?}");
    let status = world.agent.status("the rejection", |status| status.condition("document_rejected").is_some()).await;
    assert!(is_right(&status) && status.sentence("document_rejected").contains("before its key becomes valid"), "{:#}", status.0);

    world.hand_out_keyset(&world.pki.keyset(9).sign(&world.pki.root)).await;
    world.agent.status("the right keyset", |status| status.keyset() == 9).await;
    let free = world.free();
    world.switch(free, Mode::Free).await;
}

#[tokio::test]
async fn s84_a_single_date_far_ahead_has_no_effect() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.agent.status("a confirmed clock", |status| status.0["clock"]["confirmed"] == true).await;
    let mark = world.issuer.mark();
    world.cloud.lock().clock = Clock::Offset(400 * DAY_S as i64);
    poll_https(&world).await;
    let status = world.agent.status("the dispute", |status| status.condition("clock_disputed").is_some()).await;
    assert!(is_right(&status) && status.0["clock"]["confirmed"] == true, "{:#}", status.0);
    assert!(status.sentence("clock_disputed").contains("Date"), "{:#}", status.0);

    world.cloud.lock().clock = Clock::Offset(0);
    world.agent.mode(Mode::Paid).await;
    poll_https(&world).await;
    let status = world.agent.status("its end", |status| status.condition("clock_disputed").is_none()).await;
    assert!(is_right(&status) && status.condition("clock_corrected").is_none(), "{:#}", status.0);
    assert!(world.issuer.reports(mark).iter().all(|report| report.cause != Cause::Time));
}

#[tokio::test]
async fn s84_two_agreeing_dates_are_followed_up_to_the_certificates_expiry_and_back() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mark = world.issuer.mark();
    world.cloud.lock().clock = Clock::Offset(400 * DAY_S as i64);
    poll_https(&world).await;
    let status = world.agent.status_within("the new time", TWO_ANSWERS, |status| !is_right(status)).await;
    // The servers' certificates expire in a year.
    let ahead = trusted(&status) - unix_now();
    assert!((363 * DAY_S..=365 * DAY_S).contains(&ahead), "{} days", ahead / DAY_S);
    assert!(status.condition("clock_corrected").is_some(), "{:#}", status.0);
    let report = world.issuer.report_since(mark, "the correction", |report| report.cause == Cause::Time).await;
    assert!(report.outcome == Outcome::Applied && report.judged.is_none() && premium.in_force(&report), "{report:?}");

    // The servers that can correct it are still reachable.
    world.cloud.lock().clock = Clock::Offset(0);
    let status = world.agent.status_within("the true time", TWO_ANSWERS, is_right).await;
    assert!(status.0["clock"]["confirmed"] == true, "{:#}", status.0);
    world.agent.mode(Mode::Paid).await;
}

/// The system clock reads this; only the cloud gives the camera the time.
async fn a_wrong_system_clock(wall: &str) {
    let mut world = World::with_camera().await;
    WallClock::under(&mut world, wall);
    let mut keyset = world.pki.keyset(7);
    keyset.0.iat -= 30 * DAY_S;
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    // Issued an hour ago, with a change in twenty days: paid only once the time is confirmed.
    let mut pending = world.premium().then_free(unix_now() + 20 * DAY_S);
    pending.0.iat -= 3600;
    pending.0.lease.not_after = unix_now() + 30 * DAY_S;
    world.start_with(pending, Mode::Paid).await;
    let status = world.agent.status("a confirmed clock", |status| status.0["clock"]["confirmed"] == true).await;
    assert!(is_right(&status), "{:#}", status.0);
    let recorded = unix_now();
    let started = world.move_until("a grant request", |cloud| cloud.asked.last().map(|(_, asked)| asked.started_at)).await;
    let started = u64::try_from(started.as_second()).unwrap();
    assert!((recorded - 60..=unix_now() + 2).contains(&started), "recorded at {recorded}, announced as {started}");
    assert_eq!(world.agent.mode(Mode::Paid).await.plan(), "premium");
}

#[tokio::test]
async fn s85_a_system_clock_hours_ahead_changes_nothing() {
    a_wrong_system_clock("+8h").await;
}

#[tokio::test]
async fn s85_a_system_clock_years_ahead_changes_nothing() {
    a_wrong_system_clock("+1095d").await;
}

/// Moves trusted time two hundred days ahead with a keyset that carries a wrong date.
async fn two_hundred_days_ahead(world: &World) {
    let mut keyset = world.pki.keyset(8);
    keyset.0.iat += 200 * DAY_S;
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    let status = world.agent.status("a wrong time", |status| status.keyset() == 8 && !is_right(status)).await;
    let ahead = trusted(&status) - unix_now();
    assert!((199 * DAY_S..=201 * DAY_S).contains(&ahead), "{} days", ahead / DAY_S);
}

#[tokio::test]
async fn s86_two_dates_lower_a_time_that_is_too_high_for_good() {
    let mut world = World::new().await;
    world.start_premium().await;
    two_hundred_days_ahead(&world).await;
    let mark = world.issuer.mark();
    poll_https(&world).await;
    let status = world.agent.status_within("the true time", TWO_ANSWERS, is_right).await;
    assert!(status.sentence("clock_corrected").contains("back"), "{:#}", status.0);
    let back = |report: &Report| report.detail.as_deref().is_some_and(|detail| detail.contains("set trusted time back"));
    world.issuer.report_since(mark, "the correction", |report| report.cause == Cause::Time && back(report)).await;
    world.agent.mode(Mode::Paid).await;

    // A restart does not find the record with the higher time.
    world.cloud.lock().clock = Clock::Absent;
    world.agent.kill().await;
    world.agent.start();
    let status = world.agent.status("its time", |_| true).await;
    assert!(is_right(&status), "{:#}", status.0);
}

#[tokio::test]
async fn s86_a_root_signed_reset_sets_the_time_at_once() {
    let mut world = World::new().await;
    world.cloud.lock().clock = Clock::Absent;
    let premium = world.start_premium().await;
    two_hundred_days_ahead(&world).await;
    let mark = world.issuer.mark();
    let mut keyset = world.pki.keyset(9).resetting(1, world.device.as_str(), premium.position.epoch, premium.position.seq);
    keyset.0.resets[0].time = Some(unix_now());
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    world.agent.status("the true time", is_right).await;
    let by_reset = |report: &Report| report.detail.as_deref().is_some_and(|detail| detail.contains("a root-signed reset"));
    world.issuer.report_since(mark, "the correction", |report| report.cause == Cause::Time && by_reset(report)).await;
    world.agent.mode(Mode::Paid).await;
    // The same reset in a later keyset has no effect.
    let mut keyset = world.pki.keyset(10).resetting(1, world.device.as_str(), premium.position.epoch, premium.position.seq);
    keyset.0.resets[0].time = Some(unix_now() - 20 * DAY_S);
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    world.agent.status("the later keyset", |status| status.keyset() == 10).await;
    world.agent.status("the same time", is_right).await;
}
