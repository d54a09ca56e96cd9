//! Films by ffmpeg: its own MP4 files, of which ffprobe says where each frame is and when it is shown.

use std::{fs, path::Path, process::Command};

use super::*;
use crate::media::tests::run;

/// An encoder.
pub(super) struct Encoder {
    codec: Codec,
    options: &'static [&'static str],
    record: &'static [u8; 4],
}

pub(super) const H264: Encoder =
    Encoder { codec: Codec::H264, options: &["-c:v", "libx264", "-preset", "veryfast", "-refs", "4"], record: b"avcC" };
pub(super) const H265: Encoder =
    Encoder { codec: Codec::H265, options: &["-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1"], record: b"hvcC" };

const FRAMES: usize = 50;

/// Frames of a camera, and their pictures as they were before they were written to a file of ours.
pub(super) struct Film {
    frames: Vec<Frame>,
    /// When each is shown, and the digest of it decoded; in the order of presentation.
    pictures: Vec<(i64, String)>,
}

pub(super) fn ticks(pts: Duration) -> i64 {
    ((pts.as_nanos() * 90_000 + 500_000_000) / 1_000_000_000) as i64
}

impl Encoder {
    /// At a constant rate.
    pub fn film(&self, fps: u32, options: &[&str]) -> Film {
        self.film_at(fps, &format!("N*{}", 90_000 / fps), options)
    }

    /// Where `times` says when each picture is shown.
    pub fn film_at(&self, fps: u32, times: &str, options: &[&str]) -> Film {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("source.mp4");
        let picture = format!("testsrc2=size=160x120:rate={fps},settb=1/90000,setpts='{times}'");
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", &picture, "-frames:v", &FRAMES.to_string(), "-pix_fmt", "yuv420p"])
            .args(["-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-video_track_timescale", "90000"])
            .args(self.options)
            .args(options)
            .arg(&path)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let frames = self.frames(&path);
        assert_eq!(frames.len(), FRAMES);
        let (pictures, complaints) = judges::pictures(&path);
        assert_eq!(complaints, "");
        Film { frames, pictures }
    }

    fn frames(&self, path: &Path) -> Vec<Frame> {
        let bytes = fs::read(path).unwrap();
        let at = bytes.windows(4).position(|window| window == self.record).unwrap();
        let size = u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
        let configuration = Bytes::copy_from_slice(&bytes[at + 4..at - 4 + size]);
        let format = Arc::new(Format { codec: self.codec, width: 160, height: 120, configuration });
        judges::packets(path)
            .into_iter()
            .map(|packet| Frame {
                // Nanoseconds cut off, as sources give them.
                pts: Duration::from_nanos(packet.pts as u64 * 1_000_000_000 / 90_000),
                key: packet.key,
                taken: std::time::Instant::now(),
                data: Bytes::copy_from_slice(&bytes[packet.at..packet.at + packet.size]),
                format: format.clone(),
                sound: None,
            })
            .collect()
    }
}

impl Film {
    pub fn codec(&self) -> Codec {
        self.frames[0].format.codec
    }

    /// From its n-th keyframe on.
    pub fn beginning_at_key(&self, n: usize) -> &[Frame] {
        let (at, _) = self.frames.iter().enumerate().filter(|(_, frame)| frame.key).nth(n).unwrap();
        &self.frames[at..]
    }

    /// The digests of the pictures that are shown from then on.
    pub fn pictures(&self, origin: Duration) -> Vec<(i64, String)> {
        let origin = ticks(origin);
        self.pictures.iter().filter(|(at, _)| *at >= origin).map(|(at, digest)| (at - origin, digest.clone())).collect()
    }

    /// Followed by another, 100 ms after its last picture.
    pub fn then(mut self, next: Film) -> Film {
        let gap = 9000 + self.pictures.last().unwrap().0;
        let later = Duration::from_nanos(gap as u64 * 1_000_000_000 / 90_000);
        self.frames.extend(next.frames.into_iter().map(|frame| Frame { pts: frame.pts + later, ..frame }));
        self.pictures.extend(next.pictures.into_iter().map(|(at, digest)| (at + gap, digest)));
        self
    }
}

/// A program's output, which must have no complaint.
pub(super) fn told(program: &str, arguments: &[&str], path: &Path) -> String {
    run(program, &[arguments, &[path.to_str().unwrap()]].concat())
}
