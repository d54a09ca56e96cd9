//! Motion as another program sees it: one JSON object a line on a unix socket that only this user may open. Whatever else
//! comes in is counted and ignored; a line, and the number of writers, is bounded.

use std::{
    io::{ErrorKind, Read},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use care_protocol::{ClipKind, MotionEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Events;
use crate::{
    media::{MediaError, stop::Stop},
    unix_socket,
};

/// A line longer than this is no motion event.
const LONGEST_LINE: usize = 1024;
const MOST_WRITERS: usize = 8;
/// How often the sockets are left to look whether to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

pub(super) fn start(path: &Path, events: Events, stop: Stop) -> Result<JoinHandle<()>, MediaError> {
    let listener = unix_socket::listen(path, 0o600).map_err(|source| MediaError::MotionSocket { path: path.into(), source })?;
    let server = Server { listener, path: path.into(), writers: Vec::new(), events };
    thread::Builder::new().name("media-motion".into()).spawn(move || server.run(&stop)).map_err(MediaError::Thread)
}

struct Server {
    listener: UnixListener,
    path: PathBuf,
    writers: Vec<Writer>,
    events: Events,
}

struct Writer {
    stream: UnixStream,
    line: Vec<u8>,
    /// In the middle of a line that is too long.
    skipping: bool,
}

impl Server {
    fn run(mut self, stop: &Stop) {
        while !stop.is_now() {
            let mut ready: Vec<PollFd<'_>> = vec![PollFd::new(&self.listener, PollFlags::IN)];
            ready.extend(self.writers.iter().map(|writer| PollFd::new(&writer.stream, PollFlags::IN)));
            if poll(&mut ready, Some(&TICK)).is_err() && stop.within(std::time::Duration::from_millis(200)) {
                break;
            }
            self.accept();
            let events = &self.events;
            self.writers.retain_mut(|writer| writer.read(events));
        }
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.writers.len() < MOST_WRITERS && stream.set_nonblocking(true).is_ok() {
                self.writers.push(Writer { stream, line: Vec::new(), skipping: false });
            } else {
                self.events.ignore();
            }
        }
    }
}

impl Writer {
    /// Takes what is there, at most one buffer, so that no writer keeps the others waiting. False: it has gone.
    fn read(&mut self, events: &Events) -> bool {
        let mut piece = [0; 4096];
        let length = match self.stream.read(&mut piece) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) => return matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted),
        };
        for &byte in &piece[..length] {
            match byte {
                b'\n' => {
                    if !std::mem::take(&mut self.skipping) {
                        judge(&self.line, events);
                    }
                    self.line.clear();
                }
                _ if self.skipping => {}
                _ if self.line.len() == LONGEST_LINE => {
                    self.skipping = true;
                    events.ignore();
                }
                _ => self.line.push(byte),
            }
        }
        true
    }
}

fn judge(line: &[u8], events: &Events) {
    match serde_json::from_slice::<MotionEvent>(line) {
        Ok(told) if told.event == "motion" && (0.0..=1.0).contains(&told.score) => events.raise(ClipKind::Motion),
        _ => events.ignore(),
    }
}

/// A writer that sends these bytes and goes, for `fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn motion_from_a_stranger(input: &[u8]) -> crate::fuzzing::Verdict {
    use std::{io::Write, sync::atomic::Ordering};

    let (mut stranger, ours) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    let (events, queue) = Events::new();
    let mut writer = Writer { stream: ours, line: Vec::new(), skipping: false };
    for piece in input.chunks(1500) {
        stranger.write_all(piece).expect("room for a piece");
        assert!(writer.read(&events), "the writer is still there");
        assert!(writer.line.len() <= LONGEST_LINE);
    }
    drop(stranger);
    assert!(!writer.read(&events), "the writer has gone");
    let (raised, ignored) = (events.counts.events.load(Ordering::Relaxed), events.counts.ignored.load(Ordering::Relaxed));
    let lines = input.iter().filter(|byte| **byte == b'\n').count() as u64;
    // A line too long is ignored before its end has come; an event for which there is no room counts twice.
    assert!(raised <= lines && ignored <= 2 * lines + 1, "{raised} events and {ignored} ignored in {lines} lines");
    assert_eq!(queue.try_iter().count() as u64, raised.min(super::WAITING as u64));
    crate::fuzzing::Verdict::of(raised > 0)
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::fs::PermissionsExt,
        sync::atomic::Ordering,
        time::{Duration, Instant},
    };

    use super::*;

    fn eventually(condition: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10) {
            if condition() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    #[test]
    fn takes_motion_and_counts_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, queue) = Events::new();
        let (counts, stop) = (events.counts.clone(), Stop::default());
        let thread = start(&path, events, stop.clone()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let mut writer = UnixStream::connect(&path).unwrap();
        writer.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n{\"event\":\"mot").unwrap();
        writer.write_all(b"ion\"}\nnonsense\n{\"event\":\"sound\"}\n{\"event\":\"motion\",\"score\":7}\n").unwrap();
        writer.write_all(&[b'x'; 100_000]).unwrap();
        writer.write_all(b"\n\xff\n{\"event\":\"motion\",\"score\":0}\n").unwrap();
        assert!(eventually(|| counts.events.load(Ordering::Relaxed) == 3), "{counts:?}");
        assert_eq!(counts.ignored.load(Ordering::Relaxed), 5);
        assert_eq!(queue.try_iter().count(), 3);

        stop.now();
        thread.join().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn too_many_writers_are_turned_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, _queue) = Events::new();
        let (counts, stop) = (events.counts.clone(), Stop::default());
        let thread = start(&path, events, stop.clone()).unwrap();
        let _writers: Vec<UnixStream> = (0..MOST_WRITERS + 2).map(|_| UnixStream::connect(&path).unwrap()).collect();
        assert!(eventually(|| counts.ignored.load(Ordering::Relaxed) == 2), "{counts:?}");
        stop.now();
        thread.join().unwrap();
    }
}
