//! A record that survives a power cut: two checksummed slots in one small file, written in turn.
//!
//! [`slots`] decides which slot counts and which one is written, [`slot`] is the layout of one. They work on the trait
//! in [`filesystem`], so the same code runs on the camera's flash and, in tests and simulations, on the [`disk`] in
//! memory. They handle bytes, whatever a record contains; the agent's store owns the real directory, its lock and the
//! writing thread.

pub mod checksum;
pub mod disk;
pub mod filesystem;
pub mod slot;
pub mod slots;
#[cfg(test)]
mod tests;

/// The state found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Nothing was ever written: a camera that was never bound.
    Empty,
    /// The newest durable record.
    Record(Vec<u8>),
    /// A state was written and cannot be read, or a newer firmware wrote it. The gate stays closed, and only a `GET`
    /// sets the ratchet again: docs/protocol.md#state-loss.
    Unreadable,
}
