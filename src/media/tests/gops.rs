//! Clips of streams whose keyframes are far apart, and whose parameter sets or size change: each event is in a clip, or is
//! counted with its reason.

use super::{
    scripted::{FPS, encode, film},
    *,
};

/// Where the reel has waited for an event two frames are farther apart.
fn probe(clip: &Clip) -> Probed {
    probe_clip_with_steps(clip, 5.0)
}

/// What rounding to the ticks of a track may come to.
const TICK: Duration = Duration::from_millis(1);

/// A film, and the number of its frames until the next one.
type Piece = (usize, &'static [Frame]);

/// A source that plays pieces of film in real time, the last one again and again. Each frame says that it was taken when it was
/// due, however late a busy machine delivers it, so where clips begin and end can be compared to the frame.
struct Reel {
    pieces: Vec<Piece>,
    /// Whether a keyframe that is asked for comes: the piece begins again.
    obliging: bool,
    asked: AtomicBool,
    /// After so many frames it waits, as long as this says so: a busy machine makes no event later than it is meant to be.
    hold: Mutex<Option<u64>>,
    /// When its keyframes were taken.
    keys: Mutex<Vec<Instant>>,
}

impl Reel {
    fn new(pieces: Vec<Piece>) -> Self {
        Self { pieces, obliging: false, asked: AtomicBool::new(false), hold: Mutex::default(), keys: Mutex::default() }
    }
}

impl FrameSource for Reel {
    fn run(&self, session: &Session) -> Result<(), SourceError> {
        let first = Instant::now();
        let mut began = first;
        let mut n = 0;
        for (index, (frames, film)) in self.pieces.iter().enumerate() {
            let frames = if index + 1 == self.pieces.len() { usize::MAX } else { *frames };
            let mut at = 0;
            for _ in 0..frames {
                let due = began + Duration::from_secs(1) * n / FPS;
                if session.wait(due.saturating_duration_since(Instant::now())) {
                    return Ok(());
                }
                if self.obliging && self.asked.swap(false, Ordering::Relaxed) {
                    at = 0;
                }
                let frame = Frame { pts: due - first, taken: due, ..film[at % film.len()].clone() };
                if frame.key {
                    self.keys.lock().unwrap().push(frame.taken);
                }
                session.frame(frame);
                (n, at) = (n + 1, at + 1);
                let held = Instant::now();
                while *self.hold.lock().unwrap() == Some(n.into()) {
                    if session.wait(Duration::from_millis(1)) {
                        return Ok(());
                    }
                }
                began += held.elapsed();
            }
        }
        Ok(())
    }

    fn request_keyframe(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}

/// A film of one GOP of so many seconds.
fn gop(seconds: u32) -> &'static [Frame] {
    let frames = (seconds * FPS).to_string();
    Vec::leak(encode("320x180", seconds, &["-g", &frames, "-keyint_min", &frames, "-sc_threshold", "0", "-b:v", "1M"]))
}

/// Four seconds, a keyframe each second, with parameter sets of their own.
fn with_qp(qp: &str) -> &'static [Frame] {
    Vec::leak(encode("640x360", 4, &["-g", "15", "-qp", qp]))
}

struct Filming {
    reels: Vec<Arc<Reel>>,
    collector: Collector,
    conditions: Conditions,
    media: Media,
    /// When each event was.
    events: Vec<Instant>,
}

impl Filming {
    fn start(reel: Reel, clip_max_s: u64, pre_roll_bytes: usize) -> Self {
        Self::start_with(reel, None, clip_max_s, pre_roll_bytes)
    }

    fn start_with(reel: Reel, low: Option<Reel>, clip_max_s: u64, pre_roll_bytes: usize) -> Self {
        let config = config::Media {
            source: Source::Test,
            low_source: low.as_ref().map(|_| Source::Test),
            rtsp_transport: RtspTransport::Auto,
            sound: true,
            pre_roll: Duration::from_secs(1),
            pre_roll_bytes,
            snapshot_url: None,
            motion: NEVER,
            detection: config::Detection::default(),
        };
        let (collector, conditions) = (Collector::new(clip_max_s), Conditions::default());
        let reels: Vec<Arc<Reel>> = [reel].into_iter().chain(low).map(Arc::new).collect();
        let low = reels.get(1).map(|low| low.clone() as Arc<dyn FrameSource>);
        let sources = Sources { main: reels[0].clone(), low };
        let media = Media::start(sources, &config, None, Arc::new(collector.clone()), conditions.clone()).unwrap();
        Self { reels, collector, conditions, media, events: Vec::new() }
    }

    /// After so many frames no more come until the next event.
    fn hold_after(&self, frames: u64) {
        *self.reels[0].hold.lock().unwrap() = Some(frames);
    }

    /// An event once so many frames have come.
    fn event_after(&mut self, frames: u64) {
        self.hold_after(frames);
        wait_for_frames(&self.media, frames);
        self.events.push(Instant::now());
        self.media.record();
        *self.reels[0].hold.lock().unwrap() = None;
    }

