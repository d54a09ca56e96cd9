//! The live view: what a viewer gets, and that none of them costs the camera anything.

use tokio::runtime::Runtime;

use super::{
    scripted::{FPS, Scripted, film, tone},
    *,
};
use crate::{
    media::{
        live::{Live, NoView, VIEWERS, View},
        recent::Recent,
        ring::Ring,
        sound::{SoundFormat, Soundtrack, Waiting},
        stop_signal::StopSignal,
    },
    status::{Server, SharedStatus, StatusDocument},
};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A film takes about 8 KB a frame.
const ROOM: usize = 1 << 24;

fn live(max_bytes: usize) -> (Arc<Ring>, Live) {
    let ring = Arc::new(Ring::new(Duration::from_secs(10), max_bytes));
    (ring.clone(), Live::new(ring, Arc::<Recent>::default(), StopSignal::default()))
}

/// Frames of the film, of these numbers, as if they were taken now.
fn push(ring: &Ring, size: &str, numbers: std::ops::Range<u32>) {
    let film = film(size);
    for n in numbers {
        let pts = Duration::from_secs(1) * n / FPS;
        ring.push(Frame { pts, taken: Instant::now(), ..film[n as usize % film.len()].clone() });
    }
}

fn next(runtime: &Runtime, view: &mut View) -> Option<Bytes> {
    runtime.block_on(async { tokio::time::timeout(PATIENCE, view.next()).await.expect("more of the view, or its end") })
}

fn judged(bytes: &[u8]) -> Probed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.mp4");
    std::fs::write(&path, bytes).unwrap();
    probe(&path, 0.15)
}

#[test]
fn a_view_begins_at_once_with_the_newest_keyframe_and_goes_on_frame_by_frame() {
    let (runtime, (ring, live)) = (runtime(), live(ROOM));
    // Keyframes are 0, 15 and 30.
    push(&ring, "640x360", 0..40);
    let mut view = live.view().unwrap();
    assert!(view.media_type().starts_with("video/mp4; codecs=\"avc1.64"), "{}", view.media_type());
    let mut file = next(&runtime, &mut view).unwrap().to_vec();
    // The last frame's length is known once the next has come.
    assert_eq!(judged(&file).frames, 9);
    for n in 40..75 {
        push(&ring, "640x360", n..n + 1);
        file.extend(next(&runtime, &mut view).unwrap());
        if n == 41 {
            assert_eq!(judged(&file).frames, 11, "each frame as soon as the next one is there");
        }
    }
    let probed = judged(&file);
    assert_eq!((probed.codec.as_str(), probed.frames, probed.height), ("h264", 44, 360));
}

/// A microphone beside the film: 16 kHz, so that an access unit lasts 64 ms.
struct Microphone {
    format: Arc<SoundFormat>,
    units: Vec<Bytes>,
    waiting: Waiting,
    heard: u32,
}

impl Microphone {
    const BEGINS: Duration = Duration::from_millis(37);
    const LASTS: Duration = Duration::from_millis(64);

    fn new() -> Self {
        let (format, units) = tone(16_000, 1, 2);
        Self { format, units, waiting: Waiting::default(), heard: 0 }
    }

    fn at(heard: u32) -> Duration {
        Self::BEGINS + Self::LASTS * heard
    }

    /// What travels with a frame that is shown then. `late`: as if it had been encoded meanwhile.
    fn beside(&mut self, pts: Duration, late: Duration) -> Option<Soundtrack> {
        while Self::at(self.heard) + late < pts {
            let data = self.units[self.heard as usize % self.units.len()].clone();
            self.waiting.push(&self.format, Sound { pts: Self::at(self.heard), data });
            self.heard += 1;
        }
        self.waiting.until(pts)
    }
}

/// The same as [`push`] with what a microphone hears meanwhile.
fn push_heard(ring: &Ring, microphone: &mut Microphone, late: Duration, numbers: std::ops::Range<u32>) {
    let film = film("640x360");
    for n in numbers {
        let pts = Duration::from_secs(1) * n / FPS;
        let sound = microphone.beside(pts, late);
        ring.push(Frame { pts, taken: Instant::now(), sound, ..film[n as usize % film.len()].clone() });
    }
}

/// When each access unit of sound is heard, seconds of the file. None: the file has no such track.
fn heard(bytes: &[u8]) -> Vec<f64> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live.mp4");
    std::fs::write(&path, bytes).unwrap();
    let arguments = ["-v", "error", "-select_streams", "a", "-show_entries", "packet=pts_time", "-of", "csv=p=0", path.to_str().unwrap()];
    run("ffprobe", &arguments).lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect()
}

