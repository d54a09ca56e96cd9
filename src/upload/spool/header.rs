//! A clip that is over and leaves whole gets the header of a progressive file, if all of it is in memory: one that has outgrown memory,
//! or of which a part may have left, stays in fragments. Its bytes change here once, before it waits, so every attempt to send it, and
//! its file on flash, has the same.

use bytes::Bytes;
use care_engine::trusted_time::Now;
use uuid::Uuid;

use super::{Spool, clip::OnFlash};
use crate::media::Progressive;

impl Spool {
    /// Whether a clip that is being recorded can get a header that is so many bytes longer. Then nothing of it goes to flash until
    /// it is finished.
    pub(in crate::upload) fn takes_header(&mut self, id: Uuid, more: usize) -> bool {
        let has_room = self.ledger.fixed_memory().saturating_add(more as u64) <= self.memory_quota;
        let here = |clip: &&mut super::Clip| has_room && clip.part.is_none() && clip.head.bytes == 0 && clip.handed == 0;
        let Some(clip) = self.ledger.recording(id).filter(here) else { return false };
        if clip.flash == OnFlash::Growing {
            // It fits memory after all.
            clip.flash = OnFlash::No;
        }
        true
    }

    /// The n-th fragment of a clip that is being recorded; `None` behind the last, or if the clip was erased.
    pub(in crate::upload) fn fragment(&self, id: Uuid, n: usize) -> Option<Bytes> {
        self.ledger.clips[self.recorded(id)?].fragments.get(n).cloned()
    }

    /// Puts a header in front of a clip that takes it. Returns whether it did.
    pub(in crate::upload) fn put_header(&mut self, id: Uuid, progressive: &Progressive, now: Now) -> bool {
        let &Progressive { ref header, replaces } = progressive;
        let more = header.len().saturating_sub(replaces);
        if !self.takes_header(id, more) {
            return false;
        }
        let Some(clip) = self.ledger.recording(id) else { return false };
        let Some(first) = clip.fragments.first_mut().filter(|first| first.len() >= replaces) else { return false };
        *first = first.slice(replaces..);
        clip.bytes += header.len() as u64 - replaces as u64;
        clip.fragments.insert(0, header.clone());
        self.make_room_in_memory(id, now)
    }
}
