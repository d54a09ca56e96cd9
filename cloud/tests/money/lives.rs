//! Random lives of accounts: cameras are added, moved and removed, plans are bought, changed and cancelled on the portal and in app
//! stores, cards fail, time passes. After every step the money balances, the owner can end every subscription, and every
//! camera has exactly the plan that is paid for.

use std::collections::BTreeSet;

use care_cloud::{
    domain::{
        actions::{Action, ActionError, PaidPlan},
        catalogue::{Cycle, Tier},
        issuer::{Phase, newest_body},
        money::ledger::{balance, credit},
    },
    portal::account_view,
};
use care_protocol::Channel;
use proptest::prelude::*;

use super::world::{DAY, NOW, World, cam, cancel, subscribe};

const CAMERAS: usize = 3;
const ACCOUNTS: [&str; 2] = ["acct", "other"];
/// Before 1 December 2022, when what the app stores had sold was still changed on the portal: some lives begin there.
const BEFORE_THE_STORES: u64 = 1_665_000_000;

#[derive(Debug, Clone)]
enum Step {
    Subscribe(usize, PaidPlan, Cycle, Channel),
    Cancel(usize),
    Downgrade(usize),
    /// By its order, the nth of what runs in an account; in its store if it was bought there.
    CancelOrder(usize, usize),
    StoreCancel(usize, Option<u64>),
    Withdraw(usize),
    Unbind(usize),
    Bind(usize, usize),
    Trial(usize),
    Card(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (camera, account) = (|| 0..CAMERAS, || 0..ACCOUNTS.len());
    let plan = prop_oneof![Just(PaidPlan::Plus), Just(PaidPlan::Premium)];
    let cycle = prop_oneof![3 => Just(Cycle::Monthly), 1 => Just(Cycle::Annual)];
    let channel = prop_oneof![3 => Just(Channel::Portal), 1 => Just(Channel::AppStore), 1 => Just(Channel::PlayStore)];
    prop_oneof![
        6 => (camera(), plan, cycle, channel).prop_map(|(n, plan, cycle, channel)| Step::Subscribe(n, plan, cycle, channel)),
        3 => camera().prop_map(Step::Cancel),
        3 => camera().prop_map(Step::Downgrade),
        2 => (account(), 0..3_usize).prop_map(|(account, nth)| Step::CancelOrder(account, nth)),
        1 => (camera(), prop::option::of(0..40 * DAY)).prop_map(|(n, ends_in)| Step::StoreCancel(n, ends_in)),
        1 => camera().prop_map(Step::Withdraw),
        2 => camera().prop_map(Step::Unbind),
        4 => (camera(), account()).prop_map(|(n, account)| Step::Bind(n, account)),
        1 => camera().prop_map(Step::Trial),
        2 => (account(), any::<bool>()).prop_map(|(account, good)| Step::Card(account, good)),
        6 => prop_oneof![0..3 * DAY, 0..60 * DAY].prop_map(Step::Pass),
    ]
}

fn take(world: &World, step: Step, now: &mut u64) -> Result<(), ActionError> {
    let action = match step {
        Step::Subscribe(n, plan, cycle, channel) => subscribe(n, plan, cycle, channel),
        Step::Cancel(n) => cancel(n),
        Step::Downgrade(n) => Action::Downgrade { camera: cam(n), quote: None },
        Step::CancelOrder(account, nth) => {
            let account = ACCOUNTS[account];
            return world.running(account).get(nth).map_or(Ok(()), |subscription| world.end(account, subscription, *now));
        }
        Step::StoreCancel(n, ends_in_s) => Action::StoreCancel { camera: cam(n), ends_in_s },
        Step::Withdraw(n) => Action::Withdraw { camera: cam(n) },
        Step::Unbind(n) => Action::Unbind { camera: cam(n) },
        Step::Bind(n, account) => Action::Bind { camera: cam(n), account: ACCOUNTS[account].into() },
        Step::Trial(n) => Action::StartTrial { camera: cam(n), plan: None, ends_in_s: None },
        Step::Card(account, true) => Action::PaymentRecovers { account: ACCOUNTS[account].into() },
        Step::Card(account, false) => Action::PaymentFails { account: ACCOUNTS[account].into(), grace_s: None },
        Step::Pass(seconds) => {
            *now += seconds;
            world.end_periods(*now);
            return Ok(());
        }
    };
    world.act(action, *now)?;
    world.end_periods(*now);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn money_balances_every_subscription_can_be_ended_and_plans_match_payments(
        early in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let world = World::new(CAMERAS);
        let mut now = if early { BEFORE_THE_STORES } else { NOW };
        for step in steps {
            let said = format!("{step:?}");
            if let Err(ActionError::Db(e)) = take(&world, step, &mut now) {
                return Err(TestCaseError::fail(format!("{said}: the book refused: {e}")));
            }
            for account in ACCOUNTS {
                money(&world, account, &said)?;
                reach(&world, account, now, &said)?;
            }
            plans(&world, now, &said)?;
        }
        // Whatever runs can be ended by its order, with no camera left; then nothing is held and no credit waits for nothing.
        for n in 0..CAMERAS {
            drop(world.act(Action::Unbind { camera: cam(n) }, now));
        }
        for account in ACCOUNTS {
            while let Some(subscription) = world.running(account).first() {
                prop_assert!(world.end(account, subscription, now).is_ok(), "{subscription:?}");
            }
            money(&world, account, "the end")?;
            prop_assert_eq!(world.db.read(|c| credit(c, account, "USD")).unwrap(), 0);
        }
        prop_assert!(world.orders().iter().all(|(.., balance)| balance.held() == 0), "{:?}", world.orders());
    }
}

/// What was paid was used, went back, or waits as credit or in a running order.
fn money(world: &World, account: &str, said: &str) -> Result<(), TestCaseError> {
    let orders: Vec<(String, u64, String)> = world
        .db
        .read(|c| {
            let mut statement = c.prepare("SELECT order_id, price_minor, channel FROM orders WHERE account = ?1")?;
            Ok(statement.query_map([account], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_, _>>()?)
        })
        .unwrap();
    let running: BTreeSet<_> = world.running(account).into_iter().map(|subscription| subscription.order_id).collect();
    let (mut paid, mut used, mut back, mut held) = (0, 0, 0, 0);
    for (id, price, channel) in orders {
        let balance = world.db.read(|c| balance(c, &id)).unwrap();
        prop_assert_eq!(balance.total(), price, "{}: {} is paid in full", said, id);
        prop_assert!(balance.paid_out <= balance.credited, "{}: {} {:?}", said, id, balance);
        prop_assert!(running.contains(&id) || balance.held() == 0, "{}: {} is over, {:?}", said, id, balance);
        if channel != Channel::Portal.as_str() {
            prop_assert_eq!((balance.credit_used, balance.credited), (0, 0), "{}: {} is an app store's", said, id);
        }
        paid += balance.paid;
        used += balance.used;
        back += balance.refunded + balance.paid_out;
        held += balance.held();
    }
    let credit = world.db.read(|c| credit(c, account, "USD")).unwrap();
    prop_assert_eq!(paid, used + back + held + credit, "{}: {}", said, account);
    let billed = world.running(account).iter().any(|s| s.channel == Channel::Portal && s.phase != Phase::Ending);
    prop_assert!(credit == 0 || billed, "{}: {} has a credit of {} that no bill will take", said, account, credit);
    Ok(())
}

/// What runs is on the portal, and is cancelled there unless a store sold it.
fn reach(world: &World, account: &str, now: u64, said: &str) -> Result<(), TestCaseError> {
    let Some(view) = world.db.read(|c| account_view::of(c, &world.issuer, account, now)).unwrap() else { return Ok(()) };
    let shown = view.cameras.iter().filter_map(|camera| camera.subscription.as_ref()).chain(&view.apart);
    let shown: BTreeSet<_> = shown.map(|subscription| subscription.order_id.clone()).collect();
    let running = world.running(account);
    let runs: BTreeSet<_> = running.iter().map(|subscription| subscription.order_id.clone()).collect();
    prop_assert_eq!(shown, runs, "{}: {}", said, account);
    for subscription in running {
        let offered = world.db.transact(|tx| world.issuer.offer_for_order(tx, account, &subscription.order_id, now));
        match offered {
            Ok(_) => prop_assert!(subscription.changes_here()),
            Err(ActionError::BoughtInApp(_)) => prop_assert!(!subscription.changes_here()),
            Err(e) => return Err(TestCaseError::fail(format!("{said}: {subscription:?}: {e}"))),
        }
    }
    Ok(())
}

/// Each camera's newest document is that of the best plan that covers it, and no other.
fn plans(world: &World, now: u64, said: &str) -> Result<(), TestCaseError> {
    for n in 0..CAMERAS {
        let row = "SELECT account, bound FROM cameras WHERE device = ?1";
        let (account, bound): (String, bool) =
            world.db.read(|c| Ok(c.query_row(row, [cam(n).as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?)).unwrap();
        let body = world.db.read(|c| newest_body(c, &cam(n))).unwrap().expect("a document");
        if !bound {
            prop_assert!(!body.policy.clips && !body.policy.snapshots, "{}: {} is nobody's", said, cam(n));
            continue;
        }
        let mut best = Tier::Free;
        for subscription in world.running(&account) {
            let covers = match subscription.phase {
                Phase::Active => {
                    // It goes on because its running period is paid.
                    let period = (subscription.started_at, subscription.period_end);
                    prop_assert!(period.0 <= now && now < period.1, "{}: {:?} at {}", said, subscription, now);
                    true
                }
                Phase::Ending | Phase::Grace => now < subscription.due_at,
                Phase::Hold => false,
            };
            if covers && subscription.device.as_ref().is_none_or(|device| *device == cam(n)) {
                best = best.max(subscription.tier);
            }
        }
        prop_assert_eq!(&body.plan, best.as_str(), "{}: {}", said, cam(n));
        prop_assert_eq!(body.policy, world.issuer.catalogue.policy(best, "KC420WS"), "{}: {}", said, cam(n));
    }
    Ok(())
}
