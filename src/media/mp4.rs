//! Writes fragmented MP4 (ISO/IEC 14496-12) with one H.264 or H.265 track: frames in, fragments out, without pipeline or thread. A file
//! that is cut anywhere plays up to there. Our own, because no maintained crate that builds on Rust 1.88 writes one without an
//! unmaintained dependency, and GStreamer 1.22's `mp4mux` needs a pipeline for each clip.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::frame::{Codec, Format, Frame};

/// Ticks a second in the file.
const TIMESCALE: u64 = 90_000;
/// A fragment ends at the next keyframe, or once it is this long.
const FRAGMENT: Duration = Duration::from_secs(1);
/// The length of a frame until two frames have shown it: 15 frames a second.
const FIRST_FRAME_TICKS: u64 = TIMESCALE / 15;

/// A file being written.
#[derive(Debug)]
pub(super) struct Mp4 {
    format: Arc<Format>,
    /// The parameter sets changed after the header: every later keyframe brings its own.
    in_band: bool,
    /// That the frame before used.
    current: Arc<Format>,
    origin: Duration,
    pending: Vec<Frame>,
    sequence: u32,
    /// Where the next fragment begins, ticks.
    end: u64,
    frame_ticks: u64,
}

/// The next bytes of the file.
#[derive(Debug)]
pub(super) struct Fragment {
    pub bytes: Bytes,
    /// How long the file is with it.
    pub duration: Duration,
}

impl Mp4 {
    /// A file that begins with this keyframe.
    pub fn begin(first: Frame) -> Self {
        let (format, origin) = (first.format.clone(), first.pts);
        Self {
            current: format.clone(),
            format,
            in_band: false,
            origin,
            pending: vec![first],
            sequence: 0,
            end: 0,
            frame_ticks: FIRST_FRAME_TICKS,
        }
    }

    /// Adds the next frame, and returns the fragment before it if that is complete. Leaves out pictures shown before the first
    /// keyframe: they refer to a GOP that is not in the file.
    pub fn push(&mut self, frame: Frame) -> Option<Fragment> {
        if frame.pts < self.origin {
            return None;
        }
        let whole = self.pending.first().is_some_and(|first| frame.key || frame.pts.saturating_sub(first.pts) >= FRAGMENT);
        let fragment = if whole { self.cut(Some(&frame)) } else { None };
        let frame = self.with_parameter_sets(frame);
        self.pending.push(frame);
        fragment
    }

    /// Whether a frame of this format may be pushed. Parameter sets may change within a file; codec and picture size may not.
    pub fn takes(&self, format: &Format) -> bool {
        (format.codec, format.width, format.height) == (self.format.codec, self.format.width, self.format.height)
    }

    /// The format in the header: that of its first frame.
    pub fn format(&self) -> &Arc<Format> {
        &self.format
    }

    /// The frame, behind the parameter sets it needs if they are not those of the header and the frame before.
    fn with_parameter_sets(&mut self, frame: Frame) -> Frame {
        let changed = frame.format != self.current;
        self.in_band |= changed;
        self.current = frame.format.clone();
        if changed || (self.in_band && frame.key) {
            let mut data = frame.format.parameter_sets();
            data.extend_from_slice(&frame.data);
            Frame { data: data.into(), ..frame }
        } else {
            frame
        }
    }

    /// How long the file would be with this frame in it.
    pub fn reach(&self, frame: &Frame) -> Duration {
        duration(self.ticks(frame.pts) + self.frame_ticks)
    }

    /// The last fragment, without what would make the file longer than `max`.
    pub fn finish(&mut self, max: Duration) -> Option<Fragment> {
        let pending = std::mem::take(&mut self.pending);
        self.pending = pending.into_iter().take_while(|frame| self.reach(frame) <= max).collect();
        self.cut(None)
    }

    /// How long the file is so far, without what is pending.
    pub fn duration(&self) -> Duration {
        duration(self.end)
    }

