//! A clip's bytes as a transfer reads them: from memory, or from flash one piece at a time on a thread that may block, or
//! its beginning from there and the rest from memory, perhaps with a header in memory in front of both. So the uploads' runtime never blocks, and a clip of any size needs
//! the memory of one piece. The digest of what is on flash is checked before its last piece is returned, so a damaged file
//! never becomes a complete object.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use ring::digest;
use tokio::task::{JoinHandle, spawn_blocking};
use uuid::Uuid;

use super::{
    flash::ClipFile,
    spool::{Content, Head, Job},
};
use crate::hex::hex;

/// How much is read from flash at a time.
const PIECE: usize = 64 * 1024;

/// How a clip's file is opened.
pub(super) type Open = Arc<dyn Fn(Uuid) -> io::Result<ClipFile> + Send + Sync>;

/// The pieces of one clip, in order.
pub(super) struct Pieces {
    /// What comes before those in the file.
    header: Bytes,
    file: File,
    /// They follow those in the file; last first.
    memory: Vec<Bytes>,
}

/// What is still to come from a file.
enum File {
    Nothing,
    At(Box<Reader>),
    Reading(JoinHandle<io::Result<(Box<Reader>, Bytes)>>),
}

/// A clip's file, as far as it has been read.
pub(super) struct Reader {
    open: Open,
    id: Uuid,
    file: Option<ClipFile>,
    offset: u64,
    head: Head,
    digest: digest::Context,
}

impl Pieces {
    pub(super) fn of(job: &Job, open: &Open) -> Self {
        let Content { header, flash, memory } = &job.content;
        let reader = |head: &Head| Reader {
            open: open.clone(),
            id: job.id,
            file: None,
            offset: 0,
            head: head.clone(),
            digest: digest::Context::new(&digest::SHA256),
        };
        Self {
            header: header.clone(),
            file: flash.as_ref().map_or(File::Nothing, |head| File::At(Box::new(reader(head)))),
            memory: memory.iter().filter(|fragment| !fragment.is_empty()).rev().cloned().collect(),
        }
    }

    /// The next piece, never empty. Do not call this again after an error.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if !self.header.is_empty() {
            return Poll::Ready(Some(Ok(std::mem::take(&mut self.header))));
        }
        loop {
            match std::mem::replace(&mut self.file, File::Nothing) {
                File::Nothing => return Poll::Ready(self.memory.pop().map(Ok)),
                File::At(reader) if reader.offset < reader.head.bytes => self.file = File::Reading(spawn_blocking(move || reader.read())),
                File::At(_) => {}
                File::Reading(mut reading) => match Pin::new(&mut reading).poll(context) {
                    Poll::Pending => {
                        self.file = File::Reading(reading);
                        return Poll::Pending;
                    }
                    Poll::Ready(read) => {
                        let read = read.unwrap_or_else(|ended| Err(io::Error::other(ended)));
                        return Poll::Ready(Some(read.map(|(reader, piece)| {
                            self.file = File::At(reader);
                            piece
                        })));
                    }
                },
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
        let (at, left) = self.head.tail.locate(self.head.bytes, self.offset);
        let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let piece = file.read(at, most)?;
        if piece.len() < most {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "its file is cut short"));
        }
        self.file = Some(file);
        self.offset += most as u64;
        self.digest.update(&piece);
        // Before the last piece is returned.
        if self.offset == self.head.bytes && hex(self.digest.clone().finish().as_ref()) != self.head.sha256 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its file is damaged"));
        }
        Ok((self, piece))
    }
}
