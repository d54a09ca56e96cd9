//! care-cloud: reads the command line and runs the stand-in cloud, or talks to the one that runs.

use std::{path::Path, process::ExitCode};

use care_cloud::{
    args::{self, Command, USAGE},
    run,
    storage::data_dir::{DataError, new_secret},
};

const WRONG_USAGE: u8 = 64;
const INTERNAL: u8 = 70;
const WRONG_CONFIGURATION: u8 = 78;

fn main() -> ExitCode {
    let command = match args::parse(std::env::args_os().skip(1)) {
        Ok(command) => command,
        Err(e) => return fail(WRONG_USAGE, &e),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(e) => return fail(INTERNAL, &e),
    };
    let code = runtime.block_on(carry_out(command));
    // A blocked file or DNS call must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}

async fn carry_out(command: Command) -> ExitCode {
    match command {
        Command::Help => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Command::Version => {
            println!("care-cloud {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Run(options) => {
            run::log_to_stderr();
            match run::Running::start(&options).await {
                Ok(running) => {
                    announce(&running);
                    run::until_told_to_stop().await;
                    tracing::info!("stopping");
                    drop(running);
                    ExitCode::SUCCESS
                }
                Err(e) => fail(if e.is_configuration() { WRONG_CONFIGURATION } else { INTERNAL }, &e),
            }
        }
        Command::CameraAdd { data, id, model, account, out } => match run::add_camera(&data, &id, &model, &account, &out) {
            Ok(()) => {
                println!("camera {id} is ready: kasa-care-agent run --config {}", out.join("config.toml").display());
                ExitCode::SUCCESS
            }
            Err(e) => fail(if e.is_configuration() { WRONG_CONFIGURATION } else { INTERNAL }, &e),
        },
        Command::AccountAdd { data, account, login, password_file } => match add_account(&data, &account, &login, password_file.as_deref())
        {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(if e.is_configuration() { WRONG_CONFIGURATION } else { INTERNAL }, &e),
        },
        Command::Act { data, action } => talk(&data, "/portal/act", Some(&action)).await,
        Command::Experiment { data, experiment } => talk(&data, "/portal/experiment", Some(&experiment)).await,
        Command::State { data } => talk(&data, "/portal/state", None).await,
    }
}

fn add_account(data: &Path, account: &str, login: &str, password_file: Option<&Path>) -> Result<(), run::SetupError> {
    let password = match password_file {
        Some(path) => {
            let refused = |source| DataError::Io { doing: "reading the password from", path: path.to_owned(), source };
            std::fs::read_to_string(path).map_err(refused)?.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => new_secret()[..16].to_owned(),
    };
    run::add_account(data, account, login, &password)?;
    match password_file {
        Some(_) => println!("account {account} signs in as {login}"),
        None => println!("account {account} signs in as {login} with {password}"),
    }
    Ok(())
}

async fn talk(data: &Path, path: &str, body: Option<&serde_json::Value>) -> ExitCode {
    let portal = match run::portal_of(data) {
        Ok(portal) => portal,
        Err(e) => return fail(WRONG_CONFIGURATION, &e),
    };
    let answer = match body {
        Some(body) => portal.post(path, body).await,
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
}

fn fail(code: u8, e: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("care-cloud: {e}");
    ExitCode::from(code)
}
