//! Lasting faults become conditions and passing ones do not; each condition ends for its own reason.

use std::path::Path;

use care_protocol::{Mode, Policy};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn now(boot: u64) -> Now {
    Now { boot: Duration::from_secs(boot), trusted: Duration::from_secs(1_767_225_600 + boot), confirmed: true, ..Now::default() }
}

fn view() -> View {
    View {
        mode: Mode::Paid,
        plan: Some("premium".parse().unwrap()),
        reason: None,
        position: Position { epoch: 3, seq: 41 },
        digest: None,
        ratchet: Position { epoch: 3, seq: 41 },
        keyset: 7,
        policy: None,
        may_leave: Policy::CLOSED,
        lease_left: Some(DAY),
        lease: Some(2 * DAY),
        next_at: None,
        next_plan: None,
        order: None,
        persisted: true,
        factory_reset: false,
        broker_deaf: false,
        state_lost: false,
        conflict: None,
        held_because: None,
        rejected: None,
        rejection: None,
        history: Vec::new(),
        last_switch: None,
    }
}

fn monitor() -> (ConditionMonitor, Conditions) {
    let config = Config::parse(include_str!("../../../systemd/config.toml"), Path::new("config.toml")).unwrap();
    let conditions = Conditions::default();
    (ConditionMonitor::new(conditions.clone(), &config), conditions)
}

fn said(conditions: &Conditions, name: &str) -> Option<String> {
    conditions.list(now(0)).into_iter().find(|condition| condition.name == name).map(|condition| condition.sentence)
}

#[test]
fn neither_a_good_view_nor_a_short_wait_is_a_condition() {
    let (mut monitor, conditions) = monitor();
    monitor.update(&view(), None, now(10));
    let passing = View { persisted: false, held_because: Some("nobody has confirmed it"), ..view() };
    monitor.update(&passing, None, now(11));
    assert_eq!(conditions.list(now(11)), []);
    monitor.update(&view(), None, now(12));
    monitor.update(&passing, None, now(19));
    assert_eq!(conditions.list(now(19)), [], "the times before do not add up");
    monitor.update(&passing, None, now(50));
    assert!(said(&conditions, "held").unwrap().contains("nobody has confirmed it"));
    assert!(said(&conditions, "state_not_written").unwrap().contains("flash does not answer"));
    monitor.update(&view(), None, now(51));
    assert_eq!(conditions.list(now(51)), []);
}

#[test]
fn conditions_follow_the_view() {
    let (mut monitor, conditions) = monitor();
    let bad = View {
        state_lost: true,
        lease_left: Some(Duration::ZERO),
        conflict: Some(Position { epoch: 3, seq: 42 }),
        rejected: Some("issuer is \"prod\"".into()),
        rejection: Some("wrong_issuer"),
        ..view()
    };
    monitor.update(&bad, Some("no space left"), now(10));
    let wanted = [
        ("state_lost", "could not be read"),
        ("lease_ended", "(3, 41)"),
        ("document_conflict", "(3, 42)"),
        ("document_rejected", "prod"),
        ("state_not_written", "no space left"),
    ];
    for (name, word) in wanted {
        assert!(said(&conditions, name).is_some_and(|said| said.contains(word)), "{name}: {:?}", said(&conditions, name));
    }
    let list = conditions.list(now(10));
    let rejected = list.iter().find(|condition| condition.name == "document_rejected").unwrap();
    assert_eq!(rejected.advice, "Compare aud and iss with the device id and [trust] issuer.", "that of the reason code");
    monitor.update(&view(), None, now(11));
    assert_eq!(conditions.list(now(11)), []);
}

#[test]
fn a_refusal_ends_with_a_stored_clip_another_document_or_time() {
    let (mut monitor, conditions) = monitor();
    let refuse = |monitor: &mut ConditionMonitor| {
        monitor.grant_refused(403, view().position, now(10));
        monitor.update(&view(), None, now(20));
        assert!(said(&conditions, "grant_refused").unwrap().contains("403"));
    };
    refuse(&mut monitor);
    monitor.clip_stored();
    assert_eq!(said(&conditions, "grant_refused"), None);
    refuse(&mut monitor);
    monitor.update(&View { position: Position { epoch: 3, seq: 42 }, ..view() }, None, now(21));
    assert_eq!(said(&conditions, "grant_refused"), None);
    refuse(&mut monitor);
    monitor.update(&view(), None, now(10 + 20 * 60));
    assert_eq!(said(&conditions, "grant_refused"), None);
}

#[test]
fn server_certificates_are_warned_of_two_days_before_their_end_and_ours_fourteen() {
    let (mut monitor, conditions) = monitor();
    let broker = |monitor: &mut ConditionMonitor, left: Duration| {
        monitor.server_certificate("the broker's", "care.example:8883".into(), now(0).trusted + left)
    };
    broker(&mut monitor, 3 * DAY);
    monitor.ends = vec![("device.pem".into(), "the device certificate", now(0).trusted + 15 * DAY)];
    monitor.update(&view(), None, now(0));
    assert_eq!(said(&conditions, "certificate_ends"), None);
    broker(&mut monitor, DAY);
    monitor.update(&view(), None, now(1));
    let told = conditions.list(now(1)).remove(0);
    assert_eq!(told.sentence, "the broker's certificate ends on 2026-01-02T00:00:00Z, in less than a day (care.example:8883)");
    assert!(told.advice.contains("operator"), "{told:?}");
    monitor.update(&view(), None, now(2 * 86_400));
    let both = said(&conditions, "certificate_ends").unwrap();
    assert!(both.contains("device certificate ends on 2026-01-16") && both.contains("ended on 2026-01-02"), "{both}");
    broker(&mut monitor, 30 * DAY);
    monitor.ends.clear();
    monitor.update(&view(), None, now(2 * 86_400));
    assert_eq!(said(&conditions, "certificate_ends"), None);
}
