//! Path MTU black holes: a link with a smaller MTU (PPPoE, LTE, a tunnel) behind a router that filters ICMP. TCP's
//! handshake and small messages pass, and every retransmission of the first full segment is lost, on the way up or on
//! the way down. This module notices a connection that ends like that and gives the next one to the same address
//! smaller segments: 1220 bytes, which fit every IPv6 path, then 536, which fit every IPv4 path. What a socket may send
//! it also asks its peer not to exceed, so one limit serves both ways. The size that worked is remembered for an hour.
//!
//! There is one table for the whole process, because independent connections to broker, API and store share the same
//! paths.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use socket2::Socket;

use crate::upload::kernel::{TcpInfo, tcp_info};

/// The segment sizes to try, one after the other, once full segments got no answer.
const SMALLER: [u32; 2] = [1220, 536];
/// How long a result for a path is valid.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How many times in a row the kernel must have retransmitted the same bytes: three seconds or more.
const RETRANSMITS: u8 = 4;
/// More than this acknowledged means that full segments get through, and the cause is another one.
const FEW_SEGMENTS: u64 = 3;
/// For how long the peer must have had the time to send again what is missing.
const NOTHING_NEW: Duration = Duration::from_secs(3);

/// The results for paths to peers. Bounded: only the agent's own peers get an entry, and it lives for an hour.
#[derive(Debug)]
pub(crate) struct Paths(Mutex<BTreeMap<SocketAddr, Path>>);

/// The process's table.
pub(crate) static PATHS: Paths = Paths(Mutex::new(BTreeMap::new()));

#[derive(Debug, Clone, Copy)]
struct Path {
    segment: u32,
    /// Whether the segments that vanished were the peer's.
    down: bool,
    /// Whether data has got through in such segments.
    helped: bool,
    until: Instant,
}

impl Paths {
    /// The largest segment that a connection to `peer` may send; `None`: whatever TCP finds.
    pub(crate) fn segment(&self, peer: SocketAddr) -> Option<u32> {
        self.segment_at(peer, Instant::now())
    }

    fn segment_at(&self, peer: SocketAddr, now: Instant) -> Option<u32> {
        let mut paths = self.lock();
        paths.retain(|_, path| path.until > now);
        paths.get(&peer).map(|path| path.segment)
    }

    /// Limits a socket's segments before it connects to `peer`.
    pub(crate) fn limit(&self, socket: &Socket, peer: SocketAddr) -> std::io::Result<()> {
        self.segment(peer).map_or(Ok(()), |segment| socket.set_tcp_mss(segment))
    }

    /// A connection to `peer` has ended, or was aborted, with these figures from the kernel. Returns whether the next
    /// one will have smaller segments.
    pub(crate) fn learn(&self, peer: SocketAddr, info: &TcpInfo) -> bool {
        self.learn_at(peer, info, Instant::now())
    }

    fn learn_at(&self, peer: SocketAddr, info: &TcpInfo, now: Instant) -> bool {
        let mut paths = self.lock();
        let down = is_starved(info);
        if down || is_swallowed(info) {
            let vanished = if down { info.asked_segment } else { info.segment };
            let smaller = SMALLER.into_iter().find(|smaller| *smaller < vanished);
            match smaller {
                Some(segment) => drop(paths.insert(peer, Path { segment, down, helped: false, until: now + REMEMBERED })),
                // The smallest segments fail too: the path has another fault.
                None => drop(paths.remove(&peer)),
            }
            return smaller.is_some();
        }
        if let Some(path) = paths.get_mut(&peer).filter(|path| !path.helped) {
            let full_segments = u64::from(path.segment) * FEW_SEGMENTS;
            let got_through = if path.down { info.bytes_received } else { info.bytes_acked };
            if info.segment <= path.segment && got_through > full_segments {
                path.helped = true;
                path.until = now + REMEMBERED;
            }
        }
        false
    }

    /// The peers that need smaller segments, and how small.
    pub(crate) fn narrow(&self) -> Vec<(SocketAddr, u32)> {
        let now = Instant::now();
        let paths = self.lock();
        paths.iter().filter(|(_, path)| path.helped && path.until > now).map(|(peer, path)| (*peer, path.segment)).collect()
    }

    /// Every change leaves the map consistent, so the lock's poison flag can be ignored.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Path>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a connection is established, has had hardly any data acknowledged, and keeps retransmitting the same bytes.
pub(crate) fn is_swallowed(info: &TcpInfo) -> bool {
    let hardly_any = info.bytes_acked <= u64::from(info.segment) * FEW_SEGMENTS;
    info.established && info.unacked > 0 && info.retransmits >= RETRANSMITS && hardly_any
}

/// Whether a peer has acknowledged everything and sends hardly anything, because what it sent first never arrives: only what
/// came behind it does.
fn is_starved(info: &TcpInfo) -> bool {
    let hardly_any = info.bytes_received <= u64::from(info.asked_segment) * FEW_SEGMENTS;
    info.established && info.unacked == 0 && info.gap && info.silence >= NOTHING_NEW && hardly_any
}

/// Checks a connection of the agent when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: OwnedFd,
    peer: SocketAddr,
}

