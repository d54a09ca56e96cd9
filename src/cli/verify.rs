//! `verify`: judges one entitlement as the device would now, with its keys, its record and its trusted time, and prints for each
//! field what was expected and what came.

mod camera;
mod fields;

use std::{
    io::{self, Read, Write},
    path::Path,
};

use anyhow::{Context, bail};
use care_engine::Record;
use care_protocol::{Keyset, MAX_KEYSET_BYTES, MAX_TOKEN_BYTES, Reject};

use self::{
    camera::{Camera, Verdict},
    fields::Row,
};
use super::{Exit, Screen};
use crate::{
    config::Config,
    store::{Restored, Store},
    text_file,
};

pub(super) fn run(config: &Config, token: &Path, keyset: Option<&Path>, out: &mut dyn Write, screen: Screen) -> anyhow::Result<Exit> {
    let token_bytes = contents(token, MAX_TOKEN_BYTES)?;
    let record = record(&config.device.state_dir);
    let keyset = match keyset {
        Some(file) => contents(file, MAX_KEYSET_BYTES)?,
        None => keyset_on_record(&config.device.state_dir, &record)?,
    };
    let keyset = Keyset::verify(keyset.trim_ascii(), &config.trust.root_keys, &config.trust.issuer)
        .map_err(|reject| anyhow::anyhow!("the keyset is refused, {}: {reject}", reject.code()))?
        .keyset;
    let least = config.trust.min_keyset_version;
    if keyset.version < least {
        let reject = Reject::OldKeyset { got: keyset.version, least };
        bail!("the keyset is refused, {}: {reject}, trust.min_keyset_version", reject.code());
    }
    let camera = Camera::new(record.ok().flatten(), config);
    let (rows, verdict) = fields::judge(&token_bytes, &keyset, &camera, config);
    let mut text = Vec::new();
    print(&rows, &verdict, &camera, &mut text)?;
    out.write_all(screen.colour(&String::from_utf8_lossy(&text)).as_bytes())?;
    match verdict {
        Ok(_) => Ok(Exit::Done),
        Err((code, why)) => Err(anyhow::anyhow!("{} is refused, {code}: {why}", token.display())),
    }
}

/// Three columns, as wide as their contents; what is expected has a line of its own where it is long.
fn print(rows: &[Row], verdict: &Verdict, camera: &Camera, out: &mut dyn Write) -> io::Result<()> {
    let width = rows.iter().map(|row| row.expected.chars().count()).filter(|width| *width <= EXPECTED_MOST).max().unwrap_or(0);
    let mut line = |mark: &str, field: &str, expected: &str, got: &str| {
        let below = if expected.chars().count() > width { format!("\n{:<width$}", "", width = 8 + 14 + width + 2) } else { String::new() };
        writeln!(out, "{mark:<8}{field:<14}{expected:<width$}{below}  {got}")
    };
    line("", "field", "expected", "got")?;
    for Row { mark, field, expected, got } in rows {
        line(mark.word(), field, expected, got)?;
    }
    writeln!(out, "\nclocks  {}", camera.clocks())?;
    match verdict {
        Ok(outcome) => writeln!(out, "verdict {outcome}"),
        Err((code, why)) => writeln!(out, "verdict refused, {code}: {why}\n        kasa-care-agent explain {code} says what to do"),
    }
}

/// What is expected, in columns, has at most this many characters.
const EXPECTED_MOST: usize = 40;

/// The device's state, if it has one. Locks and changes nothing, since the agent may be running.
fn record(state_dir: &Path) -> anyhow::Result<Option<Record>> {
    match Store::peek(state_dir)? {
        Restored::Record(bytes) => {
            let record = Record::read(&bytes).context("the device's state cannot be understood; name a keyset with --keyset FILE")?;
            Ok(Some(record))
        }
        Restored::Empty => Ok(None),
        Restored::Unreadable => bail!("the device's state in {} cannot be read; name a keyset with --keyset FILE", state_dir.display()),
    }
}

/// The keyset that the agent has stored.
fn keyset_on_record(state_dir: &Path, record: &anyhow::Result<Option<Record>>) -> anyhow::Result<Vec<u8>> {
    let none = "it has no keyset yet; name one with --keyset FILE";
    match record {
        Ok(Some(record)) => {
            let keyset = record.keyset.clone();
            Ok(keyset.context(format!("the device's state in {} is read, but {none}", state_dir.display()))?.into_bytes())
        }
        Ok(None) => bail!("the device has no state in {}: {none}", state_dir.display()),
        Err(why) => bail!("{why:#}"),
    }
}

/// Reads a file up to a little over `limit`; verification then reports that it is too long.
fn contents(path: &Path, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = limit as u64 + 1024;
    let read = text_file::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    // Skip a byte order mark; anything else is part of the token.
    if let Some(what) = text_file::not_text(&bytes) {
        bail!("cannot read {}: {what}", path.display());
    }
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}
