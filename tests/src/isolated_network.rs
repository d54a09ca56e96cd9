//! A network namespace with nothing but loopback, which also carries public addresses: a test can serve at an
//! address of the internet. And a way into namespaces that others made.

use std::{fs::File, net::Ipv4Addr, os::fd::AsRawFd, process::Command};

/// A documentation address (RFC 5737) that no host on the internet has.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Moves the calling thread and everything it starts afterwards into a new network namespace with loopback and
/// [`PUBLIC`]. The namespace ends with its last process. Needs root.
pub fn enter() {
    // SAFETY: unshare takes no pointer and changes only the network namespace of the calling thread.
    let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "a network namespace: {}", std::io::Error::last_os_error());
    run("ip link set lo up");
    run(&format!("ip address add {PUBLIC}/32 dev lo"));
}

/// Moves the calling thread and everything it starts afterwards into the namespace of this name, as `ip netns` has it.
pub fn join(namespace: &str) {
    let file = File::open(format!("/var/run/netns/{namespace}")).unwrap();
    // SAFETY: the descriptor is open; setns changes only the network namespace of the calling thread.
    let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
    assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
}

/// Runs an iproute2 command, given as words separated by spaces.
///
/// # Panics
/// With the command's output if it fails.
pub fn run(command: &str) {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}
