//! The engine in memory: a bench with a clock that only moves when told, a gate that counts, and a disk that can fail.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use care_protocol::{
    Answer, Channel, Entitlement, Erased, Get, Key, Keyset, Lease, MAX_INTEGER, Next, Order, Outcome, Plan, Policy, Position, Reason,
    Refund, RefundKind, Report, Reset, Signer, Topic,
};

use super::{event::Effect, *};
use crate::trusted_time::{Corrector, Dispute};

mod corrections;

const T0: u64 = 1_767_225_600;
pub(super) const FREE: Policy = Policy { clips: true, history_h: 12, clip_max_s: 12, cooldown_s: 300, max_height: 720, snapshots: false };
const PLUS: Policy = Policy { clips: true, history_h: 336, clip_max_s: 60, cooldown_s: 30, max_height: 1080, snapshots: true };
const PREMIUM: Policy = Policy { clips: true, history_h: 720, clip_max_s: 120, cooldown_s: 0, max_height: 2160, snapshots: true };

/// A camera in a test: the engine, and what it acts on.
struct Bench {
    engine: Engine,
    keys: Keys,
    camera: Camera,
}

/// What the engine acts on, and what it has done there.
struct Camera {
    now: Now,
    /// The end of every server's certificates.
    valid_until: Duration,
    /// What the gate was told last, and how often it was cut.
    open: Admission,
    cuts: Vec<Option<(Policy, Position)>>,
    transfers: u32,
    disk: Disk,
    acked: Vec<u64>,
    reports: Vec<(u64, Report)>,
    gets: Vec<Get>,
    fetches: Vec<Resource>,
    log: Vec<&'static str>,
    delivery: u64,
}

#[derive(Default)]
struct Disk {
    fails: bool,
    slow: bool,
    pending: Vec<(u64, Vec<u8>)>,
    record: Option<Vec<u8>>,
    writes: u32,
}

struct Keys {
    root: Signer,
    signer: Signer,
}

impl Keys {
    fn new() -> Self {
        let signer = |kid| Signer::from_pkcs8(kid, &Signer::generate()).unwrap();
        Self { root: signer("root"), signer: signer("k1") }
    }

    fn keyset(&self, version: u64) -> Keyset {
        let key = Key { public: self.signer.public_key(), not_before: T0 - 1000 };
        Keyset { iss: "care".into(), version, iat: T0, keys: [("k1".to_owned(), key)].into(), revoked: vec![], resets: vec![] }
    }

    fn settings(&self) -> Settings {
        settings(&self.root)
    }
}

/// What an engine in a test knows of its device; documents come from keysets that `root` signs.
pub(super) fn settings(root: &Signer) -> Settings {
    let count = Cell::new(0u64);
    Settings {
        device: "CAM1".parse().unwrap(),
        issuer: "care".into(),
        roots: [("root".to_owned(), root.public_key())].into(),
        min_keyset_version: 1,
        free: FREE,
        agent: "test".into(),
        nonce: Box::new(move || {
            count.set(count.get() + 1);
            format!("nonce-{:022}", count.get())
        }),
    }
}

fn entitlement(seq: u64, plan: &str, policy: Policy) -> Entitlement {
    Entitlement {
        iss: "care".into(),
        aud: "CAM1".parse().unwrap(),
        account: "acct".into(),
        epoch: 3.try_into().unwrap(),
        seq: seq.try_into().unwrap(),
        plan: plan.parse().unwrap(),
        reason: if plan == "free" { Reason::Cancelled } else { Reason::Subscribed },
        channel: Channel::Portal,
        iat: T0,
        lease: Lease { max_age_s: 172_800, not_after: T0 + 172_800 },
        policy,
        next: None,
        order: None,
        crit: vec![],
    }
}

fn premium(seq: u64) -> Entitlement {
    entitlement(seq, "premium", PREMIUM)
}

fn free(seq: u64) -> Entitlement {
    entitlement(seq, "free", FREE)
}

impl Bench {
    fn new() -> Self {
        Self::with(Keys::new(), Restored::Empty)
    }

    fn with(keys: Keys, restored: Restored) -> Self {
        let now = Now { boot: Duration::from_secs(100), trusted: Duration::from_secs(T0), confirmed: true, ..Now::default() };
        let engine = Engine::new(keys.settings(), restored, now);
        let camera = Camera {
            now,
            valid_until: LATEST,
            open: Admission::CLOSED,
            cuts: vec![],
            transfers: 0,
            disk: Disk::default(),
            acked: vec![],
            reports: vec![],
            gets: vec![],
            fetches: vec![],
            log: vec![],
            delivery: 0,
        };
        let mut bench = Self { engine, keys, camera };
        bench.engine.start(&mut bench.camera);
        bench.flash_writes();
        bench
    }

    /// A camera with this document on record, connected and confirmed by the retained copy.
    fn confirmed(document: &Entitlement) -> Self {
        let mut bench = Self::new();
        bench.connect(1);
        bench.event(Event::Subscribed(Connection(1)));
        let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
        bench.deliver(1, Topic::Keyset, keyset.into_bytes(), true);
        bench.retained(1, document);
        bench.forget_log();
        bench
    }

    fn forget_log(&mut self) {
        self.acked.clear();
        self.reports.clear();
        self.gets.clear();
        self.fetches.clear();
        self.cuts.clear();
        self.log.clear();
        self.disk.writes = 0;
    }

    fn event(&mut self, event: Event) {
        self.engine.handle(event, &mut self.camera);
        self.flash_writes();
    }

    /// Unless the flash is slow.
    fn flash_writes(&mut self) {
        if !self.disk.slow {
            self.sync();
        }
    }

    /// Lets the disk do what waits for it: only the newest record is written.
    fn sync(&mut self) {
        let Some((ticket, record)) = self.disk.pending.pop() else { return };
        self.disk.pending.clear();
        if self.disk.fails {
            self.event(Event::WriteFailed { ticket });
        } else {
            self.disk.record = Some(record);
            self.disk.writes += 1;
            self.event(Event::Written { ticket });
        }
    }

    fn connect(&mut self, connection: u64) {
        self.event(Event::Connected(Connection(connection)));
        self.event(Event::SubscribeSent(Connection(connection)));
    }

    fn deliver(&mut self, connection: u64, topic: Topic, payload: impl Into<Vec<u8>>, retain: bool) -> u64 {
        self.delivery += 1;
        let message = Message {
            connection: Connection(connection),
            topic,
            payload: Bytes::from(payload.into()),
            retain,
            dup: false,
            received: self.now.boot,
            delivery: Some(Delivery(self.delivery)),
            valid_until: self.valid_until,
        };
        self.event(Event::Message(message));
        self.delivery
    }

    fn retained(&mut self, connection: u64, document: &Entitlement) -> u64 {
        let token = document.sign(&self.keys.signer);
        self.deliver(connection, Topic::Entitlement, token, true)
    }

    fn live(&mut self, document: &Entitlement) -> u64 {
        let token = document.sign(&self.keys.signer);
        self.deliver(1, Topic::Entitlement, token, false)
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now.boot + time;
        loop {
            let wake = self.engine.wake_at(self.now).expect("no cut is under way").max(self.now.boot + Duration::from_millis(1));
            let step = wake.min(end).saturating_sub(self.now.boot);
            self.now.boot += step;
            self.now.trusted += step;
            self.event(Event::Tick);
            if self.now.boot >= end {
                return;
            }
        }
    }

    fn mode(&self) -> Mode {
        self.engine.view(self.now).mode
    }

    fn last(&self) -> &Report {
        &self.reports.last().expect("a report").1
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.reports.iter().map(|(_, report)| report.outcome).collect()
    }

    /// Power is cut and comes back: what is not on the disk is gone.
    fn reboot(self) -> Self {
        let restored = match &self.disk.record {
            None => Restored::Empty,
            Some(record) => Record::read(record).map_or(Restored::Unreadable, |record| Restored::Record(Box::new(record))),
        };
        let Self { keys, camera, .. } = self;
        let mut bench = Self::with(keys, restored);
        bench.disk.record = camera.disk.record;
        bench
    }
}

impl Deref for Bench {
    type Target = Camera;

    fn deref(&self) -> &Camera {
        &self.camera
    }
}

impl DerefMut for Bench {
    fn deref_mut(&mut self) -> &mut Camera {
        &mut self.camera
    }
}

impl Camera {
    /// Trusted time is corrected.
    fn correct(&mut self, to: Duration) {
        let from = self.now.trusted;
        let moved = i64::try_from(to.as_millis()).unwrap() - i64::try_from(from.as_millis()).unwrap();
        let total_ms = self.now.corrected.map_or(0, |before| before.total_ms) + moved;
        self.now.trusted = to;
        self.now.corrected = Some(Correction { from, to, at: self.now.boot, by: Corrector::Date, total_ms });
    }
}

