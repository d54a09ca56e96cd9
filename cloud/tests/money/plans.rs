//! The rules of an account: one trial, one billing cycle, ten seats, and app purchases from before December 2022.

use care_cloud::domain::{
    actions::{Action, ActionError, PaidPlan},
    catalogue::Cycle::{Annual, Monthly},
};
use care_protocol::{Channel, Reason, RefundKind};

use super::world::{DAY, NOW, World, cam, cancel, subscribe};

fn trial(n: usize) -> Action {
    Action::StartTrial { camera: cam(n), plan: None, ends_in_s: None }
}

#[test]
fn a_trial_announces_its_end_costs_nothing_and_ends_by_itself() {
    let world = World::new(2);
    world.act(trial(0), NOW).unwrap();
    for n in 0..2 {
        let document = world.newest(n);
        assert_eq!((document.plan.as_str(), document.reason), ("premium", Reason::TrialStarted));
        let next = document.next.expect("its end is known");
        assert_eq!((next.plan.as_str(), next.effective_at, next.reason), ("free", NOW + 30 * DAY, Reason::TrialEnded));
    }
    world.end_periods(NOW + 30 * DAY - 1);
    assert_eq!(world.newest(0).plan.as_str(), "premium");
    world.end_periods(NOW + 30 * DAY);
    assert_eq!((world.newest(0).plan.as_str(), world.newest(0).reason), ("free", Reason::TrialEnded));
    assert_eq!(world.orders()[0].1, 0);
}

#[test]
fn an_account_has_one_trial_however_it_ended_and_whichever_camera_asks() {
    let world = World::new(2);
    world.act(trial(0), NOW).unwrap();
    assert!(matches!(world.act(trial(1), NOW), Err(ActionError::HasPlan { .. })));
    let done = world.act(cancel(0), NOW + DAY).unwrap();
    assert_eq!((done.back[0].refund.kind, done.back[0].refund.amount_minor), (RefundKind::Refund, 0));
    let document = world.newest(0);
    assert_eq!(
        (document.plan.as_str(), document.reason, document.next),
        ("free", Reason::Cancelled, None),
        "at once: what was pending is gone"
    );
    assert!(matches!(world.act(trial(1), NOW + DAY), Err(ActionError::TrialUsed(_))));
    world.act(Action::Bind { camera: cam(0), account: "next".into() }, NOW + DAY).unwrap();
    world.act(trial(0), NOW + DAY).unwrap();
}

#[test]
fn a_trial_can_be_bought_before_it_ends_and_then_does_not_end() {
    let world = World::new(1);
    world.act(trial(0), NOW).unwrap();
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW + DAY);
    let document = world.newest(0);
    assert_eq!((document.plan.as_str(), document.reason, document.next), ("premium", Reason::Subscribed, None));
    world.end_periods(NOW + 31 * DAY);
    assert_eq!(world.newest(0).plan.as_str(), "premium");
}

#[test]
fn a_plus_of_ones_own_goes_on_under_a_trial_and_after_it() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    world.act(trial(1), NOW).unwrap();
    assert_eq!(world.newest(0).plan.as_str(), "premium");
    assert_eq!(world.newest(0).next.unwrap().plan.as_str(), "plus");
    let downgrade = Action::Downgrade { camera: cam(0), quote: None };
    assert!(matches!(world.act(downgrade, NOW), Err(ActionError::TrialIsNotDowngraded)));
    let again = world.act(subscribe(0, PaidPlan::Plus, Monthly, Channel::Portal), NOW);
    assert!(matches!(again, Err(ActionError::HasPlan { plan: "plus", .. })));
    world.end_periods(NOW + 30 * DAY);
    assert_eq!((world.newest(0).plan.as_str(), world.newest(1).plan.as_str()), ("plus", "free"));
    assert_eq!(world.orders().len(), 2, "the Plus and the trial, and nothing twice");
}

#[test]
fn an_account_has_one_billing_cycle_and_changes_it_by_cancelling() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Plus, Annual, NOW);
    let refused = world.act(subscribe(1, PaidPlan::Plus, Monthly, Channel::Portal), NOW).unwrap_err();
    assert!(matches!(refused, ActionError::OneCycle { have: "annual" }));
    assert!(refused.to_string().contains("cannot be recovered"), "{refused}");
    // Who does not say gets the account's.
    world.act(Action::Subscribe { camera: cam(1), plan: PaidPlan::Plus, cycle: None, channel: None, zone: None }, NOW).unwrap();
    assert_eq!(world.orders()[1].1, 3999);
    world.act(cancel(0), NOW).unwrap();
    assert!(world.act(subscribe(0, PaidPlan::Plus, Monthly, Channel::Portal), NOW).is_err(), "the other one still runs");
    world.act(cancel(1), NOW).unwrap();
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    // A trial is not billed and binds nobody to a cycle.
    let other = World::new(1);
    other.act(trial(0), NOW).unwrap();
    other.subscribe(0, PaidPlan::Premium, Annual, NOW);
}

