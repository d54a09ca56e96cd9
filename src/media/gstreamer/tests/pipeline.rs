//! What the callbacks of a pipeline deliver, buffer by buffer.

use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;

use super::*;
use crate::media::{drops::DropCounters, gstreamer::pipeline::deliver, ring::Ring, source::Stream, tests::scripted::film};

/// As when a camera's RTP packets carry no usable time: the frame cannot be shown, and what refers to it cannot be decoded.
#[test]
fn a_frame_without_a_timestamp_is_counted_as_lost_with_the_rest_of_its_gop() {
    gst::init().unwrap();
    let launch = "appsrc name=source format=time ! queue name=queue max-size-time=0 ! appsink name=out sync=false async=false";
    let pipeline = gst::parse::launch(launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    let (ring, conditions) = (Arc::new(Ring::new(Duration::from_secs(60), 1 << 20)), Conditions::default());
    let stream = Arc::new(Stream::new(vec![ring.clone()], None, DropCounters::new(conditions.clone())));
    deliver(&pipeline, &stream.session(Duration::ZERO)).unwrap();
    pipeline.set_state(gst::State::Playing).unwrap();

    let film = film("640x360");
    let caps = gst::Caps::builder("video/x-h264")
        .field("codec_data", gst::Buffer::from_slice(film[0].format.configuration.clone()))
        .field("width", 640)
        .field("height", 360)
        .build();
    let source = pipeline.by_name("source").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    for (n, frame) in film[..20].iter().enumerate() {
        let mut buffer = gst::Buffer::from_slice(frame.data.clone());
        let writable = buffer.make_mut();
        if n != 5 {
            writable.set_pts(gst::ClockTime::from_mseconds(n as u64 * 66));
        }
        if !frame.key {
            writable.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
        source.push_sample(&gst::Sample::builder().buffer(&buffer).caps(&caps).build()).unwrap();
    }
    let counted = || (stream.counters.frames.load(Ordering::Relaxed), stream.counters.dropped.load(Ordering::Relaxed));
    eventually("all frames have come", || counted().0 == 20);
    pipeline.set_state(gst::State::Null).unwrap();
    assert_eq!((counted().1, ring.end()), (10, 10), "5 up to the lost one, 5 from the next keyframe on");
    assert!(named(&conditions, "frames_lost").unwrap().contains("1 because they had no timestamp"));
}