impl Ports for Camera {
    fn now(&mut self) -> Now {
        self.now
    }

    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress {
        self.log.push("cut");
        self.cuts.push(keep);
        self.open.leave = Policy::CLOSED;
        let transfers = std::mem::take(&mut self.transfers);
        self.now.boot += Duration::from_micros(7);
        CutProgress::Done(CutFigures {
            generation: Generation(self.cuts.len() as u64),
            transfers,
            bytes_after: u64::from(transfers) * 1448,
            erased: Erased { clips: u32::from(keep.is_some()), bytes: 5 },
        })
    }

    fn open(&mut self, admission: Admission) {
        self.log.push("open");
        self.open = admission;
    }

    fn retry_refused(&mut self) {
        self.log.push("retry");
    }

    fn forget(&mut self) {
        self.log.push("forget");
    }

    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.log.push("persist");
        self.disk.pending.push((ticket, record));
    }

    fn acknowledge(&mut self, Delivery(delivery): Delivery) {
        self.log.push("ack");
        self.acked.push(delivery);
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        self.log.push("report");
        self.reports.push((ticket, report));
    }

    fn get(&mut self, get: Get) {
        self.gets.push(get);
    }

    fn fetch(&mut self, resource: Resource) {
        self.fetches.push(resource);
    }

    fn alarm(&mut self, _position: Position) {
        self.log.push("alarm");
    }

    fn raise_time(&mut self, issued: Duration) {
        self.now.trusted = self.now.trusted.max(issued);
    }

    fn set_time(&mut self, time: Duration) {
        self.correct(time);
    }
}

#[test]
fn a_cancel_is_cut_written_acknowledged_opened_and_reported_in_this_order() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 2;
    assert_eq!(bench.open.leave, PREMIUM);
    bench.live(&free(42));
    assert_eq!(bench.log, ["cut", "persist", "ack", "open", "report"]);
    assert_eq!(bench.open.leave, FREE);
    assert_eq!(bench.cuts, [Some((FREE, Position { epoch: 3, seq: 42 }))]);
    let report = bench.last();
    assert_eq!((report.mode, report.cut.transfers, report.cut.micros, report.erased.clips), (Mode::Free, 2, 7, 1));
    assert_eq!((report.epoch, report.seq, report.cause, report.reason.as_str()), (3, 42, Cause::Document, "cancelled"));
    assert_eq!(report.judged, Some(Position { epoch: 3, seq: 42 }));
    assert!(report.persisted);
}

#[test]
fn an_upgrade_is_written_opened_acknowledged_and_reported_in_this_order() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    assert_eq!(bench.log, ["persist"]);
    assert_eq!((bench.open.leave, bench.mode()), (FREE, Mode::Free));
    bench.sync();
    assert_eq!(bench.log, ["persist", "open", "retry", "ack", "report"]);
    assert_eq!((bench.open.leave, bench.mode()), (PREMIUM, Mode::Paid));
}

#[test]
fn a_mixed_change_is_less_even_if_another_limit_rises() {
    let mut bench = Bench::confirmed(&entitlement(41, "plus", PLUS));
    bench.live(&entitlement(42, "odd", Policy { clip_max_s: 59, history_h: 9999, ..PLUS }));
    assert_eq!(bench.log, ["cut", "persist", "ack", "open", "report"]);
}

#[test]
fn a_renewal_disturbs_no_transfer() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 3;
    bench.live(&Entitlement { reason: Reason::Renewed, iat: T0 + 5, ..premium(42) });
    assert!(bench.cuts.is_empty());
    assert_eq!(bench.transfers, 3);
    assert_eq!(bench.outcomes(), [Outcome::Applied]);
}

#[test]
fn a_duplicate_is_acknowledged_and_writes_nothing() {
    let mut bench = Bench::confirmed(&premium(41));
    let delivery = bench.live(&premium(41));
    assert_eq!((bench.disk.writes, bench.acked.clone()), (0, vec![delivery]));
    assert_eq!(bench.outcomes(), [Outcome::Duplicate]);
}

#[test]
fn a_duplicate_of_what_is_still_being_written_reports_what_is_in_force() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    bench.live(&premium(42));
    let (_, duplicate) = bench.reports.iter().find(|(_, report)| report.outcome == Outcome::Duplicate).expect("the copy is reported");
    assert_eq!((duplicate.seq, duplicate.mode), (41, Mode::Free));
}

#[test]
fn stale_conflict_and_another_account_change_nothing() {
    let mut bench = Bench::confirmed(&free(42));
    bench.live(&premium(41));
    bench.live(&premium(42));
    bench.live(&Entitlement { account: "other".into(), ..premium(43) });
    assert_eq!(bench.outcomes(), [Outcome::Stale, Outcome::Conflict, Outcome::Rejected]);
    assert_eq!(bench.last().reason, "account_changed");
    assert_eq!((bench.open.leave, bench.acked.len(), bench.disk.writes), (FREE, 3, 0));
}

#[test]
fn a_failed_write_keeps_a_downgrade_in_memory_and_withholds_its_puback() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.fails = true;
    let delivery = bench.live(&free(42));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    assert!(!bench.last().persisted && bench.acked.is_empty());
    bench.disk.fails = false;
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!(bench.acked, [delivery]);
    assert!(bench.last().persisted);
    assert_eq!(bench.last().erased.clips, 1);
}

#[test]
fn a_failed_write_refuses_an_upgrade_and_withholds_its_puback() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.fails = true;
    let delivery = bench.live(&premium(42));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    assert_eq!((bench.last().outcome, bench.last().reason.as_str()), (Outcome::Rejected, "not_persisted"));
    assert!(bench.acked.is_empty());
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.acked.clone()), (Mode::Paid, vec![delivery]));
}

#[test]
fn cancel_and_subscribe_again_before_the_disk_is_done_opens_only_at_the_end() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&free(42));
    bench.live(&premium(43));
    assert_eq!(bench.open.leave, Policy::CLOSED);
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    assert_eq!((bench.acked.len(), bench.disk.writes, bench.cuts.len()), (2, 1, 1));
    assert_eq!((bench.last().seq, bench.last().erased.clips), (43, 1));
}

#[test]
fn a_burst_applies_the_last_and_costs_one_write() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    for seq in 42..1042 {
        bench.live(&if seq % 2 == 0 { free(seq) } else { premium(seq) });
    }
    bench.sync();
    assert_eq!((bench.acked.len(), bench.disk.writes, bench.mode()), (1000, 1, Mode::Paid));
    assert!(bench.acked.is_sorted());
    assert_eq!(bench.cuts.len(), 1, "Premium never opened again in between, so there was nothing more to cut");
}

#[test]
fn paid_media_waits_after_boot_until_the_retained_copy_confirms() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    bench.connect(1);
    assert_eq!(bench.last().mode, Mode::Held);
    bench.deliver(1, Topic::Entitlement, premium(41).sign(&bench.keys.signer), false);
    assert_eq!(bench.mode(), Mode::Held, "a copy without RETAIN may be old");
    bench.retained(1, &premium(41));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    assert_eq!((bench.last().cause, bench.last().outcome), (Cause::Confirmed, Outcome::Applied));
    assert!(bench.cuts.is_empty());
}

#[test]
fn only_the_newest_nonce_of_this_connection_confirms() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    let old = bench.gets.last().unwrap().nonce.clone();
    bench.deliver(1, Topic::Entitlement, Vec::new(), true);
    let newest = bench.gets.last().unwrap().nonce.clone();
    assert_ne!(old, newest);
    let token = premium(41).sign(&bench.keys.signer);
    let answer = |nonce: &str| serde_json::to_vec(&Answer { nonce: nonce.into(), token: token.clone() }).unwrap();
    bench.deliver(1, Topic::Answer, answer(&old), false);
    assert_eq!((bench.mode(), bench.last().outcome), (Mode::Held, Outcome::Duplicate), "judged, and confirms nothing");
    bench.deliver(1, Topic::Answer, answer(&newest), false);
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_lost_connection_holds_paid_media_after_ten_seconds_without_an_answer() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.transfers = 1;
    bench.event(Event::Lost(Some(Connection(1))));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.pass(Duration::from_millis(9_900));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.pass(Duration::from_millis(200));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    assert_eq!(bench.cuts, [None], "held erases nothing");
}

