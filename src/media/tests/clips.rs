//! From a source's frames through ring and MP4 writer to the outlet.

use std::{io::Write, os::unix::net::UnixStream};

use super::{
    scripted::{FPS, Script, Scripted},
    *,
};

pub(super) fn camera(motion: Motion, pre_roll_s: u64) -> config::Media {
    config::Media {
        source: Source::Test,
        low_source: None,
        rtsp_transport: RtspTransport::Auto,
        sound: true,
        pre_roll: Duration::from_secs(pre_roll_s),
        pre_roll_bytes: 6_000_000,
        snapshot_url: None,
        motion,
        detection: config::Detection::default(),
    }
}

fn start(config: config::Media, collector: &Collector) -> Media {
    start_with(Scripted::live(), config, collector)
}

fn start_with(source: Scripted, config: config::Media, collector: &Collector) -> Media {
    let sources = Sources { main: Arc::new(source), low: None };
    Media::start(sources, &config, None, Arc::new(collector.clone()), Conditions::default()).unwrap()
}

#[test]
fn a_clip_has_its_pre_roll_and_ends_5_s_after_the_event() {
    let collector = Collector::new(60);
    records_one_clip_with_pre_roll(start(camera(NEVER, 2), &collector), &collector, f64::from(FPS));
}

#[test]
fn without_pre_roll_a_clip_begins_with_a_keyframe_that_is_asked_for() {
    let collector = Collector::new(3);
    let source = Arc::new(Scripted::new([Script::OnRequest]));
    let sources = Sources { main: source.clone(), low: None };
    let media = Media::start(sources, &camera(NEVER, 1), None, Arc::new(collector.clone()), Conditions::default()).unwrap();
    eventually("the source runs", || source.sessions.load(Ordering::Relaxed) == 1);
    media.record();
    collector.wait_for(1);
    assert_eq!(source.keyframe_requests.load(Ordering::Relaxed), 1);
    probe_clip(&collector.clips.lock().unwrap()[0]);
}

#[test]
fn a_clip_goes_on_when_its_source_comes_back() {
    let collector = Collector::new(60);
    let media = start_with(Scripted::new([Script::Live(3 * FPS), Script::Live(u32::MAX)]), camera(NEVER, 1), &collector);
    wait_for_frames(&media, 20);
    media.record();
    collector.wait_for(1);
    assert_eq!(media.status().stream.restarts, 1);
    let probed = probe_clip_with_steps(&collector.clips.lock().unwrap()[0], 1.5);
    assert!(probed.duration > 5.0 && probed.frames > 70, "{} frames in {} s", probed.frames, probed.duration);
}

#[test]
fn lost_frames_leave_a_gap_in_a_clip_and_nothing_that_cannot_be_decoded() {
    let collector = Collector::new(60);
    let media = start_with(Scripted::new([Script::Gap(35, 37)]), camera(NEVER, 1), &collector);
    wait_for_frames(&media, 20);
    media.record();
    collector.wait_for(1);
    assert_eq!(media.status().stream.dropped, 10, "two, and the rest of their GOP");
    probe_clip_with_steps(&collector.clips.lock().unwrap()[0], 0.8);
}

#[test]
fn what_a_stalled_network_delivers_late_is_in_the_clip() {
    let collector = Collector::new(60);
    // The event is at about 1 s, so the clip ends at 6 s. From 4.8 s on nothing comes until 6.4 s, and then all of it.
    let media = start_with(Scripted::new([Script::Stall(72, 96)]), camera(NEVER, 1), &collector);
    wait_for_frames(&media, 15);
    media.record();
    collector.wait_for(1);
    let clip = &collector.clips.lock().unwrap()[0];
    let (lasts, ago) = (probe_clip(clip).duration, clip.beginning.ago.as_secs_f64());
    assert!(lasts > ago + 4.8, "{lasts} s, the event {ago} s after it began");
}

#[test]
#[cfg_attr(not(feature = "gstreamer"), ignore = "no source of this build has grey pictures, and built-in motion is refused")]
fn a_source_with_grey_pictures_needs_no_decoder_for_motion() {
    let collector = Collector::new(3);
    let conditions = Conditions::default();
    let sources = Sources { main: Arc::new(Scripted::new([Script::Grey])), low: None };
    let media = Media::start(sources, &camera(Motion::BuiltIn, 1), None, Arc::new(collector.clone()), conditions.clone()).unwrap();
    collector.wait_for(1);
    assert_eq!(collector.clips.lock().unwrap()[0].beginning.kind, ClipKind::Motion);
    assert!(media.status().motion_events > 0);
    assert_eq!(named(&conditions, "motion_blind"), None);
}

