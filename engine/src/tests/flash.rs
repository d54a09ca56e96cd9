//! Writing the record: effects that wait for the write, and the consequences of a failed one.

use super::*;

#[test]
fn a_failed_write_keeps_a_downgrade_in_memory_and_withholds_its_puback() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.fails = true;
    let delivery = bench.live(&free(42));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    assert!(!bench.last().persisted && bench.acked.is_empty());
    bench.disk.fails = false;
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!(bench.acked, [delivery]);
    assert!(bench.last().persisted);
    assert_eq!(bench.last().erased.clips, 1);
}

#[test]
fn a_failed_write_refuses_an_upgrade_and_withholds_its_puback() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.fails = true;
    let delivery = bench.live(&premium(42));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    assert_eq!((bench.last().outcome, bench.last().reason.as_str()), (Outcome::Rejected, "not_persisted"));
    assert!(bench.acked.is_empty());
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.acked.clone()), (Mode::Paid, vec![delivery]));
}

#[test]
fn cancel_and_resubscribe_before_the_write_completes_opens_only_at_the_end() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&free(42));
    bench.live(&premium(43));
    assert_eq!(bench.open.leave, Policy::CLOSED);
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    assert_eq!((bench.acked.len(), bench.disk.writes, bench.cuts.len()), (2, 1, 1));
    assert_eq!((bench.last().seq, bench.last().erased.clips), (43, 1));
}

#[test]
fn a_burst_applies_the_last_and_costs_one_write() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    for seq in 42..1042 {
        bench.live(&if seq % 2 == 0 { free(seq) } else { premium(seq) });
    }
    bench.sync();
    assert_eq!((bench.acked.len(), bench.disk.writes, bench.mode()), (1000, 1, Mode::Paid));
    assert!(bench.acked.is_sorted());
    assert_eq!(bench.cuts.len(), 1, "Premium never opened again in between, so there was nothing more to cut");
}

#[test]
fn flash_that_never_answers_delays_media_that_both_plans_allow_by_ten_seconds() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    let cancel = bench.live(&free(42));
    bench.pass(Duration::from_millis(9_990));
    assert_eq!((bench.open.leave, bench.reports.len()), (Policy::CLOSED, 0));
    bench.pass(Duration::from_millis(10));
    assert_eq!((bench.open.leave, bench.last().persisted, bench.last().mode), (FREE, false, Mode::Free));
    assert!(!bench.acked.contains(&cancel), "not before it is written");
    bench.sync();
    assert_eq!((bench.last().persisted, bench.acked.contains(&cancel)), (true, true));

    bench.disk.slow = true;
    bench.live(&premium(43));
    bench.pass(Duration::from_secs(11));
    assert_eq!((bench.open.leave, bench.last().reason.as_str()), (FREE, "not_persisted"));
    bench.sync();
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn an_edited_record_counts_as_unreadable() {
    let mut bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    let token = record.entitlement.clone().unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    let forged = String::from_utf8(payload).unwrap().replace("\"clip_max_s\":120", "\"clip_max_s\":999");
    let forged = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(forged);
    record.entitlement = Some(format!("{head}.{forged}.{signature}"));
    bench.disk.record = Some(record.to_bytes());
    let bench = bench.reboot();
    assert!(bench.engine.view(bench.now).state_lost);
    assert_eq!(bench.open, Admission::CLOSED);
}

#[test]
fn out_of_range_numbers_make_a_record_unreadable() {
    type Edit = fn(&mut Record);
    let edits: [Edit; 5] = [
        |record| record.lease_used_s = u64::MAX,
        |record| record.trusted_s = u64::MAX,
        |record| record.ratchet.epoch = u64::MAX,
        |record| record.ratchet.seq = u64::MAX,
        |record| record.reset_id = u64::MAX,
    ];
    for edit in edits {
        let mut bench = Bench::confirmed(&premium(41));
        let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
        edit(&mut record);
        bench.disk.record = Some(record.to_bytes());
        let mut bench = bench.reboot();
        assert!(bench.engine.view(bench.now).state_lost, "{record:?}");
        bench.pass(Duration::from_secs(2));
        assert_eq!(bench.open, Admission::CLOSED);
    }
}

