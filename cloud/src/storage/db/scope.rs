//! What a transaction may write. The embedded database has one writer at a time whatever it is; on PostgreSQL, writers of
//! different accounts run at the same time.

use std::collections::BTreeSet;

/// What a transaction may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Anything: nothing else is written meanwhile. So is what reads across accounts, and what moves a camera from one
    /// account to another, on which the other scopes rely.
    Everything,
    /// What belongs to these accounts and to their cameras. An account is one by name, or the one of a camera.
    Accounts {
        /// Cameras, by id. One that is in no account stands for itself.
        cameras: BTreeSet<String>,
        /// Accounts.
        accounts: BTreeSet<String>,
    },
}

impl Scope {
    /// The account of a camera.
    pub fn camera(device: impl Into<String>) -> Self {
        Self::cameras([device])
    }

    /// The accounts of these cameras.
    pub fn cameras<D: Into<String>>(devices: impl IntoIterator<Item = D>) -> Self {
        Self::Accounts { cameras: devices.into_iter().map(Into::into).collect(), accounts: BTreeSet::new() }
    }

    /// One account.
    pub fn account(account: impl Into<String>) -> Self {
        Self::Accounts { cameras: BTreeSet::new(), accounts: BTreeSet::from([account.into()]) }
    }

    /// Both.
    pub(super) fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::Accounts { mut cameras, mut accounts }, Self::Accounts { cameras: more_cameras, accounts: more_accounts }) => {
                cameras.extend(more_cameras.iter().cloned());
                accounts.extend(more_accounts.iter().cloned());
                Self::Accounts { cameras, accounts }
            }
            _ => Self::Everything,
        }
    }
}
