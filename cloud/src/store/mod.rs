//! Where clips go. Embedded: an S3 service on the API's own origin, reached by presigned PUTs, that follows each upload
//! while it runs: a cancel revokes its grant, and from that moment nothing of it is stored. External (`--s3`): any S3.
//!
//! **What the store counts.** For every PUT: the body bytes it has read in all, since the new document was handed to the
//! broker (`after_published`), and since the camera's report of that document arrived (`after_reported`). So that this
//! shows what the *camera* does, a revoked PUT is not cut by the store in the same instant: its bytes are thrown away and
//! counted for [`LINGER`], then the connection is closed.

pub mod arrivals;
mod elsewhere;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, header, request::Parts},
};
use care_protocol::{ClipKind, DeviceId, Grant, Position};
use futures::{StreamExt as _, channel::mpsc};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Transaction;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use s3s::{
    S3 as _, S3ErrorCode, S3Request,
    auth::SimpleAuth,
    dto::{GetObjectInput, ListObjectsV2Input, PutObjectInput},
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::watch;
use url::Url;

use self::elsewhere::Elsewhere;
use crate::{
    bus::News,
    cloud::Cloud,
    data_dir::{DataDir, DataError, make_private_dir, new_secret, read_if_there, write_private},
    db::{DbError, now_us},
    pki::trusting,
};

/// How long a revoked upload is still read (and thrown away) before its connection is closed.
pub const LINGER: Duration = Duration::from_secs(1);
/// The life of a grant (section 3.6).
pub const GRANT_LIFE: Duration = Duration::from_secs(60);
/// The bucket of the embedded store.
pub const BUCKET: &str = "clips";
/// The query parameter that names the grant; it is part of what is signed.
const GRANT_PARAMETER: &str = "x-care-grant";
/// A grant may still be in use this long after it was given: the largest clip over the slowest line.
pub const GRANT_IN_USE_US: i64 = 3_600_000_000;
/// Where Debian keeps the public authorities.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
const FINISHED_KEPT: usize = 256;
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
    pub fn grant(&self, device: &DeviceId, clip: &str, kind: ClipKind, id: &str) -> Grant {
        let content_type = match kind {
            ClipKind::Snapshot => "image/jpeg",
            ClipKind::Motion | ClipKind::Manual => "video/mp4",
        };
        let key = key(device, clip);
        let mut put = self.bucket.put_object(Some(&self.credentials), &key);
        put.headers_mut().insert("content-type", content_type);
        put.query_mut().insert(GRANT_PARAMETER, id);
        // Before signing, in whole seconds as the signature has them: never later than what the store will accept.
        let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
        let url = put.sign(GRANT_LIFE);
        let life = SignedDuration::try_from(GRANT_LIFE).expect("a minute");
        Grant {
            method: "PUT".into(),
            url: url.into(),
            headers: BTreeMap::from([("content-type".into(), content_type.into())]),
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

/// The uploads under way and the last ones that ended.
#[derive(Debug, Clone, Default)]
pub struct Transfers {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    open: HashMap<String, Arc<Transfer>>,
    finished: VecDeque<Arc<Transfer>>,
}

/// One upload as the store sees it.
#[derive(Debug)]
struct Transfer {
    grant: String,
    clip: String,
    kind: String,
    device: DeviceId,
    position: Position,
    expected: u64,
    began: i64,
    ended: AtomicI64,
    received: AtomicU64,
    /// Bytes received when a newer document was published and when the camera reported it; [`NEVER`] before.
    at_published: AtomicU64,
    at_reported: AtomicU64,
    stored: std::sync::atomic::AtomicBool,
    revoked: watch::Sender<bool>,
}

const NEVER: u64 = u64::MAX;

/// What is known of one upload, for the portal and the demo.
#[derive(Debug, Clone, Serialize)]
pub struct TransferView {
    /// The clip.
    pub clip: String,
    /// `motion`, `snapshot` or `manual`.
    pub kind: String,
    /// The camera.
    pub device: DeviceId,
    /// The document it was granted under.
    pub granted_under: Position,
    /// Body bytes read so far.
    pub received: u64,
    /// The clip's size.
    pub expected: u64,
    /// Microseconds since 1970.
    pub began_us: i64,
    /// Microseconds since 1970, once it has ended.
    pub ended_us: Option<i64>,
    /// Its grant was revoked.
    pub revoked: bool,
    /// The clip was complete and kept.
    pub stored: bool,
    /// Bytes read after a newer document was published; `None` if there was none.
    pub after_published: Option<u64>,
    /// Bytes read after the camera's report of a newer document arrived; `None` if none did.
    pub after_reported: Option<u64>,
}

impl Transfers {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the uploads of these grants.
    pub fn revoke(&self, grants: &[String]) {
        let table = self.lock();
        for transfer in grants.iter().filter_map(|grant| table.open.get(grant)) {
            transfer.revoked.send_replace(true);
        }
    }

    /// A document of this position was handed to the broker: older uploads are counted from here.
    pub fn mark_published(&self, device: &DeviceId, position: Position) {
        self.mark(device, position, |transfer| &transfer.at_published);
    }

    /// The camera has reported this position.
    pub fn mark_reported(&self, device: &DeviceId, position: Position) {
        self.mark(device, position, |transfer| &transfer.at_reported);
    }

    fn mark(&self, device: &DeviceId, position: Position, which: impl Fn(&Transfer) -> &AtomicU64) {
        for transfer in self.lock().open.values().filter(|t| t.device == *device && t.position < position) {
            let received = transfer.received.load(Ordering::SeqCst);
            // The first mark counts; one that is there already stays.
            let _ = which(transfer).compare_exchange(NEVER, received, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Every upload that is known, newest last.
    pub fn view(&self) -> Vec<TransferView> {
        let table = self.lock();
        let mut all: Vec<_> = table.finished.iter().chain(table.open.values()).map(|transfer| transfer.view()).collect();
        all.sort_by_key(|view| view.began_us);
        all
    }

    /// Lists a transfer as open; `None` if its grant is in use already.
    fn open(&self, transfer: Transfer) -> Option<OpenTransfer> {
        let transfer = Arc::new(transfer);
        let mut table = self.lock();
        if table.open.contains_key(&transfer.grant) {
            return None;
        }
        table.open.insert(transfer.grant.clone(), transfer.clone());
        drop(table);
        Some(OpenTransfer { transfers: self.clone(), transfer })
    }
}

impl Transfer {
    fn view(&self) -> TransferView {
        let received = self.received.load(Ordering::SeqCst);
        let since = |mark: &AtomicU64| match mark.load(Ordering::SeqCst) {
            NEVER => None,
            mark => Some(received.saturating_sub(mark)),
        };
        let ended = self.ended.load(Ordering::SeqCst);
        TransferView {
            clip: self.clip.clone(),
            kind: self.kind.clone(),
            device: self.device.clone(),
            granted_under: self.position,
            received,
            expected: self.expected,
            began_us: self.began,
            ended_us: (ended != 0).then_some(ended),
            revoked: *self.revoked.borrow(),
            stored: self.stored.load(Ordering::SeqCst),
            after_published: since(&self.at_published),
            after_reported: since(&self.at_reported),
        }
    }
}

/// A transfer that is listed as open; it is listed as finished when this goes, however it goes.
#[derive(Debug)]
struct OpenTransfer {
    transfers: Transfers,
    transfer: Arc<Transfer>,
}

impl Drop for OpenTransfer {
    fn drop(&mut self) {
        self.transfer.ended.store(now_us(), Ordering::SeqCst);
        let mut table = self.transfers.lock();
        table.open.remove(&self.transfer.grant);
        if table.finished.len() >= FINISHED_KEPT {
            table.finished.pop_front();
        }
        table.finished.push_back(self.transfer.clone());
    }
}

/// Why a PUT was refused.
#[derive(Debug, Error)]
enum Refusal {
    #[error("{0}")]
    Forbidden(&'static str),
    #[error("{0}")]
    Bad(&'static str),
    /// Refused at its beginning; what comes of it all the same is counted as after the change.
    #[error("the plan changed: the grant was revoked")]
    Revoked(OpenTransfer),
    #[error("this store is elsewhere")]
    Elsewhere,
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Refusal {
    /// The answer, at once. What still comes of the body is read, thrown away and counted for [`LINGER`] after it: closing
    /// with unread bytes would reset the connection, and the camera might never see why it was refused.
    fn answer(self, rest: Option<Body>) -> Response<Body> {
        let status = match &self {
            Self::Forbidden(_) | Self::Revoked(_) => StatusCode::FORBIDDEN,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Elsewhere => StatusCode::NOT_FOUND,
            Self::Db(e) => {
                tracing::error!("{e}");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        let why = Bytes::from(format!("{self}\n"));
        let first = futures::stream::once(async move { Ok::<_, Infallible>(why) });
        let then = futures::stream::once(drain(rest, self)).filter_map(async |()| None);
        let mut answer = Response::new(Body::from_stream(first.chain(then)));
        *answer.status_mut() = status;
        answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        answer
    }
}

async fn drain(rest: Option<Body>, refusal: Refusal) {
    let Some(mut rest) = rest else { return };
    let deadline = tokio::time::Instant::now() + LINGER;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, rest.frame()).await {
        if let (Refusal::Revoked(open), Some(data)) = (&refusal, frame.data_ref()) {
            open.transfer.received.fetch_add(data.len() as u64, Ordering::SeqCst);
        }
    }
}

/// What the database knows of a grant.
struct Granted {
    clip: String,
    kind: String,
    device: DeviceId,
    position: Position,
    bytes: u64,
    sha256: String,
    state: String,
}

/// Serves one request to the embedded store. `peer` is the client certificate's CN.
pub async fn serve(cloud: Arc<Cloud>, peer: &DeviceId, request: Request<Body>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    match put(&cloud, peer, parts, &mut body).await {
        Ok(answer) => answer,
        Err(refusal) => {
            tracing::info!(device = %peer, "PUT refused: {refusal}");
            refusal.answer(body)
        }
    }
}

/// Takes the body out of its place once it is wanted.
async fn put(cloud: &Arc<Cloud>, peer: &DeviceId, request: Parts, body: &mut Option<Body>) -> Result<Response<Body>, Refusal> {
    let embedded = cloud.store.here().ok_or(Refusal::Elsewhere)?;
    if request.method != Method::PUT {
        return Err(Refusal::Forbidden("cameras only put"));
    }
    let query = request.uri.query().unwrap_or_default();
    let grant = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == GRANT_PARAMETER).map(|(_, id)| id.into_owned());
    let grant = grant.ok_or(Refusal::Forbidden("the URL names no grant"))?;
    let granted = find_grant(cloud, &grant).await?.ok_or(Refusal::Forbidden("no such grant"))?;
    if granted.device != *peer || request.uri.path() != format!("/{BUCKET}/{}", key(peer, &granted.clip)) {
        return Err(Refusal::Forbidden("the grant is another's"));
    }
    let length = request.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    if length != Some(granted.bytes) {
        return Err(Refusal::Bad("Content-Length is not the clip's size"));
    }
    let transfer = Transfer {
        grant: grant.clone(),
        clip: granted.clip.clone(),
        kind: granted.kind.clone(),
        device: peer.clone(),
        position: granted.position,
        expected: granted.bytes,
        began: now_us(),
        ended: AtomicI64::new(0),
        received: AtomicU64::new(0),
        at_published: AtomicU64::new(NEVER),
        at_reported: AtomicU64::new(NEVER),
        stored: false.into(),
        revoked: watch::Sender::new(false),
    };
    let open = cloud.transfers.open(transfer).ok_or(Refusal::Forbidden("the grant is in use"))?;
    // Looked at again once listed: a cancel either finds the transfer in the list or its grant is seen as revoked here.
    let granted = find_grant(cloud, &grant).await?.ok_or(Refusal::Forbidden("no such grant"))?;
    if granted.state == "used" {
        return Err(Refusal::Forbidden("the grant is used up"));
    }
    if granted.state != "open" {
        open.transfer.revoked.send_replace(true);
        open.transfer.at_published.store(0, Ordering::SeqCst);
        open.transfer.at_reported.store(0, Ordering::SeqCst);
        return Err(Refusal::Revoked(open));
    }
    let Some(body) = body.take() else { return Err(Refusal::Bad("no body")) };
    cloud.bus.tell(News::Upload { device: peer.to_string() });
    let answer = receive(cloud, embedded, &open.transfer, &granted, request, body).await;
    drop(open);
    cloud.bus.tell(News::Upload { device: peer.to_string() });
    answer
}

/// Feeds the body to S3 while it is wanted, counts it while it comes.
async fn receive(
    cloud: &Arc<Cloud>,
    embedded: &Embedded,
    transfer: &Arc<Transfer>,
    granted: &Granted,
    parts: Parts,
    mut body: Body,
) -> Result<Response<Body>, Refusal> {
    // One frame waits at most: the camera is read as fast as the disk writes.
    let (feed, fed) = mpsc::channel::<Result<Frame<Bytes>, io::Error>>(1);
    let request = Request::from_parts(parts, s3s::Body::http_body(http_body_util::StreamBody::new(fed)));
    let service = embedded.service.clone();
    let storing = tokio::spawn(async move { service.call(request).await });

    let mut revoked = transfer.revoked.subscribe();
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut feed = Some(feed);
    let mut deadline = None;
    let complete = loop {
        tokio::select! {
            biased;
            () = revocation(&mut revoked), if deadline.is_none() => {
                deadline = Some(tokio::time::Instant::now() + LINGER);
                if let Some(mut feed) = feed.take() {
                    // S3 throws away what it has; if it has ended already there is nothing to tell.
                    drop(futures::SinkExt::send(&mut feed, Err(io::Error::other("the grant was revoked"))).await);
                }
            }
            () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break false,
            frame = body.frame() => match frame {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    transfer.received.fetch_add(data.len() as u64, Ordering::SeqCst);
                    hash.update(&data);
                    if let Some(feed) = feed.as_mut() {
                        // S3 may have refused already; its answer says why.
                        drop(futures::SinkExt::send(feed, Ok(Frame::data(data))).await);
                    }
                }
            },
        }
    };
    let genuine = hex(hash.finish().as_ref()) == granted.sha256;
    if let Some(mut feed) = feed.filter(|_| !(complete && genuine)) {
        drop(futures::SinkExt::send(&mut feed, Err(io::Error::other("the upload was cut or is not the clip"))).await);
    }
    let answer = match storing.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => {
            tracing::error!("the embedded store: {e:?}");
            return Err(Refusal::Bad("the store failed"));
        }
        Err(e) => {
            tracing::error!("the embedded store: {e}");
            return Err(Refusal::Bad("the store failed"));
        }
    };
    if answer.status().is_success() && (deadline.is_some() || !complete || !genuine) {
        cloud.store.delete(&granted.device, &granted.clip);
    }
    if deadline.is_some() {
        return Err(Refusal::Forbidden("the plan changed: the grant was revoked"));
    }
    if complete && !genuine {
        return Err(Refusal::Bad("the body is not the clip that was announced"));
    }
    if !answer.status().is_success() {
        return Ok(answer.map(Body::new));
    }
    let (grant, clip, device, now) = (transfer.grant.clone(), transfer.clip.clone(), transfer.device.clone(), cloud.clock.now_s());
    if !cloud.db.transact_async(move |tx| book(tx, &grant, &clip, &device, now)).await? {
        cloud.store.delete(&granted.device, &granted.clip);
        return Err(Refusal::Forbidden("the plan changed: the clip was not kept"));
    }
    transfer.stored.store(true, Ordering::SeqCst);
    tracing::info!(device = %granted.device, clip = granted.clip, bytes = granted.bytes, "stored");
    Ok(answer.map(Body::new))
}

/// Ends when the grant is revoked. The sender lives as long as the transfer, so it cannot go first.
async fn revocation(revoked: &mut watch::Receiver<bool>) {
    drop(revoked.wait_for(|revoked| *revoked).await);
}

/// Marks the clip as stored, unless its grant was revoked meanwhile and the plan in force does not allow it.
fn book(tx: &Transaction<'_>, grant: &str, clip: &str, device: &DeviceId, now: u64) -> Result<bool, DbError> {
    let used = tx.execute("UPDATE grants SET state = 'used' WHERE id = ?1 AND state = 'open'", [grant])?;
    if used == 0 && !crate::api::still_allowed(tx, device, clip, now)? {
        return Ok(false);
    }
    let stored = "UPDATE clips SET stored_at = ?2, erased_at = NULL, gone_at = NULL WHERE clip = ?1";
    tx.execute(stored, rusqlite::params![clip, now_us()])?;
    Ok(true)
}

async fn find_grant(cloud: &Arc<Cloud>, grant: &str) -> Result<Option<Granted>, Refusal> {
    use rusqlite::OptionalExtension as _;
    let grant = grant.to_owned();
    let found = cloud.db.read_async(move |connection| {
        let mut statement = connection.prepare_cached(
            "SELECT g.clip, g.device, g.epoch, g.seq, g.state, c.bytes, c.sha256, c.kind FROM grants g JOIN clips c ON c.clip = g.clip WHERE g.id = ?1",
        )?;
        let row = statement.query_row([grant], |row| {
            let position = Position { epoch: row.get(2)?, seq: row.get(3)? };
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, position, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?))
        });
        Ok(row.optional()?)
    });
    let Some((clip, device, position, state, bytes, sha256, kind)) = found.await? else { return Ok(None) };
    let device = device.parse().map_err(|_| Refusal::Forbidden("the grant's device is unreadable"))?;
    Ok(Some(Granted { clip, kind, device, position, bytes, sha256, state }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
