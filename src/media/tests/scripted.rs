//! A source of frames whose every session a test scripts. Its pictures are real H.264, so that ffmpeg can judge what becomes of
//! them.

use std::{collections::VecDeque, sync::LazyLock};

use super::*;

/// Frames a second.
pub(in crate::media) const FPS: u32 = 15;

const IN_THE_SCRIPT: &str = "in the script";

/// What a session does.
#[derive(Debug, Clone)]
pub(in crate::media) enum Script {
    /// Delivers frames in real time, this many, a keyframe each second; then ends. `u32::MAX`: does not end.
    Live(u32),
    /// The same as fast as it can: a source whose clock runs ahead.
    Burst(u32),
    /// Delivers its first keyframe when it is asked for one, and goes on in real time.
    OnRequest,
    /// Fails at once.
    Fail(SourceError),
    /// Delivers this many frames and then no more, and returns when its session is over.
    Freeze(u32),
    /// Delivers nothing, and returns when its session is over.
    Silent,
    /// Delivers a keyframe each time it is asked for one.
    Stepped,
    /// Delivers frames in real time, all of which are lost for this reason.
    Useless(&'static str),
    /// Delivers nothing and does not return.
    Hang,
    /// Delivers frames; between the first and the second of these numbers they are lost.
    Gap(u32, u32),
    /// Delivers frames; those between the first and the second of these numbers come late, with the second.
    Stall(u32, u32),
    /// Delivers frames and grey pictures with a thing that moves.
    Grey,
}

/// Plays its sessions in order; then the last one again and again.
pub(in crate::media) struct Scripted {
    size: &'static str,
    script: Mutex<VecDeque<Script>>,
    pub sessions: AtomicUsize,
    pub keyframe_requests: AtomicUsize,
}

impl Scripted {
    pub fn new(script: impl IntoIterator<Item = Script>) -> Self {
        Self {
            size: "640x360",
            script: Mutex::new(script.into_iter().collect()),
            sessions: AtomicUsize::new(0),
            keyframe_requests: AtomicUsize::new(0),
        }
    }

    /// One that films for as long as it is asked to.
    pub fn live() -> Self {
        Self::new([Script::Live(u32::MAX)])
    }

    pub fn sized(self, size: &'static str) -> Self {
        Self { size, ..self }
    }

    fn next_session(&self) -> Script {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let mut script = self.script.lock().unwrap();
        if script.len() > 1 { script.pop_front().unwrap() } else { script[0].clone() }
    }

