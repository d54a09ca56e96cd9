//! Which files the agent may use, enforced by Landlock where the kernel has it (Linux 5.13). The rules follow from the
//! configuration: what it names may be used, the rest of the camera may not, whoever gains control of the process.
//!
//! Landlock binds a rule to a directory, not to a name: files that are replaced in it, and cards that are mounted below it
//! later, are covered. So the rules name directories: that of a certificate, and the one above a card's mount point.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use crate::config::{CARD_MOUNTS, Config, Listen, Motion, RecordingDir, Source};

/// The newest version of Landlock whose rights are handled: its rights to files, and to devices' ioctl.
const VERSION: ABI = ABI::V5;

/// Read by every program: names, hosts, resolvers, and what the C library asks of the kernel. The resolver's configuration
/// may be replaced at any time, so all of `/etc` counts; its permissions still guard the secrets in it.
const SYSTEM: [&str; 6] = ["/etc", "/proc", "/sys", "/dev/urandom", "/dev/random", "/dev/zero"];
/// Libraries, name service modules and GStreamer's plugins. A static program needs none of them.
const LIBRARIES: [&str; 5] = ["/usr", "/lib", "/lib64", "/lib32", "/opt"];

/// What a rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Read files, list directories.
    Read,
    /// The same, and run programs: GStreamer's plugin scanner.
    Run,
    /// Make, write, rename and delete files and sockets, too.
    Write,
    /// Read, write and control device files.
    Devices,
}

impl Use {
    fn rights(self) -> BitFlags<AccessFs> {
        use AccessFs::{
            Execute, IoctlDev, MakeDir, MakeReg, MakeSock, ReadDir, ReadFile, Refer, RemoveDir, RemoveFile, Truncate, WriteFile,
        };
        let read = ReadFile | ReadDir;
        match self {
            Self::Read => read,
            Self::Run => read | Execute,
            Self::Write => read | WriteFile | Truncate | MakeReg | MakeDir | MakeSock | RemoveFile | RemoveDir | Refer,
            Self::Devices => read | WriteFile | Truncate | IoctlDev,
        }
    }
}

/// The rules of one configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rules(BTreeMap<PathBuf, Vec<Use>>);

/// How far the rules are enforced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Enforced {
    /// By this version of Landlock.
    Landlock(u32),
    /// Not: why.
    No(String),
}

impl Rules {
    /// The rules that `config`, read from `path`, needs.
    ///
    /// # Errors
    /// The configuration cannot be bounded: why.
    pub fn of(config: &Config, path: &Path) -> Result<Self, String> {
        let mut rules = Self::default();
        for path in SYSTEM {
            rules.allow(path, Use::Read);
        }
        rules.allow("/dev/null", Use::Devices);
        if cfg!(not(target_feature = "crt-static")) {
            LIBRARIES.iter().for_each(|path| rules.allow(path, Use::Read));
        }
        rules.allow_resolver(Path::new("/etc/resolv.conf"));
        for file in trusted_files(config, path) {
            rules.allow_folder_of(&file);
        }
        for file in config.local_mqtt.iter().flat_map(crate::config::LocalMqtt::paths) {
            rules.allow_folder_of(file);
        }
        rules.allow(&config.device.state_dir, Use::Write);
        let sockets = [
            config.uploader.as_ref().map(|uploader| &uploader.socket),
            config.media.as_ref().and_then(|media| if let Motion::Socket(path) = &media.motion { Some(path) } else { None }),
            config.status.as_ref().and_then(|listen| if let Listen::Unix(path) = listen { Some(path) } else { None }),
        ];
        for socket in sockets.into_iter().flatten() {
            rules.allow(existing(parent_of(socket)), Use::Write);
        }
        // The log's own file, which is renamed at its bound.
        if let Some(log) = env::var_os("CARE_LOG_TO").and_then(|to| Some(PathBuf::from(to.to_str()?.strip_prefix("file:")?))) {
            rules.allow(existing(parent_of(&log)), Use::Write);
        }
        if let Some(recording) = &config.recording {
            match &recording.dir {
                RecordingDir::At(dir) => rules.allow(above_mount(dir)?, Use::Write),
                RecordingDir::Auto => CARD_MOUNTS.iter().for_each(|mount| rules.allow(parent_of(Path::new(mount)), Use::Write)),
            }
        }
        if let Some(media) = &config.media {
            for source in std::iter::once(&media.source).chain(&media.low_source) {
                rules.allow_source(source);
            }
            if cfg!(feature = "gstreamer") {
                rules.allow_gstreamer();
            }
        }
        Ok(rules)
    }

