//! The upload of one clip: request a grant, check its URL, PUT. It runs as one task that a cut aborts. Every step
//! checks the [`Permit`] first.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use care_protocol::{Grant, GrantRequest, Part, Reject, Stored};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::{
    pin, select,
    time::{Instant, MissedTickBehavior, interval},
};
use uuid::Uuid;

use super::{
    Event, Peers, Shared,
    body::{ClipBody, Pace},
    failure::{Declined, Doing, Failure},
    grant::{Target, Violation, life},
    kept::{Connections, Gated, Kept, for_connection},
    lock,
    socket::{Gauge, Permit},
    spool::{Job, Outcome},
};
use crate::{
    http::{Answer, Dialer, Fault, Origin, Stage, connect, open, peer_name, request, resolve},
    path_mtu::{PATHS, is_swallowed},
};

/// The largest answer that is read.
const ANSWER: usize = 64 * 1024;
/// The time limit for lookup, connect and TLS handshake together, and again for the answer to a grant request.
const PATIENCE: Duration = Duration::from_secs(20);
/// A PUT is aborted if no byte is acknowledged for this long.
const STALL: Duration = Duration::from_secs(30);
/// A PUT may take this long, plus its duration at [`SLOWEST`].
const LONGEST: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 4_000;
/// How often a PUT's progress is checked.
const LOOK: Duration = Duration::from_millis(50);
/// A refused clip waits this long, unless the engine lets it retry earlier (`docs/protocol.md#refusals`).
const REFUSED: Duration = Duration::from_secs(15 * 60);

/// A clip on its way, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// The clip, or the part of one.
    pub id: Uuid,
    /// Bytes of it that have been sent; a few kilobytes may still be in the kernel.
    pub sent: u64,
    /// Bytes in all.
    pub bytes: u64,
}

/// Keeps a transfer in the list of those under way for as long as it is.
struct UnderWay<'a> {
    flights: &'a Mutex<Vec<Flight>>,
    id: Uuid,
}

impl<'a> UnderWay<'a> {
    fn begin(flights: &'a Mutex<Vec<Flight>>, job: &Job) -> Self {
        lock(flights).push(Flight { id: job.id, sent: 0, bytes: job.bytes });
        Self { flights, id: job.id }
    }

    fn sent(&self, sent: u64) {
        lock(self.flights).iter_mut().filter(|flight| flight.id == self.id).for_each(|flight| flight.sent = sent.min(flight.bytes));
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(self.flights).retain(|flight| flight.id != self.id);
    }
}

/// A checked grant: one clip may be sent to one URL for a limited time.
struct Granted {
    target: Target,
    /// The API's address.
    cloud: SocketAddr,
    /// BOOTTIME at which the grant ends.
    until: Duration,
}

impl Shared {
    /// Sends one clip and returns the result.
    pub(super) async fn transfer(&self, job: &Job) -> Outcome {
        let failure = match self.send(job).await {
            Ok(()) => return Outcome::Stored,
            Err(Failure::Stale) => return Outcome::Stale,
            // A connection that a cut has killed fails with any error from the kernel.
            Err(_) if self.gate.generation() != job.generation => return Outcome::Stale,
            Err(failure) => failure,
        };
        // Operators see a condition, which is made from the spool's state.
        tracing::debug!(clip = %job.clip, part = job.part.map(|part| part.index), generation = job.generation.0, why = %failure, "clip not sent");
        self.note_fault(failure.to_string());
        match failure {
            Failure::Refused(status) => Outcome::Refused { until: self.gate.clock.now().boot + REFUSED, status },
            failure => {
                if let Failure::Grant(violation) = &failure {
                    self.emit(Event::GrantFault { why: violation.to_string() });
                }
                Outcome::Failed(failure.trouble())
            }
        }
    }

    async fn send(&self, job: &Job) -> Result<(), Failure> {
        let permit = Permit::new(self.gate.sockets.clone(), job.generation, self.pacer().rate());
        let peers = self.peers();
        let mut connections = lock(&self.kept).take().map(|kept| kept.for_job(job, &peers)).unwrap_or_default();
        let mut fresh_grants = 1;
        loop {
            let Some(granted) = self.ask(&permit, job, &peers, &mut connections).await? else { break };
            match self.put(&permit, job, granted, &peers, &mut connections).await {
                Ok(()) => break,
                // The next connection uses smaller segments, until there are none smaller.
                Err(Failure::Swallowed(_)) => {}
                // The URL has expired, or the store reports that it has: request one fresh grant at once, more only
                // after a pause.
                Err(Failure::Answered { doing: Doing::Sending, answer: Declined { status: 403, .. } } | Failure::Expired)
                    if fresh_grants > 0 =>
                {
                    fresh_grants -= 1
                }
                Err(failure) => return Err(failure),
            }
        }
        *lock(&self.kept) = Kept::after(job, peers, connections);
        Ok(())
    }

