//! What follows the header: fragments, each a `moof` and its `mdat`, and at the end of a file the index of them, `mfra`.

use bytes::Bytes;

use super::boxes::{atom, put, to_u32};
use crate::media::frame::Frame;

/// One frame of a fragment. Times are ticks in the file.
pub(super) struct Sample<'a> {
    pub frame: &'a Frame,
    /// Whether a player may begin here.
    pub sync: bool,
    /// Parameter sets before it, in the form of its data.
    pub sets: &'a [u8],
    pub decoded: u64,
    pub shown: u64,
    /// Until the next is decoded.
    pub ticks: u64,
}

/// One access unit of sound. Times are samples of its track.
#[derive(Debug)]
pub(super) struct Heard {
    pub at: u64,
    /// Until the next begins.
    pub lasts: u64,
    pub data: Bytes,
}

/// Where a fragment is that a player may begin with.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryPoint {
    /// When it is shown, ticks in the file.
    pub shown: u64,
    /// Where its `moof` begins in the file.
    pub at: u64,
}

/// Appends a fragment: the frames, and behind them the sound. Returns where in `out` the first frame is.
pub(super) fn fragment(out: &mut Vec<u8>, sequence: u32, samples: &[Sample<'_>], sound: &[Heard]) -> u64 {
    // sample_depends_on, sample_is_non_sync_sample.
    const SYNC: u32 = 0x0200_0000;
    const OPEN: u32 = 0x0201_0000;
    const DELTA: u32 = 0x0101_0000;
    let start = out.len();
    let (mut data_offset_at, mut sound_offset_at) = (0, None);
    atom(out, b"moof", |out| {
        atom(out, b"mfhd", |out| put(out, &[0, sequence]));
        atom(out, b"traf", |out| {
            beginning(out, 1, samples.first().map_or(0, |first| first.decoded));
            atom(out, b"trun", |out| {
                // Version 1 (signed composition offsets); data offset, duration, size, flags and composition offset present.
                put(out, &[0x0100_0F01, to_u32(samples.len() as u64)]);
                data_offset_at = out.len();
                put(out, &[0]);
                for sample in samples {
                    let flags = match (sample.sync, sample.frame.key) {
                        (true, _) => SYNC,
                        (false, true) => OPEN,
                        (false, false) => DELTA,
                    };
                    let offset = i32::try_from(i128::from(sample.shown) - i128::from(sample.decoded)).unwrap_or(0);
                    let size = sample.sets.len() + sample.frame.data.len();
                    put(out, &[to_u32(sample.ticks), to_u32(size as u64), flags]);
                    out.extend_from_slice(&offset.to_be_bytes());
                }
            });
        });
        if let Some(first) = sound.first() {
            atom(out, b"traf", |out| {
                beginning(out, 2, first.at);
                atom(out, b"trun", |out| {
                    // Data offset, duration and size present.
                    put(out, &[0x0301, to_u32(sound.len() as u64)]);
                    sound_offset_at = Some(out.len());
                    put(out, &[0]);
                    for heard in sound {
                        put(out, &[to_u32(heard.lasts), to_u32(heard.data.len() as u64)]);
                    }
                });
            });
        }
    });
    let data = (out.len() - start + 8) as u64;
    let frames: usize = samples.iter().map(|sample| sample.sets.len() + sample.frame.data.len()).sum();
    let offsets = [(Some(data_offset_at), data), (sound_offset_at, data + frames as u64)];
    for (at, offset) in offsets.into_iter().filter_map(|(at, offset)| Some((at?, offset))) {
        out[at..at + 4].copy_from_slice(&to_u32(offset).to_be_bytes());
    }
    atom(out, b"mdat", |out| {
        for sample in samples {
            out.extend_from_slice(sample.sets);
            out.extend_from_slice(&sample.frame.data);
        }
        sound.iter().for_each(|heard| out.extend_from_slice(&heard.data));
    });
    start as u64 + data
}

/// Which track what follows is of, and when it begins.
fn beginning(out: &mut Vec<u8>, track: u32, at: u64) {
    // Offsets count from the moof.
    atom(out, b"tfhd", |out| put(out, &[0x02_0000, track]));
    atom(out, b"tfdt", |out| {
        put(out, &[0x0100_0000]);
        out.extend_from_slice(&at.to_be_bytes());
    });
}

/// Appends the index.
pub(super) fn index(out: &mut Vec<u8>, entries: &[EntryPoint]) {
    let start = out.len();
    atom(out, b"mfra", |out| {
        atom(out, b"tfra", |out| {
            // Version 1: 64 bits for times and offsets. Track 1; one byte each for the numbers of traf, trun and sample.
            put(out, &[0x0100_0000, 1, 0, to_u32(entries.len() as u64)]);
            for entry in entries {
                out.extend_from_slice(&entry.shown.to_be_bytes());
                out.extend_from_slice(&entry.at.to_be_bytes());
                out.extend_from_slice(&[1, 1, 1]);
            }
        });
        // Readers find the index by its size, in the last four bytes of the file.
        let size = to_u32((out.len() - start + 16) as u64);
        atom(out, b"mfro", |out| put(out, &[0, size]));
    });
}
