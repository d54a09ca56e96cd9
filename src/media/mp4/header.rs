//! The beginning of a file: `ftyp` and `moov`, which say what the fragments hold, or where each sample is. Why each box is as it is:
//! docs/design/mp4.md.

use std::time::Duration;

use super::{
    TIMESCALE,
    boxes::{atom, put, put_short, to_u32},
    tables::{Table, Tables},
};
use crate::media::{
    Identity,
    frame::{Codec, Format},
    sound::SoundFormat,
    usability::Usability,
};

const UNITY_MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
/// From 1904, when MP4's time begins, to 1970.
const FROM_1904: Duration = Duration::from_secs(2_082_844_800);

/// What stands in the header.
#[derive(Debug)]
pub(super) struct Header<'a> {
    pub format: &'a Format,
    pub identity: &'a Identity,
    /// The second track, if there is one, and when it begins beside the first, ticks.
    pub sound: Option<(&'a SoundFormat, u64)>,
    /// Where presentation begins in the file, ticks.
    pub lead: u64,
    /// For a file without fragments.
    pub whole: Option<Whole<'a>>,
}

/// What the header of a file without fragments says more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<'a> {
    pub tables: &'a Tables,
    /// From where on the places of samples count: the length of the header.
    pub base: u64,
    /// How long the file is, ticks.
    pub end: u64,
    /// When sound ends in it, ticks.
    pub sound_end: u64,
}

impl Header<'_> {
    /// Appends it.
    pub fn write(&self, out: &mut Vec<u8>) {
        atom(out, b"ftyp", |out| {
            out.extend_from_slice(b"isom");
            put(out, &[512]);
            out.extend_from_slice(match self.format.codec {
                Codec::H264 => b"isomiso6mp41avc1",
                Codec::H265 => b"isomiso6mp41hvc1",
            });
        });
        atom(out, b"moov", |out| {
            atom(out, b"mvhd", |out| {
                self.times(out, 0, &[TIMESCALE as u32], self.end());
                put(out, &[0x1_0000, 0x0100_0000, 0, 0]);
                put(out, &UNITY_MATRIX);
                put(out, &[0, 0, 0, 0, 0, 0, 2 + u32::from(self.sound.is_some())]);
            });
            atom(out, b"trak", |out| self.track(out));
            if let Some((sound, begins)) = self.sound {
                atom(out, b"trak", |out| self.sound_track(sound, begins, out));
            }
            if self.whole.is_none() {
                atom(out, b"mvex", |out| {
                    atom(out, b"trex", |out| put(out, &[0, 1, 1, 0, 0, 0]));
                    if self.sound.is_some() {
                        // A decoder may begin with any access unit.
                        atom(out, b"trex", |out| put(out, &[0, 2, 1, 0, 0, 0x0200_0000]));
                    }
                });
            }
            if !self.identity.device.is_empty() {
                atom(out, b"udta", |out| atom(out, b"meta", |out| self.metadata(out)));
            }
        });
    }

    /// How long the file is; 0 if the fragments say it.
    fn end(&self) -> u64 {
        self.whole.map_or(0, |whole| whole.end)
    }

    /// Version and flags, when the file was made, what is between, and a duration.
    fn times(&self, out: &mut Vec<u8>, flags: u32, between: &[u32], duration: u64) {
        let made = self.identity.started_at.map_or(0, |since_1970| (since_1970 + FROM_1904).as_secs());
        match u32::try_from(made) {
            Ok(made) => {
                put(out, &[flags, made, made]);
                put(out, between);
                put(out, &[to_u32(duration)]);
            }
            // From 2040 on.
            Err(_) => {
                put(out, &[0x0100_0000 | flags]);
                out.extend_from_slice(&made.to_be_bytes());
                out.extend_from_slice(&made.to_be_bytes());
                put(out, between);
                out.extend_from_slice(&duration.to_be_bytes());
            }
        }
    }

    fn track(&self, out: &mut Vec<u8>) {
        let usability = self.format.usability();
        let (width, height) = (u64::from(self.format.width), u32::from(self.format.height));
        let (wide, high) = usability.sample_aspect.unwrap_or((1, 1));
        let shown_width = to_u32(((width << 16) * u64::from(wide) + u64::from(high) / 2) / u64::from(high));
        atom(out, b"tkhd", |out| {
            // Enabled and in the movie; track 1.
            self.times(out, 3, &[1, 0], self.end());
            // No layer, no volume.
            put(out, &[0, 0, 0, 0]);
            put(out, &UNITY_MATRIX);
            put(out, &[shown_width, height << 16]);
        });
        let table = self.whole.map(|whole| &whole.tables.picture);
        let lead = self.lead + table.map_or(0, Table::delay);
        if lead > 0 {
            // All that follows, from there on, at the normal rate.
            atom(out, b"edts", |out| atom(out, b"elst", |out| put(out, &[0, 1, to_u32(self.end()), to_u32(lead), 0x1_0000])));
        }
        atom(out, b"mdia", |out| {
            atom(out, b"mdhd", |out| {
                self.times(out, 0, &[TIMESCALE as u32], table.map_or(0, Table::duration));
                // The language is "und".
                put(out, &[0x55C4_0000]);
            });
            handler(out, b"vide", b"\0\0\0\0", b"video\0");
            atom(out, b"minf", |out| {
                atom(out, b"vmhd", |out| put(out, &[1, 0, 0]));
                self.samples(out, table, |out| {
                    let (entry, configuration) = match self.format.codec {
                        Codec::H264 => (b"avc1", b"avcC"),
                        Codec::H265 => (b"hvc1", b"hvcC"),
                    };
                    atom(out, entry, |out| self.sample_entry(out, configuration, &usability));
                });
            });
        });
    }

    fn sound_track(&self, sound: &SoundFormat, begins: u64, out: &mut Vec<u8>) {
        let table = self.whole.map(|whole| &whole.tables.sound);
        let end = self.whole.map_or(0, |whole| whole.sound_end);
        atom(out, b"tkhd", |out| {
            // Enabled and in the movie; track 2.
            self.times(out, 3, &[2, 0], end);
            // No layer, full volume.
            put(out, &[0, 0, 0, 0x0100_0000]);
            put(out, &UNITY_MATRIX);
            put(out, &[0, 0]);
        });
        if begins > 0 {
            // Nothing until then, and then all that follows.
            let edits = [0, 2, to_u32(begins), u32::MAX, 0x1_0000, to_u32(end.saturating_sub(begins)), 0, 0x1_0000];
            atom(out, b"edts", |out| atom(out, b"elst", |out| put(out, &edits)));
        }
        atom(out, b"mdia", |out| {
            atom(out, b"mdhd", |out| {
                self.times(out, 0, &[sound.rate], table.map_or(0, Table::duration));
                put(out, &[0x55C4_0000]);
            });
            handler(out, b"soun", b"\0\0\0\0", b"sound\0");
            atom(out, b"minf", |out| {
                atom(out, b"smhd", |out| put(out, &[0, 0]));
                self.samples(out, table, |out| atom(out, b"mp4a", |out| sound_entry(sound, out)));
            });
        });
    }

    /// How the samples of a track are coded, that none is in another file, and where each is, unless all are in fragments.
    fn samples(&self, out: &mut Vec<u8>, table: Option<&Table>, entry: impl FnOnce(&mut Vec<u8>)) {
        atom(out, b"dinf", |out| {
            atom(out, b"dref", |out| {
                put(out, &[0, 1]);
                atom(out, b"url ", |out| put(out, &[1]));
            });
        });
        atom(out, b"stbl", |out| {
            atom(out, b"stsd", |out| {
                put(out, &[0, 1]);
                entry(out);
            });
            table.unwrap_or(&Table::default()).write(self.whole.map_or(0, |whole| whole.base), out);
        });
    }

    fn sample_entry(&self, out: &mut Vec<u8>, configuration: &[u8; 4], usability: &Usability) {
        put(out, &[0, 1, 0, 0, 0, 0]);
        put_short(out, &[self.format.width, self.format.height]);
        // 72 dpi both ways, one frame a sample, no compressor's name, 24 bits deep.
        put(out, &[0x48_0000, 0x48_0000, 0]);
        put_short(out, &[1]);
        out.extend_from_slice(&[0; 32]);
        put_short(out, &[24, 0xFFFF]);
        atom(out, configuration, |out| out.extend_from_slice(&self.format.configuration));
        if let Some(colour) = usability.colour {
            atom(out, b"colr", |out| {
                out.extend_from_slice(b"nclx");
                put_short(out, &[colour.primaries.into(), colour.transfer.into(), colour.matrix.into()]);
                out.push(u8::from(colour.full_range) << 7);
            });
        }
        if let Some((wide, high)) = usability.sample_aspect {
            atom(out, b"pasp", |out| put(out, &[wide.into(), high.into()]));
        }
    }

    /// The device as the title, in the form that players and ffmpeg read.
    fn metadata(&self, out: &mut Vec<u8>) {
        put(out, &[0]);
        handler(out, b"mdir", b"appl", b"\0");
        atom(out, b"ilst", |out| {
            let texts = [(b"\xA9nam", self.identity.device.as_str()), (b"\xA9too", concat!("kasa-care-agent ", env!("CARGO_PKG_VERSION")))];
            for (name, text) in texts {
                atom(out, name, |out| {
                    atom(out, b"data", |out| {
                        // UTF-8, of no language.
                        put(out, &[1, 0]);
                        out.extend_from_slice(text.as_bytes());
                    });
                });
            }
        });
    }
}

