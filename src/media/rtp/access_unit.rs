//! Groups NAL units into access units by what they say themselves (ITU-T H.264, 7.4.1.2.3; H.265, 7.4.2.4.4), never by the marker
//! bit or the RTP time. Only a slice decides: messages and parameter sets that come after a picture wait for the next slice, which
//! belongs to that picture or begins another.

use std::{sync::Arc, time::Instant};

use super::{
    LARGEST,
    parameter_sets::{Nal, ParameterSets, Slice},
    reason,
};
use crate::media::{frame::Format, h264};

/// Messages before a picture beyond this are left out, bytes.
const MOST_BEFORE: usize = 256 << 10;

/// The packet that a NAL unit began in.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub timestamp: u32,
    pub received: Instant,
}

/// One access unit, or what came of it.
#[derive(Debug)]
pub(super) struct Unit {
    /// NAL units, each behind its length in four bytes.
    pub data: Vec<u8>,
    /// Of its first slice.
    pub at: At,
    /// Decoding can begin here without what comes before: an IDR or IRAP picture.
    pub entry: bool,
    /// The recovery point before it, if it has one.
    recovery: Option<u32>,
    intra: bool,
    /// It may be shown before pictures that were decoded earlier.
    pub reorders: bool,
    /// It cannot be decoded if decoding began at the entry point before it.
    pub skipped: bool,
    pub format: Option<Arc<Format>>,
    /// Why it is not used.
    pub fault: Option<&'static str>,
    header: Option<h264::SliceHeader>,
    has_first: bool,
    last_timestamp: u32,
    marked: bool,
}

/// What comes of the NAL units, in their order.
#[derive(Debug)]
pub(super) enum Piece {
    Unit(Unit),
    /// This many were there to be seen but cannot be used; none: an unknown number is missing.
    Missing {
        frames: u64,
        reason: &'static str,
    },
}

#[derive(Debug)]
pub(super) struct AccessUnits {
    sets: ParameterSets,
    unit: Option<Unit>,
    /// Messages for the next picture, as in [`Unit::data`].
    before: Vec<u8>,
    recovery: Option<u32>,
    /// A marker was followed by more of the same picture: markers mean nothing in this stream.
    markers_mislead: bool,
    /// The last NAL unit was a slice.
    within_slices: bool,
    packets_lost: bool,
    damage: Option<Damage>,
    /// Access units of which nothing but damage came, before `damage`.
    owed: u64,
}

/// Something at this RTP time could not be read. It belongs to the access unit under way, to the next, or to none that is seen.
#[derive(Debug)]
struct Damage {
    timestamp: u32,
    reason: &'static str,
    /// An access unit has been given up for it.
    charged: bool,
}

impl Unit {
    fn begin(slice: &Slice, at: At) -> Self {
        Self {
            data: Vec::new(),
            at,
            entry: slice.entry,
            recovery: None,
            intra: true,
            reorders: false,
            skipped: slice.skipped,
            format: slice.format.clone(),
            fault: None,
            header: slice.header,
            has_first: false,
            last_timestamp: at.timestamp,
            marked: false,
        }
    }

    /// Whether decoding can begin here. A recovery point of 0 frames promises a picture that refers to no other; a later one a
    /// picture that becomes whole within that many frames, which is all that streams without IDR pictures offer.
    pub fn is_key(&self) -> bool {
        self.entry || self.recovery.is_some_and(|frames| frames > 0 || self.intra)
    }

    fn continues_with(&self, slice: &Slice) -> bool {
        match (&self.header, &slice.header) {
            // Two first slices: cheap encoders give all their IDR pictures the same numbers.
            (Some(ours), Some(theirs)) if ours == theirs => !(slice.first && self.has_first),
            (Some(ours), Some(theirs)) => ours.same_frame(theirs),
            _ => !slice.first,
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.data.len() + bytes.len() > LARGEST {
            self.spoil(reason::TOO_LARGE);
        }
        if self.fault.is_none() {
            self.data.extend_from_slice(bytes);
        }
    }

    fn append_nal(&mut self, nal: &[u8]) {
        self.append(&length(nal));
        self.append(nal);
    }

    fn spoil(&mut self, reason: &'static str) {
        self.fault.get_or_insert(reason);
        self.data = Vec::new();
    }
}

fn length(nal: &[u8]) -> [u8; 4] {
    u32::try_from(nal.len()).unwrap_or(u32::MAX).to_be_bytes()
}

impl AccessUnits {
    pub fn new(sets: ParameterSets) -> Self {
        Self {
            sets,
            unit: None,
            before: Vec::new(),
            recovery: None,
            markers_mislead: false,
            within_slices: false,
            packets_lost: false,
            damage: None,
            owed: 0,
        }
    }

