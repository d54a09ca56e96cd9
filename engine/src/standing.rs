//! The voucher: which source has recently confirmed the document on record. Without one, clips beyond `[free]` wait
//! (docs/protocol.md#held), so that no byte leaves if a cancel was missed during a power cut or an outage.

use std::time::Duration;

use care_protocol::Get;

use super::{Connection, Fetched};
use crate::trusted_time::Now;

/// How long paid media stays open after the connection is lost, for a `GET` to be answered.
const GRACE: Duration = Duration::from_secs(10);
/// How long a `GET` answered 200 keeps paid media open.
const VOUCHED: Duration = Duration::from_secs(90);
/// How long silence after a 404 lasts before a running lease vouches for itself.
const SILENCE: Duration = Duration::from_secs(15);
/// How often the engine polls over HTTPS while MQTT is down or the clock unconfirmed.
const POLL: Duration = Duration::from_secs(60);
/// The interval of HTTPS polls during the grace.
const HASTE: Duration = Duration::from_secs(2);
/// How long a `get` waits for its answer before the engine polls over HTTPS.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a `get` waits for any message before its connection counts as deaf: a broker may grant the subscription
/// and deliver nothing.
const DEAF: Duration = Duration::from_secs(10);
/// How soon a failed HTTPS poll is repeated, so that one lost answer is replaced before the last voucher expires.
const AGAIN: [Duration; 3] = [Duration::from_secs(5), Duration::from_secs(10), Duration::from_secs(20)];

/// The source that vouches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Voucher {
    None,
    /// The connection in use has confirmed.
    Connection,
    /// HTTPS, or the grace after a loss, until this BOOTTIME.
    Until(Duration),
}

/// The source of a document.
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
    /// It waited for its key, and meanwhile its connection was lost or another SUBSCRIBE was sent: it does not
    /// confirm.
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

/// Whether this connection delivers copies, in which changes come. An answer proves nothing of that: access rules may allow
/// its topic alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copies {
    /// None has come yet, as from a broker that retains nothing.
    None,
    /// At this BOOTTIME a change came another way, and the connection has to deliver it.
    Awaited(Duration),
    /// It did not.
    KeptBack,
    Heard,
}

/// Since a 404.
#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Duration,
    /// The newest 404.
    last: Duration,
    /// The silence has lasted long enough, and the running lease vouches.
    over: bool,
}

/// The connection, the voucher, and the open `get` and polls.
#[derive(Debug)]
pub(super) struct Standing {
    voucher: Voucher,
    connection: Option<Connection>,
    subscribe_sent: bool,
    subscribed: bool,
    nonce: Option<String>,
    /// When the unanswered `get` was sent.
    asked: Option<Duration>,
    /// HTTPS answered that there is no document, and no document has arrived since.
    silence: Option<Silence>,
    /// When the first `get` was sent since the last message on this connection.
    silent_since: Option<Duration>,
    /// No message has arrived for too long: this connection counts as none.
    deaf: bool,
    copies: Copies,
    /// HTTPS answered that there is no document, so the broker has none to deliver.
    no_document: bool,
    poll_at: Duration,
    polling: bool,
    /// The next regular HTTPS poll.
    regular_at: Duration,
    /// How many failed polls were repeated early since the last regular one.
    failed: usize,
}

