//! A clip that is over and leaves whole gets the header of a progressive file; one of which a part may have left stays in fragments. Its
//! bytes change once, before it leaves, so every attempt to send it, and its file on flash, has the same.
//!
//! A clip in memory gets it before it waits. One that has outgrown memory must be read from its file first, for the digest. The flash
//! thread does that when it completes the file, and writes the header behind what was filmed ([`super::growth`]). If the file cannot be
//! completed, because a part of the clip is in memory or flash failed, the header stays in memory and goes in front of both.

use bytes::Bytes;
use care_engine::trusted_time::Now;
use uuid::Uuid;

use super::{
    Spool,
    clip::{OnFlash, State},
    growth::Head,
};
use crate::{media::Progressive, upload::flash::Tail};

/// What is to be read of a clip's file.
#[derive(Debug)]
pub(in crate::upload) struct Reading {
    pub(in crate::upload) id: Uuid,
    /// Of no bytes if all of the clip is in memory.
    pub(in crate::upload) head: Head,
    pub(in crate::upload) offered: Progressive,
}

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

    /// Keeps a header for a clip that is being recorded and has outgrown memory, if memory has room for it. The flash thread
    /// puts it on.
    pub(in crate::upload) fn offer_header(&mut self, id: Uuid, offered: Progressive, now: Now) {
        let fits = self.ledger.fixed_memory().saturating_add(offered.header.len() as u64) <= self.memory_quota;
        let takes = fits && !self.flash.stopping;
        let Some(clip) = self.ledger.recording(id).filter(|clip| takes && clip.part.is_none() && clip.handed > 0) else { return };
        clip.offered = Some(offered);
        self.make_room_in_memory(id, now);
    }

    /// A clip that is to get a header and of which flash takes no more.
    pub(super) fn reading(&self) -> Option<Reading> {
        let clip = self.ledger.clips.iter().find(|clip| {
            let stays = matches!(clip.flash, OnFlash::Stuck(_) | OnFlash::Doubtful);
            stays && clip.state == State::Waiting && clip.offered.is_some()
        })?;
        Some(Reading { id: clip.id, head: clip.head.clone(), offered: clip.offered.clone()? })
    }

    /// Whether to go on reading a clip that is to get a header: not if it has been erased or has begun to leave without, and not
    /// if an erasure waits. While it is read it does not leave.
    pub(in crate::upload) fn is_read(&mut self, id: Uuid, now: Now) -> bool {
        let undisturbed = self.ledger.unerased.is_empty();
        let reads = |clip: &&mut super::Clip| clip.id == id && clip.state == State::Waiting && clip.offered.is_some();
        let Some(clip) = self.ledger.clips.iter_mut().find(reads).filter(|_| undisturbed) else { return false };
        clip.since = now.boot;
        true
    }

    /// The n-th fragment in memory of a clip that is read; `None` behind the last, or if it is read no longer.
    pub(in crate::upload) fn waiting_fragment(&self, id: Uuid, n: usize) -> Option<Bytes> {
        self.ledger.clips.iter().find(|clip| clip.id == id && clip.offered.is_some())?.fragments.get(n).cloned()
    }

    /// A clip was read: these are its digest with the header, and that of what its file has behind it; `None` if it could not be,
    /// and stays as it was filmed. Returns memory to be freed outside the lock.
    pub(in crate::upload) fn headed(&mut self, id: Uuid, digests: Option<[String; 2]>) -> Option<Bytes> {
        let clip = self.ledger.clips.iter_mut().find(|clip| clip.id == id)?;
        let Progressive { header, replaces } = clip.offered.take()?;
        let Some([whole, stays]) = digests else { return Some(header) };
        let (more, replaced) = (header.len() as u64, replaces as u64);
        if clip.head.bytes > 0 {
            let bytes = clip.head.bytes - replaced;
            clip.head = Head { bytes, sha256: stays, tail: Tail { header: 0, replaces: replaced } };
            clip.header = header;
        } else {
            let first = clip.fragments.first_mut().filter(|first| first.len() >= replaces)?;
            *first = first.slice(replaces..);
            clip.fragments.insert(0, header);
        }
        clip.bytes = clip.bytes + more - replaced;
        clip.sha256 = whole;
        None
    }
}