#[test]
fn https_keeps_paid_open_for_ninety_seconds_and_is_asked_every_sixty() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    for _ in 0..5 {
        bench.fetches.clear();
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
        bench.pass(Duration::from_secs(60));
        assert_eq!((bench.mode(), bench.fetches.clone()), (Mode::Paid, vec![Resource::Entitlement]));
    }
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(29));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn only_a_404_followed_by_silence_lets_the_lease_open_paid_media() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    for _ in 0..3 {
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_secs(120));
        assert_eq!(bench.mode(), Mode::Held, "no answer opens nothing");
    }
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_millis(14_900));
    assert_eq!(bench.mode(), Mode::Held);
    bench.pass(Duration::from_millis(200));
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_voice_within_the_silence_keeps_it_closed() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(5));
    bench.retained(1, &Entitlement { aud: "OTHER".parse().unwrap(), ..premium(41) });
    bench.pass(Duration::from_secs(20));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn the_lease_ends_by_age_and_by_date_and_erases_nothing() {
    for lease in [Lease { max_age_s: 600, not_after: T0 + 9999 }, Lease { max_age_s: 9999, not_after: T0 + 600 }] {
        let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
        bench.pass(Duration::from_secs(599));
        assert_eq!(bench.mode(), Mode::Paid);
        bench.pass(Duration::from_secs(1));
        assert_eq!((bench.mode(), bench.open.leave, bench.open.keep), (Mode::Free, FREE, PREMIUM));
        assert_eq!((bench.last().cause, bench.cuts.clone()), (Cause::Lease, vec![None]));
        bench.live(&Entitlement {
            reason: Reason::Renewed,
            iat: T0 + 600,
            lease: Lease { max_age_s: 600, not_after: T0 + 9999 },
            ..premium(42)
        });
        assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
    }
}

#[test]
fn the_used_part_of_a_lease_survives_a_reboot_and_the_age_at_receipt_counts() {
    let lease = Lease { max_age_s: 7200, not_after: T0 + 999_999 };
    let mut bench = Bench::confirmed(&Entitlement { iat: T0 - 600, lease, ..premium(41) });
    assert_eq!(bench.engine.view(bench.now).lease_left, Some(Duration::from_secs(6600)));
    bench.pass(Duration::from_secs(3700));
    let bench = bench.reboot();
    let left = bench.engine.view(bench.now).lease_left.unwrap();
    assert!((Duration::from_secs(2900)..=Duration::from_secs(3000)).contains(&left), "{left:?}");
}

#[test]
fn next_is_performed_on_time_and_its_document_never_restores_the_old_policy() {
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Cancelled, policy: FREE };
    let document = Entitlement { next: Some(next), ..premium(41) };
    let mut bench = Bench::confirmed(&document);
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.mode(), Mode::Paid);
    bench.transfers = 1;
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.log, ["cut", "persist", "open", "report"]);
    assert_eq!((bench.last().cause, bench.last().judged, bench.last().seq), (Cause::Next, None, 41));
    assert_eq!((bench.mode(), bench.open.leave, bench.last().plan.clone()), (Mode::Free, FREE, Some(Plan::free())));
    bench.retained(1, &document);
    assert_eq!((bench.mode(), bench.last().outcome), (Mode::Free, Outcome::Duplicate));
    let mut bench = bench.reboot();
    bench.connect(1);
    bench.retained(1, &document);
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
}

#[test]
fn a_next_in_the_past_applies_on_arrival_and_an_unconfirmed_clock_holds_a_pending_one() {
    let next = |at| Some(Next { plan: Plan::free(), effective_at: at, reason: Reason::Cancelled, policy: FREE });
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { next: next(T0 - 1), ..premium(42) });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));

    let mut bench = Bench::confirmed(&premium(41));
    bench.now.confirmed = false;
    bench.live(&Entitlement { next: next(T0 + 1000), ..premium(42) });
    assert_eq!((bench.mode(), bench.open.leave, bench.open.keep), (Mode::Held, FREE, PREMIUM));
    bench.now.confirmed = true;
    bench.event(Event::Tick);
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn an_unknown_key_waits_for_its_keyset_and_is_given_up_after_thirty_seconds() {
    let mut bench = Bench::new();
    bench.connect(1);
    let first = bench.retained(1, &premium(41));
    assert_eq!((bench.fetches.last(), bench.acked.len()), (Some(&Resource::Entitlement), 0), "the retained keyset may be on its way");
    bench.pass(Duration::from_secs(2));
    assert_eq!((bench.fetches.last(), bench.acked.len()), (Some(&Resource::Keyset), 0));
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    assert_eq!((bench.mode(), bench.acked.clone()), (Mode::Paid, vec![first]));

    let mut bench = Bench::new();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    bench.retained(1, &premium(41));
    let second = bench.retained(1, &premium(42));
    assert_eq!(bench.acked, [second - 1], "only the newest is held");
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
    bench.gets.clear();
    bench.pass(Duration::from_secs(31));
    assert_eq!((bench.acked.len(), bench.gets.len(), bench.last().reason.as_str()), (2, 1, "unknown_key"));
    assert_eq!(bench.fetches.iter().filter(|fetch| **fetch == Resource::Keyset).count(), 1, "once a minute");
}

#[test]
fn a_document_that_comes_twice_under_an_unknown_key_is_judged_twice_and_refused_never() {
    let mut bench = Bench::new();
    bench.connect(1);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.retained(1, &premium(41));
    bench.retained(1, &premium(41));
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    let judged: Vec<Outcome> =
        bench.reports.iter().filter(|(_, report)| report.judged.is_some()).map(|(_, report)| report.outcome).collect();
    assert!(judged.contains(&Outcome::Applied) && !judged.contains(&Outcome::Rejected), "{judged:?}");
    assert_eq!((bench.mode(), bench.acked.len()), (Mode::Paid, 3));
}

#[test]
fn a_revoked_key_is_refused_and_what_it_signed_before_stays() {
    let mut bench = Bench::confirmed(&premium(41));
    let revoking = Keyset { revoked: vec!["k1".into()], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, revoking, true);
    bench.live(&premium(42));
    assert_eq!((bench.last().reason.as_str(), bench.mode()), ("revoked_key", Mode::Paid));
    let bench = bench.reboot();
    assert_eq!((bench.mode(), bench.engine.view(bench.now).position.seq), (Mode::Held, 41), "on the key that verified it");
}

#[test]
fn a_lower_keyset_is_refused() {
    let mut bench = Bench::confirmed(&premium(41));
    let lower = bench.keys.keyset(6).sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, lower, true);
    assert_eq!((bench.last().outcome, bench.last().reason.as_str(), bench.last().keyset), (Outcome::Rejected, "old_keyset", 7));
}

#[test]
fn a_root_signed_reset_lowers_the_ratchet_once_and_never_raises_it() {
    let reset = |id, seq| Reset { id, aud: "CAM1".into(), epoch: 3, seq, time: None };
    let max = premium(care_protocol::MAX_INTEGER);
    let mut bench = Bench::confirmed(&max);
    bench.live(&free(42));
    assert_eq!(bench.last().outcome, Outcome::Stale);
    let keyset = Keyset { resets: vec![reset(4, 41)], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    bench.retained(1, &max);
    assert_eq!(bench.engine.ratchet.seq, 41, "the document in force is a duplicate and does not raise it again");
    bench.live(&free(42));
    assert_eq!((bench.mode(), bench.engine.ratchet.seq), (Mode::Free, 42));
    let again = Keyset { resets: vec![reset(4, 1)], ..bench.keys.keyset(9) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, again, true);
    let raising = Keyset { resets: vec![reset(5, 900)], ..bench.keys.keyset(10) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, raising, true);
    assert_eq!(bench.engine.ratchet.seq, 42);
}

#[test]
fn an_unreadable_state_obeys_only_https_and_reports_state_lost() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    bench.connect(1);
    assert_eq!((bench.last().cause, bench.last().mode), (Cause::StateLost, Mode::Unbound));
    let keyset = Keyset { resets: vec![Reset { id: 9, aud: "CAM1".into(), epoch: 1, seq: 1, time: None }], ..bench.keys.keyset(8) };
    let keyset = keyset.sign(&bench.keys.root);
    // Even with a keyset in hand HTTPS is asked for its own first: the ratchet that comes must not be lowered by an old reset.
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(7).sign(&bench.keys.root), true);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
    assert_eq!(bench.fetches, [Resource::Keyset]);
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.fetches, [Resource::Keyset; 2]);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    assert_eq!(bench.fetches, [Resource::Keyset, Resource::Keyset, Resource::Entitlement]);
    bench.retained(1, &premium(50));
    assert_eq!((bench.last().reason.as_str(), bench.disk.writes), ("state_lost", 0));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    assert_eq!(bench.mode(), Mode::Unbound);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    assert_eq!((bench.mode(), bench.engine.ratchet.seq, bench.engine.reset_id), (Mode::Paid, 41, 9));
    assert_eq!(bench.disk.writes, 1);
}

