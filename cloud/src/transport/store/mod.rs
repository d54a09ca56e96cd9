//! The clip store. Embedded, it is an S3 service on the API's own origin ([`embedded`]), and each upload is followed
//! while it runs ([`put`]). With `--s3` it is an external S3 ([`external`]), which is polled for uploads that have
//! arrived ([`poll`]).

mod embedded;
mod error;
mod external;
mod joined;
pub mod poll;
pub mod put;
mod still;
mod transfers;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use axum::body::{Body, Bytes};
use care_protocol::{DeviceId, Grant};
use jiff::{SignedDuration, Timestamp};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use url::Url;

use self::{
    embedded::{BUCKET, Embedded},
    external::External,
    still::Stills,
};
pub use self::{
    error::StoreError,
    transfers::{TransferView, Transfers},
};
use crate::{
    clock::now_us,
    domain::{
        clip_rules::{GRANT_LIFE, arrived_too_close, still_allowed},
        parts::{self, Piece},
    },
    storage::{
        data_dir::{DataDir, new_secret, read_if_there, write_private},
        db::{Connection, DbError, OptionalExtension as _, Transaction, params},
        pki::{client_config, trusting},
    },
};

/// The media type of every clip, and the one that grants name for snapshots too: some are JPEGs.
pub const MEDIA_TYPE: &str = "video/mp4";
/// The media type of a snapshot that is a JPEG.
pub const STILL_TYPE: &str = "image/jpeg";
/// The query parameter that names the grant; the signature covers it.
const GRANT_PARAMETER: &str = "x-care-grant";
/// Debian's bundle of public certificate authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The clip store.
pub struct Store {
    bucket: Bucket,
    credentials: Credentials,
    backend: Backend,
    stills: Stills,
}

enum Backend {
    Embedded(Box<Embedded>),
    External(External),
}

/// A clip for playback.
pub enum Object {
    /// Its content, or a range of it.
    Content {
        /// Streamed from the disk.
        body: Body,
        /// Its length, bytes.
        length: u64,
        /// `Content-Range`, if a range was requested.
        content_range: Option<String>,
    },
    /// A URL that serves it for the next minute.
    Redirect(Url),
}

impl Store {
    /// The embedded store below the data directory, to be served on `origin`.
    pub fn embedded(data: &DataDir, origin: &str) -> Result<Self, StoreError> {
        let root = data.path("store");
        let secret_path = data.path("keys/store.secret");
        let secret = match read_if_there(&secret_path)? {
            Some(secret) => String::from_utf8_lossy(&secret).into_owned(),
            None => {
                let secret = new_secret();
                write_private(&secret_path, secret.as_bytes())?;
                secret
            }
        };
        let bucket = bucket(origin, BUCKET, "us-east-1").map_err(|why| StoreError::Open { path: root.clone(), why })?;
        let backend = Backend::Embedded(Box::new(Embedded::open(&root, &secret)?));
        Ok(Self { bucket, credentials: Credentials::new(embedded::USER, secret), backend, stills: Stills::default() })
    }

