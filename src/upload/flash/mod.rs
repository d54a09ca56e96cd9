//! Clips that wait on flash, because memory is short, the cloud is unreachable, or the agent stops: plain files that
//! describe themselves, and a small journal of erased clips. A scan rebuilds the spool from them. A clip that outgrows
//! memory is written while it is filmed ([`growing`]).
//!
//! All of it runs on the flash thread ([`thread`]), never under the spool's lock: a cut only marks clips. Only the
//! engine's record that follows a cut waits for flash: for the journal line about the clips that the cut erased
//! ([`super::Gate::erasures_settled`]). So a restart never finds both a record and a clip that it had erased.

mod erasing;
mod files;
mod growing;
mod header;
#[cfg(any(test, feature = "fuzzing"))]
mod hostile;
mod journal;
mod progressive;
#[cfg(test)]
mod tests;
pub(super) mod thread;
mod write_budget;

use std::io;

use super::spool::Diagnosis;

pub use erasing::erase_spool;
pub(super) use files::{ClipFile, Files, Opener, Put};
pub(super) use header::{Facts, HEADER_BYTES, PartFacts, Tail};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hostile::hostile_spool;
pub(super) use write_budget::{WriteBudget, WriteCount};

/// The attempted operation on flash, the system's error, and advice.
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
