//! NAL units out of RTP payloads: RFC 6184 (single NAL unit, STAP, FU) and RFC 7798 (single NAL unit, AP, FU). Decoding order
//! numbers (STAP-B, FU-B, DONL) are passed over: NAL units are taken in the order in which they come. MTAP counts as malformed.

use super::{LARGEST, access_unit::At, annex_b};
use crate::media::frame::Codec;

/// Why a payload is not used, or not whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Malformed,
    /// Fragments of a NAL unit whose beginning has not come.
    Headless,
    TooLarge,
}

/// Puts fragments together.
pub(super) struct Payload {
    codec: Codec,
    /// Whether decoding order numbers come with H.265.
    numbered: bool,
    /// The NAL unit of which fragments have come, and when the first came.
    fragments: Option<(Vec<u8>, At)>,
}

/// A payload's structure.
enum Kind {
    Single,
    /// Behind a payload header of this length; before each length but the first, a number of so many bytes.
    Aggregate(usize, usize),
    /// One of H.265, with a number behind its header.
    Numbered,
    /// One fragment: the NAL unit's header, where the fragment begins.
    Fragment {
        header: [u8; 2],
        header_length: usize,
        start: bool,
        end: bool,
        at: usize,
    },
    /// To be ignored, by the RFC.
    Reserved,
}

impl Payload {
    pub fn new(codec: Codec) -> Self {
        Self { codec, numbered: false, fragments: None }
    }

    /// Of H.265 with decoding order numbers (`sprop-max-don-diff` above 0).
    pub fn numbered(self, numbered: bool) -> Self {
        Self { numbered, ..self }
    }

    /// Gives the NAL units that `payload` completes, each with the time of its first packet.
    pub fn push(&mut self, payload: &[u8], at: At, out: &mut dyn FnMut(&[u8], At)) -> Result<(), Fault> {
        if payload.is_empty() {
            return Ok(());
        }
        match self.kind(payload).ok_or(Fault::Malformed)? {
            Kind::Reserved => Ok(()),
            Kind::Single => {
                self.complete(out);
                annex_b::nal_units(payload, &mut |nal| out(nal, at));
                Ok(())
            }
            Kind::Numbered => {
                self.complete(out);
                out(&[&payload[..2], &payload[4..]].concat(), at);
                Ok(())
            }
            Kind::Aggregate(header, number) => {
                self.complete(out);
                let mut rest = payload.get(header..).ok_or(Fault::Malformed)?;
                while let [high, low, after @ ..] = rest {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    let nal = after.get(..length).ok_or(Fault::Malformed)?;
                    annex_b::nal_units(nal, &mut |nal| out(nal, at));
                    rest = &after[length..];
                    rest = rest.get(number..).unwrap_or(rest);
                }
                if rest.iter().all(|&byte| byte == 0) { Ok(()) } else { Err(Fault::Malformed) }
            }
            Kind::Fragment { header, header_length, start, end, at: body } => {
                if start {
                    self.complete(out);
                    self.fragments = Some((header[..header_length].to_vec(), at));
                }
                let (nal, _) = self.fragments.as_mut().ok_or(Fault::Headless)?;
                let body = &payload[body..];
                if nal.len() + body.len() > LARGEST {
                    self.fragments = None;
                    return Err(Fault::TooLarge);
                }
                nal.extend_from_slice(body);
                if end {
                    self.complete(out);
                }
                Ok(())
            }
        }
    }

    /// Forgets the fragments of an incomplete NAL unit. Gives the time of the first, if there are any.
    pub fn discard(&mut self) -> Option<At> {
        self.fragments.take().map(|(_, at)| at)
    }

    /// Whether fragments wait for more.
    pub fn is_within_nal_unit(&self) -> bool {
        self.fragments.is_some()
    }

    /// Ends the NAL unit of the fragments. No packet is missing, so what has come is all, even if no fragment was marked as the end.
    fn complete(&mut self, out: &mut dyn FnMut(&[u8], At)) {
        if let Some((nal, at)) = self.fragments.take() {
            annex_b::nal_units(&nal, &mut |nal| out(nal, at));
        }
    }

