//! What an operator sees and does: `check-config`, conditions, an agent that runs for hours.

mod check_config;
mod conditions;
mod connection_check;
mod soak;
