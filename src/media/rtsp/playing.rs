//! One RTSP session with a camera, from the connection to its packets: DESCRIBE, SETUP of the picture's stream and of what is wanted
//! beside it, PLAY, and then
//! packets, keepalives and the camera's own requests, in whatever order they come. It makes no frames and never tries twice. Called
//! by the source.

use std::{
    cell::Cell,
    future::pending,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    net::{TcpStream, lookup_host},
    select,
    time::{sleep_until, timeout},
};
use url::Url;

use super::{
    address::Address,
    connection::Connection,
    control,
    conversation::{Conversation, Interleaved, Teardowns},
    fault::{self, Fault, Step},
    keepalive::{Due, Keepalive},
    message::{Message, Response},
    metadata::{MetadataTrack, Wanted},
    offer::{self, Offer},
    packet::{self, Rtp},
    sdp::Description,
    sequence::Sequence,
    setup::{SessionHeader, Transport},
    udp::Udp,
};
use crate::media::{
    rtp::{Depayloader, Packet},
    source::SourceError,
};

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long a camera may take to accept a connection, and each of several addresses.
const CONNECT: Duration = Duration::from_secs(10);
const CONNECT_OF_SEVERAL: Duration = Duration::from_secs(5);
/// How long a camera may take for DESCRIBE and for PLAY: some start their encoder first.
const ANSWER: Duration = Duration::from_secs(30);
const SETUP: Duration = Duration::from_secs(15);
/// A source that has said BYE (RFC 3550, section 8.2) may go on under another number: so long.
const AFTER_BYE: Duration = Duration::from_secs(2);
/// Geovision's cameras send packets of this type, with numbers that others have, too.
const NO_PICTURE: u8 = 50;
/// So many datagrams are looked at before keepalives, and whoever waits for the next packet, have their turn.
const DATAGRAMS: u32 = 64;
/// The channel asked for: RTP's. RTCP has the next one.
const CHANNEL: u8 = 0;

/// A session that plays.
pub(super) struct Playing {
    conversation: Conversation,
    way: Way,
    metadata: Option<MetadataTrack>,
    early: std::vec::IntoIter<Interleaved>,
    keepalive: Keepalive,
    /// The keepalive under way has been sent again, for another login.
    repeated: bool,
    sequence: Sequence,
    /// How many packets are missing before the next one that is given.
    missing: u16,
    packet_at: Option<Instant>,
    bye_at: Option<Instant>,
    pub depayloader: Depayloader,
    payload_type: u8,
    /// Whether a packet of this payload type has come. Until then any other is taken for it: cameras err in their SDP.
    as_announced: bool,
    pub began: Instant,
}

/// How the packets of a stream come.
pub(super) enum Way {
    Tcp { rtp: u8, rtcp: Option<u8> },
    Udp(Udp),
}

/// What it takes to open a session.
pub(super) struct Opening<'a> {
    pub address: &'a Address,
    pub teardowns: Arc<Teardowns>,
    pub transport: TransportChoice,
    /// Whether the camera has refused TCP, whatever came of it.
    pub refused_tcp: Cell<bool>,
    pub metadata: Option<Wanted>,
}

/// Which transports may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransportChoice {
    /// TCP, and UDP if the camera refuses it.
    TcpThenUdp,
    Tcp,
    Udp,
}

