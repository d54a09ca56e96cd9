//! An MQTT proxy in front of the real broker: it terminates the camera's TLS, parses and forwards each packet, and
//! triggers a fault of the TCP proxy ([`crate::proxy`]) at a packet of the test's choice.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{
    pki::{Pki, server_params},
    proxy::{Control, Fault},
};

/// The packet at which a fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// CONNECT has been forwarded; its CONNACK has not.
    Connect,
    /// SUBSCRIBE has been forwarded; its SUBACK has not.
    Subscribe,
    /// Half of a document has been sent.
    MidPublish,
}

type Armed = Arc<Mutex<Option<(Moment, Fault, Control)>>>;

/// The proxy; stopped on drop.
pub struct PacketProxy {
    /// The listening address.
    pub addr: SocketAddr,
    armed: Armed,
    task: tokio::task::JoinHandle<()>,
}

impl PacketProxy {
    /// A proxy to `broker`, whose certificate covers one of `names`. Only `device` may connect.
    pub async fn before(pki: &Pki, broker: SocketAddr, names: &[&str], device: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(pki.mutual_tls(&pki.ca.sign(server_params(names)))));
        let connector = TlsConnector::from(Arc::new(pki.client_tls(&pki.ca.client(device))));
        let armed = Armed::default();
        let strike = armed.clone();
        let task = tokio::spawn(async move {
            let mut doors = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (acceptor, connector, strike) = (acceptor.clone(), connector.clone(), strike.clone());
                doors.spawn(async move {
                    // A connection that is cut in between is not an error of the proxy.
                    let _ = pass(socket, broker, &acceptor, &connector, &strike).await;
                });
            }
        });
        Self { addr, armed, task }
    }

    /// Triggers this fault of `control` once, at the next such packet.
    pub fn arm(&self, moment: Moment, fault: Fault, control: &Control) {
        *self.armed.lock().unwrap() = Some((moment, fault, control.clone()));
    }
}

impl Drop for PacketProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(socket: TcpStream, broker: SocketAddr, acceptor: &TlsAcceptor, connector: &TlsConnector, armed: &Armed) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let near = acceptor.accept(socket).await?;
    let far = TcpStream::connect(broker).await?;
    far.set_nodelay(true)?;
    let far = connector.connect(ServerName::try_from("127.0.0.1").expect("an address"), far).await?;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (tokio::io::split(near), tokio::io::split(far));
    tokio::select! {
        end = up(&mut near_read, &mut far_write, armed) => end,
        end = down(&mut far_read, &mut near_write, armed) => end,
    }
}

/// MQTT control packet types (MQTT 3.1.1, table 2.1).
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;

async fn up(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), armed: &Armed) -> io::Result<()> {
    loop {
        let packet = read_packet(from).await?;
        match packet[0] >> 4 {
            CONNECT => strike(armed, Moment::Connect),
            SUBSCRIBE => strike(armed, Moment::Subscribe),
            _ => false,
        };
        to.write_all(&packet).await?;
        to.flush().await?;
    }
}

async fn down(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), armed: &Armed) -> io::Result<()> {
    loop {
        let packet = read_packet(from).await?;
        let is_document = packet[0] >> 4 == PUBLISH && packet.windows(13).any(|part| part == b"/entitlement\0" || ends_topic(part));
        let (first, rest) = packet.split_at(if is_document { packet.len() / 2 } else { 0 });
        if is_document && waits(armed, Moment::MidPublish) {
            to.write_all(first).await?;
            to.flush().await?;
            strike(armed, Moment::MidPublish);
            to.write_all(rest).await?;
        } else {
            to.write_all(&packet).await?;
        }
        to.flush().await?;
    }
}

/// The packet identifier follows the topic; the tests' identifiers are small, so its upper byte is zero.
fn ends_topic(part: &[u8]) -> bool {
    part.starts_with(b"/entitlement") && part[12] < 0x20
}

fn waits(armed: &Armed, moment: Moment) -> bool {
    armed.lock().unwrap().as_ref().is_some_and(|(wanted, ..)| *wanted == moment)
}

fn strike(armed: &Armed, moment: Moment) -> bool {
    let mut armed = armed.lock().unwrap();
    match armed.take() {
        Some((wanted, fault, control)) if wanted == moment => {
            control.inject(fault);
            true
        }
        other => {
            *armed = other;
            false
        }
    }
}

/// One complete control packet (MQTT 3.1.1, section 2.2).
async fn read_packet(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut packet = vec![from.read_u8().await?];
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = from.read_u8().await?;
        packet.push(byte);
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    from.read_exact(&mut packet[head..]).await?;
    Ok(packet)
}