    fn allow(&mut self, path: impl AsRef<Path>, what: Use) {
        let uses = self.0.entry(path.as_ref().to_owned()).or_default();
        if !uses.contains(&what) {
            uses.push(what);
        }
    }

    /// A file is replaced by renaming another over it, so its directory counts; so does that of the file that a link names.
    fn allow_folder_of(&mut self, file: &Path) {
        self.allow(existing(parent_of(file)), Use::Read);
        if let Ok(real) = fs::canonicalize(file) {
            self.allow(parent_of(&real), Use::Read);
        }
    }

    /// On a read-only root file system this is a link to a file that appears only once there is a lease.
    fn allow_resolver(&mut self, file: &Path) {
        if let Ok(link) = fs::read_link(file) {
            self.allow(existing(parent_of(&parent_of(file).join(link))), Use::Read);
        }
    }

    fn allow_source(&mut self, source: &Source) {
        match source {
            Source::File(path) => self.allow_folder_of(path),
            Source::V4l2(_) => self.allow("/dev", Use::Devices),
            // It may name any file, and any element may read one.
            Source::Launch(_) => {
                self.allow("/", Use::Run);
                self.allow("/dev", Use::Devices);
                self.allow("/tmp", Use::Write);
            }
            Source::Test | Source::Rtsp(_) => {}
        }
    }

    /// Plugins and their scanner, its registry, and the devices of decoders and encoders.
    fn allow_gstreamer(&mut self) {
        for path in ["/usr", "/lib", "/lib64"] {
            self.allow(path, Use::Run);
        }
        self.allow("/dev", Use::Devices);
        self.allow("/run/udev", Use::Read);
        let variable = |name: &str| env::var_os(name).into_iter();
        for name in ["GST_PLUGIN_SYSTEM_PATH_1_0", "GST_PLUGIN_PATH_1_0", "GST_PLUGIN_SYSTEM_PATH", "GST_PLUGIN_PATH"] {
            for paths in variable(name) {
                env::split_paths(&paths).for_each(|path| self.allow_with_links(&path));
            }
        }
        for scanner in variable("GST_PLUGIN_SCANNER_1_0").chain(variable("GST_PLUGIN_SCANNER")) {
            self.allow(parent_of(Path::new(&scanner)), Use::Run);
        }
        for registry in variable("GST_REGISTRY_1_0").chain(variable("GST_REGISTRY")) {
            self.allow(existing(parent_of(Path::new(&registry))), Use::Write);
        }
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")));
        if let Some(cache) = cache {
            self.allow(cache, Use::Write);
        }
    }

    /// A folder of plugins may hold links to the files themselves.
    fn allow_with_links(&mut self, folder: &Path) {
        self.allow(folder, Use::Run);
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if let Ok(real) = fs::canonicalize(entry.path()) {
                self.allow(parent_of(&real), Use::Run);
            }
        }
    }

    /// Whether `file` may be read under these rules.
    pub fn allow_reading(&self, file: &Path) -> bool {
        // A file that is not there yet is judged by where it would be.
        let real = fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
        real.ancestors()
            .any(|folder| self.0.keys().any(|allowed| *allowed == folder || fs::canonicalize(allowed).is_ok_and(|it| it == folder)))
    }

    /// Enforces the rules for the calling thread and all that it starts. Paths that do not exist are left out: nothing can
    /// be read there.
    pub fn enforce(&self) -> Enforced {
        match self.try_enforce() {
            Ok(RestrictionStatus { ruleset: RulesetStatus::NotEnforced, landlock, .. }) => Enforced::No(match landlock {
                LandlockStatus::NotEnabled => "this kernel has Landlock and does not enable it (lsm=landlock)".into(),
                _ => "this kernel has no Landlock (Linux 5.13)".into(),
            }),
            Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. }) => {
                Enforced::Landlock(effective_abi as u32)
            }
            Ok(status) => Enforced::No(format!("the kernel reports {status:?}")),
            Err(error) => Enforced::No(format!("Landlock: {error}")),
        }
    }

    fn try_enforce(&self) -> Result<RestrictionStatus, RulesetError> {
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))?
            .scope(Scope::Signal)?
            .create()?;
        for (path, uses) in &self.0 {
            let Ok(opened) = PathFd::new(path) else { continue };
            let mut rights = uses.iter().fold(BitFlags::empty(), |rights, what| rights | what.rights());
            if !path.is_dir() {
                rights &= AccessFs::from_file(VERSION);
            }
            ruleset = ruleset.add_rule(PathBeneath::new(opened, rights))?;
        }
        ruleset.restrict_self()
    }
}

