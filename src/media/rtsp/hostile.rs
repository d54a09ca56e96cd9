//! The fuzz target `rtsp`: whatever a camera may send, in pieces whose size the first byte chooses. Each message goes where it would
//! go in a session: descriptions to the choice of a stream, headers to login and SETUP, packets to RTP and RTCP.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use url::Url;

use super::{
    control,
    keepalive::{Due, Keepalive},
    login,
    message::{LONGEST_BODY, LONGEST_HEAD, Message, Reader, Response},
    offer,
    packet::{self, Rtp},
    reorder::ReorderBuffer,
    sdp::Description,
    setup::{SessionHeader, Transport},
    sound_offer::{self, SoundOffer},
};
use crate::fuzzing::Verdict;

/// The smallest pieces, bytes.
const PIECE: usize = 64;

/// Accepted: a camera described a stream that can be filmed.
pub(crate) fn messages(input: &[u8]) -> Verdict {
    let Some((&first, rest)) = input.split_first() else { return Verdict::Refused };
    let (mut reader, mut bytes) = (Reader::default(), BytesMut::new());
    let mut seen = Seen { now: Instant::now(), order: ReorderBuffer::over_udp(), filmed: false };
    let mut keepalive = Keepalive::new(Duration::from_secs(u64::from(first)), seen.now);
    for piece in rest.chunks(PIECE * (1 + usize::from(first))) {
        bytes.extend_from_slice(piece);
        loop {
            match reader.next(&mut bytes) {
                Ok(Some(message)) => seen.take(message, &mut keepalive),
                Ok(None) => break,
                Err(_) => return Verdict::of(seen.filmed),
            }
        }
        assert!(bytes.len() <= LONGEST_HEAD + LONGEST_BODY, "{} bytes are kept", bytes.len());
    }
    Verdict::of(seen.filmed)
}

struct Seen {
    now: Instant,
    order: ReorderBuffer,
    filmed: bool,
}

impl Seen {
    fn take(&mut self, message: Message, keepalive: &mut Keepalive) {
        match message {
            Message::Response(response) => self.response(&response, keepalive),
            Message::Request(request) => assert!(!request.method.is_empty()),
            Message::Data { packet, .. } => {
                if let Some(rtp) = Rtp::read(&packet) {
                    assert!(rtp.payload.len() <= packet.len());
                    let mut next = self.order.push(rtp, self.now);
                    while next.is_some() {
                        next = self.order.next();
                    }
                }
                packet::says_bye(&packet, 7);
                packet::sender_report(&packet, 7);
            }
        }
    }

    fn response(&mut self, response: &Response, keepalive: &mut Keepalive) {
        if let Some(challenge) = response.headers.get("WWW-Authenticate") {
            login::answered(challenge).iter().for_each(|answer| assert_one_line(answer));
        }
        let session = SessionHeader::read(response.headers.get("Session").unwrap_or_default());
        session.id.iter().for_each(|id| assert_one_line(id));
        Transport::read(response.headers.get("Transport").unwrap_or_default());
        self.now += session.timeout.min(Duration::from_secs(3600));
        if keepalive.due(self.now, Some(self.now)) != Due::GiveUp {
            keepalive.answered(response);
        }
        let requested = Url::parse("rtsp://camera/live").expect("an address");
        let base = control::base(&requested, &response.headers);
        let sdp = String::from_utf8_lossy(&response.body);
        let description = Description::read(&sdp);
        let sound = match sound_offer::choose(&description) {
            SoundOffer::Stream(offered) => Some(offered.control),
            SoundOffer::LeftOut(name) => {
                assert_one_line(&name);
                None
            }
            SoundOffer::Nothing => None,
        };
        for control in
            description.control().map(str::to_owned).into_iter().chain(sound).chain(offer::choose(&description).ok().and_then(|offer| {
                self.filmed = true;
                offer.control
            }))
        {
            let url = control::joined(&base, &control);
            assert!(url.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{url} does not fit into a request");
        }
    }
}

/// Nothing of the camera's may add a line to a request.
fn assert_one_line(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
