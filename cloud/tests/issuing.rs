//! The documents that follow from an action: fan-out, seats, `next`, leases, revoked grants. Only the database and the rules: no
//! broker, no network, no clock.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use care_cloud::{
    domain::{
        actions::{Action, ActionError, Done, PaidPlan},
        catalogue::{Catalogue, Cycle},
        issuer::{Body, Issued, Issuer, newest_token, read_body},
    },
    storage::{
        data_dir::DataDir,
        db::Db,
        keys::{ISSUER, Keys},
        outbox::{self, Mark, Marked},
    },
};
use care_protocol::{Channel, DeviceId, Entitlement, Keyset, Reason, RefundKind, RootKeys};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

struct World {
    db: Db,
    issuer: Issuer,
    _dir: tempfile::TempDir,
}

impl World {
    fn new(cameras: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let db = Db::open(&data.path("care.db")).unwrap();
        let issuer = Issuer { keys: Keys::open(&data, NOW - 2000).unwrap(), catalogue: Catalogue::built_in(), lease_s: 172_800 };
        let world = Self { db, issuer, _dir: dir };
        for n in 0..cameras {
            world.add(n, "acct");
        }
        world
    }

    fn add(&self, n: usize, account: &str) -> Done {
        // One second apart: seats go by the order of binding.
        self.db.transact(|tx| self.issuer.add_camera(tx, &cam(n), "KC420WS", account, NOW - 1000 + n as u64)).unwrap()
    }

    fn act_at(&self, action: Action, now: u64) -> Result<Done, ActionError> {
        self.db.transact(|tx| self.issuer.act(tx, &action, now))
    }

    fn act(&self, action: Action) -> Vec<Issued> {
        self.act_at(action, NOW).unwrap().issued
    }

    fn premium(&self, n: usize) -> Vec<Issued> {
        self.act(subscribe(n, PaidPlan::Premium, Channel::Portal))
    }

    /// The newest document, as a device would take it.
    fn newest(&self, n: usize) -> Entitlement {
        let token = self.db.read(|c| newest_token(c, &cam(n))).unwrap().expect("a document");
        let (name, key) = self.issuer.keys.root();
        let roots = RootKeys::from([(name.to_owned(), key)]);
        let keyset = Keyset::verify(self.issuer.keys.current().token.as_bytes(), &roots, ISSUER).unwrap().keyset;
        Entitlement::verify(token.as_bytes(), Some(&keyset), ISSUER, &cam(n)).unwrap().entitlement
    }
}

fn cam(n: usize) -> DeviceId {
    format!("CAM{n}").parse().unwrap()
}

fn subscribe(n: usize, plan: PaidPlan, channel: Channel) -> Action {
    Action::Subscribe { camera: cam(n), plan, cycle: Some(Cycle::Monthly), channel: Some(channel), zone: None }
}

fn told(issued: &[Issued]) -> Vec<(String, &str, Reason)> {
    issued.iter().map(|i| (i.device.to_string(), i.plan.as_str(), i.reason)).collect()
}

#[test]
fn a_new_camera_is_bound_to_free_and_adding_it_again_changes_nothing() {
    let world = World::new(1);
    let document = world.newest(0);
    assert_eq!(
        (document.plan.as_str(), document.reason, document.position().epoch, document.position().seq),
        ("free", Reason::Bound, 1, 1)
    );
    assert!(world.add(0, "acct").issued.is_empty());
}

#[test]
fn premium_and_its_cancel_reach_every_camera_of_the_account_and_no_other() {
    let world = World::new(3);
    world.add(9, "other");
    let issued = world.premium(0);
    assert_eq!(told(&issued).len(), 3);
    assert!(issued.iter().all(|i| i.plan == "premium" && i.reason == Reason::Subscribed && i.position.seq == 2));

    let done = world.act_at(Action::Cancel { camera: cam(1), quote: None }, NOW).unwrap();
    assert!(done.issued.iter().all(|i| i.plan == "free" && i.reason == Reason::Cancelled && i.position.seq == 3));
    assert_eq!(done.issued.len(), 3);
    let document = world.newest(2);
    assert_eq!(document.order.expect("the money is shown").refund.kind, RefundKind::Refund);
    assert_eq!(world.newest(9).seq.get(), 1);
}

