//! H.265 from each kind of source, through clips and onto the card; and what the end of a description may be.

use super::*;

/// A moving picture at 15 frames a second and about 500 kbit/s, a keyframe a second, in H.265.
fn h265(dir: &TempDir, name: &str, seconds: u32, more: &[&str]) -> PathBuf {
    let path = dir.path().join(name);
    let picture = format!("testsrc2=size=640x360:rate=15:duration={seconds}");
    let parameters = "keyint=15:min-keyint=15:scenecut=0:open-gop=0:bframes=0:log-level=none";
    let encoder = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-b:v", "500k", "-x265-params", parameters];
    run("ffmpeg", &[&["-v", "error", "-y", "-f", "lavfi", "-i", &picture], &encoder[..], more, &[path.to_str().unwrap()]].concat());
    path
}

#[test]
fn h265_from_files_and_descriptions_reaches_clips_and_the_card() {
    let dir = tempfile::tempdir().unwrap();
    // In pieces of 4 KB, as from a pipe: without caps and times.
    let piped = format!("filesrc location={} blocksize=4000 ! identity sleep-time=60000", h265(&dir, "piped.265", 40, &[]).display());
    let sources = [
        ("mp4", Source::File(h265(&dir, "hvc1.mp4", 2, &["-tag:v", "hvc1"]))),
        ("mp4, sets in band", Source::File(h265(&dir, "hev1.mp4", 2, &["-tag:v", "hev1"]))),
        ("elementary stream", Source::File(h265(&dir, "elementary.265", 2, &[]))),
        ("bytes from a pipe", Source::Launch(piped.into())),
    ];
    for (what, source) in sources {
        let card = dir.path().join("recordings");
        std::fs::create_dir(&card).unwrap();
        let recording = config::Recording {
            dir: (&card).into(),
            max_bytes: 100_000_000,
            memory_bytes: 4_000_000,
            keep_days: None,
            kept_off: Vec::new(),
        };
        let collector = Collector::new(60);
        let media = start_with(&camera(source, 2), Some(&recording), Arc::new(collector.clone()), Conditions::default()).unwrap();
        wait_for_frames(&media, 45);
        media.record();
        collector.wait_for(1);
        let status = media.status();
        assert_eq!((status.stream.width, status.stream.height, status.stream.fault), (640, 360, None), "{what}");
        assert!(media.stop(Duration::from_secs(5)));
        let clips = collector.clips.lock().unwrap();
        let probed = probe_clip_with_steps(&clips[0], 1.0);
        assert_eq!((probed.codec.as_str(), probed.height), ("hevc", 360), "{what}");
        let files = on_card(&card);
        assert_eq!(files.len(), 1, "{what}: {files:?}");
        let probed = probe(&files[0], 1.0);
        assert!(probed.codec == "hevc" && probed.frames >= 45, "{what}: {} frames", probed.frames);
        std::fs::remove_dir_all(&card).unwrap();
    }
}

/// What encoders and demuxers give, with no parser behind them.
#[test]
fn a_description_may_end_with_any_form_of_either_codec() {
    let raw = "videotestsrc is-live=true ! video/x-raw,format=I420,width=320,height=240,framerate=15/1";
    for (end, codec) in [
        ("x264enc key-int-max=15 tune=zerolatency ! video/x-h264,stream-format=avc", "H.264"),
        ("x264enc key-int-max=15 tune=zerolatency ! h264parse ! video/x-h264,stream-format=byte-stream,alignment=nal", "H.264"),
        ("x264enc key-int-max=15 tune=zerolatency ! mpegtsmux ! tsdemux latency=0", "H.264"),
        ("x265enc key-int-max=15 tune=zerolatency speed-preset=ultrafast", "H.265"),
        ("x265enc key-int-max=15 tune=zerolatency speed-preset=ultrafast ! h265parse ! video/x-h265,stream-format=hev1", "H.265"),
    ] {
        let media = start(&camera(Source::Launch(format!("{raw} ! {end}").into()), 1), &Collector::new(10));
        wait_for_frames(&media, 30);
        assert_eq!((media.status().stream.fault, media.status().stream.width), (None, 320), "{end}");
        assert!(media.stop(Duration::from_secs(5)));
        let said = try_source(&Source::Launch(format!("{raw} ! {end}").into()), &camera(Source::Test, 1), PATIENCE).unwrap().to_string();
        assert!(said.starts_with(&format!("320x240, {codec}")), "{end}: {said}");
    }
}
