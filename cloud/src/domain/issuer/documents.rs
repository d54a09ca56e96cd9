//! Documents as the database has them: the fields that care-cloud needs back, and the tokens that cameras get.

use care_protocol::{Channel, DeviceId, Policy, Reason};
use serde::Deserialize;

use super::{Camera, CurrentPlan, find_camera};
use crate::storage::db::{Connection, DbError, OptionalExtension as _};

/// A document as the database has it: the fields that care-cloud reads back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Body {
    /// The account.
    pub account: String,
    /// The binding epoch.
    pub epoch: u64,
    /// The sequence.
    pub seq: u64,
    /// The plan.
    pub plan: String,
    /// Why it was issued.
    pub reason: Reason,
    /// Where the plan was bought.
    pub channel: Channel,
    /// When it was issued, Unix seconds.
    pub iat: u64,
    /// The limits.
    pub policy: Policy,
    /// The next change.
    pub next: Option<NextBody>,
}

/// [`Next`](care_protocol::Next), read back.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct NextBody {
    /// The plan then.
    pub plan: String,
    /// When, Unix seconds.
    pub effective_at: u64,
    /// Why.
    pub reason: Reason,
    /// The limits then.
    pub policy: Policy,
}

impl Body {
    /// The policy at `now`. A `next` that is due applies even before a later document contains it.
    pub fn policy_at(&self, now: u64) -> Policy {
        self.next.as_ref().filter(|next| next.effective_at <= now).map_or(self.policy, |next| next.policy)
    }

    pub(super) fn says(&self, camera: &Camera, current_plan: &CurrentPlan, reason: Option<Reason>) -> bool {
        let next = current_plan.next.as_ref().map(|next| (next.plan.as_str(), next.effective_at, &next.policy));
        self.account == camera.account
            && self.epoch == camera.epoch
            && self.plan == current_plan.tier.as_str()
            && self.channel == current_plan.channel
            && self.policy == current_plan.policy
            && self.next.as_ref().map(|next| (next.plan.as_str(), next.effective_at, &next.policy)) == next
            && reason.is_none_or(|reason| reason == self.reason)
    }
}

/// The newest document of a camera, if it has one.
pub fn newest_body(connection: &Connection, device: &DeviceId) -> Result<Option<Body>, DbError> {
    let mut statement = connection.prepare_cached(NEWEST_BODY)?;
    let body: Option<String> = statement.query_row([device.as_str()], |row| row.get(0)).optional()?;
    body.map(|body| read_body(&body)).transpose()
}

/// A document's body, read back.
pub fn read_body(body: &str) -> Result<Body, DbError> {
    serde_json::from_str(body).map_err(|e| DbError::Damaged { what: "documents.body", why: e.to_string() })
}

/// The newest document of a camera as JWS, if it has one.
pub fn newest_token(connection: &Connection, device: &DeviceId) -> Result<Option<String>, DbError> {
    let mut statement = connection.prepare_cached(NEWEST_TOKEN)?;
    Ok(statement.query_row([device.as_str()], |row| row.get(0)).optional()?)
}

/// The newest document of a camera as JWS, unless the camera would reject it. A camera that was reset rejects its last
/// binding, except if its own epoch (`ratchet`, from its `get`) is lower.
pub fn token_for(connection: &Connection, device: &DeviceId, ratchet: Option<u64>) -> Result<Option<String>, DbError> {
    let useless = find_camera(connection, device)?.is_some_and(|camera| camera.reset && ratchet.is_none_or(|epoch| epoch >= camera.epoch));
    if useless { Ok(None) } else { newest_token(connection, device) }
}

const NEWEST_BODY: &str = "SELECT body FROM documents WHERE device = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1";
const NEWEST_TOKEN: &str = "SELECT token FROM documents WHERE device = ?1 ORDER BY epoch DESC, seq DESC LIMIT 1";
/// Documents, signed.
pub(super) const ADD: &str = "
    INSERT INTO documents (device, epoch, seq, token, body)
    SELECT value ->> 'device', CAST(value ->> 'epoch' AS BIGINT), CAST(value ->> 'seq' AS BIGINT), value ->> 'token', value ->> 'body'
    FROM json_each(?1) AS w ORDER BY w.key RETURNING device, id";

/// The statements on the way of a change for everybody, for the test of their plans.
pub const STATEMENTS: [&str; 3] = [NEWEST_BODY, NEWEST_TOKEN, ADD];
