//! Confirmation of the recorded plan, and how paid media stays open without a connection.

use super::*;

#[test]
fn paid_media_waits_after_boot_until_the_retained_copy_confirms() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    bench.connect(1);
    assert_eq!(bench.last().mode, Mode::Held);
    bench.deliver(1, Topic::Entitlement, premium(41).sign(&bench.keys.signer), false);
    assert_eq!(bench.mode(), Mode::Held, "a copy without RETAIN may be old");
    bench.retained(1, &premium(41));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    assert_eq!((bench.last().cause, bench.last().outcome), (Cause::Confirmed, Outcome::Applied));
    assert!(bench.cuts.is_empty());
}

#[test]
fn only_the_newest_nonce_of_this_connection_confirms() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    let old = bench.gets.last().unwrap().nonce.clone();
    bench.deliver(1, Topic::Entitlement, Vec::new(), true);
    let newest = bench.gets.last().unwrap().nonce.clone();
    assert_ne!(old, newest);
    let token = premium(41).sign(&bench.keys.signer);
    let answer = |nonce: &str| serde_json::to_vec(&Answer { nonce: nonce.into(), token: token.clone() }).unwrap();
    bench.deliver(1, Topic::Answer, answer(&old), false);
    assert_eq!((bench.mode(), bench.last().outcome), (Mode::Held, Outcome::Duplicate), "judged, but confirms nothing");
    bench.deliver(1, Topic::Answer, answer(&newest), false);
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_lost_connection_holds_paid_media_after_ten_seconds_without_an_answer() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 1;
    bench.event(Event::Lost(Some(Connection(1))));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.pass(Duration::from_millis(9_900));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.pass(Duration::from_millis(200));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    assert_eq!(bench.cuts, [None], "holding erases nothing");
}

#[test]
fn https_keeps_paid_open_for_ninety_seconds_and_is_polled_every_sixty() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    for _ in 0..5 {
        bench.fetches.clear();
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
        bench.pass(Duration::from_secs(60));
        assert_eq!((bench.mode(), bench.fetches.clone()), (Mode::Paid, vec![Resource::Entitlement]));
    }
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn only_a_404_followed_by_silence_lets_the_lease_open_paid_media() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    for _ in 0..3 {
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_secs(120));
        assert_eq!(bench.mode(), Mode::Held, "without an answer nothing opens");
    }
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_millis(14_900));
    assert_eq!(bench.mode(), Mode::Held);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_message_during_the_silence_keeps_paid_media_closed() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(5));
    bench.retained(1, &Entitlement { aud: "OTHER".parse().unwrap(), ..premium(41) });
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn a_deaf_connection_does_not_count() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.connect(2);
    bench.event(Event::Subscribed(Connection(2)));
    bench.pass(Duration::from_secs(2));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
    assert_eq!((bench.mode(), bench.engine.view(bench.now).broker_deaf), (Mode::Paid, false));
    bench.forget_log();
    bench.pass(Duration::from_secs(8));
    assert!(bench.engine.view(bench.now).broker_deaf, "ten seconds after the get");
    assert!(bench.last().detail.as_ref().is_some_and(|detail| detail.contains("granted the subscription")), "{:?}", bench.last());
    assert_eq!((bench.last().outcome, bench.last().mode), (Outcome::Applied, Mode::Paid));
    for asked in 1..=3 {
        assert_eq!(bench.fetches.len(), asked, "at once, and every 60 s");
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.mode(), Mode::Paid);
    }
    let cancel = free(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(cancel.into())));
    assert_eq!(bench.mode(), Mode::Free);

    bench.deliver(2, Topic::Entitlement, "nonsense", false);
    assert!(!bench.engine.view(bench.now).broker_deaf, "a message has arrived");
    bench.pass(Duration::from_millis(1));
    assert!(bench.reports.iter().any(|(_, report)| report.outcome == Outcome::Applied && report.detail.is_none()));
}

#[test]
fn a_deaf_connection_confirms_nothing_and_an_unbound_camera_expects_no_document() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    let token = premium(41).sign(&bench.keys.signer);
    bench.pass(Duration::from_secs(5));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(14));
    assert_eq!(bench.mode(), Mode::Paid, "in its grace");
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.mode(), Mode::Held, "neither the broker nor the API says anything");

    let mut bench = Bench::new();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    bench.pass(Duration::from_secs(2));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(60));
    assert!(!bench.engine.view(bench.now).broker_deaf, "there is nothing to deliver");
}

