//! An S3 that is not ours: asked over HTTPS with URLs we sign ourselves, one short connection a request. Cameras put their
//! clips there without us; here is what is left to do: look, delete, and put an engineer's sample.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use axum::http::{Method, Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rusty_s3::{Bucket, Credentials, S3Action as _};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use url::Url;

/// One request, from the connection to the end of the answer.
const WITHIN: Duration = Duration::from_secs(30);
/// How long our own URLs are good.
const SIGNED_FOR: Duration = Duration::from_secs(60);

/// How the store elsewhere is reached.
pub struct Elsewhere {
    /// `None`: plain HTTP, on loopback only.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// What is needed of a `ListBucketResult`. rusty-s3's own type wants fields that not every S3 sends.
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

impl Elsewhere {
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

    /// Puts one object.
    pub async fn put(&self, bucket: &Bucket, credentials: &Credentials, key: &str, content: Bytes) -> Result<(), String> {
        self.ask(Method::PUT, bucket.put_object(Some(credentials), key).sign(SIGNED_FOR), content).await.map(drop)
    }

    async fn ask(&self, method: Method, url: Url, body: Bytes) -> Result<Bytes, String> {
        let asked = tokio::time::timeout(WITHIN, self.exchange(method.clone(), &url, body));
        let (status, answer) = asked.await.map_err(|_| format!("no answer in {WITHIN:?}"))??;
        match status.is_success() || (method == Method::DELETE && status == StatusCode::NOT_FOUND) {
            true => Ok(answer),
            false => Err(format!("{method} was answered {status}: {}", String::from_utf8_lossy(&answer))),
        }
    }

    async fn exchange(&self, method: Method, url: &Url, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let host = url.host_str().ok_or("its URL names no host")?;
        let port = url.port_or_known_default().ok_or("its URL names no port")?;
        let authority = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let name = host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((name, port)).await.map_err(|e| format!("connecting to {authority}: {e}"))?;
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let request = Request::builder().method(method).uri(target).header(header::HOST, authority);
        let request = request.body(Full::from(body)).map_err(|e| e.to_string())?;
        let Some(tls) = &self.tls else { return send(stream, request).await };
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
        send(stream, request).await
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok((status, body))
}

/// Whether a URL's host is this machine.
pub fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}