#[test]
fn after_a_factory_reset_only_a_higher_epoch_binds() {
    let bench = Bench::confirmed(&premium(41));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap().factory_reset();
    let mut bench = Bench::with(bench.keys, Restored::Record(Box::new(record)));
    assert_eq!(bench.mode(), Mode::Unbound);
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    assert_eq!((bench.gets[0].epoch, bench.gets[0].seq), (3, 41));
    for seq in [41, 42, 1000] {
        bench.retained(1, &premium(seq));
        let last = bench.last();
        assert_eq!((bench.mode(), last.outcome, last.reason.as_str()), (Mode::Unbound, Outcome::Rejected, "factory_reset"));
    }
    assert!(bench.engine.view(bench.now).factory_reset && bench.engine.view(bench.now).rejected.is_none());
    bench.retained(1, &Entitlement { epoch: 4.try_into().unwrap(), ..premium(1) });
    assert_eq!((bench.mode(), bench.engine.view(bench.now).factory_reset), (Mode::Paid, false));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert_eq!(record.factory_reset, None);
}

#[test]
fn that_a_camera_was_reset_is_told_until_it_is_delivered() {
    let bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap().factory_reset();
    let mut keys = bench.keys;
    for delivered in [false, true] {
        let mut bench = Bench::with(keys, Restored::Record(Box::new(record)));
        bench.connect(1);
        let told: Vec<_> = bench.reports.iter().map(|(_, report)| (report.cause, report.outcome, report.mode)).collect();
        assert_eq!(told, [(Cause::FactoryReset, Outcome::Applied, Mode::Unbound)]);
        if delivered {
            let ticket = bench.reports[0].0;
            bench.event(Event::Published { ticket });
        }
        bench.event(Event::Stopping);
        record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
        keys = bench.keys;
    }
    let mut bench = Bench::with(keys, Restored::Record(Box::new(record)));
    bench.connect(1);
    assert_eq!((bench.reports.len(), bench.last().cause, bench.mode()), (1, Cause::Boot, Mode::Unbound));
    bench.retained(1, &premium(42));
    assert_eq!(bench.last().reason, "factory_reset", "told or not, it was reset");
}

#[test]
fn a_deaf_connection_counts_as_none() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.connect(2);
    bench.event(Event::Subscribed(Connection(2)));
    bench.pass(Duration::from_secs(2));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
    assert_eq!((bench.mode(), bench.engine.view(bench.now).broker_deaf), (Mode::Paid, false));
    bench.forget_log();
    bench.pass(Duration::from_secs(8));
    assert!(bench.engine.view(bench.now).broker_deaf, "ten seconds after the get");
    assert!(bench.last().detail.as_ref().is_some_and(|detail| detail.contains("granted the subscription")), "{:?}", bench.last());
    assert_eq!((bench.last().outcome, bench.last().mode), (Outcome::Applied, Mode::Paid));
    for asked in 1..=3 {
        assert_eq!(bench.fetches.len(), asked, "at once, and every 60 s");
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into())));
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.mode(), Mode::Paid);
    }
    let cancel = free(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(cancel.into())));
    assert_eq!(bench.mode(), Mode::Free);

    bench.deliver(2, Topic::Entitlement, "nonsense", false);
    assert!(!bench.engine.view(bench.now).broker_deaf, "something has come");
    bench.pass(Duration::from_millis(1));
    assert!(bench.reports.iter().any(|(_, report)| report.outcome == Outcome::Applied && report.detail.is_none()));
}

#[test]
fn a_deaf_connection_vouches_for_nothing_and_a_camera_without_a_document_misses_none() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    let token = premium(41).sign(&bench.keys.signer);
    bench.pass(Duration::from_secs(5));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(14));
    assert_eq!(bench.mode(), Mode::Paid, "in its grace");
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.mode(), Mode::Held, "neither the broker nor the API says anything");

    let mut bench = Bench::new();
    bench.connect(1);
    bench.event(Event::Subscribed(Connection(1)));
    bench.pass(Duration::from_secs(2));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(60));
    assert!(!bench.engine.view(bench.now).broker_deaf, "there is nothing to deliver");
}

#[test]
fn one_lost_poll_costs_no_paid_minute() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    let found = || Event::Fetched(Resource::Entitlement, Fetched::Found(token.clone().into()));
    for lost in [Fetched::Failed, Fetched::Declined] {
        bench.event(found());
        bench.forget_log();
        bench.pass(Duration::from_secs(60));
        assert_eq!(bench.fetches.len(), 1);
        // As long as an answer is waited for.
        bench.pass(Duration::from_secs(10));
        bench.event(Event::Fetched(Resource::Entitlement, lost));
        bench.pass(Duration::from_secs(15));
        assert_eq!((bench.fetches.len(), bench.mode()), (2, Mode::Paid));
    }
    bench.event(found());
    assert_eq!((bench.mode(), bench.cuts.as_slice()), (Mode::Paid, &[][..]));
}

#[test]
fn a_document_that_waited_for_its_key_confirms_no_later_connection() {
    let mut bench = Bench::confirmed(&premium(41));
    let second = Signer::from_pkcs8("k2", &Signer::generate()).unwrap();
    bench.event(Event::Lost(Some(Connection(1))));
    let renewed = premium(42).sign(&second);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(renewed.into())));
    bench.pass(Duration::from_secs(11));
    assert_eq!(bench.mode(), Mode::Held);
    bench.connect(2);
    let mut keyset = bench.keys.keyset(8);
    keyset.keys.insert("k2".into(), Key { public: second.public_key(), not_before: 0 });
    let keyset = keyset.sign(&bench.keys.root);
    bench.deliver(2, Topic::Keyset, keyset.into_bytes(), true);
    assert_eq!((bench.engine.ratchet.seq, bench.mode()), (42, Mode::Held), "it was asked for before this connection");
}

#[test]
fn a_next_that_gives_opens_once_it_is_on_flash() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.disk.slow = true;
    bench.pass(Duration::from_secs(65));
    assert_eq!((bench.open.leave, bench.mode(), bench.log.as_slice()), (FREE, Mode::Free, &["persist"][..]));
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().cause), (PREMIUM, Mode::Paid, Cause::Next));
    bench.retained(1, &Entitlement { next: None, ..premium(42) });
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_flash_that_never_answers_holds_up_what_both_plans_allow_for_ten_seconds() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    let cancel = bench.live(&free(42));
    bench.pass(Duration::from_millis(9_990));
    assert_eq!((bench.open.leave, bench.reports.len()), (Policy::CLOSED, 0));
    bench.pass(Duration::from_millis(10));
    assert_eq!((bench.open.leave, bench.last().persisted, bench.last().mode), (FREE, false, Mode::Free));
    assert!(!bench.acked.contains(&cancel), "not before it is written");
    bench.sync();
    assert_eq!((bench.last().persisted, bench.acked.contains(&cancel)), (true, true));

    bench.disk.slow = true;
    bench.live(&premium(43));
    bench.pass(Duration::from_secs(11));
    assert_eq!((bench.open.leave, bench.last().reason.as_str()), (FREE, "not_persisted"));
    bench.sync();
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_root_key_that_the_configuration_has_lost_verifies_nothing_new_and_takes_nothing_away() {
    let bench = Bench::confirmed(&premium(41));
    let Bench { keys, camera: Camera { disk, now, .. }, .. } = bench;
    let mut bytes = disk.record.unwrap();
    let new_root = Signer::from_pkcs8("root-2", &Signer::generate()).unwrap();
    for restart in 0..3 {
        let record = Box::new(Record::read(&bytes).unwrap());
        let mut engine = Engine::new(settings(&new_root), Restored::Record(record), now);
        let mut effects = engine.boot(now);
        let view = engine.view(now);
        assert_eq!((view.state_lost, view.mode, view.position.seq), (false, Mode::Held, 41), "restart {restart}");
        let by_the_old = keys.keyset(9).sign(&keys.root);
        effects.extend(engine.decide(Event::Fetched(Resource::Keyset, Fetched::Found(by_the_old.into())), now));
        let lower = keys.keyset(6).sign(&new_root);
        effects.extend(engine.decide(Event::Fetched(Resource::Keyset, Fetched::Found(lower.into())), now));
        assert_eq!(engine.view(now).keyset, 0, "neither is believed");
        effects.extend(engine.decide(Event::Stopping, now));
        bytes = effects
            .into_iter()
            .rev()
            .find_map(|effect| if let Effect::Persist { record, .. } = effect { Some(record) } else { None })
            .unwrap();
    }
    // A stranger's root is none that this agent has ever believed.
    let mut record = Record::read(&bytes).unwrap();
    record.roots = settings(&new_root).roots;
    assert!(Engine::new(settings(&new_root), Restored::Record(Box::new(record)), now).lost);
}

