//! Startup: settings, then certificates and keys, database, broker and listeners. Dropping [`Running`] stops all of it.

use std::{
    io::IsTerminal as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use care_protocol::DeviceId;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    clock::Clock,
    clock::now_s,
    command_line::Options,
    domain::{
        accounts::{self, AccountError, PasswordHash},
        actions::ActionError,
        catalogue::Catalogue,
        issuer::Issuer,
    },
    metrics,
    portal::{self, DemoPerson, session::ENGINEER},
    provision::{ProvisionError, provision},
    schedule,
    storage::{
        data_dir::{DataDir, DataError, Endpoints, StoreEndpoint, new_secret, read_if_there, write_private},
        db::{Address, Db, DbError},
        keys::{Keys, KeysError},
        pki::{Authority, CLOUD_NAME, Identity, Pki, PkiError, client_config},
    },
    transport::{
        api,
        broker::{Broker, BrokerAddress, BrokerError, Listeners},
        client::{ClientError, Portal},
        cloud::Cloud,
        held_port::HeldPort,
        link,
        listener::accept_tls,
        store::{Store, StoreError},
    },
};

const API_PORT: u16 = 8443;
const PORTAL_PORT: u16 = 8480;
const MQTT_PORT: u16 = 8883;
const PORT_FREE_WITHIN: Duration = Duration::from_secs(4);
const DEMO_ACCOUNT: &str = "acct-1";
const DEMO_LOGIN: &str = "demo@kasa.example";
/// Where the demo account's [`SignIn`] lies, below the data directory.
pub const SIGN_IN_FILE: &str = "demo-sign-in.json";

