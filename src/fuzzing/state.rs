//! Target for the state on flash, as an attacker with access to the flash may leave it. The first byte of an input
//! selects: `S` a whole slot, `R` the record in a slot with a valid checksum. The engine starts from it and runs for
//! three days. In a record `ENTITLEMENT` and `KEYSET` stand for genuine tokens, which an attacker without the keys can
//! copy but not make.

use std::{collections::VecDeque, sync::LazyLock, time::Duration};

use bytes::Bytes;
use care_engine::{
    Admission, BadRecord, Connection, CutFigures, CutProgress, Delivery, Engine, Event, Fetched, Generation, Message, Ports, Record,
    Resource, Restored, Settings,
    durable::slot::{self, FORMAT, Slot},
    trusted_time::{LATEST, Now, Readings},
};
use care_protocol::{
    Channel, Entitlement, Erased, Get, Lease, MAX_INTEGER, Next, Order, Plan, Policy, Position, Reason, Refund, RefundKind, Report, Topic,
};

use super::{
    Verdict,
    documents::{ISSUER, TRUSTED},
};
use crate::{
    clock::{Clock, Dial},
    config::Config,
    status::StatusDocument,
};

const T0: u64 = 1_767_225_600;
const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };
/// The figures of a cut.
const FIGURES: CutFigures =
    CutFigures { generation: Generation(1), transfers: 1, bytes_after: Some(0), erased: Erased { clips: 1, bytes: 5 } };
const HOUR: Duration = Duration::from_secs(3600);

static ENTITLEMENT: LazyLock<String> = LazyLock::new(|| entitlement(41).sign(&TRUSTED.key));
static KEYSET: LazyLock<String> = LazyLock::new(|| TRUSTED.keyset.sign(&TRUSTED.root));

fn entitlement(seq: u64) -> Entitlement {
    Entitlement {
        iss: ISSUER.into(),
        aud: TRUSTED.device.clone(),
        account: "acct-5b1f".into(),
        epoch: 3.try_into().expect("an epoch"),
        seq: seq.try_into().expect("a sequence number"),
        plan: "premium".parse().expect("a plan"),
        reason: Reason::Subscribed,
        channel: Channel::Portal,
        iat: T0,
        lease: Lease { max_age_s: 172_800, not_after: T0 + 172_800 },
        policy: PREMIUM,
        next: Some(Next { plan: Plan::free(), effective_at: T0 + 86_400, reason: Reason::Cancelled, policy: FREE }),
        order: Some(Order {
            id: "KC-2026-000123".into(),
            refund: Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() },
        }),
        crit: Vec::new(),
    }
}

/// The record in a slot that another program may have written.
fn foreign_slot(bytes: &[u8]) -> Option<&[u8]> {
    match slot::decode(bytes) {
        Slot::Whole { format: FORMAT, sequence, record } => {
            // The next record can be written after it, and what is written is read back.
            assert!(slot::encode(sequence + 1, record).is_some_and(|next| slot::decode(&next) != Slot::Torn));
            Some(record)
        }
        Slot::Whole { .. } | Slot::Blank | Slot::Torn => None,
    }
}

pub(super) fn state(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((b'S', slot)) => match foreign_slot(slot) {
            Some(record) => started_from(record),
            None => Verdict::Refused,
        },
        Some((b'R', record)) => {
            let Ok(text) = std::str::from_utf8(record) else { return started_from(record) };
            started_from(text.replace("ENTITLEMENT", &ENTITLEMENT).replace("KEYSET", &KEYSET).as_bytes())
        }
        _ => Verdict::Refused,
    }
}

/// Starts an engine from this record and runs it: it connects, gets answers and confirmations, and time passes.
fn started_from(bytes: &[u8]) -> Verdict {
    let (restored, trusted) = match Record::read(bytes) {
        Ok(record) => {
            let trusted = Duration::from_secs(record.trusted_s);
            let reset = record.clone().factory_reset().to_bytes();
            assert!(Record::read(&reset).is_ok(), "what factory-reset leaves is read again");
            (Restored::Record(Box::new(record)), trusted)
        }
        Err(BadRecord::Format(_) | BadRecord::OutOfRange { .. } | BadRecord::Signature { .. }) => (Restored::Unreadable, Duration::ZERO),
    };
    let readings = Readings { boot: Duration::from_secs(20), system: Duration::from_secs(T0) };
    let (clock, dial) = Clock::dialled(trusted, readings);
    let engine = Engine::new(settings(), restored, clock.now());
    let outside = Outside { clock, owner: false, cuts: 0, cut: None, answers: VecDeque::new() };
    let mut camera = Camera { engine, dial, outside };
    let believed = !camera.engine.view(camera.outside.clock.now()).state_lost;
    camera.live();
    Verdict::of(believed)
}

fn settings() -> Settings {
    Settings {
        device: TRUSTED.device.clone(),
        issuer: ISSUER.into(),
        roots: TRUSTED.roots.clone(),
        min_keyset_version: 1,
        free: FREE,
        agent: "fuzzing".into(),
        nonce: Box::new(|| "AAAAAAAAAAAAAAAAAAAAAA".into()),
    }
}

struct Camera {
    engine: Engine,
    dial: Dial,
    outside: Outside,
}

/// The engine's ports: a flash, a broker and an API that answer at once.
struct Outside {
    clock: Clock,
    /// Whether a validly signed document has arrived.
    owner: bool,
    cuts: u8,
    /// After how many further events the cut in progress ends.
    cut: Option<u8>,
    /// The next events for the engine.
    answers: VecDeque<Event>,
}

