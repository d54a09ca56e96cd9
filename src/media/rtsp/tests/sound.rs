//! Sound of a camera that a test scripts: recorded where it is AAC and wanted, left out and said otherwise, and never a reason not to
//! film.

use bytes::Bytes;

use super::*;
use crate::config;

/// A camera with AAC.
pub(super) const AAC: &str = "v=0\r\ns=camera\r\nt=0 0\r\na=control:*\r\nm=audio 0 RTP/AVP 97\r\na=control:audio\r\n\
                   a=rtpmap:97 MPEG4-GENERIC/16000/1\r\n\
                   a=fmtp:97 mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408\r\n\
                   m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";

/// Two seconds of a tone.
fn units() -> &'static [Bytes] {
    static UNITS: std::sync::LazyLock<Vec<Bytes>> = std::sync::LazyLock::new(|| scripted::tone(16_000, 1, 2).1);
    &UNITS
}

/// Whether a request is for the stream of sound.
pub(super) fn is_sound(headers: &str) -> bool {
    headers.lines().next().is_some_and(|line| line.contains("/audio "))
}

/// Sound beside the pictures, and where it goes.
pub(super) struct SoundBeside {
    channel: u8,
    udp: Option<UdpSocket>,
    network: Network,
    /// G.711, 20 ms a packet, instead of AAC.
    samples: bool,
    next: u32,
}

impl SoundBeside {
    pub fn new(channel: u8, udp: Option<UdpSocket>, network: Network, samples: bool) -> Self {
        Self { channel, udp, network, samples, next: 0 }
    }

    /// Sends the units that begin until then.
    pub fn send(&mut self, stream: &TcpStream, until: Duration) -> bool {
        let units = units();
        let (step, ticks, payload_type) = if self.samples { (20, 160, 0) } else { (64, 1024, 97) };
        while Duration::from_millis(step) * self.next <= until {
            let unit = &units[self.next as usize % units.len()];
            let mut rtp = vec![0x80, 0x80 | payload_type];
            rtp.extend_from_slice(&(self.next as u16).to_be_bytes());
            rtp.extend_from_slice(&(self.next * ticks + 5000).to_be_bytes());
            rtp.extend_from_slice(&[5, 6, 7, 8]);
            if self.samples {
                rtp.extend_from_slice(&[0xD5; 160]);
            } else {
                rtp.extend_from_slice(&[0, 16]);
                rtp.extend_from_slice(&(u16::try_from(unit.len()).unwrap() << 3).to_be_bytes());
                rtp.extend_from_slice(unit);
            }
            self.next += 1;
            if !deliver(stream, self.channel, self.udp.as_ref().map(|udp| (udp, &mut self.network)), &rtp) {
                return false;
            }
        }
        true
    }
}

/// A camera with AAC that answers SETUP of it like this.
fn camera(answer: Answer) -> Camera {
    Camera::new(move |method, _, headers| match method {
        "DESCRIBE" => Answer::Sdp(AAC),
        "SETUP" if is_sound(headers) => answer,
        _ => Answer::Well,
    })
}

fn told(run: &Run) -> Option<String> {
    run.stream.counters.sound()
}

#[test]
fn aac_travels_with_the_frames_over_tcp_and_udp() {
    for transport in [RtspTransport::Tcp, RtspTransport::Udp] {
        let camera = camera(Answer::Well);
        let run = Run::of(&Arc::new(RtspSource::new(&format!("rtsp://{}/live", camera.address), transport)));
        let (mut position, mut heard) = (0, Vec::new());
        eventually("frames come with sound", || {
            while let Next::Frame { frame, .. } = run.ring.next(&mut position, Duration::ZERO) {
                let sound = frame.sound.into_iter().flat_map(|sound| sound.units);
                heard.extend(sound.inspect(|unit| assert!(unit.pts < frame.pts, "it is heard before")));
            }
            heard.len() >= 35
        });
        assert_eq!(told(&run).as_deref(), Some("AAC 16 kHz mono"));
        let first = units().iter().position(|unit| *unit == heard[0].data).unwrap();
        assert!(heard.iter().zip(units().iter().cycle().skip(first)).all(|(heard, sent)| heard.data == *sent), "{transport:?}");
        assert!(heard.windows(2).all(|pair| pair[1].pts - pair[0].pts == Duration::from_millis(64)), "{transport:?}");
        assert_eq!(run.stream.counters.sound_lost.load(Ordering::Relaxed), 0);
        run.end();
    }
}

