//! A name server on a loopback address of its own, port 53, that can fail like the network: resolving a name is a camera's first step.
//! Needs root, as the tests in network namespaces do.

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

/// The name under which every server of a test is found.
pub const NAME: &str = "broker.care.test";

/// The name server; gone when dropped.
pub struct Resolver {
    /// Its address, for `resolv.conf`.
    pub ip: IpAddr,
    fault: watch::Sender<(Option<Fault>, usize)>,
    _tasks: JoinSet<()>,
}

impl Resolver {
    /// Answers every question for an address with 127.0.0.1.
    pub async fn start() -> Self {
        Self::naming(&[Ipv4Addr::LOCALHOST.into()]).await
    }

    /// Answers every question for an address with these.
    pub async fn naming(addresses: &[IpAddr]) -> Self {
        let addresses: Addresses = addresses.into();
        // Any address of 127/8 is ours; two tests hardly choose the same.
        let [_, a, b, c, ..] = *uuid::Uuid::new_v4().as_bytes();
        let ip = Ipv4Addr::new(127, a | 0x80, b, c.clamp(1, 254));
        let udp = Arc::new(UdpSocket::bind((ip, 53)).await.expect("port 53 needs root"));
        let tcp = TcpListener::bind((ip, 53)).await.expect("port 53 needs root");
        let ip = IpAddr::from(ip);
        let (fault, state) = watch::channel((None, 0));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, fault.clone(), addresses.clone()));
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((stream, _)) = tcp.accept().await {
                conversations.spawn(serve_tcp(stream, state.clone(), addresses.clone()));
            }
        });
        Self { ip, fault, _tasks: tasks }
    }

    /// From now on answers suffer from this. What only a stream can suffer from happens over TCP: the answer over UDP asks for
    /// that (RFC 1035, 4.2.2; the TC bit).
    pub fn inflict(&self, fault: Fault) {
        self.fault.send_modify(|(is, _)| *is = Some(fault));
    }

    /// It is well again.
    pub fn lift(&self) {
        self.fault.send_modify(|(is, _)| *is = None);
    }

    /// How many questions met a fault.
    pub fn bitten(&self) -> usize {
        self.fault.borrow().1
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, state: watch::Sender<(Option<Fault>, usize)>, addresses: Addresses) {
    let mut question = [0; 512];
    loop {
        // An answer to somebody who has gone comes back as an error here.
        let Ok((length, from)) = socket.recv_from(&mut question).await else { continue };
        let question = question[..length].to_vec();
        let fault = state.borrow().0;
        if fault.is_some() {
            state.send_modify(|(_, bitten)| *bitten += 1);
        }
        // What a fault delays must not delay the next question.
        tokio::spawn(answer_udp(socket.clone(), from, question, fault, addresses.clone()));
    }
}

async fn answer_udp(socket: Arc<UdpSocket>, to: SocketAddr, question: Vec<u8>, fault: Option<Fault>, addresses: Addresses) {
    let Some(good) = answer(&question, &addresses) else { return };
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
        // The rest needs a stream: truncated, ask over TCP.
        Some(_) => with_flags(&question, 0x0200),
    };
    // The asker may have gone.
    let _ = socket.send_to(&sent, to).await;
}

async fn serve_tcp(mut stream: TcpStream, state: watch::Receiver<(Option<Fault>, usize)>, addresses: Addresses) {
    let fault = state.borrow().0;
    if fault == Some(Fault::Reset) {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return;
    }
    let _ = stream.set_nodelay(true);
    // One connection may carry several questions.
    while let Ok(length) = stream.read_u16().await {
        let mut question = vec![0; usize::from(length)];
        if stream.read_exact(&mut question).await.is_err() {
            return;
        }
        let Some(good) = answer(&question, &addresses) else { return };
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

/// The end of the first question's section, where its name and type are whole.
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

/// What every name is.
type Addresses = Arc<[IpAddr]>;

/// The answer to a question: the addresses for an A or AAAA, nothing for anything else.
fn answer(question: &[u8], addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let end = question_end(question)?;
    let kind = &question[end - 4..end - 2];
    let mut answer = with_flags(question, 0);
    for address in addresses {
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

/// The question as its own answer, with these further flags and no record.
fn with_flags(question: &[u8], flags: u16) -> Vec<u8> {
    let Some(end) = question_end(question) else { return question.to_vec() };
    let mut answer = question[..end].to_vec();
    answer[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    // One question, and nothing else.
    answer[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    answer
}
