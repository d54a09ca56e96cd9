//! Grants answered 402 or 403: which media they hold, and for how long.

use super::*;

#[test]
fn a_refused_grant_holds_until_a_confirmation_and_then_retries_from_five_seconds_doubling() {
    let mut bench = Bench::confirmed(&premium(41));
    for pause in [5, 10, 20, 40, 60, 60] {
        bench.forget_log();
        bench.event(Event::Refused);
        assert_eq!((bench.mode(), bench.last().cause, bench.cuts.clone()), (Mode::Held, Cause::Refused, vec![None]));
        let nonce = bench.gets.last().expect("a get is sent").nonce.clone();
        let token = premium(41).sign(&bench.keys.signer);
        bench.deliver(1, Topic::Answer, serde_json::to_vec(&Answer { nonce, token }).unwrap(), false);
        bench.pass(Duration::from_secs(pause) - Duration::from_millis(10));
        assert_eq!(bench.mode(), Mode::Held);
        bench.pass(Duration::from_millis(20));
        assert_eq!(bench.mode(), Mode::Paid);
        assert!(bench.log.contains(&"retry"));
    }
    bench.event(Event::Refused);
    bench.live(&premium(40));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(14 * 60));
    assert_eq!(bench.mode(), Mode::Held, "without a confirmation every 15 minutes");
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_refusal_on_a_free_plan_polls_and_holds_nothing() {
    let mut bench = Bench::confirmed(&free(41));
    let gets = bench.gets.len();
    bench.event(Event::Refused);
    assert_eq!((bench.mode(), bench.gets.len()), (Mode::Free, gets + 1));
}

#[test]
fn https_is_polled_only_while_a_refusal_is_unexplained() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, []);
    bench.event(Event::Refused);
    // The broker delivers messages, but none that confirms.
    bench.live(&premium(40));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    assert_eq!(bench.engine.wake_at(bench.now), Some(bench.now.boot + Duration::from_secs(5)));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2]);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2]);
}

#[test]
fn a_second_confirmation_of_the_same_refusal_changes_no_pause() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    for _ in 0..3 {
        bench.retained(1, &premium(41));
    }
    bench.pass(Duration::from_secs(5));
    bench.event(Event::Refused);
    bench.retained(1, &premium(41));
    bench.log.clear();
    bench.pass(Duration::from_millis(9_999));
    assert!(!bench.log.contains(&"retry"), "{:?}", bench.log);
    bench.pass(Duration::from_millis(1));
    assert!(bench.log.contains(&"retry"), "{:?}", bench.log);
}

#[test]
fn a_refusal_without_a_connection_polls_https_at_once() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(20));
    bench.fetches.clear();
    bench.event(Event::Refused);
    assert_eq!((bench.fetches.as_slice(), bench.gets.len()), (&[Resource::Entitlement][..], 0));
}

#[test]
fn an_unexplained_refusal_ends_after_a_quarter_of_an_hour() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    bench.live(&premium(40));
    bench.pass(Duration::from_secs(899));
    assert_eq!((bench.log.contains(&"retry"), bench.mode()), (false, Mode::Held));
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.log.contains(&"retry"), bench.mode()), (true, Mode::Paid));
    bench.fetches.clear();
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, [], "HTTPS is no longer polled about it");
}
