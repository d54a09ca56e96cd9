//! A network of a test's own, where an address of the internet may be a neighbour: loopback and nothing else, with such
//! addresses on it.

use std::{net::Ipv4Addr, process::Command};

/// An address of the internet that nobody has (RFC 5737).
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Moves the calling thread, and all that it starts from here on, into a network with loopback and [`PUBLIC`]. It is gone with
/// the last of them. Needs root.
pub fn enter() {
    // SAFETY: it takes no pointer, and changes the network namespace of the calling thread and nothing else.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: {}", std::io::Error::last_os_error());
    for arguments in ["link set lo up".to_owned(), format!("address add {PUBLIC}/32 dev lo")] {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}: {status}");
    }
}
