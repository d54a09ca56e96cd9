//! Who vouches for what is on record. Until somebody does, what exceeds `[free]` waits (section 4, *held*): a cancel
//! that raced a power cut or an outage must cost no byte.

use std::time::Duration;

use care_protocol::Get;

use super::{Connection, Fetched};
use crate::clock::Now;

/// How long paid media stays open after the connection is lost, for a `GET` to be answered.
const GRACE: Duration = Duration::from_secs(10);
/// How long a `GET` answered 200 keeps paid media open.
const VOUCHED: Duration = Duration::from_secs(90);
/// How long nobody may speak after a 404 before a running lease vouches for itself.
const SILENCE: Duration = Duration::from_secs(15);
/// How often HTTPS is asked while MQTT is down or the clock unconfirmed.
const POLL: Duration = Duration::from_secs(60);
/// How soon HTTPS is asked again while the grace runs.
const HASTE: Duration = Duration::from_secs(2);
/// How long a `get` waits for its answer before HTTPS is asked.
const ANSWER: Duration = Duration::from_secs(2);

/// Who vouches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voucher {
    Nobody,
    /// The connection in use has confirmed.
    Connection,
    /// HTTPS, or the grace after a loss, until this BOOTTIME.
    Until(Duration),
}

/// How a document came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Via {
    Copy { connection: Connection, retain: bool, dup: bool },
    Answer { connection: Connection, nonce: String },
    Https,
}

/// Since a 404.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Duration,
    /// It has lasted long enough, and the running lease was let vouch.
    over: bool,
}

/// The connection, the voucher, and the questions that are open.
#[derive(Debug)]
pub(super) struct Standing {
    voucher: Voucher,
    connection: Option<Connection>,
    subscribe_sent: bool,
    subscribed: bool,
    nonce: Option<String>,
    /// When the unanswered `get` was sent.
    asked: Option<Duration>,
    /// HTTPS said that there is no document, and nobody has spoken since.
    silence: Option<Silence>,
    poll_at: Duration,
    polling: bool,
}

impl Standing {
    pub(super) fn at_boot(now: Now) -> Self {
        Self {
            voucher: Voucher::Nobody,
            connection: None,
            subscribe_sent: false,
            subscribed: false,
            nonce: None,
            asked: None,
            silence: None,
            poll_at: now.boot,
            polling: false,
        }
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed
    }

    /// Whether this connection has confirmed.
    pub(super) fn is_confirmed(&self) -> bool {
        self.voucher == Voucher::Connection
    }

    pub(super) fn is_open(&self, now: Now) -> bool {
        match self.voucher {
            Voucher::Nobody => false,
            Voucher::Connection => true,
            Voucher::Until(end) => now.boot < end,
        }
    }

    pub(super) fn connected(&mut self, connection: Connection) {
        self.connection = Some(connection);
        self.subscribe_sent = false;
        self.subscribed = false;
        self.nonce = None;
        self.asked = None;
    }

    pub(super) fn subscribe_sent(&mut self, connection: Connection) {
        self.subscribe_sent |= self.connection == Some(connection);
    }

    pub(super) fn subscribed(&mut self, connection: Connection) {
        self.subscribed |= self.connection == Some(connection);
    }

    pub(super) fn lost(&mut self, connection: Connection, now: Now) {
        if self.connection != Some(connection) {
            return;
        }
        self.connection = None;
        self.subscribe_sent = false;
        self.subscribed = false;
        self.nonce = None;
        self.asked = None;
        if self.voucher == Voucher::Connection && !planted!(LossKeepsOpen) {
            self.voucher = Voucher::Until(now.boot + GRACE);
        }
        // What was said before the loss is no answer to the question that follows it.
        self.silence = None;
        // An answer that is still on its way was asked for before the loss.
        self.polling = false;
        self.poll_at = now.boot;
    }

    /// A `get` was sent with this nonce; if nothing confirms soon after `at`, HTTPS is asked.
    pub(super) fn asked(&mut self, get: &Get, at: Option<Duration>) {
        self.nonce = Some(get.nonce.clone());
        self.asked = at;
    }

    /// A copy or an answer came, whatever its verdict will be.
    pub(super) fn heard(&mut self) {
        self.silence = None;
    }

    /// Whether a document that came this way, and was judged applied or duplicate, confirms (section 3.4).
    pub(super) fn confirms(&self, via: &Via) -> bool {
        match via {
            Via::Copy { connection, retain, dup } => {
                *retain && (!*dup || planted!(RedeliveryConfirms)) && self.subscribe_sent && self.connection == Some(*connection)
            }
            Via::Answer { connection, nonce } => {
                self.connection == Some(*connection) && (self.nonce.as_ref() == Some(nonce) || planted!(AnyNonceConfirms))
            }
            Via::Https => true,
        }
    }

