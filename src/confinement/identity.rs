//! Gives up root: another user, no capability, no new privileges, no core dumps. The system calls change the calling thread
//! only, so they run before any other thread starts; threads inherit the result.

use std::{io, thread};

use rustix::{
    process::{Resource, Rlimit, geteuid, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set, no_new_privs,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};

use super::account::Account;

/// The most capabilities that the kernel's sets can hold.
const MOST_CAPABILITIES: u32 = 64;
const NONE: CapabilitySets =
    CapabilitySets { effective: CapabilitySet::empty(), permitted: CapabilitySet::empty(), inheritable: CapabilitySet::empty() };

/// Becomes `account` for good, or stays the user it is without one. Either way every capability goes.
///
/// # Errors
/// Which step the system refused. The process may then be half confined and must not go on.
pub(super) fn give_up(account: Option<&Account>) -> Result<(), (&'static str, io::Error)> {
    let at = |step: &'static str| move |error: rustix::io::Errno| (step, io::Error::from(error));
    drop_bounding_set();
    if let Some(account) = account {
        set_thread_groups(&account.groups).map_err(at("setting the groups"))?;
        set_thread_res_gid(account.gid, account.gid, account.gid).map_err(at("changing the group"))?;
        set_thread_res_uid(account.uid, account.uid, account.uid).map_err(at("changing the user"))?;
    }
    // Linux before 4.3 has no ambient set.
    let _ = clear_ambient_capability_set();
    set_capabilities(None, NONE).map_err(at("dropping the capabilities"))?;
    set_no_new_privs(true).map_err(at("setting no_new_privs"))?;
    // A core dump would contain keys and tokens.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(at("forbidding core dumps"))
}

/// Only root may: for others the set bounds nothing that they have.
fn drop_bounding_set() {
    for bit in 0..MOST_CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        // The kernel refuses numbers that it does not know.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
}

/// Whether some starter has confined the process already, as the systemd unit does: not root, and no way back.
pub(super) fn is_confined_already() -> bool {
    !geteuid().is_root() && no_new_privs().unwrap_or(false)
}

/// What the calling thread has left.
pub(super) struct Left {
    pub capabilities: bool,
    pub no_new_privs: bool,
}

pub(super) fn left() -> Left {
    Left {
        capabilities: capabilities(None).is_ok_and(|sets| !sets.permitted.is_empty() || !sets.effective.is_empty()),
        no_new_privs: no_new_privs().unwrap_or(false),
    }
}

/// Runs `check` with the rights that the agent will have as `account` (`None`: root without capabilities): on a thread of its
/// own, which the change ends with. Only root can do that; the error is the system's.
pub(super) fn with_rights_of<T: Send>(account: Option<&Account>, check: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let checking = scope.spawn(|| -> io::Result<T> {
            if let Some(account) = account {
                set_thread_groups(&account.groups)?;
                set_thread_res_gid(account.gid, account.gid, account.gid)?;
                set_thread_res_uid(account.uid, account.uid, account.uid)?;
            }
            set_capabilities(None, NONE)?;
            Ok(check())
        });
        checking.join().unwrap_or_else(|_| Err(io::Error::other("the check panicked")))
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use rustix::fs::{Gid, Uid};

    use super::*;

    fn nobody() -> Account {
        Account { name: "nobody".into(), uid: Uid::from_raw(65_534), gid: Gid::from_raw(65_534), groups: vec![Gid::from_raw(65_534)] }
    }

    #[test]
    fn a_check_has_the_rights_of_the_account_and_the_caller_keeps_its_own() {
        if !geteuid().is_root() {
            return eprintln!("skipped: only root can change its user");
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let key = dir.path().join("device.key");
        fs::write(&key, "secret").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let read = || fs::read(&key).map_err(|error| error.kind());
        assert_eq!(with_rights_of(Some(&nobody()), read).unwrap(), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(with_rights_of(None, read).unwrap(), Ok(b"secret".to_vec()), "root's own file");
        assert_eq!(read(), Ok(b"secret".to_vec()));
        // Root without capabilities has no more rights over another's file than anybody.
        std::os::unix::fs::chown(&key, Some(65_534), None).unwrap();
        assert_eq!(with_rights_of(None, read).unwrap(), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(with_rights_of(Some(&nobody()), read).unwrap(), Ok(b"secret".to_vec()));
    }

    #[test]
    fn what_is_given_up_is_gone_on_that_thread() {
        let after = thread::spawn(|| {
            let account = geteuid().is_root().then(nobody);
            give_up(account.as_ref()).map_err(|(step, error)| format!("{step}: {error}")).unwrap();
            let left = left();
            let back = set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_err();
            assert_eq!(rustix::process::getrlimit(Resource::Core).maximum, Some(0), "no core dump with keys in it");
            (geteuid().as_raw(), left.capabilities, left.no_new_privs, is_confined_already(), back)
        });
        let (uid, capabilities, no_new_privs, confined, cannot_go_back) = after.join().unwrap();
        assert_ne!(uid, 0);
        assert!(!capabilities && no_new_privs && confined && cannot_go_back);
    }
}
