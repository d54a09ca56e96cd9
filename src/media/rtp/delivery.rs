//! Decides which access units become frames: none before the first entry point, none between a loss and the next entry point, none
//! that refers to pictures before the one where decoding began. Each of the others is counted with its reason.

use std::time::Duration;

use super::{
    Output,
    access_unit::{Piece, Unit},
    reason,
    times::Times,
};
use crate::media::frame::Frame;

#[derive(Debug)]
pub(super) struct Delivery {
    times: Times,
    /// Nothing is delivered before the next entry point, and why.
    waiting: Option<&'static str>,
    /// Decoding began at a picture shown at this time, nanoseconds, and no entry point has come since. That of an IDR or IRAP picture
    /// is of no account: what refers to pictures before it says so itself, and times may be wrong.
    began: Option<i64>,
    /// Left out since the last keyframe, and not yet told: what follows them can be decoded.
    left_out: u64,
}

impl Delivery {
    pub fn new(times: Times) -> Self {
        Self { times, waiting: Some(reason::NOT_BEGUN), began: None, left_out: 0 }
    }

    pub fn times(&self) -> &Times {
        &self.times
    }

    pub fn take(&mut self, piece: Piece, out: &mut dyn FnMut(Output)) {
        match piece {
            Piece::Unit(unit) => self.unit(unit, out),
            Piece::Missing { frames, reason } => {
                self.wait(reason);
                out(if frames > 0 { Output::Lost { frames, reason } } else { Output::Gap });
            }
        }
    }

    fn unit(&mut self, unit: Unit, out: &mut dyn FnMut(Output)) {
        let shown = self.times.next(unit.at.timestamp, unit.at.received, unit.reorders);
        let fault = unit.fault.or_else(|| unit.format.is_none().then_some(reason::NO_PARAMETER_SETS));
        if let Some(reason) = fault {
            self.wait(reason);
            return out(Output::Lost { frames: 1, reason });
        }
        let (key, Some(format)) = (unit.is_key(), unit.format) else { return };
        if key {
            self.began = self.waiting.take().map(|_| if unit.entry { i64::MIN } else { shown });
            self.tell_left_out(out);
        } else if let Some(reason) = self.waiting {
            return out(Output::Lost { frames: 1, reason });
        } else if self.began.is_some_and(|began| unit.skipped || (unit.reorders && shown < began)) {
            self.left_out += 1;
            return;
        }
        out(Output::Frame(Frame {
            pts: Duration::from_nanos(u64::try_from(shown).unwrap_or(0)),
            key,
            taken: unit.at.received,
            // Without the room that it grew into: frames stay in memory.
            data: unit.data.into_boxed_slice().into(),
            format,
            sound: None,
        }));
    }

    fn wait(&mut self, reason: &'static str) {
        if self.waiting.is_none_or(|waiting| waiting == reason::NOT_BEGUN) {
            self.waiting = Some(reason);
        }
    }

    /// Before a keyframe: whoever is told that frames were lost waits for one.
    fn tell_left_out(&mut self, out: &mut dyn FnMut(Output)) {
        let frames = std::mem::take(&mut self.left_out);
        if frames > 0 {
            out(Output::Lost { frames, reason: reason::LEADING });
        }
    }

    pub fn end(&mut self, out: &mut dyn FnMut(Output)) {
        self.tell_left_out(out);
    }
}
