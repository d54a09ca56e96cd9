//! Scenario 90: a name with several addresses, some of them dead. The agent tries every address, for the broker, the
//! API and the store.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use care_protocol::Mode;
use care_tests::{
    cloud::{Cloud, GrantAnswer, grant},
    impostor::Impostor,
    pki::plain_tls,
    resolver::{NAME, Resolver},
    wait::PATIENCE,
    wait::until,
    world::World,
};
use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Addresses that do not answer a SYN: the accept queue of their listener is full.
struct BlackHoles(Vec<(Socket, Vec<Socket>)>);

impl BlackHoles {
    fn at(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self(addresses.into_iter().map(Self::dig).collect())
    }

    fn dig(address: SocketAddr) -> (Socket, Vec<Socket>) {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        listener.set_reuse_address(true).unwrap();
        listener.bind(&address.into()).unwrap();
        listener.listen(0).unwrap();
        let fill = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&address.into());
            socket
        };
        (listener, (0..4).map(|_| fill()).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Starts a camera whose broker, API and store share one name that resolves to these dead addresses and a live one.
/// Checks that the camera is bound, records and uploads.
async fn works_despite(dead: &[IpAddr], live: Ipv4Addr) {
    let mut world = World::with_camera().await;
    let store = Cloud::start_with(Some(plain_tls(&world.pki.ca.server()))).await;
    let servers = [world.proxy.addr, world.cloud.addr, store.addr];
    let mut relays = JoinSet::new();
    for server in servers {
        if live != server.ip() {
            relays.spawn(relay(SocketAddr::from((live, server.port())), server));
        }
    }
    let holes = BlackHoles::at(servers.iter().flat_map(|server| dead.iter().map(|ip| SocketAddr::new(*ip, server.port()))));
    assert_eq!(holes.len(), servers.len() * dead.len());
    let addresses: Vec<IpAddr> = dead.iter().copied().chain([live.into()]).collect();
    let resolver = Resolver::naming(&addresses).await;
    world.agent.resolver = Some(resolver.ip);
    let named = servers.map(|server| format!("{NAME}:{}", server.port()));
    world.agent.config.broker = format!("mqtts://{}", named[0]);
    world.agent.config.cloud = format!("https://{}", named[1]);
    world.agent.config.store = Some((vec![named[2].clone()], world.agent.config.ca.clone()));
    world.cloud.lock().grants = GrantAnswer::Body(grant(&format!("https://{}/clips/x/0", named[2])));

    world.start_premium().await;
    until("a request to the API", PATIENCE, || (world.cloud.entitlement_gets() > 0).then_some(())).await;
    world.move_until("a grant request", |cloud| (!cloud.asked.is_empty()).then_some(())).await;
    store.stored(1).await;
    let status = world.agent.mode(Mode::Paid).await;
    let unreachable = ["broker_unreachable", "api_unreachable"].map(|name| status.condition(name));
    assert_eq!(unreachable, [None, None]);
    // A cancel arrives over the connection to the live address.
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
}

async fn relay(from: SocketAddr, to: SocketAddr) {
    let listener = TcpListener::bind(from).await.unwrap();
    let mut connections = JoinSet::new();
    while let Ok((mut client, _)) = listener.accept().await {
        connections.spawn(async move {
            let mut server = TcpStream::connect(to).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[tokio::test]
async fn s90_a_dead_ipv6_address_before_a_live_ipv4_one_is_skipped() {
    works_despite(&[Ipv6Addr::LOCALHOST.into()], Ipv4Addr::LOCALHOST).await;
}

#[tokio::test]
async fn s90_three_dead_ipv4_addresses_before_a_live_one_are_skipped() {
    // The resolver library sorts addresses by the prefix they share with the local one, 127.0.0.1.
    let dead = [2, 3, 4].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
    works_despite(&dead, Ipv4Addr::new(127, 0, 1, 5)).await;
}

/// An address may accept TCP and still not serve MQTT: a load balancer whose backend is down.
#[tokio::test]
async fn s90_an_address_that_closes_upon_connect_is_skipped() {
    let mut world = World::new().await;
    let port = world.proxy.addr.port();
    let gone = [2, 3].map(|last| SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port)));
    let mut impostors = Vec::new();
    for address in gone {
        impostors.push(Impostor::listen(address, world.pki.mutual_tls(&world.pki.ca.server())).await);
    }
    let live = SocketAddr::from((Ipv4Addr::new(127, 0, 1, 5), port));
    let relay = tokio::spawn(relay(live, world.proxy.addr));
    let resolver = Resolver::naming(&[gone[0].ip(), gone[1].ip(), live.ip()]).await;
    world.agent.resolver = Some(resolver.ip);
    world.agent.config.broker = format!("mqtts://{NAME}:{port}");
    world.start_premium().await;
    world.agent.status("a link that is up", |status| status.0["link"]["up"] == true).await;
    assert!(impostors.iter().all(|impostor| impostor.seen().handshakes > 0), "they come before the live one");
    relay.abort();
}

/// A load balancer whose backend is down takes connections and answers nothing on them.
#[tokio::test]
async fn s90_an_https_address_that_gives_no_answer_is_tried_last() {
    let mut world = World::with_camera().await;
    let store = Cloud::start_with(Some(plain_tls(&world.pki.ca.server()))).await;
    let (gone, live) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 1, 5));
    let (identity, mut relays, mut impostors) = (world.pki.ca.server(), JoinSet::new(), Vec::new());
    let named = [(world.cloud.addr, world.pki.mutual_tls(&identity)), (store.addr, plain_tls(&identity))].map(|(server, tls)| {
        relays.spawn(relay(SocketAddr::from((live, server.port())), server));
        impostors.push(Impostor::listen(SocketAddr::from((gone, server.port())), tls));
        format!("{NAME}:{}", server.port())
    });
    let impostors = [impostors.remove(0).await, impostors.remove(0).await];
    let resolver = Resolver::naming(&[gone.into(), live.into()]).await;
    world.agent.resolver = Some(resolver.ip);
    world.agent.config.cloud = format!("https://{}", named[0]);
    world.agent.config.store = Some((vec![named[1].clone()], world.agent.config.ca.clone()));
    world.cloud.lock().grants = GrantAnswer::Body(grant(&format!("https://{}/clips/x/0", named[1])));
    world.start_premium().await;
    let whole = || store.lock().puts.iter().any(|put| put.complete == Some(true)).then_some(());
    world.move_until("a clip at the address that works", |_| whole()).await;
    assert!(impostors.iter().all(|impostor| impostor.seen().handshakes > 0), "they come before the live one");
}

/// When no address answers, each is named with its reason, in the status and once in the log.
#[tokio::test]
async fn s90_if_no_address_answers_each_is_named_with_its_reason() {
    let mut world = World::new().await;
    let (_port, nobody) = care_tests::broker::reserve_port();
    let hole = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), nobody.port());
    let _holes = BlackHoles::at([hole]);
    let resolver = Resolver::naming(&[hole.ip(), nobody.ip()]).await;
    world.agent.resolver = Some(resolver.ip);
    let named = format!("{NAME}:{}", nobody.port());
    world.agent.config.broker = format!("mqtts://{named}");
    world.agent.config.cloud = format!("https://{named}");
    world.agent.start();
    let both = |sentence: &str| {
        sentence.contains(&format!("connecting to {named}"))
            && sentence.contains("(127.0.0.1) connection refused")
            && sentence.contains("(::1) no answer in time")
    };
    let said = ["broker_unreachable", "api_unreachable"];
    world.agent.status("why both are unreachable", |status| said.iter().all(|name| both(status.sentence(name)))).await;
    for name in said {
        assert_eq!(world.agent.log().count(&format!("condition=\"{name}\"")), 1, "{:?}", world.agent.log().all());
    }
}
