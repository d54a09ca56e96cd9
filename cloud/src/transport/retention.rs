//! Retention: erases clips that are older than the plan's history, after a change of plan or with time. A clip is
//! marked in the database, then its object is deleted, and it counts as deleted only once a listing no longer shows
//! the object. Until then the deletion is repeated, so that neither a crash nor a full disk leaves a clip behind.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{
    domain::{
        clips::{book_gone, mark_older, to_go},
        issuer::{Issuer, camera, note_history, with_old_clips},
        parts,
    },
    storage::{
        db::{Connection, Db, DbError, Transaction},
        outbox,
    },
    transport::{
        observed::Observed,
        store::{Store, StoreError},
    },
};

/// The batch size: small, so that other tasks do not wait long for the database.
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

/// Marks the clips that have grown older than their plan's history: those of at most [`BATCH`] cameras.
fn mark_outdated(tx: &Transaction<'_>, issuer: &Issuer, now: u64) -> Result<(), DbError> {
    for device in with_old_clips(tx, now, BATCH)? {
        let history_h = issuer.current_plan(tx, &camera(tx, &device)?, now)?.policy.history_h;
        let clips = mark_older(tx, &device, history_h, now)?;
        if !clips.is_empty() {
            tracing::info!(%device, clips = clips.len(), history_h, "older than the plan's history");
        }
        note_history(tx, &device, history_h)?;
    }
    Ok(())
}

/// Whether there is anything to mark or to delete.
fn work_to_do(connection: &Connection, now: u64) -> Result<bool, DbError> {
    Ok(!to_go(connection, 1)?.is_empty() || !with_old_clips(connection, now, 1)?.is_empty())
}

/// Erasing locks the database while a camera that has to stop waits for its document: the document is sent first, as
/// long as the broker accepts it.
async fn let_documents_go_first(db: &Db) -> Result<(), DbError> {
    let deadline = Instant::now() + GIVE_WAY;
    while Instant::now() < deadline && db.read_async(|connection| Ok(!outbox::due(connection, 0, 1)?.is_empty())).await? {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Marks clips that have become too old by `now` (Unix seconds), deletes all marked ones, and checks in the store that
/// they are deleted.
pub async fn sweep(db: &Db, issuer: &Arc<Issuer>, store: &Arc<Store>, observed: &Observed, now: u64) -> Result<(), RetentionError> {
    let_documents_go_first(db).await?;
    loop {
        if !db.read_async(move |connection| work_to_do(connection, now)).await? {
            return Ok(());
        }
        // Here it is deleted under the database's lock: no grant can be issued meanwhile that would let a clip
        // reappear.
        let (marking, deleting) = (issuer.clone(), store.clone());
        let tried = db.transact_async(move |tx| -> Result<_, DbError> {
            mark_outdated(tx, &marking, now)?;
            let mut clips = BTreeMap::new();
            let mut failed = 0;
            for (device, going) in to_go(tx, BATCH)? {
                let mut deleted = Vec::new();
                for clip in going {
                    let pieces = parts::pieces(tx, &clip)?;
                    // Every one of them, even if one fails.
                    let left = pieces.iter().filter(|piece| deleting.is_embedded() && !deleting.delete_embedded(&device, piece)).count();
                    if left == 0 { deleted.push((clip, pieces)) } else { failed += 1 }
                }
                clips.insert(device, deleted);
            }
            Ok((clips, failed))
        });
        let (tried, mut left) = tried.await?;
        for (device, tried) in tried {
            for piece in tried.iter().flat_map(|(_, pieces)| pieces) {
                store.delete_external(&device, piece).await?;
            }
            let mut clips: Vec<String> = tried.into_iter().map(|(clip, _)| clip).collect();
            let present = store.list(&device).await?;
            let before = clips.len();
            clips.retain(|clip| !present.contains(clip));
            left += before - clips.len();
            let gone = clips.len() as u64;
            db.transact_async(move |tx| book_gone(tx, &clips)).await?;
            observed.count(|counts| counts.erased_clips += gone);
        }
        if left > 0 {
            return Err(RetentionError::Left { left });
        }
    }
}
