//! Simulated cameras: each runs the agent's own engine ([`care_engine`]) on its own MQTT connection, with its own
//! certificate. They show the effect of a change on many cameras. They film and upload nothing, and lose all state when
//! they end. The engineers' experiments start some beside the cloud; the benchmark of a fleet starts thousands in a
//! process of their own.

mod camera;

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use care_engine::{Connection, Event, Fetched, Resource};
use care_protocol::{DeviceId, Policy, PublicKey};
use futures::future::BoxFuture;
use rumqttc::{
    AsyncClient, LastWill, MqttOptions, NetworkOptions, Packet, QoS, SubscribeFilter, SubscribeReasonCode, TlsConfiguration, Transport,
};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};

use self::camera::Camera;
use crate::{
    clock::{Clock, now_s},
    domain::issuer::token_for,
    transport::{broker::BrokerAddress, cloud::Cloud},
};

/// Requests that may wait for the connection.
const QUEUE: usize = 64;
/// Answers to questions that may wait for the camera: it has at most one of each kind under way.
const ANSWERS: usize = 4;
const RECONNECT: Duration = Duration::from_millis(500);
/// The longest pause after refusals: each doubles it.
const RECONNECT_MOST: Duration = Duration::from_secs(16);
/// Cameras of one home that connect at the same time, up to their SUBACK: a handshake that waits longer than the client
/// library allows is lost work for both sides.
const CONNECTING: usize = 128;

/// The cloud's side of what a camera asks over HTTPS.
pub trait Asked: Send + Sync {
    /// Its answer.
    fn ask(&self, device: DeviceId, resource: Resource) -> BoxFuture<'static, Fetched>;
}

/// What cameras know of their cloud.
pub struct Home {
    /// The first levels of its topics.
    pub prefix: String,
    /// The root key that they hold.
    pub root: (String, PublicKey),
    /// Their time.
    pub clock: Clock,
    /// Who answers what a camera asks over HTTPS.
    pub cloud: Box<dyn Asked>,
    /// What they have done so far.
    pub seen: Seen,
    connecting: Semaphore,
}

impl Home {
    /// One that no camera has yet.
    pub fn new(prefix: String, root: (String, PublicKey), clock: Clock, cloud: Box<dyn Asked>) -> Self {
        Self { prefix, root, clock, cloud, seen: Seen::default(), connecting: Semaphore::new(CONNECTING) }
    }

    /// The cloud of this process. It is asked without HTTPS.
    pub fn here(cloud: &Arc<Cloud>) -> Self {
        let (name, root) = cloud.issuer.keys.root();
        Self::new(cloud.endpoints.prefix.clone(), (name.to_owned(), root), cloud.clock.clone(), Box::new(Here(cloud.clone())))
    }
}

/// What the cameras of one home have done.
#[derive(Debug, Default)]
pub struct Seen {
    /// Cameras whose subscriptions the broker has granted.
    pub online: AtomicUsize,
    /// Answers to `get`.
    pub answers: AtomicU64,
}

struct Here(Arc<Cloud>);

impl Asked for Here {
    fn ask(&self, device: DeviceId, resource: Resource) -> BoxFuture<'static, Fetched> {
        let cloud = self.0.clone();
        Box::pin(async move {
            match resource {
                Resource::Keyset => Fetched::Found(cloud.issuer.keys.current().token.clone().into()),
                Resource::Entitlement => match cloud.db.read_async(move |connection| token_for(connection, &device, None)).await {
                    Ok(Some(token)) => Fetched::Found(token.into()),
                    Ok(None) => Fetched::Missing,
                    Err(e) => {
                        tracing::debug!("simulated: {e}");
                        Fetched::Failed
                    }
                },
            }
        })
    }
}

/// The simulated cameras of this cloud. They end with it.
#[derive(Debug, Default)]
pub struct Fleet {
    tasks: Mutex<JoinSet<()>>,
    size: AtomicUsize,
    named: AtomicU32,
}