    /// Requests a grant; `None` if the clip is stored already.
    async fn ask(&self, permit: &Permit, job: &Job, peers: &Peers, connections: &mut Connections) -> Result<Option<Granted>, Failure> {
        permit.check()?;
        let asking = |fault| Doing::Asking.fault(fault);
        let api = &peers.api;
        let body = Bytes::from(self.grant_request(job)?);
        let path = format!("/v1/devices/{}/clips", self.device);
        let asked = || {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let request = request("POST", &api.endpoint, &path, headers, Full::new(body.clone()));
            request.map(|request| for_connection(job, request))
        };
        let mut answered = None;
        if let Some(mut session) = connections.api.take() {
            let sent = self.gate.clock.now().boot;
            // If it fails, the server has most likely closed it; a fresh one tells.
            if let Ok(answer) = session.send_by(asked().map_err(asking)?, ANSWER, Instant::now() + PATIENCE).await {
                answered = Some((sent, answer, session));
            }
            permit.check()?;
        }
        let (sent, answer, session) = match answered {
            Some(answered) => answered,
            None => {
                let connection = open(permit, api, Instant::now() + PATIENCE).await.map_err(asking)?;
                let mut session = connection.session().await.map_err(asking)?;
                let sent = self.gate.clock.now().boot;
                let answer = session.send_by(asked().map_err(asking)?, ANSWER, Instant::now() + PATIENCE).await.map_err(asking)?;
                (sent, answer, session)
            }
        };
        connections.keep_api(job, session).await;
        permit.check()?;
        if let Some(heard) = answer.heard_date(sent).filter(|_| api.endpoint.tls) {
            self.gate.clock.observe_date(heard);
            self.emit(Event::Date);
        }
        let unreadable = |reject: Reject| Violation::Unreadable(reject.to_string());
        match answer.status {
            201 => {
                let grant = Grant::read(&answer.body).map_err(unreadable)?;
                let hosts = peers.store.as_ref().map(|store| &store.hosts);
                let target = Target::of(&grant, &api.endpoint, hosts)?;
                // Without a readable `Date` the grant lives by trusted time, and at most a minute all the same.
                let until = sent + life(&grant, answer.date.unwrap_or_else(|| self.gate.clock.now().trusted));
                Ok(Some(Granted { target, cloud: answer.peer, until }))
            }
            200 => {
                Stored::read(&answer.body).map_err(unreadable)?;
                Ok(None)
            }
            status @ (402 | 403) => Err(Failure::Refused(status)),
            300..=399 => Err(Violation::Redirect(api.endpoint.authority()).into()),
            _ => Err(Doing::Asking.declined(&api.endpoint, &answer)),
        }
    }

    fn grant_request(&self, job: &Job) -> Result<Vec<u8>, Failure> {
        let started_ms = i64::try_from(job.facts.started_ms).unwrap_or(i64::MAX);
        let broken = |reason: String| Doing::Asking.fault(Fault::Http { host: "the cloud".into(), reason });
        let request = GrantRequest {
            clip: job.clip.to_string(),
            kind: job.facts.kind,
            started_at: Timestamp::from_millisecond(started_ms).map_err(|_| broken("a clip's time lies beyond every calendar".into()))?,
            duration_ms: u64::try_from(job.length.as_millis()).unwrap_or(u64::MAX),
            bytes: job.bytes,
            part: job.part.map(|part| Part { index: part.index, last: part.last }),
            sha256: job.sha256.clone(),
            epoch: job.position.epoch,
            seq: job.position.seq,
        };
        serde_json::to_vec(&request).map_err(|error| broken(error.to_string()))
    }

