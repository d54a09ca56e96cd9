//! Clips that wait: on flash, behind a slow uplink, or because the store refuses them.

mod longer_than_memory;
mod parts;
mod refused_by_the_store;
mod spool;