/// A camera with G.711.
const PCMU: &str = "v=0\r\ns=camera\r\nt=0 0\r\na=control:*\r\nm=audio 0 RTP/AVP 0\r\na=control:audio\r\n\
                    m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:video\r\n";

#[cfg(feature = "gstreamer")]
fn with_samples() -> Camera {
    Camera::new(|method, _, _| if method == "DESCRIBE" { Answer::Sdp(PCMU) } else { Answer::Well })
}

#[cfg(feature = "gstreamer")]
#[test]
fn samples_become_aac_that_travels_with_the_frames_over_tcp_and_udp() {
    for transport in [RtspTransport::Tcp, RtspTransport::Udp] {
        let camera = with_samples();
        let run = Run::of(&Arc::new(RtspSource::new(&format!("rtsp://{}/live", camera.address), transport)));
        let (mut position, mut heard) = (0, Vec::new());
        eventually("two seconds are encoded", || {
            while let Next::Frame { frame, .. } = run.ring.next(&mut position, Duration::ZERO) {
                heard.extend(frame.sound.into_iter().flat_map(|sound| sound.units).map(|unit| unit.pts));
            }
            heard.len() >= 32
        });
        assert_eq!(told(&run).as_deref(), Some("AAC 16 kHz mono, from PCMU"), "{transport:?}");
        assert!(heard.windows(2).all(|pair| (pair[1] - pair[0]).as_millis().abs_diff(64) <= 1), "{transport:?}: {heard:?}");
        assert_eq!(run.stream.counters.sound_lost.load(Ordering::Relaxed), 0);
        run.end();
    }
}

#[cfg(not(feature = "gstreamer"))]
#[test]
fn a_camera_is_not_asked_for_samples_that_nothing_here_encodes() {
    let camera = Camera::new(|method, _, headers| {
        assert!(!is_sound(headers), "{headers}");
        if method == "DESCRIBE" { Answer::Sdp(PCMU) } else { Answer::Well }
    });
    let run = Run::of(&Arc::new(camera.source()));
    eventually("frames come", || run.frames() >= 5);
    assert_eq!(told(&run).as_deref(), Some("left out: PCMU"));
    run.end();
}

#[test]
fn a_camera_that_refuses_to_send_its_sound_is_filmed_without() {
    for (answer, expected) in [
        (Answer::Status("404 Not Found"), "left out: AAC, because the camera refuses it (404)"),
        (Answer::Status("461 Unsupported Transport"), "left out: AAC, because the camera refuses it (461)"),
        (
            Answer::Headers("Session: 7\r\nTransport: RTP/AVP;unicast;server_port=5000-5001\r\n"),
            "left out: AAC, because the camera sends it by another transport than the picture",
        ),
        (
            Answer::Headers("Session: 7\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"),
            "left out: AAC, because the camera sends it on the channel of the picture",
        ),
    ] {
        let run = Run::of(&Arc::new(camera(answer).source()));
        eventually("frames come", || run.frames() >= 5);
        assert_eq!(told(&run).as_deref(), Some(expected));
        run.end();
    }
}

/// Some cameras end the connection at what they do not know.
#[test]
fn a_camera_that_fails_when_it_is_asked_for_sound_is_filmed_without_from_then_on() {
    let camera = camera(Answer::Close);
    let source = Arc::new(camera.source());
    for _ in 0..WITHOUT_PICTURE {
        assert!(Run::of(&source).ended().unwrap_err().to_string().contains("SETUP"));
    }
    filmed_without_from_then_on(&source);
}