#[test]
fn a_view_has_the_sound_of_its_frames_where_it_was_heard_and_every_frame_as_soon_as_without() {
    for late in [0, 200] {
        let (runtime, (ring, live), late) = (runtime(), live(ROOM), Duration::from_millis(late));
        let mut microphone = Microphone::new();
        // Keyframes are 0, 15 and 30.
        push_heard(&ring, &mut microphone, late, 0..40);
        let mut view = live.view().unwrap();
        assert!(view.media_type().ends_with(",mp4a.40.2\""), "{}", view.media_type());
        let mut file = next(&runtime, &mut view).unwrap().to_vec();
        assert_eq!(judged(&file).frames, 9);
        for n in 40..75 {
            push_heard(&ring, &mut microphone, late, n..n + 1);
            file.extend(next(&runtime, &mut view).unwrap());
        }
        assert_eq!(judged(&file).frames, 44);
        // The file begins with the frame of second 2; each unit from then on is in it, as long as its frame is.
        let begins = Duration::from_secs(2);
        let expected: Vec<f64> =
            (0..microphone.heard).filter_map(|n| Microphone::at(n).checked_sub(begins)).map(|at| at.as_secs_f64()).collect();
        let heard = heard(&file);
        assert!(heard.len() + 2 >= expected.len() && heard.len() > 30, "{} of {}", heard.len(), expected.len());
        assert!(heard.iter().zip(&expected).all(|(heard, expected)| (heard - expected).abs() < 0.001), "{heard:?}, not {expected:?}");
        // Chromium's Media Source Extensions leave out an empty edit, and sound would come too early.
        assert!(!file.windows(4).any(|name| name == b"elst"), "an edit list");
    }
}

/// The picture of a file that promises sound stands still in a browser where none comes.
#[test]
fn a_view_ends_where_sound_ceases_or_begins_and_the_next_one_is_as_it_is_then() {
    let (runtime, (ring, live), on_time) = (runtime(), live(ROOM), Duration::ZERO);
    let mut microphone = Microphone::new();
    let sounds = |view: &View| view.media_type().contains("mp4a");
    push_heard(&ring, &mut microphone, on_time, 0..20);
    let mut view = live.view().unwrap();
    assert!(sounds(&view));
    // Its last unit is heard before frame 20. Of the frames that come without any, it has those of two seconds.
    let mut file = next(&runtime, &mut view).unwrap().to_vec();
    push(&ring, "640x360", 20..60);
    while let Some(more) = next(&runtime, &mut view) {
        file.extend(more);
    }
    let frames = judged(&file).frames;
    assert!((28 + 5..=30 + 5).contains(&frames), "{frames} frames, from frame 15 on");
    let mut view = live.view().unwrap();
    assert!(!sounds(&view));
    let mut file = next(&runtime, &mut view).unwrap().to_vec();
    assert_eq!(heard(&file).len(), 0);

    // Sound begins again after keyframe 60: it waits for the next one, 75, and until then the picture goes on.
    microphone.heard = 60 * 1000 / 15 / 64;
    for some in [60..61, 61..75] {
        push_heard(&ring, &mut microphone, on_time, some);
        file.extend(next(&runtime, &mut view).unwrap());
    }
    assert_eq!(judged(&file).frames, 75 - 45 - 1);
    push_heard(&ring, &mut microphone, on_time, 75..80);
    file.extend(next(&runtime, &mut view).unwrap());
    assert_eq!(judged(&file).frames, 75 - 45, "the last one before the keyframe");
    assert_eq!(next(&runtime, &mut view), None);
    let mut view = live.view().unwrap();
    assert!(sounds(&view));
    assert!(!heard(&next(&runtime, &mut view).unwrap()).is_empty());
}

#[test]
fn a_view_of_a_camera_without_sound_promises_none() {
    let (ring, live) = live(ROOM);
    push(&ring, "640x360", 0..20);
    let view = live.view().unwrap();
    assert!(view.media_type().ends_with("\"") && !view.media_type().contains("mp4a"), "{}", view.media_type());
    // Sound that has been over for long is none either.
    let mut microphone = Microphone::new();
    push_heard(&ring, &mut microphone, Duration::ZERO, 20..25);
    assert!(live.view().unwrap().media_type().contains("mp4a"));
    push(&ring, "640x360", 25..60);
    assert!(!live.view().unwrap().media_type().contains("mp4a"));
}

#[test]
fn viewers_are_bounded_and_one_that_goes_leaves_its_place() {
    let (ring, live) = live(ROOM);
    assert_eq!(live.view().err(), Some(NoView::NoPicture));
    push(&ring, "640x360", 0..20);
    let mut views: Vec<View> = (0..VIEWERS).map(|_| live.view().unwrap()).collect();
    assert_eq!(live.view().err(), Some(NoView::TooMany));
    views.pop();
    assert!(live.view().is_ok());
}

/// The ring goes on without it: nothing waits for a viewer.
#[test]
fn a_viewer_that_falls_behind_is_dropped() {
    let (runtime, (ring, live)) = (runtime(), live(1 << 18));
    push(&ring, "640x360", 0..20);
    let mut view = live.view().unwrap();
    assert!(next(&runtime, &mut view).is_some());
    push(&ring, "640x360", 20..200);
    assert_eq!(next(&runtime, &mut view), None);
    assert!(next(&runtime, &mut live.view().unwrap()).is_some(), "and may come again");
}

