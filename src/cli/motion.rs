//! `motion`: tells the running agent of motion, for a streamer's motion script. It sends one line to the agent's motion socket and
//! waits, briefly, until the agent has read it: a script that fails silently would lose every clip.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::anyhow;
use care_protocol::{MotionEvent, MotionState};
use socket2::{Domain, SockAddr, Socket, Type};

use super::Exit;
use crate::{
    config::{Config, Motion},
    supervision::ServiceManager,
};

/// The longest wait for each step: a streamer may wait for its script.
const PATIENCE: Duration = Duration::from_secs(2);

/// The configuration has no motion socket, so no agent can be told.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoSocket(String);

pub(super) fn run(config: &Config, state: Option<MotionState>, score: f64) -> anyhow::Result<Exit> {
    let path = socket(config)?;
    let mut line = serde_json::to_vec(&MotionEvent { event: "motion".into(), score, state })?;
    line.push(b'\n');
    match tell(path, &line) {
        Ok(()) => Ok(Exit::Done),
        Err(error) => Err(explained(path, &error)),
    }
}

fn socket(config: &Config) -> Result<&Path, NoSocket> {
    let right = "write motion = \"socket:/run/kasa-care-agent/motion.sock\" and start the agent again";
    let motion = match &config.media {
        Some(media) => &media.motion,
        None => return Err(NoSocket("the configuration has no [media], so the agent films nothing".into())),
    };
    match motion {
        Motion::Socket(path) => Ok(path),
        Motion::BuiltIn => Err(NoSocket(format!("[media] motion is built-in, so the agent asks nobody for motion: {right}"))),
        Motion::Bitstream => Err(NoSocket(format!("[media] motion is bitstream, so the agent asks nobody for motion: {right}"))),
        Motion::Onvif => Err(NoSocket(format!("[media] motion is onvif, so the agent asks the camera itself for motion: {right}"))),
        Motion::Every(_) => Err(NoSocket(format!("[media] motion is a timer, so the agent asks nobody for motion: {right}"))),
    }
}

/// Sends the line. The agent closes the connection once it has read the line, and resets it if it has no room.
fn tell(path: &Path, line: &[u8]) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Bounds the wait in connect as well, where connections queue.
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&SockAddr::unix(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(line)?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::new(ErrorKind::InvalidData, "what listens there is not the agent")),
    }
}

fn explained(path: &Path, error: &io::Error) -> anyhow::Error {
    let at = path.display();
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            anyhow!("no agent listens for motion at {at}; is it running? ({})", ServiceManager::here().see())
        }
        ErrorKind::PermissionDenied => anyhow!("{at} may be written to by root and the agent's group only: run this as one of them"),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            anyhow!("the agent did not take the event: too many programs are connected to {at}")
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            anyhow!(
                "the agent did not take the event within {} s at {at}; does it hang? ({})",
                PATIENCE.as_secs(),
                ServiceManager::here().see()
            )
        }
        _ => anyhow!("the agent could not be told at {at}: {error}"),
    }
}
