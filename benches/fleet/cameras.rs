//! The process of the light cameras: one tokio runtime, a task for each. Answers each line on its standard input with
//! what the cameras have done so far, and ends with its input.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::Context as _;
use care_cloud::{
    clock::Clock,
    domain::catalogue::{Catalogue, Tier},
    lab::simulated::{Asked, Fleet, Home},
    storage::{
        data_dir::{DataDir, Endpoints},
        keys::Keys,
        pki::{Authority, client_config},
    },
    transport::broker::BrokerAddress,
};
use care_engine::{Fetched, Resource};
use care_protocol::DeviceId;
use futures::future::BoxFuture;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::stage::{MODEL, device};

/// Connects the first `count` cameras of the care-cloud that runs on `directory`, each to a node of its broker (none: to
/// the one that care-cloud names).
pub fn run(directory: &Path, count: usize, nodes: &[&str]) -> anyhow::Result<()> {
    crate::stage::all_files()?;
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(serve(directory, count, nodes))
}

async fn serve(directory: &Path, count: usize, nodes: &[&str]) -> anyhow::Result<()> {
    let data = DataDir::open(directory)?;
    let endpoints = data.endpoints()?.context("no care-cloud runs there")?;
    let authority = Authority::open(&data)?;
    let keys = Keys::open(&data, 0)?;
    let (name, root) = keys.root();
    let nodes = if nodes.is_empty() { &[endpoints.broker.as_str()] } else { nodes };
    let nodes: Vec<(String, u16)> = nodes.iter().map(|node| host_and_port(node)).collect::<Result<_, _>>()?;
    let fleet = Fleet::default();
    let free = Catalogue::built_in().policy(Tier::Free, MODEL);
    // Certificates first: making them is no part of connecting.
    let (mut cameras, mut identities) = (Vec::new(), BTreeMap::new());
    for number in 0..count {
        let device = device(number);
        let tls = client_config(authority.ca.as_bytes(), Some(&authority.camera(&device)?))?;
        identities.insert(device.clone(), tls.clone());
        let at = |(host, port): &(String, u16)| BrokerAddress {
            client_id: device.to_string(),
            host: host.clone(),
            port: *port,
            tls: Some(tls.clone()),
            ca: String::new(),
        };
        let mut own: Vec<BrokerAddress> = nodes.iter().map(at).collect();
        own.rotate_left(number % nodes.len());
        cameras.push((device, own));
    }
    let cloud = Box::new(Https { endpoints: endpoints.clone(), identities });
    let home = Arc::new(Home::new(endpoints.prefix.clone(), (name.to_owned(), root), Clock::System, cloud));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    while lines.next_line().await?.is_some() {
        for (device, nodes) in std::mem::take(&mut cameras) {
            fleet.connect(device, free, home.clone(), nodes);
        }
        let seen = json!({ "online": home.seen.online, "answers": home.seen.answers });
        out.write_all(format!("{seen}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

fn host_and_port(node: &str) -> anyhow::Result<(String, u16)> {
    let url = url::Url::parse(node)?;
    Ok((url.host_str().context("the broker has no host")?.to_owned(), url.port().unwrap_or(8883)))
}

/// Asks over HTTPS, as a camera does, each question on a connection of its own.
struct Https {
    endpoints: Endpoints,
    identities: BTreeMap<DeviceId, Arc<rustls::ClientConfig>>,
}

impl Asked for Https {
    fn ask(&self, device: DeviceId, resource: Resource) -> BoxFuture<'static, Fetched> {
        let path = match resource {
            Resource::Keyset => "/v1/keyset".to_owned(),
            Resource::Entitlement => format!("/v1/devices/{device}/entitlement"),
        };
        let (url, tls) = (format!("{}{path}", self.endpoints.api), self.identities.get(&device).cloned());
        Box::pin(async move {
            match get(&url, tls).await {
                Ok(fetched) => fetched,
                Err(e) => {
                    eprintln!("{device} asks {url}: {e:#}");
                    Fetched::Failed
                }
            }
        })
    }
}

async fn get(url: &str, tls: Option<Arc<rustls::ClientConfig>>) -> anyhow::Result<Fetched> {
    let tls = (*tls.context("it has no certificate")?).clone();
    let answer = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?.get(url).send().await?;
    if answer.status() == reqwest::StatusCode::NOT_FOUND {
        return Ok(Fetched::Missing);
    }
    Ok(Fetched::Found(answer.error_for_status()?.bytes().await?.into()))
}
