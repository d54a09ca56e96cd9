//! A clip that came in parts, read as one file: the parts in their order, one after the other, are the clip. Of a range the
//! parts that it touches are read, each when it is its turn.

use std::ops::Range;

use axum::body::{Body, Bytes};
use care_protocol::DeviceId;
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Backend, Object, Store, StoreError, key};
use crate::domain::parts::Piece;

/// What of a part is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    piece: Piece,
    bytes: Range<u64>,
}

/// The clip of these parts, or a range of it.
pub(super) async fn open(
    store: &Store,
    device: &DeviceId,
    parts: &[(Piece, u64)],
    range: Option<&str>,
) -> Result<Option<Object>, StoreError> {
    let whole: u64 = parts.iter().map(|(_, size)| size).sum();
    let asked = range.and_then(|range| s3s::dto::Range::parse(range).ok());
    let wanted = match asked {
        Some(range) => range.check(whole).map_err(|_| StoreError::Range)?,
        None => 0..whole,
    };
    let content_range = asked.map(|_| format!("bytes {}-{}/{whole}", wanted.start, wanted.end.saturating_sub(1)));
    let mut bodies = Vec::new();
    for slice in slices(parts, &wanted) {
        let Some(body) = read(store, device, slice).await? else { return Ok(None) };
        bodies.push(body);
    }
    let body = Body::from_stream(stream::iter(bodies).flat_map(Body::into_data_stream));
    Ok(Some(Object::Content { body, length: wanted.end - wanted.start, content_range }))
}

/// The parts that `wanted` touches, and what of each.
fn slices(parts: &[(Piece, u64)], wanted: &Range<u64>) -> Vec<Slice> {
    let mut begins = 0;
    let mut slices = Vec::new();
    for (piece, size) in parts {
        let bytes = wanted.start.clamp(begins, begins + size) - begins..wanted.end.clamp(begins, begins + size) - begins;
        if !bytes.is_empty() {
            slices.push(Slice { piece: piece.clone(), bytes });
        }
        begins += size;
    }
    slices
}

async fn read(store: &Store, device: &DeviceId, slice: Slice) -> Result<Option<Body>, StoreError> {
    let Slice { piece, bytes } = slice;
    let key = key(device, &piece);
    let unreadable = |why| StoreError::Read { device: device.clone(), clip: piece.clip.clone(), why };
    match &store.backend {
        Backend::Embedded(embedded) => {
            let range = format!("bytes={}-{}", bytes.start, bytes.end - 1);
            match embedded.read(&key, Some(&range)).await.map_err(|e| e.named(unreadable))? {
                Some(Object::Content { body, .. }) => Ok(Some(body)),
                Some(Object::Redirect(_)) | None => Ok(None),
            }
        }
        // A part is small, and a browser cannot be sent to several places.
        Backend::External(external) => {
            let (external, bucket, credentials) = (external.clone(), store.bucket.clone(), store.credentials.clone());
            let part = async move {
                let part = external.get(&bucket, &credentials, &key).await.map_err(std::io::Error::other)?;
                let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(part.len());
                Ok::<Bytes, std::io::Error>(part.slice(cut(bytes.start)..cut(bytes.end)))
            };
            Ok(Some(Body::from_stream(stream::once(part).into_stream())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_found_in_the_parts_that_it_touches() {
        let piece = |part| Piece { clip: "c".into(), part: Some(part) };
        let parts = [(piece(0), 10), (piece(1), 1), (piece(2), 20)];
        let found =
            |wanted: Range<u64>| slices(&parts, &wanted).into_iter().map(|slice| (slice.piece.part, slice.bytes)).collect::<Vec<_>>();
        assert_eq!(found(0..31), [(Some(0), 0..10), (Some(1), 0..1), (Some(2), 0..20)]);
        assert_eq!(found(0..1), [(Some(0), 0..1)]);
        assert_eq!(found(10..11), [(Some(1), 0..1)]);
        assert_eq!(found(9..12), [(Some(0), 9..10), (Some(1), 0..1), (Some(2), 0..1)]);
        assert_eq!(found(30..31), [(Some(2), 19..20)]);
        assert_eq!(found(11..11), []);
    }
}
