//! Motion events from another program: one JSON object a line, on a unix socket that the agent's user and group may open. `state`
//! (`start`, `stop`) tells how long motion lasts; an event without it is a moment. The
//! socket counts and ignores everything else, and bounds the length of a line and the number of writers. A socket that cannot be
//! made, or whose name has been removed, is made later: at boot its directory may appear after the agent.

use std::{
    io::{self, ErrorKind, Read},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use care_protocol::{MotionEvent, MotionState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Events, lasting::Motion};
use crate::{
    backoff::{Backoff, Delays, Jitter},
    conditions::{Conditions, Kind},
    media::{MediaError, stop_signal::StopSignal},
    supervision::ServiceManager,
    unix_socket::{self, SocketPath},
};

/// A line longer than this is no motion event.
const LONGEST_LINE: usize = 1024;
const MOST_WRITERS: usize = 8;
/// How often the sockets are left to check the stop signal.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
/// Pauses between attempts to listen.
const PAUSES: Delays = Delays::new(Duration::from_millis(500), Duration::from_secs(5), Jitter::None);
/// How often the agent checks that the path still leads to its socket.
const NAME_EVERY: Duration = Duration::from_secs(2);

pub(super) fn start(path: &Path, events: Events, conditions: Conditions, stop: StopSignal) -> Result<JoinHandle<()>, MediaError> {
    let (path, mut server) = (path.to_owned(), Server { writers: Vec::new(), motion: Motion::new(events) });
    let run = move || {
        let mut backoff = Backoff::new(PAUSES);
        loop {
            match unix_socket::listen(&path, 0o660) {
                Ok((listener, name)) => {
                    conditions.clear(Kind::MotionSocket);
                    backoff.reset();
                    server.run(&listener, &name, &stop);
                }
                Err(error) => {
                    let sentence = format!("cannot listen for motion on {}: {error}", path.display());
                    conditions.raise_advising(Kind::MotionSocket, sentence, advice(&error));
                }
            }
            if stop.wait(backoff.next_delay()) {
                return;
            }
        }
    };
    crate::threads::named("media-motion").spawn(run).map_err(MediaError::Thread)
}

fn advice(error: &io::Error) -> String {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            return format!(
                "Set [media] motion = \"socket:/run/kasa-care-agent/motion.sock\"; another directory must be the agent's to write to{}.",
                ServiceManager::here().writable()
            );
        }
        ErrorKind::AddrInUse => "Stop the program that listens there already.",
        ErrorKind::AlreadyExists => "Remove what has that name, or change [media] motion.",
        kind => unix_socket::path_advice(kind).unwrap_or(Kind::MotionSocket.advice()),
    };
    advice.to_owned()
}

struct Server {
    writers: Vec<Writer>,
    motion: Motion,
}

struct Writer {
    stream: UnixStream,
    line: Vec<u8>,
    /// In the middle of a line that is too long: ignored up to its end.
    skipping: bool,
}

impl Server {
    /// Serves until it is told to stop, or the path no longer leads to the socket.
    fn run(&mut self, listener: &UnixListener, name: &SocketPath, stop: &StopSignal) {
        let mut checked = Instant::now();
        while !stop.is_raised() {
            let mut ready: Vec<PollFd<'_>> = vec![PollFd::new(listener, PollFlags::IN)];
            ready.extend(self.writers.iter().map(|writer| PollFd::new(&writer.stream, PollFlags::IN)));
            if poll(&mut ready, Some(&TICK)).is_err() && stop.wait(Duration::from_millis(200)) {
                break;
            }
            self.accept(listener);
            let motion = &mut self.motion;
            self.writers.retain_mut(|writer| writer.read(motion));
            motion.go_on(Instant::now());
            if checked.elapsed() >= NAME_EVERY {
                checked = Instant::now();
                if !name.is_ours() {
                    return;
                }
            }
        }
    }

    fn accept(&mut self, listener: &UnixListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.writers.len() < MOST_WRITERS && stream.set_nonblocking(true).is_ok() {
                self.writers.push(Writer { stream, line: Vec::new(), skipping: false });
            } else {
                self.motion.events.ignore();
            }
        }
    }
}

