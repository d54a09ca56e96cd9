//! The switch itself: the effects of a document, and their order.

use super::*;

#[test]
fn a_cancel_is_cut_written_acknowledged_opened_and_reported_in_this_order() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 2;
    assert_eq!(bench.open.leave, PREMIUM);
    bench.live(&free(42));
    assert_eq!(bench.log, ["cut", "persist", "ack", "open", "report"]);
    assert_eq!(bench.open.leave, FREE);
    assert_eq!(bench.cuts, [Some((FREE, Position { epoch: 3, seq: 42 }))]);
    let report = bench.last();
    assert_eq!((report.mode, report.cut.transfers, report.cut.micros, report.erased.clips), (Mode::Free, 2, 7, 1));
    assert_eq!((report.epoch, report.seq, report.cause, report.reason.as_str()), (3, 42, Cause::Document, "cancelled"));
    assert_eq!(report.judged, Some(Position { epoch: 3, seq: 42 }));
    assert!(report.persisted);
}

#[test]
fn an_upgrade_is_written_opened_acknowledged_and_reported_in_this_order() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    assert_eq!(bench.log, ["persist"]);
    assert_eq!((bench.open.leave, bench.mode()), (FREE, Mode::Free));
    bench.sync();
    assert_eq!(bench.log, ["persist", "open", "retry", "ack", "report"]);
    assert_eq!((bench.open.leave, bench.mode()), (PREMIUM, Mode::Paid));
}

#[test]
fn a_mixed_change_is_a_downgrade_even_if_another_limit_rises() {
    let mut bench = Bench::confirmed(&entitlement(41, "plus", PLUS));
    bench.live(&entitlement(42, "odd", Policy { clip_max_s: 59, history_h: 9999, ..PLUS }));
    assert_eq!(bench.log, ["cut", "persist", "ack", "open", "report"]);
}

#[test]
fn a_renewal_disturbs_no_transfer() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 3;
    bench.live(&Entitlement { reason: Reason::Renewed, iat: T0 + 5, ..premium(42) });
    assert!(bench.cuts.is_empty());
    assert_eq!(bench.transfers, 3);
    assert_eq!(bench.outcomes(), [Outcome::Applied]);
}

#[test]
fn a_duplicate_is_acknowledged_and_writes_nothing() {
    let mut bench = Bench::confirmed(&premium(41));
    let delivery = bench.live(&premium(41));
    assert_eq!((bench.disk.writes, bench.acked.clone()), (0, vec![delivery]));
    assert_eq!(bench.outcomes(), [Outcome::Duplicate]);
}

#[test]
fn stale_conflicting_and_foreign_documents_change_nothing() {
    let mut bench = Bench::confirmed(&free(42));
    bench.live(&premium(41));
    bench.live(&premium(42));
    bench.live(&Entitlement { account: "other".into(), ..premium(43) });
    assert_eq!(bench.outcomes(), [Outcome::Stale, Outcome::Conflict, Outcome::Rejected]);
    assert_eq!(bench.last().reason, "account_changed");
    assert_eq!((bench.open.leave, bench.acked.len(), bench.disk.writes), (FREE, 3, 0));
}

#[test]
fn a_new_account_erases_the_old_owners_media_before_anything_opens() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { account: "new".into(), epoch: 4.try_into().unwrap(), ..premium(1) });
    assert_eq!(bench.log, ["cut", "forget", "persist", "open"]);
    assert_eq!((bench.open.record, bench.open.leave), (PREMIUM, Policy::CLOSED), "the new owner's clips are recorded but not uploaded yet");
    bench.sync();
    assert_eq!(bench.log[4..], ["ack", "open", "report"]);
    assert_eq!((bench.mode(), bench.open.position.epoch), (Mode::Paid, 4));
}

#[test]
fn an_unbound_camera_uploads_nothing_and_reports_unbound() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { reason: Reason::Unbound, ..entitlement(42, "free", Policy { clips: false, ..FREE }) });
    assert_eq!((bench.mode(), bench.open.leave.clips), (Mode::Unbound, false));
    bench.pass(Duration::from_secs(172_801));
    assert_eq!(bench.mode(), Mode::Unbound, "even after its lease has ended");
}

#[test]
fn a_reset_confirmed_by_an_order_id_is_forgotten_with_the_owner() {
    let order = Order { id: "KC-1".into(), refund: Refund { kind: RefundKind::Credit, amount_minor: 1, currency: "USD".into() } };
    let mut bench = Bench::confirmed(&Entitlement { order: Some(order), ..premium(41) });
    assert_eq!(bench.engine.view(bench.now).order.as_deref(), Some("KC-1"));
    bench.live(&Entitlement { account: "new".into(), epoch: 4.try_into().unwrap(), ..free(1) });
    assert_eq!(bench.engine.view(bench.now).order, None);
}

#[test]
fn a_delayed_rejection_is_never_reported_after_a_newer_state() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..9 {
        bench.deliver(1, Topic::Entitlement, "nonsense", false);
    }
    bench.live(&free(42));
    bench.pass(Duration::from_secs(300));
    assert_eq!(
        (bench.last().outcome, bench.last().mode),
        (Outcome::Applied, Mode::Free),
        "the retained report describes the state in force"
    );
}

#[test]
fn a_stale_document_from_the_future_moves_time_at_once() {
    let lease = Lease { max_age_s: 99_999, not_after: T0 + 600 };
    let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
    bench.live(&Entitlement { iat: T0 + 700, ..premium(40) });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    let keyset = Keyset { iat: T0 + 900, ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    assert_eq!(Record::read(bench.disk.record.as_ref().unwrap()).unwrap().trusted_s, T0 + 900);
}

#[test]
fn a_document_is_not_judged_before_it_was_issued() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { iat: T0 + 500, ..free(41) });
    assert_eq!((bench.last().outcome, bench.last().at.as_second()), (Outcome::Conflict, T0 as i64 + 500));
}