/// The broker's rules let the camera read answers and keep the entitlement.
#[test]
fn a_connection_that_delivers_only_answers_hides_no_cancel() {
    let mut bench = Bench::confirmed(&premium(41));
    let token = premium(41).sign(&bench.keys.signer);
    let answer = |bench: &Bench, document: &Entitlement| {
        let nonce = bench.gets.last().unwrap().nonce.clone();
        serde_json::to_vec(&Answer { nonce, token: document.sign(&bench.keys.signer) }).unwrap()
    };
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
    bench.connect(2);
    bench.event(Event::Subscribed(Connection(2)));
    bench.deliver(2, Topic::Answer, answer(&bench, &premium(41)), false);
    for minute in 1..=3 {
        bench.forget_log();
        bench.pass(Duration::from_secs(60));
        assert_eq!((bench.fetches.len(), bench.gets.len()), (1, 1), "in minute {minute}");
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
        bench.deliver(2, Topic::Answer, answer(&bench, &premium(41)), false);
        assert_eq!((bench.mode(), bench.engine.view(bench.now).broker_deaf), (Mode::Paid, false), "it may have no retained messages");
    }
    bench.pass(Duration::from_secs(60));
    bench.deliver(2, Topic::Answer, answer(&bench, &free(42)), false);
    assert_eq!(bench.mode(), Mode::Free);
    bench.pass(Duration::from_secs(10));
    assert!(bench.engine.view(bench.now).broker_deaf, "the cancel was published ten seconds ago at least");
    bench.deliver(2, Topic::Entitlement, free(42).sign(&bench.keys.signer), false);
    assert!(!bench.engine.view(bench.now).broker_deaf);
    bench.forget_log();
    bench.pass(Duration::from_secs(300));
    assert_eq!((bench.fetches.len(), bench.gets.len()), (0, 0), "it hears of changes");
}

#[test]
fn one_lost_poll_does_not_interrupt_paid_media() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    let found = || Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into()));
    for lost in [Fetched::Failed, Fetched::Declined] {
        bench.event(found());
        bench.forget_log();
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.fetches.len(), 1);
        // The timeout of an answer.
        bench.pass(Duration::from_secs(10));
        bench.event(Event::Fetched(Resource::Entitlement, lost));
        bench.pass(Duration::from_secs(15));
        assert_eq!((bench.fetches.len(), bench.mode()), (2, Mode::Paid));
    }
    bench.event(found());
    assert_eq!((bench.mode(), bench.cuts.as_slice()), (Mode::Paid, &[][..]));
}

#[test]
fn a_404_after_a_loss_opens_after_fifteen_seconds_of_silence_although_the_grace_ends_after_ten() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.mode(), Mode::Held);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.mode(), Mode::Paid);
    for _ in 0..5 {
        bench.fetches.clear();
        bench.pass(Duration::from_secs(60));
        assert_eq!((bench.mode(), bench.fetches.len()), (Mode::Paid, 1));
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    }
    bench.pass(Duration::from_secs(59));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(120));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn a_declined_poll_is_repeated_after_five_seconds() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_millis(4_999));
    assert_eq!((bench.fetches.len(), bench.mode()), (1, Mode::Paid));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.fetches.len(), 2);
}

/// Found by the simulation, seed 981.
#[test]
fn an_https_confirmation_before_the_subscribe_does_not_confirm_that_connection() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    let token = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.connect(1);
    bench.now.boot += Duration::from_secs(91);
    bench.sync();
    assert_eq!((bench.mode(), bench.engine.is_confirmed(), bench.open.leave), (Mode::Held, false, FREE));
}

#[test]
fn only_an_unconfirming_document_on_an_unconfirmed_connection_triggers_get() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&premium(42));
    assert!(bench.gets.is_empty(), "this connection has confirmed");

    let mut bench = Bench::new();
    bench.connect(1);
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(7).sign(&bench.keys.root), true);
    bench.event(Event::Subscribed(Connection(1)));
    bench.gets.clear();
    bench.live(&premium(41));
    assert_eq!(bench.gets.len(), 1);
    bench.retained(1, &premium(42));
    assert_eq!((bench.gets.len(), bench.mode()), (1, Mode::Paid), "the retained copy confirms itself");
}

#[test]
fn an_unanswered_get_is_followed_by_https() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.connect(2);
    bench.fetches.clear();
    bench.event(Event::Subscribed(Connection(2)));
    assert_eq!(bench.engine.wake_at(bench.now), Some(bench.now.boot + Duration::from_secs(2)));
    bench.pass(Duration::from_millis(1_999));
    assert_eq!((bench.fetches.as_slice(), bench.gets.len()), (&[][..], 1));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2], "and every minute until this connection confirms");
}

#[test]
fn without_answers_https_is_polled_every_two_seconds_in_the_grace_and_every_minute_after_it() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.event(Event::Lost(Some(Connection(1))));
    for asked in 1..=5 {
        assert_eq!(bench.fetches.len(), asked);
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_millis(1_999));
        assert_eq!(bench.fetches.len(), asked);
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!((bench.fetches.len(), bench.open.leave), (6, FREE), "the grace is over");
    for (asked, pause) in [(6, 5), (7, 10), (8, 20), (9, 60)] {
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_millis(pause * 1000 - 1));
        assert_eq!(bench.fetches.len(), asked);
        bench.pass(Duration::from_millis(1));
        assert_eq!(bench.fetches.len(), asked + 1);
    }
}
