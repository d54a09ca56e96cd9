//! A name server on a loopback address of its own, port 53, that can fail like the network: resolving a name is a
//! camera's first step. Needs root, as the tests in network namespaces do.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::sleep,
};

use crate::proxy::Fault;

/// The host name of all servers in a test.
pub const NAME: &str = "broker.care.test";

/// The name server; stopped on drop.
pub struct Resolver {
    /// Its address for `resolv.conf`.
    pub ip: IpAddr,
    fault: watch::Sender<(Option<Fault>, usize)>,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Answers all address queries with 127.0.0.1.
    pub async fn start() -> Self {
        Self::naming(&[Ipv4Addr::LOCALHOST.into()]).await
    }

    /// Answers all address queries with these addresses.
    pub async fn naming(addresses: &[IpAddr]) -> Self {
        Self::serving(Zone { addresses: addresses.to_vec(), hears_ipv6: true }).await
    }

    /// Answers queries for an IPv4 address with 127.0.0.1, and drops those for IPv6, as routers in homes do.
    pub async fn deaf_to_ipv6() -> Self {
        Self::serving(Zone { addresses: vec![Ipv4Addr::LOCALHOST.into()], hears_ipv6: false }).await
    }

    async fn serving(zone: Zone) -> Self {
        let zone = Arc::new(zone);
        // Port 53 is free on most of 127/8; two tests are unlikely to choose the same address.
        let [_, a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
        let ip = Ipv4Addr::new(127, a | 0x80, b, c.clamp(1, 254));
        let udp = Arc::new(UdpSocket::bind((ip, 53)).await.expect("port 53 needs root"));
        let tcp = TcpListener::bind((ip, 53)).await.expect("port 53 needs root");
        let ip = IpAddr::from(ip);
        let (fault, state) = watch::channel((None, 0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, fault.clone(), zone.clone()));
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                conversations.spawn(serve_tcp(stream, state.clone(), zone.clone()));
            }
        });
        Self { ip, fault, _tasks: tasks }
    }

    /// Applies this fault to answers from now on. Stream-only faults occur over TCP: the UDP answer has the TC bit
    /// set (RFC 1035, 4.2.2).
    pub fn inject(&self, fault: Fault) {
        self.fault.send_modify(|(is, _)| *is = Some(fault));
    }

    /// Lifts the fault.
    pub fn lift(&self) {
        self.fault.send_modify(|(is, _)| *is = None);
    }

    /// Number of queries that met a fault.
    pub fn hits(&self) -> usize {
        self.fault.borrow().1
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: watch::Sender<(Option<Fault>, usize)>, zone: Arc<Zone>) {
    let mut question = [0; 512];
    loop {
        // An answer to a client that has closed its socket comes back as an error here.
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        let question = question[..length].to_vec();
        let fault = state.borrow().0;
        if fault.is_some() {
            state.send_modify(|(_, hits)| *hits += 1);
        }
        // A delayed answer must not hold up the next query.
        tokio::spawn(answer_udp(socket.clone(), from, question, fault, zone.clone()));
    }
}

async fn answer_udp(socket: Arc<UdpSocket>, to: SocketAddr, question: Vec<u8>, fault: Option<Fault>, zone: Arc<Zone>) {
    let Some(good) = answer(&question, &zone) else { return };
    let sent = match fault {
        None => good,
        Some(Fault::Latency) => {
            sleep(Duration::from_millis(1500)).await;
            good
        }
        Some(Fault::Blackhole | Fault::HalfOpen) => return,
        Some(Fault::Corruption) => {
            let mut spoilt = good;
            spoilt.iter_mut().skip(12).for_each(|byte| *byte ^= 0x55);
            spoilt
        }
        Some(Fault::Truncation) => good[..good.len() / 2].to_vec(),
        Some(Fault::Refused) => with_flags(&question, 5), // RCODE REFUSED
        // The other faults need a stream: set TC so that the client retries over TCP.
        Some(_) => with_flags(&question, 0x0200),
    };
    // The client may have closed its socket.
    let _ = socket.send_to(&sent, to).await;
}

async fn serve_tcp(mut stream: TcpStream, state: watch::Receiver<(Option<Fault>, usize)>, zone: Arc<Zone>) {
    let fault = state.borrow().0;
    if fault == Some(Fault::Reset) {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let _ = stream.set_nodelay(true);
    // One connection may carry several queries.
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some(good) = answer(&question, &zone) else { return };
        let framed = [&u16::try_from(good.len()).unwrap().to_be_bytes()[..], &good].concat();
        let (pieces, pause) = match fault {
            Some(Fault::Close) => return,
            Some(Fault::SlowClose) => {
                sleep(Duration::from_secs(2)).await;
                return;
            }
            Some(Fault::Stall) => {
                let _ = stream.write_all(&framed[..framed.len() / 2]).await;
                let _ = state.clone().wait_for(|(fault, _)| fault.is_none()).await;
                let _ = stream.write_all(&framed[framed.len() / 2..]).await;
                continue;
            }
            Some(Fault::Bandwidth) => (4, Duration::from_millis(50)),
            _ => (1, Duration::from_millis(1)),
        };
        for piece in framed.chunks(pieces) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }
}

/// The end of the question section, with its name and type complete.
fn question_end(question: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match usize::from(*question.get(at)?) {
            0 => break,
            label => at += 1 + label,
        }
    }
    (question.len() >= at + 5).then_some(at + 5)
}

/// What a name server knows.
struct Zone {
    /// Of all names.
    addresses: Vec<IpAddr>,
    /// Whether it answers queries for AAAA.
    hears_ipv6: bool,
}

/// The answer to a query, if there is one: the addresses for A or AAAA, no records otherwise.
fn answer(question: &[u8], zone: &Zone) -> Option<Vec<u8>> {
    let end = question_end(question)?;
    let kind = &question[end - 4..end - 2];
    if kind == [0, 28] && !zone.hears_ipv6 {
        return None;
    }
    let mut answer = with_flags(question, 0);
    for address in &zone.addresses {
        let (of, octets) = match address {
            IpAddr::V4(address) => ([0, 1], address.octets().to_vec()),
            IpAddr::V6(address) => ([0, 28], address.octets().to_vec()),
        };
        if kind == of {
            answer[7] += 1;
            answer.extend([0xc0, 12, of[0], of[1], 0, 1, 0, 0, 0, 0, 0, u8::try_from(octets.len()).unwrap()]);
            answer.extend(octets);
        }
    }
    Some(answer)
}

/// The query as its own answer, with these additional flags and no records.
fn with_flags(question: &[u8], flags: u16) -> Vec<u8> {
    let Some(end) = question_end(question) else { return question.to_vec() };
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    // Exactly one question.
    answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    answer
}