/// Why the cloud could not start, or a command failed.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each wraps the error of one part, which says it all")]
pub enum SetupError {
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Pki(#[from] PkiError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error(transparent)]
    Account(#[from] AccountError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("listening on {address} for {what}: {source}; choose another address with {flag}")]
    Listen { what: &'static str, flag: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("--broker {url}: {why}")]
    BrokerUrl { url: String, why: &'static str },
    #[error("{path} has no address of a care-cloud: start one there first, or name its directory with --data")]
    NotRunning { path: String },
}

impl SetupError {
    /// Whether the configuration is wrong (exit code 78), or the program failed (70).
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Db(e) | Self::Action(ActionError::Db(e)) | Self::Account(AccountError::Db(e)) => matches!(e, DbError::Newer { .. }),
            _ => true,
        }
    }
}

/// A running cloud.
pub struct Running {
    // Dropped in this order: first the listeners, then the cloud with its broker.
    tasks: JoinSet<()>,
    cloud: Arc<Cloud>,
}

impl Running {
    /// Starts everything and returns once all of it listens.
    pub async fn start(options: &Options) -> Result<Self, SetupError> {
        let data = DataDir::open(&options.data)?;
        let last = data.endpoints()?;
        let last_port = |url: fn(&Endpoints) -> &str| last.as_ref().and_then(|last| url::Url::parse(url(last)).ok()?.port());

        let (api_listener, api_address) = listen("the API", "--listen", options.listen, API_PORT, last_port(|e| &e.api)).await?;
        let (portal_listener, portal_address) =
            listen("the portal", "--portal", options.portal, PORTAL_PORT, last_port(|e| &e.portal)).await?;
        let metrics = match options.metrics {
            Some(address) => Some(listen("metrics", "--metrics", Some(address), address.port(), None).await?),
            None => None,
        };
        let host = options.host.clone().unwrap_or_else(|| match api_address.ip() {
            ip if ip.is_unspecified() => "localhost".into(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        });
        let pki = Pki::open(&data, &[host.trim_matches(['[', ']']).to_owned()])?;
        let issuer = Arc::new(open_issuer(&data, options.lease_s)?);
        let db = open_database(&data, options.database.as_ref())?;

        let mut broker_cloud = options.broker_cloud.clone();
        let (broker, broker_url, broker_address) = match &options.broker {
            Some(url) => {
                let own = options.broker_cloud.as_ref().unwrap_or(url);
                (None, url.clone(), external_broker(&data, options, own, &pki)?)
            }
            None => {
                let wanted = wanted(options.mqtt, MQTT_PORT, last_port(|e| &e.broker));
                let strict = options.mqtt.is_some_and(|address| address.port() != 0);
                let refused = |source| SetupError::Listen { what: "the broker", flag: "--mqtt", address: wanted, source };
                let last = last_port(|e| &e.broker) == Some(wanted.port());
                let patience = if last { PORT_FREE_WITHIN } else { Duration::ZERO };
                let cameras = hold(wanted, strict, patience).await.map_err(refused)?;
                // The cloud's listener is always on loopback.
                let listeners = Listeners { cameras, cloud: HeldPort::on_loopback().map_err(refused)? };
                let (address, own) = (listeners.cameras.address(), listeners.cloud.address());
                let (starting, prefix) = (data.clone(), options.prefix.clone());
                let broker = tokio::task::spawn_blocking(move || Broker::start(&starting, listeners, &prefix))
                    .await
                    .map_err(|_| DbError::Gone)??;
                let tls = client_config(pki.ca.as_bytes(), Some(&pki.cloud))?;
                let client_id = client_id(&data, options)?;
                let link = BrokerAddress { client_id, host: own.ip().to_string(), port: own.port(), tls: Some(tls), ca: pki.ca.clone() };
                broker_cloud = Some(format!("mqtts://{own}"));
                (Some(broker), format!("mqtts://{host}:{}", address.port()), link)
            }
        };
        let endpoints = Endpoints {
            api: format!("https://{host}:{}", api_address.port()),
            broker: broker_url,
            broker_cloud,
            portal: format!("http://{portal_address}"),
            metrics: metrics.as_ref().map(|(_, address)| format!("http://{address}/metrics")),
            prefix: options.prefix.clone(),
            store: options.s3.as_deref().and_then(|url| store_endpoint(url, options.s3_ca.as_deref())),
        };
        data.set_endpoints(&endpoints)?;
        let store = match &options.s3 {
            Some(url) => Store::external(url, options.s3_ca.as_deref())?,
            None => Store::embedded(&data, &endpoints.api)?,
        };
        ensure_demo_account(&data, &db)?;
        let cloud = Arc::new(Cloud::new(data, Clock::System, db, issuer, store, endpoints, broker_address, broker)?);

        let mut tasks = JoinSet::new();
        tasks.spawn(accept_tls(api_listener, pki.server_config()?, api::router(cloud.clone())));
        let demo = if options.demo { demo_people(&cloud)? } else { vec![] };
        let pages = portal::Portal::new(cloud.clone(), options.portal_origin.clone(), demo).router();
        tasks.spawn(async move {
            if let Err(e) = axum::serve(portal_listener, pages).await {
                tracing::error!("the portal's listener: {e}");
            }
        });
        if let Some((listener, _)) = metrics {
            let router = metrics::router(cloud.clone());
            tasks.spawn(async move {
                if let Err(e) = axum::serve(listener, router).await {
                    tracing::error!("the metrics' listener: {e}");
                }
            });
        }
        tasks.spawn(link::run(cloud.clone()));
        tasks.spawn(schedule::run(cloud.clone()));
        tracing::info!(api = cloud.endpoints.api, broker = cloud.endpoints.broker, portal = cloud.endpoints.portal, "care-cloud runs");
        Ok(Self { tasks, cloud })
    }

    /// The running cloud.
    pub fn cloud(&self) -> &Arc<Cloud> {
        &self.cloud
    }

    /// The number of running tasks.
    pub fn parts(&self) -> usize {
        self.tasks.len()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.abort_all();
        // Open connections keep the cloud a little longer; the broker stops at once.
        if let Some(broker) = &self.cloud.broker {
            broker.shut_down();
        }
    }
}

/// Registers a camera and writes its files. The running cloud publishes its first document.
pub fn add_camera(options: &Options, device: &DeviceId, model: &str, account: &str, out: &Path) -> Result<(), SetupError> {
    let data = DataDir::open(&options.data)?;
    let endpoints = data.endpoints()?.unwrap_or_else(|| Endpoints {
        api: format!("https://127.0.0.1:{API_PORT}"),
        broker: format!("mqtts://127.0.0.1:{MQTT_PORT}"),
        portal: format!("http://127.0.0.1:{PORTAL_PORT}"),
        broker_cloud: None,
        metrics: None,
        prefix: "care/v1".into(),
        store: None,
    });
    let issuer = open_issuer(&data, 172_800)?;
    provision(&Authority::open(&data)?, &issuer, &endpoints, device, model, out)?;
    let db = open_database(&data, options.database.as_ref())?;
    db.transact(|tx| issuer.add_camera(tx, device, model, account, now_s()))?;
    Ok(())
}

/// Sets the sign-in of an account. It works at the running cloud at once.
pub fn add_account(data: &Path, shared: Option<&Address>, account: &str, login: &str, password: &str) -> Result<(), SetupError> {
    let db = open_database(&DataDir::open(data)?, shared)?;
    let hash = PasswordHash::new(password)?;
    Ok(db.transact(|tx| accounts::set_sign_in(tx, account, login, &hash, now_s()))?)
}

/// Creates a demo account if no account can sign in. Only the owner of the directory can read its password.
fn ensure_demo_account(data: &DataDir, db: &Db) -> Result<(), SetupError> {
    if db.read(accounts::all)?.iter().any(|account| account.login.is_some()) {
        return Ok(());
    }
    let sign_in = SignIn { account: DEMO_ACCOUNT.into(), login: DEMO_LOGIN.into(), password: new_secret()[..16].to_owned() };
    let hash = PasswordHash::new(&sign_in.password)?;
    write_private(&data.path(SIGN_IN_FILE), &serde_json::to_vec_pretty(&sign_in).expect("plain data"))?;
    Ok(db.transact(|tx| accounts::set_sign_in(tx, &sign_in.account, &sign_in.login, &hash, now_s()))?)
}

/// The users that the demo's sign-in page offers.
fn demo_people(cloud: &Cloud) -> Result<Vec<DemoPerson>, SetupError> {
    let path = cloud.data.path(SIGN_IN_FILE);
    let damaged = |why: String| DataError::Damaged { path: path.clone(), why };
    let text = read_if_there(&path)?.ok_or_else(|| damaged("--demo needs it, and it is missing".into()))?;
    let owner: SignIn = serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
    let engineer = DemoPerson { role: "engineer", id: ENGINEER.into(), password: cloud.operator.clone() };
    Ok(vec![DemoPerson { role: "owner", id: owner.login, password: owner.password }, engineer])
}

/// How to sign in to the demo account, as the data directory has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignIn {
    /// The account.
    pub account: String,
    /// The TP-Link ID.
    pub login: String,
    /// The password.
    pub password: String,
}

/// The portal of the care-cloud that runs on this directory.
pub fn portal_of(data: &Path) -> Result<Portal, SetupError> {
    let path = data.join("endpoints.json");
    let not_running = || SetupError::NotRunning { path: path.display().to_string() };
    let text = read_if_there(&path)?.ok_or_else(not_running)?;
    let endpoints: Endpoints = serde_json::from_slice(&text).map_err(|_| not_running())?;
    Ok(Portal::new(endpoints.portal, DataDir::open(data)?.operator()?)?)
}

/// Logs to standard error; `RUST_LOG` chooses what.
pub fn log_to_stderr() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,s3s=off"));
    // s3s logs every interrupted upload as an error; the store logs the relevant ones. Fails if there is a logger
    // already, which is then used.
    drop(fmt().with_env_filter(filter).with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr).try_init());
}

