//! Addresses that finish a TLS handshake and then give no answer, or that of a proxy whose server is away. A name may have
//! another address that works, so they are tried last. Shared by all HTTPS connections; the link to the broker, which has other
//! signs, keeps a list of its own.

use std::{
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// More than the addresses of the agent's servers.
const MOST: usize = 16;

/// The oldest first.
#[derive(Debug)]
pub(super) struct Avoided(Mutex<Vec<SocketAddr>>);

/// The process's list.
pub(super) static AVOIDED: Avoided = Avoided(Mutex::new(Vec::new()));

impl Avoided {
    /// These addresses in the order in which to try them: the one that failed last comes last.
    pub fn last(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let avoided = self.lock();
        let mut addresses = addresses.to_vec();
        addresses.sort_by_key(|address| avoided.iter().position(|avoided| avoided == address).map_or(0, |place| place + 1));
        addresses
    }

    fn note(&self, peer: SocketAddr, answered: bool) {
        let mut avoided = self.lock();
        avoided.retain(|avoided| *avoided != peer);
        if !answered {
            if avoided.len() == MOST {
                avoided.remove(0);
            }
            avoided.push(peer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<SocketAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first request of a connection to this address. Dropped before an answer has come, it counts as unanswered.
#[derive(Debug)]
pub(super) struct Asked(pub Option<SocketAddr>);

impl Asked {
    /// An answer with this status has come.
    pub fn answered(&mut self, status: u16) {
        if let Some(peer) = self.0.take() {
            AVOIDED.note(peer, !matches!(status, 502..=504));
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(peer) = self.0.take() {
            AVOIDED.note(peer, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 9], port))
    }

    #[test]
    fn what_gives_no_answer_is_tried_last_until_it_gives_one() {
        let avoided = Avoided(Mutex::default());
        let [a, b, c] = [1, 2, 3].map(address);
        avoided.note(a, false);
        assert_eq!(avoided.last(&[a, b, c]), [b, c, a]);
        avoided.note(b, false);
        assert_eq!(avoided.last(&[a, b, c]), [c, a, b]);
        avoided.note(b, true);
        assert_eq!(avoided.last(&[a, b, c]), [b, c, a]);
        avoided.note(a, true);
        assert_eq!(avoided.last(&[a, b, c]), [a, b, c]);
    }

    #[test]
    fn only_the_newest_are_remembered() {
        let avoided = Avoided(Mutex::default());
        (0..100).for_each(|port| avoided.note(address(port), false));
        assert_eq!(avoided.lock().len(), MOST);
        assert_eq!(avoided.last(&[address(99), address(0)]), [address(0), address(99)]);
    }
}
