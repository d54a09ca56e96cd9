//! NAL units out of buffers, however a stream is packed: behind lengths, or as a byte stream whose buffers end with an access unit
//! or anywhere. GStreamer's parsers would do that too, but they drop what they dislike without a word, and judge entry points
//! otherwise than the agent does. Pure; called by `frames`.

use crate::media::{
    frame::Codec,
    rtp::{Moment, nal_units},
};

/// A NAL unit that is longer is given up, bytes: no access unit may be.
const LARGEST: usize = 4 << 20;

/// How the NAL units of a stream lie in its buffers.
#[derive(Debug)]
pub(super) enum Packing {
    /// Behind their lengths, of so many bytes.
    Lengths(usize),
    /// As a byte stream of which each buffer ends with a NAL unit.
    Whole {
        /// A buffer has begun with a start code.
        starts: bool,
    },
    /// As a byte stream that is cut anywhere.
    Cut(Cut),
}

/// Bytes of a buffer that belong to no NAL unit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Packing {
    /// Gives the NAL units that these bytes complete, each with the moment of the buffer in which it began.
    ///
    /// # Errors
    /// Some of the bytes could not be used.
    pub fn read(&mut self, bytes: &[u8], moment: Moment, out: &mut dyn FnMut(&[u8], Moment)) -> Result<(), Malformed> {
        match self {
            Self::Whole { .. } => {
                nal_units(bytes, &mut |nal| out(nal, moment));
                Ok(())
            }
            Self::Cut(cut) => cut.push(bytes, moment, out),
            Self::Lengths(size) => behind_lengths(bytes, *size, &mut |nal| out(nal, moment)),
        }
    }

    /// Whether these bytes go on with what the buffer before was to have ended: the stream is cut elsewhere than its caps say.
    pub fn continues(&mut self, bytes: &[u8]) -> bool {
        match self {
            Self::Whole { starts } => {
                let continues = *starts && !has_start(bytes);
                *starts |= has_start(bytes);
                continues
            }
            Self::Lengths(_) | Self::Cut(_) => false,
        }
    }

    /// Something is missing before the next bytes.
    pub fn discard(&mut self) {
        if let Self::Cut(cut) = self {
            *cut = Cut::default();
        }
    }

    /// Whether more bytes of a NAL unit may follow.
    pub fn is_within_nal_unit(&self) -> bool {
        matches!(self, Self::Cut(Cut { state: State::Within(_), .. }))
    }

    /// Nothing has come for a while, or nothing will: what has come is taken to be complete.
    pub fn flush(&mut self, out: &mut dyn FnMut(&[u8], Moment)) {
        if let Self::Cut(cut) = self {
            cut.flush(out);
        }
    }
}

/// Gives the NAL units of a buffer in which each is behind its length, of `size` bytes.
fn behind_lengths(mut bytes: &[u8], size: usize, out: &mut dyn FnMut(&[u8])) -> Result<(), Malformed> {
    while !bytes.is_empty() {
        let (length, after) = bytes.split_at_checked(size).ok_or(Malformed)?;
        let length = length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
        let (nal, after) = after.split_at_checked(length).ok_or(Malformed)?;
        if !nal.is_empty() {
            out(nal);
        }
        bytes = after;
    }
    Ok(())
}

/// Whether a stream is packed behind lengths of this size, by its first buffer. Caps may be wrong, or say neither: what they have
/// `said` counts if the bytes can be that.
pub(super) fn has_lengths(bytes: &[u8], size: usize, said: bool) -> bool {
    // 256 to 511 as a length of four bytes begins like a start code.
    let starts = has_start(bytes);
    let are = !bytes.is_empty() && behind_lengths(bytes, size, &mut |_| ()).is_ok();
    if said { are || !starts } else { are && !starts }
}

/// Whether bytes begin with a start code.
fn has_start(bytes: &[u8]) -> bool {
    bytes.iter().position(|&byte| byte != 0).is_some_and(|zeros| zeros >= 2 && bytes[zeros] == 1)
}

/// The part of a byte stream behind its last start code.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// From the start code on, or the last bytes in which one may begin.
    pending: Vec<u8>,
    state: State,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// No start code has come.
    #[default]
    Before,
    /// The NAL unit that began at this moment is incomplete.
    Within(Moment),
    /// It was taken to be complete.
    Flushed,
}

impl Cut {
    fn push(&mut self, bytes: &[u8], moment: Moment, out: &mut dyn FnMut(&[u8], Moment)) -> Result<(), Malformed> {
        // A start code may be cut, too.
        let from = self.pending.len().saturating_sub(2);
        self.pending.extend_from_slice(bytes);
        let is_start = |window: &[u8]| window == [0, 0, 1];
        let Some(last) = self.pending[from..].windows(3).rposition(is_start).map(|at| from + at) else {
            return self.without_start();
        };
        let (mut began, first, fault) = match self.state {
            State::Within(began) => (began, 0, false),
            state => {
                let first = self.pending.windows(3).position(is_start).unwrap_or(last);
                let rest_of_a_nal = self.pending[..first].iter().any(|&byte| byte != 0);
                (moment, first, matches!(state, State::Flushed) && rest_of_a_nal)
            }
        };
        nal_units(&self.pending[first..last], &mut |nal| {
            out(nal, began);
            began = moment;
        });
        self.pending.drain(..last);
        self.state = State::Within(moment);
        if fault { Err(Malformed) } else { Ok(()) }
    }