    /// Takes the next NAL unit, which began in the packet `at`.
    pub fn nal(&mut self, nal: &[u8], at: At, done: &mut dyn FnMut(Piece)) {
        self.within_slices = false;
        match self.sets.read(nal) {
            Nal::Slice(slice) => self.slice(nal, &slice, at, done),
            Nal::Before { recovery } => {
                self.recovery = self.recovery.or(recovery);
                if self.before.len() + nal.len() < MOST_BEFORE {
                    self.before.extend_from_slice(&length(nal));
                    self.before.extend_from_slice(nal);
                }
            }
            Nal::After => {
                if let Some(unit) = &mut self.unit {
                    unit.append_nal(nal);
                }
            }
            Nal::Other => {}
            Nal::Unreadable => self.damage(at.timestamp, reason::MALFORMED),
        }
    }

    fn slice(&mut self, nal: &[u8], slice: &Slice, at: At, done: &mut dyn FnMut(Piece)) {
        let continues = self.unit.as_ref().is_some_and(|unit| unit.continues_with(slice));
        if !continues {
            let before = self.finish(done);
            let mut unit = Unit::begin(slice, at);
            if let Some(damage) = self.damage.take() {
                let is_here = damage.timestamp == at.timestamp && (!damage.charged || before != Some(at.timestamp));
                if is_here {
                    unit.spoil(damage.reason);
                }
                self.pay(u64::from(!is_here && !damage.charged), damage.reason, done);
            }
            self.unit = Some(unit);
        }
        let Some(unit) = &mut self.unit else { return };
        self.markers_mislead |= continues && unit.marked;
        if continues && self.packets_lost {
            unit.spoil(reason::PACKETS_LOST);
        }
        unit.recovery = unit.recovery.or(self.recovery.take());
        unit.has_first |= slice.first;
        unit.intra &= slice.intra;
        unit.reorders |= slice.reorders;
        unit.last_timestamp = at.timestamp;
        unit.marked = false;
        unit.append(&std::mem::take(&mut self.before));
        unit.append_nal(nal);
        self.within_slices = true;
    }

    /// The packet of the last NAL unit had the marker.
    pub fn mark(&mut self) {
        if let Some(unit) = self.unit.as_mut().filter(|_| self.within_slices) {
            unit.marked = true;
        }
    }

    /// Whether the access unit under way should be complete, by its marker.
    pub fn is_marked(&self) -> bool {
        self.unit.as_ref().is_some_and(|unit| unit.marked) && !self.markers_mislead
    }

    /// Packets are missing before the next one: of the access unit under way, unless its marker came.
    pub fn lost_packets(&mut self, done: &mut dyn FnMut(Piece)) {
        let complete = self.is_marked();
        self.before = Vec::new();
        self.recovery = None;
        match &mut self.unit {
            Some(unit) => {
                if !complete {
                    unit.spoil(reason::PACKETS_LOST);
                }
                self.packets_lost = true;
            }
            None => done(Piece::Missing { frames: 0, reason: reason::PACKETS_LOST }),
        }
    }

    /// Something in a packet of this RTP time could not be read.
    pub fn damage(&mut self, timestamp: u32, reason: &'static str) {
        let complete = self.is_marked();
        let unit = self.unit.as_mut().filter(|unit| unit.last_timestamp == timestamp || !complete);
        let charged = unit.map(|unit| unit.spoil(reason)).is_some();
        match &mut self.damage {
            Some(damage) if damage.timestamp == timestamp => damage.charged |= charged,
            damage => {
                self.owed += u64::from(damage.as_ref().is_some_and(|damage| !damage.charged));
                *damage = Some(Damage { timestamp, reason, charged });
            }
        }
    }

    /// The access unit under way is incomplete.
    #[cfg(feature = "gstreamer")]
    pub fn cut_off(&mut self, reason: &'static str) {
        if let Some(unit) = &mut self.unit {
            unit.spoil(reason);
        }
    }

    /// The access unit under way is complete. Gives its last RTP time.
    pub fn finish(&mut self, done: &mut dyn FnMut(Piece)) -> Option<u32> {
        let mut unit = self.unit.take()?;
        if !unit.has_first {
            unit.spoil(reason::HEADLESS);
        }
        let last = unit.last_timestamp;
        done(Piece::Unit(unit));
        if std::mem::take(&mut self.packets_lost) {
            done(Piece::Missing { frames: 0, reason: reason::PACKETS_LOST });
        }
        Some(last)
    }

    /// No more NAL units come.
    pub fn end(&mut self, done: &mut dyn FnMut(Piece)) {
        self.finish(done);
        if let Some(damage) = self.damage.take() {
            self.pay(u64::from(!damage.charged), damage.reason, done);
        }
    }

    fn pay(&mut self, more: u64, reason: &'static str, done: &mut dyn FnMut(Piece)) {
        let frames = std::mem::take(&mut self.owed) + more;
        if frames > 0 {
            done(Piece::Missing { frames, reason });
        }
    }
}
