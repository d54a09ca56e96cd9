//! Remembers what this thread has verified: a signature costs more than the rest of a history. Off unless a
//! simulation turns it on, so that no other test uses it.

use std::{cell::RefCell, collections::HashMap};

use care_protocol::{Keyset, Reject, VerifiedEntitlement, VerifiedKeyset};

/// More than a run needs. When it is full, the cache is cleared.
const MOST: usize = 100_000;

#[derive(Default)]
struct Cache {
    /// All distinct sets of keys, without version and resets, which do not affect signatures.
    keys: Vec<Keyset>,
    entitlements: HashMap<(Option<usize>, Vec<u8>), Result<VerifiedEntitlement, Reject>>,
    keysets: HashMap<Vec<u8>, Result<VerifiedKeyset, Reject>>,
}

thread_local! {
    static CACHE: RefCell<Option<Cache>> = const { RefCell::new(None) };
}

/// Turns the cache on for this thread. All later documents must be for one device, under one root.
pub(super) fn turn_on() {
    CACHE.set(Some(Cache::default()));
}

pub(crate) fn entitlement(
    token: &[u8],
    keyset: Option<&Keyset>,
    verify: impl FnOnce() -> Result<VerifiedEntitlement, Reject>,
) -> Result<VerifiedEntitlement, Reject> {
    CACHE.with_borrow_mut(|cache| {
        let Some(cache) = cache else { return verify() };
        let keys = keyset.map(|keyset| cache.keys(keyset));
        if cache.entitlements.len() > MOST {
            cache.entitlements.clear();
        }
        cache.entitlements.entry((keys, token.to_vec())).or_insert_with(verify).clone()
    })
}

pub(crate) fn keyset(token: &[u8], verify: impl FnOnce() -> Result<VerifiedKeyset, Reject>) -> Result<VerifiedKeyset, Reject> {
    CACHE.with_borrow_mut(|cache| {
        let Some(cache) = cache else { return verify() };
        if cache.keysets.len() > MOST {
            cache.keysets.clear();
        }
        cache.keysets.entry(token.to_vec()).or_insert_with(verify).clone()
    })
}

impl Cache {
    fn keys(&mut self, keyset: &Keyset) -> usize {
        let same = |known: &Keyset| known.keys == keyset.keys && known.revoked == keyset.revoked;
        self.keys.iter().position(same).unwrap_or_else(|| {
            self.keys.push(Keyset { resets: vec![], ..keyset.clone() });
            self.keys.len() - 1
        })
    }
}