    /// Something confirmed, at this BOOTTIME.
    pub(super) fn confirmed(&mut self, at: Duration) {
        self.asked = None;
        self.voucher = match self.voucher {
            _ if self.subscribe_sent => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(at + VOUCHED)),
            Voucher::Connection | Voucher::Nobody => Voucher::Until(at + VOUCHED),
        };
    }

    /// HTTPS has no document for this device.
    pub(super) fn missing(&mut self, now: Now) {
        if self.voucher == Voucher::Connection {
            return;
        }
        match &mut self.silence {
            // Still nobody: the lease vouches on.
            Some(silence) => silence.over = false,
            None => self.silence = Some(Silence { since: now.boot, over: false }),
        }
    }

    /// A question over HTTPS ended. Only where nobody was there to answer it is asked again soon: a cloud that declines needs
    /// patience.
    pub(super) fn polled(&mut self, fetched: &Fetched, now: Now) {
        self.polling = false;
        if matches!(fetched, Fetched::Found(_) | Fetched::Missing) {
            return;
        }
        self.silence = None;
        if *fetched == Fetched::Failed && self.in_grace(now) {
            self.poll_at = self.poll_at.min(now.boot + HASTE);
        }
    }

    fn in_grace(&self, now: Now) -> bool {
        self.connection.is_none() && matches!(self.voucher, Voucher::Until(end) if now.boot < end && end <= now.boot + GRACE)
    }

    /// Whether a question over HTTPS is due; if so it counts as asked.
    pub(super) fn poll_is_due(&mut self, now: Now, needed: bool) -> bool {
        let unanswered = self.asked.is_some_and(|asked| (needed || !self.is_confirmed()) && now.boot >= asked + ANSWER);
        let due = unanswered || self.poll_due_at(now, needed).is_some_and(|at| now.boot >= at);
        if !due || self.polling {
            return false;
        }
        self.asked = None;
        self.polling = true;
        self.poll_at = now.boot + POLL;
        true
    }

    /// When HTTPS is asked next, if it is to be asked. A `Date` that contradicts trusted time is asked for again as soon as a
    /// second answer counts, unless that was done already.
    fn poll_due_at(&self, now: Now, needed: bool) -> Option<Duration> {
        let usual = (needed || self.wants_polls(now)).then_some(self.poll_at);
        let second = now.disputed.map(|dispute| {
            let counts_from = dispute.settles_at();
            if self.poll_at < counts_from + POLL { counts_from } else { self.poll_at }
        });
        usual.into_iter().chain(second).min()
    }

    fn wants_polls(&self, now: Now) -> bool {
        !(self.subscribed && self.is_confirmed() && now.confirmed)
    }

    /// Ask over HTTPS at once.
    pub(super) fn hurry(&mut self, now: Now) {
        self.poll_at = now.boot;
    }

    /// Whether the silence after a 404 is over; the running lease then vouches until the next question.
    pub(super) fn end_silence(&mut self, now: Now) -> bool {
        let Some(silence) =
            self.silence.as_mut().filter(|silence| !silence.over && (now.boot >= silence.since + SILENCE || planted!(MissingOpensAtOnce)))
        else {
            return false;
        };
        silence.over = true;
        self.voucher = match self.voucher {
            Voucher::Connection => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(now.boot + VOUCHED)),
            Voucher::Nobody => Voucher::Until(now.boot + VOUCHED),
        };
        true
    }

    /// Whether the voucher's time has run out just now.
    pub(super) fn expire(&mut self, now: Now) -> bool {
        let expired = matches!(self.voucher, Voucher::Until(end) if now.boot >= end);
        if expired {
            self.voucher = Voucher::Nobody;
            // A silence that has done its part needs another 404; one that still runs may open again.
            self.silence = self.silence.filter(|silence| !silence.over);
        }
        expired
    }

    /// When to look again.
    pub(super) fn wake_at(&self, now: Now, needed: bool) -> Duration {
        let mut wake = Duration::MAX;
        if let Voucher::Until(end) = self.voucher {
            wake = wake.min(end);
        }
        if let Some(silence) = self.silence.filter(|silence| !silence.over) {
            wake = wake.min(silence.since + SILENCE);
        }
        if !self.polling {
            if let Some(at) = self.poll_due_at(now, needed) {
                wake = wake.min(at);
            }
            if let Some(asked) = self.asked.filter(|_| needed || !self.is_confirmed()) {
                wake = wake.min(asked + ANSWER);
            }
        }
        wake
    }
}
