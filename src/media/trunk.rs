//! The pipeline that carries the picture, and the thread that keeps it running. Nothing the cloud does can stop it: behind
//! its tee stands a leaky queue, and the tap only copies bytes into a [`Ring`]. When the source fails or falls silent, the
//! pipeline is built anew after a pause; everything else goes on.

use std::{
    io::{Read, Seek, SeekFrom},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app as gst_app;
use gstreamer_video as gst_video;

use super::{
    MediaError,
    frame::{Format, Frame},
    losses::Losses,
    motion::built_in,
    picture,
    ring::Ring,
    source::{self, Description, Kind},
    status::StreamStatus,
};
use crate::{
    conditions::{self, Conditions},
    config::Source,
};

/// No first frame for this long, or no next one: the source is dead, whatever its state says.
const FIRST_FRAME: Duration = Duration::from_secs(15);
const NEXT_FRAME: Duration = Duration::from_secs(5);
/// Pauses between attempts, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The same where elements are missing, or the description is wrong: what heals that takes a person.
const FIRST_PAUSE_UNBUILT: Duration = Duration::from_secs(5);
const LONGEST_PAUSE_UNBUILT: Duration = Duration::from_secs(60);
/// A stream that has flowed this long is no longer at fault: one that dies every few seconds is.
const SETTLED: Duration = Duration::from_secs(10);
/// Running this long makes the next pause the first one again.
const STABLE: Duration = Duration::from_secs(30);
/// How long a pipeline may take to reach NULL before it is left behind.
const DOWN: Duration = Duration::from_secs(3);
/// How often the bus is left to look whether to stop.
const TICK: gst::ClockTime = gst::ClockTime::from_mseconds(100);

/// Looks at small grey pictures.
pub(super) type OnGrey = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Width of the small grey picture, pixels.
pub(super) const GREY_WIDTH: usize = 64;
/// Height of the small grey picture, pixels.
pub(super) const GREY_HEIGHT: usize = 36;

/// Where the tap puts frames, and who looks at raw ones.
#[derive(Clone)]
pub(super) struct Taps {
    pub rings: Vec<Arc<Ring>>,
    /// Sees four pictures a second, where the source has raw ones.
    pub grey: Option<OnGrey>,
}

/// Which of the camera's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Main,
    Low,
}

impl Which {
    fn thread(self) -> &'static str {
        match self {
            Self::Main => "media-trunk",
            Self::Low => "media-low",
        }
    }

    fn condition(self) -> conditions::Kind {
        match self {
            Self::Main => conditions::Kind::Stream,
            Self::Low => conditions::Kind::LowStream,
        }
    }
}