/// Waits for SIGTERM or SIGINT.
pub async fn until_told_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        (Err(e), _) | (_, Err(e)) => tracing::error!("waiting for signals: {e}"),
    }
}

/// The shared database, or the embedded one.
fn open_database(data: &DataDir, shared: Option<&Address>) -> Result<Db, DbError> {
    match shared {
        Some(address) => Db::connect(address),
        None => Db::open(&data.path("care.db")),
    }
}

fn open_issuer(data: &DataDir, lease_s: u64) -> Result<Issuer, SetupError> {
    Ok(Issuer { keys: Keys::open(data, now_s())?, catalogue: Catalogue::built_in(), lease_s })
}

/// The address to listen on. Without a given port it is the last one, because cameras have it in their configuration.
fn wanted(given: Option<SocketAddr>, default_port: u16, last_port: Option<u16>) -> SocketAddr {
    let mut address = given.unwrap_or_else(|| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0));
    if address.port() == 0 {
        address.set_port(last_port.unwrap_or(if given.is_some() { 0 } else { default_port }));
    }
    address
}

async fn listen(
    what: &'static str,
    flag: &'static str,
    given: Option<SocketAddr>,
    default_port: u16,
    last_port: Option<u16>,
) -> Result<(TcpListener, SocketAddr), SetupError> {
    let wanted = wanted(given, default_port, last_port);
    let strict = given.is_some_and(|address| address.port() != 0);
    let bound = match TcpListener::bind(wanted).await {
        Err(_) if !strict => TcpListener::bind(SocketAddr::new(wanted.ip(), 0)).await,
        bound => bound,
    };
    bound
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map(|(address, listener)| (listener, address))
        .map_err(|source| SetupError::Listen { what, flag, address: wanted, source })
}

