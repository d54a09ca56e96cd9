//! The gate's interface for media: decides whether a clip may begin, and receives its bytes during recording.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use care_protocol::Position;
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use uuid::Uuid;

use super::gate::{Gate, SharedSpool};
use crate::{
    clock::Clock,
    media::{Beginning, ClipWriter, Outlet, Verdict},
};

impl Outlet for Gate {
    fn begin(&self, clip: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)> {
        let id = new_id()?;
        let max = self.spool.lock().begin(id, clip, self.clock.now())?;
        let recording = Recording {
            id,
            spool: self.spool.clone(),
            clock: self.clock.clone(),
            digest: digest::Context::new(&digest::SHA256),
            finished: false,
        };
        Some((Box::new(recording), max))
    }

    fn clip_max(&self) -> Option<Duration> {
        let admission = self.spool.lock().admission();
        let record = admission.record;
        let any = record.clips && record.history_h > 0 && record.clip_max_s > 0 && admission.position != Position::NONE;
        any.then(|| Duration::from_secs(record.clip_max_s.into()))
    }
}

/// A clip being recorded. Its bytes belong to the spool from the first one on, so that a cut can erase them.
struct Recording {
    id: Uuid,
    spool: Arc<SharedSpool>,
    clock: Clock,
    digest: digest::Context,
    finished: bool,
}

impl ClipWriter for Recording {
    fn limit(&self) -> Verdict {
        self.spool.lock().limit(self.id)
    }

    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict {
        self.digest.update(&fragment);
        let verdict = self.spool.lock().append(self.id, fragment, duration, self.clock.now());
        self.spool.grown();
        verdict
    }

    fn finish(mut self: Box<Self>, duration: Duration) {
        let sha256 = hex(&self.digest.clone().finish());
        self.spool.lock().finish(self.id, duration, sha256, self.clock.now());
        self.finished = true;
        self.spool.changed();
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if !self.finished {
            self.spool.lock().abandon(self.id);
            self.spool.changed();
        }
    }
}

/// A digest in the form of the API: lowercase hex.
pub(super) fn hex(digest: &digest::Digest) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random UUID (version 4): the clip's name in the cloud, so it needs a cryptographic generator.
fn new_id() -> Option<Uuid> {
    let mut bytes = [0; 16];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => Some(uuid::Builder::from_random_bytes(bytes).into_uuid()),
        Err(_) => {
            tracing::error!("no clip begins: the kernel gives no random bytes");
            None
        }
    }
}
