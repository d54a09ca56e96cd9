//! Pruning: removes old reports, grants and clip rows, so that the database of a camera that runs for years stays
//! small. Orders, ledger, subscriptions, documents, watchable clips and every camera's last report stay.

use std::time::Duration;

use crate::storage::db::{DbError, Transaction, params};

/// How long reports are kept.
pub const REPORTS_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long grants are kept. A grant is valid for a minute, and its upload may take an hour.
pub const GRANTS_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the row of a clip is kept that never arrived or was deleted: longer than any plan's history, so that
/// cooldowns and repeated requests are still judged with it.
pub const CLIPS_FOR: Duration = Duration::from_secs(40 * 24 * 3600);
/// Rows of each kind per batch, so that nothing waits long for the database.
const BATCH: usize = 2000;

/// The numbers of removed rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Reports.
    pub reports: usize,
    /// Grants.
    pub grants: usize,
    /// Clips.
    pub clips: usize,
}

impl Pruned {
    /// How many rows in all.
    pub fn rows(self) -> usize {
        self.reports + self.grants + self.clips
    }
}

/// Removes one batch of rows that are too old at `now_us` (microseconds since 1970).
pub fn prune(tx: &Transaction<'_>, now_us: i64) -> Result<Pruned, DbError> {
    let before = |age: Duration| now_us.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
    let reports = "DELETE FROM reports WHERE id IN (SELECT id FROM reports r WHERE received_at < ?1
                       AND EXISTS (SELECT 1 FROM reports n WHERE n.device = r.device AND (n.place, n.id) > (r.place, r.id)) LIMIT ?2)";
    let grants = "DELETE FROM grants WHERE id IN (SELECT id FROM grants WHERE granted_at < ?1 LIMIT ?2)";
    let clips = "DELETE FROM clips WHERE clip IN (SELECT clip FROM clips c
                     WHERE (gone_at < ?1 OR (stored_at IS NULL AND started_ms < ?1 / 1000))
                       AND NOT EXISTS (SELECT 1 FROM grants g WHERE g.clip = c.clip) LIMIT ?2)";
    Ok(Pruned {
        reports: tx.prepare_cached(reports)?.execute(params![before(REPORTS_FOR), BATCH])?,
        grants: tx.prepare_cached(grants)?.execute(params![before(GRANTS_FOR), BATCH])?,
        clips: tx.prepare_cached(clips)?.execute(params![before(CLIPS_FOR), BATCH])?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::db::Db;

    const DAY_US: i64 = 86_400_000_000;
    const NOW: i64 = 20_000 * DAY_US;

    fn database() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("care.db")).unwrap();
        (dir, db)
    }

    fn left(db: &Db, sql: &str) -> Vec<String> {
        db.read(|c| Ok(c.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)).unwrap()
    }

    #[test]
    fn what_is_old_goes_and_a_camera_s_last_report_and_what_can_be_watched_stay() {
        let (_dir, db) = database();
        let day = |n: i64| NOW - n * DAY_US;
        db.read(|c| {
            for (device, body, age) in [("A", "a-old", 200), ("A", "a-older-than-90", 91), ("A", "a-89", 89), ("B", "b-only", 300)] {
                c.execute("INSERT INTO reports (device, received_at, body) VALUES (?1, ?2, ?3)", params![device, day(age), body])?;
            }
            // Object deleted; within the 50-day history of a plan; never arrived; announced a moment ago; recently
            // granted all the same.
            for (clip, stored, gone, age) in [
                ("gone", Some(day(60)), Some(day(41)), 60),
                ("gone-lately", Some(day(60)), Some(day(39)), 60),
                ("watchable", Some(day(50)), None, 50),
                ("never", None, None, 41),
                ("announced", None, None, 0),
                ("granted", None, None, 41),
            ] {
                c.execute(
                    "INSERT INTO clips (clip, device, epoch, kind, started_ms, duration_ms, bytes, sha256, stored_at, erased_at, gone_at)
                     VALUES (?1, 'A', 1, 'motion', ?2, 1, 1, '', ?3, ?4, ?4)",
                    params![clip, day(age) / 1000, stored, gone],
                )?;
            }
            for (id, clip, age) in [("old", "never", 8), ("young", "granted", 6), ("used", "watchable", 50)] {
                let sql = "INSERT INTO grants (id, clip, device, epoch, seq, granted_at, state) VALUES (?1, ?2, 'A', 1, 1, ?3, 'used')";
                c.execute(sql, params![id, clip, day(age)])?;
            }
            Ok(())
        })
        .unwrap();
        let pruned = db.transact(|tx| prune(tx, NOW)).unwrap();
        assert_eq!(pruned, Pruned { reports: 2, grants: 2, clips: 2 });
        assert_eq!(left(&db, "SELECT body FROM reports ORDER BY id"), ["a-89", "b-only"]);
        assert_eq!(left(&db, "SELECT id FROM grants ORDER BY id"), ["young"]);
        assert_eq!(left(&db, "SELECT clip FROM clips ORDER BY clip"), ["announced", "gone-lately", "granted", "watchable"]);
        assert_eq!(db.transact(|tx| prune(tx, NOW)).unwrap(), Pruned::default());
    }

    #[test]
    fn much_goes_in_small_steps() {
        let (_dir, db) = database();
        db.transact(|tx| -> Result<(), DbError> {
            for n in 0..=BATCH + 10 {
                tx.execute("INSERT INTO reports (device, received_at, body) VALUES ('A', ?1, 'x')", params![i64::try_from(n).unwrap()])?;
            }
            Ok(())
        })
        .unwrap();
        let step = || db.transact(|tx| prune(tx, NOW)).unwrap().reports;
        assert_eq!((step(), step(), step()), (BATCH, 10, 0));
    }
}
