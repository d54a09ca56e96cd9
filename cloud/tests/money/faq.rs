//! The FAQ's table, row by row, with figures computed by hand, and the use of credit.

use care_cloud::domain::{
    actions::{Action, ActionError, PaidPlan, Quote},
    catalogue::Cycle::{self, Annual, Monthly},
    money::{Zone, ledger::Balance},
};
use care_protocol::{
    Channel, Reason,
    RefundKind::{self, Credit, Refund},
};

use super::world::{DAY, NOW, World, cam, cancel, subscribe};
use care_cloud::params;

struct Row {
    cycle: Cycle,
    from: PaidPlan,
    downgrade: bool,
    others: bool,
    kind: RefundKind,
    amount_minor: u64,
    history_h: u32,
}

/// Eleven days are used. Monthly: 20 of 31 days are left of 3.99 or 9.99; annual: 354 of 365 of 39.99 or 99.99.
#[rustfmt::skip]
const TABLE: [Row; 12] = [
    Row { cycle: Monthly, from: PaidPlan::Plus,    downgrade: false, others: false, kind: Refund, amount_minor: 257,  history_h: 48 },
    Row { cycle: Monthly, from: PaidPlan::Plus,    downgrade: false, others: true,  kind: Credit, amount_minor: 257,  history_h: 48 },
    Row { cycle: Monthly, from: PaidPlan::Premium, downgrade: false, others: false, kind: Refund, amount_minor: 644,  history_h: 48 },
    Row { cycle: Monthly, from: PaidPlan::Premium, downgrade: false, others: true,  kind: Credit, amount_minor: 644,  history_h: 48 },
    Row { cycle: Monthly, from: PaidPlan::Premium, downgrade: true,  others: false, kind: Credit, amount_minor: 644,  history_h: 336 },
    Row { cycle: Monthly, from: PaidPlan::Premium, downgrade: true,  others: true,  kind: Credit, amount_minor: 644,  history_h: 336 },
    Row { cycle: Annual,  from: PaidPlan::Plus,    downgrade: false, others: false, kind: Refund, amount_minor: 3878, history_h: 48 },
    Row { cycle: Annual,  from: PaidPlan::Plus,    downgrade: false, others: true,  kind: Credit, amount_minor: 3878, history_h: 48 },
    Row { cycle: Annual,  from: PaidPlan::Premium, downgrade: false, others: false, kind: Refund, amount_minor: 9697, history_h: 48 },
    Row { cycle: Annual,  from: PaidPlan::Premium, downgrade: false, others: true,  kind: Credit, amount_minor: 9697, history_h: 48 },
    Row { cycle: Annual,  from: PaidPlan::Premium, downgrade: true,  others: false, kind: Credit, amount_minor: 9697, history_h: 336 },
    Row { cycle: Annual,  from: PaidPlan::Premium, downgrade: true,  others: true,  kind: Credit, amount_minor: 9697, history_h: 336 },
];

