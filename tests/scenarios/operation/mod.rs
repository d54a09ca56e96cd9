//! What an operator sees and does: `check-config`, conditions, metrics, an agent that runs for hours, life without systemd.

mod browser;
mod check_config;
mod conditions;
mod confinement;
mod connection_check;
mod drill;
mod home_assistant;
mod init_script;
mod logging;
mod metrics;
mod motion;
mod page;
mod restored_cloud;
mod soak;
mod supervise;
mod terminal;