/// Every file that decides whom the device trusts, and the configuration.
pub(super) fn trusted_files(config: &Config, path: &Path) -> Vec<PathBuf> {
    let tls = config.broker.tls.iter().chain(&config.cloud.tls).flat_map(crate::tls::TlsFiles::paths);
    let store = config.store.iter().flat_map(crate::config::ClipStore::paths);
    std::iter::once(path).chain(tls).chain(store).map(Path::to_owned).collect()
}

/// The directory that stays where it is when a card is exchanged: the one above the mount point. Without a card it is unknown
/// which directory that will be, so all of `/mnt`, `/media` and their like counts.
fn above_mount(dir: &Path) -> Result<PathBuf, String> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let mount_point =
        dir.ancestors().find(|path| device(path).is_some_and(|own| device(parent_of(path)).is_some_and(|above| above != own)));
    let above = match mount_point {
        Some(mount_point) => parent_of(mount_point).to_owned(),
        None => dir.components().take(2).collect(),
    };
    let names = |path: &Path| path.components().filter(|part| matches!(part, Component::Normal(_))).count();
    if names(&above) == 0 || names(dir) < 2 {
        return Err(format!("the card of {} is mounted directly below /, so the rules would have to allow all of /", dir.display()));
    }
    Ok(above)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        Some(_) => Path::new("."),
        None => Path::new("/"),
    }
}

/// The path, or what exists of it: a directory may be made later.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::{io, thread};

    use super::*;

    fn config(dir: &Path, extra: &str) -> (Config, PathBuf) {
        let text = include_str!("../../systemd/config.toml");
        let text = text.split("[media]").next().unwrap().replace("/etc/kasa-care-agent", &dir.join("conf").display().to_string());
        let text = text.replace("/var/lib/kasa-care-agent", &dir.join("state").display().to_string()) + extra;
        let path = dir.join("conf/config.toml");
        (Config::parse(&text, &path).unwrap(), path)
    }

    #[test]
    fn what_the_configuration_names_may_be_used_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["conf", "state", "run", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("conf/ca.pem"), "ca").unwrap();
        fs::write(dir.path().join("other/secret"), "secret").unwrap();
        let (config, path) = config(dir.path(), &format!("[status]\nlisten = \"unix:{}/run/status.sock\"\n", dir.path().display()));
        let rules = Rules::of(&config, &path).unwrap();
        assert!(rules.allow_reading(&dir.path().join("conf/new.pem")), "a file that appears later");
        assert!(!rules.allow_reading(&dir.path().join("other/secret")));

        let at = dir.path().to_owned();
        let tried = thread::spawn(move || {
            let enforced = rules.enforce();
            let kind = |result: io::Result<()>| result.map_err(|error| error.kind());
            let read = |path: &str| kind(fs::read(at.join(path)).map(drop));
            let write = |path: &str| kind(fs::write(at.join(path), "x"));
            let socket = |path: &str| kind(std::os::unix::net::UnixListener::bind(at.join(path)).map(drop));
            let run = kind(std::process::Command::new("/bin/true").output().map(drop));
            // Replaced as an updater does it, by another file of the same name.
            let replaced = write("state/new").and(kind(fs::rename(at.join("state/new"), at.join("state/state")))).and(read("state/state"));
            (
                enforced,
                [read("conf/ca.pem"), replaced, socket("run/status.sock"), kind(fs::read("/etc/passwd").map(drop))],
                [read("other/secret"), write("conf/ca.pem"), write("other/new"), socket("other/a.sock"), write("state.new"), run],
            )
        });
        let (enforced, allowed, refused) = tried.join().unwrap();
        if let Enforced::No(why) = enforced {
            return eprintln!("skipped: {why}");
        }
        assert_eq!(allowed, [Ok(()); 4]);
        assert_eq!(refused, [Err(io::ErrorKind::PermissionDenied); 6]);
    }

    #[test]
    fn a_card_is_covered_from_above_its_mount_point() {
        assert_eq!(above_mount(Path::new("/nowhere/mmcblk0p1/recordings")).unwrap(), Path::new("/nowhere"));
        assert!(above_mount(Path::new("/nowhere")).unwrap_err().contains("directly below /"));
        // /proc is mounted directly below /.
        assert!(above_mount(Path::new("/proc/sys")).unwrap_err().contains("/proc/sys"));
    }
}
