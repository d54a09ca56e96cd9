//! One RTSP session with a camera, from DESCRIBE to its packets. retina speaks the protocol: login, keepalives, interleaved TCP
//! and UDP, teardown. Only the picture's stream is set up. It makes no frames and never tries twice. Called by the source.

use std::{cell::Cell, future::poll_fn, io, pin::Pin, sync::Arc, time::Duration};

use futures_core::Stream;
use retina::client::{
    Described, InitialSequenceNumberPolicy, InitialTimestampPolicy, PacketItem, PlayOptions, Playing as Plays, Session, SessionGroup,
    SessionIdPolicy, SessionOptions, SetupOptions, TcpTransportOptions, Transport, UdpTransportOptions, UnassignedChannelDataPolicy,
    UnknownRtcpSsrcPolicy,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use url::Url;

use super::{
    address::Address,
    fault::{self, Step},
    offer::{self, Offer},
};
use crate::media::{
    rtp::{Depayloader, Packet},
    source::SourceError,
};

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long a camera may take for DESCRIBE and for PLAY: some start their encoder first.
const ANSWER: Duration = Duration::from_secs(30);
const SETUP: Duration = Duration::from_secs(15);
/// How long one of several addresses may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// A session that plays.
pub(super) struct Playing {
    session: Session<Plays>,
    pub depayloader: Depayloader,
    payload_type: u8,
    /// Whether a packet of this payload type has come. Until then any other is taken for it: cameras err in their SDP.
    as_announced: bool,
    pub began: Instant,
    pub over_udp: bool,
    pub has_received: bool,
}

/// What it takes to open a session.
pub(super) struct Opening<'a> {
    pub address: &'a Address,
    /// Waits for teardowns.
    pub group: Arc<SessionGroup>,
    pub transport: TransportChoice,
    /// Whether the camera has refused TCP, whatever came of it.
    pub refused_tcp: Cell<bool>,
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
        let server = self.address.shown();
        let url = self.reachable().await?;
        let options = SessionOptions::default()
            .creds(self.address.credentials.clone())
            .user_agent(concat!("kasa-care-agent/", env!("CARGO_PKG_VERSION")).to_owned())
            .session_group(self.group.clone())
            .session_id(SessionIdPolicy::UseFirst)
            .unassigned_channel_data(UnassignedChannelDataPolicy::Ignore);
        let described = match timeout(ANSWER, Session::describe(url, options)).await {
            Ok(described) => described.map_err(|error| fault::told(Step::Describe, &server, &error))?,
            Err(_) => return Err(fault::silent(Step::Describe, &server, ANSWER, self.accepts().await)),
        };
        let offer = offer::choose(described.streams(), described.sdp())?;
        let (described, over_udp) = self.set_up(described, &offer).await?;
        let options = PlayOptions::default()
            .initial_timestamp(InitialTimestampPolicy::Ignore)
            .initial_seq(InitialSequenceNumberPolicy::Ignore)
            .unknown_rtcp_ssrc(UnknownRtcpSsrcPolicy::ProcessPackets);
        let session = match timeout(ANSWER, described.play(options)).await {
            Ok(session) => session.map_err(|error| fault::told(Step::Play, &server, &error))?,
            Err(_) => return Err(fault::silent(Step::Play, &server, ANSWER, true)),
        };
        let Offer { index: _, codec, payload_type, clock_rate, parameter_sets } = offer;
        let depayloader = Depayloader::new(codec, clock_rate, parameter_sets);
        Ok(Playing { session, depayloader, payload_type, as_announced: false, began: Instant::now(), over_udp, has_received: false })
    }

    async fn set_up(&self, mut described: Session<Described>, offer: &Offer) -> Result<(Session<Described>, bool), SourceError> {
        let server = self.address.shown();
        let tcp = Transport::Tcp(TcpTransportOptions::default());
        let udp = Transport::Udp(UdpTransportOptions::default());
        let first = if self.transport == TransportChoice::Udp { udp.clone() } else { tcp };
        let mut over_udp = self.transport == TransportChoice::Udp;
        let silent = || fault::silent(Step::Setup, &server, SETUP, true);
        let asked = described.setup(offer.index, SetupOptions::default().transport(first));
        let mut answered = timeout(SETUP, asked).await.map_err(|_| silent())?;
        if self.transport == TransportChoice::TcpThenUdp && answered.as_ref().is_err_and(fault::refuses_transport) {
            over_udp = true;
            self.refused_tcp.set(true);
            let asked = described.setup(offer.index, SetupOptions::default().transport(udp));
            answered = timeout(SETUP, asked).await.map_err(|_| silent())?;
        }
        answered.map_err(|error| fault::told(Step::Setup, &server, &error))?;
        Ok((described, over_udp))
    }

    /// The URL to ask: if its name has several addresses, with one that accepts connections, since retina waits for each of them
    /// in turn for as long as the kernel does.
    async fn reachable(&self) -> Result<Url, SourceError> {
        let (host, is_name) = self.address.host();
        if !is_name {
            return Ok(self.address.url.clone());
        }
        let unknown = |why: String| SourceError::Failed(format!("the name {host} cannot be resolved: {why}"));
        let found = match timeout(RESOLVE, lookup_host((host, self.address.port()))).await {
            Ok(found) => found.map_err(|error| unknown(resolver_says(&error)))?,
            Err(_) => return Err(unknown(format!("no answer from the name server within {} s", RESOLVE.as_secs()))),
        };
        let mut addresses: Vec<_> = found.collect();
        addresses.dedup();
        if addresses.len() == 1 {
            return Ok(self.address.url.clone());
        }
        let mut why = unknown("it has no address".into());
        for address in addresses {
            match timeout(CONNECT, TcpStream::connect(address)).await {
                Ok(Ok(_)) => {
                    let mut url = self.address.url.clone();
                    let literal = if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
                    return url.set_host(Some(&literal)).map(|()| url).map_err(|error| unknown(error.to_string()));
                }
                Ok(Err(error)) => why = fault::unreachable(&address.to_string(), &error),
                Err(_) => why = fault::silent(Step::Describe, &address.to_string(), CONNECT, false),
            }
        }
        Err(why)
    }

    /// Whether the camera takes connections at all: asked once it has not answered.
    async fn accepts(&self) -> bool {
        let (host, _) = self.address.host();
        matches!(timeout(CONNECT, TcpStream::connect((host, self.address.port()))).await, Ok(Ok(_)))
    }
}

fn resolver_says(error: &io::Error) -> String {
    let words = error.to_string();
    words.strip_prefix("failed to lookup address information: ").unwrap_or(&words).to_lowercase()
}

impl Playing {
    /// The next packet of the picture.
    ///
    /// # Errors
    /// The session has ended: retina's reason, or `None` if the camera closed the connection.
    pub async fn receive(&mut self) -> Result<Packet, Option<retina::Error>> {
        loop {
            let item = poll_fn(|context| Pin::new(&mut self.session).poll_next(context)).await;
            let PacketItem::Rtp(packet) = item.ok_or(None)?.map_err(Some)? else { continue };
            let header = packet.header();
            self.has_received = true;
            // Others within the same stream carry repairs.
            let announced = header.payload_type() == self.payload_type;
            self.as_announced |= announced;
            if announced || !self.as_announced {
                return Ok(Packet {
                    timestamp: header.timestamp(),
                    mark: header.mark(),
                    lost: packet.loss(),
                    received: packet.ctx().received(),
                    payload: packet.into_payload_bytes(),
                });
            }
        }
    }
}
