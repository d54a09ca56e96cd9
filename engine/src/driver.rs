//! The loop around the engine: it takes one event, carries out its effects in order, and continues until no event
//! waits. The agent, the simulation, the fuzzers and the tests all drive the engine through it, each with its own
//! [`Ports`].

use std::time::Duration;

use care_protocol::{Get, Policy, Position, Report};

use super::{Admission, CutFigures, Delivery, Effect, Engine, Event, Resource};
use crate::trusted_time::Now;

/// The outside world of the engine: the gate, the store, the broker, the API and the clock.
///
/// No method may block, and none may call the engine: the result of an effect is an [`Event`] for the next
/// [`Engine::handle`]. The engine calls them in the order in which they must take effect.
pub trait Ports {
    /// The time now.
    fn now(&mut self) -> Now;

    /// Closes the gate, aborts every transfer, then judges every clip by `keep`: the policy for keeping clips, and the
    /// position of its document. With `None` nothing is erased. If this returns [`CutProgress::UnderWay`],
    /// [`Event::CutDone`] follows once no media can leave.
    fn cut(&mut self, keep: Option<(Policy, Position)>) -> CutProgress;

    /// Opens the gate to this admission without disturbing any transfer.
    fn open(&mut self, admission: Admission);

    /// Retries clips that were refused with 402 or 403.
    fn retry_refused(&mut self);

    /// The camera's owner has changed: erases pre-roll, history and order ids.
    fn forget(&mut self);

    /// Begins to write this record; answered with [`Event::Written`] or [`Event::WriteFailed`]. `ticket` rises with
    /// every record, and a newer record may replace one that is not written yet.
    fn persist(&mut self, ticket: u64, record: Vec<u8>);

    /// Sends the PUBACK.
    fn acknowledge(&mut self, delivery: Delivery);

    /// Publishes a report, retained; answered with [`Event::Published`]. `ticket` rises with every report.
    fn publish(&mut self, ticket: u64, report: Report);

    /// Publishes a `get`.
    fn get(&mut self, get: Get);

    /// Fetches over HTTPS; answered with [`Event::Fetched`].
    fn fetch(&mut self, resource: Resource);

    /// Two different documents carry this position; an engineer must investigate: docs/protocol.md#order.
    fn alarm(&mut self, position: Position);

    /// A verified document was issued at this time (since 1970): trusted time is not before it.
    fn raise_time(&mut self, issued: Duration);

    /// A root-signed reset sets trusted time to this (since 1970).
    fn set_time(&mut self, time: Duration);

    /// Called before the effects of each decision are carried out, with the engine as the decision left it. For
    /// external checks, such as the simulation's oracle; the agent does not use it.
    fn decided(&mut self, _engine: &Engine) {}
}

/// The state of a cut when [`Ports::cut`] returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the engine decides nothing before it knows that the cut is done"]
pub enum CutProgress {
    /// No media can leave.
    Done(CutFigures),
    /// Something outside the agent, such as a vendor's uploader, has yet to stop. [`Event::CutDone`] follows.
    UnderWay,
}

impl Engine {
    /// Carries out the first effects after boot. Call it once, before [`Self::handle`].
    pub fn start(&mut self, ports: &mut impl Ports) {
        let effects = self.boot(ports.now());
        self.run(effects, ports);
    }

    /// Handles one event and carries out all its effects. While a cut is under way the event waits until
    /// [`Event::CutDone`].
    pub fn handle(&mut self, event: Event, ports: &mut impl Ports) {
        let effects = self.decide(event, ports.now());
        self.run(effects, ports);
    }

    fn run(&mut self, effects: Vec<Effect>, ports: &mut impl Ports) {
        let mut next = Some(effects);
        while let Some(effects) = next {
            ports.decided(self);
            next = match carry_out(effects, ports) {
                None => self.resume(ports.now()),
                Some(CutProgress::Done(figures)) => Some(self.decide(Event::CutDone(figures), ports.now())),
                Some(CutProgress::UnderWay) => None,
            };
        }
    }
}

/// Carries one batch out, in order. A cut is always its last effect.
fn carry_out(effects: Vec<Effect>, ports: &mut impl Ports) -> Option<CutProgress> {
    let mut cut = None;
    for effect in effects {
        match effect {
            Effect::Cut { keep } => cut = Some(ports.cut(keep)),
            Effect::Open(admission) => ports.open(admission),
            Effect::RetryRefused => ports.retry_refused(),
            Effect::Forget => ports.forget(),
            Effect::Persist { ticket, record } => ports.persist(ticket, record),
            Effect::Acknowledge(delivery) => ports.acknowledge(delivery),
            Effect::Publish { ticket, report } => ports.publish(ticket, *report),
            Effect::Get(get) => ports.get(get),
            Effect::Fetch(resource) => ports.fetch(resource),
            Effect::Alarm(position) => ports.alarm(position),
            Effect::RaiseTime(issued) => ports.raise_time(issued),
            Effect::SetTime(time) => ports.set_time(time),
        }
    }
    cut
}