#[test]
fn the_faqs_table_holds_for_mode_money_and_history() {
    for (n, row) in TABLE.iter().enumerate() {
        // The eleventh camera has no seat in Premium, so it may have its own Plus beside it.
        let world = World::new(11);
        world.subscribe(0, row.from, row.cycle, NOW);
        if row.others {
            world.subscribe(10, PaidPlan::Plus, row.cycle, NOW);
        }
        let now = NOW + 10 * DAY + 1;
        // Clips of every age that one of the plans tells apart.
        for (clip, hours) in [("h1", 1), ("h47", 47), ("h49", 49), ("h335", 335), ("h337", 337), ("h719", 719)] {
            let started_ms = (now - hours * 3600) * 1000;
            let sql = "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at)
                       VALUES (?1, 'CAM0', 1, 'motion', ?2, 5000, 9, '', 1)";
            world.db.read(|c| Ok(c.execute(sql, params![clip, started_ms])?)).unwrap();
        }

        let shown = world.offer(0, row.downgrade, now).unwrap();
        let quote = Some(Quote { order_id: shown.order_id.clone(), kind: shown.kind, amount_minor: shown.amount_minor, at: shown.at });
        let action = match row.downgrade {
            true => Action::Downgrade { camera: cam(0), quote },
            false => Action::Cancel { camera: cam(0), quote },
        };
        let done = world.act(action, now).unwrap();

        // The camera's mode, at once: a document, under the new plan's limits, with nothing to wait for.
        let document = world.newest(0);
        let plan = if row.downgrade { ("plus", Reason::Downgraded) } else { ("free", Reason::Cancelled) };
        assert_eq!((document.plan.as_str(), document.reason), plan, "row {n}");
        assert_eq!((document.iat, document.next, document.policy.history_h), (now, None, row.history_h), "row {n}");

        // The money: shown, in the document, booked.
        let order = document.order.expect("the money is shown");
        assert_eq!((shown.kind, shown.amount_minor), (row.kind, row.amount_minor), "row {n}");
        assert_eq!((order.refund.kind, order.refund.amount_minor), (row.kind, row.amount_minor), "row {n}");
        assert_eq!((&order.id, order.refund.currency.as_str()), (&shown.order_id, "USD"));
        let (_, price, booked) = world.orders().into_iter().find(|(id, ..)| *id == order.id).unwrap();
        let used = price - row.amount_minor;
        let expected = match row.kind {
            Refund => Balance { paid: price, used, refunded: row.amount_minor, ..Balance::default() },
            Credit => Balance { paid: price, used, credited: row.amount_minor, ..Balance::default() },
        };
        assert_eq!(booked, expected, "row {n}");
        // A downgrade's next order is the Plus it begins.
        let spent = if row.downgrade { world.orders().last().unwrap().1 } else { 0 };
        assert_eq!(world.credit(), if row.kind == Credit { row.amount_minor - spent } else { 0 }, "row {n}");

        // The history: what the new plan does not keep, and nothing else.
        let mut erased = done.issued.iter().find(|issued| issued.device == cam(0)).unwrap().erased.clone();
        erased.sort();
        let too_old: &[&str] = if row.downgrade { &["h337", "h719"] } else { &["h335", "h337", "h49", "h719"] };
        assert_eq!(erased, too_old, "row {n}");
        if row.others {
            assert_eq!(world.newest(10).plan.as_str(), "plus", "row {n}: the other one stays as it is");
        }
    }
}

#[test]
fn credit_is_used_on_the_next_bill_and_only_the_rest_is_paid() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    world.subscribe(1, PaidPlan::Plus, Monthly, NOW);
    world.act(cancel(0), NOW + 10 * DAY).unwrap();
    assert_eq!(world.credit(), 257);

    // 15 February: the other camera's next bill, reckoned to the day.
    world.end_periods(NOW + 31 * DAY - 1);
    assert_eq!(world.orders().len(), 2);
    world.end_periods(NOW + 31 * DAY);
    let orders = world.orders();
    assert_eq!(orders[1].2, Balance { paid: 399, used: 399, ..Balance::default() });
    assert_eq!(orders[2].2, Balance { paid: 399 - 257, credit_used: 257, ..Balance::default() });
    assert_eq!(world.credit(), 0);
    assert_eq!(world.newest(1).seq.get(), 2, "a bill is no reason for a document");

    // February has 28 days; the first of them is used. What goes back comes from the order of this period.
    let done = world.act(cancel(1), NOW + 31 * DAY).unwrap();
    assert_eq!((&done.back[0].id, done.back[0].refund.kind, done.back[0].refund.amount_minor), (&orders[2].0, Refund, 399 * 27 / 28));
}

#[test]
fn bills_that_were_missed_are_written_one_by_one() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    world.end_periods(NOW + 100 * DAY);
    let orders = world.orders();
    let ids: Vec<_> = orders.iter().map(|(id, ..)| id.as_str()).collect();
    assert_eq!(ids, ["KC-2027-000001", "KC-2027-000002", "KC-2027-000003", "KC-2027-000004"]);
    assert!(orders[..3].iter().all(|(.., balance)| balance.used == 999 && balance.held() == 0));
    assert_eq!(orders[3].2.held(), 999);
}

