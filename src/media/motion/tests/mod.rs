//! The agent's own detectors on scenes with known truth.

mod bitstream;
pub(in crate::media) mod difference;
mod encoded;
mod figures;
pub(in crate::media) mod scenes;
