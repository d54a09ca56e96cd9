//! care-cloud: reads the command line and runs the stand-in cloud, or talks to the one that runs.

use std::process::ExitCode;

use care_cloud::{
    args::{self, Command, USAGE},
    run,
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
        Command::Act { data, action } => talk(&data, Some(&action)).await,
        Command::State { data } => talk(&data, None).await,
    }
}

async fn talk(data: &std::path::Path, action: Option<&serde_json::Value>) -> ExitCode {
    let portal = match run::portal_of(data) {
        Ok(portal) => portal,
        Err(e) => return fail(WRONG_CONFIGURATION, &e),
    };
    let answer = match action {
        Some(action) => portal.post("/portal/act", action).await,
        None => portal.get("/portal/state").await,
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
