//! The shell around the engine.

use std::path::Path;

use crate::config::Config;

/// Runs the service until SIGTERM.
///
/// # Errors
/// What kept it from starting.
pub fn run(path: &Path, config: Config) -> anyhow::Result<()> {
    anyhow::bail!("{}: the service of {} is not wired yet", path.display(), config.device.id)
}