fn filmed_without_from_then_on(source: &Arc<RtspSource>) {
    for _ in 0..2 {
        let run = Run::of(source);
        eventually("frames come", || run.frames() >= 5);
        assert_eq!(told(&run).as_deref(), Some("left out: AAC, because the camera sends no picture when it is asked for sound"));
        run.end();
    }
}

/// Others play, and send nothing.
#[test]
fn a_camera_that_sends_nothing_when_it_is_asked_for_sound_is_filmed_without_from_then_on() {
    let with_sound = Mutex::<std::collections::HashSet<usize>>::default();
    let plays = Arc::<AtomicUsize>::default();
    let seen = plays.clone();
    let camera = Camera::new(move |method, connection, headers| match method {
        "DESCRIBE" => Answer::Sdp(AAC),
        "SETUP" => {
            if is_sound(headers) {
                with_sound.lock().unwrap().insert(connection);
            }
            Answer::Well
        }
        "PLAY" if with_sound.lock().unwrap().contains(&connection) => {
            seen.fetch_add(1, Ordering::Relaxed);
            Answer::Bytes("RTSP/1.0 200 OK\r\nCSeq: {cseq}\r\n\r\n")
        }
        _ => Answer::Well,
    });
    let source = Arc::new(camera.source());
    for n in 1..=WITHOUT_PICTURE as usize {
        let run = Run::of(&source);
        eventually("it plays", || plays.load(Ordering::Relaxed) == n && told(&run).is_some());
        // As the supervisor does when nothing comes.
        run.end();
    }
    filmed_without_from_then_on(&source);
}

#[test]
fn a_camera_is_asked_for_sound_only_if_it_can_be_recorded_and_is_wanted() {
    for (sdp, wanted, expected) in [(SDP, true, Some("left out: G722")), (SDP, false, None), (AAC, false, None)] {
        let camera = Camera::new(move |method, _, headers| match method {
            "DESCRIBE" => Answer::Sdp(sdp),
            _ => {
                assert!(!is_sound(headers), "{headers}");
                Answer::Well
            }
        });
        let run = Run::of(&Arc::new(camera.source().hearing(wanted)));
        eventually("frames come", || run.frames() >= 5);
        assert_eq!(told(&run).as_deref(), expected);
        run.end();
    }
}

#[test]
fn sound_that_is_announced_and_does_not_come_is_told() {
    // On a channel where it is not looked for.
    let answer = Answer::Headers("Session: 7\r\nTransport: RTP/AVP/TCP;unicast;interleaved=8-9\r\n");
    let run = Run::of(&Arc::new(camera(answer).source()));
    eventually("frames come", || run.frames() > 0);
    assert_eq!(told(&run).as_deref(), Some("AAC 16 kHz mono"));
    eventually("that is told", || told(&run).as_deref() == Some("AAC 16 kHz mono, none has come"));
    run.end();
}

#[test]
fn a_trial_of_a_camera_names_its_sound() {
    for (sdp, expected) in [(AAC, "640x360, H.264 High (sound: AAC 16 kHz mono)"), (SDP, "640x360, H.264 High (sound: left out: G722)")] {
        let camera = answering("DESCRIBE", Answer::Sdp(sdp));
        let source = config::Source::Rtsp(format!("rtsp://{}/live", camera.address).as_str().into());
        let config = config::Media {
            source: source.clone(),
            low_source: None,
            rtsp_transport: RtspTransport::Auto,
            sound: true,
            pre_roll: Duration::ZERO,
            pre_roll_bytes: 100_000,
            snapshot_url: None,
            motion: config::Motion::Every(Duration::from_secs(3600)),
            detection: config::Detection::default(),
        };
        let picture = crate::media::try_source(&source, &config, crate::media::tests::PATIENCE).unwrap();
        assert_eq!(picture.to_string(), expected);
    }
}