    fn kind(&self, payload: &[u8]) -> Option<Kind> {
        if payload.starts_with(&[0, 0, 1]) || payload.starts_with(&[0, 0, 0, 1]) {
            return Some(Kind::Single);
        }
        let first = *payload.first()?;
        match self.codec {
            Codec::H264 => match first & 31 {
                1..=23 => Some(Kind::Single),
                24 => Some(Kind::Aggregate(1, 0)),
                25 => Some(Kind::Aggregate(3, 0)),
                kind @ (28 | 29) => {
                    let fragment = *payload.get(1)?;
                    let header = [first & 0xE0 | fragment & 31, 0];
                    let at = if kind == 29 { 4 } else { 2 };
                    let fragment = Kind::Fragment { header, header_length: 1, start: fragment & 0x80 != 0, end: fragment & 0x40 != 0, at };
                    (payload.len() >= at).then_some(fragment)
                }
                26 | 27 => None,
                _ => Some(Kind::Reserved),
            },
            Codec::H265 => {
                let second = *payload.get(1)?;
                match first >> 1 & 63 {
                    0..=47 if self.numbered => (payload.len() > 4).then_some(Kind::Numbered),
                    0..=47 => Some(Kind::Single),
                    48 => Some(if self.numbered { Kind::Aggregate(4, 1) } else { Kind::Aggregate(2, 0) }),
                    49 => {
                        let fragment = *payload.get(2)?;
                        let header = [first & 0x81 | (fragment & 63) << 1, second];
                        let start = fragment & 0x80 != 0;
                        let at = if start && self.numbered { 5 } else { 3 };
                        let fragment = Kind::Fragment { header, header_length: 2, start, end: fragment & 0x40 != 0, at };
                        (payload.len() >= at).then_some(fragment)
                    }
                    // PACI (RFC 7798, 4.4.4), and what is reserved.
                    _ => Some(Kind::Reserved),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn read(codec: Codec, payloads: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<Fault>) {
        read_by(Payload::new(codec), payloads)
    }

    fn read_by(mut payload: Payload, payloads: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<Fault>) {
        let at = At { timestamp: 0, received: Instant::now() };
        let (mut nals, mut faults) = (Vec::new(), Vec::new());
        for bytes in payloads {
            faults.extend(payload.push(bytes, at, &mut |nal, _| nals.push(nal.to_vec())).err());
        }
        (nals, faults)
    }

    /// Payloads, and the NAL units in them.
    type Case = (&'static [&'static [u8]], &'static [&'static [u8]]);

    #[test]
    fn the_payload_formats_of_both_codecs_are_read() {
        let h264: [Case; 9] = [
            (&[&[0x65, 1, 2]], &[&[0x65, 1, 2]]),
            (&[&[24, 0, 2, 0x67, 1, 0, 3, 0x68, 2, 3]], &[&[0x67, 1], &[0x68, 2, 3]]),
            (&[&[0x7C, 0x85, 1], &[0x7C, 0x05, 2], &[0x7C, 0x45, 3]], &[&[0x65, 1, 2, 3]]),
            (&[&[0x7C, 0xC5, 1]], &[&[0x65, 1]]),
            // With decoding order numbers.
            (&[&[25, 9, 9, 0, 2, 0x67, 1, 0, 3, 0x68, 2, 3]], &[&[0x67, 1], &[0x68, 2, 3]]),
            (&[&[0x7D, 0x85, 9, 9, 1], &[0x7C, 0x45, 3]], &[&[0x65, 1, 3]]),
            // No end: the next beginning is one.
            (&[&[0x7C, 0x85, 1], &[0x7C, 0x05, 2], &[0x7C, 0xC1, 3]], &[&[0x65, 1, 2], &[0x61, 3]]),
            // A start code split between fragments.
            (&[&[0x7C, 0x87, 1, 0, 0], &[0x7C, 0x47, 1, 0x68, 2]], &[&[0x67, 1], &[0x68, 2]]),
            (&[&[0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0]], &[&[0x67, 1], &[0x68, 2]]),
        ];
        for (payloads, nals) in h264 {
            assert_eq!(read(Codec::H264, payloads), (nals.iter().map(|nal| nal.to_vec()).collect(), vec![]), "{payloads:?}");
        }
        let h265: [Case; 4] = [
            (&[&[0x26, 1, 2]], &[&[0x26, 1, 2]]),
            (&[&[0x60, 1, 0, 3, 0x40, 1, 9, 0, 3, 0x42, 1, 8]], &[&[0x40, 1, 9], &[0x42, 1, 8]]),
            (&[&[0x62, 1, 0x93, 5], &[0x62, 1, 0x13, 6], &[0x62, 1, 0x53, 7]], &[&[0x26, 1, 5, 6, 7]]),
            (&[&[0, 0, 1, 0x40, 1, 9, 0, 0, 0, 1, 0x42, 1, 8]], &[&[0x40, 1, 9], &[0x42, 1, 8]]),
        ];
        for (payloads, nals) in h265 {
            assert_eq!(read(Codec::H265, payloads), (nals.iter().map(|nal| nal.to_vec()).collect(), vec![]), "{payloads:?}");
        }
        let numbered: [Case; 3] = [
            (&[&[0x26, 1, 9, 9, 2]], &[&[0x26, 1, 2]]),
            (&[&[0x60, 1, 9, 9, 0, 3, 0x40, 1, 9, 7, 0, 3, 0x42, 1, 8]], &[&[0x40, 1, 9], &[0x42, 1, 8]]),
            (&[&[0x62, 1, 0x93, 9, 9, 5], &[0x62, 1, 0x13, 6], &[0x62, 1, 0x53, 7]], &[&[0x26, 1, 5, 6, 7]]),
        ];
        for (payloads, nals) in numbered {
            let found = read_by(Payload::new(Codec::H265).numbered(true), payloads);
            assert_eq!(found, (nals.iter().map(|nal| nal.to_vec()).collect(), vec![]), "{payloads:?}");
        }
    }

    #[test]
    fn malformed_payloads_are_faults_and_reserved_ones_are_ignored() {
        let cases: [(Codec, &[u8], &[Fault]); 12] = [
            (Codec::H264, &[], &[]),
            (Codec::H264, &[0x7C], &[Fault::Malformed]),
            (Codec::H264, &[24, 0, 9, 0x67], &[Fault::Malformed]),
            (Codec::H264, &[24, 0], &[]),
            (Codec::H264, &[24, 7], &[Fault::Malformed]),
            (Codec::H264, &[0x7C, 0x05, 2], &[Fault::Headless]),
            (Codec::H264, &[29, 0x85, 0], &[Fault::Malformed]),
            (Codec::H264, &[25, 0], &[Fault::Malformed]),
            (Codec::H264, &[26, 0, 0, 0], &[Fault::Malformed]),
            (Codec::H264, &[31, 0, 0, 0], &[]),
            (Codec::H265, &[0x62, 1], &[Fault::Malformed]),
            (Codec::H265, &[0x26], &[Fault::Malformed]),
        ];
        for (codec, payload, faults) in cases {
            assert_eq!(read(codec, &[payload]), (vec![], faults.to_vec()), "{payload:?}");
        }
    }

    #[test]
    fn fragments_without_an_end_do_not_grow_without_bound() {
        let mut fragment = vec![0; 60_000];
        fragment[0] = 0x7C;
        let start = [0x7C, 0x85];
        let endless: Vec<&[u8]> = std::iter::once(&start[..]).chain(std::iter::repeat_n(&fragment[..], 200)).collect();
        let (nals, faults) = read(Codec::H264, &endless);
        assert!(nals.is_empty());
        assert_eq!(faults[..2], [Fault::TooLarge, Fault::Headless]);
    }
}
