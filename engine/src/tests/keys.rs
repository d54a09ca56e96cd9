//! Keysets, unknown and revoked keys, and root keys that the configuration has lost.

use super::*;

#[test]
fn an_unknown_key_waits_for_its_keyset_and_is_given_up_after_thirty_seconds() {
    let mut bench = Bench::new();
    bench.connect(1);
    let first = bench.retained(1, &premium(41));
    assert_eq!((bench.fetches.last(), bench.acked.len()), (Some(&Resource::Entitlement), 0), "the retained keyset may be in transit");
    bench.pass(Duration::from_secs(2));
    assert_eq!((bench.fetches.last(), bench.acked.len()), (Some(&Resource::Keyset), 0));
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    assert_eq!((bench.mode(), bench.acked.clone()), (Mode::Paid, vec![first]));

    let mut bench = Bench::new();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    bench.retained(1, &premium(41));
    let second = bench.retained(1, &premium(42));
    assert_eq!(bench.acked, [second - 1], "only the newest is held");
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
    bench.gets.clear();
    bench.pass(Duration::from_secs(31));
    assert_eq!((bench.acked.len(), bench.gets.len(), bench.last().reason.as_str()), (2, 1, "unknown_key"));
    assert_eq!(bench.fetches.iter().filter(|fetch| **fetch == Resource::Keyset).count(), 1, "once a minute");
}

#[test]
fn a_document_received_twice_with_an_unknown_key_is_judged_twice_and_never_refused() {
    let mut bench = Bench::new();
    bench.connect(1);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.retained(1, &premium(41));
    bench.retained(1, &premium(41));
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    let judged: Vec<Outcome> =
        bench.reports.iter().filter(|(_, report)| report.judged.is_some()).map(|(_, report)| report.outcome).collect();
    assert!(judged.contains(&Outcome::Applied) && !judged.contains(&Outcome::Rejected), "{judged:?}");
    assert_eq!((bench.mode(), bench.acked.len()), (Mode::Paid, 3));
}

#[test]
fn a_revoked_key_is_refused_and_its_document_in_force_stays() {
    let mut bench = Bench::confirmed(&premium(41));
    let revoking = Keyset { revoked: vec!["k1".into()], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, revoking, true);
    bench.live(&premium(42));
    assert_eq!((bench.last().reason.as_str(), bench.mode()), ("revoked_key", Mode::Paid));
    let bench = bench.reboot();
    assert_eq!((bench.mode(), bench.engine.view(bench.now).position.seq), (Mode::Held, 41), "on the key that verified it");
}

#[test]
fn a_lower_keyset_is_refused() {
    let mut bench = Bench::confirmed(&premium(41));
    let lower = bench.keys.keyset(6).sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, lower, true);
    assert_eq!((bench.last().outcome, bench.last().reason.as_str(), bench.last().keyset), (Outcome::Rejected, "old_keyset", 7));
}

#[test]
fn a_document_that_waited_for_its_key_confirms_no_later_connection() {
    let mut bench = Bench::confirmed(&premium(41));
    let second = Signer::from_pkcs8("k2", &Signer::generate()).unwrap();
    bench.event(Event::Lost(Some(Connection(1))));
    let renewed = premium(42).sign(&second);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(renewed.into())));
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.mode(), Mode::Held);
    bench.connect(2);
    let mut keyset = bench.keys.keyset(8);
    keyset.keys.insert("k2".into(), Key { public: second.public_key(), not_before: 0 });
    let keyset = keyset.sign(&bench.keys.root);
    bench.deliver(2, Topic::Keyset, keyset.into_bytes(), true);
    assert_eq!((bench.engine.ratchet.seq, bench.mode()), (42, Mode::Held), "it was requested before this connection");
}

#[test]
fn a_root_key_removed_from_the_configuration_verifies_nothing_new_and_revokes_nothing() {
    let bench = Bench::confirmed(&premium(41));
    let Bench { keys, camera: Camera { disk, now, .. }, .. } = bench;
    let mut bytes = disk.record.unwrap();
    let new_root = Signer::from_pkcs8("root-2", &Signer::generate()).unwrap();
    for restart in 0..3 {
        let record = Box::new(Record::read(&bytes).unwrap());
        let mut engine = Engine::new(settings(&new_root), Restored::Record(record), now);
        let mut effects = engine.boot(now);
        let view = engine.view(now);
        assert_eq!((view.state_lost, view.mode, view.position.seq), (false, Mode::Held, 41), "restart {restart}");
        let by_the_old = keys.keyset(9).sign(&keys.root);
        effects.extend(engine.decide(Event::Fetched(Resource::Keyset, Fetched::Found(by_the_old.into())), now));
        let lower = keys.keyset(6).sign(&new_root);
        effects.extend(engine.decide(Event::Fetched(Resource::Keyset, Fetched::Found(lower.into())), now));
        assert_eq!(engine.view(now).keyset, 0, "neither is trusted");
        effects.extend(engine.decide(Event::Stopping, now));
        bytes = effects
            .into_iter()
            .rev()
            .find_map(|effect| if let Effect::Persist { record, .. } = effect { Some(record) } else { None })
            .unwrap();
    }
    // The agent has never trusted this other root.
    let mut record = Record::read(&bytes).unwrap();
    record.roots = settings(&new_root).roots;
    assert!(Engine::new(settings(&new_root), Restored::Record(Box::new(record)), now).lost);
}

