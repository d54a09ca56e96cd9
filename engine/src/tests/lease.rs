//! The lease: when it ends, how its end is reported, and how much of it remains after a reboot.

use super::*;

#[test]
fn the_lease_ends_by_age_and_by_date_and_erases_nothing() {
    for lease in [Lease { max_age_s: 600, not_after: T0 + 9999 }, Lease { max_age_s: 9999, not_after: T0 + 600 }] {
        let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
        bench.pass(Duration::from_secs(599));
        assert_eq!(bench.mode(), Mode::Paid);
        bench.pass(Duration::from_secs(1));
        assert_eq!((bench.mode(), bench.open.leave, bench.open.keep), (Mode::Free, FREE, PREMIUM));
        assert_eq!((bench.last().cause, bench.cuts.clone()), (Cause::Lease, vec![None]));
        bench.live(&Entitlement {
            reason: Reason::Renewed,
            iat: T0 + 600,
            lease: Lease { max_age_s: 600, not_after: T0 + 9999 },
            ..premium(42)
        });
        assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    }
}

#[test]
fn the_used_part_of_a_lease_survives_a_reboot_and_the_age_at_receipt_counts() {
    let lease = Lease { max_age_s: 7200, not_after: T0 + 999_999 };
    let mut bench = Bench::confirmed(&Entitlement { iat: T0 - 600, lease, ..premium(41) });
    let view = bench.engine.view(bench.now);
    assert_eq!((view.lease_left, view.lease), (Some(Duration::from_secs(6600)), Some(Duration::from_secs(7200))));
    bench.pass(Duration::from_secs(3700));
    let bench = bench.reboot();
    let view = bench.engine.view(bench.now);
    let left = view.lease_left.unwrap();
    assert!((Duration::from_secs(2900)..=Duration::from_secs(3000)).contains(&left), "{left:?}");
    assert_eq!(view.lease, Some(Duration::from_secs(7200)));
}

#[test]
fn a_lease_used_far_beyond_its_end_is_over_without_overflow() {
    let mut bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    record.lease_used_s = u64::MAX;
    bench.engine = Engine::new(bench.keys.settings(), Restored::Record(Box::new(record)), bench.now);
    bench.pass(Duration::from_secs(5));
    assert_eq!((bench.mode(), bench.engine.view(bench.now).lease_left), (Mode::Free, Some(Duration::ZERO)));
}

#[test]
fn a_lease_that_ends_during_the_write_is_cut_and_reported_last() {
    let lease = Lease { max_age_s: 60, not_after: T0 + 9999 };
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { lease, ..premium(42) });
    bench.now.boot += Duration::from_secs(61);
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().mode), (FREE, Mode::Free, Mode::Free));
    let tickets: Vec<u64> = bench.reports.iter().map(|(ticket, _)| *ticket).collect();
    assert!(tickets.is_sorted(), "{tickets:?}");
}

#[test]
fn the_report_of_a_lease_that_ended_offline_survives_a_power_cut() {
    for transfers in [0, 1] {
        let lease = Lease { max_age_s: 600, not_after: T0 + 9999 };
        let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
        bench.event(Event::Lost(Some(Connection(1))));
        bench.transfers = transfers;
        bench.pass(Duration::from_secs(601));
        let mut bench = bench.reboot();
        bench.connect(2);
        assert_eq!((bench.reports[0].1.cause, bench.reports[0].1.mode), (Cause::Lease, Mode::Free));
    }
}

#[test]
fn a_lease_that_ends_while_its_document_is_being_written_closes_the_gate() {
    let lease = Lease { max_age_s: 8, not_after: T0 + 9999 };
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { lease, ..premium(42) });
    bench.pass(Duration::from_secs(7));
    assert_eq!(bench.open.leave, PREMIUM);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.open.leave, bench.cuts.as_slice()), (FREE, &[None][..]), "cut at once, and nothing erased");
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().mode), (FREE, Mode::Free, Mode::Free));
}

#[test]
fn the_end_of_a_lease_is_persisted_and_the_end_of_a_grace_is_not() {
    let lease = Lease { max_age_s: 1000, not_after: T0 + 172_800 };
    let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
    bench.pass(Duration::from_secs(999));
    bench.log.clear();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.log, ["cut", "open", "report", "persist"]);

    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.log.clear();
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.log.as_slice(), bench.open.leave), (&["cut", "open"][..], FREE));
}
