//! The commands that break something on purpose, as the engineers' page does.

use care_protocol::DeviceId;
use clap::{ArgAction, Subcommand};

use super::Camera;
use crate::lab::experiments::Experiment;

/// The experiments of the engineers' page.
#[derive(Debug, Subcommand)]
pub enum ExperimentCommand {
    /// Publish a camera's newest document once more
    SendDuplicate(Camera),
    /// Publish an older document
    Replay(Camera),
    /// Publish a document signed with a revoked key
    OldKey(Camera),
    /// Publish a document signed with a key that no keyset names
    UnknownKey(Camera),
    /// Issue a document whose lease has ended
    ExpiredLease(Camera),
    /// Issue the document again, with a whole lease
    Reissue(Camera),
    /// Rotate the signing key and issue every document again
    RotateKey,
    /// Publish a root-signed reset of a camera's ratchet
    Reset(Camera),
    /// Answer requests for a grant with 402
    RefuseGrants {
        /// The camera [default: all]
        #[arg(long, alias = "id", value_name = "ID")]
        camera: Option<DeviceId>,
        /// For how long; 0 ends it
        #[arg(long)]
        seconds: u64,
    },
    /// Stop or start the embedded broker
    Broker {
        /// Whether it runs
        #[arg(long, action = ArgAction::Set)]
        run: bool,
    },
    /// Connect simulated cameras
    Simulate {
        /// Their account [default: a new one]
        #[arg(long)]
        account: Option<String>,
        /// How many [default: 10]
        #[arg(long, value_name = "N")]
        cameras: Option<usize>,
    },
    /// Disconnect the simulated cameras
    StopSimulated,
    /// Fill a camera's history with sample clips
    AddHistory {
        /// The camera.
        #[command(flatten)]
        camera: Camera,
        /// How many
        #[arg(long, value_name = "N")]
        clips: u32,
    },
}

impl From<ExperimentCommand> for Experiment {
    fn from(command: ExperimentCommand) -> Self {
        match command {
            ExperimentCommand::SendDuplicate(Camera { camera }) => Self::SendDuplicate { camera },
            ExperimentCommand::Replay(Camera { camera }) => Self::Replay { camera },
            ExperimentCommand::OldKey(Camera { camera }) => Self::OldKey { camera },
            ExperimentCommand::UnknownKey(Camera { camera }) => Self::UnknownKey { camera },
            ExperimentCommand::ExpiredLease(Camera { camera }) => Self::ExpiredLease { camera },
            ExperimentCommand::Reissue(Camera { camera }) => Self::Reissue { camera },
            ExperimentCommand::RotateKey => Self::RotateKey,
            ExperimentCommand::Reset(Camera { camera }) => Self::Reset { camera },
            ExperimentCommand::RefuseGrants { camera, seconds } => Self::RefuseGrants { camera, seconds },
            ExperimentCommand::Broker { run } => Self::Broker { run },
            ExperimentCommand::Simulate { account, cameras } => Self::Simulate { account, cameras },
            ExperimentCommand::StopSimulated => Self::StopSimulated,
            ExperimentCommand::AddHistory { camera: Camera { camera }, clips } => Self::AddHistory { camera, clips },
        }
    }
}
