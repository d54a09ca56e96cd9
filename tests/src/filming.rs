//! One agent that films from one [`rtsp_camera`], and the comparison of what it recorded with what the camera sent.
//! The cloud plays no part in [`Filming`]; [`clip_of`] has one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use care_protocol::{Mode, Policy};
use rtsp_camera::{Camera, Clock, Codec, Options, Session, Video};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::{
    agent::Agent,
    build::Build,
    issuer::PREMIUM,
    media::{Probe, probe, probe_bytes, recordings},
    pki::Pki,
    status::Status,
    wait::PATIENCE,
    world::{DEVICE, World},
};

/// Of a time in a file, of an RTP time and of a printed one together, seconds.
const ROUNDING: f64 = 0.001;

/// A camera, and what the agent must make of it.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Its name in messages.
    pub name: &'static str,
    /// The camera.
    pub options: Options,
    /// User info of the agent's URL.
    pub user: Option<&'static str>,
    /// Frames that the agent must have received before the judgement.
    pub frames: u64,
    /// What must be on the card.
    pub expected: Expected,
}

/// What must be on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Every frame, from one session.
    Everything,
    /// Whole pictures only, at least so many of each hundred; the others are counted.
    Percent(u64),
    /// Every frame of each session, but for those that were on their way when it ended.
    EverySession,
}

impl Kind {
    /// Four seconds of a camera that must be recorded without a gap.
    pub fn new(name: &'static str, options: Options) -> Self {
        let frames = (options.fps * 4.0).ceil() as u64;
        Self { name, options, user: None, frames, expected: Expected::Everything }
    }

    /// With this user info in the agent's URL.
    pub fn user(mut self, user: &'static str) -> Self {
        self.user = Some(user);
        self
    }

    /// Records so many seconds of stream.
    pub fn seconds(mut self, seconds: f64) -> Self {
        self.frames = (self.options.fps * seconds).ceil() as u64;
        self
    }

    /// Judged otherwise than by [`Expected::Everything`].
    pub fn expect(mut self, expected: Expected) -> Self {
        self.expected = expected;
        self
    }
}

/// Films all these cameras at once, one agent for each, and judges what is on the cards. `patience` is for all of them.
pub async fn film_all(build: Build, patience: Duration, kinds: Vec<Kind>) {
    let pki = Arc::new(Pki::new());
    let (mut filming, mut names) = (JoinSet::new(), HashMap::new());
    for kind in kinds {
        let (pki, name) = (Arc::clone(&pki), kind.name);
        let task = filming.spawn(async move { Filming::start(&pki, build, kind).judged(patience).await });
        names.insert(task.id(), name);
    }
    let mut failed = Vec::new();
    while let Some(ended) = filming.join_next().await {
        if let Err(panicked) = ended {
            failed.push(names[&panicked.id()]);
        }
    }
    assert!(failed.is_empty(), "failed, as said above: {failed:?}");
}

/// An agent that films.
pub struct Filming {
    kind: Kind,
    /// The agent.
    pub agent: Agent,
    /// The camera.
    pub camera: Camera,
    card: TempDir,
}

impl Filming {
    /// Starts camera and agent. The agent's broker and cloud are unreachable.
    pub fn start(pki: &Pki, build: Build, kind: Kind) -> Self {
        let camera = Camera::start(kind.options.clone()).unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut agent = Agent::new(pki, DEVICE, nobody, &format!("https://{nobody}"));
        build.select(&mut agent);
        // In memory: a disk that other tests keep busy would be a slow card, which loses frames by right.
        let card = tempfile::tempdir_in("/dev/shm").unwrap();
        agent.config.source = Some(kind.user.map_or_else(|| camera.url(), |user| camera.url_for(user)));
        agent.config.recording = Some(card.path().to_owned());
        agent.start();
        Self { kind, agent, camera, card }
    }

