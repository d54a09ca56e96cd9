//! The race, with addresses that answer, refuse, keep silent, and shake no hands.

use std::{
    net::{Ipv4Addr, Ipv6Addr, TcpListener as StdListener},
    sync::Mutex,
};

use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    clock::Clock,
    http::{Direct, DirectGuard},
    tls::{
        device_client,
        tests::{DAY, Pki, T},
    },
};

/// Longer than any race should take, shorter than a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// A dialer that records what it opened, and whose silent addresses never answer a SYN.
#[derive(Default)]
struct Record {
    opened: Mutex<Vec<SocketAddr>>,
    silent: Vec<SocketAddr>,
    stale: AtomicBool,
    open: Arc<()>,
}

struct Held {
    _guard: DirectGuard,
    _open: Arc<()>,
}

impl super::super::Guard for Held {
    fn finished(&self) {}

    fn begun(&self) {}
}

impl Dialer for Record {
    type Guard = Held;

    fn dial(&self, address: SocketAddr) -> io::Result<(TcpStream, Held)> {
        self.opened.lock().unwrap().push(address);
        // Its queue is full, so the kernel drops the SYN.
        let to = if self.silent.contains(&address) { black_hole() } else { address };
        let (stream, guard) = Direct.dial(to)?;
        Ok((stream, Held { _guard: guard, _open: self.open.clone() }))
    }

    fn check(&self) -> Result<(), Stale> {
        if self.stale.load(Ordering::Relaxed) { Err(Stale) } else { Ok(()) }
    }
}

/// An address whose SYNs nobody answers, for as long as this process lives.
fn black_hole() -> SocketAddr {
    static HOLE: std::sync::OnceLock<(StdListener, Vec<socket2::Socket>, SocketAddr)> = std::sync::OnceLock::new();
    HOLE.get_or_init(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let listener = StdListener::from(socket);
        let address = listener.local_addr().unwrap();
        let fill = (0..4).map(|_| {
            let socket = super::super::new_socket(address).unwrap();
            super::super::begin_connect(&socket, address).unwrap();
            socket
        });
        (listener, fill.collect(), address)
    })
    .2
}

fn origin(port: u16) -> Origin {
    Origin { endpoint: Endpoint { host: "care.example".into(), port, tls: false }, tls: None }
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), port))
}

async fn raced(dialer: &Record, origin: &Origin, addresses: &[SocketAddr], within: Duration) -> Result<Connection<Held>, Fault> {
    tokio::time::timeout(PATIENCE, race(dialer, origin, addresses, Instant::now() + within)).await.expect("the race ends")
}

#[tokio::test]
async fn silent_and_refusing_addresses_do_not_keep_it_from_one_that_answers() {
    let listener = TcpListener::bind(at(3, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = at(1, port);
    let dialer = Record { silent: vec![silent], ..Record::default() };
    let begun = Instant::now();
    // The second refuses.
    let connection = raced(&dialer, &origin(port), &[silent, at(2, port), at(3, port)], PATIENCE).await.unwrap();
    assert_eq!((connection.peer(), connection.peer_name()), (at(3, port), format!("care.example:{port} (127.0.0.3)").as_str()));
    assert_eq!(*dialer.opened.lock().unwrap(), [silent, at(2, port), at(3, port)]);
    assert!(begun.elapsed() >= NEXT_AFTER, "the first had its time");
    assert_eq!(Arc::strong_count(&dialer.open), 2, "the losers are closed");
}

#[tokio::test]
async fn one_that_answers_at_once_is_the_only_one_tried() {
    let listener = TcpListener::bind(at(1, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let dialer = Record::default();
    raced(&dialer, &origin(port), &[at(1, port), at(2, port)], PATIENCE).await.unwrap();
    assert_eq!(dialer.opened.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn when_all_fail_each_is_named_with_its_reason() {
    let port = StdListener::bind(at(2, 0)).unwrap().local_addr().unwrap().port();
    let dialer = Record { silent: vec![at(1, port)], ..Record::default() };
    let fault = raced(&dialer, &origin(port), &[at(1, port), at(2, port)], Duration::from_millis(600)).await.err().unwrap();
    assert_eq!(
        fault.to_string(),
        format!("connecting to care.example:{port}: (127.0.0.2) connection refused; (127.0.0.1) no answer in time")
    );
    assert_eq!(fault.stage(), Some(Stage::Tcp));
    let fault = raced(&dialer, &origin(port), &[at(2, port)], PATIENCE).await.err().unwrap();
    assert_eq!(fault.to_string(), format!("connecting to care.example:{port} (127.0.0.2): connection refused"));
    assert_eq!(Arc::strong_count(&dialer.open), 1);
}

/// A path that swallows large packets connects and shakes no hands.
#[tokio::test]
async fn an_address_that_shakes_no_hands_does_not_keep_it_from_one_that_does() {
    let silent = TcpListener::bind(at(1, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let good = TcpListener::bind(at(2, port)).await.unwrap();
    let pki = Pki::new();
    let acceptor = TlsAcceptor::from(Arc::new(pki.server(T - DAY, T + DAY)));
    let server = tokio::spawn(async move {
        let (stream, _) = good.accept().await.unwrap();
        acceptor.accept(stream).await.unwrap()
    });
    let mut origin = origin(port);
    origin.endpoint.host = "localhost".into();
    origin.endpoint.tls = true;
    origin.tls = Some(device_client(&pki.files(), &Clock::at(Duration::from_secs(T as u64), true)).unwrap());
    let connection = raced(&Record::default(), &origin, &[at(1, port), at(2, port)], PATIENCE).await.unwrap();
    assert_eq!(connection.peer(), at(2, port));
    server.await.unwrap();
}

#[tokio::test]
async fn a_dialer_that_becomes_stale_ends_the_race() {
    let dialer = Record { silent: vec![at(1, 1), at(2, 1)], ..Record::default() };
    let origin = origin(1);
    let addresses = [at(1, 1), at(2, 1)];
    let racing = raced(&dialer, &origin, &addresses, PATIENCE);
    let shutting = async {
        while dialer.opened.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        dialer.stale.store(true, Ordering::Relaxed);
    };
    let (raced, ()) = tokio::join!(racing, shutting);
    assert!(matches!(raced, Err(Fault::Stale(_))));
    assert_eq!(dialer.opened.lock().unwrap().len(), 1);
}

#[test]
fn the_families_alternate_and_nothing_is_tried_twice() {
    let v6 = |last: u16| SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last), 443));
    let v4 = |last: u8| SocketAddr::from((Ipv4Addr::new(203, 0, 113, last), 443));
    let order = in_turn(&[v6(1), v6(2), v6(3), v4(1), v6(1), v4(2)]);
    assert_eq!(order, [v6(1), v4(1), v6(2), v4(2), v6(3)]);
    assert_eq!(in_turn(&[v4(1), v6(1)]), [v4(1), v6(1)]);
    assert_eq!(in_turn(&[]), []);
}

#[test]
fn an_address_in_the_configuration_is_not_said_twice() {
    let fault = |server: &str, address: &str| {
        let tried = vec![Tried { address: address.parse().unwrap(), why: Why::Silent(Stage::Tcp) }];
        Unreachable { server: server.into(), tried }.to_string()
    };
    assert_eq!(fault("[2001:db8::7]:8883", "[2001:db8::7]:8883"), "connecting to [2001:db8::7]:8883: no answer in time");
    assert_eq!(fault("care.example:8883", "203.0.113.7:8883"), "connecting to care.example:8883 (203.0.113.7): no answer in time");
}
