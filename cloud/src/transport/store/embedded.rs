//! The embedded store: an S3 service over plain files below the data directory. Cameras reach it by presigned PUTs,
//! which [`super::put`] follows; the calls in here go past its HTTP and its signatures.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Extensions, HeaderMap, Method, Uri},
};
use s3s::{
    S3 as _, S3ErrorCode, S3Request,
    auth::SimpleAuth,
    dto::{GetObjectInput, ListObjectsV2Input, PutObjectInput},
    service::{S3Service, S3ServiceBuilder},
};
use s3s_fs::FileSystem;

use super::{Object, StoreError};
use crate::storage::data_dir::make_private_dir;

/// The bucket of the embedded store.
pub const BUCKET: &str = "clips";
/// The access key id of its only user.
pub const USER: &str = "care-cloud";
/// A listing starts again this often if the store changes while it runs.
const LISTINGS_DISTURBED: u32 = 20;

/// Why an object was not read.
pub enum Unread {
    /// The range lies outside it.
    Range,
    /// What S3 says.
    Failed(String),
}

impl Unread {
    /// The same of a clip that `name` names.
    pub fn named(self, name: impl FnOnce(String) -> StoreError) -> StoreError {
        match self {
            Self::Range => StoreError::Range,
            Self::Failed(why) => name(why),
        }
    }
}

/// The embedded store.
pub struct Embedded {
    /// Serves requests with their signatures.
    pub(super) service: S3Service,
    files: FileSystem,
    root: PathBuf,
}

impl Embedded {
    /// The store below `root`; requests are signed with `secret`.
    pub fn open(root: &Path, secret: &str) -> Result<Self, StoreError> {
        make_private_dir(&root.join(BUCKET))?;
        let files = || FileSystem::new(root).map_err(|e| StoreError::Open { path: root.to_owned(), why: format!("{e:?}") });
        let mut builder = S3ServiceBuilder::new(files()?);
        builder.set_auth(SimpleAuth::from_single(USER, secret));
        Ok(Self { service: builder.build(), files: files()?, root: root.to_owned() })
    }

    /// Writes one clip.
    pub async fn put(&self, key: String, content: &'static [u8]) -> Result<(), String> {
        let body = s3s::dto::StreamingBlob::wrap(futures::stream::once(async move { Ok::<_, Infallible>(Bytes::from_static(content)) }));
        let input = PutObjectInput { bucket: BUCKET.into(), key, body: Some(body), ..PutObjectInput::default() };
        self.files.put_object(request(input)).await.map(drop).map_err(|e| format!("{e:?}"))
    }

    /// Deletes one object at once and logs a failure. Returns whether it is deleted.
    pub fn delete(&self, key: &str) -> bool {
        let path = self.root.join(BUCKET).join(key);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                tracing::error!("erasing {}: {e}", path.display());
                false
            }
            _ => true,
        }
    }

    /// Opens an object, or a range of it; `None` if there is none. A malformed `range` is ignored (RFC 9110).
    pub async fn read(&self, key: &str, range: Option<&str>) -> Result<Option<Object>, Unread> {
        let range = range.and_then(|range| s3s::dto::Range::parse(range).ok());
        let input = GetObjectInput { bucket: BUCKET.into(), key: key.to_owned(), range, ..GetObjectInput::default() };
        let output = match self.files.get_object(request(input)).await {
            Ok(answer) => answer.output,
            Err(e) if *e.code() == S3ErrorCode::NoSuchKey => return Ok(None),
            Err(e) if *e.code() == S3ErrorCode::InvalidRange => return Err(Unread::Range),
            Err(e) => return Err(Unread::Failed(format!("{e:?}"))),
        };
        let length = output.content_length.and_then(|length| u64::try_from(length).ok());
        let (Some(blob), Some(length)) = (output.body, length) else { return Ok(None) };
        Ok(Some(Object::Content { body: Body::from_stream(blob), length, content_range: output.content_range }))
    }

    /// The objects whose keys begin with `prefix`, with their sizes.
    pub async fn list(&self, prefix: &str) -> Result<BTreeMap<String, u64>, String> {
        let mut objects = BTreeMap::new();
        let mut page: Option<String> = None;
        let mut disturbed = 0;
        loop {
            let input = ListObjectsV2Input {
                bucket: BUCKET.into(),
                prefix: Some(prefix.to_owned()),
                continuation_token: page.clone(),
                ..ListObjectsV2Input::default()
            };
            let listed = match self.files.list_objects_v2(request(input)).await {
                Ok(answer) => answer.output,
                // It reads one file after the other, and fails if one disappears meanwhile.
                Err(e) if disturbed < LISTINGS_DISTURBED && *e.code() == S3ErrorCode::InternalError => {
                    disturbed += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Err(e) => return Err(format!("{e:?}")),
            };
            let size = |size: Option<i64>| size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
            objects.extend(listed.contents.iter().flatten().filter_map(|object| Some((object.key.clone()?, size(object.size)))));
            page = listed.next_continuation_token;
            if page.is_none() {
                return Ok(objects);
            }
        }
    }
}

/// A request to the service that needs neither HTTP nor a signature.
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
