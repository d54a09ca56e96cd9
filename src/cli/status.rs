//! `status`: prints what the running agent says of itself, in words or, with `--json`, its document unchanged. It exits with 0
//! whenever the agent answers, even if something is wrong; scripts should read `conditions` in the document.

use std::io::Write;

use anyhow::bail;

use super::Exit;
use crate::{config::Config, status::ask};

pub(super) fn run(config: &Config, json: bool, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(listen) = &config.status else {
        bail!("the configuration has no [status]: give it listen = \"127.0.0.1:9180\" and start the agent again");
    };
    out.write_all(&ask(listen, if json { "/status.json" } else { "/status.txt" })?)?;
    Ok(Exit::Done)
}
