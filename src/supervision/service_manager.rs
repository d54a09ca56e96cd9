//! What starts and stops the agent on this machine, so that advice names commands that exist here: `systemctl` where systemd
//! runs, the init script where that is installed. Detected from files and environment; nothing is run.

use std::{
    env,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::SUPERVISOR;

/// Where systemd runs, this directory exists (sd_booted(3)).
const SYSTEMD: &str = "run/systemd/system";
/// Where the init script may be installed.
const SCRIPTS: [&str; 2] = ["etc/init.d/S95kasa-care-agent", "etc/init.d/kasa-care-agent"];

/// What runs the agent here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceManager {
    /// systemd, by the unit `kasa-care-agent`.
    Systemd,
    /// An init script, which runs `kasa-care-agent supervise`.
    InitScript(PathBuf),
    /// `kasa-care-agent supervise`, started by something else.
    Supervise,
    /// Unknown: something of the firmware's own.
    Unknown,
}

static HERE: LazyLock<ServiceManager> = LazyLock::new(|| ServiceManager::detect(Path::new("/"), env::var_os(SUPERVISOR).is_some()));

impl ServiceManager {
    /// What runs the agent on this machine, detected once.
    pub fn here() -> &'static Self {
        &HERE
    }

    fn detect(root: &Path, supervised: bool) -> Self {
        if !supervised && root.join(SYSTEMD).is_dir() {
            return Self::Systemd;
        }
        match SCRIPTS.iter().find(|script| root.join(script).is_file()) {
            Some(script) => Self::InitScript(Path::new("/").join(script)),
            None if supervised => Self::Supervise,
            None => Self::Unknown,
        }
    }

    /// How to stop the agent: a clause for a sentence.
    pub fn stop(&self) -> String {
        match self {
            Self::Systemd => "stop it first (systemctl stop kasa-care-agent)".into(),
            Self::InitScript(script) => format!("stop it first ({} stop)", script.display()),
            Self::Supervise => "stop it first (send SIGTERM to kasa-care-agent supervise)".into(),
            Self::Unknown => "stop it first (send SIGTERM to whatever supervises it)".into(),
        }
    }

    /// How to see whether the agent runs: a command, or where to look.
    pub fn see(&self) -> String {
        match self {
            Self::Systemd => "systemctl status kasa-care-agent".into(),
            Self::InitScript(script) => format!("{} status", script.display()),
            Self::Supervise | Self::Unknown => "look for kasa-care-agent among the processes, and in the log".into(),
        }
    }

    /// What else lets the agent write to a directory, after its own permissions: a clause for a sentence, or nothing.
    pub fn writable(&self) -> &'static str {
        match self {
            Self::Systemd => ", and in the unit's ReadWritePaths=",
            Self::InitScript(_) | Self::Supervise | Self::Unknown => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_machine_is_told_by_what_it_has() {
        let root = tempfile::tempdir().unwrap();
        let detect = |supervised| ServiceManager::detect(root.path(), supervised);
        assert_eq!(detect(false), ServiceManager::Unknown);
        assert_eq!(detect(true), ServiceManager::Supervise);
        fs::create_dir_all(root.path().join("etc/init.d")).unwrap();
        fs::write(root.path().join(SCRIPTS[0]), "").unwrap();
        let script = ServiceManager::InitScript("/etc/init.d/S95kasa-care-agent".into());
        assert_eq!((detect(false), detect(true)), (script.clone(), script.clone()));
        fs::create_dir_all(root.path().join(SYSTEMD)).unwrap();
        assert_eq!(detect(false), ServiceManager::Systemd);
        assert_eq!(detect(true), script, "what supervises it decides");
    }

    /// Every other text takes its advice from here.
    #[test]
    fn no_other_source_recommends_systemds_commands() {
        fn look(dir: &Path, found: &mut Vec<String>) {
            for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    look(&path, found);
                } else if !path.ends_with("supervision/service_manager.rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                    found.extend(
                        code.filter(|line| line.contains("systemctl") || line.contains("journalctl"))
                            .map(|line| format!("{}: {line}", path.display())),
                    );
                }
            }
        }
        let mut found = Vec::new();
        look(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn only_systemd_is_advised_with_its_own_commands() {
        for manager in
            [ServiceManager::InitScript("/etc/init.d/S95kasa-care-agent".into()), ServiceManager::Supervise, ServiceManager::Unknown]
        {
            let said = [manager.stop(), manager.see(), manager.writable().into()].concat();
            assert!(!said.contains("systemctl") && !said.contains("journalctl") && !said.contains("unit"), "{manager:?}: {said}");
        }
        let systemd = ServiceManager::Systemd;
        assert!(systemd.stop().contains("systemctl stop kasa-care-agent") && systemd.see().contains("systemctl status kasa-care-agent"));
        assert!(systemd.writable().contains("ReadWritePaths="));
    }
}
