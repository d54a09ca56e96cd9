//! After a power cut: the segment that was open ends with its last whole fragment. What follows it (a torn fragment, or blocks
//! that were never written) goes, so that every player reads the file. Nothing is mended that ends as it should.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use super::{disk, segment::Segment};

/// How many fragments a power cut may have left unwritten, although the file is long enough for them.
const DOUBTED: usize = 4;

/// What became of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mended {
    Whole,
    /// It has this many bytes now.
    Cut(u64),
    /// There was no picture in it.
    Deleted,
}

pub(crate) fn mend(root: &OwnedFd, segment: &Segment) -> io::Result<Mended> {
    let folder = disk::folder(root, &segment.day())?;
    let file = disk::reopen(&folder, &segment.name())?;
    let bytes = file.metadata()?.len();
    let found = Found::read(&file, bytes)?;
    if !found.has_header && found.is_ours {
        disk::delete(&folder, &segment.name())?;
        disk::sync_names(&folder)?;
        return Ok(Mended::Deleted);
    }
    match found.whole {
        // Players show what there is of a first fragment. What has our name and is no film is not ours to judge.
        Some(whole) if whole < bytes => {
            disk::truncate(&file, whole)?;
            disk::sync_file(&file)?;
            Ok(Mended::Cut(whole))
        }
        _ => Ok(Mended::Whole),
    }
}

/// What is in a file.
#[derive(Default)]
struct Found {
    /// It begins as our files do, or its beginning was never written.
    is_ours: bool,
    has_header: bool,
    /// Up to where it consists of whole fragments, and their index.
    whole: Option<u64>,
}

impl Found {
    fn read(file: &File, bytes: u64) -> io::Result<Self> {
        let (mut found, mut at, mut ends) = (Self { is_ours: bytes == 0, ..Self::default() }, 0, Vec::new());
        while bytes - at >= 8 {
            let mut head = [0; 8];
            file.read_exact_at(&mut head, at)?;
            let [a, b, c, d, name @ ..] = head;
            found.is_ours |= at == 0 && (&name == b"ftyp" || head == [0; 8]);
            let size = u64::from(u32::from_be_bytes([a, b, c, d]));
            if size < 8 || size > bytes - at {
                break;
            }
            at += size;
            match &name {
                b"moov" => found.has_header = true,
                b"mdat" if found.has_header => ends.push(at),
                b"mfra" if found.has_header => {
                    let mut last = [0; 4];
                    file.read_exact_at(&mut last, at - 4)?;
                    if last == [a, b, c, d] {
                        found.whole = Some(at);
                        return Ok(found);
                    }
                    break;
                }
                b"ftyp" | b"moof" => {}
                _ => break,
            }
        }
        // No NAL unit ends with a zero: that would be a block that was never written. Some encoders add zeros all the same, so only
        // the last fragments are doubted: those that no sync may have covered.
        for _ in 0..DOUBTED {
            let mut last = [1];
            if let [.., _, end] = ends[..] {
                file.read_exact_at(&mut last, end - 1)?;
            }
            if last != [0] {
                break;
            }
            ends.pop();
        }
        found.whole = ends.last().copied();
        Ok(found)
    }
}