/// One running stream.
pub(super) struct Trunk {
    state: Arc<State>,
    stop: mpsc::SyncSender<()>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    source: String,
    width: AtomicU32,
    height: AtomicU32,
    frames: AtomicU64,
    dropped: AtomicU64,
    restarts: AtomicU64,
    /// Whether the tap waits for a keyframe.
    broken: AtomicBool,
    sees_raw: Arc<AtomicBool>,
    last_frame: Mutex<Option<Instant>>,
    fault: Mutex<Option<String>>,
    sink: Mutex<Option<gst_app::AppSink>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trunk {
    /// Starts a stream. A source that is not there yet, or cannot be built, is no error: a condition says so, and it is tried
    /// again and again.
    pub fn start(which: Which, source: Source, taps: Taps, conditions: Conditions, losses: Losses) -> Result<Self, MediaError> {
        let state = Arc::new(State { source: source.to_string(), ..State::default() });
        let (stop, stopped) = mpsc::sync_channel(1);
        let keeper = Keeper { which, source, taps, state: state.clone(), conditions, losses, stopped, epoch: Instant::now() };
        let thread = thread::Builder::new().name(which.thread().into()).spawn(move || keeper.run()).map_err(MediaError::Thread)?;
        Ok(Self { state, stop, thread })
    }

    pub fn status(&self) -> StreamStatus {
        let state = &*self.state;
        let age = locked(&state.last_frame).map(|at| at.elapsed());
        StreamStatus {
            source: state.source.clone(),
            width: state.width.load(Ordering::Relaxed),
            height: state.height.load(Ordering::Relaxed),
            frames: state.frames.load(Ordering::Relaxed),
            dropped: state.dropped.load(Ordering::Relaxed),
            last_frame_age_ms: age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            restarts: state.restarts.load(Ordering::Relaxed),
            fault: locked(&state.fault).clone(),
        }
    }

    /// Whether motion looks at raw pictures: known once the source has been opened, for a camera may encode for itself.
    pub fn sees_raw(&self) -> Arc<AtomicBool> {
        self.state.sees_raw.clone()
    }

    /// A handle that asks the encoder for a keyframe.
    pub fn keyframes(&self) -> Keyframes {
        Keyframes(self.state.clone())
    }

    /// Asks the stream to end; its thread tells when it has.
    pub fn stop(self) -> JoinHandle<()> {
        // Full means asked already.
        let _ = self.stop.try_send(());
        self.thread
    }
}

/// Asks a stream's encoder for keyframes. A source that has none, or cannot, ignores it.
#[derive(Clone)]
pub(super) struct Keyframes(Arc<State>);

impl Keyframes {
    pub fn ask(&self) {
        let sink = locked(&self.0.sink).clone();
        if let Some(sink) = sink {
            let _ = sink.send_event(gst_video::UpstreamForceKeyUnitEvent::builder().all_headers(true).build());
        }
    }
}

/// The thread's own.
struct Keeper {
    which: Which,
    source: Source,
    taps: Taps,
    state: Arc<State>,
    conditions: Conditions,
    losses: Losses,
    stopped: mpsc::Receiver<()>,
    /// All timestamps count from here, whichever pipeline they come from.
    epoch: Instant,
}

/// Why a pipeline ended.
enum End {
    Stopped,
    Fault(String),
    /// There was no pipeline at all.
    Unbuilt(MediaError),
}

impl Keeper {
    fn run(self) {
        let (mut pause, mut unbuilt_pause) = (FIRST_PAUSE, FIRST_PAUSE_UNBUILT);
        loop {
            let began = Instant::now();
            let (fault, wait) = match self.stream() {
                End::Stopped => return,
                End::Fault(fault) => {
                    if began.elapsed() >= STABLE {
                        pause = FIRST_PAUSE;
                    }
                    unbuilt_pause = FIRST_PAUSE_UNBUILT;
                    let wait = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    (fault, wait)
                }
                End::Unbuilt(error) => {
                    let wait = unbuilt_pause;
                    unbuilt_pause = (unbuilt_pause * 2).min(LONGEST_PAUSE_UNBUILT);
                    (error.to_string(), wait)
                }
            };
            let fault = self.source.hide_in(&fault);
            self.conditions.raise(self.which.condition(), format!("no picture from {}: {fault}", self.state.source));
            *locked(&self.state.fault) = Some(fault);
            self.state.restarts.fetch_add(1, Ordering::Relaxed);
            if self.stopped.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// One pipeline, from its start to its end.
    fn stream(&self) -> End {
        let pipeline = match self.assemble() {
            Ok(pipeline) => pipeline,
            Err(error @ (MediaError::Pipeline { .. } | MediaError::NoEncoder)) => {
                // What is missing may be installed, or its folder mounted, before the next try.
                let _ = gst::Registry::update();
                return End::Unbuilt(error);
            }
            Err(error) => return End::Fault(error.to_string()),
        };
        let end = self.watch(&pipeline);
        *locked(&self.state.sink) = None;
        if !down(pipeline, DOWN) {
            tracing::error!(source = self.state.source, "pipeline did not stop in time and was left behind");
        }
        end
    }

    fn assemble(&self) -> Result<gst::Pipeline, MediaError> {
        let description = Description::of(&self.source)?;
        // Without them motion follows the keyframes, and says what is missing; the picture does not depend on it.
        let grey = self.taps.grey.clone().filter(|_| description.has_raw() && built_in::cannot_shrink().is_none());
        self.state.sees_raw.store(grey.is_some(), Ordering::Relaxed);
        let pipeline = build(&description, &self.source, grey.is_some())?;
        match description.kind {
            Kind::Test => picture::burn_in_the_time(&pipeline),
            Kind::Elementary => feed(&self.source, &pipeline)?,
            Kind::Live | Kind::Mp4 | Kind::Rtsp => {}
        }
        let sink = app_sink(&pipeline, "out")?;
        self.count(&pipeline);
        self.tap(&sink);
        if let Some(grey) = grey {
            watch_grey(&app_sink(&pipeline, "grey")?, grey);
        }
        *locked(&self.state.sink) = Some(sink);
        Ok(pipeline)
    }

    /// Every frame of the trunk is counted before any queue can lose it.
    fn count(&self, pipeline: &gst::Pipeline) {
        let Some(pad) = pipeline.by_name("trunk").and_then(|tee| tee.static_pad("sink")) else { return };
        let state = self.state.clone();
        state.broken.store(true, Ordering::Relaxed);
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            state.frames.fetch_add(1, Ordering::Relaxed);
            *locked(&state.last_frame) = Some(Instant::now());
            gst::PadProbeReturn::Ok
        });
        if let Some(queue) = pipeline.by_name("tap") {
            let (state, losses) = (self.state.clone(), self.losses.clone());
            queue.connect("overrun", false, move |_| {
                state.dropped.fetch_add(1, Ordering::Relaxed);
                losses.add("before they could be copied out of the stream", 1);
                None
            });
        }
    }

