//! The embedded broker: Mosquitto as a child process, configured from `deploy/mosquitto`, with mutual TLS, one
//! listener for cameras and one for the cloud, and an ACL for each. A thread starts it, restarts it when it dies, and
//! stops it; the thread outlives every child, because a child ends with the thread that started it.

mod address;
mod deployed;

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use thiserror::Error;

pub use address::BrokerAddress;

use crate::{
    child::{die_with_parent, stop},
    storage::data_dir::{DataDir, DataError},
    transport::held_port::HeldPort,
};

/// How long Mosquitto may take to listen.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What can go wrong with the broker.
#[derive(Debug, Error)]
pub enum BrokerError {
    /// Writing its configuration.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no Mosquitto.
    #[error("no mosquitto found in PATH, /usr/sbin or /usr/local/sbin: install the package mosquitto, or name a broker with --broker")]
    NoMosquitto,
    /// It could not be started.
    #[error("starting {program}: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not listen.
    #[error("mosquitto does not listen on {address} after {within:?}; it said:\n{log}")]
    NotReady {
        /// Where it should.
        address: SocketAddr,
        /// How long was waited.
        within: Duration,
        /// The end of its log.
        log: String,
    },
}

/// Where it listens, and for whom. The ports are held while Mosquitto is down, too: cameras have them in their
/// configuration.
#[derive(Debug)]
pub struct Listeners {
    /// For cameras.
    pub cameras: HeldPort,
    /// For the cloud.
    pub cloud: HeldPort,
}

/// The running broker; dropping it stops Mosquitto.
pub struct Broker {
    listeners: Listeners,
    shared: Arc<Shared>,
    keeper: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    child: Mutex<Option<Child>>,
    /// Whether it should run; the portal can stop it as an experiment.
    wanted: AtomicBool,
    closing: AtomicBool,
    changed: Condvar,
}

impl Broker {
    /// Writes the configuration for these listeners and starts Mosquitto; returns once it listens.
    pub fn start(data: &DataDir, listeners: Listeners, prefix: &str) -> Result<Self, BrokerError> {
        let program = find_mosquitto().ok_or(BrokerError::NoMosquitto)?;
        let config = data.path("broker/mosquitto.conf");
        let log = data.path("broker/mosquitto.log");
        deployed::write(data, &listeners, prefix)?;
        let start = move || {
            let log_file = fs::File::create(&log).map_err(|source| BrokerError::Start { program: log.clone(), source })?;
            let mut command = Command::new(&program);
            command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log_file);
            die_with_parent(&mut command).spawn().map_err(|source| BrokerError::Start { program: program.clone(), source })
        };
        let shared = Arc::new(Shared {
            child: Mutex::new(None),
            wanted: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            changed: Condvar::new(),
        });
        let keeper = std::thread::Builder::new()
            .name("broker".into())
            .spawn({
                let shared = shared.clone();
                move || keep(&shared, &start)
            })
            .map_err(|source| BrokerError::Start { program: "a thread".into(), source })?;
        let broker = Self { listeners, shared, keeper: Mutex::new(Some(keeper)) };
        if !broker.wait_until_listening() {
            let log = fs::read_to_string(data.path("broker/mosquitto.log")).unwrap_or_else(|e| format!("(its log cannot be read: {e})"));
            return Err(BrokerError::NotReady { address: broker.address(), within: READY_WITHIN, log });
        }
        Ok(broker)
    }

    /// Where it listens for cameras.
    pub fn address(&self) -> SocketAddr {
        self.listeners.cameras.address()
    }

    /// Stops it or starts it again, as the demo's outage does; returns once it is so.
    pub fn set_running(&self, run: bool) -> bool {
        self.shared.wanted.store(run, Ordering::SeqCst);
        if run {
            self.shared.changed.notify_all();
            return self.wait_until_listening();
        }
        let mut child = self.shared.lock();
        stop_in(&mut child);
        self.shared.changed.notify_all();
        true
    }

    /// The child's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.shared.lock().as_ref().map(Child::id)
    }

    fn wait_until_listening(&self) -> bool {
        let deadline = Instant::now() + READY_WITHIN;
        while Instant::now() < deadline {
            // Another process may hold the port, so our child must be alive as well.
            let ours = self.shared.lock().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
            let Listeners { cameras, cloud } = &self.listeners;
            let listens = |port: &HeldPort| TcpStream::connect_timeout(&port.address(), Duration::from_millis(200)).is_ok();
            if ours && listens(cameras) && listens(cloud) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Broker {
    /// Stops Mosquitto for good; returns once it has ended.
    pub fn shut_down(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        stop_in(&mut self.shared.lock());
        self.shared.changed.notify_all();
        if let Some(keeper) = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of that thread has been printed already.
            drop(keeper.join());
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.shut_down();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the child whenever it should run and does not.
fn keep(shared: &Shared, start: &dyn Fn() -> Result<Child, BrokerError>) {
    let mut last_start: Option<Instant> = None;
    let mut child = shared.lock();
    while !shared.closing.load(Ordering::SeqCst) {
        if let Some(running) = child.as_mut()
            && let Ok(Some(status)) = running.try_wait()
        {
            tracing::warn!(%status, "mosquitto ended; it is started again");
            *child = None;
        }
        // At most one start a second, in case it exits at once.
        let rested = last_start.is_none_or(|at| at.elapsed() > Duration::from_secs(1));
        if child.is_none() && shared.wanted.load(Ordering::SeqCst) && rested {
            last_start = Some(Instant::now());
            match start() {
                Ok(started) => *child = Some(started),
                Err(e) => tracing::error!("{e}"),
            }
        }
        child = shared.changed.wait_timeout(child, Duration::from_millis(100)).unwrap_or_else(PoisonError::into_inner).0;
    }
    stop_in(&mut child);
}

fn stop_in(slot: &mut Option<Child>) {
    let Some(mut child) = slot.take() else { return };
    if let Err(e) = stop(&mut child, Duration::from_secs(3)) {
        tracing::error!("stopping mosquitto: {e}");
    }
}

fn find_mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    places.map(|dir| dir.join("mosquitto")).find(|program| program.is_file())
}
