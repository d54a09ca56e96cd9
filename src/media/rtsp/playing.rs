//! One RTSP session that plays: packets of picture, sound and metadata, keepalives and the camera's own requests, in whatever order they come.
//! `opening` opens it. Called by the source.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{select, time::sleep_until};

use super::{
    conversation::{Conversation, Interleaved},
    fault::Fault,
    keepalive::{Due, Keepalive},
    message::{Message, Response},
    metadata::MetadataTrack,
    packet::{self, Rtp},
    reorder::{Ordered, ReorderBuffer},
    sound::SoundStream,
    way::Way,
};
use crate::media::{
    rtp::{Depayloader, Heard, Output, Packet},
    source::Hearing,
};

/// A source that has said BYE (RFC 3550, section 8.2) may go on under another number: so long.
const AFTER_BYE: Duration = Duration::from_secs(2);
/// Geovision's cameras send packets of this type, with numbers that others have, too.
const NO_PICTURE: u8 = 50;
/// So many datagrams are looked at before keepalives, and whoever waits for the next packet, have their turn.
const DATAGRAMS: u32 = 64;

/// A session that plays.
pub(super) struct Playing {
    conversation: Conversation,
    way: Way,
    early: std::vec::IntoIter<Interleaved>,
    keepalive: Keepalive,
    /// The keepalive under way has been sent again, for another login.
    repeated: bool,
    order: ReorderBuffer,
    /// How many packets are missing before the next one that is given.
    missing: u16,
    packet_at: Option<Instant>,
    bye_at: Option<Instant>,
    pub depayloader: Depayloader,
    pub sound: Option<SoundStream>,
    pub metadata: Option<MetadataTrack>,
    /// What becomes of the camera's sound.
    pub hearing: Hearing,
    payload_type: u8,
    /// Whether a packet of this payload type has come. Until then any other is taken for it: cameras err in their SDP.
    as_announced: bool,
    pub began: Instant,
}

/// A packet.
pub(super) enum Received {
    Picture(Packet),
    Sound(Packet),
}

/// What becomes of packets.
pub(super) enum Given {
    Picture(Output),
    Sound(Heard),
}

impl Playing {
    /// A session that the camera ends after `timeout` without a request.
    pub fn begin(mut conversation: Conversation, way: Way, timeout: Duration, payload_type: u8, depayloader: Depayloader) -> Self {
        let began = Instant::now();
        Self {
            order: way.order(),
            way,
            early: std::mem::take(&mut conversation.early).into_iter(),
            conversation,
            keepalive: Keepalive::new(timeout, began),
            repeated: false,
            missing: 0,
            packet_at: None,
            bye_at: None,
            depayloader,
            sound: None,
            metadata: None,
            hearing: Hearing::default(),
            payload_type,
            as_announced: false,
            began,
        }
    }

    /// Makes of a packet what can be made of it.
    pub fn take(&mut self, received: Received, out: &mut dyn FnMut(Given)) {
        match (received, &mut self.sound) {
            (Received::Picture(packet), _) => self.depayloader.push(packet, &mut |output| out(Given::Picture(output))),
            (Received::Sound(packet), Some(sound)) => {
                sound.depayloader.push(&packet, &self.depayloader, &mut |heard| out(Given::Sound(heard)));
            }
            (Received::Sound(_), None) => {}
        }
    }

