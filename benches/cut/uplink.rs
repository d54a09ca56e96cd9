//! The same cancels behind an uplink of 2 Mbit/s, in network namespaces: every contender has an uplink of its own, over which its
//! MQTT goes as well, and a capture at the far end sees when the last byte of the upload arrives. All of them film and upload at
//! the same time; they cancel one after the other, so that none is slowed down by another's cancel.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use care_protocol::Mode;
use care_tests::{capture::Capture, cloud::Put, shaped_link::Link};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::{
    contender::{Answered, Contender, Kind, Place},
    quantile::quantile,
    sorted, until_uploading,
};

/// The uplink's rate, as the wire test has it.
const KBPS: u32 = 2_000;
/// Cancels come after this much of a clip, and this much more in each round.
const FIRST_BYTES: u64 = 20_000;
const MORE_BYTES: u64 = 5_000;
/// Nothing more of an upload arrives after this long without a byte.
const OVER: Duration = Duration::from_secs(2);
/// The same once the store has seen the end of the connection.
const QUIET: Duration = Duration::from_millis(200);

/// One cancel.
#[derive(Debug, Clone, Copy)]
struct Crossing {
    /// Publication to report, as the cloud sees it.
    millis: f64,
    /// Publication to the arrival of the last byte of the upload; 0 if none came.
    last_byte_ms: f64,
    /// Bytes of the upload that arrived after the publication.
    bytes_after: u64,
    /// Those that arrived after the report.
    bytes_after_report: u64,
}

/// Cancels so often behind an uplink.
pub(crate) fn measure(cancels: usize) -> anyhow::Result<Value> {
    let turn = Mutex::new(());
    let measured = thread::scope(|scope| {
        let turn = &turn;
        let running = Kind::ALL.map(|kind| (kind, scope.spawn(move || behind_an_uplink(kind, cancels, turn))));
        running.map(|(kind, thread)| (kind, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
    });
    let mut figures = Map::new();
    for (kind, crossings) in measured {
        let crossings = crossings.with_context(|| format!("{} behind an uplink", kind.name()))?;
        figures.insert(kind.name().into(), of(&crossings));
    }
    figures.insert("kbps".into(), KBPS.into());
    figures.insert("cancels".into(), cancels.into());
    print(&figures);
    Ok(figures.into())
}

/// In a thread of its own, because a namespace belongs to a thread.
fn behind_an_uplink(kind: Kind, cancels: usize, turn: &Mutex<()>) -> anyhow::Result<Vec<Crossing>> {
    let link = Link::shaped(KBPS);
    link.enter_far();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut contender = Contender::start(kind, Place::Behind(&link)).await?;
        let capture = Capture::towards(&link, contender.world.cloud.addr.port());
        let (mut crossings, mut spoiled) = (Vec::new(), 0);
        while crossings.len() < cancels {
            let bytes = FIRST_BYTES + MORE_BYTES * crossings.len() as u64;
            match crossing(&mut contender, &capture, bytes, turn).await? {
                Some(crossing) => crossings.push(crossing),
                None => spoiled += 1,
            }
            ensure!(spoiled <= cancels, "{spoiled} uploads have ended before their cancel came");
        }
        Ok(crossings)
    })
}

/// One cancel after so many bytes of an upload; `None` if it found none in flight.
async fn crossing(contender: &mut Contender, capture: &Capture, bytes: u64, turn: &Mutex<()>) -> anyhow::Result<Option<Crossing>> {
    contender.subscribe().await;
    until_uploading(std::slice::from_mut(contender), bytes).await;
    let Answered { report, millis, published_ns } = {
        let _turn = turn.lock().await;
        contender.cancelled().await
    };
    ensure!(report.mode == Mode::Free, "{report:?}");
    let ended = |put: &Put| put.complete.is_some();
    loop {
        let quiet = capture.quiet_since(published_ns);
        if quiet > OVER || quiet > QUIET && contender.uploads(|puts| puts.iter().all(ended)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (bytes_after, last) = capture.since(published_ns);
    let (bytes_after_report, _) = capture.since(published_ns + (millis * 1e6) as u64);
    let became_whole = contender.uploads(|puts| puts.iter().any(|put| put.complete == Some(true)));
    let cut = report.cut.transfers == 1 && !became_whole;
    Ok(cut.then_some(Crossing { millis, last_byte_ms: last.as_secs_f64() * 1000.0, bytes_after, bytes_after_report }))
}

fn of(crossings: &[Crossing]) -> Value {
    let spread = |figure: fn(&Crossing) -> f64| {
        let figures = sorted(crossings.iter().map(figure));
        json!({ "p50": quantile(&figures, 50), "p99": quantile(&figures, 99), "max": quantile(&figures, 100) })
    };
    json!({
        "report_ms": spread(|crossing| crossing.millis),
        "last_byte_ms": spread(|crossing| crossing.last_byte_ms),
        "bytes_after": spread(|crossing| crossing.bytes_after as f64),
        "bytes_after_report": spread(|crossing| crossing.bytes_after_report as f64),
    })
}

fn print(figures: &Map<String, Value>) {
    println!("{:<16} {:>16} {:>16} {:>20} {:>20}", "uplink, p50/max", "report ms", "last byte ms", "bytes", "after the report");
    for kind in Kind::ALL {
        let row = &figures[kind.name()];
        let cell = |key: &str| {
            let [p50, max] = ["p50", "max"].map(|at| row[key][at].as_f64().unwrap_or(f64::NAN));
            format!("{p50:.1}/{max:.1}")
        };
        let [report, last, bytes, late] = ["report_ms", "last_byte_ms", "bytes_after", "bytes_after_report"].map(cell);
        println!("{:<16} {report:>16} {last:>16} {bytes:>20} {late:>20}", kind.name());
    }
}
