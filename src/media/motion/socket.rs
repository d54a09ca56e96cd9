//! Motion as another program sees it: one JSON object a line on a unix socket that the agent's user and group may open.
//! Whatever else comes in is counted and ignored; a line, and the number of writers, is bounded. A socket that cannot be made,
//! or whose name has gone, is made later: at boot its directory may come after the agent.

use std::{
    io::{self, ErrorKind, Read},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use care_protocol::{ClipKind, MotionEvent};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Events;
use crate::{
    conditions::{Conditions, Kind},
    media::{MediaError, stop::Stop},
    unix_socket,
};

/// A line longer than this is no motion event.
const LONGEST_LINE: usize = 1024;
const MOST_WRITERS: usize = 8;
/// How often the sockets are left to look whether to stop.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Pauses between attempts to listen, doubling.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often it is looked whether the name still is ours.
const NAME_EVERY: Duration = Duration::from_secs(2);

pub(super) fn start(path: &Path, events: Events, conditions: Conditions, stop: Stop) -> Result<JoinHandle<()>, MediaError> {
    let mut server = Server { path: path.into(), writers: Vec::new(), events };
    let run = move || {
        let mut pause = FIRST_PAUSE;
        loop {
            match unix_socket::listen(&server.path, 0o660) {
                Ok(listener) => {
                    conditions.clear(Kind::MotionSocket);
                    pause = FIRST_PAUSE;
                    server.run(&listener, &stop);
                }
                Err(error) => {
                    let sentence = format!("cannot listen for motion on {}: {error}", server.path.display());
                    conditions.raise_advising(Kind::MotionSocket, sentence, advice(&error));
                }
            }
            if stop.within(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    thread::Builder::new().name("media-motion".into()).spawn(run).map_err(MediaError::Thread)
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "Set [media] motion = \"socket:/run/kasa-care-agent/motion.sock\"; another directory must be the agent's to write to, and in the unit's ReadWritePaths=."
        }
        ErrorKind::AddrInUse => "Stop the program that listens there already.",
        ErrorKind::AlreadyExists => "Remove what has that name, or change [media] motion.",
        _ => Kind::MotionSocket.advice(),
    }
}

struct Server {
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
    /// Until it is time to stop, or nobody could connect any more because the name has gone.
    fn run(&mut self, listener: &UnixListener, stop: &Stop) {
        let name = unix_socket::identity(&self.path);
        let mut looked = Instant::now();
        while !stop.is_now() {
            let mut ready: Vec<PollFd<'_>> = vec![PollFd::new(listener, PollFlags::IN)];
            ready.extend(self.writers.iter().map(|writer| PollFd::new(&writer.stream, PollFlags::IN)));
            if poll(&mut ready, Some(&TICK)).is_err() && stop.within(Duration::from_millis(200)) {
                break;
            }
            self.accept(listener);
            let events = &self.events;
            self.writers.retain_mut(|writer| writer.read(events));
            if looked.elapsed() >= NAME_EVERY {
                looked = Instant::now();
                if unix_socket::identity(&self.path) != name {
                    return;
                }
            }
        }
        if unix_socket::identity(&self.path) == name {
            // Gone already is as good.
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
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
    use std::{io::Write, os::unix::fs::PermissionsExt, sync::atomic::Ordering};

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

    /// A writer, as soon as somebody listens.
    fn connected(path: &Path) -> UnixStream {
        let began = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return stream,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(10), "{error}"),
            }
            thread::yield_now();
        }
    }

    #[test]
    fn a_directory_that_comes_later_and_a_name_that_is_taken_away_are_listened_at_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/motion.sock");
        let (events, _queue) = Events::new();
        let (counts, conditions, stop) = (events.counts.clone(), Conditions::default(), Stop::default());
        let thread = start(&path, events, conditions.clone(), stop.clone()).unwrap();
        let said = || format!("{conditions:?}").contains("motion_socket");
        assert!(eventually(said));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        let mut early = connected(&path);
        assert!(!said());
        // As when a file system is mounted over the directory.
        std::fs::rename(dir.path().join("later"), dir.path().join("covered")).unwrap();
        assert!(eventually(said));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        let mut late = connected(&path);
        for writer in [&mut early, &mut late] {
            writer.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
        }
        assert!(eventually(|| counts.events.load(Ordering::Relaxed) == 2), "who has connected stays connected: {counts:?}");
        stop.now();
        thread.join().unwrap();
    }

    #[test]
    fn takes_motion_and_counts_everything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, queue) = Events::new();
        let (counts, stop) = (events.counts.clone(), Stop::default());
        let thread = start(&path, events, Conditions::default(), stop.clone()).unwrap();
        let mut writer = connected(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);

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
        let thread = start(&path, events, Conditions::default(), stop.clone()).unwrap();
        let _writers: Vec<UnixStream> = (0..MOST_WRITERS + 2).map(|_| connected(&path)).collect();
        assert!(eventually(|| counts.ignored.load(Ordering::Relaxed) == 2), "{counts:?}");
        stop.now();
        thread.join().unwrap();
    }
}
