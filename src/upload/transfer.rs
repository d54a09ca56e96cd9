//! One clip's way out: ask for a grant, judge where it leads, PUT. It runs as one task that a cut aborts; its every step
//! asks the [`Ticket`] first, and its body ends in an error rather than early when the ticket is no longer good.

use std::{
    convert::Infallible,
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use care_protocol::{Grant, GrantRequest, Reject, Stored};
use http::{HeaderMap, HeaderValue, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use tokio::{
    pin, select,
    time::{Instant, MissedTickBehavior, Sleep, interval, sleep_until},
};

use super::{
    Event, Shared,
    content::{Open, Pieces},
    failure::{Declined, Doing, Failure},
    gate::Shelf,
    grant::{Target, Violation, life},
    kernel::TcpInfo,
    socket::{Gauge, Ticket},
    spool::{End, Job},
};
use crate::http::{Answer, Door, Fault, Origin, Stage, connect, peer_name, request, resolve, within};
use crate::path_mtu::{PATHS, is_swallowed};

/// How much of a clip is handed over at a time, at most.
const CHUNK: usize = 32 * 1024;
/// The least: what fits one segment, with the header of a TLS record.
const SEGMENT: usize = 1400;
/// How long a piece should take at the pace; the timer tells one millisecond.
const PIECE: Duration = Duration::from_millis(4);
/// How much lateness of the timer is made up for.
const LATENESS: Duration = Duration::from_millis(10);
/// The body's share of the pace: TLS adds 22 bytes to a segment's 1400, and a little must be left so that it is the body
/// that is waited for.
const BODY_SHARE: f64 = 0.965;
/// The largest answer that is read.
const ANSWER: usize = 64 * 1024;
/// How long looking up, connecting and the TLS handshake may take together; and then a grant's answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// A PUT on which no byte is acknowledged for this long is given up.
const STALL: Duration = Duration::from_secs(30);
/// A PUT may take this long, and as long as it takes at [`SLOWEST`].
const LONGEST: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 4_000;
/// How often a PUT's progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// A refused clip waits this long, unless the engine says otherwise (section 3.6).
const REFUSED: Duration = Duration::from_secs(15 * 60);

/// Permission to send one clip to one place for a while.
struct Permission {
    target: Target,
    /// Who gave it.
    cloud: std::net::SocketAddr,
    /// BOOTTIME at which it ends.
    until: Duration,
}

impl Shared {
    /// Sends one clip and says how that ended.
    pub(super) async fn transfer(&self, job: &Job) -> End {
        let failure = match self.send(job).await {
            Ok(()) => return End::Stored,
            Err(Failure::Stale) => return End::Stale,
            // A connection that a cut has killed fails with whatever the kernel says.
            Err(_) if self.gate.generation() != job.generation => return End::Stale,
            Err(failure) => failure,
        };
        // What is worth an operator's look is a condition, which the spool's state tells.
        tracing::debug!(clip = %job.id, generation = job.generation.0, why = %failure, "clip not sent");
        self.note_fault(failure.to_string());
        match failure {
            Failure::Refused(status) => End::Refused { until: self.gate.clock.now().boot + REFUSED, status },
            failure => {
                if let Failure::Grant(violation) = &failure {
                    self.tell(Event::GrantFault { why: violation.to_string() });
                }
                End::Failed(failure.trouble())
            }
        }
    }

    async fn send(&self, job: &Job) -> Result<(), Failure> {
        let ticket = Ticket::new(self.gate.sockets.clone(), job.generation, self.pacer().rate());
        let mut fresh_grants = 1;
        loop {
            let Some(permission) = self.ask(&ticket, job).await? else { return Ok(()) };
            match self.put(&ticket, job, permission).await {
                // The next connection has smaller segments, until there are none.
                Err(Failure::Swallowed(_)) => {}
                // The URL has ended, or so the store says: one fresh grant at once, more only after a pause.
                Err(Failure::Answered { doing: Doing::Sending, answer: Declined { status: 403, .. } } | Failure::Expired)
                    if fresh_grants > 0 =>
                {
                    fresh_grants -= 1
                }
                other => return other,
            }
        }
    }

    /// Asks for a grant; `None` if the clip is there already.
    async fn ask(&self, ticket: &Ticket, job: &Job) -> Result<Option<Permission>, Failure> {
        ticket.check()?;
        let asking = |fault| Doing::Asking.fault(fault);
        let peers = self.peers();
        let api = &peers.api;
        let deadline = Instant::now() + PATIENCE;
        let addresses = resolve(&api.endpoint, deadline).await.map_err(asking)?;
        let line = connect(ticket, api, &addresses, deadline).await.map_err(asking)?;
        let path = format!("/v1/devices/{}/clips", self.device);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = Full::new(Bytes::from(self.grant_request(job)?)).map_err(|never: Infallible| match never {});
        let request = request("POST", &api.endpoint, &path, headers, body).map_err(asking)?;
        let sent = self.gate.clock.now().boot;
        let deadline = Instant::now() + PATIENCE;
        let answer =
            within(Stage::Http, &api.endpoint.host, deadline, line.send(request, ANSWER)).await.and_then(|sent| sent).map_err(asking)?;
        ticket.check()?;
        if let Some(heard) = answer.heard_date(sent).filter(|_| api.endpoint.tls) {
            self.gate.clock.observe_date(heard);
            self.tell(Event::Date);
        }
        let unreadable = |reject: Reject| Violation::Unreadable(reject.to_string());
        match answer.status {
            201 => {
                let grant = Grant::read(&answer.body).map_err(unreadable)?;
                let hosts = peers.store.as_ref().map(|store| &store.hosts);
                let target = Target::of(&grant, &api.endpoint, hosts)?;
                let until = sent + life(&grant, answer.date)?;
                Ok(Some(Permission { target, cloud: answer.peer, until }))
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
            clip: job.id.to_string(),
            kind: job.facts.kind,
            started_at: Timestamp::from_millisecond(started_ms).map_err(|error| broken(error.to_string()))?,
            duration_ms: u64::try_from(job.facts.duration.as_millis()).unwrap_or(u64::MAX),
            bytes: job.bytes,
            sha256: job.sha256.clone(),
            epoch: job.position.epoch,
            seq: job.position.seq,
        };
        serde_json::to_vec(&request).map_err(|error| broken(error.to_string()))
    }

    async fn put(&self, ticket: &Ticket, job: &Job, permission: Permission) -> Result<(), Failure> {
        ticket.check()?;
        let sending = |fault| Doing::Sending.fault(fault);
        let Permission { target, cloud, until } = permission;
        let peers = self.peers();
        let tls = if target.same_origin { peers.api.tls.clone() } else { peers.store.as_ref().map(|store| store.tls.clone()) };
        let origin = Origin { endpoint: target.endpoint.clone(), tls };
        let deadline = Instant::now() + PATIENCE;
        let addresses = resolve(&origin.endpoint, deadline).await.map_err(sending)?;
        target.may_be_at(&addresses, cloud)?;
        let line = connect(ticket, &origin, &addresses, deadline).await.map_err(sending)?;
        if self.gate.clock.now().boot >= until {
            return Err(Failure::Expired);
        }
        let pace = Arc::new(Pace::new(self.pacer().rate()));
        let body = ClipBody::new(ticket.clone(), job, self.gate.shelf.clone(), pace.clone(), &self.on_flash);
        let mut request = request("PUT", &origin.endpoint, &target.path, target.headers, body).map_err(sending)?;
        request.headers_mut().insert(header::CONTENT_LENGTH, job.bytes.into());
        let (gauge, peer) = (line.pass().gauge(), line.peer());
        let exchange = line.send(request, ANSWER);
        let answer = self.minded(exchange, &gauge, &pace, &origin.endpoint.host, job.bytes).await;
        // The connection is gone by now, and what was seen of it is known.
        if pace.swallowed.load(Ordering::Relaxed) && PATHS.segment(peer).is_some() {
            return Err(Failure::Swallowed(peer_name(&origin.endpoint, peer)));
        }
        if let Some(why) = pace.unreadable.get() {
            return Err(Failure::Unreadable(why.clone()));
        }
        let answer = answer.map_err(sending)?;
        match answer.status {
            200..=299 => Ok(()),
            300..=399 => Err(Violation::Redirect(origin.endpoint.authority()).into()),
            _ => Err(Doing::Sending.declined(&origin.endpoint, &answer)),
        }
    }

    /// Runs a PUT: paces it, and gives it up when it stands still.
    async fn minded(
        &self,
        exchange: impl Future<Output = Result<Answer, Fault>>,
        gauge: &Gauge,
        pace: &Pace,
        host: &str,
        bytes: u64,
    ) -> Result<Answer, Fault> {
        let begun = Instant::now();
        let longest = LONGEST + Duration::from_secs(bytes / SLOWEST);
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
                    let info = gauge.read();
                    let so_far = pace.arrived(info.as_ref());
                    if so_far > arrived {
                        (arrived, moved) = (so_far, now);
                    }
                    if let Some(info) = info.filter(|_| pace.learning.load(Ordering::Relaxed)) {
                        if let Some(rate) = self.pacer().observe(&info, now.into_std()) {
                            gauge.pace(rate);
                            pace.bytes_per_s.store(rate, Ordering::Relaxed);
                        }
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

/// What a body and whoever minds it tell each other.
pub(super) struct Pace {
    bytes_per_s: AtomicU64,
    /// Whether the body has begun and has more: only then does the rate of arrival say something of the link.
    learning: AtomicBool,
    /// What the body has handed over, bytes.
    given: AtomicU64,
    /// Why the body could not go on, if flash is to blame.
    unreadable: OnceLock<String>,
    /// The path swallows segments as large as these.
    swallowed: AtomicBool,
}

impl Pace {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self {
            bytes_per_s: bytes_per_s.into(),
            learning: false.into(),
            given: 0.into(),
            unreadable: OnceLock::new(),
            swallowed: false.into(),
        }
    }

    /// How many bytes have arrived; where the kernel does not say, how many it has taken, which is little more.
    pub(super) fn arrived(&self, info: Option<&TcpInfo>) -> u64 {
        info.map_or_else(|| self.given.load(Ordering::Relaxed), |info| info.bytes_acked)
    }
}

/// A clip's bytes, a piece at a time, for as long as the ticket is good.
///
/// The kernel paces the socket too, but neither its first ten segments (`tcp_update_skb_after_send`) nor, where the round
/// trip is short, within a burst of up to 64 KiB (`tcp_tso_autosize`), and a burst stands in the device's queue. So the
/// pieces are spaced here; the kernel's pace is the bound where they are too small for the timer.
struct ClipBody {
    ticket: Ticket,
    shelf: Arc<Shelf>,
    id: uuid::Uuid,
    pieces: Pieces,
    /// Of the last that was taken, what is not sent yet.
    rest: Bytes,
    left: u64,
    pace: Arc<Pace>,
    /// When the next piece is due.
    due: Option<Instant>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl ClipBody {
    fn new(ticket: Ticket, job: &Job, shelf: Arc<Shelf>, pace: Arc<Pace>, on_flash: &Open) -> Self {
        let pieces = Pieces::of(job, on_flash);
        Self { ticket, shelf, id: job.id, pieces, rest: Bytes::new(), left: job.bytes, pace, due: None, wait: None }
    }

    /// Invariant 3: as long as the generation stands, the clip is one that was let out under it. Both are read under the
    /// spool's lock, which a cut takes after it has advanced the generation and before it erases anything.
    fn may_send(&self) -> bool {
        let spool = self.shelf.lock();
        self.ticket.check().is_err() || spool.may_send(self.id, self.ticket.generation())
    }

    /// How large the next piece is; sets when the one after it is due.
    fn piece(&mut self) -> usize {
        let rate = self.pace.bytes_per_s.load(Ordering::Relaxed).max(1) as f64 * BODY_SHARE;
        let piece = ((rate * PIECE.as_secs_f64()) as usize).clamp(SEGMENT, CHUNK);
        let now = Instant::now();
        let late = now.checked_sub(LATENESS).unwrap_or(now);
        let due = self.due.unwrap_or(now).max(late) + Duration::from_secs_f64(piece as f64 / rate);
        self.due = Some(due);
        self.wait = (due > now).then(|| Box::pin(sleep_until(due)));
        piece
    }
}

/// A body as a transfer sends it, for the tests.
#[cfg(test)]
pub(super) fn body_of(gate: &super::Gate, job: &Job, pace: &Arc<Pace>, on_flash: &Open) -> impl Body<Data = Bytes, Error = Broken> + use<> {
    let ticket = Ticket::new(gate.sockets.clone(), job.generation, pace.bytes_per_s.load(Ordering::Relaxed));
    ClipBody::new(ticket, job, gate.shelf.clone(), pace.clone(), on_flash)
}

/// What a body ends with when it cannot go on: [`Stale`](crate::http::Stale), or what flash said.
pub(super) type Broken = Box<dyn StdError + Send + Sync>;

impl Body for ClipBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Err(stale) = self.ticket.check() {
            // An error, not an end: an end could make a part look whole.
            return Poll::Ready(Some(Err(stale.into())));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        debug_assert!(self.may_send(), "invariant 3: clip {} is sent though it was not let out", self.id);
        if self.rest.is_empty() {
            match ready!(self.pieces.poll_next(context)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(why)) => {
                    // Told once: a body that has failed is not asked again.
                    self.pace.unreadable.get_or_init(|| why.to_string());
                    return Poll::Ready(Some(Err(why.into())));
                }
                None => return Poll::Ready(None),
            }
        }
        let most = self.piece().min(self.rest.len());
        let piece = self.rest.split_to(most);
        self.left = self.left.saturating_sub(piece.len() as u64);
        self.pace.given.fetch_add(piece.len() as u64, Ordering::Relaxed);
        self.pace.learning.store(self.left > 0, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