impl Standing {
    pub(super) fn at_boot(now: Now) -> Self {
        Self {
            voucher: Voucher::None,
            connection: None,
            subscribe_sent: false,
            subscribed: false,
            nonce: None,
            asked: None,
            silence: None,
            silent_since: None,
            deaf: false,
            copies: Copies::None,
            no_document: false,
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
            Voucher::None => false,
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
        self.silent_since = None;
        self.deaf = false;
        self.copies = Copies::None;
        self.failed = 0;
        if self.voucher == Voucher::Connection {
            self.voucher = Voucher::Until(now.boot + GRACE);
        }
        // An answer from before the loss does not answer the poll that follows it.
        self.silence = None;
        // An answer still in transit belongs to a request from before the loss.
        self.polling = false;
        self.poll_at = now.boot;
    }

    /// A `get` was sent now with this nonce. If nothing confirms soon, the engine polls over HTTPS. Not if `patient`,
    /// and not on a deaf connection: both have their own polling interval.
    pub(super) fn asked(&mut self, get: &Get, patient: bool, now: Now) {
        self.nonce = Some(get.nonce.clone());
        self.asked = (!patient && !self.deaf).then_some(now.boot);
    }

    /// A `get` is sent now: at once, or after the cut for which it had to wait.
    pub(super) fn note_get_sent(&mut self, now: Now) {
        self.silent_since.get_or_insert(now.boot);
    }

    /// A document arrived over HTTPS, whatever its verdict will be.
    pub(super) fn document_arrived(&mut self) {
        self.silence = None;
        self.no_document = false;
    }

    /// A copy or an answer arrived on this connection, whatever its verdict will be. Returns whether it was deaf until
    /// now.
    pub(super) fn message_arrived(&mut self, connection: Connection) -> bool {
        self.document_arrived();
        if self.connection != Some(connection) {
            return false;
        }
        self.silent_since = None;
        std::mem::take(&mut self.deaf)
    }

    /// A copy arrived on this connection.
    pub(super) fn copy_arrived(&mut self, connection: Connection) {
        if self.connection == Some(connection) {
            self.copies = Copies::Heard;
        }
    }

    /// A newer document arrived from this source. A connection that had confirmed the one before has to deliver it.
    pub(super) fn changed(&mut self, via: &Via, now: Now) {
        if self.is_confirmed() && self.copies == Copies::None && !matches!(via, Via::Copy { .. }) {
            self.copies = Copies::Awaited(now.boot);
        }
    }

    /// Gives up waiting for the copy of a change, if it is time.
    pub(super) fn miss_copies(&mut self, now: Now) {
        if matches!(self.copies, Copies::Awaited(since) if now.boot >= since + DEAF) {
            self.copies = Copies::KeptBack;
        }
    }

    /// Whether the broker delivers answers and may keep every change back.
    pub(super) fn hears_only_answers(&self) -> bool {
        self.is_confirmed() && self.copies != Copies::Heard
    }

    /// Whether the connection has become deaf just now. It then counts as lost, but may deliver messages again.
    pub(super) fn deafen(&mut self, now: Now) -> bool {
        let Some(since) = self.silent_since.filter(|since| !self.deaf && now.boot >= *since + DEAF) else {
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

    /// Whether the broker does not deliver a document that it has to deliver.
    pub(super) fn document_missing(&self) -> bool {
        (self.deaf && !self.no_document) || self.copies == Copies::KeptBack
    }

    /// Whether a document from this source that was judged applied or duplicate confirms:
    /// docs/protocol.md#confirmation.
    pub(super) fn confirms(&self, via: &Via) -> bool {
        match via {
            Via::Copy { connection, retain, dup } => *retain && !*dup && self.subscribe_sent && self.connection == Some(*connection),
            Via::Answer { connection, nonce } => self.connection == Some(*connection) && self.nonce.as_ref() == Some(nonce),
            Via::Https => true,
            Via::Overtaken { .. } => false,
        }
    }

    /// Records a confirmation at this BOOTTIME.
    pub(super) fn confirmed(&mut self, at: Duration) {
        self.asked = None;
        self.voucher = match self.voucher {
            _ if self.subscribe_sent && !self.deaf => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(at + VOUCHED)),
            Voucher::Connection | Voucher::None => Voucher::Until(at + VOUCHED),
        };
    }

    /// HTTPS has no document for this device.
    pub(super) fn missing(&mut self, now: Now) {
        self.no_document = true;
        if self.voucher == Voucher::Connection {
            return;
        }
        match &mut self.silence {
            // Still no voucher: the lease vouches on.
            Some(silence) => {
                silence.over = false;
                silence.last = now.boot;
            }
            None => self.silence = Some(Silence { since: now.boot, last: now.boot, over: false }),
        }
    }

    /// An HTTPS poll ended. A failed one is repeated before the next regular one; during the grace, if there was no
    /// answer, very soon.
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

    /// Whether an HTTPS poll is due; if so it counts as sent.
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

    /// When the next HTTPS poll is due, if any. After a `Date` that contradicts trusted time, the engine polls again
    /// as soon as a second answer counts, unless it has done so already.
    fn poll_due_at(&self, now: Now, needed: bool) -> Option<Duration> {
        let usual = (needed || self.wants_polls(now)).then_some(self.poll_at);
        let second = now.disputed.map(|dispute| {
            let counts_from = dispute.settles_at();
            if self.regular_at < counts_from + POLL { counts_from } else { self.poll_at }
        });
        usual.into_iter().chain(second).min()
    }

    fn wants_polls(&self, now: Now) -> bool {
        !(self.subscribed && self.is_confirmed() && self.copies == Copies::Heard && now.confirmed)
    }

    /// Poll over HTTPS at once.
    pub(super) fn poll_now(&mut self, now: Now) {
        self.poll_at = now.boot;
    }

    /// Whether the silence after a 404 has ended; the running lease then vouches until the next poll.
    pub(super) fn end_silence(&mut self, now: Now) -> bool {
        let Some(silence) = self.silence.as_mut().filter(|silence| !silence.over && now.boot >= silence.since + SILENCE) else {
            return false;
        };
        silence.over = true;
        // Counted from its end, however late that is noticed.
        let until = silence.last.max(silence.since + SILENCE).min(now.boot) + VOUCHED;
        self.voucher = match self.voucher {
            Voucher::Connection => Voucher::Connection,
            Voucher::Until(end) => Voucher::Until(end.max(until)),
            Voucher::None => Voucher::Until(until),
        };
        true
    }

    /// Whether the voucher has just expired.
    pub(super) fn expire(&mut self, now: Now) -> bool {
        let expired = matches!(self.voucher, Voucher::Until(end) if now.boot >= end);
        if expired {
            self.voucher = Voucher::None;
            // A silence that has ended needs another 404; one that is still running may open again.
            self.silence = self.silence.filter(|silence| !silence.over);
        }
        expired
    }

    /// The next time at which this must be checked.
    pub(super) fn wake_at(&self, now: Now, needed: bool) -> Duration {
        let mut wake = Duration::MAX;
        if let Voucher::Until(end) = self.voucher {
            wake = wake.min(end);
        }
        if let Some(silence) = self.silence.filter(|silence| !silence.over) {
            wake = wake.min(silence.since + SILENCE);
        }
        if let Some(since) = self.silent_since.filter(|_| !self.deaf) {
            wake = wake.min(since + DEAF);
        }
        if let Copies::Awaited(since) = self.copies {
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
