//! External brokers and stores: Mosquitto, NATS with JetStream, and an S3 with its own certificate authority.

#[path = "../../../benches/fleet/cluster.rs"]
#[allow(dead_code, reason = "the benchmark measures the nodes, too")]
pub mod cluster;

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::http::Request;
use care_cloud::{
    child::{die_with_parent, stop},
    storage::{
        data_dir::DataDir,
        db::Db,
        pki::{Identity, Pki},
    },
    transport::held_port::HeldPort,
};
use http_body_util::Full;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::{ServerConfig, pki_types::pem::PemObject as _};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use url::Url;

use self::cluster::nats_server;
use super::{
    camera::{Camera, Clip, ask_external_store},
    cloud::{Cloud, until},
    portal::Visitor,
};

/// A broker of somebody else's, on the files of `deploy/`, under certificates of the cloud's authorities.
pub struct ExternalBroker {
    child: Child,
    _ports: Vec<HeldPort>,
    /// What `--broker` and the rest say of it.
    pub flags: Vec<String>,
}

impl Drop for ExternalBroker {
    fn drop(&mut self) {
        stop(&mut self.child, Duration::from_secs(5)).unwrap();
    }
}

fn deployed(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

impl ExternalBroker {
    /// Starts `program` on a configuration below `home`; returns once it listens on the first of these ports.
    async fn start(program: &str, home: &Path, config: &str, ports: Vec<HeldPort>, flags: Vec<String>) -> Self {
        let path = home.join("conf");
        std::fs::write(&path, config).unwrap();
        let log = std::fs::File::create(home.join("log")).unwrap();
        let mut command = Command::new(format!("/usr/sbin/{program}"));
        command.arg("-c").arg(&path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            die_with_parent(&mut command).spawn().unwrap_or_else(|e| panic!("starting {program} (scripts/deps.sh installs it): {e}"));
        let address = ports[0].address();
        let broker = Self { child, _ports: ports, flags };
        let said = || std::fs::read_to_string(home.join("log")).unwrap_or_default();
        until(&format!("{program} to listen; {}", said()), || async { TcpStream::connect(address).ok() }).await;
        broker
    }

    /// Makes the authorities and the server's certificate, as the cloud itself will, and a home for the broker; `pki/` and it.
    fn prepare(dir: &Path, program: &str) -> (PathBuf, PathBuf) {
        Pki::open(&DataDir::open(&dir.join("data")).unwrap(), &[]).unwrap();
        let home = dir.join(program);
        std::fs::create_dir(&home).unwrap();
        (dir.join("data/pki"), home)
    }

    pub async fn mosquitto(dir: &Path) -> Self {
        let (pki, home) = Self::prepare(dir, "mosquitto");
        for file in ["cameras.acl", "cloud.acl"] {
            std::fs::write(home.join(file), deployed(&format!("mosquitto/{file}"))).unwrap();
        }
        let ports = [HeldPort::on_loopback().unwrap(), HeldPort::on_loopback().unwrap()];
        let [cameras, cloud] = ports.each_ref().map(HeldPort::address);
        let config = deployed("mosquitto/mosquitto.conf")
            .replace("acl_file /etc/mosquitto/care", &format!("acl_file {}", home.display()))
            .replace("/etc/mosquitto/care", &pki.display().to_string())
            .replace("/var/lib/mosquitto", &home.display().to_string())
            .replace("listener 8883", &format!("listener {} 127.0.0.1", cameras.port()))
            .replace("listener 8884", &format!("listener {}", cloud.port()));
        let flags = ["--broker", &format!("mqtts://{cameras}"), "--broker-cloud", &format!("mqtts://{cloud}")].map(str::to_owned);
        Self::start("mosquitto", &home, &format!("user root\n{config}"), ports.into(), flags.into()).await
    }

    /// MQTT in NATS needs JetStream, and JetStream a name for the server. Every camera is a user.
    async fn nats(dir: &Path, cameras: &[&str]) -> Self {
        let (pki, home) = Self::prepare(dir, "nats-server");
        let port = HeldPort::on_loopback().unwrap();
        let address = port.address();
        let config = nats_server::prepare(&home, &pki, address, cameras.iter().copied()).unwrap();
        let flags = ["--broker", &format!("mqtts://{address}")].map(str::to_owned);
        Self::start("nats-server", &home, &config, vec![port], flags.into()).await
    }
}

/// What a camera needs of any broker: the retained document, a newer one while it is connected, an answer to its `get`, and
/// that its report arrives; and all of it again after care-cloud was killed.
async fn carries_documents_and_reports(dir: tempfile::TempDir, broker: &ExternalBroker) {
    let flags: Vec<_> = broker.flags.iter().map(String::as_str).collect();
    let cloud = Cloud::start_with(dir, &flags, &[]).await;
    assert!(cloud.mosquitto().is_none(), "none of its own");
    let camera = Camera::add(&cloud, "CAM-A");
    cloud.until("the first document is at the broker", |s| !s["switches"][0]["acked_us"].is_null()).await;
    let mut session = camera.mqtt(&["care/v1/CAM-A/entitlement", "care/v1/CAM-A/entitlement/answer", "care/v1/keyset"]).await;
    assert_eq!(session.entitlement().await["seq"], 1);
    cloud.premium("CAM-A").await;
    assert_eq!(session.entitlement_of(2).await["plan"], "premium");
    session.publish(&camera.topic("report"), true, camera.report(1, 2, "premium", "paid")).await;
    cloud.until("the report has arrived", |s| s["cameras"][0]["report"]["mode"] == "paid").await;
    session.publish(&camera.topic("get"), false, json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "epoch": 1, "seq": 2 })).await;
    loop {
        let message = session.message().await;
        if message.topic.ends_with("/answer") {
            let answer: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(answer["nonce"], "AAAAAAAAAAAAAAAAAAAAAA");
            break;
        }
    }
    let refused = cloud.try_experiment(json!({ "experiment": "broker", "run": false })).await.unwrap_err();
    assert!(refused.contains("external"), "{refused}");

    let dir = cloud.kill();
    let cloud = Cloud::start_with(dir, &flags, &[]).await;
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    assert_eq!(session.entitlement_of(3).await["plan"], "free");
    keeps_a_camera_to_its_own_topics(&cloud, &camera).await;
}

