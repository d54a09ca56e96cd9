//! The ONVIF metadata of a session: a second stream beside the picture, set up only where somebody wants it. Whatever becomes of it,
//! the picture comes first: a camera that does not want to send it is filmed without, and the sink learns why. What the documents say
//! is `media::motion::onvif`'s matter. Called by `opening`, `playing` and the source.

mod assembly;
mod offer;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::time::timeout;
use url::Url;

use self::assembly::Assembly;
pub(super) use self::offer::choose;
use super::{
    control,
    conversation::Conversation,
    fault::{self, Fault, Step},
    packet::Rtp,
    reorder::{Ordered, ReorderBuffer},
    sdp::Description,
    way::{Asked, Way, agree},
};
use crate::media::{
    motion::onvif::{Blind, MetadataSink},
    source::SourceError,
};

/// How long a camera may take for this SETUP. It delays the picture.
const SETUP: Duration = Duration::from_secs(5);
/// The channel asked for, if the camera sends within the connection. The picture has 0 and 1, sound the next two.
const CHANNEL: u8 = 4;
/// So many datagrams are looked at before the picture has its turn.
const DATAGRAMS: u32 = 16;

/// Who wants the metadata of a session that is being opened.
pub(super) struct MetadataRequest {
    sink: MetadataSink,
    /// It has been asked for, and the session does not play yet: what fails meanwhile may fail because of it.
    pending: Cell<bool>,
}

impl MetadataRequest {
    pub fn by(sink: MetadataSink) -> Self {
        Self { sink, pending: Cell::new(false) }
    }

    /// Sets the stream up, by the way that the picture takes. `None`: the camera does not send it, and the sink knows why.
    ///
    /// # Errors
    /// The conversation has ended.
    pub async fn set_up(
        &self,
        conversation: &mut Conversation,
        (description, all): (&Description<'_>, &Url),
        picture: &Way,
        server: &str,
    ) -> Result<Option<MetadataTrack>, SourceError> {
        let offer = match choose(description) {
            Ok(offer) => offer,
            Err(why) => {
                self.sink.blind(why);
                return Ok(None);
            }
        };
        let url = offer.control.map_or_else(|| all.clone(), |control| control::joined(&conversation.base, &control));
        self.pending.set(true);
        let asked = if matches!(picture, Way::Udp(_)) { Asked::Ports } else { Asked::Channel(CHANNEL) };
        let agreed = match timeout(SETUP, agree(conversation, &url, asked)).await {
            Ok(Ok((way, _))) => way,
            Ok(Err(fault @ (Fault::Status(..) | Fault::Moved(..) | Fault::OtherTransport | Fault::NoPorts(_) | Fault::Login(_)))) => {
                self.pending.set(false);
                self.sink.blind(Blind::Refused(fault::told(Step::Setup, server, &fault).to_string()));
                return Ok(None);
            }
            Ok(Err(fault)) => return Err(fault::told(Step::Setup, server, &fault)),
            Err(_) => return Err(fault::silent(Step::Setup, server, SETUP)),
        };
        Ok(Some(MetadataTrack {
            order: agreed.order(),
            way: agreed,
            payload_type: offer.payload_type,
            assembly: Assembly::default(),
            sink: self.sink.clone(),
        }))
    }

    /// The session plays.
    pub fn plays(&self, track: Option<&MetadataTrack>) {
        self.pending.set(false);
        if track.is_some() {
            self.sink.begun();
        }
    }

    /// Whether a session that could not be opened may have failed because of the metadata.
    pub fn may_have_failed(&self) -> bool {
        self.pending.get()
    }

    /// The session could be opened only without the metadata; this is how it failed with it.
    pub fn harms(&self, how: &SourceError) {
        self.sink.blind(Blind::Harmful(how.to_string()));
    }
}

/// The stream, once it is set up.
pub(super) struct MetadataTrack {
    pub way: Way,
    pub order: ReorderBuffer,
    payload_type: u8,
    assembly: Assembly,
    sink: MetadataSink,
}

impl MetadataTrack {
    /// Takes an interleaved packet if it is the stream's. The channel alone does not tell: a camera may give one to all.
    pub fn takes(&mut self, channel: u8, packet: &Bytes) -> bool {
        let ours = matches!(self.way, Way::Tcp { rtp, .. } if rtp == channel);
        let packet = Rtp::read(packet).filter(|packet| ours && packet.payload_type == self.payload_type);
        packet.map(|packet| self.packet(packet, Instant::now())).is_some()
    }

    /// Takes the datagrams that have come.
    ///
    /// # Errors
    /// The socket has failed.
    pub fn receive(&mut self) -> Result<(), Fault> {
        for _ in 0..DATAGRAMS {
            let Way::Udp(udp) = &mut self.way else { break };
            let Some((packet, is_rtcp)) = udp.received().map_err(Fault::Broken)? else {
                self.order.expire(Instant::now());
                self.in_order(None);
                break;
            };
            if let Some(packet) = Rtp::read(&packet).filter(|_| !is_rtcp) {
                self.packet(packet, Instant::now());
            }
        }
        Ok(())
    }

    fn packet(&mut self, packet: Rtp, received: Instant) {
        let next = self.order.push(packet, received);
        self.in_order(next);
    }

    /// Takes this packet and all whose turn has come.
    fn in_order(&mut self, first: Option<Ordered>) {
        let mut next = first.or_else(|| self.order.next());
        while let Some(Ordered { rtp, missing, .. }) = next {
            self.complete(&rtp, missing);
            next = self.order.next();
        }
    }

    fn complete(&mut self, packet: &Rtp, missing: u16) {
        let completed = self.assembly.take(packet, missing);
        if completed.lost {
            self.sink.lost();
        }
        if let Some(document) = completed.document {
            self.sink.document(document);
        }
    }
}
