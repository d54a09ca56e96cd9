//! What is paid and what goes back. There is one way to compute an amount ([`Period::prorated`], day-exact in the payer's
//! time zone) and one book ([`ledger`]) that takes it; the confirm page, the document's `order` and the ledger all show the same
//! figure because they all got it here. Amounts are integers in the currency's minor unit. No clock in here: times are given.

pub mod ledger;
mod period;
mod zone;

pub use self::{
    period::Period,
    zone::{UnknownZone, Zone},
};
