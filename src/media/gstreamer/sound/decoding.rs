//! Whatever comes in, samples of 16 bits out, in one or two channels, with when they are heard. Fed by the thread of `sound`; what
//! comes out goes to `encoding`.

use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{Input, MOST_WAITING, encoding::Encoding};
use crate::media::{
    gstreamer::{
        pipeline::{self, Fed},
        shut_down,
    },
    sound::Sound,
};

/// The pipeline of a decoder.
pub(super) struct Decoding {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
}

impl Decoding {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot: it completes the sentence "left out: PCMU, because …".
    pub fn start(input: &Input, encoding: Arc<Mutex<Encoding>>) -> Result<Self, String> {
        let decoder = input.decoder.map_or_else(String::new, |name| format!("! {name} "));
        let launch = format!(
            "appsrc name=feed format=time {decoder}! audioconvert ! audio/x-raw,format=S16LE,layout=interleaved,channels=[1,2] \
             ! appsink name=out sync=false async=false enable-last-sample=false"
        );
        let failed = |reason: &str| format!("it cannot be decoded: {reason}");
        let Fed { pipeline, feed: source, out: sink } = Fed::launch(&launch).map_err(|reason| failed(&reason))?;
        source.set_caps(Some(&input.caps));
        let new_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            encoding.lock().unwrap_or_else(PoisonError::into_inner).take(&sample);
            Ok(gst::FlowSuccess::Ok)
        };
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
        let decoding = Self { pipeline, source };
        decoding.pipeline.set_state(gst::State::Playing).map_err(|_| failed("its decoder does not start"))?;
        Ok(decoding)
    }

    /// Takes a piece, cut to a multiple of `whole` bytes. Never waits. False: it is not taken.
    pub fn push(&self, Sound { pts, mut data }: Sound, whole: usize) -> bool {
        if self.is_full() {
            return false;
        }
        data.truncate(data.len() - data.len() % whole.max(1));
        let mut buffer = gst::Buffer::from_slice(data);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(gst::ClockTime::try_from(pts).ok());
        }
        self.source.push_buffer(buffer).is_ok()
    }

    /// Why it cannot go on, if it cannot.
    pub fn fault(&self) -> Option<String> {
        let message = self.pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
        Some(pipeline::reason(&message))
    }

    /// Whether the decoder has as much before it as it may.
    pub fn is_full(&self) -> bool {
        self.source.current_level_bytes() > MOST_WAITING as u64
    }
}

impl Drop for Decoding {
    fn drop(&mut self) {
        if !shut_down(self.pipeline.clone(), super::DOWN) {
            tracing::error!("a decoder of sound did not stop in time and was left behind");
        }
    }
}
