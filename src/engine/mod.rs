//! The engine: `handle(event, now)` in, effects out.

mod admission;

pub use admission::{Admission, ClipFacts, Generation, Judge};
