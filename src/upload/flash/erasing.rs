//! Erases the whole spool, for a command that runs while no agent is running.

use std::{io, path::Path};

use care_engine::durable::filesystem::Filesystem;
use care_protocol::Erased;
use uuid::Uuid;

use super::files::{CLIP, JOURNAL, NEW_JOURNAL, PART};
use crate::store::filesystem::Directory;

/// Unlinks every clip in the spool's directory and makes that durable, then the agent's other files; all other files
/// are not the agent's and stay. The journal is removed last: clips that it records as erased must not reappear if the
/// power fails here.
///
/// # Errors
/// The system's error. Some files may then be left; the call can be repeated.
pub fn erase_spool(dir: &Path) -> io::Result<Erased> {
    if !dir.try_exists()? {
        return Ok(Erased::default());
    }
    let spool = Directory::open(dir)?;
    let names = spool.list()?;
    let ours = |name: &str, ending| name.strip_suffix(ending).is_some_and(|id| id.parse::<Uuid>().is_ok());
    let mut erased = Erased::default();
    for clip in names.iter().filter(|name| ours(name, CLIP)) {
        let bytes = dir.join(clip).symlink_metadata()?.len();
        spool.remove(clip)?;
        erased.clips += 1;
        erased.bytes += bytes;
    }
    spool.sync()?;
    for other in names.iter().filter(|name| ours(name, PART) || [JOURNAL, NEW_JOURNAL].contains(&name.as_str())) {
        spool.remove(other)?;
    }
    spool.sync()?;
    Ok(erased)
}