#[test]
fn another_account_erases_and_forgets_before_anything_opens() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { account: "new".into(), epoch: 4.try_into().unwrap(), ..premium(1) });
    assert_eq!(bench.log, ["cut", "forget", "persist", "open"]);
    assert_eq!((bench.open.record, bench.open.leave), (PREMIUM, Policy::CLOSED), "the new owner's clips are recorded, none leaves yet");
    bench.sync();
    assert_eq!(bench.log[4..], ["ack", "open", "report"]);
    assert_eq!((bench.mode(), bench.open.position.epoch), (Mode::Paid, 4));
}

#[test]
fn an_unbound_camera_uploads_nothing_and_says_so() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { reason: Reason::Unbound, ..entitlement(42, "free", Policy { clips: false, ..FREE }) });
    assert_eq!((bench.mode(), bench.open.leave.clips), (Mode::Unbound, false));
    bench.pass(Duration::from_secs(172_801));
    assert_eq!(bench.mode(), Mode::Unbound, "also once its lease has ended");
}

#[test]
fn a_refused_grant_holds_until_a_confirmation_and_then_retries_from_five_seconds_doubling() {
    let mut bench = Bench::confirmed(&premium(41));
    for pause in [5, 10, 20, 40, 60, 60] {
        bench.forget_log();
        bench.event(Event::Refused);
        assert_eq!((bench.mode(), bench.last().cause, bench.cuts.clone()), (Mode::Held, Cause::Refused, vec![None]));
        let nonce = bench.gets.last().expect("a get is sent").nonce.clone();
        let token = premium(41).sign(&bench.keys.signer);
        bench.deliver(1, Topic::Answer, serde_json::to_vec(&Answer { nonce, token }).unwrap(), false);
        bench.pass(Duration::from_secs(pause) - Duration::from_millis(10));
        assert_eq!(bench.mode(), Mode::Held);
        bench.pass(Duration::from_millis(20));
        assert_eq!(bench.mode(), Mode::Paid);
        assert!(bench.log.contains(&"retry"));
    }
    bench.event(Event::Refused);
    bench.live(&premium(40));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(14 * 60));
    assert_eq!(bench.mode(), Mode::Held, "without a confirmation every 15 minutes");
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.mode(), Mode::Paid);
}

#[test]
fn a_refusal_on_a_free_plan_asks_and_holds_nothing() {
    let mut bench = Bench::confirmed(&free(41));
    let gets = bench.gets.len();
    bench.event(Event::Refused);
    assert_eq!((bench.mode(), bench.gets.len()), (Mode::Free, gets + 1));
}

#[test]
fn s39_the_newest_applied_report_is_sent_until_acknowledged_also_after_a_power_cut() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    let mut bench = bench.reboot();
    bench.connect(2);
    let owed = bench.reports[0].clone();
    assert_eq!((owed.1.seq, owed.1.cause, owed.1.erased.clips), (42, Cause::Document, 1));
    bench.forget_log();
    bench.event(Event::Lost(Some(Connection(2))));
    bench.connect(3);
    assert_eq!(bench.reports[0], owed, "again, until it is acknowledged");
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.connect(4);
    assert!(bench.reports.is_empty());
}

#[test]
fn other_outcomes_are_limited_to_a_burst_of_five_and_one_a_minute() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..100 {
        bench.deliver(1, Topic::Entitlement, "nonsense", false);
    }
    assert_eq!(bench.reports.len(), 5);
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.reports.len(), 6, "the newest of the rest, once its turn has come");
    bench.pass(Duration::from_secs(600));
    assert_eq!((bench.reports.len(), bench.acked.len()), (6, 100));
}

#[test]
fn a_reset_confirmed_by_an_order_id_is_forgotten_with_the_owner() {
    let order = Order { id: "KC-1".into(), refund: Refund { kind: RefundKind::Credit, amount_minor: 1, currency: "USD".into() } };
    let mut bench = Bench::confirmed(&Entitlement { order: Some(order), ..premium(41) });
    assert_eq!(bench.engine.view(bench.now).order.as_deref(), Some("KC-1"));
    bench.live(&Entitlement { account: "new".into(), epoch: 4.try_into().unwrap(), ..free(1) });
    assert_eq!(bench.engine.view(bench.now).order, None);
}

#[test]
fn an_edited_record_is_as_good_as_unreadable() {
    let mut bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    let token = record.entitlement.clone().unwrap();
    let (head, rest) = token.split_once('.').unwrap();
    let (payload, signature) = rest.split_once('.').unwrap();
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload).unwrap();
    let forged = String::from_utf8(payload).unwrap().replace("\"clip_max_s\":120", "\"clip_max_s\":999");
    let forged = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(forged);
    record.entitlement = Some(format!("{head}.{forged}.{signature}"));
    bench.disk.record = Some(record.to_bytes());
    let bench = bench.reboot();
    assert!(bench.engine.view(bench.now).state_lost);
    assert_eq!(bench.open, Admission::CLOSED);
}

#[test]
fn numbers_that_no_document_and_no_clock_can_bring_make_a_record_unreadable() {
    type Edit = fn(&mut Record);
    let edits: [Edit; 5] = [
        |record| record.lease_used_s = u64::MAX,
        |record| record.trusted_s = u64::MAX,
        |record| record.ratchet.epoch = u64::MAX,
        |record| record.ratchet.seq = u64::MAX,
        |record| record.reset_id = u64::MAX,
    ];
    for edit in edits {
        let mut bench = Bench::confirmed(&premium(41));
        let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
        edit(&mut record);
        bench.disk.record = Some(record.to_bytes());
        let mut bench = bench.reboot();
        assert!(bench.engine.view(bench.now).state_lost, "{record:?}");
        bench.pass(Duration::from_secs(2));
        assert_eq!(bench.open, Admission::CLOSED);
    }
}

#[test]
fn a_document_from_the_end_of_time_leaves_a_record_that_is_read_again() {
    let lease = Lease { max_age_s: MAX_INTEGER, not_after: MAX_INTEGER };
    let mut bench = Bench::confirmed(&Entitlement { iat: LATEST.as_secs(), lease, ..premium(41) });
    bench.pass(Duration::from_secs(7200));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert_eq!(record.trusted_s, LATEST.as_secs() + 7200);
    let bench = bench.reboot();
    assert!(!bench.engine.view(bench.now).state_lost);
}

#[test]
fn a_lease_used_up_beyond_measure_is_over_and_nothing_overflows() {
    let mut bench = Bench::confirmed(&premium(41));
    let mut record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    record.lease_used_s = u64::MAX;
    bench.engine = Engine::new(bench.keys.settings(), Restored::Record(Box::new(record)), bench.now);
    bench.pass(Duration::from_secs(5));
    assert_eq!((bench.mode(), bench.engine.view(bench.now).lease_left), (Mode::Free, Some(Duration::ZERO)));
}

#[test]
fn what_is_not_on_flash_yet_is_not_reported_as_in_force() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&premium(42));
    bench.live(&premium(42));
    let in_force = |report: &Report| (report.seq, report.plan.clone(), report.mode);
    assert_eq!((bench.last().outcome, in_force(bench.last())), (Outcome::Duplicate, (41, Some(Plan::free()), Mode::Free)));
    bench.disk.fails = true;
    bench.sync();
    assert_eq!((bench.last().reason.as_str(), in_force(bench.last())), ("not_persisted", (41, Some(Plan::free()), Mode::Free)));
    assert_eq!(bench.last().judged, Some(Position { epoch: 3, seq: 42 }));
}

#[test]
fn a_report_while_a_downgrade_is_being_written_says_that_it_is_not_persisted() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&free(42));
    bench.live(&free(42));
    assert!(!bench.last().persisted);
    bench.disk.fails = true;
    bench.sync();
    bench.disk.fails = false;
    bench.event(Event::Stopping);
    bench.sync();
    let bench = bench.reboot();
    let owed = bench.engine.reports.undelivered().unwrap();
    assert!(owed.persisted, "whoever reads it on flash, it was written");
}

#[test]
fn a_rejection_that_waited_for_its_turn_never_comes_after_a_newer_state() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..9 {
        bench.deliver(1, Topic::Entitlement, "nonsense", false);
    }
    bench.live(&free(42));
    bench.pass(Duration::from_secs(300));
    assert_eq!((bench.last().outcome, bench.last().mode), (Outcome::Applied, Mode::Free), "the retained report says what is in force");
}

