//! The business of the Care cloud: accounts, plans and what they cost, the entitlements that follow from them, and the
//! rules for clips. It works on the database's transactions without network access; the caller passes the time.

pub mod accounts;
pub mod actions;
pub mod billing;
pub mod catalogue;
pub mod clip_rules;
pub mod clips;
pub mod issuer;
pub mod money;
pub mod parts;
pub mod preview;
pub mod reports;
