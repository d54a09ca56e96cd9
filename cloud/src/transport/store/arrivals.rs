//! Clips that arrive at a store elsewhere: it tells nobody, so whoever has a grant is looked for. What arrived under a grant
//! that still holds is entered in the index; what arrived although its grant was revoked, because a presigned URL cannot be
//! taken back, is deleted unless the plan in force allows it.

use std::{collections::BTreeMap, sync::Arc};

use care_protocol::DeviceId;
use rusqlite::{Connection, params};

use super::book;
use crate::{
    clock::now_us,
    domain::clips::GRANT_IN_USE_US,
    storage::db::DbError,
    transport::{cloud::Cloud, retention::RetentionError},
};

struct Expected {
    grant: String,
    clip: String,
    bytes: u64,
}

/// Looks once for all that may have arrived.
pub async fn look(cloud: &Arc<Cloud>) -> Result<(), RetentionError> {
    if cloud.store.is_embedded() {
        return Ok(());
    }
    let now = cloud.clock.now_s();
    for (device, clips) in cloud.db.read_async(expected).await? {
        let objects = cloud.store.objects(&device).await?;
        for Expected { grant, clip, bytes } in clips {
            let Some(size) = objects.get(&clip) else { continue };
            let (id, asked) = (clip.clone(), device.clone());
            let kept = *size == bytes && cloud.db.transact_async(move |tx| book(tx, &grant, &id, &asked, now)).await?;
            if kept {
                tracing::info!(%device, clip, bytes, "stored elsewhere");
            } else {
                tracing::info!(%device, clip, "arrived after its grant was revoked, or is not the clip: deleted");
                cloud.store.erase(&device, &clip).await?;
            }
        }
    }
    Ok(())
}

/// The grants that somebody may be using or have used, of clips that are not in the index; by camera.
fn expected(connection: &Connection) -> Result<BTreeMap<DeviceId, Vec<Expected>>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT g.device, g.id, g.clip, c.bytes FROM grants g JOIN clips c ON c.clip = g.clip
         WHERE g.state IN ('open', 'revoked') AND g.granted_at > ?1 AND (c.stored_at IS NULL OR c.erased_at IS NOT NULL)
         ORDER BY g.granted_at",
    )?;
    let rows = statement.query_map(params![now_us() - GRANT_IN_USE_US], |row| {
        Ok((row.get::<_, String>(0)?, Expected { grant: row.get(1)?, clip: row.get(2)?, bytes: row.get(3)? }))
    })?;
    let mut clips: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (device, expected) = row?;
        let device = device.parse().map_err(|e: care_protocol::BadIdent| DbError::Damaged { what: "grants.device", why: e.to_string() })?;
        clips.entry(device).or_default().push(expected);
    }
    Ok(clips)
}