/// The embedded broker's port for cameras: another one of the same host if, unless `strict`, a server listens there for longer
/// than `patience`. The Mosquitto of a killed care-cloud may still do so for a moment, and cameras have its port in their
/// configuration.
async fn hold(wanted: SocketAddr, strict: bool, patience: Duration) -> std::io::Result<HeldPort> {
    let began = Instant::now();
    loop {
        match HeldPort::at(wanted) {
            Err(_) if began.elapsed() < patience => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(_) if !strict => return HeldPort::at(SocketAddr::new(wanted.ip(), 0)),
            held => return held,
        }
    }
}

/// A unique MQTT client id: no device id contains a colon, and the secret part keeps others from guessing it where a
/// broker lets clients choose. Several processes on one database need different names, because a broker admits a
/// client id only once.
fn client_id(data: &DataDir, options: &Options) -> Result<String, DataError> {
    let secret = data.client_secret()?;
    Ok(match &options.instance {
        Some(instance) => format!("{CLOUD_NAME}:{instance}:{secret}"),
        None => format!("{CLOUD_NAME}:{secret}"),
    })
}

/// The host to which cameras upload clips. An invalid URL is reported by the store itself.
fn store_endpoint(url: &str, ca: Option<&Path>) -> Option<StoreEndpoint> {
    let url = url::Url::parse(url).ok()?;
    let host = url.host_str()?;
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    Some(StoreEndpoint { host, ca: ca.map(|ca| std::path::absolute(ca).unwrap_or_else(|_| ca.to_owned())) })
}

fn external_broker(data: &DataDir, options: &Options, url: &str, pki: &Pki) -> Result<BrokerAddress, SetupError> {
    let bad = |why| SetupError::BrokerUrl { url: url.to_owned(), why };
    let parsed = url::Url::parse(url).map_err(|_| bad("expected mqtts://host:port"))?;
    let host = parsed.host_str().ok_or_else(|| bad("it names no host"))?.trim_matches(['[', ']']).to_owned();
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match parsed.scheme() {
        "mqtts" => {
            let text = |path: &Path| {
                read_if_there(path).and_then(|content| {
                    let missing = || DataError::Damaged { path: path.to_owned(), why: "there is no such file".into() };
                    Ok(String::from_utf8_lossy(&content.ok_or_else(missing)?).into_owned())
                })
            };
            let ca = options.broker_ca.as_deref().map_or_else(|| Ok(pki.ca.clone()), text)?;
            let identity = match (&options.broker_cert, &options.broker_key) {
                (Some(certificate), Some(key)) => Identity { certificate: text(certificate)?, key: text(key)? },
                (None, None) => pki.cloud.clone(),
                _ => return Err(bad("--broker-cert and --broker-key go together")),
            };
            let tls = client_config(ca.as_bytes(), Some(&identity))?;
            Ok(BrokerAddress { client_id: client_id(data, options)?, host, port: parsed.port().unwrap_or(8883), tls: Some(tls), ca })
        }
        "mqtt" if loopback => {
            let client_id = client_id(data, options)?;
            Ok(BrokerAddress { client_id, host, port: parsed.port().unwrap_or(1883), tls: None, ca: pki.ca.clone() })
        }
        "mqtt" => Err(bad("mqtt:// is plaintext, for a loopback address only: use mqtts://")),
        _ => Err(bad("expected mqtts://host:port")),
    }
}
