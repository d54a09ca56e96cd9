//! `check-config`: every fault of the configuration and of the files it names; with `--connect` also whether the cloud can
//! be reached with it.

use std::{io::Write, path::Path};

use super::{Exit, refuse};
use crate::config::Config;

pub(super) fn run(path: &Path, connect: bool, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<Exit> {
    let _config = match Config::check(path) {
        Ok(config) => config,
        Err(faults) => return refuse(&faults, err),
    };
    writeln!(out, "{}: ok", path.display())?;
    if connect {
        anyhow::bail!("--connect is not wired");
    }
    Ok(Exit::Done)
}