/// The files of `deploy/` let a camera read its own documents and the keyset, and write as itself only.
async fn keeps_a_camera_to_its_own_topics(cloud: &Cloud, camera: &Camera) {
    let other = Camera::add(cloud, "CAM-B");
    cloud
        .until("the other's document is at the broker", |s| s["switches"].as_array().unwrap().iter().all(|s| !s["acked_us"].is_null()))
        .await;
    let mut watcher = Camera::cloud_itself(cloud).mqtt(&["care/v1/+/report", "care/v1/+/status"]).await;
    for filter in ["care/v1/CAM-B/entitlement", "care/v1/+/entitlement", "#"] {
        // NATS ends the connection, Mosquitto grants what it then never serves.
        let mut nosy = camera.mqtt(&[filter, "care/v1/keyset"]).await;
        while let Some(message) = nosy.message_or_end().await {
            assert!(!message.topic.contains("CAM-B"), "{filter} gave {}", message.topic);
            if message.topic.ends_with("keyset") {
                break;
            }
        }
    }
    for topic in
        [other.topic("report"), other.topic("status"), other.topic("entitlement"), camera.topic("entitlement"), "care/v1/keyset".into()]
    {
        camera.mqtt(&[]).await.publish_last(&topic, true, "forged").await;
    }
    camera.mqtt(&[]).await.publish(&camera.topic("status"), true, "online").await;
    loop {
        let message = watcher.message().await;
        assert_ne!(&message.payload[..], b"forged", "{}", message.topic);
        if message.topic == camera.topic("status") && &message.payload[..] == b"online" {
            break;
        }
    }
    let mut reader = other.mqtt(&["care/v1/keyset", "care/v1/CAM-B/entitlement"]).await;
    for _ in 0..2 {
        assert_ne!(&reader.message().await.payload[..], b"forged");
    }
}

