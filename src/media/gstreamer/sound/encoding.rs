//! Samples in, access units of AAC out, into the session: a pipeline with the encoder alone. Fed by `decoding`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{
    MOST_WAITING,
    encoders::{self, AacEncoder},
    steady::Steady,
};
use crate::media::{
    gstreamer::{
        pipeline::{self, Fed},
        shut_down,
    },
    sound::{Sound, SoundFormat},
    source::Session,
};

/// Bits a second of a channel, for each sample a second of it, up to the most.
const BITS_A_SAMPLE: u32 = 2;
const MOST_BITS: u32 = 64_000;

/// Encodes what comes, as long as it comes.
pub(super) struct Encoding {
    encoder: &'static AacEncoder,
    session: Session,
    running: Option<Running>,
    /// Why it cannot go on.
    fault: Option<String>,
}

/// A pipeline for samples of one kind.
struct Running {
    caps: gst::Caps,
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    steady: Arc<Mutex<Steady>>,
    rate: u64,
    /// Bytes of a sample of all channels.
    frame: usize,
}

impl Encoding {
    pub fn new(encoder: &'static AacEncoder, session: Session) -> Self {
        Self { encoder, session, running: None, fault: None }
    }

    /// Takes samples of 16 bits. Never waits: what the encoder does not keep up with is left out and counted.
    pub fn take(&mut self, sample: &gst::Sample) {
        if self.fault.is_some() {
            return self.session.sound_lost(1);
        }
        if self.running.as_ref().is_none_or(|running| Some(&running.caps) != sample.caps_owned().as_ref()) {
            self.running = None;
            match sample.caps_owned().ok_or_else(|| "its samples have no caps".into()).and_then(|caps| self.start(caps)) {
                Ok(running) => self.running = Some(running),
                Err(fault) => self.fault = Some(fault),
            }
        }
        let taken = self.running.as_ref().is_some_and(|running| running.take(sample).is_some());
        if !taken {
            self.session.sound_lost(1);
        }
    }

    /// No samples come for now: gives out what the encoder holds back.
    pub fn rest(&self) {
        let Some(running) = &self.running else { return };
        let at = running.steady().fed();
        let silence = running.steady().rest();
        // A pipeline that takes nothing more has told why.
        let _ = running.push_silence(at, silence);
    }

    /// Why it cannot go on, if it cannot.
    pub fn fault(&mut self) -> Option<String> {
        let told = || {
            let message = self.running.as_ref()?.pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
            Some(pipeline::reason(&message))
        };
        self.fault.take().or_else(told)
    }

    /// Whether the encoder has as much before it as it may.
    pub fn is_full(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_full)
    }

    fn start(&self, caps: gst::Caps) -> Result<Running, String> {
        let number = |name| caps.structure(0).and_then(|kind| u32::try_from(kind.get::<i32>(name).ok()?).ok()).filter(|n| *n > 0);
        let (Some(rate), Some(channels)) = (number("rate"), number("channels")) else {
            return Err("its samples have no rate".into());
        };
        let coded_rate = encoders::coded_rate(rate);
        let (AacEncoder { name, launch, .. }, bits) = (self.encoder, (coded_rate * BITS_A_SAMPLE).min(MOST_BITS) * channels);
        let launch = format!(
            "appsrc name=feed format=time ! audioresample ! audioconvert ! audio/x-raw,rate={coded_rate} ! {launch} bitrate={bits} \
             ! audio/mpeg,mpegversion=4,stream-format=raw \
             ! appsink name=out sync=false async=false enable-last-sample=false"
        );
        let failed = |reason: &str| format!("{name} cannot be used: {reason}");
        let Fed { pipeline, feed: source, out: sink } = Fed::launch(&launch).map_err(|reason| failed(&reason))?;
        source.set_caps(Some(&caps));
        let steady = Arc::new(Mutex::new(Steady::new(rate, coded_rate, self.encoder.delay)));
        deliver(&sink, steady.clone(), self.session.clone());
        let frame = 2 * usize::try_from(channels).unwrap_or(1);
        let running = Running { caps, pipeline, source, steady, rate: rate.into(), frame };
        running.pipeline.set_state(gst::State::Playing).map_err(|_| failed("it does not start"))?;
        Ok(running)
    }
}

/// Hands the access units that come out to the session.
fn deliver(sink: &gst_app::AppSink, steady: Arc<Mutex<Steady>>, session: Session) {
    let mut known: Option<(gst::Caps, Arc<SoundFormat>)> = None;
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let heard = steady.lock().unwrap_or_else(PoisonError::into_inner).unit();
        if let Some(caps) = sample.caps_owned().filter(|caps| known.as_ref().is_none_or(|(of, _)| of != caps)) {
            known = super::aac_format(&caps).map(|format| (caps, Arc::new(format)));
        }
        let data = sample.buffer().and_then(|buffer| Some(Bytes::copy_from_slice(&buffer.map_readable().ok()?)));
        match (heard, data, &known) {
            (Some(pts), Some(data), Some((_, format))) => session.sound(format, Sound { pts, data }),
            (Some(_), ..) => session.sound_lost(1),
            (None, ..) => {}
        }
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
}

impl Running {
    fn steady(&self) -> MutexGuard<'_, Steady> {
        self.steady.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self) -> bool {
        self.source.current_level_bytes() > MOST_WAITING as u64
    }

    /// `None`: they are not taken.
    fn take(&self, sample: &gst::Sample) -> Option<()> {
        let buffer = sample.buffer().filter(|_| !self.is_full())?;
        let heard = i64::try_from(buffer.pts()?.nseconds()).ok()?;
        let map = buffer.map_readable().ok()?;
        let feed = self.steady().take(heard, i64::try_from(map.len() / self.frame).ok()?);
        self.push_silence(feed.at, feed.silence)?;
        let left = map.get(usize::try_from(feed.skip).ok()? * self.frame..)?;
        if left.is_empty() {
            return None;
        }
        self.push(feed.at + feed.silence, left.to_vec())
    }

    fn push_silence(&self, at: i64, samples: i64) -> Option<()> {
        if samples == 0 {
            return Some(());
        }
        self.push(at, vec![0; usize::try_from(samples).ok()? * self.frame])
    }

    fn push(&self, at: i64, bytes: Vec<u8>) -> Option<()> {
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        let at = u64::try_from(at).ok()?;
        buffer.get_mut()?.set_pts(gst::ClockTime::SECOND.mul_div_floor(at, self.rate));
        self.source.push_buffer(buffer).ok().map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !shut_down(self.pipeline.clone(), super::DOWN) {
            tracing::error!("an encoder of sound did not stop in time and was left behind");
        }
    }
}