#[test]
fn plus_belongs_to_one_camera() {
    let world = World::new(2);
    let issued = world.act(subscribe(1, PaidPlan::Plus, Channel::Portal));
    assert_eq!(told(&issued), [("CAM1".into(), "plus", Reason::Subscribed)]);
}

#[test]
fn a_downgrade_keeps_plus_for_one_camera_and_leaves_free_to_the_others() {
    let world = World::new(2);
    world.premium(0);
    let issued = world.act(Action::Downgrade { camera: cam(0), quote: None });
    assert_eq!(told(&issued), [("CAM0".into(), "plus", Reason::Downgraded), ("CAM1".into(), "free", Reason::Downgraded)]);
    let order = world.newest(0).order.expect("the money is shown");
    assert_eq!(order.refund.kind, RefundKind::Credit);
    let again = world.act_at(Action::Downgrade { camera: cam(0), quote: None }, NOW);
    assert!(matches!(again, Err(ActionError::NotPremium(_))));
}

#[test]
fn the_eleventh_camera_has_no_seat_until_one_is_freed() {
    let world = World::new(11);
    let issued = world.premium(0);
    let (seated, seatless) = issued.split_at(10);
    assert!(seated.iter().all(|i| i.plan == "premium"));
    assert_eq!(told(seatless), [("CAM10".into(), "free", Reason::SeatLimit)]);

    let issued = world.act(Action::Unbind { camera: cam(3) });
    assert_eq!(told(&issued), [("CAM3".into(), "free", Reason::Unbound), ("CAM10".into(), "premium", Reason::Upgraded)]);
    let unbound = world.newest(3);
    assert!(!unbound.policy.clips && !unbound.policy.snapshots);
}

#[test]
fn a_camera_that_moves_gets_a_higher_epoch_and_loses_what_it_had() {
    let world = World::new(2);
    world.act(subscribe(0, PaidPlan::Plus, Channel::Portal));
    let issued = world.act(Action::Bind { camera: cam(0), account: "next".into() });
    assert_eq!(told(&issued), [("CAM0".into(), "free", Reason::Bound)]);
    let document = world.newest(0);
    assert_eq!((document.epoch.get(), document.seq.get(), document.account.as_str()), (2, 3, "next"));
}

#[test]
fn an_app_store_cancel_announces_next_and_the_portal_cannot_cancel_it() {
    let world = World::new(1);
    world.act(subscribe(0, PaidPlan::Premium, Channel::AppStore));
    let refused = world.act_at(Action::Cancel { camera: cam(0), quote: None }, NOW);
    assert!(matches!(refused, Err(ActionError::BoughtInApp(Channel::AppStore))));

    let issued = world.act(Action::StoreCancel { camera: cam(0), ends_in_s: Some(5) });
    assert_eq!(told(&issued), [("CAM0".into(), "premium", Reason::Cancelled)]);
    let document = world.newest(0);
    let next = document.next.expect("what comes is announced");
    assert_eq!((next.plan.as_str(), next.effective_at), ("free", NOW + 5));
    assert!(document.policy.clips && next.policy.is_less_than(&document.policy));

    // Taken back, and given again.
    world.act(Action::Withdraw { camera: cam(0) });
    assert!(world.newest(0).next.is_none());
    world.act(Action::StoreCancel { camera: cam(0), ends_in_s: Some(5) });

    let ended = |now| world.db.transact(|tx| world.issuer.end_periods(tx, now)).unwrap();
    assert!(ended(NOW + 4).is_empty());
    assert_eq!(told(&ended(NOW + 5)), [("CAM0".into(), "free", Reason::Cancelled)]);
    assert!(world.newest(0).next.is_none());
}

