//! The spool's other half: clips that wait on flash, because memory is short, the cloud is away, or the agent stops.
//! Plain files that say themselves what they are, and a small journal of what is gone; the spool can be rebuilt by a scan.
//!
//! All of it runs on a thread of its own ([`thread`]), never under the spool's lock: a cut only marks clips, and nobody
//! waits for flash but the record that a cut leads to. That one waits for the journal's line about what the cut has erased
//! ([`super::Gate::erasures_settled`]), so that whatever record a restart finds, nothing is there that an earlier record had
//! erased.

mod erasing;
mod files;
mod header;
#[cfg(any(test, feature = "fuzzing"))]
mod hostile;
mod journal;
#[cfg(test)]
mod tests;
pub(super) mod thread;
mod write_budget;

use std::io;

use super::spool::Diagnosis;

pub use erasing::erase_spool;
pub(super) use files::{ClipFile, Files, Opener, Put};
pub(super) use header::{Facts, HEADER_BYTES};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hostile::hostile_spool;
pub(super) use write_budget::{WriteBudget, WriteCount};

/// What flash said when this was tried, and what to do about it.
pub(super) fn flash_fault(what: &str, why: &io::Error) -> Diagnosis {
    let advice = match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "Make room on the state directory's file system.",
        io::ErrorKind::ReadOnlyFilesystem => "Mount the state directory's file system for writing.",
        io::ErrorKind::PermissionDenied => "Give the agent's user the right to write to the state directory.",
        io::ErrorKind::NotADirectory | io::ErrorKind::NotFound => {
            "Make the state directory, and remove what stands in the place of its spool folder."
        }
        _ => "Check the state directory's file system, and the flash below it.",
    };
    Diagnosis { sentence: format!("{what}: {why}"), advice }
}
