//! The two ports to which a camera sends RTP and RTCP over UDP. It takes packets of the camera alone and keeps no state of them.
//! Called by `playing`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use tokio::{net::UdpSocket, select};

use super::packet;

/// How often to look for two ports in a row that are free.
const ATTEMPTS: u32 = 32;
/// No datagram is longer, bytes.
const LONGEST: usize = 1 << 16;
/// What may wait in the kernel for a thread that runs late, bytes: two keyframes at 8 Mbit/s. The kernel allows less without
/// a word where `net.core.rmem_max` is less, and counts what it keeps beside each packet, about as much again.
const WAITING: usize = 1 << 20;

pub(super) struct Udp {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    port: u16,
    /// Where packets come from.
    camera: IpAddr,
    /// The camera's port for RTCP, if it is known.
    rtcp_to: Option<SocketAddr>,
    /// Ours (SSRC).
    source: u32,
    buffer: Vec<u8>,
}

impl Udp {
    /// Two ports of this address, the first of them even (RFC 3550, section 11).
    pub fn bind(local: IpAddr, camera: IpAddr) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match pair(local) {
                Ok((rtp, rtcp, port)) => {
                    let source = fastrand::u32(..);
                    return Ok(Self { rtp, rtcp, port, camera, rtcp_to: None, source, buffer: vec![0; LONGEST] });
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
    }

    /// The ports as the header `Transport` names them.
    pub fn ports(&self) -> String {
        format!("{}-{}", self.port, self.port.saturating_add(1))
    }

    /// The camera has said from where it sends. A packet to each of its ports opens firewalls between.
    pub fn agree(&mut self, source: Option<IpAddr>, ports: Option<(u16, u16)>) {
        // Cameras also name no address at all, or their own loopback. Nothing is sent there.
        let is_host = |source: &IpAddr| !source.is_unspecified() && !source.is_multicast() && !source.is_loopback();
        self.camera = source.filter(is_host).unwrap_or(self.camera);
        let Some((rtp, rtcp)) = ports else { return };
        self.rtcp_to = Some((self.camera, rtcp).into());
        // Nothing depends on them.
        let _ = self.rtp.try_send_to(&packet::opening(self.source), (self.camera, rtp).into());
        self.report();
    }

    /// Tells the camera, and firewalls between, that packets are still received.
    pub fn report(&self) {
        if let Some(to) = self.rtcp_to {
            let _ = self.rtcp.try_send_to(&packet::receiver_report(self.source), to);
        }
    }

    /// Waits until a packet may have come. May be dropped at any time.
    pub async fn readable(&self) -> io::Result<()> {
        select! {
            ready = self.rtp.readable() => ready,
            ready = self.rtcp.readable() => ready,
        }
    }

    /// A packet that has come, and whether it is RTCP. One of another host is empty: whoever calls decides how many to look at.
    pub fn received(&mut self) -> io::Result<Option<(Bytes, bool)>> {
        for (socket, is_rtcp) in [(&self.rtcp, true), (&self.rtp, false)] {
            match socket.try_recv_from(&mut self.buffer) {
                Ok((length, from)) => {
                    let packet = self.buffer.get(..length).filter(|_| from.ip() == self.camera).unwrap_or_default();
                    return Ok(Some((Bytes::copy_from_slice(packet), is_rtcp)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The camera does not listen for what was sent to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(Some((Bytes::new(), true))),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn pair(local: IpAddr) -> io::Result<(UdpSocket, UdpSocket, u16)> {
    let bind = |port| {
        let socket = std::net::UdpSocket::bind((local, port))?;
        socket2::SockRef::from(&socket).set_recv_buffer_size(WAITING)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let any = bind(0)?;
    match any.local_addr()?.port() {
        port if port % 2 == 0 => Ok((any, bind(port.saturating_add(1))?, port)),
        port => Ok((bind(port.saturating_sub(1))?, any, port.saturating_sub(1))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// The kernel doubles what is asked for, to have room for what it keeps beside each packet.
    #[tokio::test]
    async fn the_kernel_keeps_as_much_of_a_burst_as_it_allows() {
        let allowed: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
        let here = IpAddr::from(Ipv4Addr::LOCALHOST);
        let udp = Udp::bind(here, here).unwrap();
        for socket in [&udp.rtp, &udp.rtcp] {
            assert_eq!(socket2::SockRef::from(socket).recv_buffer_size().unwrap(), 2 * WAITING.min(allowed));
        }
    }
}
