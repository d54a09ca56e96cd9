//! The two socket options that no dependency wraps: the pacing rate and TCP_INFO. All of the agent's `unsafe` code for
//! sockets is here.
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
    /// Payload bytes handed to the network device, with retransmissions; 0 on kernels before 4.19.
    pub(crate) bytes_sent: u64,
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
    /// How often in a row the same bytes were retransmitted because no acknowledgement arrived.
    pub(crate) retransmits: u8,
    /// The largest segment that is sent, bytes of payload.
    pub(crate) segment: u32,
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
/// The kernel's error; `Unsupported` if it has no pacing.
fn set_max_pacing_rate(socket: BorrowedFd<'_>, bytes_per_s: u64) -> io::Result<()> {
    // 32 bits: every kernel since 3.13 accepts this on every architecture. All ones would mean no limit.
    let rate = u32::try_from(bytes_per_s).unwrap_or(u32::MAX).min(u32::MAX - 1);
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel reads `size_of::<u32>()` bytes from a
    // live `u32` and keeps no pointer to it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
    if result == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Err(io::Error::new(io::ErrorKind::Unsupported, error)),
        error => Err(error),
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
    // An older kernel writes fewer fields. Those up to Linux 4.6 are required, later ones are optional.
    if (length as usize) < offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of::<u32>() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(TcpInfo {
        bytes_sent: info.tcpi_bytes_sent,
        bytes_acked: info.tcpi_bytes_acked,
        notsent_bytes: info.tcpi_notsent_bytes,
        rtt: Duration::from_micros(info.tcpi_rtt.into()),
        min_rtt: Duration::from_micros(info.tcpi_min_rtt.into()),
        established: info.tcpi_state == ESTABLISHED,
        unacked: info.tcpi_unacked,
        retransmits: info.tcpi_retransmits,
        segment: info.tcpi_snd_mss,
    })
}