    fn ticks(&self, pts: Duration) -> u64 {
        let ticks = pts.saturating_sub(self.origin).as_nanos() * u128::from(TIMESCALE) / 1_000_000_000;
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Decoding times are the presentation times in ascending order. That is exact for closed GOPs and for streams without
    /// B-frames. In an open GOP decoding waits a few ticks, and presentation stays exact.
    fn cut(&mut self, next: Option<&Frame>) -> Option<Fragment> {
        let frames = std::mem::take(&mut self.pending);
        let shown: Vec<u64> = frames.iter().map(|frame| self.ticks(frame.pts)).collect();
        let latest = *shown.iter().max()?;
        let mut decoded = shown.clone();
        decoded.sort_unstable();
        if let [.., before, last] = decoded[..] {
            self.frame_ticks = (last - before).clamp(1, TIMESCALE);
        }
        let mut earliest = self.end;
        for ticks in &mut decoded {
            *ticks = (*ticks).max(earliest);
            earliest = *ticks + 1;
        }
        let nominal = latest + self.frame_ticks;
        let end = match next {
            Some(next) if next.key => self.ticks(next.pts),
            Some(next) => self.ticks(next.pts).min(nominal),
            None => nominal,
        };
        self.end = end.max(earliest);

        let mut out = Vec::with_capacity(1024 + frames.iter().map(|frame| frame.data.len() + 16).sum::<usize>());
        if self.sequence == 0 {
            header(&mut out, &self.format);
        }
        self.sequence += 1;
        let ends = decoded[1..].iter().copied().chain([self.end]);
        let samples: Vec<Sample<'_>> = frames
            .iter()
            .zip(shown)
            .zip(decoded.iter().zip(ends))
            .map(|((frame, shown), (&decoded, end))| Sample { frame, decoded, shown, ticks: end - decoded })
            .collect();
        fragment(&mut out, self.sequence, &samples);
        Some(Fragment { bytes: out.into(), duration: self.duration() })
    }
}

fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(TIMESCALE)).unwrap_or(u64::MAX))
}

struct Sample<'a> {
    frame: &'a Frame,
    decoded: u64,
    shown: u64,
    ticks: u64,
}