#[test]
fn a_next_that_is_due_counts_before_any_document_says_so() {
    let world = World::new(1);
    world.act(subscribe(0, PaidPlan::Premium, Channel::PlayStore));
    world.act(Action::StoreCancel { camera: cam(0), ends_in_s: Some(5) });
    let body: Body = world
        .db
        .read(|c| {
            let body: String = c.query_row("SELECT body FROM documents ORDER BY id DESC LIMIT 1", [], |row| row.get(0))?;
            read_body(&body)
        })
        .unwrap();
    assert_eq!(body.policy_at(NOW + 4).clip_max_s, 120);
    assert_eq!(body.policy_at(NOW + 5).clip_max_s, 12);
}

#[test]
fn leases_are_renewed_at_their_half_and_nothing_else_moves() {
    let world = World::new(1);
    world.premium(0);
    let before = world.newest(0);
    let renew = |now| world.db.transact(|tx| world.issuer.renew(tx, now)).unwrap();
    assert!(renew(NOW + DAY - 1).is_empty());
    assert_eq!(told(&renew(NOW + DAY)), [("CAM0".into(), "premium", Reason::Renewed)]);
    let after = world.newest(0);
    assert_eq!((after.seq.get(), after.iat, after.lease.not_after), (before.seq.get() + 1, NOW + DAY, NOW + 3 * DAY));
    assert_eq!(after.policy, before.policy);
    assert!(renew(NOW + DAY).is_empty());
}

#[test]
fn only_less_revokes_grants_and_erases_what_is_older_than_the_new_window() {
    let world = World::new(1);
    world.premium(0);
    let grant = |id: &str| {
        world
            .db
            .read(|c| {
                c.execute_batch(&format!(
                    "INSERT OR IGNORE INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at) VALUES
                       ('old', 'CAM0', 1, 'motion', {}, 5000, 9, '', 1), ('young', 'CAM0', 1, 'motion', {}, 5000, 9, '', 1);
                     INSERT INTO grants VALUES ('{id}', 'young', 'CAM0', 1, 1, 0, 'open', NULL);",
                    (NOW - 3 * DAY) * 1000,
                    (NOW - DAY) * 1000,
                ))
                .map_err(Into::into)
            })
            .unwrap();
    };
    grant("g1");
    let renewed = world.db.transact(|tx| world.issuer.renew(tx, NOW + DAY)).unwrap();
    assert!(renewed[0].revoked.is_empty() && renewed[0].erased.is_empty());
    let cancelled = world.act(Action::Cancel { camera: cam(0), quote: None });
    assert_eq!(cancelled[0].revoked, ["g1"]);
    assert_eq!(cancelled[0].erased, ["old"]);
}

#[test]
fn two_processes_on_one_database_never_issue_the_same_place() {
    let world = World::new(1);
    let path = world._dir.path().join("care.db");
    let (first, second) = (Db::open(&path).unwrap(), Db::open(&path).unwrap());
    std::thread::scope(|scope| {
        for db in [&first, &second] {
            let world = &world;
            scope.spawn(move || {
                for step in 0..20 {
                    db.transact(|tx| world.issuer.renew(tx, NOW + DAY * (step + 1))).unwrap();
                }
            });
        }
    });
    let (count, distinct, newest): (u64, u64, u64) = world
        .db
        .read(|c| {
            Ok(c.query_row("SELECT count(*), count(DISTINCT seq), max(seq) FROM documents", [], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?)
        })
        .unwrap();
    assert!(count == distinct && count == newest && count > 20, "{count} documents, {distinct} places, newest {newest}");
}

#[test]
fn an_older_document_is_not_sent_behind_a_newer_one_that_the_broker_has() {
    let world = World::new(1);
    world.premium(0);
    let due = |db: &Db| db.read(|c| outbox::due(c, 0, 10)).unwrap();
    let [first, second] = due(&world.db).try_into().expect("both documents are due");
    assert!(first.seq < second.seq, "in the order of their issue");
    // A crash between the two marks: the broker has both, and only the newer one's acknowledgement is on record.
    let mark = Mark { document: second.document, device: cam(0), seq: second.seq, at: 1, what: Marked::Acked };
    world.db.transact(|tx| outbox::mark(tx, &[mark])).unwrap();
    assert!(due(&world.db).is_empty());
}
