//! A clip being recorded: the MP4 file as far as it is, and where its bytes go. It obeys the outlet's verdicts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::start::Footage;
use crate::media::{
    ClipWriter, Identity, Verdict,
    frame::Frame,
    mp4::{Fragment, Mp4},
    ring::Ring,
};

/// The clip was erased: nothing more may be done with it.
pub(super) struct Erased;

/// Where a clip comes from and where it goes.
pub(super) struct Clip {
    file: Mp4,
    writer: Box<dyn ClipWriter>,
    max: Duration,
    ring: Arc<Ring>,
    /// How often the ring had been erased before the clip began.
    erasures: u64,
    /// Its first frame, on the stream's timeline, and when that was taken.
    from: Duration,
    pub began: Instant,
}

impl Clip {
    /// A clip that begins with this keyframe. `erasures` was read from the ring before the keyframe was.
    pub fn begin(first: Frame, (writer, max): (Box<dyn ClipWriter>, Duration), ring: Arc<Ring>, erasures: u64) -> Self {
        let (from, began) = (first.pts, first.taken);
        Self { file: Mp4::begin(first).with_tables(), writer, max, ring, erasures, from, began }
    }

    /// With this in the file's header.
    pub fn identified(self, identity: Identity) -> Self {
        Self { file: self.file.identified(identity), ..self }
    }

    /// Asks how long it may get: the plan may have changed since the last fragment.
    pub fn ask(&mut self) -> Result<(), Erased> {
        let verdict = self.writer.limit();
        self.obey(verdict)
    }

    /// Whether it can have a frame of this format.
    pub fn takes(&self, frame: &Frame) -> bool {
        self.file.takes(&frame.format)
    }

    /// Whether it would be no longer than it may with this frame.
    pub fn has_room(&self, frame: &Frame) -> bool {
        self.file.reach(frame) <= self.max
    }

    /// How long it may still get.
    pub fn left(&self, frame: &Frame) -> Duration {
        self.max.saturating_sub(self.file.reach(frame))
    }

    /// The longest that it may get.
    pub fn max(&self) -> Duration {
        self.max
    }

    pub fn push(&mut self, frame: Frame) -> Result<(), Erased> {
        match self.file.push(frame) {
            Some(fragment) => self.append(fragment),
            None => Ok(()),
        }
    }

    fn append(&mut self, fragment: Fragment) -> Result<(), Erased> {
        self.check_account()?;
        let verdict = self.writer.append(fragment.bytes, fragment.duration);
        self.obey(verdict)
    }

    fn obey(&mut self, verdict: Verdict) -> Result<(), Erased> {
        match verdict {
            Verdict::Continue { max } => {
                self.max = max;
                Ok(())
            }
            Verdict::Erased => Err(Erased),
        }
    }

    /// Fails once the ring was erased for another account, even if the outlet does not know yet.
    fn check_account(&self) -> Result<(), Erased> {
        if self.ring.erasures() == self.erasures { Ok(()) } else { Err(Erased) }
    }

    /// Ends it. `next` is the frame that comes after it, if one has come. Returns what it has of the stream.
    pub fn finish(mut self, next: Option<&Frame>) -> Result<Footage, Erased> {
        next.into_iter().for_each(|next| self.file.hear(next));
        if let Some(fragment) = self.file.finish(self.max) {
            self.append(fragment)?;
        }
        self.check_account()?;
        let duration = self.file.duration();
        if let Some(progressive) = self.file.progressive() {
            self.writer.offer(progressive);
        }
        self.writer.finish(duration);
        tracing::debug!(duration_ms = duration.as_millis() as u64, "clip recorded");
        let longest = self.from + self.max.max(duration);
        Ok(Footage { from: self.from, until: next.map_or(self.from + duration, |next| next.pts.min(longest)) })
    }
}
