//! Payments and refunds. One function computes an amount ([`Period::prorated`], to the day in the payer's time zone)
//! and one ledger ([`ledger`]) records it, so that the confirmation page, the document's `order` and the ledger show
//! the same figure. Amounts are integers in the currency's minor unit; the caller gives the time.

pub mod ledger;
mod period;
mod zone;

pub use self::{
    period::Period,
    zone::{UnknownZone, Zone},
};
