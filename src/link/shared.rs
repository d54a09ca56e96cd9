//! State shared by [`super::Link`] and the session's task under one lock: packets to be sent, and the owner's
//! requests. No call here waits.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rumqttc::{Disconnect, PubAck, Publish, QoS, Request};
use tokio::sync::{Notify, mpsc};

use super::{
    LinkStatus,
    acks::AckWindow,
    outbox::{Outbox, Publication},
};
use crate::{config, tls};

/// State shared by `Link` and the task.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inner: Mutex<Inner>,
    /// Wakes the task where it does not poll: in backoff, while connecting, while the owner's channel is full.
    pub(super) changed: Notify,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every update leaves the value consistent, so the lock's poison flag can be ignored.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    Run,
    /// Disconnect, and connect again at once.
    Renew,
    Stop,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// The channel to the wire, while there is a connection.
    pub(super) client: Option<mpsc::Sender<Request>>,
    pub(super) window: AckWindow,
    pub(super) outbox: Outbox,
    pub(super) intent: Intent,
    /// DISCONNECT was passed to the wire: nothing may follow it.
    pub(super) disconnecting: bool,
    pub(super) endpoint: config::Endpoint,
    pub(super) tls: Option<tls::Client>,
    pub(super) status: LinkStatus,
}

impl Inner {
    pub(super) fn post(&mut self, publication: Publication) {
        if let Some(dropped) = self.outbox.push(publication) {
            self.status.dropped += 1;
            tracing::warn!(topic = dropped.topic, ticket = dropped.ticket, "publication dropped: too many wait for the broker");
        }
        self.pump();
    }

    /// Passes to the wire all that may be sent now, as far as its channel has room: PUBACKs, publications, DISCONNECT.
    /// The channel wakes the task that polls. The task pumps again after every event, so nothing is left over.
    pub(super) fn pump(&mut self) {
        let Some(client) = self.client.as_ref().filter(|_| !self.disconnecting) else { return };
        while let Some(packet) = self.window.ready() {
            if client.try_send(Request::PubAck(PubAck::new(packet))).is_err() {
                return;
            }
            self.window.sent();
        }
        if self.intent != Intent::Renew {
            while let Some(publication) = self.outbox.next() {
                let Ok(room) = client.try_reserve() else {
                    self.outbox.put_back(publication);
                    return;
                };
                let Publication { ticket, topic, payload, retain } = publication;
                let mut publish = Publish::new(topic.clone(), QoS::AtLeastOnce, payload);
                publish.retain = retain;
                room.send(Request::Publish(publish));
                self.outbox.submitted(ticket, topic);
            }
        }
        let farewell = match self.intent {
            Intent::Run => false,
            Intent::Renew => true,
            Intent::Stop => self.outbox.queued() + self.outbox.outstanding() == 0,
        };
        self.disconnecting = farewell && client.try_send(Request::Disconnect(Disconnect)).is_ok();
    }

    pub(super) fn report(&self) -> LinkStatus {
        LinkStatus {
            queued: self.outbox.queued(),
            outstanding: self.outbox.outstanding(),
            unacknowledged: self.window.held(),
            ..self.status.clone()
        }
    }
}
