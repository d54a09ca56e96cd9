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
    gstreamer::source::GstreamerSource,
    mp4::Mp4,
    ring::{Next, Ring},
    samples::{Law, Samples},
    sound::{Sound, SoundFormat, Waiting},
    source::{FrameSource, Session, Stream},
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
struct Heard {
    stream: Arc<Stream>,
    session: Session,
    ring: Arc<Ring>,
    position: u64,
    frames: u64,
    units: Vec<(Arc<SoundFormat>, Sound)>,
}

impl Heard {
    fn new() -> Self {
        let ring = Arc::new(Ring::new(Duration::from_secs(3600), 1 << 26));
        let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(Conditions::default())));
        let session = stream.session(Duration::ZERO);
        let mut heard = Self { stream, session, ring, position: 0, frames: 0, units: Vec::new() };
        // The first frame of a ring brings no sound.
        heard.hear();
        heard
    }

    fn told(&self) -> Option<String> {
        self.stream.counters.sound()
    }

    fn lost(&self) -> u64 {
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
    fn wait_for(&mut self, moment: Duration) {
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
        clicks_of(&frames)
    }
}

/// When clicks are heard in a file of these frames, ms.
fn clicks_of(frames: &[Frame]) -> Vec<u64> {
    let mut file = Mp4::begin(frames[0].clone());
    let mut bytes: Vec<Bytes> = frames[1..].iter().filter_map(|frame| file.push(frame.clone())).map(|part| part.bytes).collect();
    bytes.extend(file.finish(Duration::MAX).map(|part| part.bytes));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("click.mp4");
    std::fs::write(&path, bytes.concat()).unwrap();
    clicks_in(&path)
}

/// When clicks are heard in a file, ms, as ffmpeg decodes it.
fn clicks_in(path: &std::path::Path) -> Vec<u64> {
    let options =
        ["-map", "0:a", "-af", "aresample=async=1:min_hard_comp=0.01:first_pts=0", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"];
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

/// What a source gives, from its first frame until one that is shown so late, and what the status says of its sound.
fn filmed(source: Source, sound: bool, until: Duration) -> (Vec<Frame>, Option<String>) {
    let ring = Arc::new(Ring::new(Duration::from_secs(60), 1 << 26));
    let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(Conditions::default())));
    let (session, source) = (stream.session(Duration::ZERO), GstreamerSource::new(source, sound));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| source.run(&session));
        let (mut position, mut frames) = (0, Vec::<Frame>::new());
        eventually("it is filmed", || {
            while let Next::Frame { frame, .. } = ring.next(&mut position, Duration::ZERO) {
                frames.push(frame);
            }
            assert!(!run.is_finished(), "the source has ended");
            frames.last().is_some_and(|frame| frame.pts >= until)
        });
        let told = stream.counters.sound();
        session.end();
        run.join().unwrap().unwrap();
        (frames, told)
    })
}

/// Heard by the clock that sound and picture share: a busy machine changes nothing.
const BESIDE: u64 = 40;

fn assert_beside(name: &str, heard: &[u64], expected: &[u64]) {
    let found = |expected: &u64| heard.iter().any(|heard| heard.abs_diff(*expected) <= BESIDE);
    assert!(expected.iter().all(found), "{name}: {heard:?}, not {expected:?}");
}

#[test]
fn the_sound_of_a_description_is_heard_beside_its_picture() {
    gst_init();
    let dir = tempfile::tempdir().unwrap();
    let (samples, aac) = (clicking(&dir, "description.mov", "pcm_mulaw"), clicking(&dir, "description.mp4", "aac"));
    let (samples, aac) = (&samples, &aac);
    std::thread::scope(|scope| {
        for (name, path, sound, told) in [
            (
                "samples",
                samples,
                "mulawdec ! audioconvert ! audio/x-raw,format=F32LE ! clocksync name=sound",
                "AAC 16 kHz mono, from samples",
            ),
            ("\u{b5}-law", samples, "clocksync name=sound", "AAC 16 kHz mono, from PCMU"),
            ("A-law behind a tee", samples, "mulawdec ! alawenc ! clocksync ! tee name=sound", "AAC 16 kHz mono, from PCMA"),
            ("AAC", aac, "clocksync name=sound", "AAC 16 kHz stereo"),
            ("ADTS", aac, "aacparse ! audio/mpeg,stream-format=adts ! clocksync name=sound", "AAC 16 kHz stereo"),
        ] {
            let launch = format!(
                "filesrc location={} ! qtdemux name=file file.audio_0 ! queue ! {sound} file.video_0 ! queue ! h264parse ! clocksync",
                path.display()
            );
            scope.spawn(move || {
                let (frames, said) = filmed(Source::Launch(launch.as_str().into()), true, Duration::from_millis(3200));
                assert_eq!(said.as_deref(), Some(told), "{name}");
                assert_beside(name, &clicks_of(&frames), &[700, 2300]);
            });
        }
    });
}

