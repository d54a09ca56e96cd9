//! Which report of a camera is its newest: the one that was made last, in whatever order they arrive. On both databases.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "running/postgres.rs"]
mod postgres;

use care_cloud::{
    domain::{
        catalogue::Catalogue,
        issuer::Issuer,
        reports::{keep, reported},
    },
    storage::{
        data_dir::DataDir,
        db::{Db, DbError},
        keys::Keys,
        prune::{REPORTS_FOR, prune},
    },
};
use care_protocol::{DeviceId, Position, Report};
use jiff::Timestamp;
use serde_json::json;

const NOW: u64 = 1_800_000_000;

struct World {
    db: Db,
    device: DeviceId,
    arrived: i64,
}

impl World {
    fn new(db: Db, data: &DataDir) -> Self {
        let issuer = Issuer { keys: Keys::open(data, NOW).unwrap(), catalogue: Catalogue::built_in(), lease_s: 172_800 };
        let device: DeviceId = "CAM-A".parse().unwrap();
        db.transact(|tx| issuer.add_camera(tx, &device, "KC420WS", "acct", NOW)).unwrap();
        db.transact(|tx| -> Result<_, DbError> { Ok(tx.execute("UPDATE cameras SET epoch = 1, seq = 4", [])?) }).unwrap();
        Self { db, device, arrived: 0 }
    }

    /// A report arrives that was made at `at` seconds after the beginning, with this in force.
    fn hears(&mut self, at: u64, (epoch, seq): (u64, u64), cause: &str) {
        let made = Timestamp::from_second(i64::try_from(NOW + at).unwrap()).unwrap();
        let report: Report = serde_json::from_value(json!({
            "device": self.device, "outcome": "applied", "reason": "renewed", "cause": cause, "judged": null,
            "epoch": epoch, "seq": seq, "digest": null, "plan": "free", "mode": "free", "persisted": true, "keyset": 1,
            "cut": { "transfers": 0, "micros": 0, "bytes_after": 0 }, "erased": { "clips": 0, "bytes": 0 },
            "at": made.to_string(), "agent": "test",
        }))
        .unwrap();
        self.arrived += 1;
        let arrived = self.arrived;
        self.db.transact(|tx| -> Result<_, DbError> { keep(tx, &report, arrived) }).unwrap();
    }

    /// The document that the newest report says is in force.
    fn newest(&self) -> (u64, u64) {
        let report = self.db.read(|c| reported(c, &self.device, Position::NONE)).unwrap().report.unwrap();
        (report.epoch, report.seq)
    }

    fn play(mut self) {
        self.hears(0, (1, 1), "document");
        self.hears(20, (1, 3), "document");
        self.hears(10, (1, 2), "document");
        assert_eq!(self.newest(), (1, 3), "one of before that arrives late");
        self.hears(20, (1, 2), "document");
        assert_eq!(self.newest(), (1, 3), "of the same second, by the document in force");
        self.hears(5, (1, 3), "lease");
        assert_eq!(self.newest(), (1, 3));
        self.hears(15, (1, 4), "document");
        assert_eq!(self.newest(), (1, 4), "a newer document, though the camera's clock fell by a little");
        self.hears(16, (1, 4), "boot");
        self.hears(14, (1, 3), "document");
        assert_eq!(self.newest(), (1, 4), "behind the newest, not behind the latest time");
        // A document of the time before a restore, which this cloud does not know; then a reset, within the same second.
        self.hears(17, (1, 9), "document");
        self.hears(17, (1, 4), "document");
        assert_eq!(self.newest(), (1, 4), "taken back by a reset");
        // The state is gone, and the time with it.
        self.hears(1, (0, 0), "factory_reset");
        assert_eq!(self.newest(), (0, 0));
        self.hears(2, (2, 1), "document");
        assert_eq!(self.newest(), (2, 1));

        // The newest stays when the others are too old, though others arrived later.
        self.hears(1, (1, 4), "boot");
        let later = i64::try_from(REPORTS_FOR.as_micros()).unwrap() + 1000;
        let pruned = self.db.transact(|tx| prune(tx, later)).unwrap();
        assert_eq!(pruned.reports, usize::try_from(self.arrived).unwrap() - 1);
        assert_eq!(self.newest(), (2, 1));
    }
}

#[test]
fn a_report_that_arrives_late_is_not_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let data = DataDir::open(dir.path()).unwrap();
    World::new(Db::open(&data.path("care.db")).unwrap(), &data).play();
    let server = postgres::Postgres::start();
    World::new(Db::connect(&server.fresh("reports").parse().unwrap()).unwrap(), &data).play();
}