impl Opening<'_> {
    /// Opens the session.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn open(&self) -> Result<Playing, SourceError> {
        let url = &self.address.url;
        let connection = self.connect().await?;
        let mut conversation = Conversation::new(connection, self.address.credentials.clone(), url.clone(), self.teardowns.clone());
        let asked = conversation.request("DESCRIBE", url, &[("Accept", "application/sdp")]);
        let described = self.step(Step::Describe, ANSWER, asked).await?;
        let sdp = String::from_utf8_lossy(&described.body);
        let description = Description::read(&sdp);
        if description.sections.is_empty() {
            return Err(fault::told(Step::Describe, &self.address.shown(), &Fault::Unusable("it describes no stream")));
        }
        let Offer { control, codec, payload_type, clock_rate, parameter_sets } = offer::choose(&description)?;
        conversation.base = control::base(url, &described.headers);
        let all = description.control().map_or_else(|| url.clone(), |control| control::joined(&conversation.base, control));
        let picture = control.map_or_else(|| all.clone(), |control| control::joined(&conversation.base, &control));
        let (way, timeout) = self.set_up(&mut conversation, &picture).await?;
        let metadata = match &self.metadata {
            Some(wanted) => wanted.set_up(&mut conversation, (&description, &all), &way, &self.address.shown()).await?,
            None => None,
        };
        self.step(Step::Play, ANSWER, conversation.request("PLAY", &all, &[("Range", "npt=0.000-")])).await?;
        let began = Instant::now();
        if let Some(wanted) = &self.metadata {
            wanted.plays(metadata.as_ref());
        }
        Ok(Playing {
            way,
            metadata,
            early: std::mem::take(&mut conversation.early).into_iter(),
            conversation,
            keepalive: Keepalive::new(timeout, began),
            repeated: false,
            sequence: Sequence::default(),
            missing: 0,
            packet_at: None,
            bye_at: None,
            depayloader: Depayloader::new(codec, clock_rate, parameter_sets),
            payload_type,
            as_announced: false,
            began,
        })
    }

    async fn step<T>(&self, step: Step, patience: Duration, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, SourceError> {
        let server = self.address.shown();
        match timeout(patience, asked).await {
            Ok(answered) => answered.map_err(|fault| fault::told(step, &server, &fault)),
            Err(_) => Err(fault::silent(step, &server, patience)),
        }
    }

    async fn set_up(&self, conversation: &mut Conversation, url: &Url) -> Result<(Way, Duration), SourceError> {
        let server = self.address.shown();
        let silent = |_| fault::silent(Step::Setup, &server, SETUP);
        let mut agreed = timeout(SETUP, agree(conversation, url, self.transport == TransportChoice::Udp, CHANNEL)).await.map_err(silent)?;
        if self.transport == TransportChoice::TcpThenUdp && agreed.as_ref().is_err_and(Fault::refuses_transport) {
            self.refused_tcp.set(true);
            agreed = timeout(SETUP, agree(conversation, url, true, CHANNEL)).await.map_err(silent)?;
        }
        agreed.map_err(|fault| fault::told(Step::Setup, &server, &fault))
    }

    /// A connection with the first of the camera's addresses that accepts one.
    async fn connect(&self) -> Result<Connection, SourceError> {
        let (host, port) = (self.address.host().0, self.address.port());
        let unknown = |why: String| SourceError::Failed(format!("the name {host} cannot be resolved: {why}"));
        let mut addresses: Vec<_> = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            Err(_) => match timeout(RESOLVE, lookup_host((host, port))).await {
                Ok(found) => found.map_err(|error| unknown(resolver_says(&error)))?.collect(),
                Err(_) => return Err(unknown(format!("no answer from the name server within {} s", RESOLVE.as_secs()))),
            },
        };
        addresses.dedup();
        let one = addresses.len() == 1;
        let patience = if one { CONNECT } else { CONNECT_OF_SEVERAL };
        let mut why = unknown("it has no address".into());
        for address in addresses {
            let server = if one { self.address.shown() } else { address.to_string() };
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(Connection::new(stream)),
                Ok(Err(error)) => why = fault::unreachable(&server, &error),
                Err(_) => why = fault::unconnected(&server, patience),
            }
        }
        Err(why)
    }
}

/// Sets a stream up, and gives the way its packets take and the session's timeout.
pub(super) async fn agree(conversation: &mut Conversation, url: &Url, over_udp: bool, channel: u8) -> Result<(Way, Duration), Fault> {
    let udp = if over_udp {
        let (ours, camera) = conversation.connection()?.addresses().map_err(Fault::Broken)?;
        Some(Udp::bind(ours.ip(), camera.ip()).map_err(Fault::NoPorts)?)
    } else {
        None
    };
    let asked = match &udp {
        Some(udp) => format!("RTP/AVP/UDP;unicast;client_port={}", udp.ports()),
        None => format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1),
    };
    let answer = conversation.request("SETUP", url, &[("Transport", &asked)]).await?;
    let session = SessionHeader::read(answer.headers.get("Session").unwrap_or_default());
    conversation.is_in(session.id);
    // A camera that names no transport takes the one asked for.
    let named = answer.headers.get("Transport").map(Transport::read);
    let tcp = named.as_ref().map_or(udp.is_none(), |named| named.tcp);
    let way = match udp {
        None if tcp => {
            let (rtp, rtcp) = named.and_then(|named| named.channels).unwrap_or((channel, Some(channel + 1)));
            Way::Tcp { rtp, rtcp }
        }
        Some(mut udp) if !tcp => {
            let Transport { source, server_ports, .. } = named.unwrap_or_default();
            udp.agree(source, server_ports);
            Way::Udp(udp)
        }
        _ => return Err(Fault::OtherTransport),
    };
    Ok((way, session.timeout))
}

fn resolver_says(error: &io::Error) -> String {
    let words = error.to_string();
    words.strip_prefix("failed to lookup address information: ").unwrap_or(&words).to_lowercase()
}