#[test]
fn sound_that_is_not_wanted_or_not_there_is_none() {
    gst_init();
    let picture = "videotestsrc is-live=true ! video/x-raw,width=320,height=240,framerate=15/1 ! openh264enc gop-size=15 complexity=low";
    let with_sound = format!("audiotestsrc is-live=true ! audioconvert name=sound {picture}");
    for (launch, wanted) in [(with_sound.as_str(), false), (picture, true)] {
        let (frames, told) = filmed(Source::Launch(launch.into()), wanted, Duration::from_secs(1));
        assert_eq!(told, None, "{launch}");
        assert!(frames.iter().all(|frame| frame.sound.is_none()), "{launch}");
    }
    let linked = format!("audiotestsrc is-live=true ! audioconvert name=sound ! fakesink {picture}");
    let dir = Arc::new(Stream::new(Vec::new(), None, DropCounters::new(Conditions::default())));
    let refused = GstreamerSource::new(Source::Launch(linked.as_str().into()), true).run(&dir.session(Duration::ZERO));
    assert!(refused.unwrap_err().to_string().contains("named sound is linked already"));
}

/// A film of four seconds whose sound clicks at 700 and 2300 ms.
fn clicking(dir: &TempDir, name: &str, codec: &str) -> PathBuf {
    let path = dir.path().join(name);
    let click = "aevalsrc=0.9*(between(t\\,0.7\\,0.701)+between(t\\,2.3\\,2.301)):s=16000:d=4";
    let input = ["-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=15:duration=4", "-f", "lavfi", "-i", click];
    let coding = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", "15", "-bf", "0", "-c:a", codec];
    // In MP4 ffmpeg names two channels for AAC of one.
    let channels = ["-ac", if codec == "aac" { "2" } else { "1" }, path.to_str().unwrap()];
    run("ffmpeg", &[&input[..], &coding, &channels].concat());
    path
}

#[test]
fn the_sound_of_a_file_is_heard_beside_its_picture_each_time_around() {
    gst_init();
    let dir = tempfile::tempdir().unwrap();
    let dir = &dir;
    std::thread::scope(|scope| {
        for (name, codec, told) in [
            ("aac.mp4", "aac", "AAC 16 kHz stereo"),
            ("mulaw.mov", "pcm_mulaw", "AAC 16 kHz mono, from PCMU"),
            ("mp3.mp4", "libmp3lame", "AAC 16 kHz mono, from MPEG audio"),
        ] {
            scope.spawn(move || {
                let source = Source::File(clicking(dir, name, codec));
                let (frames, said) = filmed(source, true, Duration::from_millis(5400));
                assert_eq!(said.as_deref(), Some(told), "{name}");
                // A track of sound may be longer than the picture's: then the next turn of both begins later.
                let second = frames[60].pts.as_millis() as u64;
                assert!((4000..4200).contains(&second), "{name}: {second}");
                assert_beside(name, &clicks_of(&frames), &[700, 2300, second + 700]);
            });
        }
    });
}

#[test]
fn a_file_that_is_tried_says_what_becomes_of_its_sound() {
    let dir = tempfile::tempdir().unwrap();
    for (name, codec, told) in [
        ("tried.mp4", "aac", "320x240, H.264 High (sound: AAC 16 kHz stereo)"),
        ("tried.mov", "pcm_mulaw", "320x240, H.264 High (sound: AAC 16 kHz mono, from PCMU)"),
    ] {
        let source = Source::File(clicking(&dir, name, codec));
        let tried = |config: &config::Media| try_source(&source, config, PATIENCE).unwrap().to_string();
        assert_eq!(tried(&camera(Source::Test, 1)), told);
        assert_eq!(tried(&config::Media { sound: false, ..camera(Source::Test, 1) }), "320x240, H.264 High");
    }
}
