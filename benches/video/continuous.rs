//! A camera that sends all that it films, as Kinesis Video Streams' `kvssink` does: GStreamer takes the stream apart, `curl` sends
//! it in one request without end. Its evidence is in the cloud sooner than a clip can be; the price is an uplink that is never
//! free, and that everything is filmed into the cloud.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use care_tests::{
    footprint::Cost,
    media,
    wait::{PATIENCE, until},
    world::World,
};
use rtsp_camera::{Camera, Codec, Options};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{
    evidence::{FPS, LOOK, STREAM_MBIT, rounded, slow_down},
    quantile::quantile,
};

/// It has filled its buffers.
const SETTLE: Duration = Duration::from_secs(5);

/// The two programs of the sender.
struct Sender {
    pipeline: Child,
    curl: Child,
}

impl Sender {
    fn start(camera: &Camera, world: &World) -> anyhow::Result<Self> {
        let description = format!(
            "rtspsrc protocols=tcp latency=0 location={} ! rtph264depay ! h264parse ! \
             video/x-h264,stream-format=byte-stream,alignment=au ! fdsink sync=false",
            camera.url()
        );
        let mut pipeline = Command::new("gst-launch-1.0");
        pipeline.arg("-q").args(description.split_whitespace()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut pipeline = pipeline.spawn().context("gst-launch-1.0")?;
        let stream: Stdio = pipeline.stdout.take().context("its output")?.try_into()?;
        let config = &world.agent.config;
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--no-buffer", "--upload-file", "-", "--header", "Expect:", "--http1.1"]);
        curl.arg("--cacert").arg(&config.ca).arg("--cert").arg(&config.cert).arg("--key").arg(&config.key);
        curl.arg(format!("{}/clips/continuous/0", world.cloud.url())).stdin(stream).stdout(Stdio::null()).kill_on_drop(true);
        Ok(Self { pipeline, curl: curl.spawn().context("curl")? })
    }

    async fn cost(&self, span: Duration) -> anyhow::Result<Value> {
        let pid = |child: &Child| child.id().and_then(|pid| i32::try_from(pid).ok()).context("it runs");
        let (pipeline, curl) = tokio::try_join!(Cost::of(pid(&self.pipeline)?, span), Cost::of(pid(&self.curl)?, span))?;
        Ok(json!({
            "pss_kb": pipeline.usage.pss_kb + curl.usage.pss_kb,
            "cpu_s_per_min": rounded(pipeline.cpu_s_per_min + curl.cpu_s_per_min),
        }))
    }
}

/// An event that lasts for `span`: when each of its pictures was at the server, and what is sent meanwhile.
pub(crate) async fn measure(span: Duration) -> anyhow::Result<Value> {
    let mut options = Options::new(media::noisy(FPS, 20, FPS, STREAM_MBIT), Codec::H264);
    options.fps = FPS.into();
    let camera = Camera::start(options)?;
    let world = World::new().await;
    slow_down(world.cloud.addr);
    let sender = Sender::start(&camera, &world)?;
    until("the stream", PATIENCE, || arrived(&world).map(|_| ())).await;
    tokio::time::sleep(SETTLE).await;

    // The event begins with the next picture.
    let (begun, first, sent_before) = (Instant::now(), filmed(&camera)?, arrived(&world).context("it sends")?);
    let cost = sender.cost(span);
    tokio::pin!(cost);
    let (mut arrivals, mut cost_of) = (Vec::new(), None);
    let mut pictures = Pictures::default();
    let last = first + (span.as_secs_f64() * f64::from(FPS)) as usize;
    while first + arrivals.len() < last || cost_of.is_none() {
        ensure!(begun.elapsed() < span + PATIENCE, "the end of the event does not come into the store");
        tokio::select! {
            cost = &mut cost, if cost_of.is_none() => cost_of = Some(cost?),
            () = tokio::time::sleep(LOOK) => {}
        }
        let there = pictures.count(&world.cloud.lock().puts.first().context("it sends")?.body);
        while first + arrivals.len() < there.min(last) {
            arrivals.push(begun.elapsed());
        }
    }
    let bytes = arrived(&world).context("it sends")? - sent_before;
    let took = begun.elapsed();
    let sent = camera.sessions().first().context("a session")?.sent.clone();
    // Filmed at the event: as long after the first picture of the event as the camera says.
    let mut late: Vec<f64> = arrivals
        .iter()
        .zip(&sent[first..])
        .map(|(arrived, filmed)| (arrived.as_secs_f64() - (*filmed - sent[first]).as_secs_f64()).max(0.0))
        .collect();
    late.sort_by(f64::total_cmp);
    Ok(json!({
        "video_p50_s": rounded(quantile(&late, 50)), "video_max_s": rounded(quantile(&late, 100)),
        "kbit_s": (bytes as f64 * 8.0 / 1000.0 / took.as_secs_f64()).round(), "cost": cost_of,
    }))
}

/// Pictures that the camera has sent.
fn filmed(camera: &Camera) -> anyhow::Result<usize> {
    Ok(camera.sessions().first().context("a session")?.sent.len())
}

/// Bytes at the server.
fn arrived(world: &World) -> Option<usize> {
    world.cloud.lock().puts.first().map(|put| put.body.len()).filter(|length| *length > 0)
}

/// Counts the pictures of an H.264 byte stream that grows: slices that begin one (`first_mb_in_slice` 0).
#[derive(Default)]
struct Pictures {
    counted: usize,
    up_to: usize,
}

impl Pictures {
    fn count(&mut self, stream: &[u8]) -> usize {
        while let Some(window) = stream.get(self.up_to..self.up_to + 5) {
            let slice = window[..3] == [0, 0, 1] && matches!(window[3] & 0x1f, 1 | 5) && window[4] & 0x80 != 0;
            self.counted += usize::from(slice);
            self.up_to += 1;
        }
        self.counted
    }
}
