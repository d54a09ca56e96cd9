//! What is reported, when, and how often.

use super::*;

#[test]
fn a_duplicate_of_a_document_being_written_reports_the_state_in_force() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    bench.live(&premium(42));
    let (_, duplicate) = bench.reports.iter().find(|(_, report)| report.outcome == Outcome::Duplicate).expect("the copy is reported");
    assert_eq!((duplicate.seq, duplicate.mode), (41, Mode::Free));
}

#[test]
fn s39_the_newest_applied_report_is_sent_until_acknowledged_even_after_a_power_cut() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    let mut bench = bench.reboot();
    bench.connect(2);
    let owed = bench.reports[0].clone();
    assert_eq!((owed.1.seq, owed.1.cause, owed.1.erased.clips), (42, Cause::Document, 1));
    bench.forget_log();
    bench.event(Event::Lost(Some(Connection(2))));
    bench.connect(3);
    assert_eq!(bench.reports[0], owed, "again, until it is acknowledged");
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.connect(4);
    assert!(bench.reports.is_empty());
}

#[test]
fn other_outcomes_are_limited_to_a_burst_of_five_and_one_a_minute() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..100 {
        bench.deliver(1, Topic::Entitlement, "nonsense", false);
    }
    assert_eq!(bench.reports.len(), 5);
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.reports.len(), 6, "the newest of the others, once the limit allows it");
    bench.pass(Duration::from_secs(600));
    assert_eq!((bench.reports.len(), bench.acked.len()), (6, 100));
}

#[test]
fn a_document_not_on_flash_is_not_reported_as_in_force() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    bench.live(&premium(42));
    let in_force = |report: &Report| (report.seq, report.plan.clone(), report.mode);
    assert_eq!((bench.last().outcome, in_force(bench.last())), (Outcome::Duplicate, (41, Some(Plan::free()), Mode::Free)));
    bench.disk.fails = true;
    bench.sync();
    assert_eq!((bench.last().reason.as_str(), in_force(bench.last())), ("not_persisted", (41, Some(Plan::free()), Mode::Free)));
    assert_eq!(bench.last().judged, Some(Position { epoch: 3, seq: 42 }));
}

#[test]
fn a_report_while_a_downgrade_is_being_written_says_that_it_is_not_persisted() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&free(42));
    bench.live(&free(42));
    assert!(!bench.last().persisted);
    bench.disk.fails = true;
    bench.sync();
    bench.disk.fails = false;
    bench.event(Event::Stopping);
    bench.sync();
    let bench = bench.reboot();
    let owed = bench.engine.reports.undelivered().unwrap();
    assert!(owed.persisted, "on flash, persisted is always true");
}

#[test]
fn a_judgement_without_a_connection_is_reported_on_the_next_one() {
    let mut bench = Bench::confirmed(&free(42));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.forget_log();
    let other = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(other.into())));
    assert_eq!((bench.log.as_slice(), bench.engine.view(bench.now).conflict), (&["alarm"][..], Some(Position { epoch: 3, seq: 42 })));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found("nonsense".into())));
    bench.pass(Duration::from_secs(30));
    assert!(bench.reports.is_empty());
    bench.connect(2);
    let mut said: Vec<&str> = bench.reports.iter().map(|(_, report)| report.reason.as_str()).collect();
    said.sort_unstable();
    assert!(said.contains(&"conflict") && said.contains(&"bad_form"), "{said:?}");
    bench.live(&free(43));
    assert_eq!(bench.engine.view(bench.now).conflict, None, "a higher document resolves the conflict");
}

#[test]
fn every_conflict_raises_the_alarm_however_many_are_reported() {
    let mut bench = Bench::confirmed(&free(42));
    for _ in 0..20 {
        bench.live(&premium(42));
    }
    let count = |what| bench.log.iter().filter(|said| **said == what).count();
    assert_eq!((count("alarm"), count("report")), (20, 5));
}

#[test]
fn a_delivered_report_is_not_repeated_after_a_power_cut() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    bench.pass(NOTE_DELIVERY);
    let mut bench = bench.reboot();
    bench.connect(2);
    let causes: Vec<Cause> = bench.reports.iter().map(|(_, report)| report.cause).collect();
    assert_eq!(causes, [Cause::Boot]);
}

#[test]
fn a_document_does_not_wait_for_the_note_of_a_delivery() {
    let mut bench = Bench::confirmed(&free(41));
    bench.live(&premium(42));
    bench.forget_log();
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    assert!(!bench.log.contains(&"persist"), "flash is free for the next document");
    bench.live(&premium(43));
    bench.pass(NOTE_DELIVERY);
    let records = bench.log.iter().filter(|said| **said == "persist").count();
    assert_eq!(records, 1, "whose record notes the delivery");
}

#[test]
fn after_five_at_once_one_report_of_an_outcome_a_minute() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..8 {
        bench.live(&premium(40));
    }
    assert_eq!(bench.outcomes(), [Outcome::Stale; 5]);
    for sent in 5..8 {
        bench.pass(Duration::from_secs(59));
        assert_eq!(bench.reports.len(), sent);
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.reports.len(), sent + 1);
        bench.live(&premium(40));
    }
}

