//! The two socket options that no dependency wraps: the pacing rate and TCP_INFO, and what an old kernel lacks of them.
//! All of the agent's `unsafe` code for sockets is here.
#![allow(unsafe_code)]

use std::{
    io,
    mem::{offset_of, size_of},
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

/// The kernel's figures about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TcpInfo {
    /// Payload bytes handed to the network device, with retransmissions; `None` on kernels before 4.19.
    pub(crate) bytes_sent: Option<u64>,
    /// Payload bytes the peer has acknowledged.
    pub(crate) bytes_acked: u64,
    /// Payload bytes queued in the kernel and not sent yet.
    pub(crate) notsent_bytes: u32,
    /// The smoothed round-trip time.
    pub(crate) rtt: Duration,
    /// The smallest recent round-trip time.
    pub(crate) min_rtt: Duration,
    /// Whether the connection is established.
    pub(crate) established: bool,
    /// Segments sent and not acknowledged.
    pub(crate) unacked: u32,
    /// Payload bytes sent and not acknowledged: less than full segments have, where a writer is slow.
    pub(crate) under_way: u64,
    /// How often in a row the same bytes were retransmitted because no acknowledgement arrived.
    pub(crate) retransmits: u8,
    /// The largest segment that is sent, bytes of payload.
    pub(crate) segment: u32,
    /// Payload bytes received in order.
    pub(crate) bytes_received: u64,
    /// For how long nothing has come in order.
    pub(crate) silence: Duration,
    /// Segments came behind one that is missing, or was. Before Linux 5.4 it shows only while nothing has come in order.
    pub(crate) gap: bool,
    /// The largest segment that the peer was asked to send, bytes.
    pub(crate) asked_segment: u32,
}

/// The kernel's functions for a socket. An old or emulated kernel supports fewer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    pub(crate) set_max_pacing_rate: fn(BorrowedFd<'_>, u64) -> io::Result<()>,
    pub(crate) tcp_info: fn(BorrowedFd<'_>) -> io::Result<TcpInfo>,
}

impl Default for Kernel {
    /// The running kernel.
    fn default() -> Self {
        Self { set_max_pacing_rate, tcp_info }
    }
}

/// Limits how fast the kernel hands this socket's payload to the network device, in bytes a second.
///
/// # Errors
/// The kernel refuses it, or accepts it without pacing the socket. The limit may be set all the same: where the device's
/// qdisc is `fq`, that paces by it.
fn set_max_pacing_rate(socket: BorrowedFd<'_>, bytes_per_s: u64) -> io::Result<()> {
    // 32 bits: every kernel since 3.13 accepts this on every architecture. All ones would mean no limit.
    let rate = u32::try_from(bytes_per_s).unwrap_or(u32::MAX).min(u32::MAX - 1);
    let (socket, mut length) = (socket.as_raw_fd(), size_of::<u32>() as libc::socklen_t);
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads `size_of::<u32>()` bytes from a
    // live `u32` and keeps no pointer to it.
    let result = unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, (&raw const rate).cast(), length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut kept = 0_u32;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `length` bytes into a live
    // `u32`, which has that many, and the length it wrote into `length`; it keeps neither pointer.
    let result = unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, (&raw mut kept).cast(), &raw mut length) };
    if result != 0 || kept != rate {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "it accepts SO_MAX_PACING_RATE and does not keep it"));
    }
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    if tcp_paces(&release) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("Linux {release} leaves that to the fq qdisc")))
}

/// Whether a kernel of this release paces TCP by itself: since 4.13 (commit 218af599fa63).
fn tcp_paces(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (4_u32, 13_u32),
        // No release of Linux looks like that: what the kernel accepts is believed.
        _ => true,
    }
}

/// `TCP_ESTABLISHED` of the kernel's `tcp_states.h`.
const ESTABLISHED: u8 = 1;

/// Reads TCP_INFO.
///
/// # Errors
/// The kernel's error; `Unsupported` if it fills in too few fields.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // SAFETY: `tcp_info` is plain integers, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `length` bytes into
    // `info`, which has that many, and the length it wrote into `length`; it keeps neither pointer.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let info = read(&info, length as usize).ok_or(io::ErrorKind::Unsupported)?;
    Ok(TcpInfo { under_way: queued(socket).map_or(info.under_way, |queued| queued.saturating_sub(info.notsent_bytes.into())), ..info })
}

