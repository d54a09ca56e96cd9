//! Controls a vendor's own uploader through a unix socket (docs/vendor-uploader.md). The gate closes it as it closes
//! its own sockets, and its answer is part of the cut. It is another process, so the agent cannot stop it by force:
//! its permission expires ([`PERMISSION`]) unless the control loop renews it.
//!
//! The control thread gives orders, which are written without waiting; the uploads' thread ([`session`]) reads the
//! uploader's messages. Both share [`Orders`], whose lock is never held during a slow operation.

#[cfg(any(test, feature = "fuzzing"))]
mod hostile;
mod lines;
mod session;
#[cfg(test)]
mod tests;

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use care_engine::{Admission, CutFigures, Generation, trusted_time::Now};
use care_protocol::{Erased, Mode, Policy, Position};
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use serde::Serialize;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use hostile::hostile_uploader;
pub use lines::UploaderMessage;
use lines::{Judge, Order};
pub(super) use session::Listener;

use super::Event;
use crate::clock::Clock;

/// How long an uploader may continue after the last `open`. A cut waits as long for its answer: by then an uploader
/// that has not answered has stopped by itself.
pub(super) const PERMISSION: Duration = Duration::from_secs(5);
/// How often permission is renewed.
const RENEW: Duration = Duration::from_secs(2);

/// The status of a vendor's uploader, as the status document shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct UploaderStatus {
    /// Whether one is connected.
    pub connected: bool,
    /// Its process id, while it is.
    pub pid: Option<i32>,
    /// Whether it has permission at this moment, under the plan's limits.
    pub open: bool,
    /// The last `close` that it has answered.
    pub closed_generation: Option<u64>,
    /// How long that took, microseconds.
    pub closed_micros: Option<u64>,
    /// Clips it has stored since the agent's start.
    pub stored_clips: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Clips it has erased because the plan does not allow them.
    pub erased_clips: u64,
    /// Their bytes.
    pub erased_bytes: u64,
    /// Why the last connection ended; absent while connected.
    pub fault: Option<String>,
}

/// An event for the control thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UploaderEvents {
    /// The cloud refused it a grant.
    pub refused: Option<u16>,
    /// It has stored a clip.
    pub stored: bool,
}

/// The agent's end of the socket.
pub(super) struct Vendor {
    clock: Clock,
    orders: Mutex<Orders>,
    events: Box<dyn Fn(Event) + Send + Sync>,
}

#[derive(Default)]
struct Orders {
    generation: Generation,
    /// Which clips the plan keeps; `None` until a document is in force.
    judge: Option<Judge>,
    /// Its permission; `None` from a cut until the gate opens.
    admission: Option<Admission>,
    line: Option<Line>,
    /// BOOTTIME at which the last permission of this connection ends.
    permitted_until: Duration,
    /// The same for connections that the agent has ended: the uploader at their other end may still send until then.
    orphaned_until: Duration,
    cut: Option<Cut>,
    status: UploaderStatus,
    uploader_events: UploaderEvents,
    /// The control thread has been woken and has not run since.
    called: bool,
}

/// A connected uploader.
struct Line {
    socket: OwnedFd,
    /// The `close` that it has not answered yet.
    closing: Option<Closing>,
    /// The epoch of the last `keep` that was sent to it.
    judged: Option<u64>,
    told: Option<(Admission, Mode)>,
    told_at: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Closing {
    generation: Generation,
    since: Duration,
}

/// A cut of the gate in which the uploader takes part.
#[derive(Debug, Clone, Copy)]
struct Cut {
    generation: Generation,
    /// When its answer is overdue.
    until: Duration,
    /// Its transfers at the cut; `None` until it has answered or disconnected.
    figures: Option<Figures>,
    /// The assumption if it never answers.
    silent: Figures,
}

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    transfers: u32,
    bytes_after: u64,
    erased: Erased,
}

impl std::fmt::Debug for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vendor").finish_non_exhaustive()
    }
}

impl Vendor {
    fn new(clock: Clock, events: Box<dyn Fn(Event) + Send + Sync>) -> Self {
        Self { clock, orders: Mutex::default(), events }
    }

    // --- for the gate, on the control thread ---

    /// Withdraws permission at once; [`Self::cut_figures`] reports when the uploader has stopped.
    pub(super) fn close(&self, generation: Generation, keep: Option<(Policy, Position)>) {
        let now = self.clock.now();
        let mut orders = self.lock();
        orders.generation = generation;
        orders.admission = None;
        let judge = keep.map(|(keep, position)| Judge { epoch: position.epoch, keep });
        orders.judge = judge.or(orders.judge);
        // An uploader with permission that does not report its transfers counts as one transfer.
        let permitted = orders.permitted_until.max(orders.orphaned_until) > now.boot;
        let silent = Figures { transfers: u32::from(permitted), ..Figures::default() };
        let figures = orders.line.is_none().then_some(silent);
        orders.cut = Some(Cut { generation, until: now.boot + PERMISSION, figures, silent });
        orders.close_line(judge, now);
    }

