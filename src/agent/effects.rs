//! Carries the engine's effects out, in order, on the control thread.

use care_engine::{Effect, Event};
use care_protocol::Report;

use super::Agent;
use crate::logging;

impl Agent {
    /// Carries effects out, in order. A cut, always the last of them, ends here unless a vendor's uploader has a part in it.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Cut { keep } => {
                    self.cut = Some(self.gate.cut(keep));
                    self.end_cut();
                }
                Effect::Open(admission) => {
                    tracing::debug!(position = %admission.position, leave = ?admission.leave, "gate");
                    self.gate.open(admission);
                }
                Effect::RetryRefused => self.gate.retry_refused(),
                Effect::Forget => {
                    self.board.forget();
                    logging::forget();
                    if let Some(media) = &self.media {
                        media.forget();
                    }
                }
                Effect::Persist { ticket, record } => self.persist(ticket, record),
                Effect::Acknowledge(delivery) => {
                    if let Some(ack) = self.unacknowledged.remove(&delivery) {
                        self.link.ack(ack);
                    }
                }
                Effect::Publish { ticket, report } => {
                    let payload = serde_json::to_vec(&report).expect("plain data");
                    self.link.publish(self.topics.report(), payload, true, ticket);
                    // Behind the link's task: a line wakes the journal, and where there is one processor it would go first.
                    tokio::spawn(async move { log(&report) });
                }
                Effect::Get(get) => {
                    let payload = serde_json::to_vec(&get).expect("plain data");
                    self.link.publish(self.topics.get(), payload, false, 0);
                }
                Effect::Fetch(resource) => self.fetch(resource),
                // The engine's picture has it until a higher document comes: whoever looks next raises the condition.
                Effect::Alarm(_) => self.show_soon(),
                Effect::RaiseTime(to) => {
                    self.clock.raise(to);
                    self.time_told = true;
                }
                Effect::SetTime(to) => {
                    self.clock.set(to);
                    self.time_told = true;
                }
            }
        }
    }

    /// Tells the engine what a cut came to, once nothing can leave any more.
    pub(super) fn end_cut(&mut self) {
        let Some(figures) = self.cut.and_then(|own| self.gate.cut_figures(own)) else { return };
        self.cut = None;
        self.untold.push(figures);
        self.handle(Event::CutDone(figures));
    }

    /// Does what had to wait for a cut, once that has ended.
    pub(super) fn resume(&mut self) {
        while let Some(effects) = self.engine.resume(self.clock.now()) {
            self.carry_out(effects);
        }
    }

    /// Hands a record to the store, unless what a cut has erased may still be found on flash: a restart must never find a
    /// record and, beside it, a clip that a document before it has erased. Like the store it keeps the newest one only.
    pub(super) fn persist(&mut self, ticket: u64, record: Vec<u8>) {
        if self.gate.erasures_settled() {
            self.record_waits = None;
            self.store.write(ticket, record);
        } else {
            self.record_waits = Some((ticket, record));
        }
    }
}

fn log(report: &Report) {
    tracing::info!(
        outcome = %report.outcome, reason = report.reason, cause = %report.cause, mode = %report.mode, epoch = report.epoch,
        seq = report.seq, cut_transfers = report.cut.transfers, cut_micros = report.cut.micros, bytes_after = report.cut.bytes_after,
        erased_clips = report.erased.clips, persisted = report.persisted, "report"
    );
}