    fn without_start(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::Within(_) if self.pending.len() <= LARGEST => Ok(()),
            State::Within(_) => {
                *self = Self::default();
                Err(Malformed)
            }
            State::Before | State::Flushed => {
                let used = self.pending.len().saturating_sub(2);
                let fault = matches!(self.state, State::Flushed) && self.pending[..used].iter().any(|&byte| byte != 0);
                self.pending.drain(..used);
                if fault { Err(Malformed) } else { Ok(()) }
            }
        }
    }

    fn flush(&mut self, out: &mut dyn FnMut(&[u8], Moment)) {
        if let State::Within(began) = self.state {
            nal_units(&self.pending, &mut |nal| out(nal, began));
            *self = Self { pending: Vec::new(), state: State::Flushed };
        }
    }
}

/// What a configuration record (ISO/IEC 14496-15, 5.3.3.1 and 8.3.3.1) says: the size of lengths, and the parameter sets.
pub(super) fn configuration(codec: Codec, record: &[u8]) -> Option<(usize, Vec<&[u8]>)> {
    let sizes = match codec {
        Codec::H264 => record.get(4)?,
        Codec::H265 => record.get(21)?,
    };
    Some((usize::from(sizes & 3) + 1, codec.parameter_sets(record)))
}

/// Whether a byte stream begins with a NAL unit that H.265 does not have in its base layer.
pub(super) fn is_h264_for_certain(bytes: &[u8]) -> bool {
    let header = bytes.iter().position(|&byte| byte != 0).and_then(|zeros| bytes.get(zeros + 1));
    has_start(bytes) && header.is_some_and(|header| header & 1 == 1)
}