    /// Waits until nothing is left to record, and stops.
    fn finish(&self, frames: u64) {
        wait_for_frames(&self.media, frames);
        eventually("the last clip is complete", || !self.media.status().clip_running);
        assert!(self.media.stop(Duration::from_secs(5)));
    }

    /// Those that no clip has.
    fn outside(&self) -> Vec<Instant> {
        let spans = self.spans();
        // A clip lasts a frame longer than it took to receive it.
        self.events.iter().copied().filter(|event| !spans.iter().any(|(start, end)| start <= event && event <= end)).collect()
    }

    /// How long before an event the last keyframe was.
    fn age(&self, event: Instant) -> Duration {
        let keys = self.reels[0].keys.lock().unwrap();
        event - *keys.iter().rfind(|key| **key <= event).unwrap()
    }

    /// When each clip begins and ends. A clip begins with a keyframe; by when it began, the outlet knows which, and no more: it
    /// counts back from when it is asked.
    fn spans(&self) -> Vec<(Instant, Instant)> {
        let keys: Vec<Instant> = self.reels.iter().flat_map(|reel| reel.keys.lock().unwrap().clone()).collect();
        let first = |clip: &Clip| *keys.iter().min_by_key(|key| apart(**key, clip.started)).unwrap();
        self.collector.clips.lock().unwrap().iter().map(|clip| (first(clip), first(clip) + clip.duration)).collect()
    }
}

fn apart(one: Instant, other: Instant) -> Duration {
    one.max(other) - one.min(other)
}

#[test]
fn each_event_is_in_a_clip_unless_its_keyframe_is_older_than_the_longest_clip() {
    // Keyframe interval, longest clip, frames between two events.
    let inputs = [(5, 3, 6), (4, 3, 15), (2, 3, 8), (8, 1, 45)];
    thread::scope(|scope| {
        for (interval, max, between) in inputs {
            scope.spawn(move || {
                let mut filming = Filming::start(Reel::new(vec![(0, gop(interval))]), max, 6_000_000);
                for n in 1..=(14 * u64::from(FPS) / between) {
                    filming.event_after(n * between);
                }
                filming.finish(u64::from(FPS) * 25);
                let (outside, most_told) = (filming.outside(), format!("and a clip may last {max} s"));
                let max = Duration::from_secs(max);
                let name = format!("{interval} s, clips of {max:?}");
                let ages: Vec<Duration> = outside.iter().map(|event| filming.age(*event)).collect();
                let margin = Duration::from_millis(250);
                assert!(ages.iter().all(|age| *age + margin > max), "{name}: outside, so long after a keyframe: {ages:?}");
                let status = filming.media.status();
                let told = named(&filming.conditions, "events_missed");
                assert!(status.events_missed.abs_diff(outside.len() as u64) <= 1, "{name}: {} of {outside:?} told", status.events_missed);
                assert_eq!(told.is_some(), status.events_missed > 0, "{name}");
                if interval > max.as_secs() as u32 {
                    // Farther apart where the reel has waited.
                    let words = told.clone().unwrap_or_default();
                    let words = words.split_once("because keyframes are ").and_then(|(_, words)| words.split_once(" s apart "));
                    let (apart, most) = words.expect("the reason is told");
                    assert!(apart.parse().is_ok_and(|apart: f64| apart >= interval.into()), "{name}: {told:?}");
                    assert_eq!(most, most_told);
                } else {
                    assert_eq!(outside, [], "{name}");
                }
                filming.collector.clips.lock().unwrap().iter().for_each(|clip| {
                    assert!(clip.duration <= max, "{name}");
                    probe(clip);
                });
            });
        }
    });
}

#[test]
fn events_in_a_row_make_clips_without_a_hole_between() {
    let mut filming = Filming::start(Reel::new(vec![(0, film("320x180"))]), 4, 6_000_000);
    (2..=24).for_each(|n| filming.event_after(n * 7));
    filming.finish(24 * 7 + u64::from(FPS) * 6);
    assert_eq!(filming.outside(), []);
    let spans = filming.spans();
    assert!((3..=6).contains(&spans.len()), "{} clips of 4 s in 14 s", spans.len());
    for pair in spans.windows(2) {
        assert!(pair[1].0 <= pair[0].1 + TICK, "a hole between {pair:?}");
        assert!(pair[1].0 + Duration::from_millis(1200) >= pair[0].1, "more than a GOP again: {pair:?}");
    }
}

#[test]
fn a_keyframe_that_is_asked_for_in_time_leaves_no_hole_in_a_long_gop() {
    let reel = Reel { obliging: true, ..Reel::new(vec![(0, gop(20))]) };
    let mut filming = Filming::start(reel, 4, 6_000_000);
    (2..=24).for_each(|n| filming.event_after(n * 7));
    filming.finish(24 * 7 + u64::from(FPS) * 6);
    assert_eq!((filming.outside(), filming.media.status().events_missed), (vec![], 0));
    assert!(filming.spans().windows(2).all(|pair| pair[1].0 <= pair[0].1 + TICK), "{:?}", filming.spans());
}

