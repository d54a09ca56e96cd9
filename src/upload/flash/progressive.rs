//! What was filmed of a clip that grew, read back from its file: the digest of the clip with another header in front stands
//! in the request for its grant, and begins with that header, which is known only when the clip is over.

use std::io;

use care_engine::durable::filesystem::{Filesystem, StateFile};
use ring::digest;
use uuid::Uuid;

use super::{ClipFile, files::Files, header::HEADER_BYTES};
use crate::{hex::hex, media::Progressive, upload::spool::Head};

/// How much is read at a time, bytes.
const PIECE: usize = 64 * 1024;

/// The beginning of a clip as it was filmed, which its file has behind the file's own header.
pub(super) struct Filmed<'a> {
    pub(super) bytes: u64,
    pub(super) sha256: &'a str,
    /// How many of them the other header replaces.
    pub(super) replaces: u64,
}

impl Filmed<'_> {
    /// Hands what stays of it to `take`, in pieces. `false` if it is no longer wanted, which is asked before each piece.
    ///
    /// # Errors
    /// Those of the system, and one if the file does not have what was filmed.
    pub(super) fn read(&self, file: &dyn StateFile, wanted: &dyn Fn() -> bool, mut take: impl FnMut(&[u8])) -> io::Result<bool> {
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "its file is not what was filmed");
        let mut as_filmed = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while at < self.bytes {
            if !wanted() {
                return Ok(false);
            }
            let most = usize::try_from(self.bytes - at).map_or(PIECE, |left| left.min(PIECE));
            let read = file.read_at(&mut buffer[..most], HEADER_BYTES + at)?;
            if read == 0 {
                return Err(damaged());
            }
            as_filmed.update(&buffer[..read]);
            let replaced = usize::try_from(self.replaces.saturating_sub(at)).map_or(read, |left| left.min(read));
            take(&buffer[replaced..read]);
            at += read as u64;
        }
        let whole = self.replaces <= self.bytes && hex(as_filmed.finish().as_ref()) == self.sha256;
        if whole { Ok(true) } else { Err(damaged()) }
    }
}

impl<F: Filesystem> Files<F> {
    /// The digests of a clip of which `head` is in its file, up to the end of that: with the offered header in front, and of
    /// what stays of `head` alone. `None` if it is no longer wanted.
    ///
    /// # Errors
    /// As in [`Filmed::read`].
    pub(in crate::upload) fn read_back(
        &mut self,
        id: Uuid,
        head: &Head,
        offered: &Progressive,
        wanted: impl Fn() -> bool,
    ) -> io::Result<Option<[digest::Context; 2]>> {
        let [mut whole, mut stays] = [(); 2].map(|()| digest::Context::new(&digest::SHA256));
        whole.update(&offered.header);
        if head.bytes == 0 {
            return Ok(Some([whole, stays]));
        }
        let file = ClipFile::open(self.dir()?, id)?;
        let filmed = Filmed { bytes: head.bytes, sha256: &head.sha256, replaces: offered.replaces as u64 };
        let read = filmed.read(file.raw(), &wanted, |piece| {
            whole.update(piece);
            stays.update(piece);
        })?;
        Ok(read.then_some([whole, stays]))
    }
}
