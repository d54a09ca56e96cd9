//! The body of a PUT: a clip's bytes, spaced so that no burst builds up in the network device's queue. It checks the
//! [`Permit`] before every piece. Once the permit is no longer valid, the body ends with an error, never with a normal
//! end.

use std::{
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
use care_engine::token_bucket::TokenBucket;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    content::{Open, Pieces},
    gate::SharedSpool,
    kernel::TcpInfo,
    socket::Permit,
    spool::Job,
};
use crate::http::Dialer;

/// The largest piece.
const CHUNK: usize = 32 * 1024;
/// The smallest piece: one segment's payload, with the header of a TLS record.
const SEGMENT: usize = 1400;
/// How long a piece should take at the pace; the timer's resolution is one millisecond.
const PIECE: Duration = Duration::from_millis(4);
/// The most lateness of the timer that the body catches up on.
const LATENESS: Duration = Duration::from_millis(10);
/// The body's share of the pace: TLS adds 22 bytes to a segment's 1400, and a small margin keeps the body slower than
/// the kernel's pace.
const BODY_SHARE: f64 = 0.965;
/// Shared by a body and the task that watches its transfer.
pub(super) struct Pace {
    pub(super) bytes_per_s: AtomicU64,
    /// Whether the body has begun and has more to send. Only then does the rate at which data is acknowledged measure
    /// the link.
    pub(super) learning: AtomicBool,
    /// Bytes that the body has handed to hyper.
    given: AtomicU64,
    /// Why the body failed, if the clip could not be read from flash.
    pub(super) unreadable: OnceLock<String>,
    /// The path drops segments of this size.
    pub(super) swallowed: AtomicBool,
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

    /// Bytes that have arrived. Where the kernel does not report this: bytes that it has accepted, which is slightly
    /// more.
    pub(super) fn arrived(&self, info: Option<&TcpInfo>) -> u64 {
        info.map_or_else(|| self.given.load(Ordering::Relaxed), |info| info.bytes_acked)
    }
}

/// A clip's bytes, a piece at a time, for as long as the permit holds.
///
/// The kernel paces the socket too, but neither its first ten segments (`tcp_update_skb_after_send`) nor, where the
/// round trip is short, within a burst of up to 64 KiB (`tcp_tso_autosize`), and a burst fills the device's queue. So
/// the pieces are spaced here. The kernel's pace limits the rate where pieces are too small for the timer.
pub(super) struct ClipBody {
    permit: Permit,
    spool: Arc<SharedSpool>,
    id: uuid::Uuid,
    pieces: Pieces,
    /// The part of the last piece that is not sent yet.
    rest: Bytes,
    left: u64,
    pace: Arc<Pace>,
    /// Spaces the pieces. The instant is when the first piece was returned; times are counted from it.
    spacing: Option<(TokenBucket, Instant)>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl ClipBody {
    pub(super) fn new(permit: Permit, job: &Job, spool: Arc<SharedSpool>, pace: Arc<Pace>, on_flash: &Open) -> Self {
        let pieces = Pieces::of(job, on_flash);
        Self { permit, spool, id: job.id, pieces, rest: Bytes::new(), left: job.bytes, pace, spacing: None, wait: None }
    }

    /// Invariant 3 (`docs/protocol.md#invariants`): as long as the generation is current, the clip was released under
    /// it. Both are read under the spool's lock, which a cut takes after it has advanced the generation and before it
    /// erases anything.
    fn may_send(&self) -> bool {
        let spool = self.spool.lock();
        self.permit.check().is_err() || spool.may_send(self.id, self.permit.generation())
    }

    /// How large the next piece is; sets when the one after it is due.
    fn piece(&mut self) -> usize {
        let rate = self.pace.bytes_per_s.load(Ordering::Relaxed).max(1) as f64 * BODY_SHARE;
        let piece = ((rate * PIECE.as_secs_f64()) as usize).clamp(SEGMENT, CHUNK);
        let now = Instant::now();
        let (spacing, begun) = self.spacing.get_or_insert_with(|| (TokenBucket::drained(LATENESS, Duration::ZERO), now));
        spacing.spend(Duration::from_secs_f64(piece as f64 / rate), now.saturating_duration_since(*begun));
        let due = *begun + spacing.ready_at();
        self.wait = (due > now).then(|| Box::pin(sleep_until(due)));
        piece
    }
}

/// A body as a transfer sends it, for the tests.
#[cfg(test)]
pub(super) fn body_of(gate: &super::Gate, job: &Job, pace: &Arc<Pace>, on_flash: &Open) -> impl Body<Data = Bytes, Error = Broken> + use<> {
    let permit = Permit::new(gate.sockets.clone(), job.generation, pace.bytes_per_s.load(Ordering::Relaxed));
    ClipBody::new(permit, job, gate.spool.clone(), pace.clone(), on_flash)
}

/// Why a body ends early: [`Stale`](crate::http::Stale), or the error from flash.
pub(super) type Broken = Box<dyn StdError + Send + Sync>;

impl Body for ClipBody {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if let Err(stale) = self.permit.check() {
            // An error, because after a normal end a partial upload could look complete.
            return Poll::Ready(Some(Err(stale.into())));
        }
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        debug_assert!(self.may_send(), "invariant 3: clip {} is sent though it was not released", self.id);
        if self.rest.is_empty() {
            match ready!(self.pieces.poll_next(context)) {
                Some(Ok(bytes)) => self.rest = bytes,
                Some(Err(why)) => {
                    // Set once: a failed body is not polled again.
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
