//! Where clips go. Embedded: an S3 service on the API's own origin, reached by presigned PUTs, that follows each upload
//! while it runs ([`put`]). External (`--s3`): any S3, where what arrives is looked for ([`arrivals`]).

pub mod arrivals;
mod elsewhere;
pub mod put;
mod transfers;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Extensions, HeaderMap, Method, Uri},
};
use care_protocol::{DeviceId, Grant};
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Transaction};
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use s3s::{
    S3 as _, S3ErrorCode, S3Request,
    auth::SimpleAuth,
    dto::{GetObjectInput, ListObjectsV2Input, PutObjectInput},
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use thiserror::Error;
use url::Url;

use self::elsewhere::Elsewhere;
pub use self::transfers::{TransferView, Transfers};
use crate::{
    clock::now_us,
    domain::clip_rules::{GRANT_LIFE, arrived_too_close, still_allowed},
    storage::{
        data_dir::{DataDir, DataError, make_private_dir, new_secret, read_if_there, write_private},
        db::DbError,
        pki::trusting,
    },
};

/// What every clip is, a snapshot too: an MP4, that of one frame.
pub const MEDIA_TYPE: &str = "video/mp4";
/// The bucket of the embedded store.
pub const BUCKET: &str = "clips";
/// The query parameter that names the grant; it is part of what is signed.
const GRANT_PARAMETER: &str = "x-care-grant";
/// Where Debian keeps the public authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// So often a listing is begun again because the store changed under it.
const LISTINGS_DISTURBED: u32 = 20;

/// What can go wrong with the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Reading or writing its secret.
    #[error(transparent)]
    Data(#[from] DataError),
    /// s3s.
    #[error("opening the embedded store in {path}: {why}")]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Deleting one elsewhere.
    #[error("deleting clip {clip} of {device} from the store: {why}")]
    Erase {
        /// Whose.
        device: DeviceId,
        /// Which.
        clip: String,
        /// Why.
        why: String,
    },
    /// Looking what is there.
    #[error("listing the clips of {device} in the store: {why}")]
    List {
        /// Whose.
        device: DeviceId,
        /// Why.
        why: String,
    },
    /// A range that the clip does not have.
    #[error("the range lies outside the clip")]
    Range,
    /// Reading one.
    #[error("reading clip {clip} of {device} from the store: {why}")]
    Read {
        /// Whose.
        device: DeviceId,
        /// Which.
        clip: String,
        /// Why.
        why: String,
    },
    /// Writing one.
    #[error("writing clip {clip} of {device} to the store: {why}")]
    Write {
        /// Whose.
        device: DeviceId,
        /// Which.
        clip: String,
        /// Why.
        why: String,
    },
    /// `--s3`.
    #[error("--s3 {url}: {why}")]
    Url {
        /// As given.
        url: String,
        /// What would be right.
        why: String,
    },
}

/// The clip store.
pub struct Store {
    bucket: Bucket,
    credentials: Credentials,
    place: Place,
}

enum Place {
    Embedded(Box<Embedded>),
    Elsewhere(Elsewhere),
}

/// A clip to be watched.
pub enum Object {
    /// Its bytes, or a range of them.
    Here {
        /// As they come from the disk.
        body: Body,
        /// How many.
        length: u64,
        /// `Content-Range`, if a range was asked for.
        content_range: Option<String>,
    },
    /// Where to get it for the next minute.
    Elsewhere(Url),
}

struct Embedded {
    service: S3Service,
    /// What the service serves, for listing it without asking by HTTP.
    files: FileSystem,
    root: PathBuf,
}

impl Store {
    /// The embedded store under the data directory, to be served on `origin`.
    pub fn embedded(data: &DataDir, origin: &str) -> Result<Self, StoreError> {
        let root = data.path("store");
        make_private_dir(&root.join(BUCKET))?;
        let secret_path = data.path("keys/store.secret");
        let secret = match read_if_there(&secret_path)? {
            Some(secret) => String::from_utf8_lossy(&secret).into_owned(),
            None => {
                let secret = new_secret();
                write_private(&secret_path, secret.as_bytes())?;
                secret
            }
        };
        let open = |why: String| StoreError::Open { path: root.clone(), why };
        let files = || FileSystem::new(&root).map_err(|e| open(format!("{e:?}")));
        let mut builder = S3ServiceBuilder::new(files()?);
        builder.set_auth(SimpleAuth::from_single("care-cloud", secret.as_str()));
        let bucket = bucket(origin, BUCKET, "us-east-1").map_err(open)?;
        let embedded = Embedded { service: builder.build(), files: files()?, root: root.clone() };
        Ok(Self { bucket, credentials: Credentials::new("care-cloud", secret), place: Place::Embedded(Box::new(embedded)) })
    }

    /// An S3 elsewhere: `https://host[:port]/bucket[?region=…]` (plain HTTP on loopback), with the credentials of the
    /// environment. `ca` (PEM) signs its certificate; without it the system's authorities.
    pub fn external(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        let bad = |why: &str| StoreError::Url { url: url.to_owned(), why: why.to_owned() };
        let parsed = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        let name = parsed.path().trim_matches('/').to_owned();
        let tls = match parsed.scheme() {
            "https" => {
                let path = ca.unwrap_or(Path::new(SYSTEM_AUTHORITIES));
                let pem =
                    read_if_there(path)?.ok_or_else(|| bad(&format!("there is no {}: name its authority with --s3-ca", path.display())))?;
                Some(trusting(&pem).map_err(|e| bad(&e.to_string()))?)
            }
            "http" if elsewhere::is_loopback(&parsed) => None,
            _ => return Err(bad("expected https://host[:port]/bucket[?region=name]; http:// is for a loopback address only")),
        };
        if name.is_empty() || name.contains('/') {
            return Err(bad("expected https://host[:port]/bucket[?region=name]"));
        }
        let region = parsed.query_pairs().find(|(key, _)| key == "region").map_or("us-east-1".into(), |(_, value)| value.into_owned());
        let origin = parsed.origin().ascii_serialization();
        let credentials = Credentials::from_env().ok_or_else(|| bad("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"))?;
        Ok(Self { bucket: bucket(&origin, &name, &region).map_err(|e| bad(&e))?, credentials, place: Place::Elsewhere(Elsewhere { tls }) })
    }

    /// Permission to put one clip: a presigned URL that names the grant.
    pub fn grant(&self, device: &DeviceId, clip: &str, id: &str) -> Grant {
        let key = key(device, clip);
        let mut put = self.bucket.put_object(Some(&self.credentials), &key);
        put.headers_mut().insert("content-type", MEDIA_TYPE);
        put.query_mut().insert(GRANT_PARAMETER, id);
        // Before signing, in whole seconds as the signature has them: never later than what the store will accept.
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

    fn here(&self) -> Option<&Embedded> {
        match &self.place {
            Place::Embedded(embedded) => Some(embedded),
            Place::Elsewhere(_) => None,
        }
    }

    /// Whether the objects are here.
    pub fn is_embedded(&self) -> bool {
        self.here().is_some()
    }

    /// Puts a clip that no camera sent: an engineer's sample.
    pub async fn put(&self, device: &DeviceId, clip: &str, content: &'static [u8]) -> Result<(), StoreError> {
        let failed = |why: String| StoreError::Write { device: device.clone(), clip: clip.to_owned(), why };
        let embedded = match &self.place {
            Place::Embedded(embedded) => embedded,
            Place::Elsewhere(elsewhere) => {
                let content = Bytes::from_static(content);
                return elsewhere.put(&self.bucket, &self.credentials, &key(device, clip), content).await.map_err(failed);
            }
        };
        let body = s3s::dto::StreamingBlob::wrap(futures::stream::once(async move { Ok::<_, Infallible>(Bytes::from_static(content)) }));
        let input = PutObjectInput { bucket: BUCKET.into(), key: key(device, clip), body: Some(body), ..PutObjectInput::default() };
        embedded.files.put_object(request(input)).await.map_err(|e| failed(format!("{e:?}")))?;
        Ok(())
    }

    /// The origin of an external store: browsers fetch clips there.
    pub fn elsewhere(&self) -> Option<String> {
        (!self.is_embedded()).then(|| self.bucket.base_url().origin().ascii_serialization())
    }

    /// Deletes a clip of the embedded store; a failure is logged. Whether nothing of it is in the way any more.
    pub fn delete(&self, device: &DeviceId, clip: &str) -> bool {
        let Some(embedded) = self.here() else { return false };
        let path = embedded.root.join(BUCKET).join(key(device, clip));
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::error!("erasing {}: {e}", path.display());
                false
            }
            _ => true,
        }
    }

    /// Opens a clip for watching; `None` if the store has it not. A `range` that is no range is as good as none (RFC 9110).
    pub async fn open_clip(&self, device: &DeviceId, clip: &str, range: Option<&str>) -> Result<Option<Object>, StoreError> {
        let key = key(device, clip);
        let Some(embedded) = self.here() else {
            return Ok(Some(Object::Elsewhere(self.bucket.get_object(Some(&self.credentials), &key).sign(GRANT_LIFE))));
        };
        let range = range.and_then(|range| s3s::dto::Range::parse(range).ok());
        let input = GetObjectInput { bucket: BUCKET.into(), key, range, ..GetObjectInput::default() };
        let output = match embedded.files.get_object(request(input)).await {
            Ok(answer) => answer.output,
            Err(e) if *e.code() == S3ErrorCode::NoSuchKey => return Ok(None),
            Err(e) if *e.code() == S3ErrorCode::InvalidRange => return Err(StoreError::Range),
            Err(e) => return Err(StoreError::Read { device: device.clone(), clip: clip.to_owned(), why: format!("{e:?}") }),
        };
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let (Some(blob), Some(length)) = (output.body, length) else { return Ok(None) };
        Ok(Some(Object::Here { body: Body::from_stream(blob), length, content_range: output.content_range }))
    }

    /// Deletes a clip of a store elsewhere.
    pub async fn erase(&self, device: &DeviceId, clip: &str) -> Result<(), StoreError> {
        let Place::Elsewhere(elsewhere) = &self.place else { return Ok(()) };
        let erased = elsewhere.delete(&self.bucket, &self.credentials, &key(device, clip)).await;
        erased.map_err(|why| StoreError::Erase { device: device.clone(), clip: clip.to_owned(), why })
    }

    /// The ids of a camera's clips, as S3 itself lists them.
    pub async fn list(&self, device: &DeviceId) -> Result<BTreeSet<String>, StoreError> {
        Ok(self.objects(device).await?.into_keys().collect())
    }

    /// The same with their sizes.
    pub async fn objects(&self, device: &DeviceId) -> Result<BTreeMap<String, u64>, StoreError> {
        let failed = |why: String| StoreError::List { device: device.clone(), why };
        let prefix = format!("{device}/");
        let id = |key: &str| Some(key.strip_prefix(&prefix)?.strip_suffix(".mp4")?.to_owned());
        let embedded = match &self.place {
            Place::Embedded(embedded) => embedded,
            Place::Elsewhere(elsewhere) => {
                let objects = elsewhere.list(&self.bucket, &self.credentials, &prefix).await.map_err(failed)?;
                return Ok(objects.into_iter().filter_map(|(key, size)| Some((id(&key)?, size))).collect());
            }
        };
        let mut clips = BTreeMap::new();
        let mut page: Option<String> = None;
        let mut disturbed = 0;
        loop {
            let input = ListObjectsV2Input {
                bucket: BUCKET.into(),
                prefix: Some(prefix.clone()),
                continuation_token: page.clone(),
                ..ListObjectsV2Input::default()
            };
            let listed = match embedded.files.list_objects_v2(request(input)).await {
                Ok(answer) => answer.output,
                // It looks at one file after the other, and fails if one goes meanwhile: an upload that was cut, another clip.
                Err(e) if disturbed < LISTINGS_DISTURBED && *e.code() == S3ErrorCode::InternalError => {
                    disturbed += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Err(e) => return Err(failed(format!("{e:?}"))),
            };
            let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            clips.extend(listed.contents.iter().flatten().filter_map(|object| Some((id(object.key.as_deref()?)?, size(object.size)))));
            page = listed.next_continuation_token;
            if page.is_none() {
                return Ok(clips);
            }
        }
    }
}

/// A request of our own to the embedded service, past its HTTP and its signatures.
fn request<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: Method::GET,
        uri: Uri::default(),
        headers: HeaderMap::new(),
        extensions: Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}

