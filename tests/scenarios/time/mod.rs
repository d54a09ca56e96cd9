//! What time it is, and what takes effect at a time: leases, `next`, wrong clocks, wrong `Date`s.

mod clock;
mod trusted_time;
