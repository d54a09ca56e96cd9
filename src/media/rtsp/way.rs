//! How the packets of one stream come: the channels or ports that SETUP agrees on. Called by `playing` and `sound`.

use std::{future::pending, io, time::Duration};

use url::Url;

use super::{
    conversation::Conversation,
    fault::Fault,
    reorder::ReorderBuffer,
    setup::{SessionHeader, Transport},
    udp::Udp,
};

/// How packets come.
pub(super) enum Way {
    Tcp { rtp: u8, rtcp: Option<u8> },
    Udp(Udp),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asked {
    /// RTP on this channel of the connection, and RTCP on the next.
    Channel(u8),
    /// Two ports.
    Ports,
}

impl Way {
    /// Waits until a datagram may have come. May be dropped at any time.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Udp(udp) => udp.readable().await,
            Self::Tcp { .. } => pending().await,
        }
    }

    /// What puts the packets in order that come this way.
    pub fn order(&self) -> ReorderBuffer {
        match self {
            Self::Udp(_) => ReorderBuffer::over_udp(),
            Self::Tcp { .. } => ReorderBuffer::in_order(),
        }
    }

    /// Tells the camera, and firewalls between, that packets are still received.
    pub fn report(&self) {
        if let Self::Udp(udp) = self {
            udp.report();
        }
    }
}

/// Sets a stream up, and gives the way its packets take and the session's timeout.
///
/// # Errors
/// What the camera answered, or why there is no answer.
pub(super) async fn agree(conversation: &mut Conversation, url: &Url, asked: Asked) -> Result<(Way, Duration), Fault> {
    let (udp, transport) = match asked {
        Asked::Channel(rtp) => (None, format!("RTP/AVP/TCP;unicast;interleaved={rtp}-{}", rtp.saturating_add(1))),
        Asked::Ports => {
            let (ours, camera) = conversation.connection()?.addresses().map_err(Fault::Broken)?;
            let udp = Udp::bind(ours.ip(), camera.ip()).map_err(Fault::NoPorts)?;
            let transport = format!("RTP/AVP/UDP;unicast;client_port={}", udp.ports());
            (Some(udp), transport)
        }
    };
    let answer = conversation.request("SETUP", url, &[("Transport", &transport)]).await?;
    let session = SessionHeader::read(answer.headers.get("Session").unwrap_or_default());
    conversation.is_in(session.id);
    // A camera that names no transport takes the one asked for.
    let named = answer.headers.get("Transport").map(Transport::read);
    let tcp = named.as_ref().map_or(udp.is_none(), |named| named.tcp);
    let way = match (udp, asked) {
        (None, Asked::Channel(first)) if tcp => {
            let (rtp, rtcp) = named.and_then(|named| named.channels).unwrap_or((first, first.checked_add(1)));
            Way::Tcp { rtp, rtcp }
        }
        (Some(mut udp), _) if !tcp => {
            let Transport { source, server_ports, .. } = named.unwrap_or_default();
            udp.agree(source, server_ports);
            Way::Udp(udp)
        }
        _ => return Err(Fault::OtherTransport),
    };
    Ok((way, session.timeout))
}