/// JSON has no room for a header, so AWS IoT's policies are read here: a camera's grants what the contract needs and no more.
#[test]
fn the_aws_policy_grants_a_camera_its_own_client_id_and_its_own_topics() {
    let statements = |file: &str| -> Vec<(String, String)> {
        let policy: serde_json::Value = serde_json::from_str(&deployed(file)).unwrap();
        assert_eq!(policy["Version"], "2012-10-17");
        let list = |value: &serde_json::Value| match value {
            serde_json::Value::Array(values) => values.iter().map(|value| value.as_str().unwrap().to_owned()).collect(),
            value => vec![value.as_str().unwrap().to_owned()],
        };
        let mut granted = Vec::new();
        for statement in policy["Statement"].as_array().unwrap() {
            assert_eq!(statement["Effect"], "Allow");
            for action in list(&statement["Action"]) {
                for resource in list(&statement["Resource"]) {
                    let (_, path) = resource.split_once(":123456789012:").unwrap();
                    granted.push((action.clone(), path.replace("${iot:Certificate.Subject.CommonName}", "ID")));
                }
            }
        }
        granted.sort();
        granted
    };
    let mut wanted = vec![("iot:Connect".to_owned(), "client/ID".to_owned())];
    for leaf in ["get", "report", "status"] {
        wanted.push(("iot:Publish".into(), format!("topic/care/v1/ID/{leaf}")));
        wanted.push(("iot:RetainPublish".into(), format!("topic/care/v1/ID/{leaf}")));
    }
    for topic in ["keyset", "ID/entitlement", "ID/entitlement/answer"] {
        wanted.push(("iot:Subscribe".into(), format!("topicfilter/care/v1/{topic}")));
        wanted.push(("iot:Receive".into(), format!("topic/care/v1/{topic}")));
    }
    wanted.sort();
    assert_eq!(statements("aws-iot/policy.json"), wanted);
    let cloud = statements("aws-iot/cloud-policy.json");
    assert!(cloud.contains(&("iot:Connect".into(), "client/care-cloud:*".into())), "{cloud:#?}");
    assert!(cloud.iter().all(|(_, resource)| !resource.contains("ID")), "{cloud:#?}");
}

#[tokio::test]
async fn an_external_mosquitto_carries_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ExternalBroker::mosquitto(dir.path()).await;
    carries_documents_and_reports(dir, &broker).await;
}

#[tokio::test]
async fn nats_with_jetstream_carries_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ExternalBroker::nats(dir.path(), &["CAM-A", "CAM-B"]).await;
    carries_documents_and_reports(dir, &broker).await;
}

/// An S3 of somebody else's, over TLS under an authority of its own, in this process. It ends with the value.
pub struct ExternalS3 {
    address: SocketAddr,
    root: PathBuf,
    pub ca: PathBuf,
    _serving: JoinSet<()>,
}

/// In the environment of whoever may use it.
pub const CREDENTIALS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "not-a-secret-of-anybody")];

impl ExternalS3 {
    pub async fn start(dir: &Path) -> Self {
        let data = DataDir::open(&dir.join("s3")).unwrap();
        let pki = Pki::open(&data, &[]).unwrap();
        let root = dir.join("s3/objects");
        std::fs::create_dir_all(root.join("clips")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(&root).unwrap());
        let [(_, key), (_, secret)] = CREDENTIALS;
        builder.set_auth(SimpleAuth::from_single(key, secret));
        let service = builder.build();
        let acceptor = TlsAcceptor::from(tls(&pki.server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, service) = (acceptor.clone(), service.clone());
                connections.spawn(async move {
                    // A client that goes away early is no failure of the store.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let serving = hyper::server::conn::http1::Builder::new();
                    drop(serving.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service)).await);
                });
            }
        });
        Self { address, root, ca: dir.join("s3/pki/ca.pem"), _serving: serving }
    }

    /// What `--s3` and the rest say of it.
    pub fn flags(&self) -> Vec<String> {
        let url = format!("https://{}/clips?region=eu-west-1", self.address);
        ["--s3", &url, "--s3-ca", &self.ca.display().to_string()].map(str::to_owned).into()
    }

    pub fn has(&self, camera: &Camera, clip: &Clip) -> bool {
        self.root.join("clips").join(&camera.id).join(format!("{}.mp4", clip.id)).exists()
    }
}

fn tls(identity: &Identity) -> Arc<ServerConfig> {
    let chain = rustls::pki_types::CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<_, _>>().unwrap();
    let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap())
}