#[test]
fn orders_are_numbered_through_each_year() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Annual, NOW - 15 * DAY);
    world.act(cancel(0), NOW).unwrap();
    world.subscribe(0, PaidPlan::Premium, Annual, NOW);
    world.act(cancel(0), NOW + 1).unwrap();
    world.subscribe(0, PaidPlan::Premium, Annual, NOW + 2);
    let ids: Vec<_> = world.orders().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["KC-2026-000001", "KC-2027-000001", "KC-2027-000002"]);
}

#[test]
fn what_was_shown_is_booked_even_past_midnight_but_not_what_is_no_longer_so() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    world.subscribe(1, PaidPlan::Plus, Monthly, NOW);
    // NOW is 08:00: 16 hours later a day begins.
    let midnight = NOW + 16 * 3600;
    let shown = world.offer(0, false, midnight - 10).unwrap();
    let quote = Quote { order_id: shown.order_id, kind: shown.kind, amount_minor: shown.amount_minor, at: shown.at };
    assert_ne!(world.offer(0, false, midnight + 10).unwrap().amount_minor, quote.amount_minor);
    let confirm = |quote: &Quote, now| world.act(Action::Cancel { camera: cam(0), quote: Some(quote.clone()) }, now);

    for wrong in [
        Quote { amount_minor: quote.amount_minor + 1, ..quote.clone() },
        Quote { kind: Refund, ..quote.clone() },
        Quote { order_id: "KC-2027-000002".into(), ..quote.clone() },
        Quote { at: u64::MAX, ..quote.clone() },
    ] {
        assert!(matches!(confirm(&wrong, midnight + 10), Err(ActionError::NotAsShown)), "{wrong:?}");
    }
    assert!(matches!(confirm(&quote, midnight + 3600), Err(ActionError::NotAsShown)), "an hour later it is the next day's amount");
    assert_eq!(world.newest(0).plan.as_str(), "plus");
    let done = confirm(&quote, midnight + 10).unwrap();
    assert_eq!(done.back[0].refund.amount_minor, quote.amount_minor);
}

#[test]
fn days_are_those_of_the_payers_zone() {
    let world = World::new(1);
    let zone = Some(Zone::read("Pacific/Auckland").unwrap());
    let action = Action::Subscribe { camera: cam(0), plan: PaidPlan::Premium, cycle: Some(Monthly), channel: Some(Channel::Portal), zone };
    world.act(action, NOW).unwrap();
    // In Auckland it is 21:00 in January, 13 hours ahead: its midnight is 11:00 UTC.
    let amount = |now| world.offer(0, false, now).unwrap().amount_minor;
    assert_eq!((amount(NOW + 3 * 3600 - 1), amount(NOW + 3 * 3600)), (999 * 30 / 31, 999 * 29 / 31));
}

#[test]
fn an_app_stores_money_is_not_ours() {
    let world = World::new(2);
    world.act(subscribe(0, PaidPlan::Plus, Monthly, Channel::AppStore), NOW).unwrap();
    world.subscribe(1, PaidPlan::Plus, Monthly, NOW);
    // The app store's subscription has no bill here on which a credit could be used.
    let done = world.act(cancel(1), NOW).unwrap();
    assert_eq!(done.back[0].refund.kind, Refund);
    assert!(matches!(world.act(cancel(0), NOW), Err(ActionError::BoughtInApp(_))));
}

#[test]
fn a_camera_that_leaves_gets_its_money_back_like_a_cancel() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    world.subscribe(1, PaidPlan::Plus, Monthly, NOW);
    let done = world.act(Action::Unbind { camera: cam(0) }, NOW + 10 * DAY).unwrap();
    assert_eq!((done.back[0].refund.kind, done.back[0].refund.amount_minor), (Credit, 257));
    let done = world.act(Action::Bind { camera: cam(1), account: "next".into() }, NOW + 10 * DAY).unwrap();
    assert_eq!((done.back[0].refund.kind, done.back[0].refund.amount_minor), (Refund, 257));
}