    /// An external S3: `https://host[:port]/bucket[?region=…]`, or plain HTTP on loopback, with the credentials of the
    /// environment. `ca` (PEM) signs its certificate; without it, the system's authorities.
    pub fn external(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        let bad = |why: &str| StoreError::Url { url: url.to_owned(), why: why.to_owned() };
        let parsed = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        let name = parsed.path().trim_matches('/').to_owned();
        let tls = match parsed.scheme() {
            "https" => {
                let path = ca.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
                let pem =
                    read_if_there(path)?.ok_or_else(|| bad(&format!("there is no {}: name its authority with --s3-ca", path.display())))?;
                trusting(&pem).map_err(|e| bad(&e.to_string()))?
            }
            "http" if external::is_loopback(&parsed) => client_config(b"", None).map_err(|e| bad(&e.to_string()))?,
            _ => return Err(bad("expected https://host[:port]/bucket[?region=name]; http:// is for a loopback address only")),
        };
        if name.is_empty() || name.contains('/') {
            return Err(bad("expected https://host[:port]/bucket[?region=name]"));
        }
        let region = parsed.query_pairs().find(|(key, _)| key == "region").map_or("us-east-1".into(), |(_, value)| value.into_owned());
        let origin = parsed.origin().ascii_serialization();
        let credentials = Credentials::from_env().ok_or_else(|| bad("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))?;
        let backend = Backend::External(External::new(&tls).map_err(|e| bad(&e))?);
        Ok(Self { bucket: bucket(&origin, &name, &region).map_err(|e| bad(&e))?, credentials, backend, stills: Stills::default() })
    }

    /// Permission to upload one clip, or one part: a presigned URL that names the grant.
    pub fn grant(&self, device: &DeviceId, piece: &Piece, id: &str) -> Grant {
        let key = key(device, piece);
        let mut put = self.bucket.put_object(Some(&self.credentials), &key);
        put.headers_mut().insert("content-type", MEDIA_TYPE);
        put.query_mut().insert(GRANT_PARAMETER, id);
        // Read before signing, in whole seconds as the signature has them: the grant never claims more than the store
        // accepts.
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let url = put.sign(GRANT_LIFE);
        let life = SignedDuration::try_from(GRANT_LIFE).expect("a minute");
        Grant {
            method: "PUT".into(),
            url: url.into(),
            headers: BTreeMap::from([("content-type".into(), MEDIA_TYPE.into())]),
            expires_at: now.saturating_add(life).unwrap_or(now),
        }
    }

    /// The embedded store, if it is used.
    fn as_embedded(&self) -> Option<&Embedded> {
        match &self.backend {
            Backend::Embedded(embedded) => Some(embedded),
            Backend::External(_) => None,
        }
    }

    /// Whether the embedded store is used.
    pub fn is_embedded(&self) -> bool {
        self.as_embedded().is_some()
    }

    /// The origin of an external store, from which browsers fetch clips.
    pub fn external_origin(&self) -> Option<String> {
        (!self.is_embedded()).then(|| self.bucket.base_url().origin().ascii_serialization())
    }

    /// Writes a clip that no camera uploaded: a sample of the lab.
    pub async fn put(&self, device: &DeviceId, clip: &str, content: &'static [u8]) -> Result<(), StoreError> {
        let key = key(device, &whole(clip));
        let written = match &self.backend {
            Backend::Embedded(embedded) => embedded.put(key, content).await,
            Backend::External(external) => external.put(&self.bucket, &self.credentials, &key, Bytes::from_static(content)).await,
        };
        written.map_err(|why| StoreError::Write { device: device.clone(), clip: clip.to_owned(), why })
    }

    /// Deletes a clip, or a part, of the embedded store and logs a failure. Returns whether it is deleted.
    pub fn delete_embedded(&self, device: &DeviceId, piece: &Piece) -> bool {
        self.as_embedded().is_some_and(|embedded| embedded.delete(&key(device, piece)))
    }

    /// Deletes a clip, or a part, of an external store.
    pub async fn delete_external(&self, device: &DeviceId, piece: &Piece) -> Result<(), StoreError> {
        let Backend::External(external) = &self.backend else { return Ok(()) };
        let deleted = external.delete(&self.bucket, &self.credentials, &key(device, piece)).await;
        deleted.map_err(|why| StoreError::Erase { device: device.clone(), clip: piece.clip.clone(), why })
    }

    /// Opens a clip for playback, of which `parts` are stored, with their sizes (none: it came whole); `None` if the
    /// embedded store does not have it. A malformed `range` is ignored (RFC 9110). An external store is told to name
    /// `media_type`, whatever the clip came with.
    ///
    /// # Errors
    /// The store fails, or the range lies outside the clip.
    pub async fn open_clip(
        &self,
        device: &DeviceId,
        clip: &str,
        parts: &[(Piece, u64)],
        range: Option<&str>,
        media_type: &'static str,
    ) -> Result<Option<Object>, StoreError> {
        let unreadable = |why| StoreError::Read { device: device.clone(), clip: clip.to_owned(), why };
        if !parts.is_empty() {
            return joined::open(self, device, parts, range).await;
        }
        match &self.backend {
            Backend::Embedded(embedded) => embedded.read(&key(device, &whole(clip)), range).await.map_err(|e| e.named(unreadable)),
            Backend::External(_) => {
                let key = key(device, &whole(clip));
                let mut get = self.bucket.get_object(Some(&self.credentials), &key);
                get.query_mut().insert("response-content-type", media_type);
                Ok(Some(Object::Redirect(get.sign(GRANT_LIFE))))
            }
        }
    }

    /// The ids of a camera's clips, as S3 itself lists them.
    pub async fn list(&self, device: &DeviceId) -> Result<BTreeSet<String>, StoreError> {
        Ok(self.list_with_sizes(device).await?.into_keys().map(|piece| piece.clip).collect())
    }

    /// What there is of them, with their sizes, bytes.
    pub async fn list_with_sizes(&self, device: &DeviceId) -> Result<BTreeMap<Piece, u64>, StoreError> {
        let prefix = format!("{device}/");
        let objects = match &self.backend {
            Backend::Embedded(embedded) => embedded.list(&prefix).await,
            Backend::External(external) => external.list(&self.bucket, &self.credentials, &prefix).await,
        };
        let objects = objects.map_err(|why| StoreError::List { device: device.clone(), why })?;
        let piece = |key: &str| piece_of(key.strip_prefix(&prefix)?.strip_suffix(".mp4")?);
        Ok(objects.into_iter().filter_map(|(key, size)| Some((piece(&key)?, size))).collect())
    }
}

fn bucket(origin: &str, name: &str, region: &str) -> Result<Bucket, String> {
    let origin = Url::parse(origin).map_err(|e| e.to_string())?;
    Bucket::new(origin, UrlStyle::Path, name.to_owned(), region.to_owned()).map_err(|e| e.to_string())
}

fn whole(clip: &str) -> Piece {
    Piece { clip: clip.to_owned(), part: None }
}

fn key(device: &DeviceId, piece: &Piece) -> String {
    match piece.part {
        None => format!("{device}/{}.mp4", piece.clip),
        Some(part) => format!("{device}/{}.{part}.mp4", piece.clip),
    }
}

/// The piece of this name: `CLIP` or `CLIP.PART`.
fn piece_of(name: &str) -> Option<Piece> {
    match name.split_once('.') {
        None => Some(whole(name)),
        Some((clip, part)) => Some(Piece { clip: clip.to_owned(), part: Some(part.parse().ok()?) }),
    }
}

/// Which of these grants are revoked, by any process on this database.
pub fn revoked(connection: &Connection, grants: &[String]) -> Result<Vec<String>, DbError> {
    let mut statement = connection.prepare_cached("SELECT state FROM grants WHERE id = ?1")?;
    let mut revoked = Vec::new();
    for grant in grants {
        let state: Option<String> = statement.query_row([grant], |row| row.get(0)).optional()?;
        // A pruned grant counts as revoked.
        if state.is_none_or(|state| state == "revoked") {
            revoked.push(grant.clone());
        }
    }
    Ok(revoked)
}

/// Marks the clip, or the part, as stored. Refuses it if its grant was revoked meanwhile and the plan in force does not allow the
/// clip, or if another clip within the plan's cooldown arrived first.
fn mark_stored(tx: &Transaction<'_>, grant: &str, piece: &Piece, device: &DeviceId, now: u64) -> Result<bool, DbError> {
    let clip = &piece.clip;
    let used = tx.execute("UPDATE grants SET state = 'used' WHERE id = ?1 AND state = 'open'", [grant])?;
    if used == 0 && !still_allowed(tx, device, clip, now)? {
        return Ok(false);
    }
    // Of two that were uploaded at once, the first one stays.
    if arrived_too_close(tx, device, clip, now)? {
        return Ok(false);
    }
    if let Some(part) = piece.part {
        return parts::mark_stored(tx, clip, part);
    }
    let stored = "UPDATE clips SET stored_at = ?2, erased_at = NULL, gone_at = NULL WHERE clip = ?1";
    tx.execute(stored, params![clip, now_us()])?;
    Ok(true)
}