impl Camera {
    fn live(&mut self) {
        self.engine.start(&mut self.outside);
        self.answer();
        assert!(
            self.engine.view(self.outside.clock.now()).may_leave == Policy::CLOSED || self.is_within_free(),
            "paid media before anybody vouched"
        );
        self.pass(Duration::from_secs(5));
        let connection = Connection(1);
        for event in [Event::Connected(connection), Event::SubscribeSent(connection), Event::Subscribed(connection)] {
            self.event(event);
        }
        self.outside.owner = true;
        for (topic, payload, retain) in [
            (Topic::Keyset, KEYSET.clone(), true),
            (Topic::Entitlement, ENTITLEMENT.clone(), true),
            (Topic::Entitlement, String::new(), false),
        ] {
            let received = self.outside.clock.now().boot;
            let message = Message {
                connection,
                topic,
                payload: payload.into(),
                retain,
                dup: false,
                received,
                delivery: Some(Delivery(1)),
                valid_until: LATEST,
            };
            self.event(Event::Message(message));
        }
        self.pass(HOUR);
        self.event(Event::Refused);
        self.event(Event::Reconfigured { free: FREE });
        self.event(Event::Lost(Some(connection)));
        self.pass(72 * HOUR);
        self.event(Event::Stopping);
        self.end_cut();
        self.answer();
    }

    fn is_within_free(&self) -> bool {
        let leave = self.engine.view(self.outside.clock.now()).may_leave;
        leave.floor(&FREE) == leave
    }

    fn pass(&mut self, by: Duration) {
        let now = self.outside.clock.now();
        assert!(self.engine.wake_at(now).is_none_or(|wake| wake > Duration::ZERO));
        self.dial.advance(by);
        self.event(Event::Tick);
        self.show();
    }

    /// Reads the engine's view, whatever the record contains.
    fn show(&self) {
        static CONFIG: LazyLock<Config> = LazyLock::new(|| {
            let text = include_str!("../../systemd/config.toml");
            Config::parse(text, "config.toml".as_ref()).expect("the installed example is good")
        });
        let now = self.outside.clock.now();
        let mut document = StatusDocument::new(&CONFIG);
        document.set_engine_view(self.engine.view(now), now);
        document.update_warnings();
        assert!(!document.rows().is_empty() && !document.summary().is_empty());
        assert!(serde_json::to_string(&document).is_ok());
    }

    fn event(&mut self, event: Event) {
        self.outside.answers.push_back(event);
        self.answer();
    }

    /// Passes waiting events to the engine, and those that follow from them.
    fn answer(&mut self) {
        while let Some(event) = self.outside.answers.pop_front() {
            match &mut self.outside.cut {
                Some(0) => self.end_cut(),
                Some(left) => *left -= 1,
                None => {}
            }
            self.engine.handle(event, &mut self.outside);
        }
    }

    fn end_cut(&mut self) {
        if self.outside.cut.take().is_some() {
            self.engine.handle(Event::CutDone(FIGURES), &mut self.outside);
        }
    }
}

impl Outside {
    fn carries_out(&self, what: &str) {
        assert!(self.cut.is_none(), "{what} before a cut has ended");
    }
}

impl Ports for Outside {
    fn now(&mut self) -> Now {
        self.clock.now()
    }

    fn cut(&mut self, _keep: Option<(Policy, Position)>) -> CutProgress {
        self.carries_out("a cut");
        // The first cut ends at once, the next one after an event, and so on.
        let after = self.cuts % 3;
        self.cuts = self.cuts.wrapping_add(1);
        if after == 0 {
            return CutProgress::Done(FIGURES);
        }
        self.cut = Some(after);
        CutProgress::UnderWay
    }

    fn open(&mut self, _admission: Admission) {
        self.carries_out("opened");
    }

    fn retry_refused(&mut self) {
        self.carries_out("a retry");
    }

    fn forget(&mut self) {
        self.carries_out("forgotten");
    }

    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.carries_out("a record");
        let written = Record::read(&record).expect("the agent reads what it writes");
        assert!(written.ratchet.seq <= MAX_INTEGER);
        self.answers.push_back(Event::Written { ticket });
    }

    fn acknowledge(&mut self, _delivery: Delivery) {
        self.carries_out("a PUBACK");
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        self.carries_out("a report");
        assert!(serde_json::to_vec(&report).is_ok());
        self.answers.push_back(Event::Published { ticket });
    }

    fn get(&mut self, _get: Get) {
        self.carries_out("a get");
    }

    /// The cloud answers once a signed document has arrived; before that it is unreachable.
    fn fetch(&mut self, resource: Resource) {
        self.carries_out("a question");
        let body = match resource {
            Resource::Entitlement => ENTITLEMENT.as_bytes(),
            Resource::Keyset => KEYSET.as_bytes(),
        };
        let fetched = if self.owner { Fetched::Found(Bytes::from_static(body).into()) } else { Fetched::Failed };
        self.answers.push_back(Event::Fetched(resource, fetched));
    }

    fn alarm(&mut self, _position: Position) {
        self.carries_out("an alarm");
    }

    fn raise_time(&mut self, issued: Duration) {
        self.clock.raise(issued);
    }

    fn set_time(&mut self, time: Duration) {
        self.clock.set(time);
    }
}
