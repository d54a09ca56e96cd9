//! `next`: a change that the document announces and the camera performs on time.

use super::*;

#[test]
fn next_is_performed_on_time_and_its_document_never_restores_the_old_policy() {
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Cancelled, policy: FREE };
    let document = Entitlement { next: Some(next), ..premium(41) };
    let mut bench = Bench::confirmed(&document);
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.transfers = 1;
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.log, ["cut", "persist", "open", "report"]);
    assert_eq!((bench.last().cause, bench.last().judged, bench.last().seq), (Cause::Next, None, 41));
    assert_eq!((bench.mode(), bench.open.leave, bench.last().plan.clone()), (Mode::Free, FREE, Some(Plan::free())));
    bench.retained(1, &document);
    assert_eq!((bench.mode(), bench.last().outcome), (Mode::Free, Outcome::Duplicate));
    let mut bench = bench.reboot();
    bench.connect(1);
    bench.retained(1, &document);
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
}

#[test]
fn a_next_in_the_past_applies_on_arrival_and_an_unconfirmed_clock_holds_a_pending_one() {
    let next = |at| Some(Next { plan: Plan::free(), effective_at: at, reason: Reason::Cancelled, policy: FREE });
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { next: next(T0 - 1), ..premium(42) });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));

    let mut bench = Bench::confirmed(&premium(41));
    bench.now.confirmed = false;
    bench.live(&Entitlement { next: next(T0 + 1000), ..premium(42) });
    assert_eq!((bench.mode(), bench.open.leave, bench.open.keep), (Mode::Held, FREE, PREMIUM));
    bench.now.confirmed = true;
    bench.event(Event::Tick);
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_next_that_grants_opens_once_it_is_on_flash() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.disk.slow = true;
    bench.pass(Duration::from_secs(65));
    assert_eq!((bench.open.leave, bench.mode(), bench.log.as_slice()), (FREE, Mode::Free, &["persist"][..]));
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().cause), (PREMIUM, Mode::Paid, Cause::Next));
    bench.retained(1, &Entitlement { next: None, ..premium(42) });
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_next_that_fell_due_while_the_power_was_off_is_in_force_before_anything_opens() {
    let closed = Policy { clips: false, ..FREE };
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::TrialEnded, policy: closed };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..premium(41) });
    bench.pass(Duration::from_secs(10));
    let Bench { keys, camera: Camera { disk, mut now, .. }, .. } = bench;
    now.trusted += Duration::from_secs(120);
    let record = Record::read(disk.record.as_ref().unwrap()).unwrap();
    let mut engine = Engine::new(keys.settings(), Restored::Record(Box::new(record)), now);
    let mut effects = engine.boot(now);
    effects.extend(engine.decide(Event::Written { ticket: 1 }, now));
    let opened: Vec<Policy> =
        effects.iter().filter_map(|effect| if let Effect::Open(admission) = effect { Some(admission.leave) } else { None }).collect();
    assert_eq!(opened, [Policy::CLOSED, closed]);
    assert_eq!((engine.mode(now), engine.view(now).last_switch.unwrap().cause), (Mode::Free, Cause::Next));
}

#[test]
fn a_next_that_grants_opens_before_it_is_reported() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.log, ["persist", "open", "report"]);
    assert_eq!((bench.mode(), bench.last().cause, bench.last().reason.as_str()), (Mode::Paid, Cause::Next, "upgraded"));
}

#[test]
fn a_document_whose_next_falls_due_during_the_write_never_opens_its_first_policy() {
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Cancelled, policy: FREE };
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { next: Some(next), ..premium(42) });
    bench.pass(Duration::from_secs(61));
    let cuts = bench.cuts.len();
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.cuts.len()), (FREE, Mode::Free, cuts), "nothing had to be closed again");
    assert_eq!((bench.last().seq, bench.last().plan.clone(), bench.acked.len()), (42, Some(Plan::free()), 1));
}

#[test]
fn a_next_that_grants_waits_for_a_higher_document_that_is_being_written() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.disk.fails = true;
    bench.live(&free(42));
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.mode(), bench.open.keep), (Mode::Free, FREE), "the higher document has withdrawn it");
}

#[test]
fn a_next_that_restricts_is_performed_although_its_document_cannot_be_written() {
    let low = Policy { clip_max_s: 5, ..FREE };
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Downgraded, policy: low };
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.fails = true;
    bench.live(&Entitlement { next: Some(next), ..premium(42) });
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.open.leave, bench.last().seq, bench.last().persisted, bench.acked.len()), (low, 42, false, 0));
}
