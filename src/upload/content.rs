//! A clip's bytes as a transfer reads them: from memory, or from flash one piece at a time on a thread that may block.
//! So the uploads' runtime never blocks, and a clip of any size needs the memory of one piece. The digest is checked
//! before the last piece is returned, so a damaged file never becomes a complete object.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use ring::digest;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use super::{
    flash::ClipFile,
    spool::{Content, Job},
};
use crate::hex::hex;

/// How much is read from flash at a time.
const PIECE: usize = 64 * 1024;

/// How a clip's file is opened.
pub(super) type Open = Arc<dyn Fn(Uuid) -> io::Result<ClipFile> + Send + Sync>;

/// The pieces of one clip, in order.
pub(super) enum Pieces {
    /// Last first.
    Memory(Vec<Bytes>),
    Flash(Option<Box<Reader>>),
    Reading(JoinHandle<io::Result<(Box<Reader>, Bytes)>>),
}

/// A clip's file, as far as it has been read.
pub(super) struct Reader {
    open: Open,
    id: Uuid,
    file: Option<ClipFile>,
    offset: u64,
    bytes: u64,
    digest: digest::Context,
    sha256: String,
}

impl Pieces {
    pub(super) fn of(job: &Job, open: &Open) -> Self {
        match &job.content {
            Content::Memory(fragments) => Self::Memory(fragments.iter().filter(|fragment| !fragment.is_empty()).rev().cloned().collect()),
            Content::Flash => Self::Flash(Some(Box::new(Reader {
                open: open.clone(),
                id: job.id,
                file: None,
                offset: 0,
                bytes: job.bytes,
                digest: digest::Context::new(&digest::SHA256),
                sha256: job.sha256.clone(),
            }))),
        }
    }

    /// The next piece, never empty. Do not call this again after an error.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            match self {
                Self::Memory(fragments) => return Poll::Ready(fragments.pop().map(Ok)),
                Self::Flash(reader) => match reader.take() {
                    Some(reader) if reader.offset < reader.bytes => *self = Self::Reading(spawn_blocking(move || reader.read())),
                    _ => return Poll::Ready(None),
                },
                Self::Reading(reading) => {
                    let read = ready!(Pin::new(reading).poll(context)).unwrap_or_else(|ended| Err(io::Error::other(ended)));
                    let (reader, piece) = match read {
                        Ok((reader, piece)) => (Some(reader), Ok(piece)),
                        Err(why) => (None, Err(why)),
                    };
                    *self = Self::Flash(reader);
                    return Poll::Ready(Some(piece));
                }
            }
        }
    }
}

impl Reader {
    fn read(mut self: Box<Self>) -> io::Result<(Box<Self>, Bytes)> {
        let file = match self.file.take() {
            Some(file) => file,
            None => (self.open)(self.id)?,
        };
        let left = self.bytes - self.offset;
        let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let piece = file.read(self.offset, most)?;
        if piece.len() < most {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its file is cut short"));
        }
        self.file = Some(file);
        self.offset += most as u64;
        self.digest.update(&piece);
        // Before the last piece is returned.
        if self.offset == self.bytes && hex(self.digest.clone().finish().as_ref()) != self.sha256 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its file is damaged"));
        }
        Ok((self, piece))
    }
}
