//! The gate's interface for media: decides whether a clip may begin, and receives its bytes during recording.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

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
    hex::hex,
    media::{Beginning, ClipWriter, Identity, Outlet, Progressive, Verdict},
};

/// A part ends before the fragment with which it would last longer, and has one fragment at least. Shorter than the
/// contract's four seconds: at the beginning of an event the pre-roll leaves first, and what happens meanwhile must still
/// be in the store within five, over an uplink that is half as fast again as the stream.
const PART: Duration = Duration::from_secs(1);
/// And before the fragment with which it would be larger, bytes.
const PART_BYTES: usize = 2_000_000;

impl Outlet for Gate {
    fn begin(&self, clip: Beginning) -> Option<(Box<dyn ClipWriter>, Duration)> {
        let id = new_id()?;
        let max = self.spool.lock().begin(id, clip, self.clock.now())?;
        let recording = Recording {
            id,
            spool: self.spool.clone(),
            clock: self.clock.clone(),
            digest: new_digest(),
            in_parts: self.in_parts.load(Ordering::Relaxed),
            part: Open::default(),
            progressive: None,
            ended: false,
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

    fn tallest_snapshot(&self) -> Option<u32> {
        let admission = self.spool.lock().admission();
        let record = admission.record;
        (record.snapshots && record.history_h > 0 && admission.position != Position::NONE).then_some(record.max_height)
    }

    fn identity(&self, ago: Duration) -> Identity {
        let now = self.clock.now();
        Identity { device: self.device.clone(), started_at: now.confirmed.then(|| now.trusted.saturating_sub(ago)) }
    }
}

/// A clip being recorded. Its bytes belong to the spool from the first one on, so that a cut can erase them.
struct Recording {
    id: Uuid,
    spool: Arc<SharedSpool>,
    clock: Clock,
    /// Of the clip, or of the part that is being filmed.
    digest: digest::Context,
    in_parts: bool,
    part: Open,
    /// The header for a clip that leaves whole.
    progressive: Option<Progressive>,
    /// The spool had no room for a fragment: the clip ends before it.
    ended: bool,
    finished: bool,
}

/// The part that is being filmed.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    bytes: usize,
    /// Where in the clip it begins, and how far it reaches.
    from: Duration,
    until: Duration,
}

impl Open {
    /// Whether it ends before a fragment of `size`, with which the clip lasts `duration`.
    fn ends_before(&self, size: usize, duration: Duration) -> bool {
        self.bytes > 0 && (duration.saturating_sub(self.from) > PART || self.bytes + size > PART_BYTES)
    }
}

impl Recording {
    /// The digest of the part that ends before this fragment, and the id of the one that begins with it.
    fn end_part(&mut self, size: usize, duration: Duration) -> Option<(String, Uuid)> {
        if !self.in_parts || !self.part.ends_before(size, duration) {
            return None;
        }
        // Without an id the part grows, and ends later.
        let next = new_id()?;
        self.part = Open { from: self.part.until, ..Open::default() };
        Some((hex(std::mem::replace(&mut self.digest, new_digest()).finish().as_ref()), next))
    }

    /// The digest of the clip with this header, if it can get it. An erasure meanwhile waits for nothing, and finds one fragment here
    /// at most.
    fn digest_with(&self, Progressive { header, replaces }: &Progressive) -> Option<String> {
        let takes = self.spool.lock().takes_header(self.id, header.len().saturating_sub(*replaces));
        let fragment = |n| self.spool.lock().fragment(self.id, n).filter(|_| takes);
        let mut digest = new_digest();
        digest.update(header);
        digest.update(fragment(0)?.get(*replaces..)?);
        (1..).map_while(fragment).for_each(|fragment| digest.update(&fragment));
        Some(hex(digest.finish().as_ref()))
    }
}

impl ClipWriter for Recording {
    fn limit(&self) -> Verdict {
        self.spool.lock().limit(self.id)
    }

    fn append(&mut self, fragment: Bytes, duration: Duration) -> Verdict {
        let size = fragment.len() as u64;
        let mut spool = self.spool.lock();
        if self.ended || !spool.has_room_for(self.id, size) {
            self.ended = true;
            return spool.end_before(self.id, size, self.clock.now());
        }
        drop(spool);
        let ended = self.end_part(fragment.len(), duration);
        self.digest.update(&fragment);
        self.part.bytes += fragment.len();
        self.part.until = duration;
        let now = self.clock.now();
        let mut spool = self.spool.lock();
        let may_leave = ended.is_some();
        if let Some((sha256, next)) = ended {
            spool.end_part(self.id, sha256, next, now);
        }
        let verdict = spool.append(self.id, fragment, duration, now);
        drop(spool);
        if may_leave {
            self.spool.changed()
        } else {
            self.spool.grown()
        }
        verdict
    }

    fn offer(&mut self, progressive: Progressive) {
        // A header that lists what the spool had no room for would be wrong.
        self.progressive = Some(progressive).filter(|_| !self.ended);
    }

    fn finish(mut self: Box<Self>, duration: Duration) {
        let fragmented = hex(self.digest.clone().finish().as_ref());
        let duration = if self.ended { self.part.until } else { duration };
        let progressive = self.progressive.take().map(|offered| (self.digest_with(&offered), offered));
        let now = self.clock.now();
        let mut spool = self.spool.lock();
        let sha256 = match progressive {
            Some((Some(sha256), progressive)) if spool.put_header(self.id, &progressive, now) => sha256,
            Some((None, progressive)) => {
                spool.offer_header(self.id, progressive, now);
                fragmented
            }
            _ => fragmented,
        };
        spool.finish(self.id, duration, sha256, now);
        drop(spool);
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

fn new_digest() -> digest::Context {
    digest::Context::new(&digest::SHA256)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Spool;

    #[test]
    fn a_file_names_its_beginning_only_by_confirmed_time() {
        let (at, ago) = (Duration::from_secs(1_767_225_600), Duration::from_secs(5));
        for (confirmed, started_at) in [(true, Some(at - ago)), (false, None)] {
            let limits = Spool { memory_bytes: 1000, flash_bytes: 0, flash_bytes_per_day: 0 };
            let gate = Gate::new(&limits, None, Clock::at(at, confirmed)).of(&"8006E5A1F0C2".parse().unwrap());
            assert_eq!(gate.identity(ago), Identity { device: "8006E5A1F0C2".into(), started_at });
        }
    }
}
