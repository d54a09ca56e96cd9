//! One MQTT connection over a stream that is connected already. rumqttc handles the packets and the state of
//! publications in flight, but does not connect: its own event loop resolves a name and tries its addresses one after
//! the other under one timeout, hides TLS errors, and takes neither a connected socket nor an address beside the name
//! that TLS must verify and send (SNI). So the link connects like the rest of the agent ([`crate::http::connect`]),
//! and this module replaces rumqttc's event loop: read, send, ping. The connection to a broker in the home
//! ([`crate::local_mqtt`]) is one of these, too; it shares nothing with the link but this code.

use std::{
    collections::VecDeque,
    io,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use rumqttc::{
    Connect, ConnectReturnCode, Event, LastWill, Login, MqttState, Packet, PingReq, Request, StateError,
    mqttbytes::{self, Error as PacketError},
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    select,
    sync::mpsc,
    time::{sleep_until, timeout},
};

use crate::{http::Stream, redact::Secret};

/// How many packets one read may process before the answers to them are sent, and how many one write may carry.
const PACKETS_AT_ONCE: usize = 10;
/// The smallest buffer space for a read.
const READ: usize = 4096;

/// The settings of an MQTT connection.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) client_id: String,
    /// At least a second.
    pub(crate) keep_alive: Duration,
    pub(crate) last_will: Option<LastWill>,
    /// User name and password, for a broker that takes no certificate.
    pub(crate) login: Option<(String, Secret)>,
    /// The largest packet, either way, bytes.
    pub(crate) max_packet: usize,
    /// Packet identifiers in use at most.
    pub(crate) inflight: u16,
    /// How long one write may take.
    pub(crate) write_timeout: Duration,
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum WireError {
    #[error("the broker closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    State(#[from] StateError),
    #[error("the broker sent a packet of {bytes} bytes")]
    TooLarge {
        bytes: usize,
        /// Its topic, if its beginning holds it.
        topic: Option<String>,
    },
    /// The received bytes are not MQTT.
    #[error("{0}")]
    Packet(PacketError),
    #[error("CONNECT was refused: {0:?}")]
    Refused(ConnectReturnCode),
    #[error("expected CONNACK, received {0:?}")]
    NotConnAck(Box<Packet>),
    #[error("the broker no longer reads what we send")]
    WriteTimeout,
}

/// The session's state, and its connection while there is one.
pub(crate) struct Wire {
    options: Options,
    /// Publications in flight, and events that were read and not yet yielded.
    pub(crate) state: MqttState,
    /// Packets left by the last connection, to be sent before any other: at most those in flight and in the channel.
    pub(crate) pending: VecDeque<Request>,
    requests: mpsc::Receiver<Request>,
    line: Option<Line>,
}

struct Line {
    stream: Box<dyn Stream>,
    incoming: BytesMut,
    outgoing: BytesMut,
    ping_at: Instant,
}

impl Wire {
    /// No connection yet. The channel carries publications, acknowledgements and DISCONNECT; it holds `room` of them.
    pub(crate) fn new(options: Options, room: usize) -> (mpsc::Sender<Request>, Self) {
        let (sender, requests) = mpsc::channel(room);
        // rumqttc must not acknowledge by itself.
        let state = MqttState::new(options.inflight, true);
        (sender, Self { options, state, pending: VecDeque::new(), requests, line: None })
    }

    /// Sends CONNECT over this stream and waits for CONNACK. Returns whether the broker kept the session. If it did
    /// not, the pending packets are dropped.
    pub(crate) async fn connect(&mut self, stream: Box<dyn Stream>, clean_session: bool) -> Result<bool, WireError> {
        let mut connect = Connect::new(&self.options.client_id);
        connect.keep_alive = u16::try_from(self.options.keep_alive.as_secs()).unwrap_or(u16::MAX);
        connect.clean_session = clean_session;
        connect.last_will = self.options.last_will.clone();
        connect.login = self.options.login.as_ref().map(|(name, password)| Login::new(name, password.expose()));
        let ping_at = Instant::now() + self.options.keep_alive;
        let mut line = Line { stream, incoming: BytesMut::new(), outgoing: BytesMut::new(), ping_at };
        line.put(&Packet::Connect(connect), self.options.max_packet)?;
        line.flush(self.options.write_timeout).await?;
        let answer = loop {
            match line.take(self.options.max_packet)? {
                Some(packet) => break packet,
                None => line.read().await?,
            }
        };
        let session_present = match answer {
            Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => connack.session_present,
            Packet::ConnAck(connack) => return Err(WireError::Refused(connack.code)),
            other => return Err(WireError::NotConnAck(Box::new(other))),
        };
        if !session_present {
            self.pending.clear();
        }
        self.line = Some(line);
        Ok(session_present)
    }

    /// The next event of the connection. Dropping it halfway through a write leaves half a packet behind: the
    /// connection must be dropped too ([`Self::clean`]).
    pub(crate) async fn poll(&mut self) -> Result<Event, WireError> {
        loop {
            if let Some(event) = self.state.events.pop_front() {
                return Ok(event);
            }
            if let Err(error) = self.turn().await {
                self.clean();
                return Err(error);
            }
        }
    }

    /// Reads, sends or pings, once.
    async fn turn(&mut self) -> Result<(), WireError> {
        let Self { options, state, pending, requests, line } = self;
        let Some(line) = line else { return Err(WireError::Closed) };
        let max_packet = options.max_packet;
        let mut came = 0;
        while came < PACKETS_AT_ONCE {
            let Some(packet) = line.take(max_packet)? else { break };
            came += 1;
            if let Some(answer) = state.handle_incoming_packet(packet)? {
                line.put(&answer, max_packet)?;
            }
        }
        if came == 0 {
            // A publication whose identifier is in use waits, and all others behind it.
            let may_send = |state: &MqttState| state.inflight() < options.inflight && state.collision.is_none();
            let sends = !pending.is_empty() || may_send(state);
            let ping_at = line.ping_at;
            let first = async {
                match pending.pop_front() {
                    Some(request) => Some(request),
                    None => requests.recv().await,
                }
            };
            let request = select! {
                read = line.read() => return read,
                request = first, if sends => request.ok_or(WireError::Closed)?,
                () = sleep_until(ping_at.into()) => {
                    line.ping_at = Instant::now() + options.keep_alive;
                    Request::PingReq(PingReq)
                }
            };
            // What waits behind it leaves in the same write: the report of a switch with the PUBACK of its document.
            let (mut next, mut leaving) = (Some(request), 0);
            while let Some(request) = next {
                if let Some(packet) = state.handle_outgoing_packet(request)? {
                    line.put(&packet, max_packet)?;
                }
                leaving += 1;
                let more = leaving < PACKETS_AT_ONCE && pending.is_empty() && may_send(state);
                next = if more { requests.try_recv().ok() } else { None };
            }
        }
        line.flush(options.write_timeout).await
    }

    /// Ends the connection, if there is one, and puts the publications in flight before the pending packets.
    /// Acknowledgements that were not sent are dropped: the broker sends those messages again.
    pub(crate) fn clean(&mut self) {
        self.line = None;
        self.pending.extend(self.state.clean());
        while let Ok(request) = self.requests.try_recv() {
            if !matches!(request, Request::PubAck(_)) {
                self.pending.push_back(request);
            }
        }
    }
}

impl Line {
    /// The next complete packet.
    fn take(&mut self, max_packet: usize) -> Result<Option<Packet>, WireError> {
        match Packet::read(&mut self.incoming, max_packet) {
            Ok(packet) => Ok(Some(packet)),
            Err(mqttbytes::Error::InsufficientBytes(_)) => Ok(None),
            Err(mqttbytes::Error::PayloadSizeLimitExceeded(bytes)) => Err(WireError::TooLarge { bytes, topic: self.topic() }),
            Err(error) => Err(WireError::Packet(error)),
        }
    }

    /// The topic of the PUBLISH being received, as far as it has arrived.
    fn topic(&self) -> Option<String> {
        const PUBLISH: u8 = 3;
        if self.incoming.first()? >> 4 != PUBLISH {
            return None;
        }
        // The remaining length ends with the first byte below 128; then follow two bytes with the topic's length.
        let header = 2 + self.incoming.iter().skip(1).take(3).take_while(|byte| **byte >= 128).count();
        let length = usize::from(u16::from_be_bytes([*self.incoming.get(header)?, *self.incoming.get(header + 1)?]));
        let topic = self.incoming.get(header + 2..header + 2 + length)?;
        String::from_utf8(topic.to_vec()).ok()
    }

    async fn read(&mut self) -> Result<(), WireError> {
        self.incoming.reserve(READ);
        match self.stream.read_buf(&mut self.incoming).await? {
            0 => Err(WireError::Closed),
            _ => Ok(()),
        }
    }

    fn put(&mut self, packet: &Packet, max_packet: usize) -> Result<(), WireError> {
        packet.write(&mut self.outgoing, max_packet).map(drop).map_err(WireError::Packet)
    }

    async fn flush(&mut self, within: Duration) -> Result<(), WireError> {
        let Self { stream, outgoing, .. } = self;
        let write = async {
            stream.write_all(outgoing).await?;
            stream.flush().await
        };
        timeout(within, write).await.map_err(|_| WireError::WriteTimeout)??;
        outgoing.clear();
        Ok(())
    }
}
