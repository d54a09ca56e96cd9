//! Accounts with cameras, a catalogue and a ledger, without broker or clock.

use care_cloud::{
    domain::{
        actions::{Action, ActionError, Done, PaidPlan},
        catalogue::{Catalogue, Cycle},
        issuer::{Issuer, Subscription, newest_token, subscriptions},
        money::ledger::{Balance, balance, credit},
        preview::Offer,
    },
    storage::{
        data_dir::DataDir,
        db::{Address, Connection, Db},
        keys::{ISSUER, Keys},
    },
};
use care_protocol::{Channel, DeviceId, Entitlement, Keyset, RootKeys};

/// 15 January 2027, 08:00 UTC.
pub const NOW: u64 = 1_800_000_000;
pub const DAY: u64 = 86_400;

pub struct World {
    pub db: Db,
    pub issuer: Issuer,
    _dir: tempfile::TempDir,
}

impl World {
    pub fn new(cameras: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let db = match std::env::var(super::DATABASE) {
            Ok(url) => Db::connect(&schema_of_its_own(&url)).unwrap(),
            Err(_) => Db::open(&data.path("care.db")).unwrap(),
        };
        let issuer = Issuer { keys: Keys::open(&data, 0).unwrap(), catalogue: Catalogue::built_in(), lease_s: 172_800 };
        let world = Self { db, issuer, _dir: dir };
        for n in 0..cameras {
            // One second apart: seats go by the order of binding.
            world.db.transact(|tx| world.issuer.add_camera(tx, &cam(n), "KC420WS", "acct", NOW - 1000 + n as u64)).unwrap();
        }
        world
    }

    pub fn act(&self, action: Action, now: u64) -> Result<Done, ActionError> {
        self.db.transact(|tx| self.issuer.act(tx, &action, now))
    }

    pub fn subscribe(&self, n: usize, plan: PaidPlan, cycle: Cycle, now: u64) {
        self.act(subscribe(n, plan, cycle, Channel::Portal), now).unwrap();
    }

    pub fn offer(&self, n: usize, downgrade: bool, now: u64) -> Result<Offer, ActionError> {
        self.db.transact(|tx| self.issuer.offer(tx, &cam(n), downgrade, now))
    }

    pub fn end_periods(&self, now: u64) {
        self.db.transact(|tx| self.issuer.end_periods(tx, now)).unwrap();
    }

    /// Every order, oldest first, with its price and where its money is.
    pub fn orders(&self) -> Vec<(String, u64, Balance)> {
        let read = |c: &Connection| {
            let mut statement = c.prepare("SELECT order_id, price_minor FROM orders ORDER BY rowid")?;
            let rows: Vec<(String, u64)> = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            rows.into_iter().map(|(id, price)| balance(c, &id).map(|balance| (id, price, balance))).collect()
        };
        self.db.read(read).unwrap()
    }

    /// What runs in an account.
    pub fn running(&self, account: &str) -> Vec<Subscription> {
        self.db.read(|c| subscriptions(c, account)).unwrap()
    }

    /// Ends a subscription by its order, where it was bought.
    pub fn end(&self, account: &str, subscription: &Subscription, now: u64) -> Result<(), ActionError> {
        let (account, order_id) = (account.to_owned(), subscription.order_id.clone());
        let action = match subscription.changes_here() {
            true => Action::CancelOrder { account, order_id, quote: None },
            false => Action::StoreCancelOrder { account, order_id, ends_in_s: Some(0) },
        };
        self.act(action, now)?;
        self.end_periods(now);
        Ok(())
    }

    pub fn credit(&self) -> u64 {
        self.db.read(|c| credit(c, "acct", "USD")).unwrap()
    }

    /// The newest document, as a device would take it.
    pub fn newest(&self, n: usize) -> Entitlement {
        let token = self.db.read(|c| newest_token(c, &cam(n))).unwrap().expect("a document");
        let (name, key) = self.issuer.keys.root();
        let roots = RootKeys::from([(name.to_owned(), key)]);
        let keyset = Keyset::verify(self.issuer.keys.current().token.as_bytes(), &roots, ISSUER).unwrap().keyset;
        Entitlement::verify(token.as_bytes(), Some(&keyset), ISSUER, &cam(n)).unwrap().entitlement
    }
}

/// A new, empty schema in a PostgreSQL. Nobody cuts its power: a commit need not wait for the disk.
fn schema_of_its_own(url: &str) -> Address {
    let name = format!("world_{}", uuid::Uuid::new_v4().simple());
    let all = Db::connect(&url.parse().unwrap()).unwrap();
    all.read(|c| Ok(c.execute_batch(&format!("CREATE SCHEMA {name}"))?)).unwrap();
    format!("{url}&options=-c%20search_path%3D{name}%20-c%20synchronous_commit%3Doff").parse().unwrap()
}

pub fn cam(n: usize) -> DeviceId {
    format!("CAM{n}").parse().unwrap()
}

pub fn subscribe(n: usize, plan: PaidPlan, cycle: Cycle, channel: Channel) -> Action {
    Action::Subscribe { camera: cam(n), plan, cycle: Some(cycle), channel: Some(channel), zone: None }
}

pub fn cancel(n: usize) -> Action {
    Action::Cancel { camera: cam(n), quote: None }
}
