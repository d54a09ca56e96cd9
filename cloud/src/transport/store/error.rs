//! Why the clip store failed: the operation, its object, and the cause.

use std::path::PathBuf;

use care_protocol::DeviceId;
use thiserror::Error;

use crate::storage::data_dir::DataError;

/// Why the store failed.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Reading or writing its secret.
    #[error(transparent)]
    Data(#[from] DataError),
    /// s3s.
    #[error("opening the embedded store in {path}: {why}")]
    Open {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// Deleting a clip of an external store.
    #[error("deleting clip {clip} of {device} from the store: {why}")]
    Erase {
        /// The camera.
        device: DeviceId,
        /// The clip.
        clip: String,
        /// The cause.
        why: String,
    },
    /// Listing.
    #[error("listing the clips of {device} in the store: {why}")]
    List {
        /// The camera.
        device: DeviceId,
        /// The cause.
        why: String,
    },
    /// A range outside the clip.
    #[error("the range lies outside the clip")]
    Range,
    /// Reading a clip.
    #[error("reading clip {clip} of {device} from the store: {why}")]
    Read {
        /// The camera.
        device: DeviceId,
        /// The clip.
        clip: String,
        /// The cause.
        why: String,
    },
    /// Writing a clip.
    #[error("writing clip {clip} of {device} to the store: {why}")]
    Write {
        /// The camera.
        device: DeviceId,
        /// The clip.
        clip: String,
        /// The cause.
        why: String,
    },
    /// `--s3`.
    #[error("--s3 {url}: {why}")]
    Url {
        /// As given.
        url: String,
        /// What would be right.
        why: String,
    },
}