/// Payload bytes in the socket that are not acknowledged, sent or not (`SIOCOUTQ`); `None` if the kernel does not say.
fn queued(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes one `int` and does not keep the pointer.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    u64::try_from(bytes).ok().filter(|_| result == 0)
}

/// The figures of which the kernel has written the first `length` bytes; `None` if too few. An older kernel writes fewer
/// fields: those up to Linux 4.6 are required, later ones are optional.
fn read(info: &libc::tcp_info, length: usize) -> Option<TcpInfo> {
    let required = offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>();
    // A connection is always in a state: an emulator may report success and write nothing.
    if length < required || info.tcpi_state == 0 {
        return None;
    }
    let counts_sent = length >= offset_of!(libc::tcp_info, tcpi_bytes_sent) + size_of::<u64>();
    let counts_gaps = length >= offset_of!(libc::tcp_info, tcpi_rcv_ooopack) + size_of::<u32>();
    let received = info.tcpi_bytes_received;
    Some(TcpInfo {
        bytes_sent: counts_sent.then_some(info.tcpi_bytes_sent),
        bytes_acked: info.tcpi_bytes_acked,
        notsent_bytes: info.tcpi_notsent_bytes,
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        min_rtt: Duration::from_micros(info.tcpi_min_rtt.into()),
        established: info.tcpi_state == ESTABLISHED,
        unacked: info.tcpi_unacked,
        under_way: u64::from(info.tcpi_unacked) * u64::from(info.tcpi_snd_mss),
        retransmits: info.tcpi_retransmits,
        segment: info.tcpi_snd_mss,
        bytes_received: received,
        silence: Duration::from_millis(info.tcpi_last_data_recv.into()),
        gap: counts_gaps && info.tcpi_rcv_ooopack > 0 || received == 0 && info.tcpi_data_segs_in > 0,
        asked_segment: info.tcpi_advmss,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel writes of `tcp_info`: `include/uapi/linux/tcp.h` of these releases.
    const LINUX_3_10: usize = 104;
    const LINUX_4_9: usize = 168;

    #[test]
    fn what_an_old_kernel_does_not_write_is_not_read() {
        // SAFETY: `tcp_info` is plain integers, for which all zeroes is a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        assert_eq!(read(&info, size_of::<libc::tcp_info>()), None, "a connection without a state");
        info.tcpi_state = ESTABLISHED;
        info.tcpi_bytes_acked = 5;
        info.tcpi_bytes_sent = 7;
        assert_eq!(read(&info, LINUX_3_10), None);
        let old = read(&info, LINUX_4_9).unwrap();
        assert_eq!((old.bytes_acked, old.bytes_sent), (5, None));
        assert_eq!(read(&info, size_of::<libc::tcp_info>()).unwrap().bytes_sent, Some(7));
    }

    #[test]
    fn tcp_paces_since_linux_4_13() {
        for release in ["4.13.0", "4.14.180+", "5.10.0-28-armmp", "6.1", "10.0-rc1", "care"] {
            assert!(tcp_paces(release), "{release}");
        }
        for release in ["4.9.37", "4.9.84", "4.12.14", "3.10.14", "2.6.39.4", "4.9-custom"] {
            assert!(!tcp_paces(release), "{release}");
        }
    }

    #[test]
    fn this_kernel_paces_and_counts() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        use std::os::fd::AsFd;
        set_max_pacing_rate(socket.as_fd(), 200_000).unwrap();
        set_max_pacing_rate(socket.as_fd(), u64::MAX).unwrap();
        assert_eq!(tcp_info(socket.as_fd()).unwrap().bytes_sent, Some(0));
    }

    #[test]
    fn what_is_under_way_is_counted_in_bytes() {
        use std::{io::Write, os::fd::AsFd};
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // So small that most stays in the sender's socket.
        listener.set_recv_buffer_size(4096).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(1).unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap().as_socket().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(length) = socket.write(&[7; 1000]) {
            written += length as u64;
        }
        let info = tcp_info(socket.as_fd()).unwrap();
        assert!(info.notsent_bytes > 0 && info.under_way < 100_000, "{info:?}");
        // The SYN counts as one.
        assert_eq!(info.bytes_acked - 1 + info.under_way + u64::from(info.notsent_bytes), written, "{info:?}");
    }
}
