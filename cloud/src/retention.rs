//! Retention: the cloud's clips go when they are older than the plan's history, by a change of plan or by mere time. A clip
//! is first marked in the database, then its object is deleted, and only when a listing of the store no longer shows the
//! object is it booked as gone; until then it is tried again, so neither a crash nor a full disk leaves a clip behind.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::DeviceId;
use rusqlite::{Connection, Transaction, params};
use thiserror::Error;

use crate::{
    cloud::Cloud,
    db::{DbError, now_us},
    issuer::{Camera, Issuer, camera, devices},
    outbox,
    store::{GRANT_IN_USE_US, StoreError},
};

/// So many objects at a time, so that nobody waits long for the database.
const BATCH: usize = 200;
/// A broker that takes no document does not keep clips from being erased for longer.
const GIVE_WAY: Duration = Duration::from_millis(250);

/// Why clips could not be erased; the next look tries again.
#[derive(Debug, Error)]
pub enum RetentionError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The store could not be listed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store still shows them.
    #[error("{left} clips are still in the store after their deletion: see that its directory can be written")]
    Left {
        /// How many.
        left: usize,
    },
}

/// The beginning of the history at `now` (Unix seconds), in milliseconds: what began before it goes.
pub fn oldest_ms(history_h: u32, now: u64) -> u64 {
    now.saturating_sub(u64::from(history_h) * 3600).saturating_mul(1000)
}

/// Marks what a camera has in the store from before a history of so many hours; the clips' ids.
pub fn mark_older(tx: &Transaction<'_>, device: &DeviceId, history_h: u32, now: u64) -> Result<Vec<String>, DbError> {
    let clips = tx
        .prepare_cached(
            "UPDATE clips SET erased_at = ?3 WHERE device = ?1 AND started_ms < ?2 AND stored_at IS NOT NULL AND erased_at IS NULL
             RETURNING clip",
        )?
        .query_map(params![device.as_str(), oldest_ms(history_h, now), now_us()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(clips)
}

/// Marks what a camera has in the store from before its present binding, or everything if it is bound to nobody; the clips' ids.
pub fn mark_other_owners(tx: &Transaction<'_>, camera: &Camera) -> Result<Vec<String>, DbError> {
    let clips = tx
        .prepare_cached(
            "UPDATE clips SET erased_at = ?3 WHERE device = ?1 AND (epoch != ?2 OR NOT ?4) AND stored_at IS NOT NULL AND erased_at IS NULL
             RETURNING clip",
        )?
        .query_map(params![camera.device.as_str(), camera.epoch, now_us(), camera.bound], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(clips)
}

/// Marks every camera's clips that have grown older than its plan's history.
fn mark_outdated(tx: &Transaction<'_>, issuer: &Issuer, now: u64) -> Result<(), DbError> {
    for device in devices(tx, None)? {
        let history_h = issuer.standing(tx, &camera(tx, &device)?, now)?.policy.history_h;
        let clips = mark_older(tx, &device, history_h, now)?;
        if !clips.is_empty() {
            tracing::info!(%device, clips = clips.len(), history_h, "older than the plan's history");
        }
    }
    Ok(())
}

/// Whether there is anything to mark or to delete.
fn work_to_do(connection: &Connection, issuer: &Issuer, now: u64) -> Result<bool, DbError> {
    if !to_go(connection)?.is_empty() {
        return Ok(true);
    }
    let mut oldest =
        connection.prepare_cached("SELECT min(started_ms) FROM clips WHERE device = ?1 AND stored_at IS NOT NULL AND erased_at IS NULL")?;
    for device in devices(connection, None)? {
        let started_ms: Option<u64> = oldest.query_row([device.as_str()], |row| row.get(0))?;
        let Some(started_ms) = started_ms else { continue };
        let standing = issuer.standing(connection, &camera(connection, &device)?, now)?;
        if started_ms < oldest_ms(standing.policy.history_h, now) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The clips that are marked and whose objects are not known to be gone, by camera.
fn to_go(connection: &Connection) -> Result<BTreeMap<DeviceId, Vec<String>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT device, clip FROM clips WHERE erased_at IS NOT NULL AND gone_at IS NULL AND NOT EXISTS
             (SELECT 1 FROM grants g WHERE g.clip = clips.clip AND g.state = 'open' AND g.granted_at > ?1)
         LIMIT ?2",
    )?;
    // A clip that is being sent again is left alone.
    let rows = statement.query_map(params![now_us() - GRANT_IN_USE_US, BATCH], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))?;
    let mut clips: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (device, clip) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "clips.device", why: e.to_string() })?;
        clips.entry(device).or_default().push(clip);
    }
    Ok(clips)
}

/// Erasing holds the database, and a camera that is to stop waits for its document: that goes first, as long as the broker
/// takes it.
async fn let_documents_go_first(cloud: &Arc<Cloud>) -> Result<(), DbError> {
    let deadline = Instant::now() + GIVE_WAY;
    while Instant::now() < deadline && cloud.db.read_async(|connection| Ok(!outbox::due(connection, 1)?.is_empty())).await? {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Marks what time has made too old, deletes all that is marked, and looks in the store whether it is gone.
pub async fn sweep(cloud: &Arc<Cloud>) -> Result<(), RetentionError> {
    let now = cloud.clock.now_s();
    let_documents_go_first(cloud).await?;
    loop {
        let issuer = cloud.issuer.clone();
        if !cloud.db.read_async(move |connection| work_to_do(connection, &issuer, now)).await? {
            return Ok(());
        }
        // Here it is deleted under the database's lock: no grant can be given meanwhile by which a clip would come back.
        let deleting = cloud.clone();
        let tried = cloud.db.transact_async(move |tx| -> Result<_, DbError> {
            mark_outdated(tx, &deleting.issuer, now)?;
            let mut clips = to_go(tx)?;
            let mut failed = 0;
            for (device, clips) in &mut clips {
                let before = clips.len();
                clips.retain(|clip| !deleting.store.is_embedded() || deleting.store.delete(device, clip));
                failed += before - clips.len();
            }
            Ok((clips, failed))
        });
        let (tried, mut left) = tried.await?;
        for (device, mut clips) in tried {
            for clip in &clips {
                cloud.store.erase(&device, clip).await?;
            }
            let present = cloud.store.list(&device).await?;
            let before = clips.len();
            clips.retain(|clip| !present.contains(clip));
            left += before - clips.len();
            cloud.db.transact_async(move |tx| book_gone(tx, &clips)).await?;
        }
        if left > 0 {
            return Err(RetentionError::Left { left });
        }
    }
}

/// A clip that came back meanwhile is not gone.
fn book_gone(tx: &Transaction<'_>, clips: &[String]) -> Result<(), DbError> {
    let mut statement = tx.prepare_cached("UPDATE clips SET gone_at = ?2 WHERE clip = ?1 AND erased_at IS NOT NULL")?;
    for clip in clips {
        statement.execute(params![clip, now_us()])?;
    }
    Ok(())
}
