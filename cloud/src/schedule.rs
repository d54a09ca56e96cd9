//! Everything that time causes: periods end, leases are renewed at half their length, old clips are erased, and
//! documents that no camera has reported on are sent again. The task sleeps until the earliest of these, and wakes
//! when a plan changes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    clock::now_us,
    domain::{actions::ActionError, billing::next_due},
    storage::{db::DbError, outbox, prune::prune},
    transport::{cloud::Cloud, retention::RetentionError, store},
};

/// How often leases and overdue reports are checked.
const TICK: Duration = Duration::from_secs(1);
/// How long after a failure the store is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(10);

/// Overdue reports that one look passes over.
const CHASED: usize = 500;

/// How often old rows are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// Runs for ever; a failure is logged and tried again at the next tick.
pub async fn run(cloud: Arc<Cloud>) {
    let mut store_at = Instant::now();
    let mut prune_at = Instant::now();
    loop {
        if let Err(e) = look(&cloud).await {
            tracing::error!("the schedule: {e}");
        }
        if store_at <= Instant::now()
            && let Err(e) = look_at_store(&cloud).await
        {
            tracing::error!("the clip store: {e}");
            store_at = Instant::now() + STORE_AGAIN;
        }
        if prune_at <= Instant::now() {
            match remove_old(&cloud).await {
                // There may be more.
                Ok(true) => {}
                Ok(false) => prune_at = Instant::now() + PRUNE_EVERY,
                Err(e) => {
                    tracing::error!("removing old rows: {e}");
                    prune_at = Instant::now() + PRUNE_EVERY;
                }
            }
        }
        let wait = match cloud.db.read_async(next_due).await {
            Ok(Some(at)) => cloud.clock.until(at).min(TICK),
            Ok(None) => TICK,
            Err(e) => {
                tracing::error!("the schedule: {e}");
                TICK
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = cloud.schedule.notified() => {}
        }
    }
}

/// Polls an external store, then erases old clips.
async fn look_at_store(cloud: &Arc<Cloud>) -> Result<(), RetentionError> {
    store::poll::poll(cloud).await?;
    cloud.sweep().await
}

/// Removes one batch of old rows. Returns whether there were any.
async fn remove_old(cloud: &Arc<Cloud>) -> Result<bool, DbError> {
    let pruned = cloud.db.transact_async(|tx| prune(tx, now_us())).await?;
    if pruned.rows() > 0 {
        tracing::info!(reports = pruned.reports, grants = pruned.grants, clips = pruned.clips, "removed old rows");
    }
    Ok(pruned.rows() > 0)
}

async fn look(cloud: &Arc<Cloud>) -> Result<(), ActionError> {
    let issuer = cloud.issuer.clone();
    let now = cloud.clock.now_s();
    let looking = issuer.clone();
    let due = cloud.db.read_async(move |connection| Ok((next_due(connection)?, looking.renewals_due(connection, now)?))).await?;
    if due.0.is_some_and(|at| at <= now) {
        let issuer = issuer.clone();
        cloud.change(move |tx| issuer.end_periods(tx, now), Vec::as_slice).await?;
    }
    if due.1 {
        while !cloud.renew_under_new_key().await?.is_empty() {}
        loop {
            let issuer = issuer.clone();
            if cloud.change(move |tx| Ok(issuer.renew(tx, now)?), Vec::as_slice).await?.is_empty() {
                break;
            }
        }
    }
    let open = cloud.transfers.open_grants();
    if !open.is_empty() {
        // This process cuts what it revokes at once; revocations by another process on the database take effect here.
        let revoked = cloud.db.read_async(move |connection| store::revoked(connection, &open)).await?;
        cloud.transfers.revoke(&revoked);
    }
    let at = cloud.heard.until(now_us());
    if !cloud.db.read_async(move |connection| outbox::anything_overdue(connection, at)).await? {
        return Ok(());
    }
    let chased = cloud.db.transact_async(move |tx| -> Result<_, DbError> { outbox::chase(tx, at, CHASED) }).await?;
    if chased > 0 {
        tracing::info!(cameras = chased, "have not reported; their documents are sent again");
        cloud.outbox.notify_one();
    }
    Ok(())
}
