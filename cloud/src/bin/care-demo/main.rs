//! The demo: the real care-cloud and the real agent, in a temporary directory. You cancel in the browser and see the
//! upload stop. With `ONCE=1` the demo plays its story without you: each step has a deadline, and the last line is one
//! JSON object of figures. It exits with 0 only if every step held.
//!
//! `bytes_after` is counted by the store: body bytes that it read, after the camera's report of the cancel had
//! arrived, from uploads that the cancel revoked. The agent's own figure is not used.

mod camera;
mod play;
mod scene;
mod story;

use std::process::ExitCode;

use clap::Parser;
use play::{Pace, Play};
use serde_json::{Value, json};

/// The demo: care-cloud and kasa-care-agent, with a portal to cancel a plan in.
///
/// With ONCE=1 in the environment the story plays once without a person and ends with one line of JSON.
#[derive(Debug, Parser)]
#[command(name = "care-demo", version, after_help = "Exit codes: 0 done, 1 a step failed, 64 wrong usage, 70 internal error.")]
struct Arguments {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if let Err(e) = Arguments::try_parse() {
        // If printing fails, the exit code still reports the error.
        drop(e.print());
        return if e.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
    }
    let once = std::env::var_os("ONCE").is_some_and(|value| !value.is_empty() && value != "0");
    let ended = if once { play_once().await } else { wait_for_a_person().await };
    match ended {
        Ok(code) => code,
        Err(e) => {
            eprintln!("care-demo: {e:#}");
            ExitCode::from(70)
        }
    }
}

async fn play_once() -> anyhow::Result<ExitCode> {
    let play = Play::start(Pace::Story).await?;
    println!("portal {}\ncamera {}", play.portal, play.status);
    let mut story = story::Story::new(&play);
    let told = story.tell().await;
    if let Err(e) = &told {
        println!("the story stopped: {e:#}");
        println!("{}", play.logs());
    }
    let line = story.figures().await;
    play.stop();
    println!("{line}");
    Ok(if told.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn wait_for_a_person() -> anyhow::Result<ExitCode> {
    let play = Play::start(Pace::Person).await?;
    play.act(json!({ "action": "subscribe", "camera": play::CAMERA, "plan": "premium" })).await?;
    println!(
        "\n  A Premium camera records and uploads clips.\n\n  Portal         {}\n  Sign in as     {}, password {}\n  Camera's page  {}\n\n  Choose Cancel Subscription, then REMOVE, \
         while a clip is on its way.\n  Ctrl-C ends it.\n",
        play.portal, play.sign_in.login, play.sign_in.password, play.status
    );
    let mut shown = Value::Null;
    let stop = care_cloud::run::until_told_to_stop();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
        }
        let state = play.state().await?;
        let report = &state["cameras"][0]["report"];
        if !report.is_null() && *report != shown {
            println!("  {}", describe(report));
            shown = report.clone();
        }
    }
    play.stop();
    Ok(ExitCode::SUCCESS)
}

fn describe(report: &Value) -> String {
    format!(
        "{} {}: plan {}, mode {}; {} transfers cut in {} µs, {} clips erased",
        report["outcome"].as_str().unwrap_or("?"),
        report["reason"].as_str().unwrap_or("?"),
        report["plan"].as_str().unwrap_or("none"),
        report["mode"].as_str().unwrap_or("?"),
        report["cut"]["transfers"],
        report["cut"]["micros"],
        report["erased"]["clips"],
    )
}
