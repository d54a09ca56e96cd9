//! `factory-reset`: erases everything that belongs to the owner (`docs/protocol.md#factory-reset`). Ratchet, keyset, reset id
//! and trusted time stay, so that no document of the erased binding can bind the camera again.

use std::io::Write;

use anyhow::{Context, bail};
use care_engine::Record;

use super::Exit;
use crate::{
    config::Config,
    store::{Restored, Store, StoreError},
    supervision::ServiceManager,
    timeline, upload,
};

pub(super) fn run(config: &Config, out: &mut dyn Write) -> anyhow::Result<Exit> {
    let state_dir = &config.device.state_dir;
    if !state_dir.try_exists().with_context(|| format!("looking for the state directory {}", state_dir.display()))? {
        // If root created the directory here, the agent could not write to it.
        writeln!(out, "the device was never bound; there is nothing to erase")?;
        return Ok(Exit::Done);
    }
    // Hold the lock to the end, so that no agent starts on a state that is only half reset.
    let (mut store, restored) = match Store::open(state_dir) {
        Err(StoreError::Locked { path }) => {
            bail!("the agent is running on {}; {}, then repeat this command", path.display(), ServiceManager::here().stop())
        }
        opened => opened?,
    };
    // Erase the record first: if the power fails after it, the camera is unbound and uploads nothing.
    match restored {
        Restored::Empty => writeln!(out, "the device was never bound")?,
        Restored::Record(bytes) => {
            let record = Record::read(&bytes).context(LOST)?;
            let ratchet = record.ratchet;
            store.write_now(&record.factory_reset().to_bytes())?;
            writeln!(out, "erased the entitlement and what belongs to the account; the camera is unbound")?;
            writeln!(out, "kept ratchet {ratchet}, keyset, reset id and trusted time; only a binding with a higher epoch is accepted")?;
        }
        Restored::Unreadable => bail!(LOST),
    }
    timeline::erase(state_dir).context("the timeline could not be erased; repeat this command")?;
    let erased = upload::erase_spool(&state_dir.join("spool")).context("clips on flash could not all be erased; repeat this command")?;
    writeln!(out, "erased {} clips, {} bytes", erased.clips, erased.bytes)?;
    Ok(Exit::Done)
}

/// A device whose state is unreadable uploads nothing already. Treating it as never bound would let it accept an old document.
const LOST: &str = "the device's state cannot be read, so its ratchet cannot be kept: start the agent, which uploads nothing and \
                    restores its state from the cloud, then repeat this command";
