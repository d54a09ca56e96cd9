//! Times the stages of a switch by the monotonic clock, for the timeline and the metrics: received, cut, written, acknowledged,
//! reported. It only watches; nothing waits for it or reads it to decide.

use std::time::{Duration, Instant};

use care_engine::Delivery;

use crate::timeline::Stages;

/// A switch whose stages are not all there by then is timed no longer: its broker is away, or nothing more was needed.
const LONGEST: Duration = Duration::from_secs(10);

/// The switch that is going on, or may be.
#[derive(Debug)]
pub(super) struct Stopwatch {
    began: Instant,
    stages: Stages,
    /// Whether a document began it. Until one has, time began it, again and again.
    by_document: bool,
    /// Whether it is a switch: the timeline has it.
    is_switch: bool,
    delivery: Option<Delivery>,
    /// Tickets of its record and its report.
    record: Option<u64>,
    report: Option<u64>,
    /// When any record was last on flash, microseconds.
    flashed: Option<u64>,
}

impl Stopwatch {
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            stages: Stages::default(),
            by_document: false,
            is_switch: false,
            delivery: None,
            record: None,
            report: None,
            flashed: None,
        }
    }

    /// A document was received then. While one is being written or reported, those that follow are copies of it: after a
    /// connection it comes as a retained message and as the answer to a `get`.
    pub fn document(&mut self, at: Instant, delivery: Option<Delivery>) {
        let written = self.record.is_some() && self.stages.written.is_none();
        let reported = self.is_switch && self.report.is_some() && self.stages.reported.is_none();
        if self.by_document && (written || reported) && self.began.elapsed() <= LONGEST {
            return;
        }
        *self = Self { began: at, by_document: true, delivery, ..Self::new() };
    }

    /// Something is due now, unless a switch is being timed.
    pub fn due(&mut self) {
        if !(self.by_document || self.is_switch) || self.began.elapsed() > LONGEST {
            *self = Self::new();
        }
    }

    /// It is a switch. Returns how its stages went so far.
    pub fn switched(&mut self) -> Stages {
        if self.is_switch {
            // Another one, and nothing says when it began: it is not timed.
            let now = Instant::now();
            *self = Self { began: now.checked_sub(LONGEST * 2).unwrap_or(now), ..Self::new() };
        }
        self.is_switch = true;
        self.stages
    }

    pub fn cut(&mut self) {
        self.stages.cut = self.stages.cut.or(self.so_far());
    }

    /// A record is to be written. A keyset may be written before the document that it verifies: until the document is acknowledged,
    /// the newest counts.
    pub fn writing(&mut self, ticket: u64) {
        let newest = self.delivery.is_some() && self.stages.acknowledged.is_none() && !self.is_switch;
        if newest || self.record.is_none() {
            (self.record, self.stages.written) = (Some(ticket), None);
        }
    }

    /// Records up to this one are on flash.
    pub fn written(&mut self, ticket: u64) -> Option<Stages> {
        self.flashed = self.so_far();
        let is_ours = self.record.is_some_and(|record| record <= ticket);
        self.reached(is_ours, |stages| &mut stages.written)
    }

    pub fn acknowledged(&mut self, delivery: Delivery) {
        let is_ours = self.delivery == Some(delivery);
        if is_ours && self.record.is_some() {
            // The newest record has something else in it; the one before was the document's.
            self.stages.written = self.stages.written.or(self.flashed);
        }
        self.reached(is_ours, |stages| &mut stages.acknowledged);
    }

    /// A report is on its way. Those before the switch are about something else.
    pub fn reporting(&mut self, ticket: u64) {
        if !self.is_switch || self.report.is_none() {
            (self.report, self.stages.reported) = (Some(ticket), None);
        }
    }

    /// The broker has this report.
    pub fn reported(&mut self, ticket: u64) -> Option<Stages> {
        let is_ours = self.report == Some(ticket);
        self.reached(is_ours, |stages| &mut stages.reported)
    }

    /// How long the report of the switch took, of which all is known, if a document began it.
    pub fn report_of_document(&self) -> Option<Duration> {
        self.stages.reported.filter(|_| self.by_document && self.is_switch).map(Duration::from_micros)
    }

    /// How its stages went, if that has changed and it is a switch.
    fn reached(&mut self, is_ours: bool, stage: impl Fn(&mut Stages) -> &mut Option<u64>) -> Option<Stages> {
        let so_far = self.so_far();
        let stage = stage(&mut self.stages);
        if !is_ours || stage.is_some() {
            return None;
        }
        *stage = so_far;
        self.is_switch.then_some(self.stages)
    }

    /// `None`: too late to be a stage of it.
    fn so_far(&self) -> Option<u64> {
        let so_far = self.began.elapsed();
        u64::try_from(so_far.as_micros()).ok().filter(|_| so_far <= LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_of_a_document_rise_and_later_ones_of_others_do_not_count() {
        let mut watch = Stopwatch::new();
        watch.document(Instant::now(), Some(Delivery(7)));
        watch.cut();
        watch.writing(1);
        assert_eq!(watch.written(1), None, "a keyset");
        watch.writing(3);
        watch.document(Instant::now(), Some(Delivery(8)));
        assert_eq!(watch.written(2), None, "a record before it");
        watch.due();
        assert_eq!(watch.written(3), None, "it may be no switch");
        watch.acknowledged(Delivery(6));
        watch.acknowledged(Delivery(7));
        watch.writing(5);
        assert_eq!(watch.written(5), None, "what is written later");
        watch.reporting(4);
        watch.reporting(9);
        let so_far = watch.switched();
        assert_eq!(so_far.reported, None);
        watch.document(Instant::now(), Some(Delivery(9)));
        watch.reporting(10);
        assert_eq!(watch.reported(10), None, "the report of something else");
        let stages = watch.reported(9).unwrap();
        let all = [stages.cut, stages.written, stages.acknowledged, stages.reported].map(Option::unwrap);
        assert!(all.is_sorted(), "{all:?}");
        assert_eq!(watch.reported(9), None);
        watch.cut();
        assert_eq!(watch.switched(), Stages::default(), "another switch, of which nothing is known");
    }

    #[test]
    fn a_document_is_written_before_it_is_acknowledged_whatever_else_is_to_be_written() {
        let mut watch = Stopwatch::new();
        watch.document(Instant::now(), Some(Delivery(7)));
        watch.writing(1);
        watch.writing(2);
        watch.written(1);
        watch.acknowledged(Delivery(7));
        let stages = watch.switched();
        assert!(stages.written.is_some() && stages.written <= stages.acknowledged, "{stages:?}");
        assert_eq!(watch.written(2), None, "what is written later");
    }

    #[test]
    fn time_begins_a_switch_only_where_none_is_timed() {
        let mut watch = Stopwatch::new();
        watch.document(Instant::now().checked_sub(LONGEST * 2).unwrap(), None);
        watch.cut();
        assert_eq!(watch.switched(), Stages::default(), "long ago");
        watch.due();
        watch.cut();
        assert!(watch.switched().cut.is_some());
    }
}
