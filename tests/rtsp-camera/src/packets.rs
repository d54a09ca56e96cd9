//! RTP: an access unit into payloads (RFC 6184, RFC 7798), headers, sender reports, and the malformed packets that a
//! faulty camera sends between good ones.

use crate::{
    annexb::{Codec, Kind},
    options::{Marker, Options},
};

/// Payload type of the video.
pub(crate) const VIDEO: u8 = 96;
/// That of AAC.
pub(crate) const AAC: u8 = 97;

/// A payload, and whether its packet carries the marker bit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Payload {
    pub bytes: Vec<u8>,
    pub marker: bool,
}

/// Divides the NAL units of one access unit.
pub(crate) fn payloads(options: &Options, nals: &[&[u8]]) -> Vec<Payload> {
    let codec = options.codec;
    let mut payloads: Vec<Payload> = Vec::new();
    let mut rest = nals;
    while let Some((nal, after)) = rest.split_first() {
        let together = if options.aggregate { fitting(rest, options.mtu) } else { 1 };
        let from = payloads.len();
        if together > 1 {
            payloads.push(Payload { bytes: aggregate(codec, &rest[..together]), marker: false });
            rest = &rest[together..];
        } else {
            fragment(options, nal, &mut payloads);
            rest = after;
        }
        let of_kind = |kind| codec.kind(nal) == kind && together == 1;
        let marked = match options.marker {
            Marker::EachNal => true,
            Marker::Sei => of_kind(Kind::Sei),
            Marker::ParameterSets => of_kind(Kind::ParameterSet),
            _ => false,
        };
        payloads[from..].last_mut().expect("each NAL unit makes a payload").marker = marked;
    }
    let count = payloads.len();
    for (index, payload) in payloads.iter_mut().enumerate() {
        payload.marker = match options.marker {
            Marker::Never => false,
            Marker::EachPacket => true,
            Marker::First => index == 0,
            Marker::Normal | Marker::EachNal | Marker::Sei | Marker::ParameterSets => payload.marker || index + 1 == count,
        };
    }
    payloads
}

/// How many NAL units from the first on fit together into one packet.
fn fitting(nals: &[&[u8]], mtu: usize) -> usize {
    let mut size = 2;
    let fits = nals.iter().take_while(|nal| {
        size += 2 + nal.len();
        size <= mtu
    });
    fits.count().max(1)
}

/// STAP-A (RFC 6184 section 5.7.1) or AP (RFC 7798, *Aggregation Packets*).
fn aggregate(codec: Codec, nals: &[&[u8]]) -> Vec<u8> {
    let mut bytes = match codec {
        Codec::H264 => vec![nals.iter().map(|nal| nal[0] & 0x60).max().unwrap_or_default() | 24],
        Codec::H265 => vec![48 << 1, 1],
    };
    for nal in nals {
        bytes.extend_from_slice(&u16::try_from(nal.len()).expect("a fitting NAL unit is shorter than a packet").to_be_bytes());
        bytes.extend_from_slice(nal);
    }
    bytes
}

/// A single NAL unit packet, or FU-A (RFC 6184 section 5.8), or FU (RFC 7798, *Fragmentation Units*).
fn fragment(options: &Options, nal: &[u8], payloads: &mut Vec<Payload>) {
    if nal.len() <= options.mtu && !options.single_fragments {
        payloads.push(Payload { bytes: nal.to_vec(), marker: false });
        return;
    }
    let codec = options.codec;
    let kind = codec.nal_type(nal);
    let indicator = match codec {
        Codec::H264 => vec![nal[0] & 0xe0 | 28],
        Codec::H265 => vec![nal[0] & 0x81 | 49 << 1, nal[1]],
    };
    let pieces = nal[codec.header_len()..].chunks(options.mtu - indicator.len() - 1);
    let last = pieces.len() - 1;
    for (index, piece) in pieces.enumerate() {
        let (start, end) = (u8::from(index == 0) << 7, u8::from(index == last) << 6);
        payloads.push(Payload { bytes: [&indicator[..], &[start | end | kind], piece].concat(), marker: false });
    }
}

