//! A long way between two network namespaces: a TAP interface in each, and threads that carry frames from one to the other,
//! those from the cloud with a delay. Debian's kernel has `netem` for this; smaller kernels do not, and TAP is everywhere.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::isolated_network::join;

/// The largest Ethernet frame without jumbo frames.
const FRAME: usize = 1514;
/// How long a thread waits for a frame before it looks whether it shall end.
const LOOK: Duration = Duration::from_millis(50);

/// The running threads.
pub struct Relay {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Relay {
    /// Makes an interface of this name in each of the two namespaces and joins them. Frames that come out of the second one
    /// arrive after `delay`, which is at least a round trip's.
    pub fn between([near, near_end]: [&str; 2], [far, far_end]: [&str; 2], delay: Duration) -> Self {
        let (near, far) = (tap(near, near_end), tap(far, far_end));
        let stop = Arc::new(AtomicBool::new(false));
        let carry = |mut from: File, mut to: File, delay: Duration| {
            let stop = stop.clone();
            thread::spawn(move || {
                let mut under_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    let next = under_way.front().map_or(LOOK, |(due, _)| due.saturating_duration_since(Instant::now()));
                    if has_frame(&from, next.min(LOOK)) {
                        let mut frame = vec![0; FRAME];
                        let length = from.read(&mut frame).expect("a frame is ready");
                        frame.truncate(length);
                        under_way.push_back((Instant::now() + delay, frame));
                    }
                    while under_way.front().is_some_and(|(due, _)| *due <= Instant::now()) {
                        let (_, frame) = under_way.pop_front().expect("it was looked at");
                        // An interface that is going down takes no frame.
                        let _ = to.write_all(&frame);
                    }
                }
            })
        };
        let (near_too, far_too) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        let threads = vec![carry(near, far_too, Duration::ZERO), carry(far, near_too, delay)];
        Self { stop, threads }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Makes a TAP interface in a namespace; it lasts as long as the file is open.
fn tap(namespace: &str, name: &str) -> File {
    let open = || {
        join(namespace);
        let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: all zeros is a valid request.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the descriptor is open, and the request lives during the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "a TAP interface: {}", std::io::Error::last_os_error());
        file
    };
    thread::scope(|scope| scope.spawn(open).join()).unwrap()
}

fn has_frame(file: &File, within: Duration) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec { tv_sec: 0, tv_nsec: within.subsec_nanos().into() };
    // SAFETY: both structures live during the call.
    unsafe { libc::ppoll(&raw mut poll, 1, &raw const time, std::ptr::null()) == 1 }
}
