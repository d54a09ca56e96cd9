//! The body of a PUT: a clip's bytes, spaced so that no burst builds up in the network device's queue. It checks the
//! [`Permit`] before every piece. Once the permit is no longer valid, the body ends with an error, never with a normal
//! end.

use std::{
    error::Error as StdError,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use care_engine::token_bucket::TokenBucket;
use http_body::{Body, Frame, SizeHint};
use portable_atomic::AtomicU64;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{
    content::{Open, Pieces},
    gate::SharedSpool,
    kernel::TcpInfo,
    socket::Permit,
    spool::Job,
};
use crate::http::Dialer;

/// The most that leaves at once, however late the timer or the process is: with the headers of its TLS records less than
/// 16 KiB, which is what a cut may find in the device's queue.
const BURST: usize = 15 * 1024;
/// The smallest piece: one segment's payload, with the header of a TLS record.
const SEGMENT: usize = 1400;
/// How long a piece should take at the pace. The timer's resolution is one millisecond, or ten where the kernel has no
/// high-resolution timers and ticks at 100 Hz.
const PIECE: Duration = Duration::from_millis(4);
/// The most lateness that the body catches up on, within [`BURST`]: three such ticks, or a process that had to wait as
/// long for the processor.
const LATENESS: Duration = Duration::from_millis(30);
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

    /// Bytes that the kernel has been given of this body.
    pub(super) fn given(&self) -> u64 {
        self.given.load(Ordering::Relaxed)
    }

    /// Bytes that have arrived. Where the kernel does not report this: bytes that it has accepted, which is slightly
    /// more.
    pub(super) fn arrived(&self, info: Option<&TcpInfo>) -> u64 {
        info.map_or_else(|| self.given.load(Ordering::Relaxed), |info| info.bytes_acked)
    }
}

/// A clip's bytes, a piece at a time, for as long as the permit holds.
///
/// The pieces are spaced here, on every kernel, because not every kernel paces a socket (`docs/design/cut.md`), and one
/// that does paces neither its first ten segments (`tcp_update_skb_after_send`) nor, where the round trip is short,
/// within a burst of up to 64 KiB (`tcp_tso_autosize`). A burst fills the device's queue.
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
    spacing: Option<(Spacing, Instant)>,
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
        let now = Instant::now();
        let (spacing, begun) = self.spacing.get_or_insert_with(|| (Spacing::default(), now));
        let (piece, due) = spacing.piece(self.pace.bytes_per_s.load(Ordering::Relaxed), now.saturating_duration_since(*begun));
        let due = *begun + due;
        self.wait = (due > now).then(|| Box::pin(sleep_until(due)));
        piece
    }
}

/// Divides a body into pieces and says when each is due, so that never more than [`BURST`] leaves at once.
struct Spacing(TokenBucket);

impl Default for Spacing {
    /// The first piece is due at zero.
    fn default() -> Self {
        Self(TokenBucket::drained(Duration::ZERO, Duration::ZERO))
    }
}

impl Spacing {
    /// The size of the piece that is sent `now`, at a pace of `bytes_per_s`, and when the one after it is due: perhaps at
    /// once.
    fn piece(&mut self, bytes_per_s: u64, now: Duration) -> (usize, Duration) {
        let rate = bytes_per_s.max(1) as f64 * BODY_SHARE;
        let piece = ((rate * PIECE.as_secs_f64()) as usize).clamp(SEGMENT, BURST);
        let takes = |bytes: usize| Duration::from_secs_f64(bytes as f64 / rate);
        self.0.tolerate(LATENESS.min(takes(BURST - piece)));
        self.0.spend(takes(piece), now);
        (piece, self.0.ready_at())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A body whose process wakes up now and then: what leaves at each time.
    struct Sleeper {
        spacing: Spacing,
        due: Duration,
        now: Duration,
    }

    impl Sleeper {
        fn burst_after(&mut self, pause: Duration, rate: u64) -> usize {
            self.now += pause;
            let mut burst = 0;
            while self.due <= self.now {
                let (piece, due) = self.spacing.piece(rate, self.now);
                (burst, self.due) = (burst + piece, due);
            }
            burst
        }
    }

    /// However late timer and process are, no burst fills the device's queue; nor does a slow timer cost much of the
    /// rate: of 20, 200, 800 kB/s, and of 4 MB/s, which only a finer timer reaches.
    #[test]
    fn a_body_that_runs_late_catches_up_on_one_record_at_most() {
        for (rate, every_ms, least) in
            [(20_000, 10, 0.9), (200_000, 10, 0.9), (200_000, 30, 0.9), (800_000, 10, 0.9), (4_000_000, 10, 0.35), (4_000_000, 2, 0.9)]
        {
            let mut body = Sleeper { spacing: Spacing::default(), due: Duration::ZERO, now: Duration::ZERO };
            let mut sent = 0;
            for _ in 0..1000 / every_ms {
                let burst = body.burst_after(Duration::from_millis(every_ms), rate);
                assert!(burst <= BURST, "{burst} bytes at once at {rate} bytes/s");
                sent += burst;
            }
            let kept = sent as f64 / rate as f64;
            assert!((least..=1.0).contains(&kept), "{sent} bytes of {rate} in a second, woken every {every_ms} ms");
            for (pause_ms, rate) in [(100, rate), (3_000, rate), (1_000, 2 * rate), (1_000, rate / 4)] {
                let burst = body.burst_after(Duration::from_millis(pause_ms), rate);
                assert!(burst <= BURST, "{burst} bytes at once after {pause_ms} ms at {rate} bytes/s");
            }
        }
    }
}
