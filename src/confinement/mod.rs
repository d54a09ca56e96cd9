//! What the agent gives up before it speaks to anybody: root, capabilities, new privileges, files that its configuration does
//! not name (`docs/design/confinement.md`). A camera without systemd has nobody else to do it. Called once by the
//! command line, before the first thread and the first socket; it is not for the commands that people run.
//!
//! Under the systemd unit nothing is left to do, and nothing is done: that process is another user already, with
//! `no_new_privs`, in a sandbox of its own.

mod account;
mod files;
mod identity;
mod preparation;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use self::account::Account;
use self::files::{Enforced, Rules};
use crate::config::{Config, Process};

/// Why the agent cannot confine itself. It must not run half confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// `/etc/passwd` cannot be read.
    #[error("cannot read /etc/passwd to find the user {name}: {why}")]
    Users {
        /// The user.
        name: String,
        /// What the system says.
        why: io::Error,
    },
    /// A directory of the agent's cannot be made.
    #[error("cannot make {} for the user {name}: {why}", path.display())]
    Directory {
        /// On what.
        path: PathBuf,
        /// For whom.
        name: String,
        /// What the system says.
        why: io::Error,
    },
    /// The system refused a step.
    #[error("{step}: {why}; start the agent as root, or as its user")]
    Refused {
        /// The step.
        step: &'static str,
        /// What the system says.
        why: io::Error,
    },
}

/// What the running process may do, as the status shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// The user that it runs as: a name, or a number that has none.
    pub user: String,
    /// Whether it holds any capability of capabilities(7).
    pub capabilities: bool,
    /// Whether no program that it starts can gain privileges.
    pub no_new_privs: bool,
    /// The version of Landlock that bounds its files; null where nothing of its own does.
    pub landlock: Option<u32>,
}

/// The process after [`enter`].
#[derive(Debug, Clone, Default)]
pub struct Confined {
    /// What it may do.
    pub status: Confinement,
    /// Why it runs as root although it should not, if it does.
    pub root_because: Option<String>,
    rules: Option<Rules>,
}

impl Confined {
    /// The files of a new configuration that this process may not read, since its rules were made for the one it started
    /// with.
    pub fn out_of_reach(&self, config: &Config, path: &Path) -> Vec<PathBuf> {
        let Some(rules) = &self.rules else { return Vec::new() };
        files::trusted_files(config, path).into_iter().filter(|file| !rules.allow_reading(file)).collect()
    }
}

/// The user that an agent started by root will be; `None`: root without capabilities. The second value says why, if that was
/// not asked for.
fn account_of(process: &Process) -> Result<(Option<Account>, Option<String>), ConfinementError> {
    let name = process.user.as_str();
    match Account::named(name).map_err(|why| ConfinementError::Users { name: name.to_owned(), why })? {
        Some(account) if account.is_root() => Ok((None, None)),
        Some(account) => Ok((Some(account), None)),
        None => Ok((None, Some(format!("there is no user {name} on this camera, so the agent runs as root, without capabilities")))),
    }
}

/// Confines this process for good, as `config`, read from `path`, asks.
///
/// # Errors
/// The process may be half confined: it must end.
pub fn enter(config: &Config, path: &Path) -> Result<Confined, ConfinementError> {
    let mut confined = Confined::default();
    if !identity::is_confined_already() {
        let mut account = None;
        if rustix::process::geteuid().is_root() {
            (account, confined.root_because) = account_of(&config.process)?;
            preparation::prepare(config, account.as_ref())?;
        }
        identity::give_up(account.as_ref()).map_err(|(step, why)| ConfinementError::Refused { step, why })?;
        confined.enforce_rules(config, path);
    }
    let left = identity::left();
    confined.status.user = user_name();
    confined.status.capabilities = left.capabilities;
    confined.status.no_new_privs = left.no_new_privs;
    Ok(confined)
}

impl Confined {
    fn enforce_rules(&mut self, config: &Config, path: &Path) {
        if !config.process.restrict_files {
            return tracing::info!("files are not restricted: [process] restrict_files = false");
        }
        let rules = match Rules::of(config, path) {
            Ok(rules) => rules,
            Err(why) => return tracing::warn!(why, "files are not restricted"),
        };
        match rules.enforce() {
            Enforced::Landlock(version) => (self.status.landlock, self.rules) = (Some(version), Some(rules)),
            Enforced::No(why) => tracing::info!(why, "files are not restricted"),
        }
    }
}

/// Runs `check` with the rights that the agent will have, if root asks: `check-config` must judge as the agent will. `None`:
/// the caller's own rights are the agent's.
pub fn as_agent<T: Send>(process: &Process, check: impl Fn() -> T + Send + Sync) -> T {
    if rustix::process::geteuid().is_root()
        && let Ok((account, _)) = account_of(process)
        && let Ok(checked) = identity::with_rights_of(account.as_ref(), &check)
    {
        return checked;
    }
    check()
}

/// The agent's user for advice: `chown NAME file`.
pub fn agent_name(process: &Process) -> String {
    match account_of(process) {
        Ok((Some(account), _)) => account.name,
        _ => "root".to_owned(),
    }
}

fn user_name() -> String {
    let user = rustix::process::geteuid().as_raw();
    crate::ownership::user_named(user).unwrap_or_else(|| user.to_string())
}
