//! A home: a broker with users and passwords, as Home Assistant's has, and what Home Assistant would see there.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rumqttc::{AsyncClient, Event, LastWill, MqttOptions, Packet, QoS};
use serde_json::Value;
use socket2::Socket;
use tempfile::TempDir;
use tokio::{process::Command, task::JoinHandle};

use crate::{
    agent::Agent,
    broker::reserve_port,
    process::{Lines, Process},
    wait::{PATIENCE, until},
};

/// The camera's user, its password, and Home Assistant's user.
const CAMERA: &str = "camera";
/// Never to be seen in any log, status or message.
pub const PASSWORD: &str = "hunter2/and=more";
const HOME_ASSISTANT: &str = "homeassistant";

/// The newest message of a topic, and whether it is retained.
type Message = (String, bool);

/// A Mosquitto of its own port, without TLS; killed on drop.
pub struct Home {
    dir: TempDir,
    /// Its address.
    pub addr: SocketAddr,
    // Bound but not listening: reserves the port while the broker is down.
    _port: Socket,
    process: Option<Process>,
    log: Lines,
}

impl Home {
    /// Starts the broker.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (port, addr) = reserve_port();
        std::fs::write(dir.path().join("users"), "").unwrap();
        for user in [CAMERA, HOME_ASSISTANT] {
            let made = Command::new("mosquitto_passwd").arg("-b").arg(dir.path().join("users")).args([user, PASSWORD]).status().await;
            assert!(made.expect("mosquitto is installed").success());
        }
        let config = format!(
            "user root\nlistener {} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
            addr.port(),
            dir.path().join("users").display()
        );
        std::fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let mut home = Self { dir, addr, _port: port, process: None, log: Lines::default() };
        home.resume().await;
        home
    }

    /// Starts the broker again; retained messages are gone.
    pub async fn resume(&mut self) {
        let known = Path::new("/usr/sbin/mosquitto");
        let mut command = Command::new(if known.exists() { known } else { Path::new("mosquitto") });
        command.arg("-v").arg("-c").arg(self.dir.path().join("mosquitto.conf"));
        let seen = self.log.len();
        self.process = Some(Process::spawn("mosquitto", command, self.log.clone()));
        until("the broker in the home", PATIENCE, || self.log.find(seen, |line| line.contains(" running"))).await;
    }

    /// Kills the broker.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("it is running");
        process.signal(libc::SIGKILL);
        process.exited(PATIENCE).await;
    }

    /// Stops its process without ending it: connections stay open, and nothing answers.
    pub fn hang(&self) {
        self.process.as_ref().expect("it is running").signal(libc::SIGSTOP);
    }

    /// Lets it go on after [`Self::hang`].
    pub fn wake(&self) {
        self.process.as_ref().expect("it is running").signal(libc::SIGCONT);
    }

    /// Lets this agent tell this home, from its next start on. `lines` are further ones of `[local_mqtt]`.
    pub fn equip(&self, agent: &mut Agent, lines: &str) {
        equip(agent, self.addr, lines);
    }

    /// Connects as Home Assistant does, and remembers what comes.
    pub async fn assistant(&self) -> Assistant {
        Assistant::connect(self.addr).await
    }
}

/// Lets this agent tell whatever listens at `addr`.
pub fn equip(agent: &mut Agent, addr: SocketAddr, lines: &str) {
    let file = password_file(agent);
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    agent.config.extra =
        format!("\n[local_mqtt]\nurl = \"mqtt://{addr}\"\nusername = \"{CAMERA}\"\npassword_file = \"{}\"\n{lines}\n", file.display());
}

/// The file of the camera's password.
pub fn password_file(agent: &Agent) -> PathBuf {
    agent.dir().join("home.password")
}

/// Home Assistant's side of the broker; disconnected on drop.
pub struct Assistant {
    client: AsyncClient,
    heard: Arc<Mutex<BTreeMap<String, Message>>>,
    task: JoinHandle<()>,
}

impl Assistant {
    async fn connect(addr: SocketAddr) -> Self {
        let mut options = MqttOptions::new("home-assistant", addr.ip().to_string(), addr.port());
        options.set_credentials(HOME_ASSISTANT, PASSWORD);
        options.set_last_will(LastWill::new("homeassistant/status", "offline", QoS::AtMostOnce, false));
        options.set_keep_alive(Duration::from_secs(30));
        let (client, mut events) = AsyncClient::new(options, 10);
        let heard: Arc<Mutex<BTreeMap<String, Message>>> = Arc::default();
        let hears = heard.clone();
        client.subscribe("#", QoS::AtMostOnce).await.unwrap();
        let task = tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::Publish(publish)) = event {
                    let payload = String::from_utf8_lossy(&publish.payload).into_owned();
                    hears.lock().unwrap().insert(publish.topic, (payload, publish.retain));
                }
            }
        });
        Self { client, heard, task }
    }

    /// Says that Home Assistant has started.
    pub async fn is_born(&self) {
        self.client.publish("homeassistant/status", QoS::AtMostOnce, false, "online").await.unwrap();
    }

    /// Forgets everything heard so far.
    pub fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// The newest message on each topic since the last [`Self::forget`].
    pub fn heard(&self) -> BTreeMap<String, Message> {
        self.heard.lock().unwrap().clone()
    }

    /// Waits for a message on this topic that is `wanted`.
    pub async fn hears(&self, topic: &str, wanted: impl Fn(&str) -> bool) -> Message {
        let heard = || self.heard().get(topic).filter(|(payload, _)| wanted(payload)).cloned();
        until(format!("a message on {topic}, {:#?} were heard", self.heard()), PATIENCE, heard).await
    }

    /// Waits for the device on this discovery topic.
    pub async fn device(&self, topic: &str) -> Value {
        serde_json::from_str(&self.hears(topic, |_| true).await.0).expect("discovery is JSON")
    }

    /// Waits for a state document that is `wanted`.
    pub async fn state(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let read = |payload: &str| serde_json::from_str::<Value>(payload).expect("the state is JSON");
        read(&self.hears(topic, |payload| wanted(&read(payload))).await.0)
    }
}

impl Drop for Assistant {
    fn drop(&mut self) {
        self.task.abort();
    }
}
