//! Connections that the parts of one clip use one after the other (`docs/protocol.md#parts`): without them every part
//! would wait for four more round trips, and over a distant link the parts of a running event would fall behind. They
//! belong to one clip, one generation and one set of peers; a cut kills them with all other sockets.

use std::{sync::Arc, time::Duration};

use care_engine::Generation;
use http::{HeaderValue, Request, header};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Peers, socket::SocketGuard, spool::Job};
use crate::{config::Endpoint, http::Session};

/// How long connections wait for the next part: longer than one is filmed, shorter than servers keep idle connections.
const WAIT: Duration = Duration::from_secs(5);

/// A connection that is registered with the gate.
pub(super) type Gated = Session<SocketGuard>;

/// The open connections of one transfer.
#[derive(Default)]
pub(super) struct Connections {
    pub(super) api: Option<Gated>,
    /// And where it leads.
    pub(super) store: Option<(Endpoint, Gated)>,
}

impl Connections {
    /// The connection to this store, if there is one.
    pub(super) fn take_store(&mut self, endpoint: &Endpoint) -> Option<Gated> {
        self.store.take().filter(|(other, _)| other == endpoint).map(|(_, session)| session)
    }

    /// Leaves this connection to the next part, or closes it.
    pub(super) async fn keep_api(&mut self, job: &Job, session: Gated) {
        if goes_on(job) && session.is_reusable() { self.api = Some(session) } else { session.close().await }
    }

    /// The same for a connection to a store.
    pub(super) async fn keep_store(&mut self, job: &Job, endpoint: &Endpoint, session: Gated) {
        if goes_on(job) && session.is_reusable() { self.store = Some((endpoint.clone(), session)) } else { session.close().await }
    }
}

/// The request of this job, which says that its connection closes if no part follows.
pub(super) fn for_connection<B>(job: &Job, mut request: Request<B>) -> Request<B> {
    if !goes_on(job) {
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    request
}

/// Whether another part may follow.
fn goes_on(job: &Job) -> bool {
    job.part.is_some_and(|part| !part.last)
}

/// The connections of a part that was stored, for the next one.
pub(super) struct Kept {
    connections: Connections,
    clip: Uuid,
    generation: Generation,
    peers: Arc<Peers>,
    until: Instant,
}

impl Kept {
    /// The connections of this job, if another part of its clip may follow.
    pub(super) fn after(job: &Job, peers: Arc<Peers>, connections: Connections) -> Option<Self> {
        let until = Instant::now() + WAIT;
        goes_on(job).then_some(Self { connections, clip: job.clip, generation: job.generation, peers, until })
    }

    /// The connections, if they are for this job; otherwise they are closed.
    pub(super) fn for_job(self, job: &Job, peers: &Arc<Peers>) -> Connections {
        let same = self.clip == job.clip && self.generation == job.generation && Arc::ptr_eq(&self.peers, peers);
        if same && Instant::now() < self.until { self.connections } else { Connections::default() }
    }

    /// When they are of no use any more.
    pub(super) fn until(&self) -> Instant {
        self.until
    }
}