/// Judges one line. What it says belongs to no connection: a script connects anew for `start` and `stop`.
fn hear(motion: &mut Motion, line: &[u8], now: Instant) {
    match serde_json::from_slice::<MotionEvent>(line) {
        Ok(told) if told.event == "motion" && (0.0..=1.0).contains(&told.score) => match told.state {
            None => motion.moment(),
            Some(MotionState::Start) => motion.begin(now),
            Some(MotionState::Stop) => motion.end(),
        },
        _ => motion.events.ignore(),
    }
}

impl Writer {
    /// Reads what is there, at most one buffer, so that no writer keeps the others waiting. False: the writer has gone.
    fn read(&mut self, motion: &mut Motion) -> bool {
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
                        hear(motion, &self.line, Instant::now());
                    }
                    self.line.clear();
                }
                _ if self.skipping => {}
                _ if self.line.len() == LONGEST_LINE => {
                    self.skipping = true;
                    motion.events.ignore();
                }
                _ => self.line.push(byte),
            }
        }
        true
    }
}

/// Feeds these bytes to a writer's connection, for `fuzzing`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn motion_socket_input(input: &[u8]) -> crate::fuzzing::Verdict {
    use std::{io::Write, sync::atomic::Ordering};

    let (mut foreign, ours) = UnixStream::pair().expect("a pair of sockets");
    ours.set_nonblocking(true).expect("a socket that does not block");
    let (events, queue) = Events::new();
    let mut motion = Motion::new(events);
    let mut writer = Writer { stream: ours, line: Vec::new(), skipping: false };
    for piece in input.chunks(1500) {
        foreign.write_all(piece).expect("room for a piece");
        assert!(writer.read(&mut motion), "the writer is still there");
        assert!(writer.line.len() <= LONGEST_LINE);
    }
    // Not merely dropped: a process that another test starts at this moment holds a copy of the socket for an instant.
    foreign.shutdown(std::net::Shutdown::Both).expect("a connected socket");
    assert!(!writer.read(&mut motion), "the writer has gone");
    let events = motion.events;
    let (raised, ignored) = (events.counts.events.load(Ordering::Relaxed), events.counts.ignored.load(Ordering::Relaxed));
    let lines = input.iter().filter(|byte| **byte == b'\n').count() as u64;
    // A line too long is ignored before its end has come; an event for which there is no room counts twice.
    assert!(raised <= lines && ignored <= 2 * lines + 1, "{raised} events and {ignored} ignored in {lines} lines");
    assert_eq!(queue.try_iter().count() as u64, raised.min(super::WAITING as u64));
    crate::fuzzing::Verdict::of(raised > 0)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt, sync::atomic::Ordering, thread};

    use super::*;

    fn eventually(condition: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            if condition() {
                return true;
            }
            thread::yield_now();
        }
        false
    }

    /// A writer, as soon as the agent listens.
    fn connected(path: &Path) -> UnixStream {
        let began = Instant::now();
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return stream,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
            }
            thread::yield_now();
        }
    }

    /// Where rustix and the C library disagree on what a time is, the thread would never sleep.
    #[test]
    fn without_writers_the_thread_sleeps_for_a_tick() {
        let began = Instant::now();
        assert_eq!(poll(&mut [], Some(&TICK)), Ok(0));
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    }

    #[test]
    fn the_socket_is_made_when_its_directory_appears_and_made_again_when_its_path_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/motion.sock");
        let (events, _queue) = Events::new();
        let (counts, conditions, stop) = (events.counts.clone(), Conditions::default(), StopSignal::default());
        let thread = start(&path, events, conditions.clone(), stop.clone()).unwrap();
        let said = || format!("{conditions:?}").contains("motion_socket");
        assert!(eventually(said));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        let mut early = connected(&path);
        assert!(eventually(|| !said()), "the condition ends once it listens");
        // As when a file system is mounted over the directory.
        std::fs::rename(dir.path().join("later"), dir.path().join("covered")).unwrap();
        assert!(eventually(said));
        std::fs::create_dir(dir.path().join("later")).unwrap();
        let mut late = connected(&path);
        for writer in [&mut early, &mut late] {
            writer.write_all(b"{\"event\":\"motion\",\"score\":0.8}\n").unwrap();
        }
        assert!(eventually(|| counts.events.load(Ordering::Relaxed) == 2), "a connection outlives the path: {counts:?}");
        stop.raise();
        thread.join().unwrap();
    }

    #[test]
    fn a_path_that_is_gone_before_it_is_served_is_noticed_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, _queue) = Events::new();
        let (stop, (listener, name)) = (StopSignal::default(), unix_socket::listen(&path, 0o660).unwrap());
        std::fs::remove_file(&path).unwrap();
        let (mut server, stopped) = (Server { writers: Vec::new(), motion: Motion::new(events) }, stop.clone());
        let thread = thread::spawn(move || server.run(&listener, &name, &stopped));
        assert!(eventually(|| thread.is_finished()));
        stop.raise();
        thread.join().unwrap();
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (path, advice) in [
            (dir.path().join("x".repeat(108)), "107 bytes at most"),
            (dir.path().join("x".repeat(300)), "107 bytes at most"),
            (dir.path().join("file/motion.sock"), "must be a directory is none"),
            (dir.path().join("absent/motion.sock"), "Make the socket's directory"),
        ] {
            let error = unix_socket::listen(&path, 0o660).unwrap_err();
            assert!(super::advice(&error).contains(advice), "{}: {error}: {}", path.display(), super::advice(&error));
        }
    }

    #[test]
    fn motion_events_are_raised_and_everything_else_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, queue) = Events::new();
        let (counts, stop) = (events.counts.clone(), StopSignal::default());
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

        stop.raise();
        thread.join().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn motion_that_begins_lasts_until_it_ends_or_ten_minutes() {
        let (events, queue) = Events::new();
        let counts = events.counts.clone();
        let mut motion = Motion::new(events);
        let began = Instant::now();
        let mut at = |motion: &mut Motion, seconds: u64| {
            motion.go_on(began + Duration::from_secs(seconds));
            queue.try_iter().count()
        };
        hear(&mut motion, b"{\"event\":\"motion\",\"state\":\"start\"}", began);
        assert_eq!(queue_of(&mut at, &mut motion, 0..=0), 1, "the beginning");
        assert_eq!(queue_of(&mut at, &mut motion, 1..=9), 9, "it goes on");
        hear(&mut motion, b"{\"event\":\"motion\",\"state\":\"stop\"}", began + Duration::from_secs(9));
        assert_eq!(queue_of(&mut at, &mut motion, 10..=700), 0, "it has ended");
        hear(&mut motion, b"{\"event\":\"motion\",\"score\":1,\"state\":\"start\"}", began + Duration::from_secs(700));
        assert_eq!(queue_of(&mut at, &mut motion, 701..=1400), 600, "and an end that never comes");
        assert_eq!(counts.events.load(Ordering::Relaxed), 2, "each motion counts once");
        hear(&mut motion, b"{\"event\":\"motion\",\"state\":\"paused\"}", began);
        assert_eq!(counts.ignored.load(Ordering::Relaxed), 1);
    }

    fn queue_of(at: &mut dyn FnMut(&mut Motion, u64) -> usize, motion: &mut Motion, seconds: std::ops::RangeInclusive<u64>) -> usize {
        seconds.map(|second| at(motion, second)).sum()
    }

    #[test]
    fn writers_beyond_the_limit_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("motion.sock");
        let (events, _queue) = Events::new();
        let (counts, stop) = (events.counts.clone(), StopSignal::default());
        let thread = start(&path, events, Conditions::default(), stop.clone()).unwrap();
        let _writers: Vec<UnixStream> = (0..MOST_WRITERS + 2).map(|_| connected(&path)).collect();
        assert!(eventually(|| counts.ignored.load(Ordering::Relaxed) == 2), "{counts:?}");
        stop.raise();
        thread.join().unwrap();
    }
}
