//! Sound beside the frames of a source, on its way into clips.

use std::{io::Write, os::unix::net::UnixStream};

use super::{scripted::FPS, *};

/// Films with a tone, in real time.
struct Singing;

impl FrameSource for Singing {
    fn run(&self, session: &Session) -> Result<(), SourceError> {
        let (film, (format, units)) = (scripted::film("640x360"), scripted::tone(16_000, 1, 2));
        let (began, mut heard) = (Instant::now(), 0_u32);
        for (n, taken) in (0..).zip(film.iter().cycle()) {
            let pts = Duration::from_secs(1) * n / FPS;
            if session.wait((began + pts).saturating_duration_since(Instant::now())) {
                break;
            }
            while Duration::from_millis(64) * heard < pts {
                let data = units[heard as usize % units.len()].clone();
                session.sound(&format, Sound { pts: Duration::from_millis(64) * heard, data });
                heard += 1;
            }
            session.frame(Frame { pts, taken: Instant::now(), ..taken.clone() });
        }
        Ok(())
    }
}

/// When each access unit of sound begins, seconds; `None`: the file has no such track.
fn heard(clip: &Clip) -> Option<Vec<f64>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    std::fs::write(&path, &clip.bytes).unwrap();
    let path = path.to_str().unwrap();
    run("ffprobe", &["-v", "error", "-select_streams", "a", "-show_entries", "stream=codec_name", "-of", "csv=p=0", path])
        .contains("aac")
        .then(|| {
            let told = run("ffprobe", &["-v", "error", "-select_streams", "a", "-show_entries", "packet=pts_time", "-of", "csv=p=0", path]);
            told.lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect()
        })
}

#[test]
fn a_clip_has_the_sound_of_its_pre_roll_and_its_frames_and_a_snapshot_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("motion.sock");
    let config = config::Media {
        source: Source::Test,
        low_source: None,
        rtsp_transport: RtspTransport::Auto,
        sound: true,
        pre_roll: Duration::from_secs(2),
        pre_roll_bytes: 6_000_000,
        snapshot_url: None,
        motion: Motion::Socket(path.clone()),
        detection: config::Detection::default(),
    };
    let collector = Collector::new(60);
    collector.snapshots.store(true, Ordering::Relaxed);
    let sources = Sources { main: Arc::new(Singing), low: None };
    let media = Media::start(sources, &config, None, Arc::new(collector.clone()), Conditions::default()).unwrap();
    wait_for_frames(&media, 60);
    assert_eq!(media.status().stream.sound.as_deref(), Some("AAC 16 kHz mono"));
    UnixStream::connect(&path).unwrap().write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
    collector.wait_for(2);
    assert_eq!(media.status().stream.sound_lost, 0);
    let clips = collector.clips.lock().unwrap();
    assert_eq!((clips[0].beginning.kind, clips[1].beginning.kind), (ClipKind::Snapshot, ClipKind::Motion));
    assert_eq!(heard(&clips[0]), None);
    let (units, lasts) = (heard(&clips[1]).unwrap(), clips[1].duration.as_secs_f64());
    assert!(units[0] < 0.064 && lasts > 6.0, "{units:?} in {lasts} s");
    assert!(units.windows(2).all(|pair| (pair[1] - pair[0] - 0.064).abs() < 0.001), "{units:?}");
    assert!((units[units.len() - 1] + 0.064 - lasts).abs() < 0.065, "{units:?} in {lasts} s");
}
