//! What happens by itself: periods end, leases are renewed at their half, cameras that have not reported are chased. It
//! sleeps until the earliest of these and is woken when a plan changes.

use std::{sync::Arc, time::Duration};

use crate::{
    actions::{ActionError, next_period_end},
    cloud::Cloud,
    db::now_us,
    outbox,
};

/// Leases and chases are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Runs for ever; a failure is logged and tried again at the next tick.
pub async fn run(cloud: Arc<Cloud>) {
    loop {
        if let Err(e) = look(&cloud).await {
            tracing::error!("the schedule: {e}");
        }
        let wait = match cloud.db.read_async(next_period_end).await {
            Ok(Some(at)) => until(at).min(TICK),
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

async fn look(cloud: &Arc<Cloud>) -> Result<(), ActionError> {
    let issuer = cloud.issuer.clone();
    let now = crate::db::now_s();
    let due = cloud.db.read_async(move |connection| Ok((next_period_end(connection)?, issuer.renewals_due(connection, now)?))).await?;
    let ended = due.0.is_some_and(|at| at <= now);
    if ended || due.1 {
        let issuer = cloud.issuer.clone();
        let work = move |tx: &rusqlite::Transaction<'_>| {
            let mut issued = issuer.end_periods(tx, now)?;
            issued.extend(issuer.renew(tx, now)?);
            Ok(issued)
        };
        cloud.change(work, Vec::as_slice).await?;
    }
    let chased = cloud.db.read_async(outbox::chase).await?;
    if chased > 0 {
        tracing::info!(cameras = chased, "have not reported; their documents are sent again");
        cloud.outbox.notify_one();
    }
    Ok(())
}

fn until(at: u64) -> Duration {
    let at_us = i64::try_from(at).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    Duration::from_micros(u64::try_from(at_us.saturating_sub(now_us())).unwrap_or(0))
}