    fn tap(&self, sink: &gst_app::AppSink) {
        let (state, rings) = (self.state.clone(), self.taps.rings.clone());
        let offset = self.epoch.elapsed();
        let mut format: Option<(gst::Caps, Arc<Format>)> = None;
        let new_sample = move |sink: &gst_app::AppSink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            if let Some(frame) = read(&sample, &mut format, offset, &state) {
                for ring in &rings {
                    ring.push(frame.clone());
                }
            }
            Ok(gst::FlowSuccess::Ok)
        };
        sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
    }

    fn watch(&self, pipeline: &gst::Pipeline) -> End {
        let Some(bus) = pipeline.bus() else { return End::Fault("the pipeline has no bus".into()) };
        let looped = pipeline.by_name("looped");
        let turns = Arc::new(AtomicU64::new(0));
        if let Some(parser) = &looped {
            add_the_last_frame(parser, turns.clone());
        }
        if looped.is_some() && !self.loops(pipeline) {
            return End::Fault(match bus.pop_filtered(&[gst::MessageType::Error]) {
                Some(message) => reason(&message),
                None => "the file cannot be looped: it has no index".into(),
            });
        }
        if pipeline.set_state(gst::State::Playing).is_err() {
            return End::Fault(
                bus.pop_filtered(&[gst::MessageType::Error]).map_or_else(|| "the source cannot play".into(), |m| reason(&m)),
            );
        }
        let began = Instant::now();
        let before = self.state.frames.load(Ordering::Relaxed);
        let mut flowing_since: Option<Instant> = None;
        let kinds = [gst::MessageType::Error, gst::MessageType::Eos, gst::MessageType::SegmentDone];
        loop {
            if self.stopped.try_recv() != Err(mpsc::TryRecvError::Empty) {
                return End::Stopped;
            }
            if let Some(message) = bus.timed_pop_filtered(TICK, &kinds) {
                match message.view() {
                    gst::MessageView::SegmentDone(_) => {
                        // Without a flush the running time goes on, so timestamps do too.
                        turns.fetch_add(1, Ordering::Relaxed);
                        if !rewind(pipeline, gst::SeekFlags::SEGMENT) {
                            return End::Fault("the file could not be begun again".into());
                        }
                    }
                    gst::MessageView::Eos(_) => return End::Fault("the source has ended".into()),
                    _ => return End::Fault(reason(&message)),
                }
            }
            let flowing = self.state.frames.load(Ordering::Relaxed) != before;
            let silence = if flowing { locked(&self.state.last_frame).map_or(Duration::ZERO, |at| at.elapsed()) } else { began.elapsed() };
            if silence > if flowing { NEXT_FRAME } else { FIRST_FRAME } {
                return End::Fault(format!("no frame for {} s", silence.as_secs()));
            }
            if flowing && silence < Duration::from_secs(1) {
                *locked(&self.state.fault) = None;
                if flowing_since.get_or_insert_with(Instant::now).elapsed() >= SETTLED {
                    self.conditions.clear(self.which.condition());
                }
            }
        }
    }

