//! What care-cloud keeps on disk: the database with its outbox, the data directory, the signing keys and the
//! certificate authority. It knows nothing of plans or of the network.

pub mod data_dir;
pub mod db;
pub mod keys;
pub mod outbox;
pub mod pki;
pub mod prune;
pub mod publisher;
