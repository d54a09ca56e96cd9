//! Pictures of two fields (PAFF), which x264 does not make: written here bit by bit, and judged by ffmpeg.

use super::{
    pipeline::{AVC_UNITS, Piece, feed, nal_type, nals},
    *,
};
use crate::media::frame::Codec;

/// Macroblocks in a row, and in a column of one field.
const WIDTH: u32 = 10;
const FIELD_HEIGHT: u32 = 4;
/// Frames from one IDR picture to the next.
const GOP: u32 = 5;

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits used of the last byte; 0: all.
    used: u32,
}

impl Bits {
    fn put(&mut self, value: u32, bits: u32) {
        for bit in (0..bits).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            *self.bytes.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.used);
            self.used = (self.used + 1) % 8;
        }
    }

    /// Exp-Golomb codes (ITU-T H.264, 9.1), unsigned.
    fn golomb(&mut self, values: &[u32]) {
        for value in values {
            let length = 32 - (value + 1).leading_zeros();
            self.put(value + 1, 2 * length - 1);
        }
    }

    fn align(&mut self) {
        self.used = 0;
    }

    /// The NAL unit behind a start code, with the trailing bit and emulation prevention.
    fn nal(mut self, header: u8) -> Vec<u8> {
        self.put(1, 1);
        let mut nal = vec![0, 0, 0, 1, header];
        for byte in self.bytes {
            if byte <= 3 && nal.len() > 6 && nal.ends_with(&[0, 0]) {
                nal.push(3);
            }
            nal.push(byte);
        }
        nal
    }
}

fn parameter_sets() -> Vec<u8> {
    let mut sps = Bits::default();
    // Main profile, level 3; frame_num of 4 bits, order by 8 bits, one reference frame.
    sps.put(77 << 16 | 30, 24);
    sps.golomb(&[0, 0, 0, 4, 1]);
    sps.put(0, 1);
    sps.golomb(&[WIDTH - 1, FIELD_HEIGHT - 1]);
    // Fields, no macroblock adaptation, direct 8x8 inference; no cropping, no VUI.
    sps.put(0b0_0_1_0_0, 5);
    let mut pps = Bits::default();
    pps.golomb(&[0, 0]);
    // CAVLC; both fields have an order of their own.
    pps.put(0, 2);
    pps.golomb(&[0, 0, 0]);
    pps.put(0, 3);
    pps.golomb(&[0, 0, 0]);
    // Deblocking is controlled by the slice.
    pps.put(0b100, 3);
    [sps.nal(0x67), pps.nal(0x68)].concat()
}

/// One field of the n-th frame: all samples as they are in an IDR picture, otherwise a copy of the field it refers to.
fn field(n: u32, bottom: bool) -> Vec<u8> {
    let idr = n.is_multiple_of(GOP) && !bottom;
    let mut slice = Bits::default();
    slice.golomb(&[0, if idr { 7 } else { 5 }, 0]);
    slice.put(n % GOP, 4);
    slice.put(1, 1);
    slice.put(bottom.into(), 1);
    if idr {
        slice.golomb(&[n / GOP % 2]);
    }
    slice.put(n % GOP * 2 + u32::from(bottom), 8);
    // Two flags without an effect: of the references to other pictures, then of the references to this one.
    slice.put(0, if idr { 2 } else { 3 });
    slice.golomb(&[0, 1]);
    if idr {
        for macroblock in 0..WIDTH * FIELD_HEIGHT {
            slice.golomb(&[25]);
            slice.align();
            let luma = 32 + (macroblock * 5 + n * 7) % 180;
            (0..256).for_each(|_| slice.put(luma, 8));
            (0..128).for_each(|_| slice.put(128, 8));
        }
    } else {
        slice.golomb(&[WIDTH * FIELD_HEIGHT]);
    }
    slice.nal(if idr { 0x65 } else { 0x61 })
}

/// The fields of each frame, parameter sets before each IDR picture.
pub(super) fn film(frames: u32) -> Vec<[Vec<u8>; 2]> {
    (0..frames)
        .map(|n| {
            let sets = if n % GOP == 0 { parameter_sets() } else { Vec::new() };
            [[sets, field(n, false)].concat(), field(n, true)]
        })
        .collect()
}

#[test]
fn two_fields_make_one_frame_in_one_buffer_or_two() {
    let film = film(20);
    let dir = tempfile::tempdir().unwrap();
    let stream = dir.path().join("fields.264");
    std::fs::write(&stream, film.concat().concat()).unwrap();
    let shown = ["-v", "error", "-show_entries", "frame=interlaced_frame", "-of", "csv=p=0", stream.to_str().unwrap()];
    let shown = run("ffprobe", &shown);
    assert_eq!(shown.lines().filter(|line| line.starts_with('1')).count(), 20, "ffmpeg sees 20 interlaced frames");

    let frames: Vec<Vec<u8>> = film.iter().map(|fields| fields.concat()).collect();
    let in_one = feed(Some(AVC_UNITS), (0..).zip(&frames).map(|(n, frame)| Piece::at(frame, Some(n * 40))));
    let in_two = feed(Some(AVC_UNITS), (0..).zip(film.iter().flatten()).map(|(n, field)| Piece::at(field, Some(n * 20))));
    for received in [in_one, in_two] {
        assert_eq!((received.frames.len(), received.dropped), (20, 0));
        for (n, frame) in (0..).zip(&received.frames) {
            assert_eq!((frame.key, frame.pts), (n % GOP == 0, Duration::from_millis(40) * n));
            assert_eq!((frame.format.width, frame.format.height), (160, 128));
            assert_eq!(frame.format.coding(), "H.264 Main, interlaced");
        }
    }
    let kinds: Vec<u8> = nals(&frames[0]).iter().map(|nal| nal_type(Codec::H264, nal)).collect();
    assert_eq!(kinds, [7, 8, 5, 1]);
}

/// It states no rate: 25 frames a second, of two buffers each.
#[test]
fn a_file_of_fields_without_a_rate_is_played_at_25_frames_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let stream = dir.path().join("fields.264");
    std::fs::write(&stream, film(50).concat().concat()).unwrap();
    let began = Instant::now();
    let media = start(&camera(Source::File(stream), 1), &Collector::new(10));
    wait_for_frames(&media, 100);
    let rate = 100.0 / began.elapsed().as_secs_f64();
    assert!((15.0..27.0).contains(&rate), "{rate} frames a second");
    assert_eq!(media.status().stream.dropped, 0);
}
