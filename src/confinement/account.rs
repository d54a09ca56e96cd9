//! The user that the agent becomes: its entry in `/etc/passwd` and its groups in `/etc/group`. Read as text, because a
//! static program has no name service, and so that every build finds the same user.

use std::{fs, io, path::Path};

use rustix::fs::{Gid, Uid};

/// A user of this camera.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: Uid,
    /// Its first group.
    pub gid: Gid,
    /// Every group that lists it, and the first.
    pub groups: Vec<Gid>,
}

impl Account {
    /// The user of this name, if there is one.
    ///
    /// # Errors
    /// `/etc/passwd` exists and cannot be read.
    pub fn named(name: &str) -> io::Result<Option<Self>> {
        let read = |path: &str| match fs::read(Path::new(path)) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        };
        Ok(find(name, &read("/etc/passwd")?, &read("/etc/group").unwrap_or_default()))
    }

    /// Whether this is root under any name.
    pub fn is_root(&self) -> bool {
        self.uid.is_root()
    }
}

/// passwd(5): `name:password:uid:gid:…`; group(5): `name:password:gid:member,member`.
fn find(name: &str, passwd: &str, group: &str) -> Option<Account> {
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields.first() == Some(&name))?;
    let number = |at: usize| entry.get(at)?.trim().parse::<u32>().ok().filter(|number| *number != u32::MAX);
    let (uid, gid) = (Uid::from_raw(number(2)?), Gid::from_raw(number(3)?));
    let lists_it = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let member = fields.get(3)?.split(',').any(|member| member.trim() == name);
        fields.get(2)?.trim().parse::<u32>().ok().filter(|number| member && *number != u32::MAX).map(Gid::from_raw)
    };
    let mut groups: Vec<Gid> = std::iter::once(gid).chain(group.lines().filter_map(lists_it)).collect();
    groups.dedup();
    Some(Account { name: name.to_owned(), uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken:x\nkasa-care-agent:x:990:991:Kasa Care:/:/bin/false\nodd:x:-1:7::/:\n";
    const GROUP: &str =
        "root:x:0:\nvideo:x:44:other,kasa-care-agent\nkasa-care-agent:x:991:\ndisk:x:6:kasa-care-agent2\nbad:x:y:kasa-care-agent\n";

    #[test]
    fn a_user_has_its_number_and_the_groups_that_list_it() {
        let found = find("kasa-care-agent", PASSWD, GROUP).unwrap();
        assert_eq!((found.uid.as_raw(), found.gid.as_raw()), (990, 991));
        assert_eq!(found.groups.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>(), [991, 44]);
        assert!(!found.is_root() && find("root", PASSWD, "").unwrap().is_root());
    }

    #[test]
    fn what_is_no_user_is_not_found() {
        for name in ["kasa", "broken", "odd", "", "x"] {
            assert_eq!(find(name, PASSWD, GROUP), None, "{name:?}");
        }
        assert_eq!(find("kasa-care-agent", "", ""), None);
    }
}
