//! `status`: what the running agent says of itself, for people, with what is wrong at the top; with `--json` its own document,
//! byte for byte. It ends with 0 whenever the agent answers, whatever is wrong: a script looks at `conditions` in the document.

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