#[test]
fn a_keyset_that_the_configuration_no_longer_trusts_leaves_the_document_in_force() {
    let bench = Bench::confirmed(&premium(41));
    let Bench { keys, camera: Camera { disk, now, .. }, .. } = bench;
    let record = Record::read(disk.record.as_ref().unwrap()).unwrap();
    let settings = Settings { min_keyset_version: 8, ..keys.settings() };
    let mut engine = Engine::new(settings, Restored::Record(Box::new(record)), now);
    let mut effects = engine.boot(now);
    effects.extend(engine.decide(Event::Stopping, now));
    let written = |effect| if let Effect::Persist { record, .. } = effect { Some(record) } else { None };
    let record = effects.into_iter().rev().find_map(written);
    let settings = Settings { min_keyset_version: 8, ..keys.settings() };
    let engine = Engine::new(settings, Restored::Record(Box::new(Record::read(&record.unwrap()).unwrap())), now);
    assert!(!engine.lost);
    assert_eq!((engine.mode(now), engine.ratchet.seq, engine.view(now).keyset), (Mode::Held, 41, 0));
}

#[test]
fn a_key_replaced_under_the_same_id_leaves_the_document_in_force() {
    let mut bench = Bench::confirmed(&premium(41));
    let later = Key { public: bench.keys.signer.public_key(), not_before: T0 + 1 };
    let keyset = Keyset { keys: [("k1".to_owned(), later)].into(), ..bench.keys.keyset(8) };
    bench.deliver(1, Topic::Keyset, keyset.sign(&bench.keys.root), true);
    let bench = bench.reboot();
    assert_eq!((bench.engine.lost, bench.engine.ratchet.seq, bench.mode()), (false, 41, Mode::Held));
}

#[test]
fn an_empty_keyset_is_acknowledged_and_ignored() {
    let mut bench = Bench::confirmed(&premium(41));
    assert!(bench.engine.is_confirmed());
    let delivery = bench.deliver(1, Topic::Keyset, "", true);
    assert_eq!((bench.acked.clone(), bench.reports.len(), bench.gets.len()), (vec![delivery], 0, 0));
}

#[test]
fn sixteen_copies_with_an_unknown_key_are_held_and_one_more_starts_over() {
    let mut bench = Bench::new();
    bench.connect(1);
    for _ in 0..COPIES {
        bench.retained(1, &premium(41));
    }
    assert!(bench.acked.is_empty());
    bench.retained(1, &premium(41));
    assert_eq!(bench.acked.len(), COPIES);
}

#[test]
fn the_keyset_that_verified_a_document_is_kept_once_the_newest_no_longer_does() {
    let record = |bench: &Bench| Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    let mut bench = Bench::confirmed(&premium(41));
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(8).sign(&bench.keys.root), true);
    assert_eq!(record(&bench).verified_by, None);
    let eighth = record(&bench).keyset;
    for version in [9, 10] {
        let revoking = Keyset { revoked: vec!["k1".into()], ..bench.keys.keyset(version) }.sign(&bench.keys.root);
        bench.deliver(1, Topic::Keyset, revoking, true);
        assert_eq!(record(&bench).verified_by, eighth, "keyset {version}");
    }
    let bench = bench.reboot();
    assert_eq!((bench.mode(), bench.engine.view(bench.now).position.seq), (Mode::Held, 41));
}

#[test]
fn a_camera_that_has_a_keyset_fetches_another_at_once() {
    let mut bench = Bench::confirmed(&premium(41));
    let stranger = Signer::from_pkcs8("k2", &Signer::generate()).unwrap();
    bench.deliver(1, Topic::Entitlement, premium(42).sign(&stranger), true);
    assert_eq!(bench.fetches, [Resource::Keyset]);
}
