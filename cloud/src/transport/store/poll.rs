//! Polling an external store: it does not report when a clip arrives, so this module looks for the clips of known
//! grants. A clip under a valid grant is marked as stored. A presigned URL cannot be revoked, so a clip whose grant
//! was revoked meanwhile may arrive: it is deleted unless the plan in force allows it.

use std::{collections::BTreeMap, sync::Arc};

use care_protocol::DeviceId;

use super::mark_stored;
use crate::{
    clock::now_us,
    domain::{clips::GRANT_IN_USE_US, parts::Piece},
    storage::db::{Connection, DbError, Scope, Transaction, params},
    transport::{cloud::Cloud, retention::RetentionError},
};

struct Expected {
    grant: String,
    piece: Piece,
    bytes: u64,
}

/// Looks once for every clip that may have arrived.
pub async fn poll(cloud: &Arc<Cloud>) -> Result<(), RetentionError> {
    if cloud.store.is_embedded() {
        return Ok(());
    }
    let now = cloud.clock.now_s();
    for (device, clips) in cloud.db.read_async(expected).await? {
        let objects = cloud.store.list_with_sizes(&device).await?;
        for Expected { grant, piece, bytes } in clips {
            let Some(size) = objects.get(&piece) else { continue };
            let (arrived, asked) = (piece.clone(), device.clone());
            let scope = Scope::camera(device.as_str());
            let mark = move |tx: &Transaction<'_>| mark_stored(tx, &grant, &arrived, &asked, now);
            let kept = *size == bytes && cloud.db.transact_async_in(scope, mark).await?;
            let Piece { clip, part } = &piece;
            if kept {
                tracing::info!(%device, clip, part, bytes, "stored in the external store");
            } else {
                tracing::info!(%device, clip, part, "arrived after its grant was revoked, or is not the clip: deleted");
                cloud.store.delete_external(&device, &piece).await?;
            }
        }
    }
    Ok(())
}

/// The grants that may have been used, of clips that are not marked as stored; by camera.
fn expected(connection: &Connection) -> Result<BTreeMap<DeviceId, Vec<Expected>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT g.device, g.id, g.clip, g.part, coalesce(p.bytes, c.bytes) FROM grants g JOIN clips c ON c.clip = g.clip
         LEFT JOIN parts p ON p.clip = g.clip AND p.part = g.part
         WHERE g.state IN ('open', 'revoked') AND g.granted_at > ?1
           AND (c.erased_at IS NOT NULL OR CASE WHEN g.part IS NULL THEN c.stored_at ELSE p.stored_at END IS NULL)
         ORDER BY g.granted_at",
    )?;
    let rows = statement.query_map(params![now_us() - GRANT_IN_USE_US], |row| {
        let piece = Piece { clip: row.get(2)?, part: row.get(3)? };
        Ok((row.get::<_, String>(0)?, Expected { grant: row.get(1)?, piece, bytes: row.get(4)? }))
    })?;
    let mut clips: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (device, expected) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "grants.device", why: e.to_string() })?;
        clips.entry(device).or_default().push(expected);
    }
    Ok(clips)
}
