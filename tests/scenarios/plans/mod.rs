//! Plan changes: what a subscription, a cancel, a downgrade, a trial or a payment does to each camera of an account.

mod account;
mod changes;
