//! Corrections of trusted time, and documents issued after the expiry of a connection's certificates.

use super::*;

const DAY: u64 = 86_400;
/// A year after the bench's start time.
const ENDS: Duration = Duration::from_secs(T0 + 365 * DAY);

fn bounded(document: &Entitlement) -> Bench {
    let mut bench = Bench::confirmed(document);
    bench.valid_until = ENDS;
    bench
}

fn issued(iat: u64, document: Entitlement) -> Entitlement {
    Entitlement { iat, ..document }
}

fn leased_for_a_year() -> Entitlement {
    Entitlement { lease: Lease { max_age_s: 365 * DAY, not_after: T0 + 365 * DAY }, ..premium(41) }
}

fn trusted_on_record(bench: &Bench) -> u64 {
    Record::read(bench.disk.record.as_ref().unwrap()).unwrap().trusted_s
}

#[test]
fn a_document_issued_beyond_the_certificates_of_its_connection_changes_nothing() {
    let mut bench = bounded(&premium(41));
    let before = (bench.engine.view(bench.now).position, bench.now, bench.open);
    for iat in [ENDS.as_secs() + 1, T0 * 1000, MAX_INTEGER] {
        bench.forget_log();
        let delivery = bench.live(&issued(iat, free(42)));
        assert_eq!(bench.log, ["ack", "report"], "nothing is cut, nothing is written");
        assert!(bench.acked.contains(&delivery));
        let report = bench.last();
        assert_eq!(
            (report.outcome, report.reason.as_str(), report.judged.map(|judged| judged.seq)),
            (Outcome::Rejected, "out_of_range", Some(42))
        );
        assert!(report.detail.as_ref().unwrap().contains(&iat.to_string()), "{report:?}");
        assert_eq!((bench.engine.view(bench.now).position, bench.now, bench.open), before);
    }
    bench.live(&issued(ENDS.as_secs(), free(42)));
    assert_eq!((bench.last().outcome, bench.now.trusted), (Outcome::Applied, ENDS), "at the limit it is accepted");
}

#[test]
fn the_same_holds_over_https_and_for_keysets() {
    let mut bench = bounded(&premium(41));
    let token = issued(T0 * 1000, free(42)).sign(&bench.keys.signer);
    let body = Body { bytes: token.into(), valid_until: ENDS };
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(body)));
    assert_eq!(bench.last().reason, "out_of_range");

    let version = bench.engine.view(bench.now).keyset;
    let milliseconds = Keyset { iat: T0 * 1000, ..bench.keys.keyset(version + 1) };
    let reset = |time| Reset { id: 4, aud: "CAM1".into(), epoch: 3, seq: 1, time: Some(time) };
    let far_reset = Keyset { resets: vec![reset(T0 * 1000)], ..bench.keys.keyset(version + 1) };
    for keyset in [milliseconds, far_reset] {
        let before = bench.now;
        bench.deliver(1, Topic::Keyset, keyset.sign(&bench.keys.root), true);
        assert_eq!((bench.last().outcome, bench.last().reason.as_str()), (Outcome::Rejected, "out_of_range"));
        let view = bench.engine.view(bench.now);
        assert_eq!((view.keyset, view.ratchet.seq, bench.now), (version, 41, before));
    }
}

#[test]
fn without_tls_the_last_second_that_a_certificate_can_encode_is_the_bound() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&issued(T0 * 1000, free(42)));
    assert_eq!(bench.last().reason, "out_of_range");
}

#[test]
fn a_correction_is_reported_once_and_the_lowered_time_is_persisted() {
    let mut bench = bounded(&leased_for_a_year());
    bench.correct(Duration::from_secs(T0 + 100 * DAY));
    bench.event(Event::Tick);
    assert_eq!(trusted_on_record(&bench), T0 + 100 * DAY);
    bench.forget_log();
    bench.correct(Duration::from_secs(T0 + 60));
    bench.event(Event::Tick);
    let report = bench.last();
    assert_eq!((report.outcome, report.cause, report.judged, report.mode), (Outcome::Applied, Cause::Time, None, Mode::Paid));
    assert_eq!((report.epoch, report.seq), (3, 41));
    assert!(report.detail.as_ref().unwrap().contains("set trusted time back by 8639940 s"), "{report:?}");
    assert_eq!(trusted_on_record(&bench), T0 + 60, "over the higher one");
    let reports = bench.reports.len();
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.reports.len(), reports);
    let bench = bench.reboot();
    assert_eq!(bench.engine.view(bench.now).position.seq, 41);
}

#[test]
fn a_correction_displaces_no_report_that_was_not_delivered() {
    let mut bench = bounded(&premium(41));
    let tickets: Vec<_> = bench.reports.iter().map(|(ticket, _)| *ticket).collect();
    tickets.into_iter().for_each(|ticket| bench.event(Event::Published { ticket }));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.reports.clear();
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.mode(), Mode::Held);
    let to = bench.now.trusted + Duration::from_secs(DAY);
    bench.correct(to);
    bench.event(Event::Tick);
    assert!(bench.reports.is_empty(), "there is no connection to report it on");
    bench.connect(2);
    let causes: Vec<_> = bench.reports.iter().map(|(_, report)| report.cause).collect();
    assert_eq!(causes, [Cause::Link, Cause::Time]);
}

