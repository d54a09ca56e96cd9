//! `factory-reset`: the camera forgets its owner, but not what it has seen. Ratchet, keyset, reset id and trusted time stay,
//! so that no old document can bind it again (section 3.7).

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    path::Path,
};

use anyhow::{Context, bail};
use care_protocol::Erased;

use super::Exit;
use crate::{
    config::Config,
    engine::Record,
    store::{Restored, Store, StoreError},
};

pub(super) fn run(config: &Config, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state_dir = &config.device.state_dir;
    // The lock is held to the end: no agent starts on what is half reset.
    let (mut store, restored) = match Store::open(state_dir) {
        Err(StoreError::Locked { path }) => {
            bail!("the agent is running on {}; stop it first (systemctl stop kasa-care-agent), then repeat this command", path.display())
        }
        opened => opened?,
    };
    // Clips go first: should the power fail in between, the command is repeated and nothing of the owner is left behind.
    let erased = erase_clips(&state_dir.join("spool")).context("clips on flash could not all be erased; repeat this command")?;
    writeln!(out, "erased {} clips, {} bytes", erased.clips, erased.bytes)?;
    let record = match restored {
        Restored::Empty => {
            writeln!(out, "the device was never bound; there is nothing else to erase")?;
            return Ok(Exit::Done);
        }
        Restored::Record(bytes) => Record::read(&bytes).context(LOST)?,
        Restored::Unreadable => bail!(LOST),
    };
    let ratchet = record.ratchet;
    store.write_now(&record.factory_reset().to_bytes())?;
    writeln!(out, "erased the entitlement and what belongs to the account; the camera is unbound")?;
    writeln!(out, "kept ratchet {ratchet}, keyset, reset id and trusted time")?;
    Ok(Exit::Done)
}

/// Such a device is closed already; to call it never bound would let an old document in.
const LOST: &str = "the device's state cannot be read, so its ratchet cannot be kept: start the agent, which uploads nothing and sets \
                    its state anew from the cloud, then repeat this command";

/// Unlinks every clip in the spool and makes that durable, then whatever else is there. The journal goes last: what it says to
/// be gone must not come back because the power fails here.
fn erase_clips(spool: &Path) -> io::Result<Erased> {
    let entries = match fs::read_dir(spool) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Erased::default()),
        entries => entries?.collect::<io::Result<Vec<_>>>()?,
    };
    let (clips, others): (Vec<_>, Vec<_>) =
        entries.into_iter().map(|entry| entry.path()).partition(|path| path.extension().is_some_and(|ending| ending == "clip"));
    let mut erased = Erased::default();
    for clip in clips {
        erased.bytes += fs::metadata(&clip)?.len();
        erased.clips += 1;
        fs::remove_file(clip)?;
    }
    File::open(spool)?.sync_all()?;
    for other in others {
        fs::remove_file(other)?;
    }
    File::open(spool)?.sync_all()?;
    Ok(erased)
}