/// Saturates: no camera makes a file or a frame that large.
fn to_u32(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn put(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

fn atom(out: &mut Vec<u8>, name: &[u8; 4], content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put(out, &[0]);
    out.extend_from_slice(name);
    content(out);
    let size = to_u32((out.len() - start) as u64);
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

const UNITY_MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];

fn header(out: &mut Vec<u8>, format: &Format) {
    atom(out, b"ftyp", |out| {
        out.extend_from_slice(b"isom");
        put(out, &[512]);
        out.extend_from_slice(match format.codec {
            Codec::H264 => b"isomiso6mp41avc1",
            Codec::H265 => b"isomiso6mp41hvc1",
        });
    });
    atom(out, b"moov", |out| {
        atom(out, b"mvhd", |out| {
            put(out, &[0, 0, 0, TIMESCALE as u32, 0, 0x1_0000, 0x0100_0000, 0, 0]);
            put(out, &UNITY_MATRIX);
            put(out, &[0, 0, 0, 0, 0, 0, 2]);
        });
        atom(out, b"trak", |out| track(out, format));
        atom(out, b"mvex", |out| atom(out, b"trex", |out| put(out, &[0, 1, 1, 0, 0, 0])));
    });
}

fn track(out: &mut Vec<u8>, format: &Format) {
    let (width, height) = (u32::from(format.width), u32::from(format.height));
    atom(out, b"tkhd", |out| {
        // Enabled and in the movie; track 1; no duration, no layer, no volume.
        put(out, &[3, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        put(out, &UNITY_MATRIX);
        put(out, &[width << 16, height << 16]);
    });
    atom(out, b"mdia", |out| {
        // The language is "und".
        atom(out, b"mdhd", |out| put(out, &[0, 0, 0, TIMESCALE as u32, 0, 0x55C4_0000]));
        atom(out, b"hdlr", |out| {
            put(out, &[0, 0]);
            out.extend_from_slice(b"vide");
            put(out, &[0, 0, 0]);
            out.extend_from_slice(b"video\0");
        });
        atom(out, b"minf", |out| {
            atom(out, b"vmhd", |out| put(out, &[1, 0, 0]));
            atom(out, b"dinf", |out| {
                atom(out, b"dref", |out| {
                    put(out, &[0, 1]);
                    atom(out, b"url ", |out| put(out, &[1]));
                });
            });
            atom(out, b"stbl", |out| {
                atom(out, b"stsd", |out| {
                    put(out, &[0, 1]);
                    let (entry, configuration) = match format.codec {
                        Codec::H264 => (b"avc1", b"avcC"),
                        Codec::H265 => (b"hvc1", b"hvcC"),
                    };
                    atom(out, entry, |out| sample_entry(out, format, configuration));
                });
                atom(out, b"stts", |out| put(out, &[0, 0]));
                atom(out, b"stsc", |out| put(out, &[0, 0]));
                atom(out, b"stsz", |out| put(out, &[0, 0, 0]));
                atom(out, b"stco", |out| put(out, &[0, 0]));
            });
        });
    });
}

fn sample_entry(out: &mut Vec<u8>, format: &Format, configuration: &[u8; 4]) {
    put(out, &[0, 1, 0, 0, 0, 0]);
    out.extend_from_slice(&format.width.to_be_bytes());
    out.extend_from_slice(&format.height.to_be_bytes());
    // 72 dpi both ways, one frame a sample, no compressor's name, 24 bits deep.
    put(out, &[0x48_0000, 0x48_0000, 0]);
    out.extend_from_slice(&1_u16.to_be_bytes());
    out.extend_from_slice(&[0; 32]);
    out.extend_from_slice(&[0, 24, 0xFF, 0xFF]);
    atom(out, configuration, |out| out.extend_from_slice(&format.configuration));
}

fn fragment(out: &mut Vec<u8>, sequence: u32, samples: &[Sample<'_>]) {
    const KEY: u32 = 0x0200_0000;
    const DELTA: u32 = 0x0101_0000;
    let start = out.len();
    let mut data_offset_at = 0;
    atom(out, b"moof", |out| {
        atom(out, b"mfhd", |out| put(out, &[0, sequence]));
        atom(out, b"traf", |out| {
            // Offsets count from the moof.
            atom(out, b"tfhd", |out| put(out, &[0x02_0000, 1]));
            atom(out, b"tfdt", |out| {
                put(out, &[0x0100_0000]);
                out.extend_from_slice(&samples.first().map_or(0, |first| first.decoded).to_be_bytes());
            });
            atom(out, b"trun", |out| {
                // Version 1 (signed composition offsets); data offset, duration, size, flags and composition offset present.
                put(out, &[0x0100_0F01, to_u32(samples.len() as u64)]);
                data_offset_at = out.len();
                put(out, &[0]);
                for sample in samples {
                    let flags = if sample.frame.key { KEY } else { DELTA };
                    let offset = i32::try_from(i128::from(sample.shown) - i128::from(sample.decoded)).unwrap_or(0);
                    put(out, &[to_u32(sample.ticks), to_u32(sample.frame.data.len() as u64), flags]);
                    out.extend_from_slice(&offset.to_be_bytes());
                }
            });
        });
    });
    let data_offset = to_u32((out.len() - start + 8) as u64);
    out[data_offset_at..data_offset_at + 4].copy_from_slice(&data_offset.to_be_bytes());
    atom(out, b"mdat", |out| {
        for sample in samples {
            out.extend_from_slice(&sample.frame.data);
        }
    });
}