#[test]
fn a_lease_that_ended_by_mistake_runs_again_once_time_is_set_back() {
    let document = Entitlement { lease: Lease { max_age_s: 30 * DAY, not_after: T0 + 30 * DAY }, ..premium(41) };
    let mut bench = bounded(&document);
    bench.correct(Duration::from_secs(T0 + 100 * DAY));
    bench.event(Event::Tick);
    assert_eq!((bench.mode(), bench.last().cause, bench.open.leave), (Mode::Free, Cause::Lease, PREMIUM.floor(&FREE)));
    bench.correct(Duration::from_secs(T0 + 60));
    bench.event(Event::Tick);
    assert_eq!((bench.mode(), bench.last().cause, bench.open.leave), (Mode::Paid, Cause::Time, PREMIUM));
}

#[test]
fn a_document_received_while_time_was_too_high_is_aged_by_the_corrected_time() {
    let mut bench = bounded(&premium(41));
    bench.correct(Duration::from_secs(T0 + 100 * DAY));
    bench.event(Event::Tick);
    let lease = Lease { max_age_s: 2 * DAY, not_after: T0 + 300 * DAY };
    bench.live(&Entitlement { lease, ..premium(42) });
    assert_eq!((bench.last().seq, bench.mode()), (42, Mode::Free), "its age is a hundred days");
    // A restart keeps age at receipt and elapsed time apart.
    bench.pass(Duration::from_secs(600));
    bench.event(Event::Stopping);
    let trusted = trusted_on_record(&bench);
    let mut bench = bench.reboot();
    bench.now.trusted = Duration::from_secs(trusted);
    bench.correct(Duration::from_secs(T0 + 4200));
    bench.event(Event::Tick);
    let left = bench.engine.view(bench.now).lease_left.unwrap().as_secs();
    assert!((2 * DAY - 4300..=2 * DAY - 4100).contains(&left), "an hour at receipt and ten minutes since: {left} s");
}

#[test]
fn a_root_signed_reset_sets_the_time_and_is_persisted_at_once() {
    let mut bench = bounded(&premium(41));
    bench.correct(Duration::from_secs(T0 + 200 * DAY));
    bench.event(Event::Tick);
    let reset = Reset { id: 4, aud: "CAM1".into(), epoch: 3, seq: 41, time: Some(T0 + 60) };
    let version = bench.engine.view(bench.now).keyset;
    let keyset = Keyset { resets: vec![reset], ..bench.keys.keyset(version + 1) };
    bench.disk.slow = true;
    bench.deliver(1, Topic::Keyset, keyset.sign(&bench.keys.root), true);
    let (_, record) = bench.disk.pending.first().expect("the reset is persisted");
    let record = Record::read(record).unwrap();
    assert_eq!((record.reset_id, record.trusted_s), (4, T0 + 60), "the first record that knows of the reset has its time");
    assert_eq!(bench.now.trusted, Duration::from_secs(T0 + 60));
    bench.event(Event::Tick);
    assert_eq!((bench.last().cause, bench.mode()), (Cause::Time, Mode::Paid));
    // The second time it has no effect.
    bench.correct(Duration::from_secs(T0 + 3600));
    let keyset = Keyset { resets: keyset.resets, ..bench.keys.keyset(version + 2) };
    bench.deliver(1, Topic::Keyset, keyset.sign(&bench.keys.root), true);
    assert_eq!(bench.now.trusted, Duration::from_secs(T0 + 3600));
}

#[test]
fn a_document_in_force_does_not_raise_a_time_that_was_set_back() {
    let mut bench = bounded(&issued(T0 + 200 * DAY, premium(41)));
    assert_eq!(bench.now.trusted, Duration::from_secs(T0 + 200 * DAY));
    bench.correct(Duration::from_secs(T0 + 60));
    bench.event(Event::Tick);
    bench.retained(1, &issued(T0 + 200 * DAY, premium(41)));
    assert_eq!((bench.last().outcome, bench.now.trusted), (Outcome::Duplicate, Duration::from_secs(T0 + 60)));
}

#[test]
fn a_contradicting_date_is_fetched_again_as_soon_as_a_second_answer_counts() {
    let mut bench = bounded(&leased_for_a_year());
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.fetches.clear();
    bench.pass(Duration::from_secs(300));
    assert_eq!(bench.fetches, [], "with clock and connection confirmed, nothing is polled");
    bench.now.disputed = Some(Dispute { date: bench.now.trusted + Duration::from_secs(400 * DAY), since: bench.now.boot });
    bench.pass(Duration::from_millis(59_900));
    assert_eq!(bench.fetches, []);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
}