impl Playing {
    /// The next packet of the picture. May be dropped at any time.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn receive(&mut self) -> Result<Packet, Fault> {
        loop {
            let buffered = self.buffered();
            if let Some(packet) = self.conversation.kept(buffered)? {
                return Ok(packet);
            }
            self.keep_alive()?;
            let ends = self.bye_at.map(|at| at + AFTER_BYE);
            if ends.is_some_and(|ends| ends <= Instant::now()) {
                return Err(Fault::Ended("ended the stream"));
            }
            let due = self.keepalive.due_at();
            let wake = ends.map_or(due, |ends| ends.min(due));
            let progressed = select! {
                progressed = self.conversation.connection()?.progress() => progressed,
                ready = readable(&self.way, self.metadata.as_ref()) => ready.map_err(Fault::Broken),
                () = sleep_until(wake.into()) => Ok(()),
            };
            self.conversation.kept(progressed)?;
        }
    }

    pub fn over_udp(&self) -> bool {
        matches!(self.way, Way::Udp(_))
    }

    pub fn has_received(&self) -> bool {
        self.packet_at.is_some()
    }

    /// Whether the camera leaves keepalives without an answer.
    pub fn ignores_keepalives(&self) -> bool {
        self.keepalive.is_ignored()
    }

    /// The next packet that has come.
    fn buffered(&mut self) -> Result<Option<Packet>, Fault> {
        while let Some(Interleaved { channel, packet, received }) = self.early.next() {
            if let Some(packet) = self.interleaved(channel, &packet, received) {
                return Ok(Some(packet));
            }
        }
        loop {
            let connection = self.conversation.connection()?;
            let received = connection.read_at;
            match connection.received()? {
                Some(Message::Data { channel, packet }) => {
                    if let Some(packet) = self.interleaved(channel, &packet, received) {
                        return Ok(Some(packet));
                    }
                }
                Some(Message::Response(response)) => self.answered(&response)?,
                Some(Message::Request(request)) => self.conversation.asked(&request)?,
                None => break,
            }
        }
        self.metadata.as_mut().map_or(Ok(()), MetadataTrack::receive)?;
        for _ in 0..DATAGRAMS {
            let Way::Udp(udp) = &mut self.way else { break };
            let Some((packet, is_rtcp)) = udp.received().map_err(Fault::Broken)? else { break };
            if is_rtcp {
                self.rtcp(&packet);
            } else if let Some(packet) = self.rtp(&packet, Instant::now()) {
                return Ok(Some(packet));
            }
        }
        Ok(None)
    }

    /// Channels that were not agreed on belong to nobody, unless the camera sends the picture there and never where it said.
    fn interleaved(&mut self, channel: u8, packet: &Bytes, received: Instant) -> Option<Packet> {
        let Way::Tcp { rtp, rtcp } = &mut self.way else { return None };
        let is_picture = || Rtp::read(packet).is_some_and(|rtp| rtp.payload_type == self.payload_type);
        if !(channel == *rtp && is_picture()) && self.metadata.as_mut().is_some_and(|metadata| metadata.takes(channel, packet)) {
            return None;
        }
        if channel != *rtp && self.packet_at.is_none() && is_picture() {
            (*rtp, *rtcp) = (channel, channel.checked_add(1));
        }
        if channel == *rtp {
            return self.rtp(packet, received);
        }
        if Some(channel) == *rtcp {
            self.rtcp(packet);
        }
        None
    }

    fn rtp(&mut self, packet: &Bytes, received: Instant) -> Option<Packet> {
        // Sequence numbers tell whether one that cannot be read was a part of the stream.
        let rtp = Rtp::read(packet)?;
        if rtp.payload_type == NO_PICTURE && self.payload_type != NO_PICTURE {
            return None;
        }
        let missing = self.sequence.take(rtp.source, rtp.sequence)?;
        self.missing = self.missing.saturating_add(missing);
        (self.packet_at, self.bye_at) = (Some(received), None);
        // Others within the same stream carry repairs.
        let announced = rtp.payload_type == self.payload_type;
        self.as_announced |= announced;
        (announced || !self.as_announced).then(|| Packet {
            timestamp: rtp.timestamp,
            mark: rtp.mark,
            lost: std::mem::take(&mut self.missing),
            received,
            payload: rtp.payload,
        })
    }

    fn rtcp(&mut self, packet: &Bytes) {
        if self.bye_at.is_none() && self.sequence.source().is_some_and(|source| packet::says_bye(packet, source)) {
            self.bye_at = Some(Instant::now());
        }
    }

    fn answered(&mut self, response: &Response) -> Result<(), Fault> {
        let again = self.conversation.answered(response) && !self.repeated;
        match self.keepalive.waiting().filter(|_| again) {
            Some(method) => {
                self.repeated = true;
                self.conversation.send(method)
            }
            None => {
                self.keepalive.answered(response);
                Ok(())
            }
        }
    }

    fn keep_alive(&mut self) -> Result<(), Fault> {
        match self.keepalive.due(Instant::now(), self.packet_at) {
            Due::Nothing => return Ok(()),
            Due::GiveUp => return Err(Fault::Unanswered),
            Due::Send(method) => {
                self.repeated = false;
                self.conversation.send(method)?;
            }
        }
        if let Way::Udp(udp) = &self.way {
            udp.report();
        }
        self.metadata.iter().filter_map(MetadataTrack::udp).for_each(Udp::report);
        Ok(())
    }
}

/// Waits until a datagram of any of these streams may have come.
async fn readable(picture: &Way, metadata: Option<&MetadataTrack>) -> io::Result<()> {
    match (picture, metadata.and_then(MetadataTrack::udp)) {
        (Way::Udp(picture), Some(metadata)) => select! {
            ready = picture.readable() => ready,
            ready = metadata.readable() => ready,
        },
        (Way::Udp(udp), None) | (Way::Tcp { .. }, Some(udp)) => udp.readable().await,
        (Way::Tcp { .. }, None) => pending().await,
    }
}