#[test]
fn a_keyset_that_the_configuration_no_longer_trusts_leaves_the_document_in_force() {
    let bench = Bench::confirmed(&premium(41));
    let Bench { keys, camera: Camera { disk, now, .. }, .. } = bench;
    let record = Record::read(disk.record.as_ref().unwrap()).unwrap();
    let settings = Settings { min_keyset_version: 8, ..keys.settings() };
    let mut engine = Engine::new(settings, Restored::Record(Box::new(record)), now);
    let mut effects = engine.boot(now);
    effects.extend(engine.decide(Event::Stopping, now));
    let written = |effect| if let Effect::Persist { record, .. } = effect { Some(record) } else { None };
    let record = effects.into_iter().rev().find_map(written);
    let settings = Settings { min_keyset_version: 8, ..keys.settings() };
    let engine = Engine::new(settings, Restored::Record(Box::new(Record::read(&record.unwrap()).unwrap())), now);
    assert!(!engine.lost);
    assert_eq!((engine.mode(now), engine.ratchet.seq, engine.view(now).keyset), (Mode::Held, 41, 0));
}

#[test]
fn a_key_that_changes_under_its_name_leaves_the_document_in_force() {
    let mut bench = Bench::confirmed(&premium(41));
    let later = Key { public: bench.keys.signer.public_key(), not_before: T0 + 1 };
    let keyset = Keyset { keys: [("k1".to_owned(), later)].into(), ..bench.keys.keyset(8) };
    bench.deliver(1, Topic::Keyset, keyset.sign(&bench.keys.root), true);
    let bench = bench.reboot();
    assert_eq!((bench.engine.lost, bench.engine.ratchet.seq, bench.mode()), (false, 41, Mode::Held));
}

#[test]
fn a_404_after_a_loss_opens_after_fifteen_seconds_of_silence_although_the_grace_ends_after_ten() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    bench.pass(Duration::from_secs(10));
    assert_eq!(bench.mode(), Mode::Held);
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.mode(), Mode::Paid);
    for _ in 0..5 {
        bench.fetches.clear();
        bench.pass(Duration::from_secs(60));
        assert_eq!((bench.mode(), bench.fetches.len()), (Mode::Paid, 1));
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Missing));
    }
    bench.pass(Duration::from_secs(59));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(120));
    assert_eq!(bench.mode(), Mode::Held);
}

#[test]
fn a_next_that_fell_due_while_the_power_was_off_is_in_force_before_anything_opens() {
    let closed = Policy { clips: false, ..FREE };
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::TrialEnded, policy: closed };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..premium(41) });
    bench.pass(Duration::from_secs(10));
    let Bench { keys, camera: Camera { disk, mut now, .. }, .. } = bench;
    now.trusted += Duration::from_secs(120);
    let record = Record::read(disk.record.as_ref().unwrap()).unwrap();
    let mut engine = Engine::new(keys.settings(), Restored::Record(Box::new(record)), now);
    let mut effects = engine.boot(now);
    effects.extend(engine.decide(Event::Written { ticket: 1 }, now));
    let opened: Vec<Policy> =
        effects.iter().filter_map(|effect| if let Effect::Open(admission) = effect { Some(admission.leave) } else { None }).collect();
    assert_eq!(opened, [Policy::CLOSED, closed]);
    assert_eq!((engine.mode(now), engine.view(now).last_switch.unwrap().cause), (Mode::Free, Cause::Next));
}

#[test]
fn a_next_that_gives_opens_before_it_is_reported() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.log, ["persist", "open", "report"]);
    assert_eq!((bench.mode(), bench.last().cause, bench.last().reason.as_str()), (Mode::Paid, Cause::Next, "upgraded"));
}

#[test]
fn a_document_whose_next_falls_due_on_its_way_to_the_disk_never_opens_what_it_gave_before() {
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Cancelled, policy: FREE };
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { next: Some(next), ..premium(42) });
    bench.pass(Duration::from_secs(61));
    let cuts = bench.cuts.len();
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.cuts.len()), (FREE, Mode::Free, cuts), "nothing had to be closed again");
    assert_eq!((bench.last().seq, bench.last().plan.clone(), bench.acked.len()), (42, Some(Plan::free()), 1));
}

#[test]
fn a_lease_that_ends_on_the_way_to_the_disk_is_cut_and_reported_last() {
    let lease = Lease { max_age_s: 60, not_after: T0 + 9999 };
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { lease, ..premium(42) });
    bench.now.boot += Duration::from_secs(61);
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().mode), (FREE, Mode::Free, Mode::Free));
    let tickets: Vec<u64> = bench.reports.iter().map(|(ticket, _)| *ticket).collect();
    assert!(tickets.is_sorted(), "{tickets:?}");
}

#[test]
fn an_old_document_from_the_future_moves_time_in_the_same_breath() {
    let lease = Lease { max_age_s: 99_999, not_after: T0 + 600 };
    let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
    bench.live(&Entitlement { iat: T0 + 700, ..premium(40) });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    let keyset = Keyset { iat: T0 + 900, ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    assert_eq!(Record::read(bench.disk.record.as_ref().unwrap()).unwrap().trusted_s, T0 + 900);
}

#[test]
fn what_waits_for_its_puback_is_forgotten_with_the_connection() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.fails = true;
    for connection in 1..50 {
        bench.connect(connection);
        bench.retained(connection, &free(42));
        bench.event(Event::Lost(Some(Connection(connection))));
    }
    assert!(bench.engine.unacknowledged.is_empty() && bench.acked.is_empty());
}

#[test]
fn a_next_that_gives_waits_for_a_higher_document_that_is_being_written() {
    let next = Next { plan: "premium".parse().unwrap(), effective_at: T0 + 60, reason: Reason::Upgraded, policy: PREMIUM };
    let mut bench = Bench::confirmed(&Entitlement { next: Some(next), ..free(41) });
    bench.disk.fails = true;
    bench.live(&free(42));
    bench.pass(Duration::from_secs(120));
    assert_eq!((bench.mode(), bench.open.keep), (Mode::Free, FREE), "the higher document has withdrawn it");
}

#[test]
fn a_next_that_takes_is_performed_although_its_document_cannot_be_written() {
    let low = Policy { clip_max_s: 5, ..FREE };
    let next = Next { plan: Plan::free(), effective_at: T0 + 60, reason: Reason::Downgraded, policy: low };
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.fails = true;
    bench.live(&Entitlement { next: Some(next), ..premium(42) });
    bench.pass(Duration::from_secs(60));
    assert_eq!((bench.open.leave, bench.last().seq, bench.last().persisted, bench.acked.len()), (low, 42, false, 0));
}

#[test]
fn what_is_judged_without_a_connection_is_reported_on_the_next_one() {
    let mut bench = Bench::confirmed(&free(42));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.forget_log();
    let other = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(other.into())));
    assert_eq!((bench.log.as_slice(), bench.engine.view(bench.now).conflict), (&["alarm"][..], Some(Position { epoch: 3, seq: 42 })));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found("nonsense".into())));
    bench.pass(Duration::from_secs(30));
    assert!(bench.reports.is_empty());
    bench.connect(2);
    let mut said: Vec<&str> = bench.reports.iter().map(|(_, report)| report.reason.as_str()).collect();
    said.sort_unstable();
    assert!(said.contains(&"conflict") && said.contains(&"bad_form"), "{said:?}");
    bench.live(&free(43));
    assert_eq!(bench.engine.view(bench.now).conflict, None, "a higher document ends the doubt");
}

#[test]
fn every_conflict_raises_the_alarm_however_many_are_reported() {
    let mut bench = Bench::confirmed(&free(42));
    for _ in 0..20 {
        bench.live(&premium(42));
    }
    let count = |what| bench.log.iter().filter(|said| **said == what).count();
    assert_eq!((count("alarm"), count("report")), (20, 5));
}

#[test]
fn a_lost_state_is_reported_also_if_https_has_set_it_anew_before_there_is_a_connection() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    let keyset = bench.keys.keyset(7).sign(&bench.keys.root);
    bench.event(Event::Fetched(Resource::Keyset, Fetched::Found(keyset.into())));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.connect(1);
    let causes: Vec<Cause> = bench.reports.iter().map(|(_, report)| report.cause).collect();
    assert_eq!(causes, [Cause::StateLost, Cause::Document]);
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.connect(2);
    assert!(bench.reports.is_empty(), "told once");
}

#[test]
fn a_lost_state_fetches_its_keyset_once_a_minute_however_often_the_connection_is_lost() {
    let mut bench = Bench::with(Keys::new(), Restored::Unreadable);
    for connection in 1..=20 {
        bench.event(Event::Fetched(Resource::Keyset, Fetched::Failed));
        bench.connect(connection);
        bench.event(Event::Lost(Some(Connection(connection))));
        bench.pass(Duration::from_secs(3));
    }
    assert_eq!(bench.fetches, [Resource::Keyset; 2], "in the minute that has passed, and at its end");
}

#[test]
fn a_delivered_report_is_not_said_again_after_a_power_cut() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    let mut bench = bench.reboot();
    bench.connect(2);
    let causes: Vec<Cause> = bench.reports.iter().map(|(_, report)| report.cause).collect();
    assert_eq!(causes, [Cause::Boot]);
}

