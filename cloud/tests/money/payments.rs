//! Failed bills: grace keeps the plan and announces its end, hold is Free, and a payment restores the plan.

use care_cloud::domain::{
    actions::{Action, ActionError, PaidPlan},
    catalogue::Cycle::Monthly,
    issuer::{Issued, Phase, subscriptions},
    money::ledger::Balance,
};
use care_protocol::{Channel, Reason, RefundKind};

use super::world::{DAY, NOW, World, cam, cancel, subscribe};

const BILL: u64 = NOW + 31 * DAY;
const GRACE_END: u64 = BILL + 7 * DAY;
const HOLD_END: u64 = GRACE_END + 30 * DAY;

fn fails(world: &World, now: u64) -> Vec<Issued> {
    world.act(Action::PaymentFails { account: "acct".into(), grace_s: None }, now).unwrap().issued
}

fn recovers(world: &World, now: u64) {
    world.act(Action::PaymentRecovers { account: "acct".into() }, now).unwrap();
}

fn phase(world: &World) -> Option<Phase> {
    world.db.read(|c| Ok(subscriptions(c, "acct")?.first().map(|s| s.phase))).unwrap()
}

#[test]
fn an_unpaid_bill_leads_through_grace_and_hold_to_the_end_by_documents() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    assert!(fails(&world, NOW + DAY).is_empty(), "a card is no reason for a document, the bill is");

    world.end_periods(BILL - 1);
    assert_eq!(world.newest(0).reason, Reason::Subscribed);
    world.end_periods(BILL);
    for n in 0..2 {
        let grace = world.newest(n);
        assert_eq!((grace.plan.as_str(), grace.reason, grace.iat), ("premium", Reason::PaymentFailed, BILL));
        let next = grace.next.expect("the camera goes to Free by itself, on time, also offline");
        assert_eq!((next.plan.as_str(), next.effective_at, next.reason), ("free", GRACE_END, Reason::PaymentFailed));
    }
    world.end_periods(GRACE_END - 1);
    assert_eq!(phase(&world), Some(Phase::Grace));

    world.end_periods(GRACE_END);
    let hold = world.newest(0);
    assert_eq!((hold.plan.as_str(), hold.reason, hold.next), ("free", Reason::PaymentFailed, None));
    assert_eq!(phase(&world), Some(Phase::Hold));

    let seq = world.newest(0).seq;
    world.end_periods(HOLD_END);
    assert_eq!((phase(&world), world.newest(0).seq), (None, seq), "it was Free already");
    assert_eq!(world.orders()[0].2, Balance { paid: 999, used: 999, ..Balance::default() });
    assert_eq!(world.orders().len(), 1, "what was not paid is no order");
}

#[test]
fn paid_in_grace_the_plan_goes_on_from_the_day_the_bill_was_due() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    fails(&world, NOW);
    world.end_periods(BILL);
    recovers(&world, BILL + 3 * DAY);
    let document = world.newest(0);
    assert_eq!((document.plan.as_str(), document.reason, document.next), ("premium", Reason::PaymentRecovered, None));
    // February has 28 days: 24 are left after the fourth.
    assert_eq!(world.offer(0, false, BILL + 3 * DAY).unwrap().amount_minor, 999 * 24 / 28);
    assert_eq!(world.orders()[1].2.paid, 999);
}

#[test]
fn paid_on_hold_the_plan_begins_anew_and_days_on_free_cost_nothing() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    fails(&world, NOW);
    world.end_periods(GRACE_END);
    // 1 March: 31 days begin.
    let paid = GRACE_END + 7 * DAY;
    recovers(&world, paid);
    assert_eq!((world.newest(0).plan.as_str(), world.newest(0).reason), ("premium", Reason::PaymentRecovered));
    assert_eq!(world.offer(0, false, paid).unwrap().amount_minor, 999 * 30 / 31);
    world.end_periods(paid + 31 * DAY);
    assert_eq!(world.orders().len(), 3);
    assert_eq!(phase(&world), Some(Phase::Active));
}

#[test]
fn what_is_unpaid_can_be_cancelled_and_gives_nothing_back() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    fails(&world, NOW);
    world.end_periods(BILL);
    let done = world.act(cancel(0), BILL + DAY).unwrap();
    assert_eq!((done.back[0].refund.kind, done.back[0].refund.amount_minor), (RefundKind::Refund, 0));
    assert_eq!((world.newest(0).plan.as_str(), world.newest(0).next.clone()), ("free", None));

    // On hold as well, where the camera is Free already.
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    fails(&world, NOW);
    world.end_periods(GRACE_END);
    let done = world.act(cancel(0), GRACE_END + DAY).unwrap();
    assert!(done.issued.is_empty() && phase(&world).is_none());
}

#[test]
fn a_payment_taken_back_in_the_middle_of_a_period_leaves_the_grace_that_was_given() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    world.act(Action::PaymentFails { account: "acct".into(), grace_s: Some(60) }, NOW + DAY).unwrap();
    assert_eq!(world.newest(0).next.unwrap().effective_at, NOW + DAY + 60);
    world.end_periods(NOW + DAY + 60);
    assert_eq!(world.newest(0).plan.as_str(), "free");
    recovers(&world, NOW + 2 * DAY);
    assert_eq!((world.newest(0).plan.as_str(), world.newest(0).reason), ("premium", Reason::PaymentRecovered));
    assert_eq!(world.orders().len(), 1, "this period is paid");
    world.end_periods(BILL);
    assert_eq!(world.orders().len(), 2);
}

#[test]
fn a_declined_card_buys_nothing_and_credit_still_pays() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    fails(&world, NOW);
    // The credit of Premium pays the Plus that follows.
    world.act(Action::Downgrade { camera: cam(0), quote: None }, NOW + DAY).unwrap();
    let refused = world.act(subscribe(1, PaidPlan::Plus, Monthly, Channel::Portal), NOW + DAY);
    assert!(refused.is_ok(), "541 of credit are left");
    world.act(cancel(1), NOW + DAY).unwrap();
    world.act(cancel(0), NOW + DAY).unwrap();
    let poor = World::new(1);
    fails_without_plan(&poor);
    let refused = poor.act(subscribe(0, PaidPlan::Plus, Monthly, Channel::Portal), NOW);
    assert!(matches!(refused, Err(ActionError::Declined)));
    assert!(poor.orders().is_empty() && poor.newest(0).plan.as_str() == "free");
    // What an app store takes is the store's to worry about.
    poor.act(subscribe(0, PaidPlan::Plus, Monthly, Channel::AppStore), NOW).unwrap();
}

fn fails_without_plan(world: &World) {
    assert!(fails(world, NOW).is_empty());
    let nobody = Action::PaymentFails { account: "nobody".into(), grace_s: None };
    assert!(matches!(world.act(nobody, NOW), Err(ActionError::NoAccount(_))));
}

#[test]
fn subscribing_again_replaces_what_is_on_hold() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    world.act(Action::PaymentFails { account: "acct".into(), grace_s: None }, NOW).unwrap();
    world.end_periods(GRACE_END);
    world.db.read(|c| Ok(c.execute("UPDATE accounts SET declines = 0", [])?)).unwrap();
    world.subscribe(0, PaidPlan::Premium, Monthly, GRACE_END + DAY);
    assert_eq!((world.newest(0).plan.as_str(), world.newest(0).reason), ("premium", Reason::Subscribed));
    let running = world.db.read(|c| subscriptions(c, "acct")).unwrap();
    assert_eq!(running.iter().map(|s| s.phase).collect::<Vec<_>>(), [Phase::Active]);
}