#[test]
fn a_view_ends_with_the_format_and_another_begins() {
    let (runtime, (ring, live)) = (runtime(), live(ROOM));
    push(&ring, "640x360", 0..15);
    let mut view = live.view().unwrap();
    push(&ring, "320x180", 15..16);
    let file = next(&runtime, &mut view).unwrap();
    assert_eq!(judged(&file).frames, 15, "it has all that was filmed before");
    assert_eq!(next(&runtime, &mut view), None);
    let mut view = live.view().unwrap();
    push(&ring, "320x180", 16..20);
    assert_eq!(judged(&next(&runtime, &mut view).unwrap()).height, 180);
}

#[test]
fn the_newest_keyframe_is_a_film_of_one_frame() {
    let (ring, live) = live(ROOM);
    push(&ring, "640x360", 0..20);
    let probed = judged(&live.frame().unwrap());
    assert_eq!((probed.frames, probed.height), (1, 360));
}

#[test]
fn a_jpeg_is_made_where_there_is_a_decoder_once_for_each_keyframe() {
    let (runtime, (ring, live)) = (runtime(), live(ROOM));
    push(&ring, "640x360", 0..20);
    let made = runtime.block_on(live.jpeg());
    if !backend::DECODES {
        assert_eq!(made, Err(NoView::NoDecoder));
        return;
    }
    let jpeg = made.unwrap();
    assert!(jpeg.starts_with(&[0xFF, 0xD8]), "{:?}", &jpeg[..jpeg.len().min(8)]);
    assert_eq!(runtime.block_on(live.jpeg()).unwrap().as_ptr(), jpeg.as_ptr(), "the same keyframe, the same picture");
}

/// In builds without a decoder too: what is kept is a picture of any bytes.
#[test]
fn the_jpeg_of_the_owner_before_is_not_kept() {
    let (ring, live) = live(ROOM);
    let jpeg = bytes::Bytes::from_static(b"a picture");
    live.keep(ring.erasures(), Duration::ZERO, &jpeg);
    assert!(live.made().is_some());
    let being_made = ring.erasures();
    ring.erase();
    live.forget();
    assert!(live.made().is_none());
    live.keep(being_made, Duration::ZERO, &jpeg);
    assert!(live.made().is_none(), "it was being made when the owner changed");
}

/// What a viewer over HTTP gets of a camera that films, and that the events of that camera have pictures.
#[test]
fn a_camera_is_seen_over_the_status_page() {
    use std::io::{Read, Write};

    let collector = Collector::new(20);
    let sources = Sources { main: Arc::new(Scripted::live()), low: None };
    let config = super::clips::camera(NEVER, 2);
    let media = Media::start(sources, &config, None, Arc::new(collector.clone()), Conditions::default()).unwrap();
    let example = include_str!("../../../systemd/config.toml");
    let status = Arc::new(SharedStatus::new(StatusDocument::new(&config::Config::parse(example, "config.toml".as_ref()).unwrap())));
    status.set_live(media.live());
    let server = Server::start(&config::Listen::Tcp("127.0.0.1:0".parse().unwrap()), status, Conditions::default());
    let address = server.address().unwrap();
    wait_for_frames(&media, 20);
    let open = |path: &str| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
        stream
    };
    let whole = |path: &str| {
        let mut answer = Vec::new();
        open(path).read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
        (String::from_utf8(answer[..head].to_vec()).unwrap(), answer.split_off(head))
    };
    let mut viewer = open("/live.mp4");
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.windows(4).filter(|name| *name == b"moof").count() < 40 {
        let read = viewer.read(&mut piece).unwrap();
        assert!(read > 0, "the view has ended");
        answer.extend(&piece[..read]);
    }
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let words = String::from_utf8_lossy(&answer[..head]).into_owned();
    assert!(words.contains("200 OK") && words.contains("content-type: video/mp4; codecs=\"avc1."), "{words}");
    // Up to the last whole fragment.
    let last = answer.windows(4).rposition(|name| name == b"moof").unwrap() - 4;
    let whole_ones = answer.windows(4).filter(|name| *name == b"moof").count() - 1;
    assert_eq!(judged(&answer[head..last]).frames, whole_ones);

    assert_eq!(judged(&whole("/frame.mp4").1).frames, 1);
    media.record();
    eventually("an event", || !media.live().motion().is_empty());
    let event = media.live().motion()[0].clone();
    assert_eq!(judged(&whole(&format!("/motion/{}.mp4", event.number)).1).frames, 1);
    collector.wait_for(1);
    eventually("what became of it", || media.live().motion()[0].became == crate::media::Became::Recorded(1));
    *collector.max.lock().unwrap() = None;
    media.record();
    eventually("an event that no clip may have", || media.live().motion()[0].became == crate::media::Became::NotAllowed);
    media.live().keep(0, Duration::ZERO, &bytes::Bytes::from_static(b"a picture"));
    assert!(media.live().made().is_some());
    media.forget();
    assert!(media.live().made().is_none(), "the JPEG of its last keyframe");
    assert_eq!(media.live().motion(), [], "they belong to the account before");
    assert!(whole(&format!("/motion/{}.mp4", event.number)).0.starts_with("HTTP/1.0 404"));
}
