//! An external S3: listed, deleted from and written to with URLs that this program signs itself. Cameras upload to it
//! directly.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use axum::http::{Method, StatusCode, header};
use bytes::Bytes;
use reqwest::Client;
use rustls::ClientConfig;
use rusty_s3::{Bucket, Credentials, S3Action as _};
use serde::Deserialize;
use url::Url;

use crate::transport::http;

/// One request, from the connection to the end of the answer.
const WITHIN: Duration = Duration::from_secs(30);
/// How long a URL that this program signs for itself is valid.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// The HTTP side of an external S3. Clones share their connections.
#[derive(Clone)]
pub struct External {
    http: Client,
}

/// The fields of a `ListBucketResult` that are needed. rusty-s3's own type wants fields that not every S3 sends.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listing {
    #[serde(default)]
    contents: Vec<Listed>,
    next_continuation_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    key: String,
    size: u64,
}

impl External {
    /// An S3 whose certificate is signed by what `tls` trusts.
    pub fn new(tls: &ClientConfig) -> Result<Self, String> {
        Ok(Self { http: http::client(tls, WITHIN).map_err(http::reason)? })
    }

    /// The objects whose keys begin with `prefix`, with their sizes.
    pub async fn list(&self, bucket: &Bucket, credentials: &Credentials, prefix: &str) -> Result<BTreeMap<String, u64>, String> {
        let mut objects = BTreeMap::new();
        let mut page: Option<String> = None;
        loop {
            let mut list = bucket.list_objects_v2(Some(credentials));
            list.with_prefix(prefix);
            if let Some(page) = page {
                list.with_continuation_token(page);
            }
            let body = self.ask(Method::GET, list.sign(SIGNED_FOR), Bytes::new()).await?;
            let listed: Listing = quick_xml::de::from_reader(&body[..]).map_err(|e| format!("its listing cannot be read: {e}"))?;
            objects.extend(listed.contents.into_iter().map(|object| (object.key, object.size)));
            page = listed.next_continuation_token;
            if page.is_none() {
                return Ok(objects);
            }
        }
    }

    /// Deletes one object; one that is not there is as good as deleted.
    pub async fn delete(&self, bucket: &Bucket, credentials: &Credentials, key: &str) -> Result<(), String> {
        self.ask(Method::DELETE, bucket.delete_object(Some(credentials), key).sign(SIGNED_FOR), Bytes::new()).await.map(drop)
    }

    /// A whole object.
    pub async fn get(&self, bucket: &Bucket, credentials: &Credentials, key: &str) -> Result<Bytes, String> {
        self.ask(Method::GET, bucket.get_object(Some(credentials), key).sign(SIGNED_FOR), Bytes::new()).await
    }

    /// The first bytes of the object at this URL, or more of it from a store that knows no ranges.
    pub async fn beginning(&self, url: Url, bytes: usize) -> Result<Bytes, String> {
        let range = format!("bytes=0-{}", bytes.saturating_sub(1));
        let answer = self.http.get(url).header(header::RANGE, range).send().await.map_err(http::reason)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(http::reason)?;
        if status.is_success() { Ok(body) } else { Err(format!("GET was answered {status}: {}", String::from_utf8_lossy(&body))) }
    }

    /// Puts one object.
    pub async fn put(&self, bucket: &Bucket, credentials: &Credentials, key: &str, content: Bytes) -> Result<(), String> {
        self.ask(Method::PUT, bucket.put_object(Some(credentials), key).sign(SIGNED_FOR), content).await.map(drop)
    }

    async fn ask(&self, method: Method, url: Url, body: Bytes) -> Result<Bytes, String> {
        let answer = self.http.request(method.clone(), url).body(body).send().await.map_err(http::reason)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(http::reason)?;
        match status.is_success() || (method == Method::DELETE && status == StatusCode::NOT_FOUND) {
            true => Ok(body),
            false => Err(format!("{method} was answered {status}: {}", String::from_utf8_lossy(&body))),
        }
    }
}

/// Whether a URL names this machine.
pub fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}
