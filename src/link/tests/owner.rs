//! The link's owner, as short as a test needs it.

use std::time::{Duration, Instant};

use care_protocol::Topic;
use tokio::{sync::mpsc, time::timeout};

use super::broker::{DEVICE, PATIENCE};
use crate::{
    config,
    link::{Ack, Connection, Event, Link, LinkFault, Settings, start},
};

pub(super) struct Owner {
    pub(super) link: Link,
    pub(super) events: mpsc::Receiver<Event>,
}

/// A PUBLISH as the owner got it.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) text: String,
    pub(super) topic: Topic,
    pub(super) connection: Connection,
    pub(super) retain: bool,
    pub(super) dup: bool,
    pub(super) ack: Option<Ack>,
}

/// Quick settings for a plaintext broker on this port.
pub(super) fn settings(port: u16) -> Settings {
    let endpoint = config::Endpoint { host: "127.0.0.1".into(), port, tls: false };
    let broker = config::Broker { endpoint, tls: None, alpn: None, topic_prefix: "care/v1".into() };
    Settings {
        backoff_first: Duration::from_millis(10),
        backoff_most: Duration::from_millis(50),
        clone_backoff: Duration::from_millis(50),
        ..Settings::new(broker, None, DEVICE.parse().unwrap(), crate::conditions::Conditions::default())
    }
}

impl Owner {
    pub(super) fn new(settings: Settings) -> Self {
        let (link, events) = start(settings);
        Self { link, events }
    }

    /// Connects anew, to the plaintext broker on this port.
    pub(super) fn reload(&self, port: u16) {
        self.link.reload(config::Endpoint { host: "127.0.0.1".into(), port, tls: false }, None);
    }

    /// The next event.
    pub(super) async fn next(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("an event comes").expect("the link lives")
    }

    /// The next event for which `pick` gives something; others are passed over.
    pub(super) async fn until<T>(&mut self, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            assert!(begin.elapsed() < PATIENCE, "the awaited event comes");
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    pub(super) async fn subscribed(&mut self) -> Connection {
        self.until(|event| match event {
            Event::Subscribed { connection } => Some(connection),
            _ => None,
        })
        .await
    }

    pub(super) async fn lost(&mut self) -> (Option<Connection>, LinkFault) {
        self.until(|event| match event {
            Event::Lost { connection, fault } => Some((connection, fault)),
            _ => None,
        })
        .await
    }

    /// The next PUBLISH; nothing may be lost before it.
    pub(super) async fn document(&mut self) -> Document {
        self.until(|event| match event {
            Event::Publish { connection, topic, payload, retain, dup, at, ack } => {
                assert!(at <= Instant::now());
                let text = String::from_utf8(payload.to_vec()).unwrap();
                Some(Document { text, topic, connection, retain, dup, ack })
            }
            Event::Lost { fault, .. } => panic!("lost before the document came: {fault}"),
            _ => None,
        })
        .await
    }

    pub(super) async fn published(&mut self) -> u64 {
        self.until(|event| match event {
            Event::Published { ticket } => Some(ticket),
            _ => None,
        })
        .await
    }

    pub(super) fn report(&self, ticket: u64) {
        self.link.publish("care/v1/8006E5A1F0C2/report".into(), format!("report {ticket}").into_bytes(), true, ticket);
    }
}
