//! The command line: parses it, runs the command with the configuration that it names, and maps the outcome to an exit code.
//! Each command is a module of its own; none of them parses arguments.

mod args;
mod check;
pub mod commands;
mod explain;
mod factory_reset;
mod fold;
mod motion;
mod screen;
mod status;
mod support;
#[cfg(test)]
mod tests;
mod verify;

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use tracing_subscriber::filter::Targets;

use crate::{
    agent,
    config::{Config, ConfigFault, Parsed},
    confinement,
    logging::{self, Destination},
    memory,
    store::StoreError,
    supervision,
};
use args::{Command, Request};
pub use explain::code_names;
pub use screen::Screen;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done: 0.
    Done = 0,
    /// The command line is wrong: 64, EX_USAGE of sysexits.h.
    Usage = 64,
    /// The command failed: 70, EX_SOFTWARE. The token was refused, the agent does not answer, or a step of `--connect` failed;
    /// the output says which.
    Internal = 70,
    /// The configuration or a file that it names is wrong: 78, EX_CONFIG.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs a command line, given without the program's name. Writes results to `out`, which is `screen`, and everything else
/// to `err`.
pub fn run(args: impl IntoIterator<Item = OsString>, out: &mut dyn Write, err: &mut dyn Write, screen: Screen) -> Exit {
    let outcome = match args::parse(args) {
        Ok(Request::Help(command)) => out
            .write_all(command.map_or_else(commands::overview, commands::Command::help).as_bytes())
            .map(|()| Exit::Done)
            .map_err(anyhow::Error::from),
        Ok(Request::Version) => writeln!(out, "kasa-care-agent {}", env!("CARGO_PKG_VERSION")).map(|()| Exit::Done).map_err(Into::into),
        Ok(Request::Run(command)) => execute(command, out, err, screen),
        Err(wrong) => {
            return exit_after(writeln!(err, "kasa-care-agent: {wrong}\nTry: kasa-care-agent --help"), Exit::Usage);
        }
    };
    match outcome {
        Ok(exit) => exit_after(out.flush(), exit),
        Err(error) if is_broken_pipe(&error) => Exit::Done,
        Err(error) if is_bad_state_directory(&error) || error.is::<motion::NoSocket>() => {
            exit_after(writeln!(err, "kasa-care-agent: {error:#}"), Exit::Config)
        }
        Err(error) => exit_after(writeln!(err, "kasa-care-agent: {error:#}"), Exit::Internal),
    }
}

fn execute(command: Command, out: &mut dyn Write, err: &mut dyn Write, screen: Screen) -> anyhow::Result<Exit> {
    match command {
        Command::Run { config } => {
            let log = LogSettings::from_env(err)?;
            match (Config::load_with_files(&config), log) {
                (Ok(loaded), Some(log)) => {
                    let elsewhere = log.start();
                    memory::return_large_blocks();
                    let confined = confinement::enter(&loaded, &config).context("cannot give up the rights that the agent does not need");
                    let confined = logged(confined, elsewhere)?;
                    // After any change of user, at which the kernel forgets it.
                    anyhow::ensure!(supervision::follow_supervisor(), "what supervised the agent has ended");
                    logged(agent::run(&config, loaded, confined).context("the agent stopped"), elsewhere)?;
                    Ok(Exit::Done)
                }
                (Ok(_), None) => Ok(Exit::Config),
                (Err(faults), log) => {
                    if log.is_some_and(LogSettings::start) {
                        faults.iter().for_each(|fault| tracing::error!("{fault}"));
                    }
                    refuse(&faults, err)
                }
            }
        }
        Command::CheckConfig { config, extent } => check::run(&config, extent, out, err),
        Command::Status { config, form } => {
            let parsed = Parsed::read(&config);
            match (&parsed.status, parsed.faults.is_empty()) {
                (None, false) => refuse(&parsed.faults, err),
                // What is wrong with the file may be what the status tells of: the agent keeps the configuration in force.
                (listen, false) => status::run(listen.as_ref(), form, out, err, screen).or_else(|_| refuse(&parsed.faults, err)),
                (listen, true) => status::run(listen.as_ref(), form, out, err, screen),
            }
        }
        Command::Verify { config, token, keyset } => {
            with(&config, err, |config, _| verify::run(config, &token, keyset.as_deref(), out, screen))
        }
        Command::Explain { code } => explain::run(code.as_deref(), out, err),
        Command::Support { config, output } => with(&config, err, |config, _| support::run(config, output.as_deref(), out)),
        Command::Supervise(options) => {
            let Some(log) = LogSettings::from_env(err)? else { return Ok(Exit::Config) };
            let elsewhere = log.start();
            Ok(match logged(supervision::run(&options), elsewhere)? {
                64 => Exit::Usage,
                78 => Exit::Config,
                _ => Exit::Done,
            })
        }
        Command::Motion { config, state, score } => with(&config, err, |config, _| motion::run(config, state, score)),
        Command::FactoryReset { config } => with(&config, err, |config, _| factory_reset::run(config, out)),
    }
}

/// How a service logs, by the environment.
struct LogSettings {
    filter: Targets,
    destination: Destination,
}

impl LogSettings {
    /// `None` if a variable is wrong, which has been said.
    fn from_env(err: &mut dyn Write) -> io::Result<Option<Self>> {
        let (filter, destination) = (logging::from_env(), Destination::from_env());
        if let Err(fault) = &filter {
            writeln!(err, "kasa-care-agent: {fault}")?;
        }
        if let Err(fault) = &destination {
            writeln!(err, "kasa-care-agent: {fault}")?;
        }
        Ok(filter.ok().zip(destination.ok()).map(|(filter, destination)| Self { filter, destination }))
    }

    /// Starts logging. True: elsewhere than to standard error, where whatever ends the process must be told too.
    fn start(self) -> bool {
        logging::start(self.filter, &self.destination);
        self.destination != Destination::Standard
    }
}

/// Logs why a service ended, where standard error is not the log.
fn logged<T>(outcome: anyhow::Result<T>, elsewhere: bool) -> anyhow::Result<T> {
    if let (Err(error), true) = (&outcome, elsewhere) {
        tracing::error!("{error:#}");
    }
    outcome
}

/// Runs a command that needs the configuration but not the files that it names.
fn with(path: &Path, err: &mut dyn Write, command: impl FnOnce(&Config, &mut dyn Write) -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    match Config::load(path) {
        Ok(config) => command(&config, err),
        Err(faults) => refuse(&faults, err),
    }
}

fn refuse(faults: &[ConfigFault], err: &mut dyn Write) -> anyhow::Result<Exit> {
    for fault in faults {
        writeln!(err, "{fault}")?;
    }
    Ok(Exit::Config)
}

/// `exit`, unless its output could not be written. A closed pipe is no failure.
fn exit_after(written: io::Result<()>, exit: Exit) -> Exit {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe && exit == Exit::Done => Exit::Internal,
        _ => exit,
    }
}

/// Whether the configuration names a state directory that cannot be used as one.
fn is_bad_state_directory(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(StoreError::Directory { .. }))
}

/// Whether the reader of our output has closed the pipe (`status | head`).
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