    /// Makes an MP4 end with a message instead of an end of stream; possible once its index is read.
    fn loops(&self, pipeline: &gst::Pipeline) -> bool {
        let began = Instant::now();
        if pipeline.set_state(gst::State::Paused).is_err() {
            return false;
        }
        while began.elapsed() < FIRST_FRAME {
            if rewind(pipeline, gst::SeekFlags::SEGMENT | gst::SeekFlags::FLUSH) {
                return true;
            }
            if self.stopped.recv_timeout(Duration::from_millis(20)) != Err(mpsc::RecvTimeoutError::Timeout) {
                return false;
            }
        }
        false
    }
}

/// qtdemux begins each turn of a loop at the last frame's time, as if that frame took none; here each turn gets it back.
fn add_the_last_frame(parser: &gst::Element, turns: Arc<AtomicU64>) {
    let Some(pad) = parser.static_pad("src") else { return };
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let Some(event) = info.event_mut() else { return gst::PadProbeReturn::Ok };
        let shifted = match event.view() {
            gst::EventView::Segment(told) => told.segment().clone().downcast::<gst::ClockTime>().ok().map(|mut segment| {
                let turns = turns.load(Ordering::Relaxed);
                segment.set_base(segment.base().unwrap_or_default() + gst::ClockTime::from_nseconds(turns * frame_length(pad)));
                gst::event::Segment::builder(&segment).seqnum(told.seqnum()).build()
            }),
            _ => None,
        };
        if let Some(shifted) = shifted {
            *event = shifted;
        }
        gst::PadProbeReturn::Ok
    });
}

/// Nanoseconds, by the stream's own word; 25 frames a second if it has none.
fn frame_length(pad: &gst::Pad) -> u64 {
    let rate = pad.current_caps().and_then(|caps| caps.structure(0)?.get::<gst::Fraction>("framerate").ok());
    let (frames, seconds) = rate.map_or((25, 1), |rate| (rate.numer(), rate.denom()));
    1_000_000_000 * seconds.max(1) as u64 / frames.max(1) as u64
}

fn rewind(pipeline: &gst::Pipeline, flags: gst::SeekFlags) -> bool {
    pipeline.seek(1.0, flags, gst::SeekType::Set, gst::ClockTime::ZERO, gst::SeekType::None, gst::ClockTime::NONE).is_ok()
}

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