    async fn put(&self, permit: &Permit, job: &Job, granted: Granted, peers: &Peers, connections: &mut Connections) -> Result<(), Failure> {
        permit.check()?;
        let sending = |fault| Doing::Sending.fault(fault);
        let Granted { target, cloud, until } = granted;
        if let Some(session) = connections.take_store(&target.endpoint) {
            target.may_be_at(&[session.peer()], cloud)?;
            match self.put_on(session, permit, job, &target, connections).await {
                // The server has most likely closed it; a fresh one tells.
                Err(Failure::Fault { .. }) => permit.check()?,
                other => return other,
            }
        }
        let tls = if target.same_origin { peers.api.tls.clone() } else { peers.store.as_ref().map(|store| store.tls.clone()) };
        let origin = Origin { endpoint: target.endpoint.clone(), tls };
        let deadline = Instant::now() + PATIENCE;
        let addresses = resolve(&origin.endpoint, deadline).await.map_err(sending)?;
        target.may_be_at(&addresses, cloud)?;
        let connection = connect(permit, &origin, &addresses, deadline).await.map_err(sending)?;
        if self.gate.clock.now().boot >= until {
            return Err(Failure::Expired);
        }
        let session = connection.session().await.map_err(sending)?;
        self.put_on(session, permit, job, &target, connections).await
    }

    /// Sends the clip over this connection, and leaves that to the next part if it can take one.
    async fn put_on(
        &self,
        mut session: Gated,
        permit: &Permit,
        job: &Job,
        target: &Target,
        connections: &mut Connections,
    ) -> Result<(), Failure> {
        let sending = |fault| Doing::Sending.fault(fault);
        let endpoint = &target.endpoint;
        let rate = self.pacer().rate();
        let pace = Arc::new(Pace::new(rate));
        let body = ClipBody::new(permit.clone(), job, self.gate.spool.clone(), pace.clone(), &self.on_flash);
        let mut request = request("PUT", endpoint, &target.path, target.headers.clone(), body).map_err(sending)?;
        request.headers_mut().insert(header::CONTENT_LENGTH, job.bytes.into());
        let request = for_connection(job, request);
        let (gauge, peer) = (session.guard().gauge(), session.peer());
        gauge.pace(rate);
        let exchange = session.send(request, ANSWER);
        let answer = self.watch_progress(exchange, &gauge, &pace, &endpoint.host, job).await;
        // What failed is closed here, and its TCP_INFO read.
        let session = answer.is_ok().then_some(session);
        if pace.swallowed.load(Ordering::Relaxed) && PATHS.segment(peer).is_some() {
            return Err(Failure::Swallowed(peer_name(endpoint, peer)));
        }
        if let Some(why) = pace.unreadable.get() {
            return Err(Failure::Unreadable(why.clone()));
        }
        let answer = answer.map_err(sending)?;
        if let Some(session) = session {
            connections.keep_store(job, endpoint, session).await;
        }
        match answer.status {
            200..=299 => Ok(()),
            300..=399 => Err(Violation::Redirect(endpoint.authority()).into()),
            _ => Err(Doing::Sending.declined(endpoint, &answer)),
        }
    }

    /// Runs a PUT: adapts its pace, and aborts it when it stalls.
    async fn watch_progress(
        &self,
        exchange: impl Future<Output = Result<Answer, Fault>>,
        gauge: &Gauge,
        pace: &Pace,
        host: &str,
        job: &Job,
    ) -> Result<Answer, Fault> {
        let begun = Instant::now();
        let longest = LONGEST + Duration::from_secs(job.bytes / SLOWEST);
        let under_way = UnderWay::begin(&self.flights, job);
        let (mut arrived, mut moved) = (0, begun);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.pacer().restart();
        pin!(exchange);
        loop {
            select! {
                biased;
                answer = &mut exchange => return answer,
                now = look.tick() => {
                    under_way.sent(pace.given());
                    let info = gauge.read();
                    let so_far = pace.arrived(info.as_ref());
                    if so_far > arrived {
                        (arrived, moved) = (so_far, now);
                    }
                    if let Some(info) = info.filter(|_| pace.learning.load(Ordering::Relaxed))
                        && let Some(rate) = self.pacer().observe(&info, now.into_std()) {
                            gauge.pace(rate);
                            pace.bytes_per_s.store(rate, Ordering::Relaxed);
                        }
                    if info.as_ref().is_some_and(is_swallowed) {
                        pace.swallowed.store(true, Ordering::Relaxed);
                        return Err(Fault::Timeout { stage: Stage::Http, host: host.to_owned() });
                    }
                    if now - moved >= STALL || now - begun >= longest {
                        return Err(Fault::Timeout { stage: Stage::Http, host: host.to_owned() });
                    }
                }
            }
        }
    }
}
