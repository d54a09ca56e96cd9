//! Carries the engine's effects out on the control thread, in the order in which the engine asks for them.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use care_engine::{Admission, CutFigures, CutProgress, Delivery, Engine, Event, Ports, Resource, trusted_time::Now};
use care_protocol::{DeviceId, Get, Policy, Position, Report, Topics};
use tokio::sync::mpsc;

use super::{Agent, events::Input, status::STATUS_SOON};
use crate::{
    clock::Clock,
    conditions::Conditions,
    http::Origin,
    link::{self, Link},
    logging,
    media::Media,
    status::Board,
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
    pub(super) questions: &'a Arc<AtomicU64>,
    pub(super) inputs: &'a mpsc::UnboundedSender<Input>,
    pub(super) conditions: &'a Conditions,
    pub(super) board: &'a Board,
    pub(super) media: Option<&'a Media>,
    pub(super) unacknowledged: &'a mut HashMap<Delivery, link::Ack>,
    pub(super) record_waits: &'a mut Option<(u64, Vec<u8>)>,
    pub(super) cut: &'a mut Option<CutFigures>,
    pub(super) untold: &'a mut Vec<CutFigures>,
    pub(super) show_at: &'a mut Instant,
}

impl Ports for AgentPorts<'_> {
    fn now(&mut self) -> Now {
        self.clock.now()
    }

    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress {
        let own = self.gate.cut(keep);
        match self.gate.cut_figures(own) {
            Some(figures) => {
                self.untold.push(figures);
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
        self.board.forget();
        logging::forget();
        if let Some(media) = self.media {
            media.forget();
        }
    }

    /// Hands a record to the store, unless what a cut has erased may still be found on flash: a restart must never find a
    /// record and, beside it, a clip that a document before it has erased. Like the store it keeps the newest one only.
    fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        if self.gate.erasures_settled() {
            *self.record_waits = None;
            self.store.write(ticket, record);
        } else {
            *self.record_waits = Some((ticket, record));
        }
    }

    fn acknowledge(&mut self, delivery: Delivery) {
        if let Some(ack) = self.unacknowledged.remove(&delivery) {
            self.link.ack(ack);
        }
    }

    fn publish(&mut self, ticket: u64, report: Report) {
        let payload = serde_json::to_vec(&report).expect("plain data");
        self.link.publish(self.topics.report(), payload, true, ticket);
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
        self.board.outdate();
        *self.show_at = (*self.show_at).min(Instant::now() + STATUS_SOON);
    }

    fn raise_time(&mut self, issued: Duration) {
        self.clock.raise(issued);
    }

    fn set_time(&mut self, time: Duration) {
        self.clock.set(time);
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
            questions: &self.questions,
            inputs: &self.inputs,
            conditions: &self.conditions,
            board: &self.board,
            media: self.media.as_ref(),
            unacknowledged: &mut self.unacknowledged,
            record_waits: &mut self.record_waits,
            cut: &mut self.cut,
            untold: &mut self.untold,
            show_at: &mut self.show_at,
        };
        (&mut self.engine, ports)
    }

    /// Tells the engine what has happened and carries out what follows.
    pub(super) fn handle(&mut self, event: Event) {
        if event != Event::Tick {
            self.show_soon();
        }
        let (engine, mut ports) = self.split();
        engine.handle(event, &mut ports);
        self.remember();
    }

    /// Tells the engine the figures of a cut that was under way, once nothing can leave any more.
    pub(super) fn end_cut(&mut self) {
        let Some(figures) = self.cut.and_then(|own| self.gate.cut_figures(own)) else { return };
        self.cut = None;
        self.untold.push(figures);
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
