//! Files of clips that are written while they are filmed. Such a file gets its header and its final name when the clip is
//! complete; until then a scan removes it, so after a crash at any moment the clip is whole or gone. Its descriptor stays
//! open from the first byte on: on another one the last sync might not hear of a page that the kernel failed to write.

use std::{collections::BTreeMap, io};

use bytes::Bytes;
use care_engine::durable::filesystem::{Access, Filesystem, StateFile};
use ring::digest;
use uuid::Uuid;

use super::{
    files::{CLIP, Files, PART, Put, keep_reserve, name},
    header::{self, Facts, HEADER_BYTES, Tail},
    progressive::Filmed,
    write_budget::WriteCount,
};
use crate::{hex::hex, media::Progressive};

/// A file is synced whenever this much was written: an erasure, which a cut waits to have recorded, then waits for no
/// longer a sync, and the kernel holds no more unwritten pages. Flash wears no more by it.
const SYNC_EACH: u64 = 4 << 20;

/// The files, by their clips' names.
pub(super) struct Growing<T>(BTreeMap<Uuid, Unfinished<T>>);

struct Unfinished<T> {
    file: T,
    /// Bytes of the clip in it, as it was filmed.
    bytes: u64,
    unsynced: u64,
    digest: digest::Context,
}

impl<T> Default for Growing<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Growing<T> {
    /// Closes a file.
    pub(super) fn forget(&mut self, id: Uuid) {
        self.0.remove(&id);
    }
}

impl<T: StateFile> Unfinished<T> {
    fn append(&mut self, piece: &[u8], written: WriteCount) -> io::Result<()> {
        if self.unsynced == 0 {
            // In place of the header, for a start that finds the file unfinished.
            self.file.write_at(&header::with_written(vec![0; HEADER_BYTES as usize], written), 0)?;
        }
        self.file.write_at(piece, HEADER_BYTES + self.bytes)?;
        self.digest.update(piece);
        self.bytes += piece.len() as u64;
        self.unsynced += piece.len() as u64;
        if self.unsynced >= SYNC_EACH {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn sha256(&self) -> String {
        hex(self.digest.clone().finish().as_ref())
    }
}

impl<F: Filesystem> Files<F> {
    /// Writes the next piece of a clip, which begins at `offset` in it; the first one makes the file. Returns the digest of
    /// all that is in the file. After an error nothing more can be written to it; what is in it can be read.
    pub(in crate::upload) fn grow(&mut self, id: Uuid, offset: u64, piece: &Bytes) -> io::Result<String> {
        let grown = self.try_grow(id, offset, piece);
        if grown.is_err() {
            if offset == 0 {
                // A failure here does no harm: the file is never read.
                let _ = self.dir().and_then(|dir| dir.remove(&name(id, PART)));
            }
            self.give_up();
        }
        grown
    }

    fn try_grow(&mut self, id: Uuid, offset: u64, piece: &Bytes) -> io::Result<String> {
        self.purge_unscanned()?;
        let written = self.written;
        let dir = self.dir()?;
        keep_reserve(dir, HEADER_BYTES + piece.len() as u64)?;
        let mut file = if offset == 0 {
            let file = dir.open(&name(id, PART), Access::Create)?;
            Unfinished { file, bytes: 0, unsynced: 0, digest: digest::Context::new(&digest::SHA256) }
        } else {
            self.growing.0.remove(&id).filter(|file| file.bytes == offset).ok_or(io::ErrorKind::NotFound)?
        };
        file.append(piece, written)?;
        let sha256 = file.sha256();
        self.growing.0.insert(id, file);
        Ok(sha256)
    }

    /// Makes the file of a clip, all of which is in it, a clip's file: header, sync, name, sync of the directory. With
    /// `offered`, the clip becomes a progressive file, which `facts` then describe: what was filmed is read back for the
    /// digest, and the offered header written behind it. Where that cannot be read, or there is no room for the header, the
    /// clip stays as it was filmed. Does nothing if it is not `wanted`, which is called between any two pieces read, and
    /// can then be called again; after an error it cannot.
    pub(in crate::upload) fn complete(
        &mut self,
        id: Uuid,
        facts: &mut Facts,
        offered: Option<&Progressive>,
        wanted: impl Fn() -> bool,
    ) -> Put {
        if !wanted() {
            return Put::Unwanted;
        }
        let progressive = match offered.map(|offered| self.with_header(id, facts, offered, &wanted)) {
            None => None,
            Some(Ok(Some(facts))) => Some(facts),
            Some(Ok(None)) => return Put::Unwanted,
            Some(Err(why)) => {
                tracing::warn!(clip = %id, %why, "a clip on flash keeps its fragments");
                None
            }
        };
        let tail = offered.filter(|_| progressive.is_some()).map_or(&[][..], |offered| &offered.header);
        match self.try_complete(id, facts, progressive.as_ref().unwrap_or(facts), tail) {
            Ok(()) => {
                if let Some(progressive) = progressive {
                    *facts = progressive;
                }
                Put::Durable
            }
            Err(why) => {
                self.give_up();
                Put::Failed(why)
            }
        }
    }

    /// The facts of a clip, all of which is in its file, with this header in front of it. `None` if it is no longer wanted.
    fn with_header(&mut self, id: Uuid, facts: &Facts, offered: &Progressive, wanted: &dyn Fn() -> bool) -> io::Result<Option<Facts>> {
        let tail = Tail { header: offered.header.len() as u64, replaces: offered.replaces as u64 };
        keep_reserve(self.dir()?, HEADER_BYTES + tail.header)?;
        let file = &self.growing.0.get(&id).ok_or(io::ErrorKind::NotFound)?.file;
        let filmed = Filmed { bytes: facts.bytes, sha256: &facts.sha256, replaces: tail.replaces };
        let mut whole = digest::Context::new(&digest::SHA256);
        whole.update(&offered.header);
        if !filmed.read(file, wanted, |piece| whole.update(piece))? {
            return Ok(None);
        }
        let bytes = tail.header + (facts.bytes - tail.replaces);
        Ok(Some(Facts { bytes, sha256: hex(whole.finish().as_ref()), tail, ..facts.clone() }))
    }

    fn try_complete(&mut self, id: Uuid, filmed: &Facts, facts: &Facts, tail: &[u8]) -> io::Result<()> {
        let header = header::with_written(header::encode(facts).ok_or(io::ErrorKind::InvalidInput)?, self.written);
        let file = self.growing.0.remove(&id).ok_or(io::ErrorKind::NotFound)?;
        if (file.bytes, file.sha256()) != (filmed.bytes, filmed.sha256.clone()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its file is not what was filmed"));
        }
        if !tail.is_empty() {
            file.file.write_at(tail, HEADER_BYTES + file.bytes)?;
        }
        file.file.write_at(&header, 0)?;
        file.file.sync()?;
        let dir = self.dir()?;
        dir.rename(&name(id, PART), &name(id, CLIP))?;
        dir.sync()
    }
}