#[test]
fn a_duplicate_writes_nothing_also_when_its_report_is_acknowledged() {
    let mut bench = Bench::confirmed(&premium(41));
    for (ticket, _) in std::mem::take(&mut bench.reports) {
        bench.event(Event::Published { ticket });
    }
    bench.forget_log();
    bench.live(&premium(41));
    for (ticket, _) in bench.reports.clone() {
        bench.event(Event::Published { ticket });
    }
    assert_eq!(bench.disk.writes, 0);
}

#[test]
fn the_report_of_a_lease_that_ended_offline_survives_a_power_cut() {
    for transfers in [0, 1] {
        let lease = Lease { max_age_s: 600, not_after: T0 + 9999 };
        let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
        bench.event(Event::Lost(Some(Connection(1))));
        bench.transfers = transfers;
        bench.pass(Duration::from_secs(601));
        let mut bench = bench.reboot();
        bench.connect(2);
        assert_eq!((bench.reports[0].1.cause, bench.reports[0].1.mode), (Cause::Lease, Mode::Free));
    }
}

#[test]
fn a_cloud_that_declines_is_asked_again_soon_but_not_in_haste() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_millis(4_999));
    assert_eq!((bench.fetches.len(), bench.mode()), (1, Mode::Paid));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.fetches.len(), 2);
}

#[test]
fn a_document_that_could_not_be_written_confirms_nothing_until_it_is() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.fails = true;
    bench.connect(1);
    bench.retained(1, &premium(42));
    bench.retained(1, &premium(42));
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
    bench.disk.fails = false;
    let ticket = bench.engine.tickets;
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.open.leave, bench.engine.view(bench.now).position.seq), (Mode::Paid, PREMIUM, 42));
}

#[test]
fn what_https_has_confirmed_counts_from_its_answer_and_not_from_when_it_is_written() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    let token = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.now.boot += Duration::from_secs(91);
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Held, FREE));
}

#[test]
fn a_confirmation_ends_with_its_connection_also_while_its_document_is_being_written() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    bench.connect(1);
    bench.retained(1, &premium(42));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.connect(2);
    bench.sync();
    assert_eq!((bench.mode(), bench.engine.is_confirmed()), (Mode::Held, false));
}

#[test]
fn resets_that_were_missed_are_applied_in_their_order() {
    let reset = |id, seq| Reset { id, aud: "CAM1".into(), epoch: 3, seq, time: None };
    let mut bench = Bench::confirmed(&premium(50));
    let keyset = Keyset { resets: vec![reset(5, 30), reset(4, 10)], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    assert_eq!((bench.engine.ratchet.seq, bench.engine.reset_id), (10, 5));
}

/// Found by the simulation: a reset lets another document stand where the one in force stands.
#[test]
fn what_confirms_a_document_that_is_being_written_does_not_open_the_one_before() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.connect(1);
    bench.disk.slow = true;
    let lease = Lease { max_age_s: 60, not_after: T0 + 9999 };
    let ended = Entitlement { iat: T0 - 100, lease, ..premium(42) };
    bench.live(&ended);
    bench.retained(1, &ended);
    assert_eq!((bench.last().outcome, bench.open.leave), (Outcome::Duplicate, FREE), "its lease had ended before it came");
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().seq), (FREE, Mode::Free, 42));
}

#[test]
fn a_lease_that_ends_while_its_document_is_being_written_lets_nothing_more_out() {
    let lease = Lease { max_age_s: 8, not_after: T0 + 9999 };
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.live(&Entitlement { lease, ..premium(42) });
    bench.pass(Duration::from_secs(7));
    assert_eq!(bench.open.leave, PREMIUM);
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.open.leave, bench.cuts.as_slice()), (FREE, &[None][..]), "cut at once, and nothing erased");
    bench.sync();
    assert_eq!((bench.open.leave, bench.mode(), bench.last().mode), (FREE, Mode::Free, Mode::Free));
}

/// Found by the simulation, seed 981.
#[test]
fn what_https_has_confirmed_before_the_subscribe_confirms_nothing_on_that_connection() {
    let mut bench = Bench::confirmed(&premium(41)).reboot();
    bench.disk.slow = true;
    let token = premium(42).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.connect(1);
    bench.now.boot += Duration::from_secs(91);
    bench.sync();
    assert_eq!((bench.mode(), bench.engine.is_confirmed(), bench.open.leave), (Mode::Held, false, FREE));
}

#[test]
fn an_empty_keyset_is_acknowledged_and_says_nothing() {
    let mut bench = Bench::confirmed(&premium(41));
    assert!(bench.engine.is_confirmed());
    let delivery = bench.deliver(1, Topic::Keyset, "", true);
    assert_eq!((bench.acked.clone(), bench.reports.len(), bench.gets.len()), (vec![delivery], 0, 0));
}

#[test]
fn only_what_confirms_nothing_on_an_unconfirmed_connection_is_asked_about() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&premium(42));
    assert!(bench.gets.is_empty(), "this connection has confirmed");

    let mut bench = Bench::new();
    bench.connect(1);
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(7).sign(&bench.keys.root), true);
    bench.event(Event::Subscribed(Connection(1)));
    bench.gets.clear();
    bench.live(&premium(41));
    assert_eq!(bench.gets.len(), 1);
    bench.retained(1, &premium(42));
    assert_eq!((bench.gets.len(), bench.mode()), (1, Mode::Paid), "the retained copy confirms itself");
}

#[test]
fn an_upgrade_waits_for_its_own_record_and_not_for_one_before_it() {
    let mut bench = Bench::confirmed(&free(41));
    bench.disk.slow = true;
    bench.event(Event::Stopping);
    let ticket = bench.engine.tickets;
    bench.live(&premium(42));
    bench.event(Event::Written { ticket });
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Free, FREE));
    bench.sync();
    assert_eq!((bench.mode(), bench.open.leave), (Mode::Paid, PREMIUM));
}

#[test]
fn sixteen_copies_under_an_unknown_key_are_held_and_one_more_begins_anew() {
    let mut bench = Bench::new();
    bench.connect(1);
    for _ in 0..COPIES {
        bench.retained(1, &premium(41));
    }
    assert!(bench.acked.is_empty());
    bench.retained(1, &premium(41));
    assert_eq!(bench.acked.len(), COPIES);
}

#[test]
fn the_keyset_that_verified_a_document_is_kept_once_the_newest_no_longer_does() {
    let record = |bench: &Bench| Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    let mut bench = Bench::confirmed(&premium(41));
    bench.deliver(1, Topic::Keyset, bench.keys.keyset(8).sign(&bench.keys.root), true);
    assert_eq!(record(&bench).verified_by, None);
    let eighth = record(&bench).keyset;
    for version in [9, 10] {
        let revoking = Keyset { revoked: vec!["k1".into()], ..bench.keys.keyset(version) }.sign(&bench.keys.root);
        bench.deliver(1, Topic::Keyset, revoking, true);
        assert_eq!(record(&bench).verified_by, eighth, "keyset {version}");
    }
    let bench = bench.reboot();
    assert_eq!((bench.mode(), bench.engine.view(bench.now).position.seq), (Mode::Held, 41));
}

#[test]
fn a_reset_to_where_the_ratchet_stands_changes_nothing() {
    let mut bench = Bench::confirmed(&premium(41));
    let reset = Reset { id: 4, aud: "CAM1".into(), epoch: 3, seq: 41, time: None };
    let keyset = Keyset { resets: vec![reset], ..bench.keys.keyset(8) }.sign(&bench.keys.root);
    bench.deliver(1, Topic::Keyset, keyset, true);
    bench.live(&free(41));
    assert_eq!(bench.last().outcome, Outcome::Conflict, "which document stands there is still known");
}

#[test]
fn a_camera_that_has_a_keyset_fetches_another_at_once() {
    let mut bench = Bench::confirmed(&premium(41));
    let stranger = Signer::from_pkcs8("k2", &Signer::generate()).unwrap();
    bench.deliver(1, Topic::Entitlement, premium(42).sign(&stranger), true);
    assert_eq!(bench.fetches, [Resource::Keyset]);
}

#[test]
fn https_is_asked_while_a_refusal_is_unexplained_and_otherwise_not() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, []);
    bench.event(Event::Refused);
    // The broker delivers, if nothing that would confirm.
    bench.live(&premium(40));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    assert_eq!(bench.engine.wake_at(bench.now), Some(bench.now.boot + Duration::from_secs(5)));
    bench.pass(Duration::from_secs(60));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2]);
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2]);
}

