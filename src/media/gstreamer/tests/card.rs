//! Recording a real stream.

use super::*;

/// Scenario 72.
#[test]
fn s72_without_its_card_the_camera_goes_on_and_recording_resumes_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let card = dir.path().join("recordings");
    let collector = Collector::new(3);
    let recording =
        config::Recording { dir: (&card).into(), max_bytes: 100_000_000, memory_bytes: 4_000_000, keep_days: None, kept_off: Vec::new() };
    let media = start_with(&camera(Source::Test, 1), Some(&recording), Arc::new(collector.clone()), Conditions::default()).unwrap();
    let told = |media: &Media| media.status().recording.unwrap();
    eventually("the fault is told", || told(&media).fault.is_some());
    wait_for_frames(&media, 20);
    media.record();
    collector.wait_for(1);
    std::fs::create_dir(&card).unwrap();
    eventually("recording resumes", || told(&media).fault.is_none() && told(&media).frames > 30);
    assert!(told(&media).dropped > 0, "what was lost is counted");
    std::fs::remove_dir_all(&card).unwrap();
    eventually("the card's loss is told", || told(&media).fault.is_some());
    std::fs::create_dir(&card).unwrap();
    let before = told(&media).frames;
    eventually("recording resumes again", || told(&media).fault.is_none() && told(&media).frames > before + 30);
    assert_eq!(media.status().stream.dropped, 0);
    assert!(media.stop(Duration::from_secs(5)));
    let files = on_card(&card);
    assert_eq!(files.len(), 1, "{files:?}");
    let whole = probe(&files[0], 0.15).frames;
    assert!(whole > 30);
    // The card pulled in the middle of a write: what was written plays.
    let bytes = std::fs::read(&files[0]).unwrap();
    let torn = dir.path().join("torn.mp4");
    std::fs::write(&torn, &bytes[..bytes.len() * 3 / 4]).unwrap();
    let count = ["-v", "fatal", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", torn.to_str().unwrap()];
    let plays: usize = run("ffprobe", &count).trim().parse().unwrap();
    assert!(plays >= whole / 2 && plays < whole, "{plays} of {whole} frames");
}