/// The codec of a byte stream, by its first NAL unit. `None`: no start code is here.
pub(super) fn codec_of(bytes: &[u8]) -> Option<Codec> {
    let at = bytes.windows(3).position(|window| window == [0, 0, 1])? + 3;
    let &[first, second] = bytes.get(at..at + 2)? else { return None };
    // Slices, parameter sets, delimiter and messages of H.265's base layer. H.264 has no such header: its NAL units with an even
    // first byte are messages (6), parameter sets whose second byte is no 1, and types that no camera sends.
    let h265 = first & 0x81 == 0 && second == 1 && matches!(first >> 1, 0 | 1 | 8 | 9 | 16..=21 | 32..=35 | 39);
    Some(if h265 { Codec::H265 } else { Codec::H264 })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn moment(shown: i64) -> Moment {
        Moment { shown: Some(shown), received: Instant::now() }
    }

    /// NAL units and the times of their moments, and how many buffers had a fault.
    fn read(packing: &mut Packing, buffers: &[&[u8]]) -> (Vec<(Vec<u8>, i64)>, usize) {
        let (mut nals, mut faults) = (Vec::new(), 0);
        for (n, bytes) in (0..).zip(buffers) {
            let read = packing.read(bytes, moment(n), &mut |nal, at| nals.push((nal.to_vec(), at.shown.unwrap())));
            faults += usize::from(read.is_err());
        }
        packing.flush(&mut |nal, at| nals.push((nal.to_vec(), at.shown.unwrap())));
        (nals, faults)
    }

    #[test]
    fn a_byte_stream_is_put_together_wherever_it_is_cut() {
        let stream = [0, 0, 0, 1, 0x67, 7, 0, 0, 1, 0x68, 8, 8, 0, 0, 0, 1, 0x65, 1, 0, 0, 3, 0, 2, 0, 0, 0, 1, 0x61, 9];
        let whole: Vec<Vec<u8>> = vec![vec![0x67, 7], vec![0x68, 8, 8], vec![0x65, 1, 0, 0, 3, 0, 2], vec![0x61, 9]];
        for size in 1..=stream.len() {
            let buffers: Vec<&[u8]> = stream.chunks(size).collect();
            let (nals, faults) = read(&mut Packing::Cut(Cut::default()), &buffers);
            assert_eq!(nals.iter().map(|(nal, _)| nal.clone()).collect::<Vec<_>>(), whole, "cut into {size}");
            assert_eq!(faults, 0);
            assert!(nals.is_sorted_by_key(|(_, at)| *at));
        }
        let (nals, _) = read(&mut Packing::Cut(Cut::default()), &[&stream[..18], &stream[18..]]);
        assert_eq!(nals.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [0, 0, 0, 1], "the buffer in which each began");
    }

    #[test]
    fn a_stream_that_is_joined_in_the_middle_begins_at_its_first_start_code() {
        let (nals, faults) = read(&mut Packing::Cut(Cut::default()), &[&[7, 7, 7], &[7, 0, 0, 1, 0x65, 1]]);
        assert_eq!((nals, faults), (vec![(vec![0x65, 1], 1)], 0));
    }

    #[test]
    fn what_follows_a_nal_unit_that_was_taken_to_be_complete_is_a_fault() {
        let mut packing = Packing::Cut(Cut::default());
        assert_eq!(read(&mut packing, &[&[0, 0, 1, 0x65, 1, 2]]).0.len(), 1);
        assert_eq!(read(&mut packing, &[&[3, 4], &[5, 0, 0, 1, 0x61, 1]]), (vec![(vec![0x61, 1], 1)], 1));
    }

    #[test]
    fn a_nal_unit_without_an_end_does_not_grow_without_bound() {
        let mut packing = Packing::Cut(Cut::default());
        let (start, more) = ([0, 0, 1, 0x65], vec![5; 1 << 20]);
        let endless: Vec<&[u8]> = std::iter::once(&start[..]).chain(std::iter::repeat_n(&more[..], 20)).collect();
        assert_eq!(read(&mut packing, &endless), (vec![], 1));
    }

    #[test]
    fn lengths_of_every_size_are_read_and_one_that_leads_too_far_is_a_fault() {
        for (size, bytes) in
            [(1, &[2, 0x65, 1, 0, 1, 0x61][..]), (2, &[0, 2, 0x65, 1, 0, 1, 0x61]), (4, &[0, 0, 0, 2, 0x65, 1, 0, 0, 0, 1, 0x61])]
        {
            let (nals, faults) = read(&mut Packing::Lengths(size), &[bytes]);
            assert_eq!((nals, faults), (vec![(vec![0x65, 1], 0), (vec![0x61], 0)], 0));
            let (nals, faults) = read(&mut Packing::Lengths(size), &[&bytes[..bytes.len() - 1]]);
            assert_eq!((nals.len(), faults), (1, 1));
        }
    }

    #[test]
    fn the_first_buffer_tells_lengths_from_start_codes() {
        let (lengths, starts) =
            ([&[0, 0, 0, 2, 0x67, 1, 0, 0, 1, 0x2C][..], &[0x65; 300]].concat(), [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x65, 1]);
        for said in [true, false] {
            assert!(has_lengths(&lengths, 4, said) && !has_lengths(&starts, 4, said));
            assert!(!has_lengths(&starts[1..], 4, said) && !has_lengths(&[&[0; 9][..], &starts].concat(), 4, said), "zeros before");
        }
        // A length that begins like a start code, an empty buffer, one that is cut: what was said counts.
        for bytes in [&lengths[6..], &[], &lengths[..9], &[7, 7, 7]] {
            assert!(has_lengths(bytes, 4, true) && !has_lengths(bytes, 4, false), "{bytes:?}");
        }
    }

    #[test]
    fn a_configuration_record_tells_the_size_of_lengths_and_a_short_one_nothing() {
        let avcc = [1, 100, 0, 30, 0xFD, 0xE1, 0, 2, 0x67, 1, 2, 0, 1, 0x68, 0, 2, 0x68, 2];
        assert_eq!(configuration(Codec::H264, &avcc), Some((2, vec![&[0x67, 1][..], &[0x68], &[0x68, 2]])));
        let hvcc = [&[1; 21][..], &[0x0F, 2, 0xA0, 0, 1, 0, 2, 0x40, 1, 0xA1, 0, 1, 0, 1, 0x42]].concat();
        assert_eq!(configuration(Codec::H265, &hvcc), Some((4, vec![&[0x40, 1][..], &[0x42]])));
        assert_eq!((configuration(Codec::H264, &avcc[..4]), configuration(Codec::H265, &hvcc[..21])), (None, None));
    }

    #[test]
    fn the_codec_of_a_byte_stream_is_told_by_its_first_nal_unit() {
        for (first, codec) in [
            ([0x67, 0x64], Codec::H264),
            ([0x09, 0x10], Codec::H264),
            ([0x06, 0x05], Codec::H264),
            ([0x28, 0xEE], Codec::H264),
            ([0x65, 0x88], Codec::H264),
            ([0x40, 0x01], Codec::H265),
            ([0x46, 0x01], Codec::H265),
            ([0x42, 0x01], Codec::H265),
            ([0x4E, 0x01], Codec::H265),
            ([0x02, 0x01], Codec::H265),
            ([0x28, 0x01], Codec::H265),
        ] {
            assert_eq!(codec_of(&[&[0, 0, 0, 1], &first[..]].concat()), Some(codec), "{first:?}");
        }
        assert_eq!(codec_of(&[0, 0, 2, 0x67, 1]), None);
        for h265 in [[0x40, 0x01], [0x46, 0x01], [0x26, 0x01], [0x02, 0x02], [0x50, 0x01]] {
            assert!(!is_h264_for_certain(&[&[0, 0, 0, 1], &h265[..]].concat()), "{h265:?}");
        }
        assert!(is_h264_for_certain(&[0, 0, 1, 0x67]) && !is_h264_for_certain(&[0, 0, 1]) && !is_h264_for_certain(&[1, 0x67]));
    }
}
