//! `[local_mqtt]`: tells Home Assistant of this camera, by MQTT discovery on a broker in the home (docs/home-assistant.md).
//!
//! It only reads the shared status, on a thread of its own with a connection of its own. The entitlement link does not know
//! it: whatever this broker does or leaves undone costs the link nothing. It takes no commands; all that it hears is that
//! Home Assistant has started. What it publishes names no account, order or secret, and holds no picture.

#[cfg(feature = "local-mqtt")]
mod discovery;
#[cfg(feature = "local-mqtt")]
mod session;
#[cfg(feature = "local-mqtt")]
mod state;
#[cfg(test)]
#[cfg(feature = "local-mqtt")]
mod tests;

#[cfg(feature = "local-mqtt")]
pub use running::{LocalMqtt, probe, start};

/// What a build without it says of a configured `[local_mqtt]`.
pub const LEFT_OUT: &str = "this build of the agent has no Home Assistant: [local_mqtt] has no effect";

#[cfg(feature = "local-mqtt")]
mod running {
    use std::{
        sync::{Arc, mpsc},
        time::{Duration, Instant},
    };

    use tokio::{runtime, sync::watch};

    use super::session::Session;
    use crate::{
        clock::Clock,
        conditions::{Conditions, Kind},
        config::Config,
        status::SharedStatus,
    };

    /// How long the end may take, from the request on.
    const STOP: Duration = Duration::from_secs(1);

    /// The thread that talks to the broker in the home. It ends when this is dropped, and nobody waits for it.
    #[derive(Debug)]
    pub struct LocalMqtt {
        stop: watch::Sender<bool>,
        ended: mpsc::Receiver<()>,
        stopping_since: Option<Instant>,
    }

    /// Starts it, if `config` has `[local_mqtt]`. A thread that cannot be started raises the condition; the agent runs on.
    pub fn start(config: &Config, status: Arc<SharedStatus>, conditions: Conditions, clock: Clock) -> Option<LocalMqtt> {
        let session = Session::new(config, status, conditions.clone(), clock)?;
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = mpsc::sync_channel(1);
        let failed = move |error| conditions.raise(Kind::LocalBroker, format!("Home Assistant cannot be told anything: {error}"));
        let on_failure = failed.clone();
        let serve = move || match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(session.run(stopped));
                // A resolver that hangs must not delay the end.
                runtime.shutdown_background();
                drop(end);
            }
            Err(error) => on_failure(error),
        };
        match crate::threads::named("local-mqtt").spawn(serve) {
            Ok(_) => Some(LocalMqtt { stop, ended, stopping_since: None }),
            Err(error) => {
                failed(error);
                None
            }
        }
    }

    impl LocalMqtt {
        /// Lets it say `offline` and disconnect, while the caller goes on.
        pub fn begin_stop(&mut self) {
            self.stopping_since = Some(Instant::now());
            self.stop.send_replace(true);
        }

        /// Waits for its end, at most until a second after [`Self::begin_stop`]. Returns whether it has ended.
        pub fn stop(mut self) -> bool {
            if self.stopping_since.is_none() {
                self.begin_stop();
            }
            let left = STOP.saturating_sub(self.stopping_since.map_or(STOP, |since| since.elapsed()));
            self.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected)
        }
    }

    /// Tries CONNECT and SUBSCRIBE as the agent would, under another client id. Returns what worked, or why not.
    ///
    /// # Errors
    /// One sentence.
    pub async fn probe(config: &Config, clock: Clock) -> Option<Result<String, String>> {
        let session =
            Session::new(config, Arc::new(SharedStatus::new(crate::status::StatusDocument::new(config))), Conditions::default(), clock)?;
        Some(session.probe().await)
    }
}

#[cfg(not(feature = "local-mqtt"))]
pub use left_out::{LocalMqtt, start};

#[cfg(not(feature = "local-mqtt"))]
mod left_out {
    use std::sync::Arc;

    use crate::{
        clock::Clock,
        conditions::{Conditions, Kind},
        config::Config,
        status::SharedStatus,
    };

    /// Never made.
    #[derive(Debug)]
    pub enum LocalMqtt {}

    /// Says that `[local_mqtt]` has no effect here, if `config` has it.
    pub fn start(config: &Config, _: Arc<SharedStatus>, conditions: Conditions, _: Clock) -> Option<LocalMqtt> {
        if config.local_mqtt.is_some() {
            conditions.raise_advising(Kind::LocalBroker, super::LEFT_OUT, "Remove [local_mqtt], or use a build that has it.");
        }
        None
    }

    impl LocalMqtt {
        /// Never called.
        pub fn begin_stop(&mut self) {
            match *self {}
        }

        /// Never called.
        pub fn stop(self) -> bool {
            match self {}
        }
    }
}
