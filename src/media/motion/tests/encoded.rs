//! Scenes as a camera's encoder sends them: drawn, enlarged to 640×360, with sensor noise in each pixel, and coded by x264 at ten pictures
//! a second. Used by `bitstream`.

use std::process::Command;

use super::scenes::{Scene, World};
use crate::media::tests::scripted::nal_units;

/// Pictures a second.
pub(super) const RATE: f32 = 10.0;

/// How the encoder is told to spend bits, the name for the table first.
pub(super) const ENCODERS: [(&str, &[&str]); 3] = [
    ("VBR", &["-crf", "34"]),
    ("CBR, quantizer at least 28", &["-b:v", "150k", "-maxrate", "150k", "-bufsize", "150k", "-qmin", "28"]),
    ("CBR", &["-b:v", "150k", "-maxrate", "150k", "-bufsize", "150k"]),
];

/// One scene, and its pictures in a file.
pub(super) struct Film {
    pub world: World,
    file: tempfile::NamedTempFile,
    noise: u8,
}

impl Film {
    /// `length` seconds of a scene.
    pub fn of(scene: &Scene, seed: u64, length: f32) -> Self {
        let (mut world, noise) = World::new(scene, seed, length).without_noise();
        let pictures: Vec<u8> = (0..(length * RATE) as u32).flat_map(|number| world.picture(number as f32 / RATE)).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), pictures).unwrap();
        Self { world, file, noise }
    }

    /// Of each picture, whether it is a keyframe, and its size in bytes.
    pub fn coded(&self, options: &[&str]) -> Vec<(bool, usize)> {
        let filter = format!("scale=640:360:flags=bicubic,noise=alls={}:allf=t:all_seed=7,format=yuv420p", self.noise);
        let made = Command::new("ffmpeg")
            .args(["-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "64x36", "-r", "10", "-i"])
            .arg(self.file.path())
            .args(["-vf", &filter, "-c:v", "libx264", "-threads", "1", "-preset", "superfast", "-tune", "zerolatency", "-bf", "0"])
            // A camera's encoder has no weighted prediction, and keyframes at intervals alone.
            .args(["-x264-params", "weightp=0:sliced-threads=0:keyint=20:scenecut=0"])
            .args(options)
            .args(["-f", "h264", "-"])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let slices = nal_units(&made.stdout).into_iter().filter(|nal| matches!(nal[0] & 31, 1 | 5));
        slices.map(|nal| (nal[0] & 31 == 5, nal.len() + 4)).collect()
    }
}
