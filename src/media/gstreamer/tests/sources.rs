//! Each kind of source: what it delivers, and what happens while it is away.

use super::*;

#[test]
fn a_file_is_looped_in_real_time_with_timestamps_that_go_on() {
    let dir = tempfile::tempdir().unwrap();
    for (name, min_fps) in [("loop.mp4", 14.0), ("loop.264", 14.0)] {
        let collector = Collector::new(60);
        let began = Instant::now();
        let media = start(&camera(Source::File(recorded(&dir, name, 2)), 4), &collector);
        wait_for_frames(&media, 75);
        let rate = 75.0 / began.elapsed().as_secs_f64();
        assert!(rate < 17.0, "{name}: faster than real time: {rate} fps");
        media.record();
        collector.wait_for(1);
        let clips = collector.clips.lock().unwrap();
        let probed = probe_clip(&clips[0]);
        assert!(probed.duration > 8.0, "{name}: {} s, several times around", probed.duration);
        let fps = probed.frames as f64 / probed.duration;
        assert!((min_fps..16.0).contains(&fps), "{name}: {fps} fps");
        assert_eq!((media.status().stream.restarts, media.status().stream.dropped), (0, 0), "{name}");
    }
}

/// Ends with the test.
struct Camera {
    child: Child,
    url: String,
}

impl Camera {
    fn start(port: u16) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/assets/rtsp_server.py");
        let mut child = Command::new(script)
            .args(["--port", &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        assert!(url.starts_with("rtsp://"), "the RTSP server did not start; is gir1.2-gst-rtsp-server-1.0 installed?");
        Self { child, url: url.trim().into() }
    }

    fn port(&self) -> u16 {
        self.url.split([':', '/']).nth(4).unwrap().parse().unwrap()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Scenario 73, with a server nobody here wrote.
#[test]
fn s73_a_stream_resumes_when_its_rtsp_server_is_back() {
    let server = Camera::start(0);
    let (port, url) = (server.port(), server.url.clone());
    let collector = Collector::new(4);
    let media = start(&camera(Source::Rtsp(url.into()), 1), &collector);
    wait_for_frames(&media, 40);
    media.record();
    collector.wait_for(1);
    drop(server);
    eventually("the fault is told", || media.status().stream.fault.is_some());
    media.record();
    let before = media.status().stream.frames;
    let _server = Camera::start(port);
    wait_for_frames(&media, before + 40);
    eventually("the fault is over", || media.status().stream.fault.is_none());
    assert!(media.status().stream.restarts > 0);
    media.record();
    collector.wait_for(2);
    assert!(media.stop(Duration::from_secs(5)));
    let clips = collector.clips.lock().unwrap();
    probe_clip(&clips[0]);
    // It spans the outage.
    probe_clip_with_steps(&clips[1], 6.0);
}

/// A server that hangs says nothing at all: only the age of the last frame tells.
#[test]
fn s73_a_silent_source_is_found_and_resumes() {
    let server = Camera::start(0);
    let media = start(&camera(Source::Rtsp(server.url.clone().into()), 1), &Collector::new(4));
    wait_for_frames(&media, 10);
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    eventually("the silence is told", || media.status().stream.fault.is_some_and(|fault| fault.contains("no frame for")));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    let before = media.status().stream.frames;
    wait_for_frames(&media, before + 10);
    eventually("the fault is over", || media.status().stream.fault.is_none());
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn a_camera_that_is_not_plugged_in_is_a_fault_and_is_tried_again() {
    let media = start(&camera(Source::V4l2("/dev/no-such-camera".into()), 1), &Collector::new(4));
    eventually("it was tried again", || media.status().stream.restarts >= 2);
    let fault = media.status().stream.fault.unwrap();
    assert!(fault.contains("/dev/no-such-camera"), "{fault}");
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn stops_within_5_s_even_while_a_camera_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("rtsp://127.0.0.1:{}/stream", silent.local_addr().unwrap().port());
    let media = start(&camera(Source::Rtsp(url.into()), 1), &Collector::new(10));
    let _asked = silent.accept().unwrap();
    assert!(media.stop(Duration::from_secs(5)));
}

#[test]
fn a_description_that_cannot_work_is_named_and_everything_else_runs() {
    let conditions = Conditions::default();
    let low = Some(Source::Launch("nosuchsrc ! h264parse".into()));
    let config = config::Media { low_source: low, ..camera(Source::Test, 1) };
    let media = start_with(&config, None, Arc::new(Collector::new(10)), conditions.clone()).unwrap();
    eventually("the element is named", || named(&conditions, "low_stream").is_some_and(|sentence| sentence.contains("nosuchsrc")));
    wait_for_frames(&media, 10);
    assert_eq!(named(&conditions, "stream"), None);
}

#[test]
fn a_source_that_is_tried_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let picture = try_source(&Source::File(recorded(&dir, "tried.mp4", 1)), &camera(Source::Test, 1), PATIENCE).unwrap();
    assert_eq!(picture.to_string(), "640x360, H.264 High");
    assert!(DECODERS.contains(&picture.try_motion().unwrap()));
    let fault = try_source(&Source::File("/no/such/file".into()), &camera(Source::Test, 1), Duration::from_millis(100)).unwrap_err();
    assert!(fault.contains("/no/such/file"), "{fault}");
}