impl Fleet {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.size.load(Ordering::SeqCst)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An id that no camera has yet.
    pub fn name(&self) -> DeviceId {
        let number = self.named.fetch_add(1, Ordering::SeqCst);
        // The second of the start is part of the name: after a restart the names are new.
        format!("SIM{:X}-{number:02}", now_s()).parse().expect("capitals, digits and a dash")
    }

    /// Starts a camera with this Free policy. It stays connected until [`Fleet::stop`]: to the first of the broker's nodes,
    /// and to the next with each new connection. There is at least one.
    pub fn connect(&self, device: DeviceId, free: Policy, home: Arc<Home>, nodes: Vec<BrokerAddress>) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(run(device, free, home, nodes));
        self.size.fetch_add(1, Ordering::SeqCst);
    }

    /// Ends them all and returns how many there were.
    pub async fn stop(&self) -> usize {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
        self.size.swap(0, Ordering::SeqCst)
    }
}

/// Why a session ended. The camera begins another.
#[derive(Debug, Error)]
enum SessionError {
    #[error(transparent)]
    Connection(#[from] rumqttc::ConnectionError),
    #[error(transparent)]
    Client(#[from] rumqttc::ClientError),
    #[error("the broker refused a subscription")]
    NotSubscribed,
}

/// Keeps the camera connected for ever.
async fn run(device: DeviceId, free: Policy, home: Arc<Home>, nodes: Vec<BrokerAddress>) {
    let (answer, mut answers) = mpsc::channel(ANSWERS);
    let mut camera = Camera::new(device, free, home.clone(), answer);
    let mut pause = RECONNECT;
    for (number, node) in (1..).zip(nodes.iter().cycle()) {
        let connection = Connection(number);
        let mut online = false;
        let Err(e) = session(&mut camera, connection, node, &mut answers, &home, &mut online).await;
        if online {
            home.seen.online.fetch_sub(1, Ordering::Relaxed);
            pause = RECONNECT;
        }
        tracing::debug!(device = %camera.device(), "simulated: {e}");
        camera.disconnected(connection);
        tokio::time::sleep(pause).await;
        // A cluster refuses what it could not write to its nodes in time: it needs fewer questions, not more.
        if matches!(e, SessionError::NotSubscribed) {
            pause = (pause * 2).min(RECONNECT_MOST);
        }
    }
}

async fn session(
    camera: &mut Camera,
    connection: Connection,
    broker: &BrokerAddress,
    answers: &mut mpsc::Receiver<(Resource, Fetched)>,
    home: &Home,
    online: &mut bool,
) -> Result<std::convert::Infallible, SessionError> {
    // The semaphore is never closed.
    let mut connecting = home.connecting.acquire().await.ok();
    let topics = camera.topics().clone();
    let mut options = MqttOptions::new(&broker.client_id, &broker.host, broker.port);
    options.set_keep_alive(Duration::from_secs(30)).set_clean_session(false).set_manual_acks(true);
    options.set_last_will(LastWill::new(topics.status(), "offline", QoS::AtLeastOnce, true));
    if let Some(tls) = &broker.tls {
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls.clone())));
    }
    let (client, mut events) = AsyncClient::new(options, QUEUE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    events.set_network_options(network);
    loop {
        let event = {
            // Dropped while it connects, it would drop the connection.
            let mut next = pin!(events.poll());
            loop {
                tokio::select! {
                    event = &mut next => break event?,
                    Some((resource, fetched)) = answers.recv() => camera.answered(resource, fetched)?,
                    () = tokio::time::sleep(camera.until_due()) => camera.handle(Event::Tick)?,
                }
            }
        };
        match event {
            rumqttc::Event::Incoming(Packet::ConnAck(_)) => {
                camera.connected(connection, client.clone())?;
                let filters = [topics.keyset(), topics.entitlement(), topics.answer()];
                client.try_subscribe_many(filters.map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce)))?;
                camera.handle(Event::SubscribeSent(connection))?;
            }
            rumqttc::Event::Incoming(Packet::SubAck(ack)) => {
                if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                    return Err(SessionError::NotSubscribed);
                }
                drop(connecting.take());
                *online = true;
                home.seen.online.fetch_add(1, Ordering::Relaxed);
                camera.subscribed(connection)?;
            }
            rumqttc::Event::Incoming(Packet::Publish(publish)) => camera.take(connection, publish)?,
            rumqttc::Event::Incoming(Packet::PubAck(ack)) => camera.acknowledged(ack.pkid)?,
            rumqttc::Event::Outgoing(rumqttc::Outgoing::Publish(pkid)) => camera.sent(pkid),
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use bytes::BytesMut;
    use rumqttc::{ConnAck, ConnectReturnCode, SubAck};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        domain::catalogue::{Catalogue, Tier},
        storage::{data_dir::DataDir, keys::Keys},
    };

    /// Largest packet of a camera.
    const MOST: usize = 65_536;

    struct Nobody;

    impl Asked for Nobody {
        fn ask(&self, _device: DeviceId, _resource: Resource) -> BoxFuture<'static, Fetched> {
            Box::pin(async { Fetched::Failed })
        }
    }

    /// The next packet; `None`: the camera has gone.
    async fn packet(stream: &mut TcpStream, read: &mut BytesMut) -> Option<Packet> {
        loop {
            match Packet::read(read, MOST) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::Error::InsufficientBytes(_)) => {}
                Err(e) => panic!("{e}"),
            }
            if stream.read_buf(read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Takes a connection and answers its SUBSCRIBE with one refusal among grants, or with grants.
    async fn subscribed(node: &TcpListener, refuse: bool) -> (TcpStream, BytesMut) {
        let (mut stream, _) = node.accept().await.unwrap();
        let mut read = BytesMut::new();
        loop {
            let mut answer = BytesMut::new();
            match packet(&mut stream, &mut read).await.unwrap() {
                Packet::Connect(_) => drop(ConnAck::new(ConnectReturnCode::Success, false).write(&mut answer).unwrap()),
                Packet::Subscribe(subscribe) => {
                    let mut codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
                    if refuse {
                        *codes.last_mut().unwrap() = SubscribeReasonCode::Failure;
                    }
                    SubAck::new(subscribe.pkid, codes).write(&mut answer).unwrap();
                    stream.write_all(&answer).await.unwrap();
                    return (stream, read);
                }
                _ => {}
            }
            stream.write_all(&answer).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_camera_whose_subscription_is_refused_is_not_online_and_tries_the_next_node() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&DataDir::open(dir.path()).unwrap(), 0).unwrap();
        let (name, root) = keys.root();
        let home = Arc::new(Home::new("care/v1".into(), (name.to_owned(), root), Clock::System, Box::new(Nobody)));
        let (first, second) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = |node: &TcpListener| BrokerAddress {
            client_id: "CAM".into(),
            host: "127.0.0.1".into(),
            port: node.local_addr().unwrap().port(),
            tls: None,
            ca: String::new(),
        };
        let fleet = Fleet::default();
        let free = Catalogue::built_in().policy(Tier::Free, "KC420WS");
        fleet.connect("CAM".parse().unwrap(), free, home.clone(), vec![address(&first), address(&second)]);

        let (mut stream, mut read) = subscribed(&first, true).await;
        while let Some(packet) = packet(&mut stream, &mut read).await {
            assert!(!matches!(packet, Packet::Publish(_)), "it says nothing where it hears nothing: {packet:?}");
        }
        assert_eq!(home.seen.online.load(Ordering::Relaxed), 0);

        let (mut stream, mut read) = subscribed(&second, false).await;
        while !matches!(packet(&mut stream, &mut read).await.unwrap(), Packet::Publish(_)) {}
        assert_eq!(home.seen.online.load(Ordering::Relaxed), 1);
        fleet.stop().await;
    }
}