/// An AudioSampleEntry, and in it how to decode (ISO/IEC 14496-12, 12.2.3; 14496-14, 5.6).
fn sound_entry(sound: &SoundFormat, out: &mut Vec<u8>) {
    put(out, &[0, 1, 0, 0]);
    // 16 bits a sample.
    put_short(out, &[sound.channels.into(), 16, 0, 0]);
    // The rate in 16 bits and a fraction; a decoder takes it from the configuration.
    put_short(out, &[u16::try_from(sound.rate).unwrap_or(0), 0]);
    // Descriptors (ISO/IEC 14496-1, 7.2.6): a tag, a length below 128, a content.
    let descriptor = |tag: u8, content: Vec<u8>| [&[tag, content.len() as u8][..], &content].concat();
    let specific = descriptor(5, sound.configuration.to_vec());
    // MPEG-4 audio; an audio stream; buffer and bit rates are not known.
    let decoder = descriptor(4, [&[0x40, 0x15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &specific].concat());
    let stream = descriptor(3, [&[0, 2, 0][..], &decoder, &descriptor(6, vec![2])].concat());
    atom(out, b"esds", |out| {
        put(out, &[0]);
        out.extend_from_slice(&stream);
    });
}

fn handler(out: &mut Vec<u8>, kind: &[u8; 4], by: &[u8; 4], name: &[u8]) {
    atom(out, b"hdlr", |out| {
        put(out, &[0, 0]);
        out.extend_from_slice(kind);
        out.extend_from_slice(by);
        put(out, &[0, 0]);
        out.extend_from_slice(name);
    });
}
