//! Real streams, made by ffmpeg's x264 and x265, packetized by a camera whose faults a test chooses. What ffprobe decodes of the
//! file at the end decides.

mod clock;
mod entry;
mod faults;
mod files;
mod sound;
mod structure;

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use super::*;

const FPS: u32 = 15;
const TICKS: u32 = 90_000 / FPS;

/// Access units: NAL units, the delimiter left out.
pub(in crate::media) type Units = Vec<Vec<Vec<u8>>>;

/// `frames` pictures at 15 a second, coded with these options.
pub(in crate::media) fn film(codec: Codec, frames: u32, options: &[&str]) -> Units {
    let (encoder, format, delimiter): (&[&str], _, _) = match codec {
        Codec::H264 => (&["-c:v", "libx264", "-aud", "1", "-preset", "veryfast"], "h264", 9),
        Codec::H265 => (&["-c:v", "libx265", "-preset", "ultrafast"], "hevc", 35),
    };
    let picture = format!("testsrc2=size=320x240:rate={FPS}");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &picture, "-frames:v", &frames.to_string(), "-pix_fmt", "yuv420p"])
        .args(encoder)
        .args(options)
        .args(["-f", format, "-"])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut units: Units = Vec::new();
    annex_b::nal_units(&made.stdout, &mut |nal| {
        if kind(codec, nal) == delimiter {
            units.push(Vec::new());
        } else {
            units.last_mut().expect("a delimiter first").push(nal.to_vec());
        }
    });
    assert_eq!(units.len(), frames as usize);
    units
}

/// One second a GOP.
fn h264(frames: u32) -> Units {
    film(Codec::H264, frames, &["-g", "15", "-bf", "0"])
}

/// The parameters of x265 for one second a GOP, with delimiters.
fn x265(more: &str) -> String {
    format!("aud=1:keyint=15:min-keyint=15:scenecut=0:log-level=none:{more}")
}

fn h265(frames: u32) -> Units {
    film(Codec::H265, frames, &["-x265-params", &x265("bframes=0:open-gop=0")])
}

/// The type of a NAL unit.
pub(in crate::media) fn kind(codec: Codec, nal: &[u8]) -> u8 {
    match codec {
        Codec::H264 => nal[0] & 31,
        Codec::H265 => nal[0] >> 1 & 63,
    }
}

fn is_slice(codec: Codec, nal: &[u8]) -> bool {
    match codec {
        Codec::H264 => matches!(kind(codec, nal), 1 | 5),
        Codec::H265 => kind(codec, nal) < 32,
    }
}

fn is_set(codec: Codec, nal: &[u8]) -> bool {
    match codec {
        Codec::H264 => matches!(kind(codec, nal), 7 | 8),
        Codec::H265 => matches!(kind(codec, nal), 32..=34),
    }
}

/// A camera that does everything right: one time and one marker an access unit, packets of 1,000 bytes.
fn packets(codec: Codec, units: &Units) -> Vec<Packet> {
    let began = Instant::now();
    let mut packets = Vec::new();
    for (n, unit) in (0_u32..).zip(units) {
        let first = packets.len();
        for nal in unit {
            for payload in fragments(codec, nal, 1000) {
                let timestamp = 4_000_000_000_u32.wrapping_add(n * TICKS);
                packets.push(Packet { payload, timestamp, mark: false, lost: 0, received: began + Duration::from_secs(1) * n / FPS });
            }
        }
        if let Some(last) = packets[first..].last_mut() {
            last.mark = true;
        }
    }
    packets
}

fn fragments(codec: Codec, nal: &[u8], most: usize) -> Vec<Bytes> {
    if nal.len() <= most {
        return vec![Bytes::copy_from_slice(nal)];
    }
    let (indicator, kind, body) = match codec {
        Codec::H264 => (vec![nal[0] & 0xE0 | 28], nal[0] & 31, &nal[1..]),
        Codec::H265 => (vec![nal[0] & 0x81 | 49 << 1, nal[1]], nal[0] >> 1 & 63, &nal[2..]),
    };
    let count = body.len().div_ceil(most);
    let fragment = |(n, piece): (usize, &[u8])| {
        let (start, end) = (u8::from(n == 0) << 7, u8::from(n + 1 == count) << 6);
        Bytes::from([&indicator[..], &[start | end | kind], piece].concat())
    };
    body.chunks(most).enumerate().map(fragment).collect()
}

/// What came of the packets.
#[derive(Debug, Default)]
struct Received {
    frames: Vec<Frame>,
    lost: Vec<(u64, &'static str)>,
    gaps: u64,
}

impl Received {
    fn take(&mut self, output: Output) {
        match output {
            Output::Frame(frame) => self.frames.push(frame),
            Output::Lost { frames, reason } => self.lost.push((frames, reason)),
            Output::Gap => self.gaps += 1,
        }
    }

    fn lost(&self) -> u64 {
        self.lost.iter().map(|(frames, _)| frames).sum()
    }

    fn lost_for(&self, reason: &str) -> u64 {
        self.lost.iter().filter(|(_, why)| *why == reason).map(|(frames, _)| frames).sum()
    }

    fn steps_ms(&self) -> Vec<i64> {
        let shown: Vec<i64> = self.frames.iter().map(|frame| frame.pts.as_millis() as i64).collect();
        shown.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

fn receive(codec: Codec, packets: impl IntoIterator<Item = Packet>) -> Received {
    receive_with(codec, Vec::new(), packets)
}

fn receive_with(codec: Codec, sets: Vec<Bytes>, packets: impl IntoIterator<Item = Packet>) -> Received {
    let mut depayloader = Depayloader::new(codec, NonZeroU32::new(90_000).unwrap(), sets);
    let mut received = Received::default();
    for packet in packets {
        depayloader.push(packet, &mut |output| received.take(output));
    }
    depayloader.end(&mut |output| received.take(output));
    received
}

/// The NAL units of an access unit as a file holds them.
fn as_sample(codec: Codec, unit: &[Vec<u8>]) -> Vec<u8> {
    let mut data = Vec::new();
    for nal in unit.iter().filter(|nal| !is_set(codec, nal)) {
        data.extend_from_slice(&u32::try_from(nal.len()).unwrap().to_be_bytes());
        data.extend_from_slice(nal);
    }
    data
}

/// Every access unit has become one frame, byte for byte, in order, and nothing was lost.
#[track_caller]
fn assert_whole(codec: Codec, units: &Units, received: &Received) {
    assert_eq!(received.lost, []);
    assert_eq!(received.frames.len(), units.len());
    for (n, (frame, unit)) in received.frames.iter().zip(units).enumerate() {
        assert!(frame.data == as_sample(codec, unit), "frame {n}");
    }
}
