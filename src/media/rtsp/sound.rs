//! The stream of sound beside the picture: set up after it if the camera offers AAC, or samples that can be encoded, and left out if
//! the camera refuses. It has no say in whether the session goes on. Called by `playing`.

use std::time::Instant;

use bytes::Bytes;

use super::{
    packet::{self, Rtp},
    reorder::{Ordered, ReorderBuffer},
    sound_offer::Offered,
    way::Way,
};
use crate::media::rtp::{Packet, SoundDepayloader};

/// Sound that is set up.
pub(super) struct SoundStream {
    pub way: Way,
    pub depayloader: SoundDepayloader,
    payload_type: u8,
    pub order: ReorderBuffer,
}

impl SoundStream {
    pub fn new(offer: &Offered, way: Way) -> Self {
        let depayloader = SoundDepayloader::new(&offer.coding, offer.clock_rate);
        Self { order: way.order(), way, depayloader, payload_type: offer.payload_type }
    }

    /// Whether an interleaved packet is one of sound. Cameras that send the picture on this channel have the picture's type there.
    pub fn has(&self, channel: u8, packet: &Bytes) -> bool {
        let Way::Tcp { rtp, .. } = self.way else { return false };
        channel == rtp && Rtp::read(packet).is_some_and(|rtp| rtp.payload_type == self.payload_type)
    }

    /// Whether RTCP comes on this channel.
    pub fn reports_on(&self, channel: u8) -> bool {
        matches!(self.way, Way::Tcp { rtcp: Some(rtcp), .. } if rtcp == channel)
    }

    /// Takes a packet, and gives the next one to make sound of, if its turn has come.
    pub fn rtp(&mut self, packet: &Bytes, received: Instant) -> Option<Packet> {
        let rtp = Rtp::read(packet).filter(|rtp| rtp.payload_type == self.payload_type)?;
        self.order.push(rtp, received).map(packet_of)
    }

    /// The next packet to make sound of whose turn has come.
    pub fn next(&mut self) -> Option<Packet> {
        self.order.next().map(packet_of)
    }

    pub fn rtcp(&mut self, packet: &[u8]) {
        if let Some(report) = self.order.source().and_then(|source| packet::sender_report(packet, source)) {
            self.depayloader.sound_reported(report);
        }
    }
}

fn packet_of(Ordered { rtp, received, missing }: Ordered) -> Packet {
    Packet { timestamp: rtp.timestamp, mark: rtp.mark, lost: missing, received, payload: rtp.payload }
}
