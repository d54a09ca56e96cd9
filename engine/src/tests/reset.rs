//! Resets signed by a root key, factory resets, and a state that was lost.

use super::*;

#[test]
fn a_root_signed_reset_lowers_the_ratchet_once_and_never_raises_it() {
    let reset = |id, seq| Reset { id, aud: "CAM1".into(), epoch: 3, seq, time: None };
    let max = premium(care_protocol::MAX_INTEGER);
    let mut bench = Bench::confirmed(&max);
    bench.live(&free(42));
    assert_eq!(bench.last().outcome, Outcome::Stale);
    let keyset = Keyset { resets: vec![reset(4, 41)], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    bench.retained(1, &max);
    assert_eq!(bench.engine.ratchet.seq, 41, "the document in force is a duplicate and does not raise it again");
    bench.live(&free(42));
    assert_eq!((bench.mode(), bench.engine.ratchet.seq), (Mode::Free, 42));
    let again = Keyset { resets: vec![reset(4, 1)], ..bench.keys.keyset(9) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, again, true);
    let raising = Keyset { resets: vec![reset(5, 900)], ..bench.keys.keyset(10) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, raising, true);
    assert_eq!(bench.engine.ratchet.seq, 42);
}

#[test]
fn an_unreadable_state_is_restored_only_by_https_and_reports_state_lost() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    bench.connect(1);
    assert_eq!((bench.last().cause, bench.last().mode), (Cause::StateLost, Mode::Unbound));
    let keyset = Keyset { resets: vec![Reset { id: 9, aud: "CAM1".into(), epoch: 1, seq: 1, time: None }], ..bench.keys.keyset(8) };
    let keyset = keyset.sign(&bench.keys.root);
    // The engine fetches the keyset over HTTPS first, even if it has one: an old reset must not lower the ratchet
    // that follows.
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(7).sign(&bench.keys.root), true);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
    assert_eq!(bench.fetches, [Resource::Keyset]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.fetches, [Resource::Keyset; 2]);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    assert_eq!(bench.fetches, [Resource::Keyset, Resource::Keyset, Resource::Entitlement]);
    bench.retained(1, &premium(50));
    assert_eq!((bench.last().reason.as_str(), bench.disk.writes), ("state_lost", 0));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    assert_eq!(bench.mode(), Mode::Unbound);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    assert_eq!((bench.mode(), bench.engine.ratchet.seq, bench.engine.reset_id), (Mode::Paid, 41, 9));
    assert_eq!(bench.disk.writes, 1);
}

#[test]
fn after_a_factory_reset_only_a_higher_epoch_binds() {
    let bench = Bench::confirmed(&premium(41));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap().factory_reset();
    let mut bench = Bench::with(bench.keys, Restored::Record(Box::new(record)));
    assert_eq!(bench.mode(), Mode::Unbound);
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    assert_eq!((bench.gets[0].epoch, bench.gets[0].seq), (3, 41));
    for seq in [41, 42, 1000] {
        bench.retained(1, &premium(seq));
        let last = bench.last();
        assert_eq!((bench.mode(), last.outcome, last.reason.as_str()), (Mode::Unbound, Outcome::Rejected, "factory_reset"));
    }
    assert!(bench.engine.view(bench.now).factory_reset && bench.engine.view(bench.now).rejected.is_none());
    bench.retained(1, &Entitlement { epoch: 4.try_into().unwrap(), ..premium(1) });
    assert_eq!((bench.mode(), bench.engine.view(bench.now).factory_reset), (Mode::Paid, false));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert_eq!(record.factory_reset, None);
}

#[test]
fn a_factory_reset_is_reported_until_delivered() {
    let bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap().factory_reset();
    let mut keys = bench.keys;
    for delivered in [false, true] {
        let mut bench = Bench::with(keys, Restored::Record(Box::new(record)));
        bench.connect(1);
        let told: Vec<_> = bench.reports.iter().map(|(_, report)| (report.cause, report.outcome, report.mode)).collect();
        assert_eq!(told, [(Cause::FactoryReset, Outcome::Applied, Mode::Unbound)]);
        if delivered {
            let ticket = bench.reports[0].0;
            bench.event(Event::Published { ticket });
        }
        bench.event(Event::Stopping);
        record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
        keys = bench.keys;
    }
    let mut bench = Bench::with(keys, Restored::Record(Box::new(record)));
    bench.connect(1);
    assert_eq!((bench.reports.len(), bench.last().cause, bench.mode()), (1, Cause::Boot, Mode::Unbound));
    bench.retained(1, &premium(42));
    assert_eq!(bench.last().reason, "factory_reset", "it was reset, reported or not");
}

#[test]
fn a_lost_state_is_reported_even_if_https_restores_it_before_there_is_a_connection() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.connect(1);
    let causes: Vec<Cause> = bench.reports.iter().map(|(_, report)| report.cause).collect();
    assert_eq!(causes, [Cause::StateLost, Cause::Document]);
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.connect(2);
    assert!(bench.reports.is_empty(), "told once");
}

#[test]
fn a_lost_state_fetches_its_keyset_once_a_minute_however_often_the_connection_is_lost() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    for connection in 1..=20 {
        bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
        bench.connect(connection);
        bench.event(Event::Lost(Some(Connection(connection))));
        bench.pass(Duration::from_secs(3));
    }
    assert_eq!(bench.fetches, [Resource::Keyset; 2], "in the minute that has passed, and at its end");
}

#[test]
fn missed_resets_are_applied_in_order() {
    let reset = |id, seq| Reset { id, aud: "CAM1".into(), epoch: 3, seq, time: None };
    let mut bench = Bench::confirmed(&premium(50));
    let keyset = Keyset { resets: vec![reset(5, 30), reset(4, 10)], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    assert_eq!((bench.engine.ratchet.seq, bench.engine.reset_id), (10, 5));
}

#[test]
fn a_reset_to_the_current_ratchet_changes_nothing() {
    let mut bench = Bench::confirmed(&premium(41));
    let reset = Reset { id: 4, aud: "CAM1".into(), epoch: 3, seq: 41, time: None };
    let keyset = Keyset { resets: vec![reset], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    bench.live(&free(41));
    assert_eq!(bench.last().outcome, Outcome::Conflict, "the document at this position is still known");
}

#[test]
fn a_factory_reset_removes_the_document_and_its_report() {
    let bench = Bench::confirmed(&premium(41));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert!(record.entitlement.is_some() && record.report.is_some());
    let left = Record { verified_by: record.keyset.clone(), lease_used_s: 5, next_performed: true, ..record.clone() }.factory_reset();
    assert_eq!((left.entitlement, left.verified_by, left.lease_used_s, left.next_performed, left.report), (None, None, 0, false, None));
    assert_eq!((left.ratchet, left.keyset, left.trusted_s), (record.ratchet, record.keyset, record.trusted_s));
}