#[test]
fn two_quiet_minutes_allow_two_reports_and_not_a_third() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..5 {
        bench.live(&premium(40));
    }
    bench.pass(Duration::from_secs(120));
    for _ in 0..3 {
        bench.live(&premium(40));
    }
    assert_eq!(bench.reports.len(), 7);
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.reports.len(), 7);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.reports.len(), 8);
}

#[test]
fn the_acknowledgement_of_an_earlier_report_does_not_count_for_the_newest() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    bench.live(&premium(43));
    let tickets: Vec<u64> = bench.reports.iter().map(|(ticket, _)| *ticket).collect();
    assert!(tickets.len() == 2 && tickets[0] < tickets[1], "{tickets:?}");
    bench.event(Event::Published { ticket: tickets[0] });
    bench.event(Event::Lost(Some(Connection(1))));
    bench.reports.clear();
    bench.connect(2);
    assert_eq!(bench.reports.first().map(|(ticket, report)| (*ticket, report.seq)), Some((tickets[1], 43)), "it is sent again");
}

#[test]
fn a_cut_without_transfers_is_reported_as_such() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    assert_eq!(bench.last().cut, care_protocol::Cut::default());
}

#[test]
fn two_cuts_before_the_write_completes_are_reported_as_one() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.transfers = 2;
    bench.live(&entitlement(42, "plus", PLUS));
    bench.transfers = 3;
    bench.live(&free(43));
    bench.sync();
    let report = bench.last();
    assert_eq!((report.seq, report.cut.transfers, report.cut.micros, report.cut.bytes_after), (43, 5, 7, 5 * 1448));
    assert_eq!(report.erased, Erased { clips: 2, bytes: 10 });
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert!(record.report.is_some_and(|report| report.persisted), "on flash, persisted is always true");
}

#[test]
fn a_cut_whose_bytes_were_not_counted_is_reported_as_such() {
    let mut bench = Bench::confirmed(&premium(41));
    (bench.transfers, bench.uncounted) = (1, true);
    bench.live(&free(42));
    let report = bench.last().clone();
    assert_eq!((report.seq, report.cut.transfers, report.cut.bytes_after), (42, 1, 0));
    let detail = report.detail.expect("a zero that was not counted is explained");
    assert!(detail.contains("bytes_after was not counted") && detail.chars().count() <= Report::DETAIL_MOST, "{detail}");

    // Also if a cut that was counted follows before that report is written.
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    (bench.transfers, bench.uncounted) = (2, true);
    bench.live(&entitlement(42, "plus", PLUS));
    (bench.transfers, bench.uncounted) = (3, false);
    bench.live(&free(43));
    bench.sync();
    let report = bench.last();
    assert_eq!((report.seq, report.cut.transfers, report.cut.bytes_after, report.detail.clone()), (43, 5, 3 * 1448, Some(detail)));

    // With nothing in flight there was nothing to count.
    let mut bench = Bench::confirmed(&premium(41));
    bench.uncounted = true;
    bench.live(&free(42));
    assert_eq!(bench.last().detail, None);
}

#[test]
fn a_deaf_connection_adds_to_an_undelivered_reports_detail_and_takes_nothing_away() {
    let mut bench = Bench::confirmed(&premium(41));
    (bench.transfers, bench.uncounted) = (1, true);
    bench.live(&free(42));
    let undelivered = bench.last().clone();
    let own = undelivered.detail.clone().expect("a zero that was not counted is explained");
    bench.event(Event::Lost(Some(Connection(1))));
    bench.connect(2);
    bench.event(Event::Subscribed(Connection(2)));
    bench.pass(Duration::from_secs(12));
    assert!(bench.engine.view(bench.now).broker_deaf);
    let detail = bench.last().detail.clone().expect("the deaf connection is reported");
    assert!(detail.starts_with(&own) && detail.ends_with("every 60 s") && detail.contains("delivers no entitlement"), "{detail}");

    bench.deliver(2, Topic::Entitlement, "nonsense", false);
    bench.pass(Duration::from_millis(1));
    let applied = bench.reports.iter().rev().find(|(_, report)| report.outcome == Outcome::Applied).map(|(_, report)| report.clone());
    let applied = applied.expect("that it delivers again is reported");
    assert_eq!((applied.seq, applied.cut, applied.detail), (42, undelivered.cut, Some(own)), "it delivers again");
}

#[test]
fn the_view_shows_that_the_document_in_force_is_not_on_flash() {
    for (before, after) in [(free(41), premium(42)), (premium(41), free(42))] {
        let mut bench = Bench::confirmed(&before);
        bench.disk.slow = true;
        bench.live(&after);
        assert!(!bench.engine.view(bench.now).persisted);
        bench.sync();
        assert!(bench.engine.view(bench.now).persisted);
    }
}

#[test]
fn the_last_change_is_shown_with_the_order_id_in_force() {
    let refund = Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() };
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { order: Some(Order { id: "KC-2026-000123".into(), refund }), ..free(42) });
    let told = bench.engine.last_switch().map(|(report, order)| (report.seq, order));
    assert_eq!(told, Some((42, Some("KC-2026-000123"))));
}
