//! Sound that becomes AAC here, with each encoder that is installed: a click is heard in the file when it was to be heard, whatever is
//! missing around it. ffmpeg decodes the files. What cannot be encoded is told, and nobody waits for it.

use bytes::Bytes;

use super::*;
use crate::media::{
    Frame,
    drops::DropCounters,
    gstreamer::sound::{
        Input, SoundEncoder,
        encoders::{AacEncoder, ENCODERS},
    },
    mp4::Mp4,
    ring::{Next, Ring},
    samples::{Law, Samples},
    sound::{Sound, SoundFormat, Waiting},
    source::{Session, Stream},
    tests::scripted,
};

/// A packet of samples, and an access unit at 16 kHz.
const PACKET: u64 = 20;
const UNIT: Duration = Duration::from_millis(64);

fn installed() -> impl Iterator<Item = &'static AacEncoder> {
    gst_init();
    ENCODERS.iter().filter(|encoder| gstreamer::ElementFactory::find(encoder.name).is_some())
}

fn gst_init() {
    gstreamer::init().unwrap();
}

/// Packets that begin at these milliseconds, silent but for clicks of a millisecond.
fn packets(samples: Samples, begin: impl IntoIterator<Item = u64>, clicks: &[u64]) -> Vec<Sound> {
    let (silent, loud): (&[u8], &[u8]) = match samples.law {
        Law::Mu => (&[0xFF], &[0x80]),
        Law::A => (&[0xD5], &[0xAA]),
        Law::Linear => (&[0, 0], &[0x7F, 0xFF]),
    };
    let each = u64::from(samples.rate) / 1000;
    let packet = |begins: u64| {
        let sample = |n: u64| if clicks.contains(&(begins + n / each)) { loud } else { silent };
        let data: Vec<u8> = (0..PACKET * each).flat_map(|n| sample(n).repeat(samples.channels.into())).collect();
        Sound { pts: Duration::from_millis(begins), data: data.into() }
    };
    begin.into_iter().map(packet).collect()
}

/// A session that no source has, and what it is given.
pub(super) struct Heard {
    pub stream: Arc<Stream>,
    pub session: Session,
    ring: Arc<Ring>,
    position: u64,
    frames: u64,
    pub units: Vec<(Arc<SoundFormat>, Sound)>,
}

impl Heard {
    pub fn new() -> Self {
        let ring = Arc::new(Ring::new(Duration::from_secs(3600), 1 << 26));
        let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(Conditions::default())));
        let session = stream.session(Duration::ZERO);
        let mut heard = Self { stream, session, ring, position: 0, frames: 0, units: Vec::new() };
        // The first frame of a ring brings no sound.
        heard.hear();
        heard
    }

    pub fn told(&self) -> Option<String> {
        self.stream.counters.sound()
    }

    pub fn lost(&self) -> u64 {
        self.stream.counters.sound_lost.load(Ordering::Relaxed)
    }

    /// Takes what has come: a frame that is shown much later brings all of it.
    fn hear(&mut self) {
        let keyframe = scripted::film("640x360")[0].clone();
        self.frames += 1;
        self.session.frame(Frame { pts: Duration::from_secs(1000 + self.frames), ..keyframe });
        while let Next::Frame { frame, .. } = self.ring.next(&mut self.position, Duration::ZERO) {
            let Some(sound) = frame.sound else { continue };
            self.units.extend(sound.units.into_iter().map(|unit| (sound.format.clone(), unit)));
        }
    }

    /// Waits for the unit in which this moment is.
    pub fn wait_for(&mut self, moment: Duration) {
        eventually("it is encoded", || {
            self.hear();
            self.units.iter().any(|(_, unit)| (unit.pts..unit.pts + UNIT).contains(&moment))
        });
    }

    /// When clicks are heard, ms, in a film of so many seconds.
    fn clicks(&self, seconds: u32) -> Vec<u64> {
        let film = scripted::film("640x360").iter().cycle().zip(0..seconds * scripted::FPS);
        let mut waiting = Waiting::default();
        self.units.iter().for_each(|(format, unit)| assert_eq!(waiting.push(format, unit.clone()), 0));
        let frames: Vec<Frame> = film
            .map(|(frame, n)| {
                let pts = Duration::from_secs(1) * n / scripted::FPS;
                Frame { pts, sound: waiting.until(pts), ..frame.clone() }
            })
            .collect();
        let mut file = Mp4::begin(frames[0].clone());
        let mut bytes: Vec<Bytes> = frames[1..].iter().filter_map(|frame| file.push(frame.clone())).map(|part| part.bytes).collect();
        bytes.extend(file.finish(Duration::MAX).map(|part| part.bytes));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("click.mp4");
        std::fs::write(&path, bytes.concat()).unwrap();
        clicks_in(&path)
    }
}

/// When clicks are heard in a file, ms, as ffmpeg decodes it.
pub(super) fn clicks_in(path: &std::path::Path) -> Vec<u64> {
    let options = ["-map", "0:a", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"];
    let decoded = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(path).args(options).output().unwrap();
    assert!(decoded.status.success() && decoded.stderr.is_empty(), "{}", String::from_utf8_lossy(&decoded.stderr));
    let samples = decoded.stdout.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]]).unsigned_abs());
    let loud: Vec<(u64, u16)> = (0..).zip(samples).filter(|(_, sample)| *sample > 5000).collect();
    let groups = loud.chunk_by(|(before, _), (after, _)| after - before < 1600);
    groups.map(|group| group.iter().max_by_key(|(_, loud)| *loud).unwrap().0 / 16).collect()
}

