//! The pipeline of one session: built from a description, with callbacks that copy frames into the session. Behind the parser
//! stands a leaky queue, so that no callback can hold up the camera.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::description::{self, Description};
use crate::{
    config::Source,
    media::{
        MediaError,
        frame::{Codec, Format, Frame},
        source::{GREY_HEIGHT, GREY_WIDTH, GreySink, Session},
    },
};

/// The error without its debug text, which may hold a URL with a password.
pub(super) fn reason(message: &gst::Message) -> String {
    match message.view() {
        gst::MessageView::Error(error) => {
            let element = message.src().map_or_else(String::new, |src| format!("{}: ", src.name()));
            format!("{element}{}", error.error().message())
        }
        _ => "the source has ended".into(),
    }
}

/// Source, parser, a leaky queue and the sink that delivers frames; with raw video, a branch that makes it small and grey.
pub(super) fn build(description: &Description, source: &Source, grey: bool) -> Result<gst::Pipeline, MediaError> {
    let mut launch = format!(
        "{} ! h264parse ! video/x-h264,stream-format=avc,alignment=au \
         ! queue name=queue leaky=downstream max-size-buffers=60 max-size-bytes=2097152 max-size-time=0 \
         ! appsink name=out sync=false async=false enable-last-sample=false",
        description.launch
    );
    if grey {
        launch.push_str(&format!(
            " raw. ! queue leaky=downstream max-size-buffers=1 max-size-bytes=0 max-size-time=0 ! videorate drop-only=true max-rate=4 \
             ! videoscale add-borders=false ! videoconvert ! video/x-raw,format=GRAY8,width={GREY_WIDTH},height={GREY_HEIGHT} \
             ! appsink name=grey sync=false async=false enable-last-sample=false max-buffers=1 drop=true"
        ));
    }
    let element = gst::parse::launch(&launch).map_err(|error| MediaError::Pipeline { reason: source.hide_in(error.message()) })?;
    let pipeline = element.downcast::<gst::Pipeline>().map_err(|_| MediaError::Pipeline { reason: "not a pipeline".into() })?;
    description::set_address(source, &pipeline);
    Ok(pipeline)
}

fn app_sink(pipeline: &gst::Pipeline, name: &str) -> Result<gst_app::AppSink, MediaError> {
    let sink = pipeline.by_name(name).and_then(|element| element.downcast::<gst_app::AppSink>().ok());
    sink.ok_or_else(|| MediaError::Pipeline { reason: format!("the element named {name} is not the agent's own: choose another name") })
}

/// Delivers every frame to the session. Gives the sink at which frames arrive.
pub(super) fn deliver(pipeline: &gst::Pipeline, session: &Session) -> Result<gst_app::AppSink, MediaError> {
    if let Some(queue) = pipeline.by_name("queue") {
        let session = session.clone();
        queue.connect("overrun", false, move |_| {
            session.lost(1, "before they could be copied out of the stream");
            None
        });
    }
    let sink = app_sink(pipeline, "out")?;
    let session = session.clone();
    let mut format: Option<(gst::Caps, Arc<Format>)> = None;
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        match read(&sample, &mut format) {
            Some((frame, discontinuous)) => {
                if discontinuous && !frame.key {
                    session.gap();
                }
                session.frame(frame);
            }
            None => session.lost(1, "because they had no timestamp or no parameter sets"),
        }
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    Ok(sink)
}

/// Delivers the small grey pictures of a pipeline that was built with them.
pub(super) fn deliver_grey(pipeline: &gst::Pipeline, grey: GreySink) -> Result<(), MediaError> {
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        if let Some(map) = sample.buffer().and_then(|buffer| buffer.map_readable().ok()) {
            grey(&map);
        }
        Ok(gst::FlowSuccess::Ok)
    };
    app_sink(pipeline, "grey")?.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    Ok(())
}

/// The frame, and whether frames are missing before it. `None`: it lacks a timestamp, or the parameter sets.
fn read(sample: &gst::Sample, format: &mut Option<(gst::Caps, Arc<Format>)>) -> Option<(Frame, bool)> {
    let buffer = sample.buffer()?;
    let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
    let discontinuous = buffer.flags().contains(gst::BufferFlags::DISCONT);
    let caps = sample.caps_owned()?;
    let format = match format {
        Some((known, format)) if *known == caps => format.clone(),
        _ => {
            let new = Arc::new(read_format(&caps)?);
            *format = Some((caps, new.clone()));
            new
        }
    };
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let pts = Duration::from(segment.to_running_time(buffer.pts().or(buffer.dts())?)?);
    let data = Bytes::copy_from_slice(&buffer.map_readable().ok()?);
    Some((Frame { pts, key, taken: Instant::now(), data, format }, discontinuous))
}

fn read_format(caps: &gst::Caps) -> Option<Format> {
    let structure = caps.structure(0)?;
    let side = |name| structure.get::<i32>(name).ok().and_then(|pixels| u16::try_from(pixels).ok());
    let record = structure.get::<gst::Buffer>("codec_data").ok()?;
    let configuration = Bytes::copy_from_slice(&record.map_readable().ok()?);
    Some(Format { codec: Codec::H264, width: side("width")?, height: side("height")?, configuration })
}