/// Source, parser, tee, and the tap's branch; with raw video, a second branch that makes it small and grey.
fn build(description: &Description, source: &Source, grey: bool) -> Result<gst::Pipeline, MediaError> {
    let mut launch = format!(
        "{} ! h264parse ! video/x-h264,stream-format=avc,alignment=au ! tee name=trunk allow-not-linked=true \
         ! queue name=tap leaky=downstream max-size-buffers=60 max-size-bytes=2097152 max-size-time=0 \
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
    source::aim(source, &pipeline);
    Ok(pipeline)
}

fn app_sink(pipeline: &gst::Pipeline, name: &str) -> Result<gst_app::AppSink, MediaError> {
    let sink = pipeline.by_name(name).and_then(|element| element.downcast::<gst_app::AppSink>().ok());
    sink.ok_or_else(|| MediaError::Pipeline { reason: format!("the element named {name} is not the agent's own: choose another name") })
}

/// After a loss, nothing until the next keyframe: what refers to a lost frame shows grey blocks.
fn read(sample: &gst::Sample, format: &mut Option<(gst::Caps, Arc<Format>)>, offset: Duration, state: &State) -> Option<Frame> {
    let buffer = sample.buffer()?;
    let key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
    let lossy = buffer.flags().contains(gst::BufferFlags::DISCONT);
    let broken = !key && (lossy || state.broken.load(Ordering::Relaxed));
    state.broken.store(broken, Ordering::Relaxed);
    if broken {
        state.dropped.fetch_add(1, Ordering::Relaxed);
        return None;
    }
    let caps = sample.caps_owned()?;
    let format = match format {
        Some((known, format)) if *known == caps => format.clone(),
        _ => {
            let new = Arc::new(read_format(&caps)?);
            state.width.store(new.width.into(), Ordering::Relaxed);
            state.height.store(new.height.into(), Ordering::Relaxed);
            *format = Some((caps, new.clone()));
            new
        }
    };
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let shown = segment.to_running_time(buffer.pts().or(buffer.dts())?)?;
    let data = Bytes::copy_from_slice(&buffer.map_readable().ok()?);
    Some(Frame { pts: offset + Duration::from(shown), key, taken: Instant::now(), data, format })
}

fn read_format(caps: &gst::Caps) -> Option<Format> {
    let structure = caps.structure(0)?;
    let side = |name| structure.get::<i32>(name).ok().and_then(|pixels| u16::try_from(pixels).ok());
    let record = structure.get::<gst::Buffer>("codec_data").ok()?;
    let avcc = Bytes::copy_from_slice(&record.map_readable().ok()?);
    Some(Format { width: side("width")?, height: side("height")?, avcc })
}

fn watch_grey(sink: &gst_app::AppSink, grey: OnGrey) {
    let new_sample = move |sink: &gst_app::AppSink| {
        let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        if let Some(map) = sample.buffer().and_then(|buffer| buffer.map_readable().ok()) {
            grey(&map);
        }
        Ok(gst::FlowSuccess::Ok)
    };
    sink.set_callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build());
}

/// Reads an elementary stream in small pieces for ever, and gives its frames the times they do not have.
fn feed(source: &Source, pipeline: &gst::Pipeline) -> Result<(), MediaError> {
    let Source::File(path) = source else { return Ok(()) };
    let mut file = std::fs::File::open(path).map_err(|source| MediaError::File { path: path.clone(), source })?;
    if let Some(feeder) = pipeline.by_name("source").and_then(|element| element.downcast::<gst_app::AppSrc>().ok()) {
        let need_data = move |feeder: &gst_app::AppSrc, _| {
            let mut piece = vec![0; 16 * 1024];
            let mut read = file.read(&mut piece);
            if let Ok(0) = read {
                read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read(&mut piece));
            }
            // A flow that ends and a file that cannot be read end the same way: no more frames, and the trunk is built anew.
            let _ = match read {
                Ok(length) if length > 0 => {
                    piece.truncate(length);
                    feeder.push_buffer(gst::Buffer::from_mut_slice(piece))
                }
                _ => feeder.end_of_stream(),
            };
        };
        feeder.set_callbacks(gst_app::AppSrcCallbacks::builder().need_data(need_data).build());
    }
    let Some(pad) = pipeline.by_name("timed").and_then(|parser| parser.static_pad("src")) else { return Ok(()) };
    let next = AtomicU64::new(0);
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        if let Some(buffer) = info.buffer_mut() {
            let time = gst::ClockTime::from_nseconds(next.fetch_add(frame_length(pad), Ordering::Relaxed));
            let buffer = buffer.make_mut();
            buffer.set_pts(time);
            buffer.set_dts(time);
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Takes a pipeline to NULL on a plain thread, for an element may hang in there. False: it did, and is left behind.
pub(super) fn down(pipeline: gst::Pipeline, deadline: Duration) -> bool {
    let (done, finished) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name("media-down".into()).spawn(move || {
        let _ = pipeline.set_state(gst::State::Null);
        let _ = done.send(());
    });
    spawned.is_ok() && finished.recv_timeout(deadline).is_ok()
}
