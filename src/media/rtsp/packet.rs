//! RTP and RTCP packets (RFC 3550) as far as a receiver of one picture and its sound needs them: the header of an RTP packet, what a
//! sender reports, the end of a source, and the report that a receiver owes. Pure; the fuzz target `rtsp` feeds it. Called by `playing`.

use bytes::Bytes;

use crate::media::rtp::Report;

/// RTCP packet types.
const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const BYE: u8 = 203;

/// An RTP packet.
#[derive(Debug)]
pub(super) struct Rtp {
    pub payload_type: u8,
    pub mark: bool,
    pub sequence: u16,
    pub timestamp: u32,
    /// The source (SSRC).
    pub source: u32,
    /// Without padding.
    pub payload: Bytes,
}

impl Rtp {
    /// Reads a packet (RFC 3550, section 5.1). `None`: it is none.
    pub fn read(packet: &Bytes) -> Option<Self> {
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3, ..] = packet[..] else { return None };
        if first >> 6 != 2 {
            return None;
        }
        // Contributing sources, then an extension.
        let mut start = 12 + 4 * usize::from(first & 15);
        if first & 0x10 != 0 {
            let [_, _, high, low] = packet.get(start..start + 4)? else { return None };
            start += 4 + 4 * usize::from(u16::from_be_bytes([*high, *low]));
        }
        let length = packet.len().checked_sub(start)?;
        // Some cameras set the bit and add no padding: a length of none, or of more than there is, is no padding's.
        let padding = packet.last().filter(|_| first & 0x20 != 0).map_or(0, |&padding| usize::from(padding));
        let end = packet.len() - if padding > length { 0 } else { padding };
        Some(Self {
            payload_type: second & 0x7F,
            mark: second & 0x80 != 0,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            source: u32::from_be_bytes([c0, c1, c2, c3]),
            payload: packet.get(start..end).map(|payload| packet.slice_ref(payload))?,
        })
    }
}

/// The parts of an RTCP packet: type, count and content.
fn parts(mut packet: &[u8]) -> impl Iterator<Item = (u8, u8, &[u8])> {
    std::iter::from_fn(move || {
        let [first, kind, high, low, rest @ ..] = packet else { return None };
        let (body, after) = rest.split_at_checked(4 * usize::from(u16::from_be_bytes([*high, *low])))?;
        packet = after;
        Some((*kind, first & 31, body))
    })
}

/// Whether an RTCP packet says that this source ends (RFC 3550, section 6.6).
pub(super) fn says_bye(packet: &[u8], source: u32) -> bool {
    let named = |count: u8, body: &[u8]| body.chunks_exact(4).take(count.into()).any(|bytes| bytes == source.to_be_bytes());
    parts(packet).any(|(kind, count, body)| kind == BYE && named(count, body))
}

/// What an RTCP packet says of this source's times (RFC 3550, section 6.4.1). `None` also from a camera that has no clock.
pub(super) fn sender_report(packet: &[u8], source: u32) -> Option<Report> {
    let (_, _, body) = parts(packet).find(|(kind, _, body)| *kind == SENDER_REPORT && body.starts_with(&source.to_be_bytes()))?;
    let ntp = u64::from_be_bytes(*body.get(4..12)?.first_chunk()?);
    let rtp = u32::from_be_bytes(*body.get(12..16)?.first_chunk()?);
    (ntp != 0).then_some(Report { ntp, rtp })
}

/// A report without figures, and a name (RFC 3550, sections 6.4.2 and 6.5): a sign of life over UDP, to the camera and to firewalls.
pub(super) fn receiver_report(ours: u32) -> Vec<u8> {
    const NAME: &[u8; 4] = b"care";
    let mut report = vec![0x80, RECEIVER_REPORT, 0, 1];
    report.extend_from_slice(&ours.to_be_bytes());
    report.extend_from_slice(&[0x81, SOURCE_DESCRIPTION, 0, 3]);
    report.extend_from_slice(&ours.to_be_bytes());
    // The canonical name, and the end of the list.
    report.extend_from_slice(&[1, 4]);
    report.extend_from_slice(NAME);
    report.extend_from_slice(&[0, 0]);
    report
}

