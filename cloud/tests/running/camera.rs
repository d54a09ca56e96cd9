//! A camera under the test's control: it speaks MQTT and HTTPS with the files that `camera add` wrote.

use std::{path::Path, sync::Arc, time::Duration};

use axum::http::{Request, Response, header};
use bytes::Bytes;
use care_cloud::storage::{
    data_dir::Endpoints,
    pki::{Identity, client_config, trusting},
};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rumqttc::{
    AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, Publish, QoS, SubscribeFilter, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use url::Url;

use super::cloud::{Cloud, PATIENCE};

#[derive(Clone)]
pub struct Camera {
    pub id: String,
    pub endpoints: Endpoints,
    pub tls: Arc<rustls::ClientConfig>,
}

impl Camera {
    pub fn add(cloud: &Cloud, id: &str) -> Self {
        cloud.add_camera(id);
        Self::with_files(cloud, id)
    }

    /// The same for a camera of another account than the demo's.
    pub fn added_to(cloud: &Cloud, id: &str, account: &str) -> Self {
        cloud.add_camera_to(id, account);
        Self::with_files(cloud, id)
    }

    /// One that was added before; care-cloud may have been started again since.
    pub fn with_files(cloud: &Cloud, id: &str) -> Self {
        let files = cloud.dir.path().join(id);
        let text = |name| std::fs::read_to_string(files.join(name)).unwrap();
        let identity = Identity { certificate: text("device.pem"), key: text("device.key") };
        let tls = client_config(text("ca.pem").as_bytes(), Some(&identity)).unwrap();
        Self { id: id.into(), endpoints: cloud.endpoints.clone(), tls }
    }

    /// Under another client id, or at another listener of the broker, with the certificate it has.
    pub fn posing_as(&self, id: &str, broker: &str) -> Self {
        let mut posing = self.clone();
        posing.id = id.into();
        posing.endpoints.broker = broker.into();
        posing
    }

    /// care-cloud's own identity, which may read everything.
    pub fn cloud_itself(cloud: &Cloud) -> Self {
        let text = |name| std::fs::read_to_string(cloud.data().join("pki").join(name)).unwrap();
        let identity = Identity { certificate: text("cloud.pem"), key: text("cloud.key") };
        let tls = client_config(text("ca.pem").as_bytes(), Some(&identity)).unwrap();
        let mut endpoints = cloud.endpoints.clone();
        endpoints.broker = endpoints.broker_cloud.clone().unwrap_or(endpoints.broker);
        Self { id: "watcher".into(), endpoints, tls }
    }

    /// Somebody with no certificate.
    pub fn stranger(cloud: &Cloud) -> Self {
        let ca = std::fs::read(cloud.data().join("pki/ca.pem")).unwrap();
        Self { id: "stranger".into(), endpoints: cloud.endpoints.clone(), tls: client_config(&ca, None).unwrap() }
    }

    pub fn topic(&self, leaf: &str) -> String {
        format!("care/v1/{}/{leaf}", self.id)
    }

    pub async fn mqtt(&self, filters: &[&str]) -> Session {
        self.try_mqtt(filters).await.expect("a connection")
    }

    /// Connects and subscribes, in this order of filters.
    pub async fn try_mqtt(&self, filters: &[&str]) -> Result<Session, rumqttc::ConnectionError> {
        self.session(true, filters).await
    }

    /// The same in the camera's lasting session, as the agent has one.
    pub async fn try_resume(&self, filters: &[&str]) -> Result<Session, rumqttc::ConnectionError> {
        self.session(false, filters).await
    }

    async fn session(&self, clean: bool, filters: &[&str]) -> Result<Session, rumqttc::ConnectionError> {
        let broker = Url::parse(&self.endpoints.broker).unwrap();
        let mut options = MqttOptions::new(&self.id, broker.host_str().unwrap(), broker.port().unwrap());
        options.set_clean_session(clean);
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(self.tls.clone())));
        let (client, mut events) = AsyncClient::new(options, 64);
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        events.set_network_options(network);
        events.poll().await?;
        if !filters.is_empty() {
            client.try_subscribe_many(filters.iter().map(|f| SubscribeFilter::new((*f).to_owned(), QoS::AtLeastOnce))).unwrap();
        }
        Ok(Session { client, events })
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        connect_to(&Url::parse(&self.endpoints.api).unwrap(), self.tls.clone()).await
    }

    /// A PUT to another store than the cloud's own, which gets no certificate of the camera's; the answer's status.
    pub async fn put_to_external_store(&self, ca: &Path, grant: &Value, body: Vec<u8>) -> u16 {
        let mut request = Request::put(path_of(grant));
        for (name, value) in grant["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        let url = Url::parse(grant["url"].as_str().unwrap()).unwrap();
        ask_external_store(ca, &url, request.body(Full::from(body)).unwrap()).await.status().as_u16()
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Response<Bytes> {
        self.try_send(request).await.expect("an answer")
    }

    pub async fn try_send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Box<dyn std::error::Error>> {
        let host = self.endpoints.api.strip_prefix("https://").unwrap().parse().unwrap();
        request.headers_mut().insert(header::HOST, host);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
        tokio::spawn(connection);
        let (parts, body) = sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    pub async fn get(&self, path: &str) -> Response<Bytes> {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn ask(&self, clip: &Clip) -> Response<Bytes> {
        let path = format!("/v1/devices/{}/clips", self.id);
        self.send(Request::post(path).body(Full::from(clip.request().to_string())).unwrap()).await
    }

    pub async fn granted(&self, clip: &Clip) -> Value {
        let answer = self.ask(clip).await;
        assert_eq!(answer.status(), 201, "{:?}", answer.body());
        serde_json::from_slice(answer.body()).unwrap()
    }

    pub async fn put(&self, grant: &Value, body: Vec<u8>) -> Response<Bytes> {
        let mut request = Request::put(path_of(grant));
        for (name, value) in grant["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        self.send(request.body(Full::from(body)).unwrap()).await
    }

    /// Begins a PUT by hand: its head, and the first bytes of its body. The rest is the test's.
    pub async fn begin_put(&self, grant: &Value, length: usize, first: &[u8]) -> TlsStream<TcpStream> {
        let mut stream = self.connect().await.unwrap();
        let mut head =
            format!("PUT {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {length}\r\n", path_of(grant), &self.endpoints.api["https://".len()..]);
        for (name, value) in grant["headers"].as_object().unwrap() {
            head += &format!("{name}: {}\r\n", value.as_str().unwrap());
        }
        stream.write_all((head + "\r\n").as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream.flush().await.unwrap();
        stream
    }

    /// A report as the agent sends it.
    pub fn report(&self, epoch: u64, seq: u64, plan: &str, mode: &str) -> Value {
        json!({
            "device": self.id, "outcome": "applied", "reason": "cancelled", "cause": "document",
            "judged": { "epoch": epoch, "seq": seq }, "epoch": epoch, "seq": seq,
            "digest": format!("sha256:{}", "0".repeat(64)), "plan": plan, "mode": mode, "persisted": true, "keyset": 1,
            "cut": { "transfers": 1, "micros": 840, "bytes_after": 0 }, "erased": { "clips": 1, "bytes": 10 },
            "at": Timestamp::now().to_string(), "agent": "test",
        })
    }
}

/// The answer of another store than the cloud's own, without its body.
pub async fn ask_external_store(ca: &Path, url: &Url, mut request: Request<Full<Bytes>>) -> Response<()> {
    let stream = connect_to(url, trusting(&std::fs::read(ca).unwrap()).unwrap()).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    request.headers_mut().insert(header::HOST, host.parse().unwrap());
    sender.send_request(request).await.unwrap().map(drop)
}

async fn connect_to(url: &Url, tls: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect((url.host_str().unwrap(), url.port().unwrap())).await?;
    stream.set_nodelay(true)?;
    let name = url.host_str().unwrap().to_owned().try_into().unwrap();
    TlsConnector::from(tls).connect(name, stream).await
}

fn path_of(grant: &Value) -> String {
    let url = Url::parse(grant["url"].as_str().unwrap()).unwrap();
    format!("{}?{}", url.path(), url.query().unwrap())
}

/// An MQTT connection that is only driven while the test waits for something.
pub struct Session {
    pub client: AsyncClient,
    events: EventLoop,
}

impl Session {
    pub async fn publish(&mut self, topic: &str, retain: bool, payload: impl ToString) {
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload.to_string()).unwrap();
        self.next(|event| matches!(event, Event::Incoming(Packet::PubAck(_))).then_some(())).await;
    }

    /// Publishes to a broker that may be killed for it: returns once it has it, or is gone.
    pub async fn publish_last(&mut self, topic: &str, retain: bool, payload: impl ToString) {
        self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload.to_string()).unwrap();
        let end = async {
            while let Ok(event) = self.events.poll().await {
                if matches!(event, Event::Incoming(Packet::PubAck(_))) {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, end).await.expect("an acknowledgement, or the end");
    }

    /// The next message on any topic, unless the connection ends first or a subscription is refused.
    pub async fn message_or_end(&mut self) -> Option<Publish> {
        let coming = async {
            loop {
                match self.events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => return Some(publish),
                    Ok(Event::Incoming(Packet::SubAck(ack))) if ack.return_codes.contains(&SubscribeReasonCode::Failure) => return None,
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(PATIENCE, coming).await.expect("a message, or the end")
    }

    /// The next message on any topic.
    pub async fn message(&mut self) -> Publish {
        self.next(|event| match event {
            Event::Incoming(Packet::Publish(publish)) => Some(publish),
            _ => None,
        })
        .await
    }

    /// The next entitlement's payload.
    pub async fn entitlement(&mut self) -> Value {
        loop {
            let message = self.message().await;
            if message.topic.ends_with("/entitlement") {
                return payload(std::str::from_utf8(&message.payload).unwrap());
            }
        }
    }

    /// The entitlement of this sequence.
    pub async fn entitlement_of(&mut self, seq: u64) -> Value {
        loop {
            let document = self.entitlement().await;
            if document["seq"] == seq {
                return document;
            }
        }
    }

    async fn next<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let picking = async {
            loop {
                if let Some(picked) = pick(self.events.poll().await.expect("a connection")) {
                    return picked;
                }
            }
        };
        tokio::time::timeout(PATIENCE, picking).await.expect("what was waited for")
    }
}

/// The payload of a JWS, unverified.
pub fn payload(token: &str) -> Value {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

/// A clip to be uploaded.
#[derive(Clone)]
pub struct Clip {
    pub id: String,
    pub kind: &'static str,
    pub started_at: Timestamp,
    pub duration_ms: u64,
    pub body: Vec<u8>,
    pub epoch: u64,
    pub seq: u64,
    /// Its index, and whether it is the last one.
    pub part: Option<(u32, bool)>,
}

impl Clip {
    pub fn new(bytes: usize) -> Self {
        Self {
            id: uuid::Uuid::new_v4().to_string(),
            kind: "motion",
            started_at: Timestamp::now(),
            duration_ms: 8000,
            body: (0..bytes).map(|i| (i % 251) as u8).collect(),
            epoch: 1,
            seq: 1,
            part: None,
        }
    }

    pub fn started_ago(mut self, ago: Duration) -> Self {
        self.started_at = Timestamp::now() - ago;
        self
    }

    fn request(&self) -> Value {
        let hash = ring::digest::digest(&ring::digest::SHA256, &self.body);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let mut request = json!({
            "clip": self.id, "kind": self.kind, "started_at": self.started_at.to_string(), "duration_ms": self.duration_ms,
            "bytes": self.body.len(), "sha256": hex, "epoch": self.epoch, "seq": self.seq,
        });
        if let Some((index, last)) = self.part {
            request["part"] = json!({ "index": index, "last": last });
        }
        request
    }
}

pub fn stored_file(cloud: &Cloud, camera: &Camera, clip: &Clip) -> Option<Vec<u8>> {
    let name = clip.part.map_or_else(|| format!("{}.mp4", clip.id), |(index, _)| format!("{}.{index}.mp4", clip.id));
    let path: &Path = &cloud.data().join("store/clips").join(&camera.id).join(name);
    std::fs::read(path).ok()
}
