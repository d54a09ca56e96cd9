//! upload.
