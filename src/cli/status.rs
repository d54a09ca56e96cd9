//! `status`: shows the status of the running agent, with its conditions at the top. With `--json` it prints the agent's
//! document unchanged. It exits with 0 whenever the agent answers, even if something is wrong; scripts should read
//! `conditions` in the document.

use std::io::Write;

use anyhow::{Context, bail};

use super::Exit;
use crate::{
    conditions::Condition,
    config::Config,
    status::{StatusDocument, ask},
};

pub(super) fn run(config: &Config, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(listen) = &config.status else {
        bail!("the configuration has no [status]: give it listen = \"127.0.0.1:9180\" and start the agent again");
    };
    let document = ask(listen, "/status.json")?;
    if json {
        out.write_all(&document)?;
        return Ok(Exit::Done);
    }
    let document: StatusDocument =
        serde_json::from_slice(&document).context("the agent is of another version than this command; use status --json")?;
    for condition in &document.conditions {
        let Condition { name, since, severity, sentence, advice } = condition;
        writeln!(out, "{:<12} {name} since {since}: {sentence}\n{:<12} {advice}", severity.to_string(), "")?;
    }
    for (name, value) in document.rows() {
        writeln!(out, "{name:<12} {value}")?;
    }
    Ok(Exit::Done)
}
