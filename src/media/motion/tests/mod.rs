//! Built-in motion on scenes with known truth.

pub(in crate::media) mod difference;
mod figures;
pub(in crate::media) mod scenes;