/// An RTP packet (RFC 3550 section 5.1).
pub(crate) fn rtp(payload_type: u8, marker: bool, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, u8::from(marker) << 7 | payload_type];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&timestamp.to_be_bytes());
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// The packets of the `n`th ONVIF document, which says whether something moves.
pub(crate) fn metadata(n: u32, moves: bool, ssrc: u32) -> [Vec<u8>; 2] {
    let operation = if n == 0 { "Initialized" } else { "Changed" };
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<tt:MetadataStream xmlns:tt=\"http://www.onvif.org/ver10/schema\" \
         xmlns:wsnt=\"http://docs.oasis-open.org/wsn/b-2\" xmlns:tns1=\"http://www.onvif.org/ver10/topics\"><tt:Event>\
         <wsnt:NotificationMessage><wsnt:Topic Dialect=\"http://www.onvif.org/ver10/tev/topicExpression/ConcreteSet\">\
         tns1:RuleEngine/CellMotionDetector/Motion</wsnt:Topic><wsnt:Message>\
         <tt:Message UtcTime=\"2026-12-01T00:00:00Z\" PropertyOperation=\"{operation}\"><tt:Source>\
         <tt:SimpleItem Name=\"Rule\" Value=\"MyMotionDetectorRule\"/></tt:Source><tt:Data>\
         <tt:SimpleItem Name=\"IsMotion\" Value=\"{moves}\"/></tt:Data></tt:Message></wsnt:Message>\
         </wsnt:NotificationMessage></tt:Event></tt:MetadataStream>\n"
    );
    let halves = document.as_bytes().split_at(document.len() / 2);
    [(false, halves.0), (true, halves.1)].map(|(last, half)| {
        let sequence = (n as u16).wrapping_mul(2).wrapping_add(u16::from(last));
        rtp(107, last, sequence, n.wrapping_mul(90_000), ssrc, half)
    })
}

/// An RTCP sender report (RFC 3550 section 6.4.1) with an SDES CNAME. `ntp` counts 1/2³² seconds since 1900.
pub(crate) fn sender_report(ssrc: u32, ntp: u64, timestamp: u32, packets: u32, octets: u32) -> Vec<u8> {
    let mut packet = vec![0x80, 200, 0, 6];
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&ntp.to_be_bytes());
    for word in [timestamp, packets, octets] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(&[0x81, 202, 0, 3]);
    packet.extend_from_slice(&ssrc.to_be_bytes());
    packet.extend_from_slice(&[1, 3, b'c', b'a', b'm', 0, 0, 0]);
    packet
}

/// An RTCP BYE (RFC 3550 section 6.6) behind an empty receiver report.
pub(crate) fn bye(ssrc: u32) -> Vec<u8> {
    let ssrc = ssrc.to_be_bytes();
    [&[0x80, 201, 0, 1][..], &ssrc, &[0x81, 203, 0, 1], &ssrc].concat()
}

/// Number of kinds of [`malformed`] packets.
pub(crate) const MALFORMED: u32 = 10;