#[test]
fn a_document_with_the_largest_times_leaves_a_readable_record() {
    let lease = Lease { max_age_s: MAX_INTEGER, not_after: MAX_INTEGER };
    let mut bench = Bench::confirmed(&Entitlement { iat: LATEST.as_secs(), lease, ..premium(41) });
    bench.pass(Duration::from_secs(7200));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert_eq!(record.trusted_s, LATEST.as_secs() + 7200);
    let bench = bench.reboot();
    assert!(!bench.engine.view(bench.now).state_lost);
}

#[test]
fn pending_pubacks_are_dropped_with_the_connection() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.fails = true;
    for connection in 1..50 {
        bench.connect(connection);
        bench.retained(connection, &free(42));
        bench.event(Event::Lost(Some(Connection(connection))));
    }
    assert!(bench.engine.unacknowledged.is_empty() && bench.acked.is_empty());
}

#[test]
fn a_duplicate_writes_nothing_even_when_its_report_is_acknowledged() {
    let mut bench = Bench::confirmed(&premium(41));
    for (ticket, _) in std::mem::take(&mut bench.reports) {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.live(&premium(41));
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    assert_eq!(bench.disk.writes, 0);
}

#[test]
fn a_document_that_could_not_be_written_confirms_nothing_until_it_is() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.fails = true;
    bench.connect(1);
    bench.retained(1, &premium(42));
    bench.retained(1, &premium(42));
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    bench.disk.fails = false;
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.open.leave, bench.engine.view(bench.now).position.seq), (Mode::Paid, PREMIUM, 42));
}

#[test]
fn an_https_confirmation_counts_from_its_answer_and_not_from_the_write() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    let token = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.now.boot += Duration::from_secs(91);
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
}

#[test]
fn a_confirmation_ends_with_its_connection_also_while_its_document_is_being_written() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    bench.connect(1);
    bench.retained(1, &premium(42));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.connect(2);
    bench.sync();
    assert_eq!((bench.mode(), bench.engine.is_confirmed()), (Mode::Held, false));
}

/// Found by the simulation: after a reset, another document may have the position of the one in force.
#[test]
fn confirming_a_document_that_is_being_written_does_not_open_the_previous_one() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.disk.slow = true;
    let lease = Lease { max_age_s: 60, not_after: T0 + 9999 };
    let ended = Entitlement { iat: T0 - 100, lease, ..premium(42) };
    bench.live(&ended);
    bench.retained(1, &ended);
    assert_eq!((bench.last().outcome, bench.open.leave), (Outcome::Duplicate, FREE), "its lease had ended before it arrived");
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().seq), (FREE, Mode::Free, 42));
}

#[test]
fn an_upgrade_waits_for_its_own_record_and_not_for_an_earlier_one() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.event(Event::Stopping);
    let ticket = bench.engine.tickets;
    bench.live(&premium(42));
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
}

#[test]
fn a_failed_write_counts_once_and_only_for_its_documents() {
    for (before, after) in [(free(41), premium(42)), (premium(41), free(42))] {
        let mut bench = Bench::confirmed(&before);
        bench.disk.slow = true;
        bench.event(Event::Stopping);
        let earlier = bench.engine.tickets;
        bench.live(&after);
        bench.reports.clear();
        bench.event(Event::WriteFailed { ticket: earlier });
        assert!(bench.reports.is_empty(), "it was not in that record");
        let ticket = bench.engine.tickets;
        bench.event(Event::WriteFailed { ticket });
        bench.event(Event::WriteFailed { ticket });
        assert_eq!(bench.reports.len(), 1);
    }
}