/// An RTP packet without a payload, which opens a firewall's way back.
pub(super) fn opening(ours: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 0, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(&ours.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A packet with this first byte, and what follows the twelve bytes of the header.
    fn packet(first: u8, rest: &[u8]) -> Bytes {
        [&[first, 0x80 | 96, 0, 7, 0, 0, 0, 9, 1, 2, 3, 4][..], rest].concat().into()
    }

    #[test]
    fn a_header_is_read_with_all_that_may_follow_it() {
        let plain = Rtp::read(&packet(0x80, b"abc")).unwrap();
        assert_eq!((plain.payload_type, plain.mark, plain.sequence, plain.timestamp, plain.source), (96, true, 7, 9, 0x0102_0304));
        for (first, rest, payload) in [
            (0x80, &b"abc"[..], &b"abc"[..]),
            (0x80, b"", b""),
            (0x82, b"........abc", b"abc"),
            (0x90, &[1, 2, 0, 1, 0, 0, 0, 0, b'a'], b"a"),
            (0xA0, &[b'a', 0, 2], b"a"),
            (0xB1, &[0, 0, 0, 0, 1, 2, 0, 0, b'a', 1], b"a"),
            // The bit without padding.
            (0xA0, b"a\0", b"a\0"),
            (0xA0, b"abc", b"abc"),
            (0xB0, &[1, 2, 0, 0, b'a', 9], &[b'a', 9]),
            (0xA0, b"", b""),
        ] {
            assert_eq!(&Rtp::read(&packet(first, rest)).unwrap().payload[..], payload, "{first:x} {rest:?}");
        }
    }

    #[test]
    fn what_is_no_packet_is_none() {
        for (first, rest) in [(0, &b"abc"[..]), (0xC0, b""), (0x8F, b"abc"), (0xA1, b"abc"), (0x90, &[0, 0, 0xFF, 0xFF])] {
            assert!(Rtp::read(&packet(first, rest)).is_none(), "{first:x} {rest:?}");
        }
        assert!(Rtp::read(&Bytes::from_static(&[0x80, 96])).is_none());
        assert!(Rtp::read(&opening(7).into()).is_some_and(|opening| opening.payload.is_empty()));
    }

    #[test]
    fn the_end_of_a_source_is_found_behind_other_packets() {
        let report = receiver_report(5);
        let bye = [&report[..], &[0x82, BYE, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7]].concat();
        assert!(says_bye(&bye, 7) && says_bye(&bye, 1) && !says_bye(&bye, 5));
        assert!(!says_bye(&report, 5));
        assert!(!says_bye(&[0x81, BYE, 0, 9, 0, 0, 0, 7], 7), "cut short");
        assert_eq!(report.len() % 4, 0);
    }

    #[test]
    fn a_sender_report_is_found_and_one_without_a_time_is_none() {
        let report = |ntp: u64| {
            let times = [&ntp.to_be_bytes()[..], &9_u32.to_be_bytes(), &[0; 8]].concat();
            [&receiver_report(5)[..], &[0x80, SENDER_REPORT, 0, 6, 0, 0, 0, 7], &times].concat()
        };
        assert_eq!(sender_report(&report(1 << 40), 7), Some(Report { ntp: 1 << 40, rtp: 9 }));
        assert_eq!(sender_report(&report(1 << 40), 5), None, "another source");
        assert_eq!(sender_report(&report(0), 7), None);
        assert_eq!(sender_report(&[0x80, SENDER_REPORT, 0, 2, 0, 0, 0, 7, 1, 2, 3, 4], 7), None, "cut short");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), source in any::<u32>()) {
            let _ = (Rtp::read(&bytes.clone().into()), says_bye(&bytes, source), sender_report(&bytes, source));
        }
    }
}