    /// Waits until the frames are recorded, stops the agent and judges what is on the card.
    async fn judged(mut self, patience: Duration) {
        let (name, frames) = (self.kind.name, self.kind.frames);
        // What was sent before the last two statuses were asked for.
        let sent = Mutex::new([Vec::new(), self.camera.sessions()]);
        // A slow camera's last frames are written when the recording ends.
        let received = |status: &Status| {
            let mut sent = sent.lock().unwrap();
            sent.rotate_left(1);
            sent[1] = self.camera.sessions();
            status.0["media"]["frames"].as_u64().is_some_and(|received| received >= frames)
        };
        let status = self.agent.status_within(&format!("{name}: {frames} frames"), patience, received).await;
        // What came after it, until the agent stops, may be recorded.
        let [sent, _] = sent.into_inner().unwrap();
        self.agent.stop().await;
        let log = self.agent.log().all();
        let Self { kind, card, camera, .. } = &self;
        let (kind, files, all) = (kind.clone(), recordings(card.path()), camera.sessions());
        let events = camera.events();
        let judged = tokio::task::spawn_blocking(move || judge(&kind, &files, &sent, &all, &status));
        if let Err(fault) = judged.await.expect("the judge does not panic") {
            panic!("{name}: {fault}\nthe camera saw {events:#?}\nthe agent logged {log:#?}");
        }
    }
}

/// What is wrong with a recording, if anything.
fn judge(kind: &Kind, files: &[PathBuf], sent: &[Session], all: &[Session], status: &Status) -> Result<(), String> {
    let check = |holds: bool, fault: String| if holds { Ok(()) } else { Err(fault) };
    let probes: Vec<Probe> = files.iter().map(|file| probe(file)).collect();
    let pictures: Vec<&String> = probes.iter().flat_map(|probe| &probe.pictures).collect();
    let media = &status.0["media"];
    let at_fault = media["fault"] != Value::Null && kind.expected == Expected::Everything;
    check(!at_fault, format!("the stream is at fault: {media:#}"))?;
    check(media["recording"]["fault"] == Value::Null, format!("the recording is at fault: {media:#}"))?;
    let codec = match kind.options.codec {
        Codec::H264 => "H.264 ",
        Codec::H265 => "H.265 ",
    };
    check(media["coding"].as_str().is_some_and(|coding| coding.starts_with(codec)), format!("the coding is wrong: {media:#}"))?;
    check(status.recorded_and_lost().1 == 0, format!("the card lost frames: {media:#}"))?;
    for probe in &probes {
        check(probe.starts_with_keyframe, "a file begins without a keyframe".into())?;
        check(probe.complaints.is_empty(), format!("a player complains: {}", probe.complaints))?;
        let counts = (probe.pictures.len(), probe.pts.len());
        check(counts.0 == counts.1, format!("{} pictures of {} frames can be decoded", counts.0, counts.1))?;
        check(probe.pts.windows(2).all(|pair| pair[1] > pair[0]), format!("times that do not rise: {:?}", probe.pts))?;
    }
    let total = |sessions: &[Session]| sessions.iter().map(|session| session.frames).sum::<u64>();
    let count = pictures.len() as u64;
    match kind.expected {
        Expected::Everything => {
            check(all.len() == 1, format!("{} sessions: {all:?}", all.len()))?;
            check(media["restarts"] == 0 && media["dropped"] == 0, format!("frames are dropped: {media:#}"))?;
            // The camera counts a frame before the agent has read it.
            let (least, most) = (total(sent).saturating_sub(3), total(all));
            check((least..=most).contains(&count), format!("{count} frames on the card, {least} to {most} were sent"))?;
            let source = expected_pictures(&kind.options, pictures.len());
            // The last picture may be one whose B pictures, shown before it, have not come.
            let certain = pictures.len() - usize::from(has_b_pictures(&kind.options));
            let wrong = pictures[..certain].iter().zip(&source).position(|(found, expected)| *found != expected);
            check(wrong.is_none(), format!("frame {wrong:?} of {count} is not the camera's"))?;
            judge_times(&probes, &kind.options, &all[0].sent)
        }
        Expected::Percent(percent) => {
            let (least, most) = (total(sent) * percent / 100, total(all));
            check((least..=most).contains(&count), format!("{count} frames on the card, {least} to {most} expected"))?;
            let source = pictures_of(&kind.options.file, kind.options.fps);
            let foreign = pictures.iter().position(|picture| !source.contains(picture));
            check(foreign.is_none(), format!("frame {foreign:?} of {count} is none of the camera's"))?;
            let told = media["dropped"] != 0 || media["restarts"] != 0;
            // The camera counts a frame before the agent has read it.
            check(count + 3 >= total(sent) || told, format!("no loss is counted, and no fault named: {media:#}"))
        }
        Expected::EverySession => {
            check(all.len() > 1, "the camera was connected to once".into())?;
            let (least, most) = (total(sent).saturating_sub(4 * all.len() as u64), total(all));
            check((least..=most).contains(&count), format!("{count} frames on the card, {least} to {most} were sent: {all:?}"))?;
            let source = pictures_of(&kind.options.file, kind.options.fps);
            check(pictures.iter().all(|picture| source.contains(picture)), "a picture that is none of the camera's".into())
        }
    }
}