#[test]
fn a_camera_that_gets_a_seat_does_not_go_on_paying_for_its_own_plus() {
    let world = World::new(11);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    world.subscribe(10, PaidPlan::Plus, Monthly, NOW);
    let done = world.act(Action::Unbind { camera: cam(3) }, NOW + 10 * DAY + 1).unwrap();
    assert_eq!((world.newest(10).plan.as_str(), world.newest(10).reason), ("premium", Reason::Upgraded));
    assert_eq!(
        done.back.iter().map(|order| (order.refund.kind, order.refund.amount_minor)).collect::<Vec<_>>(),
        [(RefundKind::Credit, 257)]
    );
}

#[test]
fn what_was_bought_in_the_app_before_december_2022_is_changed_here_at_once() {
    // 15 November 2022.
    let then = 1_668_500_000;
    let world = World::new(2);
    world.act(subscribe(0, PaidPlan::Premium, Annual, Channel::AppStore), then).unwrap();
    world.act(Action::StoreCancel { camera: cam(0), ends_in_s: None }, then + DAY).unwrap();
    assert!(world.newest(0).next.is_some());
    // The store's cancel is pending and the portal's arrives: the immediate one wins.
    let done = world.act(cancel(1), then + 10 * DAY + 1).unwrap();
    assert_eq!(done.back[0].refund.kind, RefundKind::Refund);
    let document = world.newest(0);
    assert_eq!((document.plan.as_str(), document.reason, document.next), ("free", Reason::Cancelled, None));

    // A month later that is over (FAQ 2116).
    let since = 1_670_000_000;
    world.act(subscribe(0, PaidPlan::Premium, Annual, Channel::AppStore), since).unwrap();
    assert!(matches!(world.act(cancel(0), since), Err(ActionError::BoughtInApp(Channel::AppStore))));
    let downgrade = Action::Downgrade { camera: cam(0), quote: None };
    assert!(matches!(world.act(downgrade, since), Err(ActionError::BoughtInApp(_))));
}

#[test]
fn only_a_store_cancel_can_be_taken_back() {
    let world = World::new(1);
    let withdraw = || world.act(Action::Withdraw { camera: cam(0) }, NOW);
    world.act(trial(0), NOW).unwrap();
    assert!(matches!(withdraw(), Err(ActionError::NothingToWithdraw(_))), "a trial would go on for ever");
    world.act(cancel(0), NOW).unwrap();
    world.act(subscribe(0, PaidPlan::Premium, Monthly, Channel::PlayStore), NOW).unwrap();
    assert!(matches!(withdraw(), Err(ActionError::NothingToWithdraw(_))));
    world.act(Action::StoreCancel { camera: cam(0), ends_in_s: Some(5) }, NOW).unwrap();
    withdraw().unwrap();
    assert_eq!(world.newest(0).next, None);
    world.end_periods(NOW + 30 * DAY);
    assert_eq!(world.newest(0).plan.as_str(), "premium", "it ends when it was to end before: never");
}

#[test]
fn a_preview_is_what_happens_and_changes_nothing() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    let action = Action::Downgrade { camera: cam(1), quote: None };
    let before = (world.orders(), world.newest(0).seq, world.newest(1).seq);
    let preview = world.db.transact(|tx| world.issuer.preview(tx, &action, NOW + DAY)).unwrap();
    assert_eq!((world.orders(), world.newest(0).seq, world.newest(1).seq), before);
    let done = world.act(action, NOW + DAY).unwrap();
    assert_eq!(preview.back, done.back);
    let told: Vec<_> = done.issued.iter().map(|issued| (issued.device.clone(), issued.plan.clone())).collect();
    assert_eq!(preview.plans.iter().map(|change| (change.device.clone(), change.to.clone())).collect::<Vec<_>>(), told);
    assert!(preview.plans.iter().all(|change| change.from.as_deref() == Some("premium")));
    let refused = world.db.transact(|tx| world.issuer.preview(tx, &Action::Withdraw { camera: cam(0) }, NOW));
    assert!(matches!(refused, Err(ActionError::NoSubscription(_))));
}