#[tokio::test]
async fn an_external_s3_takes_clips_is_polled_and_loses_what_a_plan_does_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = ExternalS3::start(dir.path()).await;
    let flags = s3.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cloud = Cloud::start_with(tempfile::tempdir().unwrap(), &flags, &CREDENTIALS).await;
    let camera = Camera::add(&cloud, "CAM-A");
    // The camera is told where grants may lead, and whom to believe there.
    let config: toml::Table = std::fs::read_to_string(cloud.dir.path().join("CAM-A/config.toml")).unwrap().parse().unwrap();
    assert_eq!(config["store"]["hosts"].as_array().unwrap()[0].as_str(), Some(&*s3.address.to_string()));
    assert_eq!(std::fs::read(config["store"]["ca"].as_str().unwrap()).unwrap(), std::fs::read(&s3.ca).unwrap());

    cloud.premium("CAM-A").await;
    let (old, young) = (Clip::new(2000).started_ago(Duration::from_secs(20 * 86_400)), Clip::new(1000));
    for clip in [&old, &young] {
        let grant = camera.granted(clip).await;
        assert!(grant["url"].as_str().unwrap().starts_with(&format!("https://{}/clips/CAM-A/", s3.address)));
        assert_eq!(camera.put_to_external_store(&s3.ca, &grant, clip.body.clone()).await, 200);
        assert!(s3.has(&camera, clip));
    }
    cloud.until("both are in the index", |s| s["cameras"][0]["clips"] == 2).await;
    assert_eq!(camera.ask(&young).await.body(), &br#"{"stored":true}"#[..]);

    // A grant that was given and not used when the plan ended: its URL cannot be taken back, what comes by it is.
    let late = Clip { duration_ms: 60_000, ..Clip::new(500) };
    let grant = camera.granted(&late).await;
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    until("the old clip is gone from the store", || async { (!s3.has(&camera, &old)).then_some(()) }).await;
    assert!(s3.has(&camera, &young), "what Free keeps stays");
    assert_eq!(camera.put_to_external_store(&s3.ca, &grant, late.body.clone()).await, 200);
    until("the late clip is gone from the store", || async { (!s3.has(&camera, &late)).then_some(()) }).await;
    let clips = cloud.portal().get("/portal/accounts/acct-1/cameras/CAM-A/clips").await.unwrap();
    assert_eq!((clips.as_array().unwrap().len(), &clips[0]["clip"]), (1, &json!(young.id)));

    cloud.experiment(json!({ "experiment": "add_history", "camera": "CAM-A", "clips": 3 })).await;
    let stored = std::fs::read_dir(s3.root.join("clips/CAM-A")).unwrap();
    assert_eq!(stored.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "mp4")).count(), 4);

    // One is a snapshot that the camera's firmware made.
    let db = Db::open(&cloud.data().join("care.db")).unwrap();
    db.read(|c| Ok(c.execute("UPDATE clips SET kind = 'snapshot' WHERE clip = ?1", [&young.id])?)).unwrap();
    std::fs::write(s3.root.join("clips/CAM-A").join(format!("{}.mp4", young.id)), [0xFF, 0xD8, 0xFF, 0xD9]).unwrap();
    let mut owner = Visitor::owner(&cloud).await;
    let page = owner.page(&format!("/cameras/CAM-A?clip={}", young.id)).await;
    assert!(page.contains("<img id=\"shown\"") && !page.contains("<video"), "{page}");
    // The store names what the browser gets, although grants said `video/mp4`.
    let clips = cloud.portal().get("/portal/accounts/acct-1/cameras/CAM-A/clips").await.unwrap();
    let mut ids = clips.as_array().unwrap().iter().map(|clip| clip["clip"].as_str().unwrap().to_owned());
    let sample = ids.find(|id| *id != young.id).unwrap();
    for (clip, media_type) in [(young.id.as_str(), "image/jpeg"), (&sample, "video/mp4")] {
        let url = Url::parse(&owner.redirected(&format!("/cameras/CAM-A/clips/{clip}")).await).unwrap();
        let get = Request::get(format!("{}?{}", url.path(), url.query().unwrap())).body(Full::default()).unwrap();
        let answer = ask_external_store(&s3.ca, &url, get).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &media_type.parse().unwrap()));
    }
}
