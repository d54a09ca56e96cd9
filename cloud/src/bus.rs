//! News for whoever watches: the portal's pages follow it by server-sent events. Nothing depends on it being heard; the
//! database is the truth and every event only says "look again".

use serde::Serialize;
use tokio::sync::broadcast;

/// Something happened.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum News {
    /// A document was issued.
    Issued {
        /// For this camera.
        device: String,
        /// Its plan.
        plan: String,
        /// Its sequence.
        seq: u64,
    },
    /// A document was handed to the broker.
    Published {
        /// For this camera.
        device: String,
    },
    /// The broker has it.
    AtBroker {
        /// For this camera.
        device: String,
    },
    /// A camera reported.
    Reported {
        /// The camera.
        device: String,
        /// Its mode now.
        mode: String,
    },
    /// A camera came or went.
    Status {
        /// The camera.
        device: String,
    },
    /// An upload began, moved on, ended.
    Upload {
        /// The camera.
        device: String,
    },
}

impl News {
    /// The camera it is about.
    pub fn device(&self) -> &str {
        match self {
            Self::Issued { device, .. }
            | Self::Published { device }
            | Self::AtBroker { device }
            | Self::Reported { device, .. }
            | Self::Status { device }
            | Self::Upload { device } => device,
        }
    }
}

/// The bus itself.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<News>);

impl Bus {
    /// A bus that remembers a few events for slow listeners.
    pub fn new() -> Self {
        Self(broadcast::channel(256).0)
    }

    /// Tells whoever listens, if anyone does.
    pub fn tell(&self, news: News) {
        // An error only says that nobody listens.
        drop(self.0.send(news));
    }

    /// Listens from now on.
    pub fn listen(&self) -> broadcast::Receiver<News> {
        self.0.subscribe()
    }
}

impl Default for Bus {
    fn default() -> Self {
        Self::new()
    }
}
