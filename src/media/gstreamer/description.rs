//! Each kind of source as a GStreamer description that ends in H.264 or H.265, with raw pictures for motion where the source has them.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use gstreamer::{self as gst, prelude::*};

use super::{frames, nal_units};
use crate::{
    config::Source,
    media::{MediaError, frame::Codec},
};

/// What a pipeline is built of.
#[derive(Debug)]
pub(super) struct Description {
    /// Elements up to and including the encoder, if there is one. Raw video passes a tee named `raw`.
    pub launch: String,
    pub kind: Kind,
}

/// What a pipeline has to do for its source beyond playing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A capture device, or whatever was described.
    Live,
    /// Draws the time into the picture.
    Test,
    /// Goes back to the beginning at the end.
    Mp4,
    /// The same, fed and timed by the agent: an elementary stream has no timestamps.
    Elementary,
}

const H264: &str = "video/x-h264";
const H265: &str = "video/x-h265";

/// In order of preference: name, and description for about 1 Mbit/s and a keyframe every second or two.
const ENCODERS: [(&str, &str); 3] = [
    ("v4l2h264enc", "v4l2h264enc extra-controls=controls,video_bitrate=1000000,h264_i_frame_period=15"),
    ("openh264enc", "openh264enc bitrate=1000000 gop-size=15 complexity=low"),
    ("x264enc", "x264enc bitrate=1000 key-int-max=15 speed-preset=ultrafast tune=zerolatency"),
];

impl Description {
    pub fn of(source: &Source) -> Result<Self, MediaError> {
        let (launch, kind) = match source {
            Source::Test => {
                let raw = "videotestsrc name=source is-live=true pattern=smpte horizontal-speed=3 \
                           ! video/x-raw,format=I420,width=640,height=360,framerate=15/1 ! identity name=picture";
                (encoded(raw, &ENCODERS[1..])?, Kind::Test)
            }
            Source::V4l2(_) => {
                if let Some(media_type) = offered_encoded(source) {
                    (format!("v4l2src name=source ! {media_type}"), Kind::Live)
                } else {
                    let raw = "v4l2src name=source ! video/x-raw,width=[1,1280],height=[1,720],framerate=[1/1,30/1] ! videoconvert";
                    (encoded(raw, &ENCODERS)?, Kind::Live)
                }
            }
            Source::Rtsp(_) => return Err(MediaError::Pipeline { reason: "GStreamer is not used for rtsp://".into() }),
            Source::File(path) => match container(path)? {
                Container::Mp4 => {
                    let looped = format!("filesrc name=source ! qtdemux name=tracks ! capsfilter name=looped caps=\"{}\"", frames::CAPS);
                    (format!("{looped} ! clocksync"), Kind::Mp4)
                }
                Container::ByteStream(codec) => {
                    let (parser, media_type) = match codec {
                        Codec::H264 => ("h264parse", H264),
                        Codec::H265 => ("h265parse", H265),
                    };
                    let parsed = format!("{parser} name=timed ! {media_type},stream-format=byte-stream,alignment=au");
                    (format!("appsrc name=source format=time max-bytes=65536 ! {parsed} ! clocksync"), Kind::Elementary)
                }
            },
            Source::Launch(description) => (description.expose().to_owned(), Kind::Live),
        };
        Ok(Self { launch, kind })
    }

    /// Whether raw pictures pass through the pipeline.
    pub fn has_raw(&self) -> bool {
        self.launch.contains("tee name=raw")
    }
}

/// Sets the address of the source element: as a property, so that nothing in it is parsed as part of a description.
pub(super) fn set_address(source: &Source, pipeline: &gst::Pipeline) {
    let Some(element) = pipeline.by_name("source") else { return };
    match source {
        Source::V4l2(path) => element.set_property("device", path.to_string_lossy().as_ref()),
        Source::File(path) if element.has_property("location") => {
            element.set_property("location", path.to_string_lossy().as_ref());
            if let Some(tracks) = pipeline.by_name("tracks") {
                let offered = Arc::new(Offered::default());
                let seen = offered.clone();
                tracks.connect_pad_added(move |_, pad| {
                    let caps = pad.current_caps();
                    let kind = caps.as_ref().and_then(|caps| Some(caps.structure(0)?.name().to_string()));
                    if let Some(kind) = kind.filter(|kind| kind.starts_with("video/")) {
                        seen.note(&kind);
                    }
                });
                tracks.connect_no_more_pads(move |tracks| offered.check(tracks));
            }
        }
        Source::Test | Source::Rtsp(_) | Source::File(_) | Source::Launch(_) => {}
    }
}

/// The video tracks of a file.
#[derive(Default)]
struct Offered {
    readable: AtomicBool,
    /// Another codec, by its common name.
    other: Mutex<Option<String>>,
}

impl Offered {
    /// Notes a track of this media type.
    fn note(&self, kind: &str) {
        let other = match kind {
            H264 | H265 => {
                self.readable.store(true, Ordering::Relaxed);
                return;
            }
            "video/mpeg" => "MPEG-4 Part 2",
            other => other,
        };
        *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(other.to_owned());
    }

    /// Posts an error on the bus of the pipeline if none of them can be read: the demuxer's own would be "internal".
    fn check(&self, element: &gst::Element) {
        let other = self.other.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(other) = other.filter(|_| !self.readable.load(Ordering::Relaxed)) {
            gst::element_error!(element, gst::StreamError::WrongType, ("the file holds {other}, and the agent needs H.264 or H.265"));
        }
    }
}

fn encoded(raw: &str, encoders: &[(&str, &str)]) -> Result<String, MediaError> {
    let found = encoders.iter().find(|(name, _)| gst::ElementFactory::find(name).is_some());
    let (_, encoder) = found.ok_or(MediaError::NoEncoder)?;
    Ok(format!("{raw} ! tee name=raw ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 ! {encoder}"))
}

/// What a camera encodes itself, H.264 before H.265, as a media type. It says so once its device is open.
fn offered_encoded(source: &Source) -> Option<&'static str> {
    let Source::V4l2(path) = source else { return None };
    let camera = gst::ElementFactory::make("v4l2src").property("device", path.to_string_lossy().as_ref()).build().ok()?;
    let opened = camera.set_state(gst::State::Ready).is_ok();
    let caps = camera.static_pad("src").filter(|_| opened).map(|pad| pad.query_caps(None));
    // If the device does not close, the next open fails and reports it.
    let _ = camera.set_state(gst::State::Null);
    caps.and_then(|caps| [H264, H265].into_iter().find(|name| caps.can_intersect(&gst::Caps::builder(*name).build())))
}

/// What a recorded file is.
enum Container {
    Mp4,
    ByteStream(Codec),
}

fn container(path: &Path) -> Result<Container, MediaError> {
    let fault = |source| MediaError::File { path: path.into(), source };
    let mut start = [0; 8];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).map_err(fault)?;
    match start {
        [_, _, _, _, b'f', b't', b'y', b'p'] => Some(Container::Mp4),
        [0, 0, 1, ..] | [0, 0, 0, 1, ..] => nal_units::codec_of(&start).map(Container::ByteStream),
        _ => None,
    }
    .ok_or_else(|| fault(io::Error::new(io::ErrorKind::InvalidData, "neither MP4 nor a byte stream of H.264 or H.265")))
}
