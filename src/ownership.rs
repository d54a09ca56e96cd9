//! Checks that only root and the agent's user can change the files that decide what this device trusts. Anyone who can
//! write the configuration, with its root keys, or a CA file could grant themselves any plan.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

/// The user that the packages create for the agent. Root runs `check-config` and must judge as the agent does.
const AGENT: &str = "kasa-care-agent";
const OTHERS_MAY_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// How others could change this file, and the remedy, if they could. `metadata` is that of the open file, so that the
/// file cannot be replaced between check and use.
pub fn fault(path: &Path, metadata: &Metadata) -> Option<(String, String)> {
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let path = path.display();
    if mode & OTHERS_MAY_WRITE != 0 {
        let right = format!("chmod {:o} {path}", mode & !OTHERS_MAY_WRITE & 0o777);
        return Some((format!("{path} has mode {mode:04o}, so others on this machine may change what this device trusts"), right));
    }
    if !is_ours(owner) {
        let wrong = format!("{path} belongs to {}, who may change what this device trusts", name_of(owner));
        return Some((wrong, format!("chown root {path}")));
    }
    None
}

/// How others could replace files in the directory of `path`, and the remedy, if they could. This is only a warning: a
/// file that they put there belongs to them and is refused.
pub fn directory_fault(path: &Path) -> Option<(String, String)> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let metadata = fs::metadata(dir).ok()?;
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    let dir = dir.display();
    if mode & OTHERS_MAY_WRITE != 0 && mode & STICKY == 0 {
        let wrong = format!("the directory {dir} has mode {mode:04o}, so others on this machine may replace files in it");
        return Some((wrong, format!("chmod {:o} {dir}", mode & !OTHERS_MAY_WRITE)));
    }
    if !is_ours(owner) {
        return Some((
            format!("the directory {dir} belongs to {}, who may replace files in it", name_of(owner)),
            format!("chown root {dir}"),
        ));
    }
    None
}

fn is_ours(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw() || user_named(user).as_deref() == Some(AGENT)
}

fn name_of(user: u32) -> String {
    user_named(user).map_or_else(|| format!("user {user}"), |name| format!("user {name}"))
}

/// The name of a user in `/etc/passwd`.
pub fn user_named(user: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let id = user.to_string();
    let named = |line: &str| {
        let mut fields = line.split(':');
        let (name, of) = (fields.next()?, fields.nth(1)?);
        (of == id).then(|| name.to_owned())
    };
    users.lines().find_map(named)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn a_file_that_others_may_change_is_named_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, "").unwrap();
        let judged = |mode| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            fault(&path, &fs::metadata(&path).unwrap())
        };
        for mode in [0o644, 0o640, 0o600, 0o444] {
            assert_eq!(judged(mode), None, "{mode:o}");
        }
        for (mode, remedy) in [(0o664, "chmod 644"), (0o646, "chmod 644"), (0o620, "chmod 600")] {
            assert!(judged(mode).is_some_and(|(_, right)| right.starts_with(remedy)), "{mode:o}");
        }
        assert_eq!(judged(0o644), None);
        if chown(&path, Some(65_534), None).is_ok() {
            let (wrong, right) = judged(0o644).unwrap();
            assert!(wrong.contains("belongs to") && right.starts_with("chown root"), "{wrong}; {right}");
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_named_unless_it_is_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let judged = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            directory_fault(&dir.path().join("ca.pem")).is_some()
        };
        assert!(!judged(0o755) && !judged(0o1777));
        assert!(judged(0o777) && judged(0o775));
    }
}
