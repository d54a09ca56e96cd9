//! The agent's own threads: each has a name and a stack of a stated size. Left to themselves, C libraries differ: musl gives
//! threads 128 KB, glibc as much as `ulimit -s` says, which is address space that a small camera may refuse. Used wherever the
//! agent starts a thread; GStreamer's threads are GLib's own.

use std::thread;

/// What the agent's own code needs, with room to spare: a TLS handshake, the deepest documents that its parsers accept, and
/// the C library's resolver. Tests run these on such a stack.
pub const ENOUGH: usize = 512 * 1024;

/// The stack of each thread, bytes. With GStreamer some of them call into plugins, for which the standard library's own size
/// has always sufficed.
pub const STACK_BYTES: usize = if cfg!(feature = "gstreamer") { 2 * 1024 * 1024 } else { ENOUGH };

/// A thread of this name, to be spawned. The kernel shows the first 15 bytes of the name.
pub fn named(name: &str) -> thread::Builder {
    thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
        thread::Builder::new().stack_size(ENOUGH).spawn(work).unwrap().join().unwrap();
    }

    #[test]
    fn the_deepest_documents_are_read_or_refused_on_a_small_stack() {
        on_a_small_stack(|| {
            for depth in [10, 80, 127, 100_000] {
                let nested = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
                assert!(Config::parse(&format!("x = {nested}\n"), Path::new("config.toml")).is_err(), "{depth}");
                let tables = format!("{}1{}", "{ a = ".repeat(depth), " }".repeat(depth));
                assert!(Config::parse(&format!("x = {tables}\n"), Path::new("config.toml")).is_err(), "{depth}");
                let read = serde_json::from_str::<serde_json::Value>(&nested);
                assert_eq!(read.is_ok(), depth < 128, "{depth}");
            }
        });
    }

    #[test]
    fn names_are_looked_up_on_a_small_stack() {
        on_a_small_stack(|| {
            let found = std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 443)).map(|found| found.count());
            assert!(found.is_ok_and(|count| count > 0));
        });
    }
}
