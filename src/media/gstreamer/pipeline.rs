//! The pipeline of one session: built from a description, with callbacks that copy what leaves it into the session. Before its end
//! stands a leaky queue, so that no callback can hold up the camera.

use std::sync::{Arc, Mutex, PoisonError};

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::{
    description::{self, Description},
    frames::{self, Frames},
};
use crate::{
    config::Source,
    media::{
        MediaError,
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

/// A pipeline between an `appsrc` named `feed` and an `appsink` named `out`.
pub(super) struct Fed {
    pub pipeline: gst::Pipeline,
    pub feed: gst_app::AppSrc,
    pub out: gst_app::AppSink,
}

impl Fed {
    /// # Errors
    /// Why it cannot be built, in words.
    pub fn launch(description: &str) -> Result<Self, String> {
        let element = gst::parse::launch(description).map_err(|error| error.message().to_owned())?;
        let pipeline = element.downcast::<gst::Pipeline>().map_err(|_| "not a pipeline")?;
        let feed = pipeline.by_name("feed").and_then(|element| element.downcast().ok()).ok_or("no appsrc")?;
        let out = pipeline.by_name("out").and_then(|element| element.downcast().ok()).ok_or("no appsink")?;
        Ok(Self { pipeline, feed, out })
    }
}

/// Source, a leaky queue and the sink that delivers frames; with raw video, a branch that makes it small and grey.
pub(super) fn build(description: &Description, source: &Source, grey: bool) -> Result<gst::Pipeline, MediaError> {
    let mut launch = format!(
        "{} ! queue name=queue leaky=downstream max-size-buffers=240 max-size-bytes=2097152 max-size-time=0 \
         ! appsink name=out caps=\"{}\" sync=false async=false enable-last-sample=false",
        description.launch,
        frames::CAPS
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

/// Delivers every frame to the session. Gives the sink at which buffers arrive, and what makes frames of them.
pub(super) fn deliver(pipeline: &gst::Pipeline, session: &Session) -> Result<(gst_app::AppSink, Arc<Mutex<Frames>>), MediaError> {
    if let Some(queue) = pipeline.by_name("queue") {
        let session = session.clone();
        queue.connect("overrun", false, move |_| {
            session.lost(1, "before they could be copied out of the stream");
            None
        });
    }
    let sink = app_sink(pipeline, "out")?;
    // Parsers give parameter sets times of before the first picture. They would be dropped, and all pictures with them.
    sink.set_drop_out_of_segment(false);
    let frames = Arc::new(Mutex::new(Frames::new(session.clone())));
    let taken = frames.clone();
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        taken.lock().unwrap_or_else(PoisonError::into_inner).take(&sample);
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    Ok((sink, frames))
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
