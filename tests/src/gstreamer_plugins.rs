//! A camera whose firmware has only some of GStreamer's plugins: a test gives the agent a plugin directory of its
//! own and adds plugins while the agent runs.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use crate::agent::Agent;

/// A plugin directory with only these of the installed GStreamer plugins.
pub fn only_plugins(agent: &mut Agent, names: &[&str]) -> PathBuf {
    let folder = agent.dir().join("plugins");
    std::fs::create_dir(&folder).unwrap();
    for name in names {
        add_plugin(&folder, name);
    }
    let registry = agent.dir().join("registry").display().to_string();
    agent.environment.push(("GST_PLUGIN_SYSTEM_PATH_1_0".into(), folder.display().to_string()));
    agent.environment.push(("GST_REGISTRY".into(), registry));
    folder
}

/// Adds one more plugin.
pub fn add_plugin(folder: &Path, name: &str) {
    let found = Command::new("pkg-config").args(["--variable=pluginsdir", "gstreamer-1.0"]).output().expect("pkg-config is installed");
    let file = format!("libgst{name}.so");
    let plugin = Path::new(String::from_utf8(found.stdout).unwrap().trim()).join(&file);
    assert!(plugin.exists(), "{} is missing", plugin.display());
    symlink(plugin, folder.join(file)).unwrap();
}
