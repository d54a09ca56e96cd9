//! Why the agent cannot record, in words, with advice, and as the reason for which frames are lost.

use std::io::{self, ErrorKind};

use crate::{conditions::Kind, media::recording::Loss, supervision::ServiceManager};

/// Why the agent cannot record.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CardFault {
    /// The directory is on a file system of the camera's own.
    #[error("no card is mounted: {dir} is on the same file system as {own}")]
    NoCard {
        /// Where recordings belong.
        dir: String,
        /// A directory of the camera on that file system.
        own: String,
    },
    /// With `dir = "auto"`: nothing is mounted at any of the usual places.
    #[error("no card is mounted at any of {places}")]
    NoneMounted {
        /// The mount points.
        places: String,
    },
    /// The device has gone; the mount is still there.
    #[error("the card was removed without being unmounted from {dir}")]
    Removed {
        /// Where it is mounted.
        dir: String,
    },
    /// `max_bytes` is not enough for one segment.
    #[error("[recording] max_bytes ({max_bytes}) is too small for one segment")]
    TooSmall {
        /// As configured.
        max_bytes: u64,
    },
    /// The system refused.
    #[error("{doing} {path}: {source}")]
    System {
        /// What was attempted.
        doing: &'static str,
        /// On what.
        path: String,
        /// What the system says.
        source: io::Error,
    },
    /// Another card, or the same one again, has been mounted since the segment began. No fault: a new segment begins.
    #[error("another card is mounted")]
    Exchanged,
}

impl CardFault {
    /// What to do about it.
    pub fn advice(&self) -> String {
        let kind = match self {
            Self::NoCard { .. } => {
                return "Mount the card; recording then starts by itself. If recordings may go to the camera's own storage, set [recording] allow_internal_storage = true.".into();
            }
            Self::NoneMounted { .. } => {
                return "Mount the card at one of them, or name its directory in [recording] dir; recording then starts by itself.".into();
            }
            Self::Removed { .. } => return "Unmount it (umount -l), and mount the next one.".into(),
            Self::TooSmall { .. } => return "Raise [recording] max_bytes.".into(),
            Self::Exchanged => return Kind::Recording.advice().into(),
            Self::System { source, .. } => source.kind(),
        };
        match kind {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                "Mount the card, or make the directory on it, writable for the user kasa-care-agent.".into()
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                "Delete other files from the card, or use a larger one: no recording is left on it to give way.".into()
            }
            ErrorKind::ReadOnlyFilesystem => {
                let unit = match ServiceManager::here() {
                    ServiceManager::Systemd => " The directory must also be within the unit's ReadWritePaths=.",
                    _ => "",
                };
                format!("The card is write-protected, or its file system is damaged: check it, or replace it.{unit}")
            }
            ErrorKind::PermissionDenied => {
                "Let the user kasa-care-agent write there: change the directory's owner, or mount a FAT card with uid=kasa-care-agent,gid=kasa-care-agent.".into()
            }
            _ => "Check the card, or replace it.".into(),
        }
    }

    /// Why the frames that come meanwhile are lost.
    pub fn loss(&self) -> Loss {
        match self {
            Self::Exchanged => Loss::NoCard,
            Self::TooSmall { .. } => Loss::Full,
            fault if fault.is_absence() => Loss::NoCard,
            Self::System { source, .. } if is_full(source) => Loss::Full,
            Self::System { source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem => Loss::ReadOnly,
            _ => Loss::Error,
        }
    }

    /// Whether there is just no card: checking again soon costs nothing.
    pub fn is_absence(&self) -> bool {
        match self {
            Self::NoCard { .. } | Self::NoneMounted { .. } | Self::Removed { .. } => true,
            Self::System { source, .. } => source.kind() == ErrorKind::NotFound,
            Self::TooSmall { .. } | Self::Exchanged => false,
        }
    }
}

/// Whether blocks, inodes, names or a quota have run out. FAT says the same of all of them, when a file is made as well as when it
/// is written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
