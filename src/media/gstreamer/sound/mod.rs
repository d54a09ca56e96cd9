//! Sound that no file can have as it is, made AAC by whichever encoder GStreamer has. A thread of its own has the pipelines: whoever
//! gives it sound never waits, and whatever happens to an encoder happens to no picture. What it does not keep up with is left out
//! and counted; why it cannot go on is told, and it is tried again after a minute.
//!
//! ```text
//! branch ─ AAC ─────────────────────────────────── Session::sound
//!   └─ all else
//! SoundEncoder::push ─ thread ─ decoding ─ samples ─ encoding ─ Session::sound
//!                                                     steady: when each unit is heard
//! ```

mod adts;
mod branch;
mod decoding;
pub(super) mod encoders;
mod encoding;
mod steady;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use gstreamer as gst;

pub(super) use self::branch::{attach, is_sound};
use self::{decoding::Decoding, encoders::AacEncoder, encoding::Encoding};
use crate::media::{
    samples::{Law, Samples},
    sound::{Sound, SoundFormat},
    source::{Hearing, Session},
};

/// So much sound may wait at each step, bytes, and so many pieces of it.
const MOST_WAITING: usize = 256 << 10;
const MOST_PIECES: usize = 512;
/// After a silence this long what the encoder holds back is given out.
const QUIET: Duration = Duration::from_secs(1);
/// An encoder that has as much before it as it may, for this long, does not keep up.
const FULL: Duration = Duration::from_secs(10);
/// One that has failed is tried again after this.
const REST: Duration = Duration::from_secs(60);
/// How long a pipeline may take to reach NULL. Then it is left behind.
const DOWN: Duration = Duration::from_secs(3);

/// What comes to be encoded.
#[derive(Debug, Clone)]
pub(super) struct Input {
    /// Its name in the status.
    pub name: String,
    pub caps: gst::Caps,
    /// The element that makes samples of it, if it is none yet.
    pub decoder: Option<&'static str>,
    /// What comes is cut to a multiple of this, bytes.
    pub whole: usize,
}

impl Input {
    pub fn of(samples: Samples) -> Self {
        let (media_type, decoder, bytes) = match samples.law {
            Law::Mu => ("audio/x-mulaw", Some("mulawdec"), 1),
            Law::A => ("audio/x-alaw", Some("alawdec"), 1),
            Law::Linear => ("audio/x-raw", None, 2),
        };
        let caps = gst::Caps::builder(media_type)
            .field("rate", i32::try_from(samples.rate).unwrap_or(8000))
            .field("channels", i32::from(samples.channels));
        let caps = if samples.law == Law::Linear { caps.field("format", "S16BE").field("layout", "interleaved") } else { caps };
        Self { name: samples.name().into(), caps: caps.build(), decoder, whole: bytes * usize::from(samples.channels.max(1)) }
    }
}

/// Makes AAC of one stream of sound, and delivers it to a session.
pub(in crate::media) struct SoundEncoder {
    samples: Option<Samples>,
    pieces: mpsc::SyncSender<Sound>,
    waiting: Arc<AtomicUsize>,
    session: Session,
}

impl SoundEncoder {
    /// For samples of an RTSP camera. `None`: there is no thread for it.
    pub fn of(samples: Samples, session: &Session) -> Option<Self> {
        let encoder = Self::start(Input::of(samples), &encoders::ENCODERS, session)?;
        Some(Self { samples: Some(samples), ..encoder })
    }

    /// With the first of these encoders that is installed.
    pub(super) fn start(input: Input, candidates: &'static [AacEncoder], session: &Session) -> Option<Self> {
        let (pieces, received) = mpsc::sync_channel(MOST_PIECES);
        let waiting = Arc::<AtomicUsize>::default();
        let work = Work { input, candidates, pieces: received, waiting: waiting.clone(), session: session.clone() };
        if let Err(error) = crate::threads::named("media-sound").spawn(move || work.run()) {
            tracing::error!(%error, "no thread to encode sound");
            return None;
        }
        Some(Self { samples: None, pieces, waiting, session: session.clone() })
    }

    /// Whether it was made for these.
    pub fn takes(&self, samples: Samples) -> bool {
        self.samples == Some(samples)
    }

    /// Takes the next piece. Never waits.
    pub fn push(&self, sound: Sound) {
        let bytes = sound.data.len();
        let fits = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_WAITING;
        if !fits || self.pieces.try_send(sound).is_err() {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.session.sound_lost(1);
        }
    }
}

/// What its thread does.
struct Work {
    input: Input,
    candidates: &'static [AacEncoder],
    pieces: mpsc::Receiver<Sound>,
    waiting: Arc<AtomicUsize>,
    session: Session,
}

impl Work {
    fn run(self) {
        loop {
            let Err(fault) = self.encode() else { return };
            tracing::warn!(sound = self.input.name, fault, "sound cannot be encoded");
            self.session.hears(Hearing::LeftOut(format!("{}, because {fault}", self.input.name)));
            let again = Instant::now() + REST;
            while let Some(left) = again.checked_duration_since(Instant::now()) {
                match self.receive(left) {
                    Ok(_) => self.session.sound_lost(1),
                    Err(mpsc::RecvTimeoutError::Timeout) => break,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
            // What is missing may be installed by now. Until then the registry stays.
            let _ = gst::Registry::update();
        }
    }

    fn receive(&self, within: Duration) -> Result<Sound, mpsc::RecvTimeoutError> {
        let sound = self.pieces.recv_timeout(within)?;
        self.waiting.fetch_sub(sound.data.len(), Ordering::Relaxed);
        Ok(sound)
    }

    /// Encodes until no more comes.
    fn encode(&self) -> Result<(), String> {
        let encoder = encoders::find(self.candidates, &self.input)?;
        let encoding = Arc::new(Mutex::new(Encoding::new(encoder, self.session.clone())));
        let decoding = Decoding::start(&self.input, encoding.clone())?;
        self.session.hears(Hearing::Encoded(self.input.name.clone()));
        let mut not_full = Instant::now();
        loop {
            match self.receive(QUIET) {
                Ok(sound) => {
                    if !decoding.push(sound, self.input.whole) {
                        self.session.sound_lost(1);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => encoding.lock().unwrap_or_else(PoisonError::into_inner).rest(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let mut encoding = encoding.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(fault) = decoding.fault().or_else(|| encoding.fault()) {
                return Err(fault);
            }
            if !decoding.is_full() && !encoding.is_full() {
                not_full = Instant::now();
            } else if not_full.elapsed() > FULL {
                return Err(format!("{} does not keep up", encoder.name));
            }
        }
    }
}

/// How AAC of these caps is coded. `None`: it is none that a file can have.
fn aac_format(caps: &gst::CapsRef) -> Option<SoundFormat> {
    let kind = caps.structure(0)?;
    let configuration = kind.get::<gst::Buffer>("codec_data").ok().and_then(|data| Some(data.map_readable().ok()?.to_vec()));
    match configuration {
        Some(configuration) => SoundFormat::read(&configuration),
        None => {
            let number = |name| kind.get::<i32>(name).ok();
            SoundFormat::plain(number("rate")?.try_into().ok()?, number("channels")?.try_into().ok()?)
        }
    }
}
