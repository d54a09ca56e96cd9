//! A broker that does what the test says, packet by packet.

use std::time::Duration;

use bytes::BytesMut;
use rumqttc::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, SubscribeReasonCode, mqttbytes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Long enough for a slow machine; only a test that fails waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The device of these tests, its topics' prefix and its entitlement topic.
pub(super) const DEVICE: &str = "8006E5A1F0C2";
pub(super) const ENTITLEMENT: &str = "care/v1/8006E5A1F0C2/entitlement";
pub(super) const STATUS: &str = "care/v1/8006E5A1F0C2/status";

pub(super) struct Broker {
    listener: TcpListener,
}

impl Broker {
    pub(super) async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(super) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// The next TCP connection.
    pub(super) async fn accept(&self) -> Peer {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.expect("the link connects").unwrap();
        Peer { stream, buffer: BytesMut::new() }
    }

    /// Whether no connection comes within this time.
    pub(super) async fn quiet_for(&self, time: Duration) -> bool {
        timeout(time, self.listener.accept()).await.is_err()
    }

    /// The next connection, up to a granted subscription.
    pub(super) async fn session(&self, session_present: bool) -> Peer {
        let mut peer = self.connection(session_present).await;
        peer.grant().await;
        peer
    }

    /// The next connection, up to CONNACK.
    pub(super) async fn connection(&self, session_present: bool) -> Peer {
        let mut peer = self.accept().await;
        let Packet::Connect(connect) = peer.next().await else { panic!("the first packet is CONNECT") };
        assert!(!connect.clean_session);
        peer.connack(session_present).await;
        peer
    }
}

/// The link as the broker sees it.
pub(super) struct Peer {
    pub(super) stream: TcpStream,
    buffer: BytesMut,
}

impl Peer {
    /// The next packet, or `None` at the end of the connection. `online` is acknowledged and passed over: there is one
    /// for each connection, and those that a resumed session repeats.
    pub(super) async fn try_next(&mut self) -> Option<Packet> {
        loop {
            match self.any_next().await? {
                Packet::Publish(publish) if publish.topic == STATUS && publish.payload == "online" => {
                    assert!(publish.retain);
                    self.puback(publish.pkid).await;
                }
                other => return Some(other),
            }
        }
    }

    /// The next packet, or `None` at the end of the connection.
    pub(super) async fn any_next(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.buffer, usize::MAX) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the link sent a bad packet: {error}"),
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer)).await.expect("the link sends something");
            if !read.is_ok_and(|bytes| bytes > 0) {
                return None;
            }
        }
    }

    pub(super) async fn next(&mut self) -> Packet {
        self.try_next().await.expect("the link stays connected")
    }

    /// The next PUBLISH of the link.
    pub(super) async fn publish_in(&mut self) -> Publish {
        match self.next().await {
            Packet::Publish(publish) => publish,
            other => panic!("expected PUBLISH, got {other:?}"),
        }
    }

    /// The next PUBACK of the link.
    pub(super) async fn puback_in(&mut self) -> u16 {
        match self.next().await {
            Packet::PubAck(puback) => puback.pkid,
            other => panic!("expected PUBACK, got {other:?}"),
        }
    }

    /// Waits for the end of the connection, whatever comes before.
    pub(super) async fn gone(&mut self) {
        while self.try_next().await.is_some() {}
    }

    pub(super) async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    pub(super) async fn send(&mut self, packet: Packet) {
        // A peer that has left is found when it is read from.
        let _ = self.stream.write_all(&encode(packet)).await;
    }

    pub(super) async fn connack(&mut self, session_present: bool) {
        self.send(Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success })).await;
    }

    pub(super) async fn suback(&mut self, packet: u16, codes: [SubscribeReasonCode; 3]) {
        self.send(Packet::SubAck(SubAck::new(packet, codes.to_vec()))).await;
    }

    /// Takes SUBSCRIBE and grants all of it.
    pub(super) async fn grant(&mut self) {
        let packet = self.subscribe_in().await;
        self.suback(packet, [SubscribeReasonCode::Success(QoS::AtLeastOnce); 3]).await;
    }

    /// Takes SUBSCRIBE, which must name the three topics with QoS 1.
    pub(super) async fn subscribe_in(&mut self) -> u16 {
        let Packet::Subscribe(subscribe) = self.next().await else { panic!("expected SUBSCRIBE") };
        let filters: Vec<_> = subscribe.filters.iter().map(|filter| (filter.path.as_str(), filter.qos)).collect();
        let answer = format!("{ENTITLEMENT}/answer");
        let all = [ENTITLEMENT, &answer, "care/v1/keyset"].map(|path| (path, QoS::AtLeastOnce));
        assert_eq!(filters, all);
        subscribe.pkid
    }

    pub(super) async fn puback(&mut self, packet: u16) {
        self.send(Packet::PubAck(PubAck::new(packet))).await;
    }

    /// A document for the device.
    pub(super) async fn document(&mut self, packet: u16, payload: &str) {
        self.send(document(packet, payload)).await;
    }
}

pub(super) fn document(packet: u16, payload: &str) -> Packet {
    let mut publish = Publish::new(ENTITLEMENT, QoS::AtLeastOnce, payload);
    publish.pkid = packet;
    Packet::Publish(publish)
}

pub(super) fn encode(packet: Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, usize::MAX).unwrap();
    bytes
}

/// The beginning of a PUBLISH of 1 MiB: enough to be refused for its size.
pub(super) const OVERSIZE: [u8; 4] = [0x30, 0x80, 0x80, 0x40];
