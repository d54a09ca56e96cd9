//! Who vouches for what is on record. Until somebody does, what exceeds `[free]` waits (docs/protocol.md#held): a cancel
//! that raced a power cut or an outage must cost no byte.

use std::time::Duration;

use care_protocol::Get;

use super::{Connection, Fetched};
use crate::trusted_time::Now;

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
/// How long a `get` waits for anything at all before its connection counts as deaf: a broker may grant the subscription and
/// deliver nothing.
const DEAF: Duration = Duration::from_secs(10);
/// How soon a question over HTTPS that failed is asked again, so that one lost answer is made good before the voucher of the last
/// one runs out.
const AGAIN: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20)];

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
    Copy {
        connection: Connection,
        retain: bool,
        dup: bool,
    },
    Answer {
        connection: Connection,
        nonce: String,
    },
    Https,
    /// It waited for its key, and meanwhile its connection was lost or another SUBSCRIBE was sent: it confirms nothing.
    Overtaken {
        https: bool,
    },
}

impl Via {
    pub(super) fn is_https(&self) -> bool {
        matches!(self, Self::Https | Self::Overtaken { https: true })
    }

    pub(super) fn overtake(&mut self) {
        *self = Self::Overtaken { https: self.is_https() };
    }
}

/// Since a 404.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Duration,
    /// The newest 404.
    last: Duration,
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
    /// When the first `get` was sent since anything came on this connection.
    unheard: Option<Duration>,
    /// Nothing has come for too long: this connection counts as none.
    deaf: bool,
    /// HTTPS says that there is no document, so that none can come.
    nothing_to_hear: bool,
    poll_at: Duration,
    polling: bool,
    /// When HTTPS is asked next if nothing fails.
    regular_at: Duration,
    /// How many questions have failed and been asked again soon since the last regular one.
    failed: usize,
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
            unheard: None,
            deaf: false,
            nothing_to_hear: false,
            poll_at: now.boot,
            polling: false,
            regular_at: now.boot,
            failed: 0,
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

    pub(super) fn connected(&mut self, connection: Connection, now: Now) {
        if let Some(older) = self.connection {
            self.lost(older, now);
        }
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
        self.unheard = None;
        self.deaf = false;
        self.failed = 0;
        if self.voucher == Voucher::Connection {
            self.voucher = Voucher::Until(now.boot + GRACE);
        }
        // What was said before the loss is no answer to the question that follows it.
        self.silence = None;
        // An answer that is still on its way was asked for before the loss.
        self.polling = false;
        self.poll_at = now.boot;
    }

    /// A `get` was sent now with this nonce. If nothing confirms soon, HTTPS is asked; not where `patient`, and not on a deaf
    /// connection, both of which ask HTTPS at their own pace.
    pub(super) fn asked(&mut self, get: &Get, patient: bool, now: Now) {
        self.nonce = Some(get.nonce.clone());
        self.asked = (!patient && !self.deaf).then_some(now.boot);
    }

    /// A `get` goes out now: at once, or when the cut has ended that it had to wait for.
    pub(super) fn get_leaves(&mut self, now: Now) {
        self.unheard.get_or_insert(now.boot);
    }

    /// A document came over HTTPS, whatever its verdict will be.
    pub(super) fn heard(&mut self) {
        self.silence = None;
        self.nothing_to_hear = false;
    }

    /// A copy or an answer came on this connection, whatever its verdict will be; true if it was deaf until now.
    pub(super) fn heard_on(&mut self, connection: Connection) -> bool {
        self.heard();
        if self.connection != Some(connection) {
            return false;
        }
        self.unheard = None;
        std::mem::take(&mut self.deaf)
    }

    /// Whether the connection has become deaf just now. It then counts as lost, but that it may be heard on again.
    pub(super) fn deafen(&mut self, now: Now) -> bool {
        let Some(since) = self.unheard.filter(|since| !self.deaf && now.boot >= *since + DEAF) else {
            return false;
        };
        self.deaf = true;
        self.asked = None;
        if self.voucher == Voucher::Connection {
            self.voucher = Voucher::Until(since + DEAF + GRACE);
        }
        if !self.polling {
            self.poll_at = now.boot;
        }
        true
    }

    pub(super) fn is_deaf(&self) -> bool {
        self.deaf
    }

    /// Whether the broker delivers nothing although there is something to deliver.
    pub(super) fn misses_something(&self) -> bool {
        self.deaf && !self.nothing_to_hear
    }

    /// Whether a document that came this way, and was judged applied or duplicate, confirms: docs/protocol.md#confirmation.
    pub(super) fn confirms(&self, via: &Via) -> bool {
        match via {
            Via::Copy { connection, retain, dup } => *retain && !*dup && self.subscribe_sent && self.connection == Some(*connection),
            Via::Answer { connection, nonce } => self.connection == Some(*connection) && self.nonce.as_ref() == Some(nonce),
            Via::Https => true,
            Via::Overtaken { .. } => false,
        }
    }

    /// Something confirmed, at this BOOTTIME.
    pub(super) fn confirmed(&mut self, at: Duration) {
        self.asked = None;
        self.voucher = match self.voucher {
            _ if self.subscribe_sent && !self.deaf => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(at + VOUCHED)),
            Voucher::Connection | Voucher::Nobody => Voucher::Until(at + VOUCHED),
        };
    }

    /// HTTPS has no document for this device.
    pub(super) fn missing(&mut self, now: Now) {
        self.nothing_to_hear = true;
        if self.voucher == Voucher::Connection {
            return;
        }
        match &mut self.silence {
            // Still nobody: the lease vouches on.
            Some(silence) => {
                silence.over = false;
                silence.last = now.boot;
            }
            None => self.silence = Some(Silence { since: now.boot, last: now.boot, over: false }),
        }
    }

    /// A question over HTTPS ended. One that failed is asked again before the next one is due; while the grace runs and nobody was
    /// there to answer, very soon.
    pub(super) fn polled(&mut self, fetched: &Fetched, now: Now) {
        self.polling = false;
        if matches!(fetched, Fetched::Found(_) | Fetched::Missing) {
            self.failed = 0;
            return;
        }
        self.silence = None;
        if *fetched == Fetched::Failed && self.in_grace(now) {
            self.poll_at = self.poll_at.min(now.boot + HASTE);
        } else if let Some(pause) = AGAIN.get(self.failed) {
            self.failed += 1;
            self.poll_at = self.poll_at.min(now.boot + *pause);
        } else {
            self.failed = 0;
        }
    }

    fn in_grace(&self, now: Now) -> bool {
        (self.connection.is_none() || self.deaf) && matches!(self.voucher, Voucher::Until(end) if now.boot < end && end <= now.boot + GRACE)
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
        if now.boot >= self.regular_at {
            self.failed = 0;
        }
        self.regular_at = now.boot + POLL;
        self.poll_at = self.regular_at;
        true
    }

    /// When HTTPS is asked next, if it is to be asked. A `Date` that contradicts trusted time is asked for again as soon as a
    /// second answer counts, unless that was done already.
    fn poll_due_at(&self, now: Now, needed: bool) -> Option<Duration> {
        let usual = (needed || self.wants_polls(now)).then_some(self.poll_at);
        let second = now.disputed.map(|dispute| {
            let counts_from = dispute.settles_at();
            if self.regular_at < counts_from + POLL { counts_from } else { self.poll_at }
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
        let Some(silence) = self.silence.as_mut().filter(|silence| !silence.over && now.boot >= silence.since + SILENCE) else {
            return false;
        };
        silence.over = true;
        // Counted from when it was over, however late that is noticed.
        let until = silence.last.max(silence.since + SILENCE).min(now.boot) + VOUCHED;
        self.voucher = match self.voucher {
            Voucher::Connection => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(until)),
            Voucher::Nobody => Voucher::Until(until),
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
        if let Some(since) = self.unheard.filter(|_| !self.deaf) {
            wake = wake.min(since + DEAF);
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
