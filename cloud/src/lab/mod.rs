//! The engineers' laboratory: experiments that break something on purpose, and simulated cameras. Only the portal
//! calls it.

pub mod experiments;
pub mod overview;
pub mod simulated;