    /// The next packet. May be dropped at any time.
    ///
    /// # Errors
    /// The session has ended.
    pub async fn receive(&mut self) -> Result<Received, Fault> {
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
            let wake = self.orders().filter_map(|order| order.due_at()).chain(ends).fold(due, Instant::min);
            let progressed = select! {
                progressed = self.conversation.connection()?.progress() => progressed,
                ready = self.way.readable() => ready.map_err(Fault::Broken),
                ready = heard(self.sound.as_ref()) => {
                    // Whatever becomes of sound, the picture goes on.
                    self.sound = self.sound.take().filter(|_| ready.is_ok());
                    Ok(())
                }
                ready = readable(self.metadata.as_ref()) => ready.map_err(Fault::Broken),
                () = sleep_until(wake.into()) => Ok(()),
            };
            self.conversation.kept(progressed)?;
        }
    }

    /// What puts the packets of each stream in order.
    fn orders(&mut self) -> impl Iterator<Item = &mut ReorderBuffer> {
        let (sound, metadata) = (self.sound.as_mut(), self.metadata.as_mut());
        [Some(&mut self.order), sound.map(|sound| &mut sound.order), metadata.map(|metadata| &mut metadata.order)].into_iter().flatten()
    }

    /// How many packets came after they had been given up, since this was last asked.
    pub fn take_late(&mut self) -> u64 {
        self.orders().map(ReorderBuffer::take_late).sum()
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
    fn buffered(&mut self) -> Result<Option<Received>, Fault> {
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
            if let Some(packet) = self.in_order() {
                return Ok(Some(Received::Picture(packet)));
            }
            let Way::Udp(udp) = &mut self.way else { break };
            let Some((packet, is_rtcp)) = udp.received().map_err(Fault::Broken)? else {
                self.order.expire(Instant::now());
                if let Some(packet) = self.in_order() {
                    return Ok(Some(Received::Picture(packet)));
                }
                break;
            };
            if is_rtcp {
                self.rtcp(&packet);
            } else if let Some(packet) = self.rtp(&packet, Instant::now()) {
                return Ok(Some(Received::Picture(packet)));
            }
        }
        Ok(self.heard())
    }

    /// The next packet of the picture whose turn has come.
    fn in_order(&mut self) -> Option<Packet> {
        loop {
            let next = self.order.next()?;
            if let Some(packet) = self.picture(next) {
                return Some(packet);
            }
        }
    }

    /// The next datagram of sound.
    fn heard(&mut self) -> Option<Received> {
        let sound = self.sound.as_mut()?;
        for _ in 0..DATAGRAMS {
            if let Some(packet) = sound.next() {
                return Some(Received::Sound(packet));
            }
            let Way::Udp(udp) = &mut sound.way else { break };
            let Ok(received) = udp.received() else {
                self.sound = None;
                break;
            };
            let Some((packet, is_rtcp)) = received else {
                sound.order.expire(Instant::now());
                return sound.next().map(Received::Sound);
            };
            if is_rtcp {
                sound.rtcp(&packet);
            } else if let Some(packet) = sound.rtp(&packet, Instant::now()) {
                return Some(Received::Sound(packet));
            }
        }
        None
    }

    /// Channels that were not agreed on belong to nobody, unless the camera sends the picture there and never where it said.
    fn interleaved(&mut self, channel: u8, packet: &Bytes, received: Instant) -> Option<Received> {
        if let Some(sound) = self.sound.as_mut().filter(|sound| sound.has(channel, packet)) {
            return sound.rtp(packet, received).map(Received::Sound);
        }
        let Way::Tcp { rtp, rtcp } = &mut self.way else { return None };
        let is_picture = || Rtp::read(packet).is_some_and(|rtp| rtp.payload_type == self.payload_type);
        if !(channel == *rtp && is_picture()) && self.metadata.as_mut().is_some_and(|metadata| metadata.takes(channel, packet)) {
            return None;
        }
        if channel != *rtp && self.packet_at.is_none() && is_picture() {
            (*rtp, *rtcp) = (channel, channel.checked_add(1));
        }
        if channel == *rtp {
            return self.rtp(packet, received).map(Received::Picture);
        }
        if Some(channel) == *rtcp {
            self.rtcp(packet);
        } else if let Some(sound) = self.sound.as_mut().filter(|sound| sound.reports_on(channel)) {
            sound.rtcp(packet);
        }
        None
    }

    fn rtp(&mut self, packet: &Bytes, received: Instant) -> Option<Packet> {
        // Sequence numbers tell whether one that cannot be read was a part of the stream.
        let rtp = Rtp::read(packet)?;
        if rtp.payload_type == NO_PICTURE && self.payload_type != NO_PICTURE {
            return None;
        }
        let next = self.order.push(rtp, received)?;
        self.picture(next)
    }

    fn picture(&mut self, Ordered { rtp, received, missing }: Ordered) -> Option<Packet> {
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
        if self.bye_at.is_none() && self.order.source().is_some_and(|source| packet::says_bye(packet, source)) {
            self.bye_at = Some(Instant::now());
        }
        let report = self.order.source().and_then(|source| packet::sender_report(packet, source));
        if let (Some(report), Some(sound)) = (report, &mut self.sound) {
            sound.depayloader.picture_reported(report);
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
        self.way.report();
        self.sound.iter().for_each(|sound| sound.way.report());
        self.metadata.iter().for_each(|metadata| metadata.way.report());
        Ok(())
    }
}

/// Waits until a datagram of sound may have come. May be dropped at any time.
async fn heard(sound: Option<&SoundStream>) -> io::Result<()> {
    match sound {
        Some(sound) => sound.way.readable().await,
        None => std::future::pending().await,
    }
}

/// Waits until a datagram of metadata may have come. May be dropped at any time.
async fn readable(metadata: Option<&MetadataTrack>) -> io::Result<()> {
    match metadata {
        Some(metadata) => metadata.way.readable().await,
        None => std::future::pending().await,
    }
}