#[test]
fn credit_that_no_bill_will_take_is_paid_out_from_the_order_that_gave_it() {
    let world = World::new(2);
    world.subscribe(0, PaidPlan::Premium, Annual, NOW);
    let downgrade = Action::Downgrade { camera: cam(0), quote: None };
    world.act(downgrade, NOW + 10 * DAY + 1).unwrap();
    // 354 of 365 days of 99.99, less the 39.99 of Plus.
    assert_eq!(world.credit(), 9697 - 3999);
    let shown = world.offer(0, false, NOW + 10 * DAY + 1).unwrap();
    assert_eq!((shown.kind, shown.credit_paid_out_minor), (Refund, 9697 - 3999));
    let done = world.act(cancel(0), NOW + 10 * DAY + 1).unwrap();
    let back: Vec<_> = done.back.iter().map(|order| (order.id.as_str(), order.refund.kind, order.refund.amount_minor)).collect();
    assert_eq!(back, [("KC-2027-000002", Refund, 3999 * 364 / 365), ("KC-2027-000001", Refund, 9697 - 3999)]);
    assert_eq!(world.credit(), 0);
    let (.., premium) = &world.orders()[0];
    assert_eq!((premium.credited, premium.paid_out), (9697, 9697 - 3999));
}

#[test]
fn a_premium_whose_last_camera_left_goes_on_is_shown_and_is_cancelled_by_its_order() {
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Premium, Monthly, NOW);
    world.act(Action::Bind { camera: cam(0), account: "next".into() }, NOW + DAY).unwrap();
    let view = || world.db.read(|c| care_cloud::portal::account_view::of(c, &world.issuer, "acct", NOW + 10 * DAY + 1)).unwrap().unwrap();
    assert_eq!(view().apart.iter().map(|s| (s.order_id.as_str(), s.changes_here)).collect::<Vec<_>>(), [("KC-2027-000001", true)]);
    assert_eq!(world.newest(0).plan.as_str(), "free", "the next owner's camera has nothing of it");
    let cancel = |account: &str| Action::CancelOrder { account: account.into(), order_id: "KC-2027-000001".into(), quote: None };
    assert!(matches!(world.act(cancel("next"), NOW + 10 * DAY + 1), Err(ActionError::NoOrder { .. })), "only by its own account");
    let done = world.act(cancel("acct"), NOW + 10 * DAY + 1).unwrap();
    assert_eq!((done.back[0].refund.kind, done.back[0].refund.amount_minor), (Refund, 644));
    assert!(view().apart.is_empty() && done.issued.is_empty());
}

#[test]
fn what_an_app_store_sold_gives_no_credit_and_takes_none() {
    // 15 November 2022: then it was still changed on the portal.
    let then = 1_668_500_000;
    let world = World::new(2);
    world.act(subscribe(0, PaidPlan::Premium, Annual, Channel::AppStore), then).unwrap();
    let done = world.act(Action::Downgrade { camera: cam(0), quote: None }, then + DAY).unwrap();
    assert_eq!(done.back[0].refund.kind, Refund);
    assert_eq!(world.credit(), 0);
    // A Plus of the portal that a store's Premium replaces: its credit would wait for a bill that never comes.
    let world = World::new(1);
    world.subscribe(0, PaidPlan::Plus, Monthly, NOW);
    let done = world.act(subscribe(0, PaidPlan::Premium, Monthly, Channel::PlayStore), NOW + 10 * DAY + 1).unwrap();
    let back: Vec<_> = done.back.iter().map(|order| (order.refund.kind, order.refund.amount_minor)).collect();
    assert_eq!(back, [(Credit, 257), (Refund, 257)]);
    assert_eq!(world.credit(), 0);
}