    /// The figures of a cut, with the uploader's answer; `None` while it is awaited.
    pub(super) fn cut_figures(&self, own: CutFigures) -> Option<CutFigures> {
        let now = self.clock.now();
        let mut orders = self.lock();
        let Some(cut) = orders.cut else { return Some(own) };
        if cut.figures.is_none() && now.boot >= cut.until {
            orders.lose(unanswered(cut.generation));
        }
        let ended = |cut: &mut Cut| cut.figures.is_some();
        if now.boot < orders.orphaned_until {
            return None;
        }
        orders.cut.take_if(ended)?.figures.map(|figures| figures.and(own))
    }

    /// The same without waiting: the agent stops, and the end of the connection closes the uploader.
    pub(super) fn give_up(&self, own: CutFigures) -> CutFigures {
        let cut = self.lock().cut.take();
        cut.map_or(own, |cut| cut.figures.unwrap_or(cut.silent).and(own))
    }

    /// Sets what may be recorded and may leave from now on; the next [`Self::renew`] sends it.
    pub(super) fn open(&self, admission: Admission) {
        let mut orders = self.lock();
        orders.admission = Some(admission);
        if admission.position != Position::NONE {
            orders.judge = Some(Judge { epoch: admission.position.epoch, keep: admission.keep });
        }
    }

    /// Sends changes and renews permission. Called once in each turn of the control loop and nowhere else, so that
    /// permission expires if the loop hangs.
    pub(super) fn renew(&self, mode: Mode) {
        self.lock().renew(mode, self.clock.now());
    }

    /// When [`Self::renew`] or [`Self::cut_figures`] has something to do, BOOTTIME.
    pub(super) fn due(&self) -> Option<Duration> {
        let orders = self.lock();
        let cut = orders.cut.map(|cut| if cut.figures.is_some() { orders.orphaned_until } else { cut.until });
        let line = orders.line.as_ref().and_then(|line| match line.closing {
            Some(closing) => Some(closing.since + PERMISSION),
            None => line.told.map(|_| line.told_at + RENEW),
        });
        cut.into_iter().chain(line).min()
    }

    /// Its events since the last call.
    pub(super) fn uploader_events(&self) -> UploaderEvents {
        let mut orders = self.lock();
        orders.called = false;
        std::mem::take(&mut orders.uploader_events)
    }

    pub(super) fn status(&self) -> UploaderStatus {
        let now = self.clock.now();
        let orders = self.lock();
        UploaderStatus { open: orders.line.is_some() && orders.permitted_until > now.boot, ..orders.status.clone() }
    }

    // --- for the session, on the uploads' thread ---

    /// Accepts a connection; its first message is `close`. False: another uploader is connected.
    fn connect(&self, socket: OwnedFd, pid: Option<i32>) -> bool {
        let now = self.clock.now();
        let mut orders = self.lock();
        if orders.line.is_some() {
            return false;
        }
        orders.line = Some(Line { socket, closing: None, judged: None, told: None, told_at: Duration::ZERO });
        orders.status.connected = true;
        orders.status.pid = pid;
        orders.status.fault = None;
        let judge = orders.judge;
        orders.close_line(judge, now);
        drop(orders);
        tracing::info!(pid, "the vendor's uploader is connected");
        self.call();
        true
    }

    /// Handles a received line.
    fn receive(&self, line: &[u8]) -> Result<(), String> {
        let message = UploaderMessage::read(line)?;
        self.lock().receive(message, self.clock.now())?;
        self.call();
        Ok(())
    }

    /// The uploader has closed the connection, or is dead: it sends nothing any more.
    fn gone(&self) {
        let mut orders = self.lock();
        if orders.line.is_none() {
            // The agent has ended it, and has logged the reason.
            return;
        }
        orders.disconnect("it disconnected".to_owned());
        drop(orders);
        self.call();
    }

    /// Ends a connection that cannot be trusted: the agent waits until its permission expires.
    fn refuse(&self, why: String) {
        self.lock().lose(why);
        self.call();
    }

