//! What was verified before on this thread: a signature costs more than all the rest of a history. Off unless a simulation
//! turns it on, so that no other test meets it.

use std::{cell::RefCell, collections::HashMap};

use care_protocol::{Keyset, Reject, VerifiedEntitlement, VerifiedKeyset};

/// More than a run needs; what is beyond is begun anew.
const MOST: usize = 100_000;

#[derive(Default)]
struct Memory {
    /// Every set of keys seen, without version and resets, on which no signature depends.
    keys: Vec<Keyset>,
    entitlements: HashMap<(Option<usize>, Vec<u8>), Result<VerifiedEntitlement, Reject>>,
    keysets: HashMap<Vec<u8>, Result<VerifiedKeyset, Reject>>,
}

thread_local! {
    static MEMORY: RefCell<Option<Memory>> = const { RefCell::new(None) };
}

/// Begins to remember. All that is verified on this thread from here on must be for one device, under one root.
pub(super) fn turn_on() {
    MEMORY.set(Some(Memory::default()));
}

pub(crate) fn entitlement(
    token: &[u8],
    keyset: Option<&Keyset>,
    verify: impl FnOnce() -> Result<VerifiedEntitlement, Reject>,
) -> Result<VerifiedEntitlement, Reject> {
    MEMORY.with_borrow_mut(|memory| {
        let Some(memory) = memory else { return verify() };
        let keys = keyset.map(|keyset| memory.keys(keyset));
        if memory.entitlements.len() > MOST {
            memory.entitlements.clear();
        }
        memory.entitlements.entry((keys, token.to_vec())).or_insert_with(verify).clone()
    })
}

pub(crate) fn keyset(token: &[u8], verify: impl FnOnce() -> Result<VerifiedKeyset, Reject>) -> Result<VerifiedKeyset, Reject> {
    MEMORY.with_borrow_mut(|memory| {
        let Some(memory) = memory else { return verify() };
        if memory.keysets.len() > MOST {
            memory.keysets.clear();
        }
        memory.keysets.entry(token.to_vec()).or_insert_with(verify).clone()
    })
}

impl Memory {
    fn keys(&mut self, keyset: &Keyset) -> usize {
        let same = |known: &Keyset| known.keys == keyset.keys && known.revoked == keyset.revoked;
        self.keys.iter().position(same).unwrap_or_else(|| {
            self.keys.push(Keyset { resets: vec![], ..keyset.clone() });
            self.keys.len() - 1
        })
    }
}
