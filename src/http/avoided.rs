//! Addresses that take a connection and then do not serve it: over HTTPS one that finishes a TLS handshake and gives no answer, or
//! that of a proxy whose server is away; at the broker one that grants no subscription. A name may have another address that
//! works, so they are tried last. All HTTPS connections share one list; the link to the broker, which has other signs, keeps its
//! own.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

/// More than the addresses of the agent's HTTPS servers.
const MOST: usize = 16;

/// The one that failed last comes last.
#[derive(Debug, Default)]
pub(crate) struct Avoided(Vec<SocketAddr>);

/// The list of all HTTPS connections.
static HTTPS: Mutex<Avoided> = Mutex::new(Avoided(Vec::new()));

impl Avoided {
    /// Puts these addresses into the order in which to try them.
    pub(crate) fn order(&self, addresses: &mut [SocketAddr]) {
        addresses.sort_by_key(|address| self.0.iter().position(|avoided| avoided == address).map_or(0, |place| place + 1));
    }

    /// This one has failed, or will if it says nothing.
    pub(crate) fn add(&mut self, address: SocketAddr) {
        self.remove(address);
        self.0.push(address);
    }

    fn remove(&mut self, address: SocketAddr) {
        self.0.retain(|avoided| *avoided != address);
    }

    /// Forgets all but these.
    pub(crate) fn keep(&mut self, addresses: &[SocketAddr]) {
        self.0.retain(|avoided| addresses.contains(avoided));
    }

    /// Forgets the oldest above so many.
    fn keep_newest(&mut self, most: usize) {
        self.0.drain(..self.0.len().saturating_sub(most));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Addresses of an HTTPS server in the order in which to try them.
pub(super) fn ordered(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut addresses = addresses.to_vec();
    HTTPS.lock().unwrap_or_else(PoisonError::into_inner).order(&mut addresses);
    addresses
}

/// The first request of a connection to this address. Dropped before an answer has come, it counts as unanswered.
#[derive(Debug)]
pub(super) struct Asked(pub Option<SocketAddr>);

impl Asked {
    /// An answer with this status has come.
    pub fn answered(&mut self, status: u16) {
        self.note(!matches!(status, 502..=504));
    }

    fn note(&mut self, answered: bool) {
        let Some(peer) = self.0.take() else { return };
        let mut avoided = HTTPS.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            avoided.remove(peer);
        } else {
            avoided.add(peer);
            avoided.keep_newest(MOST);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.note(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 9], port))
    }

    fn order<const N: usize>(avoided: &Avoided, mut addresses: [SocketAddr; N]) -> [SocketAddr; N] {
        avoided.order(&mut addresses);
        addresses
    }

    #[test]
    fn what_gives_no_answer_is_tried_last_until_it_gives_one() {
        let mut avoided = Avoided::default();
        let [a, b, c] = [1, 2, 3].map(address);
        avoided.add(a);
        assert_eq!(order(&avoided, [a, b, c]), [b, c, a]);
        avoided.add(b);
        assert_eq!(order(&avoided, [a, b, c]), [c, a, b]);
        avoided.remove(b);
        assert_eq!(order(&avoided, [a, b, c]), [b, c, a]);
        avoided.remove(a);
        assert_eq!(order(&avoided, [a, b, c]), [a, b, c]);
    }

    #[test]
    fn only_the_newest_are_remembered() {
        let mut avoided = Avoided::default();
        for port in 0..100 {
            avoided.add(address(port));
            avoided.keep_newest(MOST);
        }
        assert_eq!(avoided.0.len(), MOST);
        assert_eq!(order(&avoided, [address(99), address(0)]), [address(0), address(99)]);
    }
}