    /// Wakes the control thread, once until it runs.
    fn call(&self) {
        if !std::mem::replace(&mut self.lock().called, true) {
            (self.events)(Event::Uploader);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Orders> {
        // Every change leaves the uploader closed, so the lock's poison flag can be ignored.
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Orders {
    fn close_line(&mut self, judge: Option<Judge>, now: Now) {
        let order = Order::Close { generation: self.generation.0, time: now.trusted.as_secs(), judge };
        let generation = self.generation;
        let Some(line) = &mut self.line else { return };
        line.closing = Some(Closing { generation, since: now.boot });
        line.judged = judge.map(|judge| judge.epoch).or(line.judged);
        line.told = None;
        self.send_order(&order);
    }

    fn renew(&mut self, mode: Mode, now: Now) {
        let Some(line) = &self.line else { return };
        if let Some(closing) = line.closing {
            if now.boot >= closing.since + PERMISSION {
                self.lose(unanswered(closing.generation));
            }
            return;
        }
        let Some(admission) = self.admission.filter(|_| now.boot >= self.orphaned_until) else { return };
        let told = line.told == Some((admission, mode));
        if told && now.boot < line.told_at + RENEW {
            return;
        }
        if line.judged != Some(admission.position.epoch) {
            // It connected before the owner was known: it erases another owner's clips first.
            let judge = self.judge;
            return self.close_line(judge, now);
        }
        let until = now.boot + PERMISSION;
        let order = Order::Open {
            generation: self.generation.0,
            time: now.trusted.as_secs(),
            mode,
            epoch: admission.position.epoch,
            seq: admission.position.seq,
            record: admission.record,
            keep: admission.keep,
            leave: admission.leave,
            until_boot_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
        };
        // Whether the line arrives or not, from here on the uploader may have permission.
        self.permitted_until = until;
        if self.send_order(&order)
            && let Some(line) = &mut self.line
        {
            line.told = Some((admission, mode));
            line.told_at = now.boot;
        }
    }

    /// Writes a line without waiting. If the uploader does not read, its connection is ended: false.
    fn send_order(&mut self, order: &Order) -> bool {
        let Some(line) = &self.line else { return false };
        let bytes = order.line();
        let result = send(&line.socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        if result.is_ok_and(|sent| sent == bytes.len()) {
            return true;
        }
        self.lose("it does not read what the agent sends".to_owned());
        false
    }

    fn receive(&mut self, message: UploaderMessage, now: Now) -> Result<(), String> {
        match message {
            UploaderMessage::Closed { generation, transfers, bytes_after, erased } => {
                let generation = Generation(generation);
                if generation > self.generation {
                    return Err(format!("it answers close {}, which was never sent", generation.0));
                }
                self.status.erased_clips += u64::from(erased.clips);
                self.status.erased_bytes = self.status.erased_bytes.saturating_add(erased.bytes);
                let Some(line) = &mut self.line else { return Ok(()) };
                // An answer to an older `close` only adds to the count.
                let Some(closing) = line.closing.take_if(|closing| closing.generation == generation) else { return Ok(()) };
                self.permitted_until = Duration::ZERO;
                let micros = u64::try_from(now.boot.saturating_sub(closing.since).as_micros()).unwrap_or(u64::MAX);
                self.status.closed_generation = Some(generation.0);
                self.status.closed_micros = Some(micros);
                tracing::info!(
                    generation = generation.0,
                    micros,
                    transfers,
                    erased_clips = erased.clips,
                    erased_bytes = erased.bytes,
                    "the vendor's uploader has closed"
                );
                if let Some(cut) = self.cut.as_mut().filter(|cut| cut.generation == generation) {
                    cut.figures = cut.figures.or(Some(Figures { transfers, bytes_after, erased }));
                }
            }
            UploaderMessage::Stored { bytes } => {
                self.status.stored_clips += 1;
                self.status.stored_bytes = self.status.stored_bytes.saturating_add(bytes);
                self.uploader_events.stored = true;
            }
            UploaderMessage::Refused { status } => self.uploader_events.refused = Some(status),
        }
        Ok(())
    }

    /// Ends a connection that cannot be trusted. Its permission, if it has one, is valid until it expires.
    fn lose(&mut self, why: String) {
        self.orphaned_until = self.orphaned_until.max(self.permitted_until);
        self.disconnect(why);
    }

    /// The connection has ended.
    fn disconnect(&mut self, why: String) {
        let Some(line) = self.line.take() else { return };
        tracing::info!(pid = self.status.pid, why, "the vendor's uploader has disconnected");
        // It may be disconnected already, which is as good.
        let _ = shutdown(&line.socket, Shutdown::Both);
        self.status.connected = false;
        self.status.pid = None;
        self.status.fault = Some(why);
        self.permitted_until = Duration::ZERO;
        if let Some(cut) = &mut self.cut {
            cut.figures = cut.figures.or(Some(cut.silent));
        }
    }
}

fn unanswered(generation: Generation) -> String {
    format!("it did not answer close {} within {} s", generation.0, PERMISSION.as_secs())
}

impl Figures {
    fn and(self, own: CutFigures) -> CutFigures {
        CutFigures {
            transfers: own.transfers + self.transfers,
            bytes_after: own.bytes_after.map(|own| own + self.bytes_after),
            erased: Erased { clips: own.erased.clips + self.erased.clips, bytes: own.erased.bytes + self.erased.bytes },
            ..own
        }
    }
}