#[test]
fn other_parameter_sets_go_on_in_the_same_clip() {
    let pieces = ["18", "40", "25"].map(|qp| (15, with_qp(qp)));
    assert!(pieces[0].1[0].format != pieces[1].1[0].format && pieces[1].1[0].format != pieces[2].1[0].format);
    let mut filming = Filming::start(Reel::new(pieces.into()), 60, 6_000_000);
    filming.event_after(22);
    filming.collector.wait_for(1);
    let clips = filming.collector.clips.lock().unwrap();
    let probed = probe(&clips[0]);
    assert!(probed.duration > 5.5 && probed.frames > 85, "{} frames in {} s", probed.frames, probed.duration);
}

#[test]
fn after_a_change_of_size_the_next_clip_begins_with_the_very_frame() {
    // The change comes one second after the event, just before it, or twice.
    let (large, small) = (film("640x360"), film("320x180"));
    let inputs: [(&[Piece], u64, &[u32]); 3] = [
        (&[(45, large), (0, small)], 30, &[360, 180]),
        (&[(30, small), (0, large)], 34, &[360]),
        (&[(30, large), (30, small), (0, large)], 20, &[360, 180, 360]),
    ];
    thread::scope(|scope| {
        for (pieces, event, heights) in inputs {
            scope.spawn(move || {
                let mut filming = Filming::start(Reel::new(pieces.to_vec()), 60, 6_000_000);
                filming.event_after(event);
                filming.collector.wait_for(heights.len());
                filming.finish(event + u64::from(FPS) * 6);
                assert_eq!((filming.outside(), filming.media.status().events_missed), (vec![], 0));
                let clips = filming.collector.clips.lock().unwrap();
                let found: Vec<u32> = clips.iter().map(|clip| probe(clip).height).collect();
                assert_eq!(found, heights);
                drop(clips);
                let spans = filming.spans();
                for pair in spans.windows(2) {
                    let apart = apart(pair[0].1, pair[1].0);
                    assert!(apart < TICK, "a frame is missing or repeated: {apart:?}");
                }
                let after = spans.last().unwrap().1 - filming.events[0];
                assert!((4.7..5.4).contains(&after.as_secs_f64()), "{after:?} after the event");
            });
        }
    });
}

#[test]
fn a_gop_larger_than_the_pre_roll_costs_no_clip_under_way_a_frame() {
    let film = gop(8);
    // Holds the first three seconds.
    let bytes = film[..45].iter().map(|frame| frame.data.len()).sum();
    let mut filming = Filming::start(Reel::new(vec![(0, film)]), 30, bytes);
    filming.event_after(30);
    filming.event_after(90);
    // Seven seconds after the second keyframe.
    filming.hold_after(225);
    filming.collector.wait_for(1);
    assert_eq!(filming.outside(), [], "both are in the clip that had begun in time");
    let frames = probe(&filming.collector.clips.lock().unwrap()[0]).frames;
    assert!((160..=172).contains(&frames), "from the keyframe until 5 s after the second: {frames}");
    let told = named(&filming.conditions, "pre_roll_too_small").unwrap();
    assert!(told.starts_with("a keyframe interval is larger than the pre-roll may be"), "{told}");

    filming.event_after(225);
    filming.collector.wait_for(2);
    assert_eq!((filming.outside().len(), filming.media.status().events_missed), (1, 1));
    let told = named(&filming.conditions, "events_missed").unwrap();
    assert!(told.starts_with("events are in no clip: 1 because a keyframe interval is larger than [media] pre_roll_bytes"), "{told}");
    assert_eq!(named(&filming.conditions, "frames_lost"), None);
}

#[test]
fn an_event_that_only_the_smaller_stream_has_is_in_a_clip_of_that() {
    let low = Some(Reel::new(vec![(0, film("640x360"))]));
    let mut filming = Filming::start_with(Reel::new(vec![(0, gop(8))]), low, 3, 6_000_000);
    filming.event_after(30);
    filming.event_after(90);
    filming.collector.wait_for(2);
    let heights: Vec<u32> = filming.collector.clips.lock().unwrap().iter().map(|clip| probe(clip).height).collect();
    assert_eq!(heights, [180, 360], "2 s and 6 s after the keyframe of the first stream");
    assert_eq!((filming.outside(), filming.media.status().events_missed), (vec![], 0));
}

#[test]
fn pre_roll_that_reaches_into_the_plans_pause_is_left_out() {
    let all_keys: &'static [Frame] = Vec::leak(encode("320x180", 2, &["-g", "1", "-b:v", "1M"]));
    let mut filming = Filming::start(Reel::new(vec![(0, all_keys)]), 3, 6_000_000);
    wait_for_frames(&filming.media, 30);
    *filming.collector.pause_until.lock().unwrap() = Instant::now().checked_sub(Duration::from_millis(500));
    filming.event_after(30);
    filming.collector.wait_for(1);
    assert_eq!((filming.outside(), filming.media.status().clips_refused), (vec![], 0));
    let ago = filming.collector.clips.lock().unwrap()[0].beginning.ago;
    assert!(ago < Duration::from_millis(500), "{ago:?}");
}