#[test]
fn media_stops_in_time_although_its_source_hangs() {
    let media = start_with(Scripted::new([Script::Hang]), camera(NEVER, 1), &Collector::new(3));
    let began = Instant::now();
    assert!(!media.stop(Duration::from_millis(300)), "the source's thread is reported, not waited for");
    assert!(began.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_clip_ends_at_the_longest_allowed_however_long_the_motion_lasts() {
    let collector = Collector::new(3);
    let media = start(camera(Motion::Every(Duration::from_millis(200)), 5), &collector);
    collector.wait_for(3);
    media.stop(Duration::from_secs(5));
    let clips = collector.clips.lock().unwrap();
    for clip in &clips[..3] {
        let probed = probe_clip(clip);
        assert!(clip.duration <= Duration::from_secs(3) && probed.duration > 2.0, "{} s", probed.duration);
        assert!(clip.beginning.ago <= Duration::from_secs(2), "the event itself must fit");
    }
}

#[test]
fn a_verdict_shortens_a_clip_or_ends_it_without_a_trace() {
    let collector = Collector::new(60);
    collector.erase_at.store(2, Ordering::Relaxed);
    let media = start(camera(NEVER, 1), &collector);
    wait_for_frames(&media, 20);
    media.record();
    eventually("the clip is gone", || media.status().clips_erased == 1);
    assert_eq!((collector.dropped.load(Ordering::Relaxed), collector.clips.lock().unwrap().len()), (1, 0));

    collector.erase_at.store(usize::MAX, Ordering::Relaxed);
    media.record();
    eventually("the next clip has begun", || collector.begun.load(Ordering::Relaxed) == 2);
    *collector.max.lock().unwrap() = Some(Duration::from_secs(2));
    collector.wait_for(1);
    assert!(collector.clips.lock().unwrap()[0].duration <= Duration::from_secs(2));
    assert_eq!(media.status().clips_recorded, 1);
}

#[test]
fn a_plan_that_changes_between_two_fragments_ends_the_clip_at_its_new_limit() {
    let collector = Collector::new(60);
    let media = start(camera(NEVER, 1), &collector);
    wait_for_frames(&media, 20);
    collector.cut_soon.store(true, Ordering::Relaxed);
    media.record();
    collector.wait_for(1);
    let (clip, max) = (&collector.clips.lock().unwrap()[0], collector.max.lock().unwrap().unwrap());
    assert!(clip.duration <= max && clip.duration + Duration::from_millis(200) > max, "{:?} of {max:?}", clip.duration);
    probe_clip(clip);
}

#[test]
fn a_stalled_outlet_never_stops_the_stream() {
    let collector = Collector::new(60);
    collector.stall(true);
    let media = start(camera(NEVER, 1), &collector);
    wait_for_frames(&media, 20);
    media.record();
    eventually("the clip has begun", || media.status().clip_running);
    let before = media.status().stream.frames;
    wait_for_frames(&media, before + 60);
    assert_eq!(media.status().stream.dropped, 0);
    assert!(media.status().stream.last_frame_age_ms.unwrap() < 1000);
    assert!(!media.stop(Duration::from_millis(300)), "the thread that hangs in the outlet is told of, not waited for");
    assert!(media.status().stream.frames >= before + 60, "the last status stays readable");
    collector.stall(false);
    collector.wait_for(1);
}

#[test]
fn while_no_clip_may_begin_none_does_and_the_stream_runs() {
    let collector = Collector::new(60);
    *collector.max.lock().unwrap() = None;
    let media = start(camera(Motion::Every(Duration::from_millis(100)), 1), &collector);
    wait_for_frames(&media, 30);
    eventually("events were refused", || media.status().clips_refused > 5);
    assert_eq!(collector.begun.load(Ordering::Relaxed), 0);
}

#[test]
fn a_forgotten_pre_roll_is_in_no_clip() {
    let collector = Collector::new(60);
    let media = start(camera(NEVER, 5), &collector);
    wait_for_frames(&media, 70);
    media.forget();
    let forgotten = Instant::now();
    media.record();
    eventually("the clip has begun", || collector.begun.load(Ordering::Relaxed) == 1);
    let since = forgotten.elapsed();
    media.stop(Duration::from_secs(5));
    collector.wait_for(1);
    let ago = collector.clips.lock().unwrap()[0].beginning.ago;
    assert!(ago < since, "{ago:?}");
    assert!(since < Duration::from_secs(4), "too slow to tell from the pre-roll forgotten");
}

#[test]
fn a_clip_of_the_account_before_is_gone_even_if_the_outlet_was_not_told() {
    let collector = Collector::new(60);
    let media = start(camera(NEVER, 2), &collector);
    wait_for_frames(&media, 30);
    media.record();
    eventually("the clip has begun", || collector.begun.load(Ordering::Relaxed) == 1);
    media.forget();
    eventually("it is gone", || media.status().clips_erased == 1);
    assert_eq!((collector.dropped.load(Ordering::Relaxed), collector.clips.lock().unwrap().len()), (1, 0));
}

#[test]
fn a_stream_too_tall_for_the_plan_gives_way_to_the_low_one() {
    let collector = Collector::new(2);
    collector.tallest.store(200, Ordering::Relaxed);
    let sources = Sources { main: Arc::new(Scripted::live()), low: Some(Arc::new(Scripted::live().sized("320x180"))) };
    let config = config::Media { low_source: Some(Source::Test), ..camera(NEVER, 1) };
    let media = Media::start(sources, &config, None, Arc::new(collector.clone()), Conditions::default()).unwrap();
    eventually("both streams run", || media.status().stream.frames > 30 && media.status().low.is_some_and(|low| low.frames > 30));
    media.record();
    collector.wait_for(1);
    assert_eq!(probe_clip(&collector.clips.lock().unwrap()[0]).height, 180);
}

#[test]
fn motion_comes_with_a_snapshot_if_the_plan_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("motion.sock");
    let collector = Collector::new(3);
    collector.snapshots.store(true, Ordering::Relaxed);
    let media = start(camera(Motion::Socket(path.clone()), 1), &collector);
    wait_for_frames(&media, 20);
    UnixStream::connect(&path).unwrap().write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
    collector.wait_for(2);
    let clips = collector.clips.lock().unwrap();
    assert_eq!((clips[0].beginning.kind, clips[1].beginning.kind), (ClipKind::Snapshot, ClipKind::Motion));
    // Where there is a decoder it is a JPEG, unless that was late.
    let is_jpeg = cfg!(feature = "gstreamer") && clips[0].bytes.starts_with(&[0xFF, 0xD8]);
    assert!(is_jpeg || probe_clip(&clips[0]).frames == 1);
    probe_clip(&clips[1]);
}
