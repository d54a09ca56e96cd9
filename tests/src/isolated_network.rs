//! A network namespace with nothing but loopback, which also carries public addresses: a test can serve at an address of the internet.

use std::{net::Ipv4Addr, process::Command};

/// An address of the internet that nobody has (RFC 5737).
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Moves the calling thread, and all that it starts from here on, into a network with loopback and [`PUBLIC`]. It is gone with
/// the last of them. Needs root.
pub fn enter() {
    // SAFETY: it takes no pointer, and changes the network namespace of the calling thread and nothing else.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: {}", std::io::Error::last_os_error());
    run("ip link set lo up");
    run(&format!("ip address add {PUBLIC}/32 dev lo"));
}

/// Runs one of iproute2's commands, whose words have spaces between them.
///
/// # Panics
/// With what it says, if it fails.
pub fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
