//! The setup of a browser test: a care-cloud in demo mode, cameras, the real agent.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use care_cloud::{
    child::{die_with_parent, stop},
    run::{SIGN_IN_FILE, SignIn},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::{browser::Browser, cloud::Cloud};

/// One browser at a time: it is the largest thing in these tests.
static ONE: Mutex<()> = Mutex::const_new(());

pub struct Stage {
    // Stopped in this order.
    agents: Vec<Child>,
    pub cloud: Cloud,
    pub owner: SignIn,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    pub async fn set() -> Self {
        let alone = ONE.lock().await;
        let cloud = Cloud::start_with(tempfile::tempdir().unwrap(), &["--demo"], &[]).await;
        let owner = serde_json::from_slice(&std::fs::read(cloud.data().join(SIGN_IN_FILE)).unwrap()).unwrap();
        Self { agents: Vec::new(), cloud, owner, _alone: alone }
    }

    pub async fn browser(&self, language: &'static str) -> Browser {
        Browser::open(&self.cloud.endpoints.portal, language).await
    }

    /// A camera of the owner's account that never answers.
    pub fn camera(&self, id: &str) -> PathBuf {
        self.cloud.add_camera(id)
    }

    /// A camera with the real agent in it, without a picture.
    pub async fn agent(&mut self, id: &str) {
        let files = self.camera(id);
        let config = files.join("config.toml");
        let text = without_picture(&std::fs::read_to_string(&config).unwrap(), &files);
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(files.join("log")).unwrap();
        let mut command = Command::new(agent());
        command.arg("run").arg("--config").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).env_remove("NOTIFY_SOCKET");
        self.agents.push(die_with_parent(&mut command).spawn().unwrap());
        self.cloud.until("the camera has reported", |state| of(state, id)["report"].is_object()).await;
    }

    pub async fn experiment(&self, experiment: Value) -> Value {
        self.cloud.portal().post("/portal/experiment", &experiment).await.unwrap()
    }

    pub async fn history(&self, camera: &str, clips: u32) {
        self.experiment(json!({ "experiment": "add_history", "camera": camera, "clips": clips })).await;
    }

    /// Signs the owner in, by hand.
    pub async fn sign_in(&self, browser: &Browser) {
        browser.goto("/sign-in").await;
        browser.type_into("#id", &self.owner.login).await;
        browser.type_into("#password", &self.owner.password).await;
        browser.follow("#enter", "/").await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            if let Err(e) = stop(agent, Duration::from_secs(10)) {
                eprintln!("stopping an agent: {e}");
            }
        }
    }
}

/// The state's view of one camera.
pub fn of<'s>(state: &'s Value, id: &str) -> &'s Value {
    state["cameras"].as_array().unwrap().iter().find(|camera| camera["device"] == id).unwrap_or(&Value::Null)
}

/// The agent as it was built beside care-cloud.
fn agent() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_care-cloud")).with_file_name("kasa-care-agent");
    assert!(path.is_file(), "there is no {}: build it first (cargo build --workspace)", path.display());
    path
}

/// The provisioned configuration without `[media]`, and with a status page of its own.
fn without_picture(config: &str, dir: &Path) -> String {
    let mut kept = String::new();
    let mut section = "";
    for line in config.lines() {
        if line.starts_with('[') {
            section = line;
        }
        if section != "[media]" && section != "[status]" {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    format!("{kept}\n[status]\nlisten = \"unix:{}\"\n", dir.join("status.sock").display())
}
