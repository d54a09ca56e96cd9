//! The spool's other half: clips that wait on flash, because memory is short, the cloud is away, or the agent stops.
//! Plain files that say themselves what they are, and a small journal of what is gone; the spool can be rebuilt by a scan.
//!
//! All of it runs on a thread of its own ([`thread`]), never under the spool's lock: a cut only marks clips, and nobody
//! waits for flash but the record that a cut leads to. That one waits for the journal's line about what the cut has erased
//! ([`super::Gate::erasures_settled`]), so that whatever record a restart finds, nothing is there that an earlier record had
//! erased.

mod files;
mod header;
mod journal;
#[cfg(any(test, feature = "fuzzing"))]
mod stranger;
#[cfg(test)]
mod tests;
pub(super) mod thread;

pub(super) use files::{Files, Opener, Put, Shelved};
pub(super) use header::{Facts, HEADER_BYTES};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use stranger::spool_from_a_stranger;
