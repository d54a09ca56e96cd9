//! With a broker and a store that care-cloud does not run itself: Mosquitto, NATS with JetStream, and an S3 with a
//! certificate of its own.

use std::{
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use care_cloud::{
    broker::{die_with_parent, stop},
    data_dir::DataDir,
    pki::{Identity, Pki},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use rustls::{ServerConfig, pki_types::pem::PemObject as _};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use s3s_fs::FileSystem;
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use super::{
    camera::{Camera, Clip},
    cloud::{Cloud, until},
};

/// A broker of somebody else's, under certificates of the cloud's authority.
struct ExternalBroker {
    child: Child,
    url: String,
}

impl Drop for ExternalBroker {
    fn drop(&mut self) {
        stop(&mut self.child, Duration::from_secs(5)).unwrap();
    }
}

impl ExternalBroker {
    /// Starts `program` with a configuration that `configure` writes for this address; returns once it listens.
    async fn start(dir: &Path, program: &str, configure: impl Fn(&Path, SocketAddr) -> String) -> Self {
        // Makes the authority and the server's certificate, as the cloud itself will.
        Pki::open(&DataDir::open(&dir.join("data")).unwrap(), &[]).unwrap();
        let address = care_cloud::broker::free_address("127.0.0.1:0".parse().unwrap(), true).unwrap();
        let home = dir.join(program);
        std::fs::create_dir(&home).unwrap();
        let config = home.join("conf");
        std::fs::write(&config, configure(dir, address)).unwrap();
        let log = std::fs::File::create(home.join("log")).unwrap();
        let mut command = Command::new(format!("/usr/sbin/{program}"));
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child =
            die_with_parent(&mut command).spawn().unwrap_or_else(|e| panic!("starting {program} (scripts/deps.sh installs it): {e}"));
        let broker = Self { child, url: format!("mqtts://{address}") };
        until("the broker to listen", || async { TcpStream::connect(address).ok() }).await;
        broker
    }

    async fn mosquitto(dir: &Path) -> Self {
        let configure = |dir: &Path, address: SocketAddr| {
            let pki = dir.join("data/pki").display().to_string();
            format!(
                "user root\nlistener {} {}\nallow_anonymous true\nrequire_certificate true\n\
                 cafile {pki}/ca.pem\ncertfile {pki}/server.pem\nkeyfile {pki}/server.key\n",
                address.port(),
                address.ip()
            )
        };
        Self::start(dir, "mosquitto", configure).await
    }

    /// MQTT in NATS needs JetStream, and JetStream a name for the server.
    async fn nats(dir: &Path) -> Self {
        let configure = |dir: &Path, address: SocketAddr| {
            let (pki, store) = (dir.join("data/pki").display().to_string(), dir.join("jetstream").display().to_string());
            format!(
                "server_name: care\nlisten: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"{store}\" }}\n\
                 mqtt {{\n  listen: \"{address}\"\n  tls {{\n    ca_file: \"{pki}/ca.pem\"\n    cert_file: \"{pki}/server.pem\"\n\
                 \x20   key_file: \"{pki}/server.key\"\n    verify: true\n  }}\n}}\n"
            )
        };
        Self::start(dir, "nats-server", configure).await
    }
}

/// What a camera needs of any broker: the retained document, a newer one while it is connected, an answer to its `get`, and
/// that its report arrives; and all of it again after care-cloud was killed.
async fn carries_documents_and_reports(dir: tempfile::TempDir, broker: &ExternalBroker) {
    let cloud = Cloud::start_with(dir, &["--broker", &broker.url], &[]).await;
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
    let cloud = Cloud::start_with(dir, &["--broker", &broker.url], &[]).await;
    cloud.act(json!({ "action": "cancel", "camera": "CAM-A" })).await;
    assert_eq!(session.entitlement_of(3).await["plan"], "free");
}

#[tokio::test]
async fn a_mosquitto_elsewhere_carries_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ExternalBroker::mosquitto(dir.path()).await;
    carries_documents_and_reports(dir, &broker).await;
}

#[tokio::test]
async fn nats_with_jetstream_carries_everything() {
    let dir = tempfile::tempdir().unwrap();
    let broker = ExternalBroker::nats(dir.path()).await;
    carries_documents_and_reports(dir, &broker).await;
}

/// An S3 of somebody else's, over TLS under an authority of its own, in this process. It ends with the value.
struct ExternalS3 {
    address: SocketAddr,
    root: PathBuf,
    ca: PathBuf,
    _serving: JoinSet<()>,
}

const KEY: (&str, &str) = ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE");
const SECRET: (&str, &str) = ("AWS_SECRET_ACCESS_KEY", "not-a-secret-of-anybody");

impl ExternalS3 {
    async fn start(dir: &Path) -> Self {
        let data = DataDir::open(&dir.join("s3")).unwrap();
        let pki = Pki::open(&data, &[]).unwrap();
        let root = dir.join("s3/objects");
        std::fs::create_dir_all(root.join("clips")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(&root).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY.1, SECRET.1));
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

    async fn cloud(&self) -> Cloud {
        let (url, ca) = (format!("https://{}/clips?region=eu-west-1", self.address), self.ca.display().to_string());
        let dir = tempfile::tempdir().unwrap();
        Cloud::start_with(dir, &["--s3", &url, "--s3-ca", &ca], &[KEY, SECRET]).await
    }

    fn has(&self, camera: &Camera, clip: &Clip) -> bool {
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
async fn an_s3_elsewhere_takes_clips_is_watched_and_loses_what_a_plan_does_not_keep() {
    let dir = tempfile::tempdir().unwrap();
    let s3 = ExternalS3::start(dir.path()).await;
    let cloud = s3.cloud().await;
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
        assert_eq!(camera.put_elsewhere(&s3.ca, &grant, clip.body.clone()).await, 200);
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
    assert_eq!(camera.put_elsewhere(&s3.ca, &grant, late.body.clone()).await, 200);
    until("the late clip is gone from the store", || async { (!s3.has(&camera, &late)).then_some(()) }).await;
    let clips = cloud.portal().get("/portal/accounts/acct-1/cameras/CAM-A/clips").await.unwrap();
    assert_eq!((clips.as_array().unwrap().len(), &clips[0]["clip"]), (1, &json!(young.id)));

    cloud.experiment(json!({ "experiment": "add_history", "camera": "CAM-A", "clips": 3 })).await;
    let stored = std::fs::read_dir(s3.root.join("clips/CAM-A")).unwrap();
    assert_eq!(stored.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|e| e == "mp4")).count(), 4);
}