/// Clicks are heard within this of when they were to be, ms.
const CLOSE: u64 = 8;

fn assert_clicks(name: &str, heard: &[u64], expected: &[u64]) {
    let close = |(heard, expected): (&u64, &u64)| heard.abs_diff(*expected) <= CLOSE;
    assert!(heard.len() == expected.len() && heard.iter().zip(expected).all(close), "{name}: {heard:?}, not {expected:?}");
}

#[test]
fn a_click_is_heard_when_it_was_to_be_whatever_is_missing_around_it() {
    let every = |from: u64, to: u64| (from..to).step_by(PACKET as usize);
    let (mu, a) = (Samples { law: Law::Mu, rate: 8000, channels: 1 }, Samples { law: Law::A, rate: 8000, channels: 1 });
    let stereo = Samples { law: Law::Linear, rate: 16_000, channels: 2 };
    let cases: [(&str, Samples, Vec<u64>, &[u64]); 5] = [
        ("PCMU", mu, every(0, 4000).collect(), &[500, 2111, 3700]),
        ("PCMA that begins later", a, every(620, 4000).collect(), &[650, 2111, 3700]),
        (
            "PCMU of which packets are lost",
            mu,
            every(0, 4000).filter(|at| !(1000..1400).contains(at) && at % 500 != 480).collect(),
            &[500, 1503, 2111, 3700],
        ),
        ("PCMA that pauses", a, every(0, 1000).chain(every(2500, 4000)).collect(), &[500, 990, 2505, 3700]),
        ("L16 that stops", stereo, every(0, 2200).collect(), &[500, 2190]),
    ];
    for encoder in installed() {
        for (name, samples, begin, clicks) in &cases {
            let mut heard = Heard::new();
            let sound = SoundEncoder::start(Input::of(*samples), std::slice::from_ref(encoder), &heard.session).unwrap();
            let sent = packets(*samples, begin.clone(), clicks);
            sent.iter().for_each(|packet| sound.push(packet.clone()));
            heard.wait_for(Duration::from_millis(begin[begin.len() - 1] + PACKET - 1));
            let name = format!("{name}, {}", encoder.name);
            assert_clicks(&name, &heard.clicks(5), clicks);
            assert_eq!(heard.lost(), 0, "{name}");
            let channels = if samples.channels == 1 { "mono" } else { "stereo" };
            assert_eq!(heard.told().unwrap(), format!("AAC 16 kHz {channels}, from {}", samples.name()), "{name}");
        }
    }
}

#[test]
fn what_is_missing_or_fails_is_told_and_what_comes_is_counted() {
    static MISSING: [AacEncoder; 2] =
        [AacEncoder { name: "nosuchenc", launch: "nosuchenc", delay: 0 }, AacEncoder { name: "otherenc", launch: "otherenc", delay: 0 }];
    // It has no such bit rate, and gives no sound out.
    static FAILING: [AacEncoder; 1] = [AacEncoder { name: "identity", launch: "identity", delay: 0 }];
    static BREAKING: [AacEncoder; 1] = [AacEncoder { name: "voaacenc", launch: "identity error-after=3 ! voaacenc", delay: 1600 }];
    gst_init();
    let samples = Samples { law: Law::Mu, rate: 8000, channels: 1 };
    let undecodable = Input { decoder: Some("nosuchdec"), ..Input::of(samples) };
    for (input, encoders, told) in [
        (Input::of(samples), &MISSING[..], "left out: PCMU, because no AAC encoder is installed: nosuchenc or otherenc"),
        (Input::of(samples), &FAILING, "left out: PCMU, because identity cannot be used: no property \"bitrate\" in element \"identity\""),
        (Input::of(samples), &BREAKING, "Failed after iterations as requested."),
        (undecodable, &ENCODERS, "left out: PCMU, because GStreamer's nosuchdec is not installed"),
    ] {
        let heard = Heard::new();
        let sound = SoundEncoder::start(input, encoders, &heard.session).unwrap();
        let mut sent = packets(samples, (0..).step_by(PACKET as usize).take(50), &[]).into_iter().cycle();
        eventually("it is told, and what comes is counted", || {
            sound.push(sent.next().unwrap());
            heard.told().is_some_and(|told| told.starts_with("left out")) && heard.lost() > 0
        });
        let said = heard.told().unwrap();
        assert!(said.starts_with("left out: PCMU, because ") && said.ends_with(told), "{said}");
    }
}

/// It sleeps for a second at every packet.
#[test]
fn an_encoder_that_falls_behind_holds_up_nobody_and_a_bound_of_sound() {
    static SLOW: [AacEncoder; 1] = [AacEncoder { name: "voaacenc", launch: "identity sleep-time=1000000 ! voaacenc", delay: 1600 }];
    gst_init();
    let samples = Samples { law: Law::A, rate: 8000, channels: 1 };
    let heard = Heard::new();
    let sound = SoundEncoder::start(Input::of(samples), &SLOW, &heard.session).unwrap();
    let sent = packets(samples, (0..120_000).step_by(PACKET as usize), &[]);
    sent.iter().for_each(|packet| sound.push(packet.clone()));
    // What waits is at most 256 KiB before the decoder, in it, and, twice as large, before the encoder.
    let most = 512 + (256 << 10) / 160 + (256 << 10) / 320 + 10;
    eventually("the rest is counted", || heard.lost() >= sent.len() as u64 - most);
}