/// The recording lasts as long as filming did, and no two frames are far apart. Where RTP's own times make sense they
/// decide alone, whatever the machine is busy with. Those of arrival are late by what it takes to schedule camera and agent, and a
/// clock that is a little off is followed for a while: where a stalled machine `sent` frames late, either clock is right.
fn judge_times(probes: &[Probe], options: &Options, sent: &[Duration]) -> Result<(), String> {
    let Options { fps, burst, .. } = *options;
    let by_rtp = matches!(options.clock, Clock::Normal | Clock::WrapAfter(_));
    let frames: usize = probes.iter().map(|probe| probe.pts.len()).sum();
    let interval = 1.0 / fps;
    let span = |probe: &Probe| probe.pts.last().unwrap_or(&0.0) - probe.pts.first().unwrap_or(&0.0) + interval;
    let seconds: Vec<f64> = sent.iter().take(frames).map(Duration::as_secs_f64).collect();
    let (lasts, expected) = (probes.iter().map(span).sum::<f64>(), frames as f64 * interval);
    let sending = seconds.last().unwrap_or(&0.0) + interval;
    // The last picture may have come before the B pictures that are shown ahead of it.
    let missing = if has_b_pictures(options) { 4.0 * interval } else { 0.0 };
    let most = if by_rtp { missing + ROUNDING * probes.len() as f64 } else { f64::max(1.75, expected * 0.1) };
    let range = if by_rtp { expected..=expected } else { expected.min(sending)..=expected.max(sending) };
    if !(range.start() - most..=range.end() + most).contains(&lasts) {
        return Err(format!("{frames} frames last {lasts:.3} s instead of {expected:.3} s"));
    }
    let longest = probes.iter().flat_map(|probe| probe.pts.windows(2)).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    let pause = seconds.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::from(burst) * interval, f64::max);
    let most = if by_rtp { interval + missing + ROUNDING } else { pause * 1.5 + 1.5 };
    if longest > most { Err(format!("two frames are {longest:.3} s apart")) } else { Ok(()) }
}

fn has_b_pictures(options: &Options) -> bool {
    let video = Video::read(&options.file, options.codec).unwrap();
    (0..video.len()).any(|index| video.shift(index) != 0)
}