    fn film(&self, session: &Session, frames: u32, step: impl Fn(u32) -> Duration, lost: std::ops::Range<u32>, reason: &'static str) {
        let film = film(self.size);
        let began = Instant::now();
        for (n, taken) in (0..frames).zip(film.iter().cycle()) {
            let due = began + step(n);
            if session.wait(due.saturating_duration_since(Instant::now())) {
                return;
            }
            if lost.contains(&n) {
                session.lost(1, reason);
            } else {
                session.frame(Frame { pts: Duration::from_secs(1) * n / FPS, taken: Instant::now(), ..taken.clone() });
            }
        }
    }
}

impl FrameSource for Scripted {
    fn run(&self, session: &Session) -> Result<(), SourceError> {
        let real_time = |n| Duration::from_secs(1) * n / FPS;
        match self.next_session() {
            Script::Live(frames) => self.film(session, frames, real_time, 0..0, IN_THE_SCRIPT),
            Script::Burst(frames) => self.film(session, frames, |_| Duration::ZERO, 0..0, IN_THE_SCRIPT),
            Script::Gap(from, to) => self.film(session, u32::MAX, real_time, from..to, IN_THE_SCRIPT),
            Script::Stall(from, to) => {
                let late = |n| real_time(if (from..to).contains(&n) { to } else { n });
                self.film(session, u32::MAX, late, 0..0, IN_THE_SCRIPT);
            }
            Script::OnRequest => {
                while self.keyframe_requests.load(Ordering::Relaxed) == 0 {
                    if session.wait(Duration::from_millis(5)) {
                        return Ok(());
                    }
                }
                self.film(session, u32::MAX, real_time, 0..0, IN_THE_SCRIPT);
            }
            Script::Fail(error) => return Err(error),
            Script::Freeze(frames) => {
                self.film(session, frames, |_| Duration::ZERO, 0..0, IN_THE_SCRIPT);
                while !session.wait(PATIENCE) {}
            }
            Script::Silent => while !session.wait(PATIENCE) {},
            Script::Stepped => {
                let mut delivered = 0;
                while !session.wait(Duration::from_millis(1)) {
                    if self.keyframe_requests.load(Ordering::Relaxed) > delivered {
                        let pts = Duration::from_secs(delivered as u64);
                        session.frame(Frame { pts, taken: Instant::now(), ..film(self.size)[0].clone() });
                        delivered += 1;
                    }
                }
            }
            Script::Useless(reason) => self.film(session, u32::MAX, real_time, 0..u32::MAX, reason),
            Script::Hang => loop {
                thread::park();
            },
            Script::Grey => {
                let grey = session.grey().expect("grey pictures are wanted");
                let film = film(self.size);
                for n in 0.. {
                    let mut picture = vec![90; GREY_WIDTH * GREY_HEIGHT];
                    let block = n as usize * 2 % (GREY_WIDTH - 8);
                    (10..18).for_each(|row| picture[row * GREY_WIDTH + block..][..8].fill(220));
                    grey(&picture);
                    session.frame(Frame { pts: real_time(n), taken: Instant::now(), ..film[n as usize % film.len()].clone() });
                    if session.wait(Duration::from_secs(1) / FPS) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn request_keyframe(&self) {
        self.keyframe_requests.fetch_add(1, Ordering::Relaxed);
    }
}

/// Two seconds of a moving picture, a keyframe each second.
pub(in crate::media) fn film(size: &str) -> &'static [Frame] {
    static LARGE: LazyLock<Vec<Frame>> = LazyLock::new(|| encode("640x360", 2, &["-g", "15", "-b:v", "1M"]));
    static SMALL: LazyLock<Vec<Frame>> = LazyLock::new(|| encode("320x180", 2, &["-g", "15", "-b:v", "1M"]));
    match size {
        "640x360" => &LARGE,
        "320x180" => &SMALL,
        _ => panic!("no film of {size}"),
    }
}

/// Encodes a film with ffmpeg and these options of x264: H.264 with access unit delimiters, cut at these.
pub(super) fn encode(size: &str, seconds: u32, options: &[&str]) -> Vec<Frame> {
    let picture = format!("testsrc=size={size}:rate={FPS}:duration={seconds}");
    let encoder = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-bf", "0", "-aud", "1"];
    let output = ["-f", "h264", "-"];
    let input = ["-v", "error", "-f", "lavfi", "-i", &picture];
    let made = Command::new("ffmpeg").args(input).args(encoder).args(options).args(output).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (width, height) = size.split_once('x').unwrap();
    let (width, height) = (width.parse().unwrap(), height.parse().unwrap());

    let mut units: Vec<Vec<&[u8]>> = Vec::new();
    for nal in nal_units(&made.stdout) {
        if nal[0] & 31 == 9 {
            units.push(Vec::new());
        }
        units.last_mut().unwrap().push(nal);
    }
    let parameter_set = |kind: u8| units[0].iter().find(|nal| nal[0] & 31 == kind).unwrap();
    let (sps, pps) = (parameter_set(7), parameter_set(8));
    let mut avcc = vec![1, sps[1], sps[2], sps[3], 0xFF, 0xE1];
    avcc.extend_from_slice(&u16::try_from(sps.len()).unwrap().to_be_bytes());
    avcc.extend_from_slice(sps);
    avcc.push(1);
    avcc.extend_from_slice(&u16::try_from(pps.len()).unwrap().to_be_bytes());
    avcc.extend_from_slice(pps);
    let format = Arc::new(Format { codec: Codec::H264, width, height, configuration: avcc.into() });

    let frame = |unit: &Vec<&[u8]>| {
        let mut data = Vec::new();
        for nal in unit.iter().filter(|nal| matches!(nal[0] & 31, 1 | 5)) {
            data.extend_from_slice(&u32::try_from(nal.len()).unwrap().to_be_bytes());
            data.extend_from_slice(nal);
        }
        let key = unit.iter().any(|nal| nal[0] & 31 == 5);
        Frame { pts: Duration::ZERO, key, taken: Instant::now(), data: data.into(), format: format.clone(), sound: None }
    };
    let frames: Vec<Frame> = units.iter().map(frame).collect();
    assert_eq!(frames.len() as u32, seconds * FPS);
    frames
}

/// The NAL units between start codes (ITU-T H.264, annex B).
pub(in crate::media) fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = (3..stream.len()).filter(|&at| stream[at - 3..at] == [0, 0, 1]).collect();
    let ends = starts.iter().skip(1).map(|start| start - 3).chain([stream.len()]);
    starts
        .iter()
        .zip(ends)
        .map(|(&start, end)| {
            let nal = &stream[start..end];
            // The zero byte of a start code of four.
            nal.strip_suffix(&[0]).unwrap_or(nal)
        })
        .collect()
}

/// A tone in AAC LC, as ffmpeg encodes it.
pub(in crate::media) fn tone(rate: u32, channels: u8, seconds: u32) -> (Arc<SoundFormat>, Vec<Bytes>) {
    let tone = format!("sine=frequency=440:sample_rate={rate}:duration={seconds}");
    let input = ["-v", "error", "-f", "lavfi", "-i", &tone, "-ac", &channels.to_string()];
    let made = Command::new("ffmpeg").args(input).args(["-c:a", "aac", "-b:a", "32k", "-f", "adts", "-"]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (mut units, mut rest) = (Vec::new(), Bytes::from(made.stdout));
    while let [_, _, _, high, middle, low, ..] = rest[..] {
        // ADTS (ISO/IEC 14496-3, 1.A.3): a header of seven bytes, and 13 bits of length.
        let length = usize::from(high & 3) << 11 | usize::from(middle) << 3 | usize::from(low >> 5);
        units.push(rest.split_to(length).slice(7..));
    }
    (Arc::new(SoundFormat::plain(rate, channels).unwrap()), units)
}

/// The NAL units of a frame.
pub(in crate::media) fn units(mut data: &[u8]) -> Vec<&[u8]> {
    let mut units = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk() {
        let (unit, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        units.push(unit);
        data = rest;
    }
    units
}

/// The parameter sets in a configuration as `encode` makes it.
pub(in crate::media) fn parameter_sets(configuration: &[u8]) -> [Vec<u8>; 2] {
    let unit = |at: usize| {
        let length = usize::from(u16::from_be_bytes([configuration[at], configuration[at + 1]]));
        configuration[at + 2..at + 2 + length].to_vec()
    };
    let sps = unit(6);
    let pps = unit(9 + sps.len());
    [sps, pps]
}
