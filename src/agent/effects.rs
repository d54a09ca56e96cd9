//! Carries the engine's effects out on the control thread, in the order in which the engine asks for them.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use care_engine::{Admission, CutFigures, CutProgress, Delivery, Engine, Event, Ports, Resource, trusted_time::Now};
use care_protocol::{DeviceId, Get, Policy, Position, Report, Topics};
use portable_atomic::AtomicU64;

use super::{Agent, mailbox::Sender, status::STATUS_SOON, stopwatch::Stopwatch};
use crate::{
    clock::Clock,
    conditions::Conditions,
    http::Origin,
    link::{self, Link},
    logging,
    media::Media,
    status::SharedStatus,
    store::StoreThread,
    upload::Gate,
};

/// The parts of the agent that the engine acts on.
pub(super) struct AgentPorts<'a> {
    pub(super) device: &'a DeviceId,
    pub(super) clock: &'a Clock,
    pub(super) gate: &'a Gate,
    pub(super) store: &'a StoreThread,
    pub(super) link: &'a Link,
    pub(super) topics: &'a Topics,
    pub(super) api: &'a Origin,
    pub(super) api_requests: &'a Arc<AtomicU64>,
    pub(super) sender: &'a Sender,
    pub(super) conditions: &'a Conditions,
    pub(super) status: &'a SharedStatus,
    pub(super) media: Option<&'a Media>,
    pub(super) unacknowledged: &'a mut HashMap<Delivery, link::Ack>,
    pub(super) deferred_record: &'a mut Option<(u64, Vec<u8>)>,
    pub(super) another_owner: &'a mut bool,
    pub(super) cut: &'a mut Option<CutFigures>,
    pub(super) unlogged_cuts: &'a mut Vec<CutFigures>,
    pub(super) stopwatch: &'a mut Stopwatch,
    pub(super) next_status_at: &'a mut Instant,
}

impl Ports for AgentPorts<'_> {
    fn now(&mut self) -> Now {
        self.clock.now()
    }

    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress {
        let own = self.gate.cut(keep);
        match self.gate.cut_figures(own) {
            Some(figures) => {
                self.stopwatch.cut();
                self.unlogged_cuts.push(figures);
                CutProgress::Done(figures)
            }
            None => {
                *self.cut = Some(own);
                CutProgress::UnderWay
            }
        }
    }

    fn open(&mut self, admission: Admission) {
        tracing::debug!(position = %admission.position, leave = ?admission.leave, "gate");
        self.gate.open(admission);
    }

    fn retry_refused(&mut self) {
        self.gate.retry_refused();
    }

    fn forget(&mut self) {
        *self.another_owner = true;
        self.status.forget();
        logging::forget();
        if let Some(media) = self.media {
            media.forget();
        }
    }

    /// Hands a record to the store, or defers it while clips erased by a cut, or the timeline of another owner, may still be on
    /// flash: a restart must never find a record together with what an earlier document has erased. Only the newest record is
    /// deferred, as in the store.
    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        self.stopwatch.writing(ticket);
        if self.gate.erasures_settled() && self.status.timeline().is_erased() {
            *self.deferred_record = None;
            hand_over(self.store, self.another_owner, ticket, record);
        } else {
            *self.deferred_record = Some((ticket, record));
        }
    }

    fn acknowledge(&mut self, delivery: Delivery) {
        if let Some(ack) = self.unacknowledged.remove(&delivery) {
            self.link.ack(ack);
            self.stopwatch.acknowledged(delivery);
        }
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        let payload = serde_json::to_vec(&report).expect("plain data");
        self.link.publish(self.topics.report(), payload, true, ticket);
        self.status.observe(|observed| observed.report(report.outcome));
        self.stopwatch.reporting(ticket);
        // After the link's task: a log line wakes the journal, which would run first on a single processor.
        tokio::spawn(async move { log(&report) });
    }

    fn get(&mut self, get: Get) {
        let payload = serde_json::to_vec(&get).expect("plain data");
        self.link.publish(self.topics.get(), payload, false, 0);
    }

    fn fetch(&mut self, resource: Resource) {
        self.ask_api(resource);
    }

    /// The engine's view keeps the conflict until a higher document comes; the next status raises the condition.
    fn alarm(&mut self, _position: Position) {
        self.status.mark_stale();
        *self.next_status_at = (*self.next_status_at).min(Instant::now() + STATUS_SOON);
    }

    fn raise_time(&mut self, issued: Duration) {
        self.clock.raise(issued);
    }

    fn set_time(&mut self, time: Duration) {
        self.clock.set(time);
    }
}

/// Hands a record to the store. The first one of an owner leaves nothing of those before it, which have order ids.
pub(super) fn hand_over(store: &StoreThread, another_owner: &mut bool, ticket: u64, record: Vec<u8>) {
    if std::mem::take(another_owner) {
        store.write_only(ticket, record);
    } else {
        store.write(ticket, record);
    }
}

impl Agent {
    /// The engine, and what it acts on.
    pub(super) fn split(&mut self) -> (&mut Engine, AgentPorts<'_>) {
        let ports = AgentPorts {
            device: &self.config.device.id,
            clock: &self.clock,
            gate: &self.gate,
            store: &self.store,
            link: &self.link,
            topics: &self.topics,
            api: &self.api,
            api_requests: &self.api_requests,
            sender: &self.sender,
            conditions: &self.conditions,
            status: &self.status,
            media: self.media.as_ref(),
            unacknowledged: &mut self.unacknowledged,
            deferred_record: &mut self.deferred_record,
            another_owner: &mut self.another_owner,
            cut: &mut self.cut,
            unlogged_cuts: &mut self.unlogged_cuts,
            stopwatch: &mut self.stopwatch,
            next_status_at: &mut self.next_status_at,
        };
        (&mut self.engine, ports)
    }

    /// Feeds an event to the engine, which acts through the ports.
    pub(super) fn handle(&mut self, event: Event) {
        if event != Event::Tick {
            self.request_status_update();
        }
        let (engine, mut ports) = self.split();
        engine.handle(event, &mut ports);
        self.record_switch();
    }

    /// Reports the figures of a cut to the engine once nothing can leave any more.
    pub(super) fn end_cut(&mut self) {
        let Some(figures) = self.cut.and_then(|own| self.gate.cut_figures(own)) else { return };
        self.cut = None;
        self.stopwatch.cut();
        self.unlogged_cuts.push(figures);
        self.handle(Event::CutDone(figures));
    }
}

fn log(report: &Report) {
    tracing::info!(
        outcome = %report.outcome, reason = report.reason, cause = %report.cause, mode = %report.mode, epoch = report.epoch,
        seq = report.seq, cut_transfers = report.cut.transfers, cut_micros = report.cut.micros, bytes_after = report.cut.bytes_after,
        erased_clips = report.erased.clips, persisted = report.persisted, "report"
    );
}