#[test]
fn a_second_confirmation_of_the_same_refusal_changes_no_pause() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    for _ in 0..3 {
        bench.retained(1, &premium(41));
    }
    bench.pass(Duration::from_secs(5));
    bench.event(Event::Refused);
    bench.retained(1, &premium(41));
    bench.log.clear();
    bench.pass(Duration::from_millis(9_999));
    assert!(!bench.log.contains(&"retry"), "{:?}", bench.log);
    bench.pass(Duration::from_millis(1));
    assert!(bench.log.contains(&"retry"), "{:?}", bench.log);
}

#[test]
fn a_refusal_without_a_connection_asks_https_at_once() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    let token = premium(41).sign(&bench.keys.signer);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Found(token.into())));
    bench.pass(Duration::from_secs(20));
    bench.fetches.clear();
    bench.event(Event::Refused);
    assert_eq!((bench.fetches.as_slice(), bench.gets.len()), (&[Resource::Entitlement][..], 0));
}

#[test]
fn a_get_that_is_not_answered_is_followed_by_https() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.connect(2);
    bench.fetches.clear();
    bench.event(Event::Subscribed(Connection(2)));
    assert_eq!(bench.engine.wake_at(bench.now), Some(bench.now.boot + Duration::from_secs(2)));
    bench.pass(Duration::from_millis(1_999));
    assert_eq!((bench.fetches.as_slice(), bench.gets.len()), (&[][..], 1));
    bench.pass(Duration::from_millis(1));
    assert_eq!(bench.fetches, [Resource::Entitlement]);
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_secs(61));
    assert_eq!(bench.fetches, [Resource::Entitlement; 2], "and every minute until this connection confirms");
}

#[test]
fn after_five_at_once_one_report_of_an_outcome_a_minute() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..8 {
        bench.live(&premium(40));
    }
    assert_eq!(bench.outcomes(), [Outcome::Stale; 5]);
    for sent in 5..8 {
        bench.pass(Duration::from_secs(59));
        assert_eq!(bench.reports.len(), sent);
        bench.pass(Duration::from_secs(1));
        assert_eq!(bench.reports.len(), sent + 1);
        bench.live(&premium(40));
    }
}

#[test]
fn two_quiet_minutes_give_room_for_two_reports_and_not_for_a_third() {
    let mut bench = Bench::confirmed(&premium(41));
    for _ in 0..5 {
        bench.live(&premium(40));
    }
    bench.pass(Duration::from_secs(120));
    for _ in 0..3 {
        bench.live(&premium(40));
    }
    assert_eq!(bench.reports.len(), 7);
    bench.pass(Duration::from_secs(59));
    assert_eq!(bench.reports.len(), 7);
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.reports.len(), 8);
}

#[test]
fn where_nobody_answers_https_is_asked_every_two_seconds_in_the_grace_and_every_minute_after_it() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
    bench.event(Event::Lost(Some(Connection(1))));
    for asked in 1..=5 {
        assert_eq!(bench.fetches.len(), asked);
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_millis(1_999));
        assert_eq!(bench.fetches.len(), asked);
        bench.pass(Duration::from_millis(1));
    }
    assert_eq!((bench.fetches.len(), bench.open.leave), (6, FREE), "the grace is over");
    for (asked, pause) in [(6, 5), (7, 10), (8, 20), (9, 60)] {
        bench.event(Event::Fetched(Resource::Entitlement, Fetched::Failed));
        bench.pass(Duration::from_millis(pause * 1000 - 1));
        assert_eq!(bench.fetches.len(), asked);
        bench.pass(Duration::from_millis(1));
        assert_eq!(bench.fetches.len(), asked + 1);
    }
}

#[test]
fn the_acknowledgement_of_an_earlier_report_is_not_that_of_the_newest() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    bench.live(&premium(43));
    let tickets: Vec<u64> = bench.reports.iter().map(|(ticket, _)| *ticket).collect();
    assert!(tickets.len() == 2 && tickets[0] < tickets[1], "{tickets:?}");
    bench.event(Event::Published { ticket: tickets[0] });
    bench.event(Event::Lost(Some(Connection(1))));
    bench.reports.clear();
    bench.connect(2);
    assert_eq!(bench.reports.first().map(|(ticket, report)| (*ticket, report.seq)), Some((tickets[1], 43)), "it goes out again");
}

#[test]
fn a_cut_of_nothing_says_so() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&free(42));
    assert_eq!(bench.last().cut, care_protocol::Cut::default());
}

#[test]
fn two_cuts_before_the_disk_is_done_are_reported_as_one() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.disk.slow = true;
    bench.transfers = 2;
    bench.live(&entitlement(42, "plus", PLUS));
    bench.transfers = 3;
    bench.live(&free(43));
    bench.sync();
    let report = bench.last();
    assert_eq!((report.seq, report.cut.transfers, report.cut.micros, report.cut.bytes_after), (43, 5, 7, 5 * 1448));
    assert_eq!(report.erased, Erased { clips: 2, bytes: 10 });
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert!(record.report.is_some_and(|report| report.persisted), "whoever reads it there, it was written");
}

#[test]
fn the_end_of_a_lease_is_written_and_the_end_of_a_grace_is_not() {
    let lease = Lease { max_age_s: 1000, not_after: T0 + 172_800 };
    let mut bench = Bench::confirmed(&Entitlement { lease, ..premium(41) });
    bench.pass(Duration::from_secs(999));
    bench.log.clear();
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.log, ["cut", "open", "report", "persist"]);

    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Lost(Some(Connection(1))));
    bench.log.clear();
    bench.pass(Duration::from_secs(10));
    assert_eq!((bench.log.as_slice(), bench.open.leave), (&["cut", "open"][..], FREE));
}

#[test]
fn what_is_in_force_and_not_on_flash_is_seen_as_that() {
    for (before, after) in [(free(41), premium(42)), (premium(41), free(42))] {
        let mut bench = Bench::confirmed(&before);
        bench.disk.slow = true;
        bench.live(&after);
        assert!(!bench.engine.view(bench.now).persisted);
        bench.sync();
        assert!(bench.engine.view(bench.now).persisted);
    }
}

#[test]
fn a_failed_write_counts_once_and_for_what_was_in_it() {
    for (before, after) in [(free(41), premium(42)), (premium(41), free(42))] {
        let mut bench = Bench::confirmed(&before);
        bench.disk.slow = true;
        bench.event(Event::Stopping);
        let earlier = bench.engine.tickets;
        bench.live(&after);
        bench.reports.clear();
        bench.event(Event::WriteFailed { ticket: earlier });
        assert!(bench.reports.is_empty(), "it was not in that one");
        let ticket = bench.engine.tickets;
        bench.event(Event::WriteFailed { ticket });
        bench.event(Event::WriteFailed { ticket });
        assert_eq!(bench.reports.len(), 1);
    }
}

#[test]
fn the_last_change_is_told_with_the_order_id_of_what_is_in_force() {
    let refund = Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() };
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { order: Some(Order { id: "KC-2026-000123".into(), refund }), ..free(42) });
    let told = bench.engine.last_switch().map(|(report, order)| (report.seq, order));
    assert_eq!(told, Some((42, Some("KC-2026-000123"))));
}

#[test]
fn a_refusal_that_nobody_explains_ends_after_a_quarter_of_an_hour() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.event(Event::Refused);
    bench.live(&premium(40));
    bench.pass(Duration::from_secs(899));
    assert_eq!((bench.log.contains(&"retry"), bench.mode()), (false, Mode::Held));
    bench.pass(Duration::from_secs(1));
    assert_eq!((bench.log.contains(&"retry"), bench.mode()), (true, Mode::Paid));
    bench.fetches.clear();
    bench.event(Event::Fetched(Resource::Entitlement, Fetched::Declined));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.fetches, [], "and nobody is asked about it any more");
}

#[test]
fn a_document_is_not_judged_before_it_was_issued() {
    let mut bench = Bench::confirmed(&premium(41));
    bench.live(&Entitlement { iat: T0 + 500, ..free(41) });
    assert_eq!((bench.last().outcome, bench.last().at.as_second()), (Outcome::Conflict, T0 as i64 + 500));
}

#[test]
fn a_factory_reset_leaves_nothing_of_the_document_and_its_report() {
    let bench = Bench::confirmed(&premium(41));
    let record = Record::read(bench.disk.record.as_ref().unwrap()).unwrap();
    assert!(record.entitlement.is_some() && record.report.is_some());
    let left = Record { verified_by: record.keyset.clone(), lease_used_s: 5, next_performed: true, ..record.clone() }.factory_reset();
    assert_eq!((left.entitlement, left.verified_by, left.lease_used_s, left.next_performed, left.report), (None, None, 0, false, None));
    assert_eq!((left.ratchet, left.keyset, left.trusted_s), (record.ratchet, record.keyset, record.trusted_s));
}
