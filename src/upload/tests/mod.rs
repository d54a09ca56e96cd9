//! Uploads against a cloud on loopback.

mod cuts;
mod early_answers;
mod flash;
mod grants;
mod growth;
mod parts;
mod progressive;
mod sink;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use care_engine::Admission;
use care_protocol::{ClipKind, Policy, Position};

use self::sink::Sink;
use super::{spool::Next, *};
use crate::{
    config::{Spool as SpoolLimits, Upload},
    http::Origin,
    media::{Beginning, Outlet},
};

const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
const NONE: Policy = Policy { clips: false, snapshots: false, ..PAID };
const AT: Position = Position { epoch: 3, seq: 41 };

struct Bench {
    uploads: Option<Uploads>,
    gate: Arc<Gate>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Bench {
    fn new(sink: &Sink) -> Self {
        Self::with(Peers { api: sink.origin(), store: None }, 0)
    }

    fn with(peers: Peers, uplink_kbps: u32) -> Self {
        Self::on(peers, uplink_kbps, 0, PathBuf::from("/nowhere"))
    }

    fn on(peers: Peers, uplink_kbps: u32, flash_bytes: u64, spool_dir: PathBuf) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let told = events.clone();
        let spool = SpoolLimits { memory_bytes: 8_000_000, flash_bytes, flash_bytes_per_day: 10 * flash_bytes };
        let settings = Settings {
            device: "8006E5A1F0C2".parse().unwrap(),
            spool,
            spool_dir,
            upload: Upload { uplink_kbps, while_recording: false },
            peers,
            uploader: None,
            conditions: crate::conditions::Conditions::default(),
        };
        let uploads = start(settings, Clock::start(None), move |event| told.lock().unwrap().push(event)).unwrap();
        Self { gate: uploads.gate(), uploads: Some(uploads), events }
    }

    fn open(&self, leave: Policy) {
        self.gate.open(Admission { record: PAID, keep: PAID, leave, position: AT });
    }

    /// Records a clip of `bytes` in three fragments; the content.
    fn record(&self, bytes: usize) -> Vec<u8> {
        let block: Vec<u8> = (0..bytes.min(997)).map(|_| fastrand::u8(..)).collect();
        let content = block.repeat(bytes.div_ceil(block.len()))[..bytes].to_vec();
        let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
        let (mut writer, _) = self.gate.begin(beginning).expect("a clip may begin");
        for (i, part) in content.chunks(bytes.div_ceil(3).max(1)).enumerate() {
            writer.append(Bytes::copy_from_slice(part), Duration::from_millis(i as u64));
        }
        writer.finish(Duration::from_millis(3));
        content
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn status(&self) -> UploadStatus {
        self.uploads.as_ref().unwrap().status()
    }

    fn stored(&self) -> u32 {
        self.status().stored.clips
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.uploads.take().unwrap().stop(Duration::from_secs(5));
    }
}

#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never came to be: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
