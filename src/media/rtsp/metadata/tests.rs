//! A camera with metadata beside its picture: it is set up only where it is wanted, and never costs the picture.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use crate::{
    conditions::Conditions,
    media::{
        motion::{Events, onvif},
        rtsp::{
            RtspSource,
            tests::{Answer, Camera, Run},
        },
        stop_signal::StopSignal,
        tests::eventually,
    },
};

const SDP: &str = "v=0\r\ns=camera\r\nt=0 0\r\na=control:*\r\nm=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n\
                   a=control:metadata\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";

/// Motion by metadata, as media has it, and a run of the source that feeds it.
struct Filmed {
    run: Run,
    source: Arc<RtspSource>,
    sink: onvif::MetadataSink,
    events: Events,
    conditions: Conditions,
    stop: StopSignal,
    /// How often the metadata was set up.
    asked: Arc<AtomicUsize>,
    camera: Camera,
}

impl Filmed {
    /// With a camera that describes all this and answers otherwise as the script says.
    fn new(sdp: &'static str, script: impl Fn(&str, &str) -> Answer + Send + Sync + 'static) -> Self {
        let asked = Arc::<AtomicUsize>::default();
        let seen = asked.clone();
        let camera = Camera::new(move |method, _, headers| {
            let is_metadata = method == "SETUP" && headers.contains("/metadata ");
            seen.fetch_add(usize::from(is_metadata), Ordering::Relaxed);
            match method {
                "DESCRIBE" => Answer::Sdp(sdp),
                _ => script(if is_metadata { "SETUP metadata" } else { method }, headers),
            }
        });
        let (events, _) = Events::new();
        let (conditions, stop) = (Conditions::default(), StopSignal::default());
        let (sink, _) = onvif::start(events.clone(), conditions.clone(), stop.clone()).unwrap();
        let source = Arc::new(camera.source());
        let run = Run::wanting(&source, Some(sink.clone()));
        Self { run, source, sink, events, conditions, stop, asked, camera }
    }

    fn is_filmed(&self) {
        eventually("frames come", || self.run.frames() >= 20);
    }

    fn events(&self) -> u64 {
        self.events.counts.events.load(Ordering::Relaxed)
    }

    fn is_blind(&self) -> bool {
        format!("{:?}", self.conditions).contains("motion_blind")
    }
}

impl Drop for Filmed {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

#[test]
fn documents_come_within_the_connection_and_beside_the_picture() {
    let filmed = Filmed::new(SDP, |_, _| Answer::Well);
    eventually("motion is told", || filmed.events() > 0);
    filmed.is_filmed();
    assert_eq!((filmed.events(), filmed.asked.load(Ordering::Relaxed), filmed.is_blind()), (1, 1, false));
    filmed.run.end();
}

#[test]
fn documents_come_over_udp_where_the_picture_does() {
    let filmed = Filmed::new(
        SDP,
        |_, headers| {
            if headers.contains("interleaved") { Answer::Status("461 Unsupported Transport") } else { Answer::Well }
        },
    );
    eventually("motion is told", || filmed.events() > 0);
    filmed.is_filmed();
    assert_eq!((filmed.asked.load(Ordering::Relaxed), filmed.is_blind()), (1, false));
    filmed.run.end();
}

#[test]
fn where_nobody_wants_metadata_it_is_not_set_up() {
    let asked = Arc::<AtomicUsize>::default();
    let seen = asked.clone();
    let camera = Camera::new(move |method, _, headers| {
        seen.fetch_add(usize::from(headers.contains("/metadata ")), Ordering::Relaxed);
        if method == "DESCRIBE" { Answer::Sdp(SDP) } else { Answer::Well }
    });
    let run = Run::wanting(&Arc::new(camera.source()), None);
    eventually("frames come", || run.frames() >= 20);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
    run.end();
}

#[test]
fn a_camera_without_metadata_or_that_refuses_it_is_filmed_and_the_owner_told() {
    const NONE: &str = "v=0\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";
    for (sdp, answer) in [
        (NONE, Answer::Well),
        (SDP, Answer::Status("404 Not Found")),
        (SDP, Answer::Status("461 Unsupported Transport")),
        (SDP, Answer::Headers("Session: 7\r\nTransport: RTP/AVP;unicast\r\n")),
    ] {
        let filmed = Filmed::new(sdp, move |method, _| if method == "SETUP metadata" { answer } else { Answer::Well });
        eventually("the owner is told", || filmed.is_blind());
        filmed.is_filmed();
        assert_eq!((filmed.events(), filmed.camera.plays()), (0, 1));
        filmed.run.end();
    }
}

/// A firmware that closes the connection, hangs or fails over a second stream.
#[test]
fn a_camera_that_fails_over_its_metadata_is_filmed_without() {
    for (step, answer) in [
        ("SETUP metadata", Answer::Close),
        ("SETUP metadata", Answer::Nothing),
        ("SETUP metadata", Answer::Bytes("nonsense\r\n\r\n")),
        ("PLAY", Answer::Status("500 Internal Server Error")),
    ] {
        let asked = AtomicBool::new(false);
        let filmed = Filmed::new(SDP, move |method, _| {
            asked.fetch_or(method == "SETUP metadata", Ordering::Relaxed);
            // Once.
            if method == step && asked.swap(false, Ordering::Relaxed) { answer } else { Answer::Well }
        });
        filmed.is_filmed();
        eventually("the owner is told", || filmed.is_blind());
        filmed.run.end();
        // The next session is not held up by it.
        let next = Run::wanting(&filmed.source, Some(filmed.sink.clone()));
        eventually("frames come again", || next.frames() >= 20);
        assert_eq!(filmed.asked.load(Ordering::Relaxed), 1, "{step}");
        next.end();
    }
}
