//! A broker over mutual TLS that follows a script packet by packet, for behaviour that no real broker shows on demand.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::BytesMut;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode, mqttbytes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{pki::Pki, wait::RECONNECT};

/// The broker before any client has connected.
pub struct ScriptedBroker {
    /// The listening address.
    pub addr: SocketAddr,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl ScriptedBroker {
    /// Starts listening.
    pub async fn new(pki: &Pki) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self { addr, listener, acceptor: TlsAcceptor::from(Arc::new(pki.mutual_tls(&pki.ca.server()))) }
    }

    /// Accepts the next connection and completes its handshake.
    pub async fn accept(&self) -> Peer {
        let (socket, _) = timeout(RECONNECT, self.listener.accept()).await.expect("the camera connects").unwrap();
        socket.set_nodelay(true).unwrap();
        Peer { stream: self.acceptor.accept(socket).await.expect("the camera trusts this broker"), buffer: BytesMut::new() }
    }

    /// Whether no client connects for this long.
    pub async fn quiet_for(&self, time: Duration) -> bool {
        timeout(time, self.listener.accept()).await.is_err()
    }

    /// Accepts the next connection and completes CONNECT and CONNACK.
    pub async fn connected(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        let Packet::Connect(_) = peer.next().await else { panic!("the first packet is CONNECT") };
        peer.connack(session_present).await;
        peer
    }

    /// Accepts the next connection and grants its SUBSCRIBE.
    pub async fn subscribed(&self, session_present: bool) -> Peer {
        let mut peer = self.connected(session_present).await;
        peer.grant(QoS::AtLeastOnce).await;
        peer
    }
}

/// The connection to the camera.
pub struct Peer {
    stream: TlsStream<TcpStream>,
    buffer: BytesMut,
}

impl Peer {
    /// The next packet, or `None` when the connection has closed.
    pub async fn try_next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the camera sent a bad packet: {error}"),
            }
            let read = timeout(RECONNECT, self.stream.read_buf(&mut self.buffer)).await.expect("the camera sends something");
            if !read.is_ok_and(|bytes| bytes > 0) {
                return None;
            }
        }
    }

    /// The next packet.
    pub async fn next(&mut self) -> Packet {
        self.try_next().await.expect("the camera stays connected")
    }

    /// The next PUBLISH to a topic with this ending; acknowledges earlier ones.
    pub async fn publish_to(&mut self, end: &str) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.next().await {
                if publish.topic.ends_with(end) {
                    return publish;
                }
                self.send(Packet::PubAck(PubAck::new(publish.pkid))).await;
            }
        }
    }

    /// Sends a packet. A closed connection shows up at the next read.
    pub async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, usize::MAX).unwrap();
        let _ = self.stream.write_all(&bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Sends a CONNACK that accepts the connection.
    pub async fn connack(&mut self, session_present: bool) {
        self.send(Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success })).await;
    }

    /// Receives SUBSCRIBE, grants all filters with this QoS and returns them.
    pub async fn grant(&mut self, qos: QoS) -> Vec<String> {
        let Packet::Subscribe(subscribe) = self.next().await else { panic!("expected SUBSCRIBE") };
        let codes = subscribe.filters.iter().map(|_| SubscribeReasonCode::Success(qos)).collect();
        self.send(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
        subscribe.filters.into_iter().map(|filter| filter.path).collect()
    }

    /// Publishes a message.
    pub async fn publish(&mut self, topic: &str, qos: QoS, packet: u16, payload: impl Into<Vec<u8>>) {
        let mut publish = Publish::new(topic, qos, payload);
        publish.pkid = packet;
        self.send(Packet::Publish(publish)).await;
    }
}
