//! A packet socket at the far end of a [`Link`]: notes when each packet came and how much TCP payload it carried.

use std::{
    ffi::CString,
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::shaped_link::{CAMERA, FAR_END, Link};

/// A running capture.
pub struct Capture {
    seen: Arc<Mutex<Vec<Packet>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    /// The kernel's time of arrival, Unix time.
    at_ns: u64,
    /// Where it goes.
    port: u16,
    payload: u64,
}

impl Capture {
    /// Captures everything at the cloud's end of the link.
    pub fn start(link: &Link) -> Self {
        Self::noting(link, |_| true)
    }

    /// Captures what goes to this port.
    pub fn towards(link: &Link, port: u16) -> Self {
        Self::noting(link, move |to| to == port)
    }

    fn noting(link: &Link, wanted: impl Fn(u16) -> bool + Send + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        // A namespace belongs to a thread; a socket created in it stays there when moved to another thread.
        let enter_and_open = || {
            link.enter_far();
            open()
        };
        let socket = thread::scope(|scope| scope.spawn(enter_and_open).join()).unwrap();
        let (noted, stopped) = (seen.clone(), stop.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(packet) = receive(&socket).filter(|packet| wanted(packet.port)) {
                    noted.lock().unwrap().push(packet);
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// Waits until payload arrives, at most `patience`.
    pub fn until_busy(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        while !self.seen.lock().unwrap().iter().any(|packet| packet.payload > 0) {
            assert!(Instant::now() < deadline, "nothing came over the wire");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until no payload has arrived for `quiet`, at most `patience`.
    pub fn until_quiet(&self, quiet: Duration, patience: Duration) {
        let deadline = Instant::now() + patience;
        let begun = now_ns();
        while self.quiet_since(begun) < quiet {
            assert!(Instant::now() < deadline, "the wire never became quiet");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// How long no payload has arrived, but not longer than since `at_ns`.
    pub fn quiet_since(&self, at_ns: u64) -> Duration {
        let last = self.seen.lock().unwrap().iter().rev().find(|packet| packet.payload > 0).map_or(0, |packet| packet.at_ns);
        Duration::from_nanos(now_ns().saturating_sub(last.max(at_ns)))
    }

    /// The payload that arrived after `at_ns`, and the delay of its last part.
    pub fn since(&self, at_ns: u64) -> (u64, Duration) {
        let seen = self.seen.lock().unwrap();
        let after = seen.iter().filter(|packet| packet.at_ns > at_ns && packet.payload > 0);
        let last = after.clone().map(|packet| packet.at_ns - at_ns).max().unwrap_or(0);
        (after.map(|packet| packet.payload).sum(), Duration::from_nanos(last))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// The clock of the packet timestamps.
pub fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// An IPv4 packet socket on the far end, with timestamps and a read timeout of 50 ms.
fn open() -> OwnedFd {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    // SAFETY: plain system calls; each pointer refers to a live value of the size passed with it, and none is kept.
    unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol.into());
        assert!(raw >= 0, "packet socket: {}", std::io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(raw);
        let name = CString::new(FAR_END).unwrap();
        let mut address: libc::sockaddr_ll = zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        assert!(address.sll_ifindex > 0, "no interface {FAR_END}");
        let bound = libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32);
        assert_eq!(bound, 0, "bind: {}", std::io::Error::last_os_error());
        let on: libc::c_int = 1;
        let set = libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, (&raw const on).cast(), size_of::<libc::c_int>() as u32);
        assert_eq!(set, 0, "timestamps: {}", std::io::Error::last_os_error());
        let wait = libc::timeval { tv_sec: 0, tv_usec: 50_000 };
        let set = libc::setsockopt(raw, libc::SOL_SOCKET, libc::SO_RCVTIMEO, (&raw const wait).cast(), size_of::<libc::timeval>() as u32);
        assert_eq!(set, 0, "timeout: {}", std::io::Error::last_os_error());
        socket
    }
}

/// The next packet from the camera, unless the read times out.
fn receive(socket: &OwnedFd) -> Option<Packet> {
    let mut head = [0_u8; 128];
    let mut control = [0_u64; 16];
    // SAFETY: the message's pointers refer to live buffers of the sizes passed with them. The kernel fills at most
    // those, and the control messages are walked with the CMSG macros within the length that the kernel returned.
    let (length, at_ns) = unsafe {
        let mut parts = libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() };
        let mut message: libc::msghdr = zeroed();
        message.msg_iov = &raw mut parts;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let length = libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0);
        if length < 0 {
            return None;
        }
        let mut at_ns = None;
        let mut part = libc::CMSG_FIRSTHDR(&raw const message);
        while !part.is_null() {
            if (*part).cmsg_level == libc::SOL_SOCKET && (*part).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = libc::CMSG_DATA(part).cast::<libc::timespec>().read_unaligned();
                at_ns = Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
            }
            part = libc::CMSG_NXTHDR(&raw const message, part);
        }
        (length as usize, at_ns)
    };
    let (port, payload) = tcp_payload(&head[..length.min(head.len())])?;
    Some(Packet { at_ns: at_ns.expect("the kernel stamps every packet"), port, payload })
}

/// The destination port and the length of the TCP payload of an IPv4 packet from the camera, from its headers.
fn tcp_payload(packet: &[u8]) -> Option<(u16, u64)> {
    let ip_header = usize::from(packet.first()? & 0x0f) * 4;
    let is_tcp = *packet.get(9)? == libc::IPPROTO_TCP as u8;
    let from_camera = packet.get(12..16)? == CAMERA.octets();
    let port = u16::from_be_bytes([*packet.get(ip_header + 2)?, *packet.get(ip_header + 3)?]);
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let tcp_header = usize::from(packet.get(ip_header + 12)? >> 4) * 4;
    (is_tcp && from_camera).then(|| (port, total.saturating_sub(ip_header + tcp_header) as u64))
}