/// A hash of each picture of an Annex B file, in presentation order.
fn pictures_of(file: &Path, fps: f64) -> Arc<Vec<String>> {
    static KNOWN: OnceLock<Mutex<HashMap<PathBuf, Arc<Vec<String>>>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    if let Some(pictures) = known.lock().unwrap().get(file) {
        return Arc::clone(pictures);
    }
    let output = std::process::Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-r", &fps.to_string(), "-i"])
        .arg(file)
        .args(["-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .expect("ffmpeg is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let pictures = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit(", ").next());
    let pictures: Arc<Vec<String>> = Arc::new(pictures.map(str::to_owned).collect());
    assert!(!pictures.is_empty(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    known.lock().unwrap().insert(file.to_owned(), Arc::clone(&pictures));
    pictures
}

/// The first pictures that a camera sends, in presentation order: it loops its file, and may change to another.
pub(crate) fn expected_pictures(options: &Options, count: usize) -> Vec<String> {
    let mut expected = Vec::new();
    let files: Vec<(f64, &PathBuf)> =
        [(0.0, &options.file)].into_iter().chain(options.changes.iter().map(|(at, file)| (*at, file))).collect();
    for (index, (from, file)) in files.iter().enumerate() {
        let pictures = pictures_of(file, options.fps);
        let until = files.get(index + 1).map_or(count, |(until, _)| ((until - from) * options.fps).ceil() as usize + expected.len());
        let missing = until.min(count).saturating_sub(expected.len());
        expected.extend(pictures.iter().cycle().take(missing).cloned());
    }
    expected
}

/// Films a camera under a Premium plan, and returns the first clip. Panics unless it has whole pictures of the camera,
/// without a gap, and lasts as long as the agent says.
pub async fn clip_of(build: Build, name: &str, options: Options) -> Probe {
    let camera = Camera::start(options.clone()).unwrap();
    let mut world = World::of(build).await;
    world.agent.config.source = Some(camera.url());
    let premium = world.premium().limited(Policy { clip_max_s: 4, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let filming = |status: &Status| status.0["media"]["frames"].as_u64() > Some(20);
    world.agent.status_within(&format!("{name}: frames"), PATIENCE, filming).await;
    let put = world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let announced = {
        let seen = world.cloud.lock();
        let (_, asked) = seen.asked.iter().find(|(_, asked)| asked.clip == put.clip).expect("a grant for the clip");
        Duration::from_millis(asked.duration_ms).as_secs_f64()
    };
    let status = world.agent.status("itself", |_| true).await;
    assert_eq!(status.0["media"]["fault"], Value::Null, "{name}: {:#}", status.0["media"]);
    let clip = probe_bytes(&put.body);
    let source = pictures_of(&options.file, options.fps);
    assert!(clip.starts_with_keyframe && clip.complaints.is_empty(), "{name}: {clip:?}");
    let first = source.iter().position(|picture| *picture == clip.pictures[0]).unwrap_or_else(|| panic!("{name}: {clip:?}"));
    let expected = source.iter().cycle().skip(first).take(clip.pictures.len());
    assert!(clip.pictures.iter().eq(expected), "{name}: a frame is missing in the clip");
    assert_eq!(clip.pictures.len(), clip.pts.len(), "{name}: {clip:?}");
    let lasts = clip.pts[clip.pts.len() - 1] - clip.pts[0] + 1.0 / options.fps;
    assert!((lasts - announced).abs() < 0.5, "{name}: announced {announced} s, lasts {lasts} s");
    assert!((1.5..=4.5).contains(&lasts), "{name}: the clip lasts {lasts} s");
    assert!((clip.pts.len() as f64 / options.fps - lasts).abs() < 0.5, "{name}: {} frames in {lasts} s", clip.pts.len());
    clip
}

/// Checks that a file has what a test needs: so many access units, with these NAL unit types among them.
pub fn assert_has(file: &Path, codec: rtsp_camera::Codec, types: &[u8]) {
    let video = Video::read(file, codec).unwrap();
    for wanted in types {
        let found = (0..video.len()).any(|index| video.unit(index).any(|nal| codec.nal_type(nal) == *wanted));
        assert!(found, "{} has no NAL unit of type {wanted}", file.display());
    }
}