/// A malformed packet of this kind; the kinds repeat. `sequence` is its place in the stream, if it has a header that
/// can be read: the stream goes on with the next number then, as the second value says.
pub(crate) fn malformed(kind: u32, codec: Codec, sequence: u16, timestamp: u32, ssrc: u32) -> (Vec<u8>, bool) {
    let good = |payload: &[u8]| rtp(VIDEO, false, sequence, timestamp, ssrc, payload);
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good(&[0x0c, 1, 2, 3]);
        change(&mut packet);
        packet
    };
    // The type of a NAL unit that no codec assigns, a fragmentation unit, an aggregation packet.
    let (reserved, fragment, aggregate) = match codec {
        Codec::H264 => (vec![0x1f, 1, 2, 3], vec![28], vec![24]),
        Codec::H265 => (vec![63 << 1, 1, 2, 3], vec![49 << 1, 1], vec![48 << 1, 1]),
    };
    match kind % MALFORMED {
        // Without a header.
        0 => (vec![0x80, VIDEO], false),
        // Of version 0.
        1 => (with(&|packet| packet[0] = 0), false),
        // Fifteen contributing sources that are not there.
        2 => (with(&|packet| packet[0] |= 0x0f), false),
        // More padding than payload, under the number of the packet that follows.
        3 => (
            with(&|packet| {
                packet[0] |= 0x20;
                packet.push(200);
            }),
            false,
        ),
        // A header extension that ends behind the packet.
        4 => (
            with(&|packet| {
                packet[0] |= 0x10;
                packet[14..16].copy_from_slice(&[0xff, 0xff]);
            }),
            false,
        ),
        // Another payload type than the SDP's.
        5 => (with(&|packet| packet[1] = 13), true),
        // Empty.
        6 => (good(&[]), true),
        7 => (good(&reserved), true),
        // A fragmentation unit without a fragment.
        8 => (good(&fragment), true),
        // An aggregation packet whose NAL unit is longer than the packet.
        _ => (good(&[&aggregate[..], &[0xff, 0xff, 1, 2]].concat()), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut Options)) -> Options {
        let mut options = Options::new("", Codec::H264);
        change(&mut options);
        options
    }

    fn markers(marker: Marker) -> Vec<bool> {
        let large = [&[0x65][..], &[7; 3000]].concat();
        let nals: [&[u8]; 4] = [&[0x67, 1], &[0x68, 1], &[0x06, 5, 0x80], &large];
        payloads(&options(|options| options.marker = marker), &nals).iter().map(|payload| payload.marker).collect()
    }

    #[test]
    fn markers_are_where_the_options_say() {
        let (no, yes) = (false, true);
        assert_eq!(markers(Marker::Normal), [no, no, no, no, no, yes]);
        assert_eq!(markers(Marker::Never), [no; 6]);
        assert_eq!(markers(Marker::EachPacket), [yes; 6]);
        assert_eq!(markers(Marker::EachNal), [yes, yes, yes, no, no, yes]);
        assert_eq!(markers(Marker::First), [yes, no, no, no, no, no]);
        assert_eq!(markers(Marker::Sei), [no, no, yes, no, no, yes]);
        assert_eq!(markers(Marker::ParameterSets), [yes, yes, no, no, no, yes]);
    }

    #[test]
    fn fragments_make_up_the_nal_unit() {
        let nal: Vec<u8> = (0..3000_u32).map(|byte| if byte == 0 { 0x65 } else { byte as u8 }).collect();
        let fragments = payloads(&options(|_| ()), &[&nal]);
        let headers: Vec<_> = fragments.iter().map(|fragment| fragment.bytes[..2].to_vec()).collect();
        assert_eq!(headers, [[0x7c, 0x85], [0x7c, 0x05], [0x7c, 0x45]]);
        assert_eq!([&[0x65][..], &fragments.iter().flat_map(|f| f.bytes[2..].to_vec()).collect::<Vec<_>>()].concat(), nal);
        assert!(fragments.iter().all(|fragment| fragment.bytes.len() <= 1400));
        let single = payloads(&options(|options| options.single_fragments = true), &[&[0x41, 9, 9]]);
        assert_eq!(single, [Payload { bytes: vec![0x5c, 0xc1, 9, 9], marker: true }]);
    }

    #[test]
    fn small_nal_units_are_aggregated() {
        let nals: [&[u8]; 3] = [&[0x67, 1], &[0x68, 1], &[0x65; 1400]];
        let packets = payloads(&options(|options| options.aggregate = true), &nals);
        assert_eq!(packets.len(), 2);
        assert_eq!(packets[0].bytes, [0x78, 0, 2, 0x67, 1, 0, 2, 0x68, 1]);
    }
}