impl Watch {
    /// `None` where the kernel gives no second descriptor: then nothing is learned from it.
    pub(crate) fn of(socket: &Socket, peer: SocketAddr) -> Option<Self> {
        let socket = OwnedFd::from(socket.try_clone().ok()?);
        Some(Self { socket, peer })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Ok(info) = tcp_info(self.socket.as_fd()) {
            PATHS.learn(self.peer, &info);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Paths {
        Paths(Mutex::default())
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 7], 443))
    }

    /// A connection whose segments vanish.
    fn swallowed(segment: u32) -> TcpInfo {
        TcpInfo { established: true, unacked: 3, retransmits: RETRANSMITS, segment, bytes_acked: 900, ..TcpInfo::default() }
    }

    #[test]
    fn segments_become_smaller_twice_and_what_helped_is_remembered_for_an_hour() {
        let (paths, now) = (paths(), Instant::now());
        assert_eq!(paths.segment_at(peer(), now), None);
        assert!(paths.learn_at(peer(), &swallowed(1448), now));
        assert_eq!(paths.segment_at(peer(), now), Some(1220));
        assert_eq!(paths.narrow(), [], "nothing is known yet but that full segments vanish");
        assert!(paths.learn_at(peer(), &swallowed(1208), now));
        assert_eq!(paths.segment_at(peer(), now), Some(536));
        let well = TcpInfo { established: true, segment: 524, bytes_acked: 100_000, ..TcpInfo::default() };
        assert!(!paths.learn_at(peer(), &well, now));
        assert_eq!(paths.narrow(), [(peer(), 536)]);
        assert_eq!(paths.segment_at(peer(), now + REMEMBERED - Duration::from_secs(1)), Some(536));
        assert_eq!(paths.segment_at(peer(), now + REMEMBERED), None);
        let other = SocketAddr::from(([203, 0, 113, 8], 443));
        assert!(paths.learn_at(peer(), &swallowed(1448), now));
        assert_eq!(paths.segment_at(other, now), None);
    }

    #[test]
    fn a_path_that_swallows_the_smallest_too_is_broken_otherwise() {
        let (paths, now) = (paths(), Instant::now());
        for segment in [1448, 1208] {
            assert!(paths.learn_at(peer(), &swallowed(segment), now));
        }
        assert!(!paths.learn_at(peer(), &swallowed(524), now));
        assert_eq!(paths.segment_at(peer(), now), None);
    }

    /// A connection whose peer's full segments vanish.
    fn starved(asked_segment: u32) -> TcpInfo {
        let silence = Duration::from_secs(20);
        TcpInfo {
            established: true,
            gap: true,
            silence,
            bytes_acked: 300,
            segment: asked_segment - 12,
            asked_segment,
            ..TcpInfo::default()
        }
    }

    #[test]
    fn a_peer_whose_full_segments_vanish_is_asked_for_smaller_ones() {
        let (paths, now) = (paths(), Instant::now());
        assert!(paths.learn_at(peer(), &starved(1460), now));
        assert_eq!(paths.segment_at(peer(), now), Some(1220));
        // It has sent much, and taken nothing.
        let well = TcpInfo { bytes_received: 5000, silence: Duration::ZERO, ..starved(1220) };
        assert!(!paths.learn_at(peer(), &well, now));
        assert_eq!(paths.narrow(), [(peer(), 1220)]);
    }

    fn keep_their_segments(connections: &[TcpInfo]) {
        for info in connections {
            let paths = paths();
            assert!(!paths.learn_at(peer(), info, Instant::now()));
            assert_eq!(paths.segment(peer()), None, "{info:?}");
        }
    }

    #[test]
    fn a_peer_that_is_silent_for_another_reason_keeps_its_segments() {
        let starved = starved(1460);
        let others = [
            // It has nothing to say, or hangs.
            TcpInfo { gap: false, ..starved },
            // A segment was lost and came again.
            TcpInfo { silence: Duration::from_secs(1), ..starved },
            TcpInfo { bytes_received: 200_000, ..starved },
            // The link was lost.
            TcpInfo { unacked: 1, ..starved },
            TcpInfo { established: false, ..starved },
        ];
        keep_their_segments(&others);
    }

    #[test]
    fn what_stalls_for_another_reason_keeps_its_segments() {
        let well = swallowed(1448);
        let others = [
            // The link was lost in the middle of a transfer.
            TcpInfo { bytes_acked: 200_000, ..well },
            // The peer reads nothing: all that was sent is acknowledged.
            TcpInfo { unacked: 0, ..well },
            // A short disturbance.
            TcpInfo { retransmits: 1, ..well },
            // Reset, or cut: the kernel has discarded its figures.
            TcpInfo { established: false, ..well },
        ];
        keep_their_segments(&others);
    }
}
