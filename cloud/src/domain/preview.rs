//! The effect of a change before it is made: which plans change, what is refunded, which clips are erased. The change
//! is made inside a savepoint and rolled back, so that the preview cannot differ from the change itself.

use care_protocol::{DeviceId, Order, RefundKind};
use serde::Serialize;

use crate::{
    domain::{
        actions::{Action, ActionError, Done},
        issuer::{Issued, Issuer, read_body},
    },
    storage::db::{DbError, OptionalExtension as _, Transaction, params},
};

/// The effect of a change.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Preview {
    /// The cameras that get a new document, in the order of issue.
    pub plans: Vec<PlanChange>,
    /// Refunds and credits.
    pub back: Vec<Order>,
    /// The clips that are erased from the cloud, for each camera that loses any.
    pub losses: Vec<Loss>,
}

/// What cancelling or downgrading would refund and erase, for the confirmation page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// The subscription's order.
    pub order_id: String,
    /// Its plan.
    pub plan: &'static str,
    /// `refund` or `credit`.
    pub kind: RefundKind,
    /// Minor units.
    pub amount_minor: u64,
    /// Credit of the account that is paid out with it, because no further bill would use it; minor units.
    pub credit_paid_out_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// When this was computed, Unix seconds.
    pub at: u64,
    /// Every camera whose plan changes by it.
    pub plans: Vec<PlanChange>,
    /// The clips it erases.
    pub losses: Vec<Loss>,
}

/// One camera's plan, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlanChange {
    /// The camera.
    pub device: DeviceId,
    /// Its plan now; `None` before its first document.
    pub from: Option<String>,
    /// Its plan then.
    pub to: String,
    /// Hours of history then.
    pub history_h: u32,
}

/// Clips of one camera that are erased, and cannot be recovered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// The camera.
    pub device: DeviceId,
    /// How many clips.
    pub clips: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest of them began, Unix milliseconds.
    pub oldest_ms: u64,
    /// When the newest of them began, Unix milliseconds.
    pub newest_ms: u64,
    /// How many clips stay.
    pub kept: u64,
}

impl Issuer {
    /// The effect of `action` at `now`. Fails exactly when the action would.
    pub fn preview(&self, tx: &Transaction<'_>, action: &Action, now: u64) -> Result<Preview, ActionError> {
        tx.execute_batch("SAVEPOINT preview")?;
        let seen = self.act(tx, action, now).and_then(|done| Ok(describe(tx, done)?));
        tx.execute_batch("ROLLBACK TO preview; RELEASE preview")?;
        seen
    }
}

fn describe(tx: &Transaction<'_>, done: Done) -> Result<Preview, DbError> {
    let mut preview = Preview { plans: Vec::new(), back: done.back, losses: Vec::new() };
    for issued in done.issued {
        preview.plans.push(plan_change(tx, &issued)?);
        if !issued.erased.is_empty() {
            preview.losses.push(loss(tx, &issued)?);
        }
    }
    Ok(preview)
}

fn plan_change(tx: &Transaction<'_>, issued: &Issued) -> Result<PlanChange, DbError> {
    let position = issued.position;
    let body = |sql: &str| -> Result<Option<String>, DbError> {
        let mut statement = tx.prepare_cached(sql)?;
        Ok(statement.query_row(params![issued.device.as_str(), position.epoch, position.seq], |row| row.get(0)).optional()?)
    };
    let before = body("SELECT body FROM documents WHERE device = ?1 AND (epoch, seq) < (?2, ?3) ORDER BY epoch DESC, seq DESC LIMIT 1")?;
    let after = body("SELECT body FROM documents WHERE device = ?1 AND epoch = ?2 AND seq = ?3")?;
    let before = before.map(|body| read_body(&body)).transpose()?;
    let after = after.map(|body| read_body(&body)).transpose()?;
    Ok(PlanChange {
        device: issued.device.clone(),
        from: before.map(|body| body.plan),
        to: issued.plan.clone(),
        history_h: after.map_or(0, |body| body.policy.history_h),
    })
}

fn loss(tx: &Transaction<'_>, issued: &Issued) -> Result<Loss, DbError> {
    let kept = "SELECT count(*) FROM clips WHERE device = ?1 AND stored_at IS NOT NULL AND erased_at IS NULL";
    let mut loss = Loss {
        device: issued.device.clone(),
        clips: 0,
        bytes: 0,
        oldest_ms: u64::MAX,
        newest_ms: 0,
        kept: tx.prepare_cached(kept)?.query_row([issued.device.as_str()], |row| row.get(0))?,
    };
    let mut statement = tx.prepare_cached("SELECT started_ms, bytes FROM clips WHERE clip = ?1")?;
    for clip in &issued.erased {
        let (started_ms, bytes): (u64, u64) = statement.query_row([clip], |row| Ok((row.get(0)?, row.get(1)?)))?;
        loss.clips += 1;
        loss.bytes += bytes;
        loss.oldest_ms = loss.oldest_ms.min(started_ms);
        loss.newest_ms = loss.newest_ms.max(started_ms);
    }
    Ok(loss)
}
