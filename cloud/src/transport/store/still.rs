//! Which snapshots are JPEGs: a camera sends either that or an MP4 of one frame, and the first bytes tell
//! (`docs/protocol.md`). What is known is remembered, because pages ask again and again.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use axum::body::to_bytes;
use care_protocol::DeviceId;
use rusty_s3::S3Action as _;

use super::{Backend, GRANT_LIFE, MEDIA_TYPE, Object, Store, StoreError, key, whole};
use crate::domain::parts::Piece;

/// With these every JPEG begins.
const JPEG: [u8; 3] = [0xFF, 0xD8, 0xFF];
/// A store may send all of a snapshot although its beginning is asked for, bytes.
const LARGEST: usize = 64 << 20;
/// How many are remembered. Then it begins anew.
const REMEMBERED: usize = 10_000;

/// By clip.
#[derive(Default)]
pub(super) struct Stills(Mutex<HashMap<String, bool>>);

impl Store {
    /// Whether a stored snapshot is a JPEG. `parts` as in [`Store::open_clip`].
    ///
    /// # Errors
    /// The store fails.
    pub async fn is_jpeg(&self, device: &DeviceId, clip: &str, parts: &[(Piece, u64)]) -> Result<bool, StoreError> {
        let remembered = || self.stills.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered().get(clip).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let failed = |why: String| StoreError::Read { device: device.clone(), clip: clip.to_owned(), why };
        let beginning = match &self.backend {
            Backend::External(external) if parts.is_empty() => {
                let url = self.bucket.get_object(Some(&self.credentials), &key(device, &whole(clip))).sign(GRANT_LIFE);
                external.beginning(url, JPEG.len()).await.map_err(failed)?
            }
            _ => match self.open_clip(device, clip, parts, Some("bytes=0-2"), MEDIA_TYPE).await? {
                Some(Object::Content { body, .. }) => to_bytes(body, LARGEST).await.map_err(|e| failed(e.to_string()))?,
                // Erased meanwhile.
                Some(Object::Redirect(_)) | None => return Ok(false),
            },
        };
        let is_jpeg = beginning.starts_with(&JPEG);
        let mut stills = remembered();
        if stills.len() == REMEMBERED {
            stills.clear();
        }
        stills.insert(clip.to_owned(), is_jpeg);
        Ok(is_jpeg)
    }
}