fn bucket(origin: &str, name: &str, region: &str) -> Result<Bucket, String> {
    let origin = Url::parse(origin).map_err(|e| e.to_string())?;
    Bucket::new(origin, UrlStyle::Path, name.to_owned(), region.to_owned()).map_err(|e| e.to_string())
}

fn key(device: &DeviceId, clip: &str) -> String {
    format!("{device}/{clip}.mp4")
}

/// Which of these grants are revoked, by whichever process on this database.
pub fn revoked(connection: &Connection, grants: &[String]) -> Result<Vec<String>, DbError> {
    let mut statement = connection.prepare_cached("SELECT state FROM grants WHERE id = ?1")?;
    let mut revoked = Vec::new();
    for grant in grants {
        let state: Option<String> = statement.query_row([grant], |row| row.get(0)).optional()?;
        // One that is no longer kept is as good as revoked.
        if state.is_none_or(|state| state == "revoked") {
            revoked.push(grant.clone());
        }
    }
    Ok(revoked)
}

/// Marks the clip as stored, unless its grant was revoked meanwhile and the plan in force does not allow it, or another clip
/// that it must keep a pause from arrived first.
fn book(tx: &Transaction<'_>, grant: &str, clip: &str, device: &DeviceId, now: u64) -> Result<bool, DbError> {
    let used = tx.execute("UPDATE grants SET state = 'used' WHERE id = ?1 AND state = 'open'", [grant])?;
    if used == 0 && !still_allowed(tx, device, clip, now)? {
        return Ok(false);
    }
    // Two that were on their way at once: the first one stays.
    if arrived_too_close(tx, device, clip, now)? {
        return Ok(false);
    }
    let stored = "UPDATE clips SET stored_at = ?2, erased_at = NULL, gone_at = NULL WHERE clip = ?1";
    tx.execute(stored, rusqlite::params![clip, now_us()])?;
    Ok(true)
}
