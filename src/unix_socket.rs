//! Listens on a unix socket path. The socket has its mode before it appears, so that no process without permission can
//! ever connect. It replaces a socket that a killed agent left behind, but not one in use, nor another kind of file.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

/// The path of a listening socket. Dropping it removes the path if it still leads to that socket.
#[derive(Debug)]
pub struct SocketPath {
    path: PathBuf,
    /// Device and inode. `None`: the path was gone before they were read.
    identity: Option<(u64, u64)>,
}

impl SocketPath {
    /// Whether clients still find the socket: a path can be removed, or replaced by another program's.
    pub fn is_ours(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.is_ours() {
            // It may be removed already.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path` with this mode (connecting needs write permission). The listener is nonblocking.
///
/// # Errors
/// The path is in use, is not a socket, or cannot be created.
pub fn listen(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketPath)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "another kind of file exists there"));
        }
        Ok(_) => match connect(path) {
            Err(why) if why.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            // A listener that accepts nothing has no room for another.
            Err(why) if why.kind() != ErrorKind::WouldBlock => return Err(why),
            _ => return Err(ErrorKind::AddrInUse.into()),
        },
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Set the mode before the path appears; the umask may still remove bits, so set it again afterwards.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(4)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), SocketPath { path: path.to_owned(), identity: identity(path) }))
}

/// What to do about an error of [`listen`], if it is the path's and stays.
pub fn path_advice(error: ErrorKind) -> Option<&'static str> {
    match error {
        // The kernel's bound on the whole path, which socket2 checks first, or a file system's on a name in it.
        ErrorKind::InvalidInput | ErrorKind::InvalidFilename => Some("Choose a shorter path: that of a socket has 107 bytes at most."),
        ErrorKind::NotADirectory => Some("Choose another path: a part of it that must be a directory is none."),
        _ => None,
    }
}

/// Connects, and never waits.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_but_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        let in_use = listen(&path, 0o660).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(listen(&path, 0o660).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(in_use);
        assert!(!path.exists());
        fs::write(&path, "a file").unwrap();
        assert_eq!(listen(&path, 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_noticed_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let (_listener, name) = listen(&path, 0o660).unwrap();
        assert!(name.is_ours());
        fs::remove_file(&path).unwrap();
        assert!(!name.is_ours());
        let _other = UnixListener::bind(&path).unwrap();
        assert!(!name.is_ours());
        drop(name);
        assert!(path.exists());
    }

    #[test]
    fn a_program_that_listens_and_accepts_nothing_is_neither_waited_for_nor_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let deaf = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        deaf.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        deaf.listen(0).unwrap();
        for _ in 0..3 {
            assert_eq!(listen(&path, 0o660).unwrap_err().kind(), ErrorKind::AddrInUse);
        }
        drop(deaf);
        drop(listen(&path, 0o660).unwrap());
        let datagrams = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert!(listen(&path, 0o660).is_err(), "a socket of another kind");
        assert!(path.exists());
        drop(datagrams);
    }
}
