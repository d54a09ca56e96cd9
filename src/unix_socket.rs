//! Listens on a unix socket path. The socket has its mode before it appears, so that no process without permission can
//! ever connect. It replaces a socket that a killed agent left behind, but not one in use, nor another kind of file.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

/// Listens at `path` with this mode (connecting needs write permission). The listener is nonblocking.
///
/// # Errors
/// The path is in use, is not a socket, or cannot be created.
pub fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "another kind of file exists there"));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(ErrorKind::AddrInUse.into()),
        Ok(_) => fs::remove_file(path)?,
        Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Set the mode before the path appears; the umask may still remove bits, so set it again afterwards.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    socket.listen(4)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Device and inode of the file at `path`. A listener compares them to check that the path still leads to it.
pub fn identity(path: &Path) -> Option<(u64, u64)> {
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
        fs::remove_file(&path).unwrap();
        fs::write(&path, "a file").unwrap();
        assert_eq!(listen(&path, 0o600).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
}
