//! Recording a scripted stream to a directory that stands for the card.

use super::{scripted::Scripted, *};

fn start(dir: &Path, conditions: &Conditions, source: Scripted) -> Media {
    let config = config::Media {
        source: Source::Test,
        low_source: None,
        rtsp_transport: RtspTransport::Auto,
        sound: true,
        pre_roll: Duration::from_secs(1),
        pre_roll_bytes: 6_000_000,
        snapshot_url: None,
        motion: NEVER,
        detection: config::Detection::default(),
    };
    let recording =
        config::Recording { dir: dir.into(), max_bytes: 100_000_000, memory_bytes: 4_000_000, keep_days: None, kept_off: Vec::new() };
    let sources = Sources { main: Arc::new(source), low: None };
    Media::start(sources, &config, Some(&recording), Arc::new(Collector::new(3)), conditions.clone()).unwrap()
}

#[test]
fn every_frame_of_a_stream_is_on_the_card() {
    let dir = tempfile::tempdir().unwrap();
    let conditions = Conditions::default();
    // A source that ends and is not tried again within the test.
    let unusable = scripted::Script::Fail(SourceError::Unusable("the script has ended".into()));
    let media = start(dir.path(), &conditions, Scripted::new([scripted::Script::Live(60), unusable]));
    eventually("the stream has ended", || media.status().stream.fault.is_some_and(|fault| fault.contains("script")));
    assert!(media.stop(Duration::from_secs(5)));
    let status = media.status();
    assert_eq!((status.stream.frames, status.recording.unwrap().dropped), (60, 0));
    let files = on_card(dir.path());
    assert_eq!(files.len(), 1);
    assert_eq!(probe(&files[0], 0.15).frames, 60);
    assert_eq!(named(&conditions, "recording"), None);
}

#[test]
fn the_first_frames_after_a_quiet_time_are_on_the_card() {
    let dir = tempfile::tempdir().unwrap();
    let conditions = Conditions::default();
    // The card is looked at while there is no picture.
    let away = scripted::Script::Fail(SourceError::Failed("the camera is away".into()));
    let unusable = scripted::Script::Fail(SourceError::Unusable("the script has ended".into()));
    let media = start(dir.path(), &conditions, Scripted::new([away, scripted::Script::Live(30), unusable]));
    eventually("the stream has ended", || media.status().stream.fault.is_some_and(|fault| fault.contains("script")));
    assert!(media.stop(Duration::from_secs(5)));
    let status = media.status();
    assert_eq!((status.stream.frames, status.recording.unwrap().dropped), (30, 0));
    assert_eq!(probe(&on_card(dir.path())[0], 0.15).frames, 30);
}

#[test]
fn a_card_that_comes_later_is_recorded_to_and_what_was_lost_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("recordings");
    let conditions = Conditions::default();
    let media = start(&card, &conditions, Scripted::live());
    eventually("the fault is named", || named(&conditions, "recording").is_some());
    wait_for_frames(&media, 20);
    assert!(media.status().recording.unwrap().dropped > 0);
    std::fs::create_dir(&card).unwrap();
    eventually("frames are on the card", || media.status().recording.unwrap().frames > 15);
    assert_eq!(named(&conditions, "recording"), None);
    assert!(media.stop(Duration::from_secs(5)));
    let status = media.status();
    assert_eq!((status.stream.dropped, status.recording.unwrap().fault), (0, None), "the stream lost nothing");
    assert!(probe(&on_card(&card)[0], 0.15).frames > 15);
}
