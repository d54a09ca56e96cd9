//! Random histories of everything that moves money; after each step the ledger must balance.

use care_cloud::domain::{
    actions::{Action, ActionError, PaidPlan},
    catalogue::Cycle,
    preview::Offer,
};
use care_protocol::{Channel, RefundKind};
use proptest::prelude::*;

use super::world::{DAY, NOW, World, cam, cancel, subscribe};

const CAMERAS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, PaidPlan, Cycle, Channel),
    Cancel(usize),
    Downgrade(usize),
    StoreCancel(usize, Option<u64>),
    Withdraw(usize),
    Unbind(usize),
    Bind(usize),
    Trial(usize),
    Card(bool, Option<u64>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let camera = || 0..CAMERAS;
    let plan = prop_oneof![Just(PaidPlan::Plus), Just(PaidPlan::Premium)];
    let cycle = prop_oneof![Just(Cycle::Monthly), Just(Cycle::Annual)];
    let channel = prop_oneof![6 => Just(Channel::Portal), 1 => Just(Channel::AppStore)];
    prop_oneof![
        6 => (camera(), plan, cycle, channel).prop_map(|(n, plan, cycle, channel)| Step::Subscribe(n, plan, cycle, channel)),
        4 => camera().prop_map(Step::Cancel),
        3 => camera().prop_map(Step::Downgrade),
        1 => (camera(), prop::option::of(0..40 * DAY)).prop_map(|(n, ends_in)| Step::StoreCancel(n, ends_in)),
        1 => camera().prop_map(Step::Withdraw),
        1 => camera().prop_map(Step::Unbind),
        1 => camera().prop_map(Step::Bind),
        1 => camera().prop_map(Step::Trial),
        2 => (any::<bool>(), prop::option::of(0..9 * DAY)).prop_map(|(good, grace)| Step::Card(good, grace)),
        6 => prop_oneof![0..3 * DAY, 0..400 * DAY].prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_balances_after_every_step(steps in prop::collection::vec(step(), 1..30)) {
        let world = World::new(CAMERAS);
        let mut now = NOW;
        for step in steps {
            let before = world.orders();
            let (action, shown): (_, Option<Result<Offer, ActionError>>) = match step {
                Step::Subscribe(n, plan, cycle, channel) => (subscribe(n, plan, cycle, channel), None),
                Step::Cancel(n) => (cancel(n), Some(world.offer(n, false, now))),
                Step::Downgrade(n) => (Action::Downgrade { camera: cam(n), quote: None }, Some(world.offer(n, true, now))),
                Step::StoreCancel(n, ends_in_s) => (Action::StoreCancel { camera: cam(n), ends_in_s }, None),
                Step::Withdraw(n) => (Action::Withdraw { camera: cam(n) }, None),
                Step::Unbind(n) => (Action::Unbind { camera: cam(n) }, None),
                Step::Bind(n) => (Action::Bind { camera: cam(n), account: "acct".into() }, None),
                Step::Trial(n) => (Action::StartTrial { camera: cam(n), plan: None, ends_in_s: None }, None),
                Step::Card(true, _) => (Action::PaymentRecovers { account: "acct".into() }, None),
                Step::Card(false, grace_s) => (Action::PaymentFails { account: "acct".into(), grace_s }, None),
                Step::Pass(seconds) => {
                    now += seconds;
                    world.end_periods(now);
                    balances(&world)?;
                    continue;
                }
            };
            let previewed = world.db.transact(|tx| world.issuer.preview(tx, &action, now));
            prop_assert_eq!(world.orders(), before.clone(), "a preview costs nothing");
            let done = world.act(action, now);
            match (&previewed, &done) {
                (Ok(previewed), Ok(done)) => {
                    prop_assert_eq!(&previewed.back, &done.back);
                    let told: Vec<_> = done.issued.iter().map(|issued| (&issued.device, &issued.plan)).collect();
                    prop_assert_eq!(previewed.plans.iter().map(|change| (&change.device, &change.to)).collect::<Vec<_>>(), told);
                }
                (previewed, done) => prop_assert_eq!(previewed.is_ok(), done.is_ok(), "previewed exactly if it is done"),
            }
            if let Err(ActionError::Db(e)) = &done {
                return Err(TestCaseError::fail(format!("the book refused: {e}")));
            }
            match (shown, done) {
                (Some(Ok(shown)), Ok(done)) => {
                    let [order, others @ ..] = &done.back[..] else { return Err(TestCaseError::fail("an order goes back")) };
                    let paid_out: u64 = others.iter().map(|other| other.refund.amount_minor).sum();
                    prop_assert!(others.iter().all(|other| other.refund.kind == RefundKind::Refund));
                    prop_assert_eq!(paid_out, shown.credit_paid_out_minor);
                    prop_assert_eq!((&order.id, order.refund.kind, order.refund.amount_minor), (&shown.order_id, shown.kind, shown.amount_minor));
                    let (.., booked) = world.orders().into_iter().find(|(id, ..)| *id == order.id).unwrap();
                    let back = match shown.kind {
                        RefundKind::Refund => (shown.amount_minor, 0),
                        RefundKind::Credit => (0, shown.amount_minor),
                    };
                    prop_assert_eq!((booked.refunded, booked.credited, booked.held()), (back.0, back.1, 0));
                }
                (Some(shown), done) => prop_assert_eq!(shown.is_ok(), done.is_ok(), "offered exactly if it is done"),
                (None, Err(_)) => prop_assert_eq!(world.orders(), before, "what is refused costs nothing"),
                (None, Ok(_)) => {}
            }
            balances(&world)?;
        }
        // Once everything has ended nothing is held: used + refunded + credited = paid.
        while let Some(subscription) = world.running("acct").first() {
            prop_assert!(world.end("acct", subscription, now).is_ok(), "{subscription:?}");
        }
        balances(&world)?;
        prop_assert!(world.orders().iter().all(|(.., balance)| balance.held() == 0), "{:?}", world.orders());
    }
}

fn balances(world: &World) -> Result<(), TestCaseError> {
    let (mut cash_in, mut cash_out, mut used, mut held) = (0, 0, 0, 0);
    for (id, price, balance) in world.orders() {
        prop_assert_eq!(balance.total(), price, "{} is paid", id);
        prop_assert!(balance.used + balance.refunded + balance.credited <= price, "{}: {:?}", id, balance);
        let running: bool = world
            .db
            .read(|c| {
                // In grace and on hold a subscription has its last paid order until the next is paid.
                let sql = "SELECT EXISTS (SELECT 1 FROM subscriptions WHERE order_id = ?1 AND state IN ('active', 'ending'))";
                Ok(c.query_row(sql, [&id], |r| r.get(0))?)
            })
            .unwrap();
        let unpaid: bool = world
            .db
            .read(|c| {
                let sql = "SELECT EXISTS (SELECT 1 FROM subscriptions WHERE order_id = ?1 AND state IN ('grace', 'hold'))";
                Ok(c.query_row(sql, [&id], |r| r.get(0))?)
            })
            .unwrap();
        if !unpaid {
            prop_assert_eq!(balance.held(), if running { price } else { 0 }, "{}: held while it runs, accounted for after", id);
        }
        cash_in += balance.paid;
        cash_out += balance.refunded + balance.paid_out;
        used += balance.used;
        held += balance.held();
    }
    // Credit never goes below nothing, and all the money is somewhere.
    prop_assert_eq!(cash_in, cash_out + used + held + world.credit());
    Ok(())
}
