//! care-cloud: reads the command line, then runs the stand-in cloud or talks to the one that runs.

use std::{path::Path, process::ExitCode};

use care_cloud::{
    command_line::{AccountCommand, Arguments, CameraCommand, Command, Options},
    domain::actions::Action,
    lab::experiments::Experiment,
    run,
    storage::data_dir::{DataError, new_secret},
};
use clap::Parser as _;
use serde::Serialize;

const WRONG_USAGE: u8 = 64;
const INTERNAL: u8 = 70;
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            // If printing fails, the exit code still reports the error.
            drop(e.print());
            return if e.use_stderr() { ExitCode::from(WRONG_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(INTERNAL, &e),
    };
    let code = runtime.block_on(carry_out(arguments));
    // A blocked file or DNS call must not delay the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn carry_out(Arguments { options, command }: Arguments) -> ExitCode {
    let data = &options.data;
    let done = match command {
        None => run_until_stopped(&options).await,
        Some(Command::Camera(CameraCommand::Add { id, model, account, out })) => run::add_camera(&options, &id, &model, &account, &out)
            .map(|()| {
                println!("camera {id} is ready: kasa-care-agent run --config {}", out.join("config.toml").display());
            }),
        Some(Command::Account(AccountCommand::Add { account, login, password_file })) => {
            add_account(&options, &account, &login, password_file.as_deref())
        }
        Some(Command::Plan(command)) => return talk(data, "/portal/act", Some(Action::from(command))).await,
        Some(Command::Experiment(command)) => return talk(data, "/portal/experiment", Some(Experiment::from(command))).await,
        Some(Command::State) => return talk(data, "/portal/state", None::<()>).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(if e.is_configuration() { WRONG_CONFIGURATION } else { INTERNAL }, &e),
    }
}

async fn run_until_stopped(options: &Options) -> Result<(), run::SetupError> {
    run::log_to_stderr();
    // Each camera is a connection of the embedded broker.
    if let Err(e) = care_cloud::child::raise_open_files() {
        tracing::warn!("raising the limit of open files: {e}");
    }
    let running = run::Running::start(options).await?;
    announce(&running);
    run::until_told_to_stop().await;
    tracing::info!("stopping");
    Ok(())
}

fn add_account(options: &Options, account: &str, login: &str, password_file: Option<&Path>) -> Result<(), run::SetupError> {
    let password = match password_file {
        Some(path) => {
            let refused = |source| DataError::Io { doing: "reading the password from", path: path.to_owned(), source };
            std::fs::read_to_string(path).map_err(refused)?.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => new_secret()[..16].to_owned(),
    };
    run::add_account(&options.data, options.database.as_ref(), account, login, &password)?;
    match password_file {
        Some(_) => println!("account {account} signs in as {login}"),
        None => println!("account {account} signs in as {login} with {password}"),
    }
    Ok(())
}

/// Sends `body` to the portal of the care-cloud that runs on this directory, or reads from it, and prints the answer.
async fn talk(data: &Path, path: &str, body: Option<impl Serialize>) -> ExitCode {
    let portal = match run::portal_of(data) {
        Ok(portal) => portal,
        Err(e) => return fail(WRONG_CONFIGURATION, &e),
    };
    let answer = match body {
        Some(body) => portal.post(path, &body).await,
        None => portal.get(path).await,
    };
    match answer {
        Ok(answer) => {
            println!("{answer:#}");
            ExitCode::SUCCESS
        }
        Err(e) => fail(INTERNAL, &e),
    }
}

fn announce(running: &run::Running) {
    let endpoints = &running.cloud().endpoints;
    println!("portal  {}\napi     {}\nbroker  {}", endpoints.portal, endpoints.api, endpoints.broker);
    endpoints.metrics.iter().for_each(|url| println!("metrics {url}"));
}

fn fail(code: u8, e: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("care-cloud: {e}");
    ExitCode::from(code)
}
