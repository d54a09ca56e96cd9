//! One step of a history, as a value: a history can be recorded, replayed and shrunk. A step names things
//! relatively, so that it keeps its meaning when earlier steps are left out.

use fastrand::Rng;

use super::issuer::{DEFECTS, VARIANTS};

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// CONNACK, SUBSCRIBE and SUBACK, as far as they get.
    Connect {
        subscribe: bool,
        granted: bool,
    },
    Lose,
    /// The broker delivers a document.
    Deliver(Draw, How),
    /// The broker delivers a keyset.
    Keys(Keys),
    /// HTTPS answers one of the pending requests.
    Https {
        question: u8,
        answer: Https,
    },
    /// The `Date` of some other answer.
    Date,
    Wait {
        seconds: u32,
    },
    /// How the flash behaves from now on.
    Flash {
        slow: bool,
        fails: bool,
    },
    /// The next sync of the record fails.
    SyncFails,
    /// A slow flash completes its pending operation.
    FlashWrites,
    /// A grant is refused with 402.
    Refused,
    /// The broker acknowledges the reports.
    Published,
    /// The system clock is set.
    SystemClock(Wall),
    /// The cloud's clock becomes correct, or wrong by so many seconds.
    CloudClock {
        off: i64,
    },
    /// Motion: a clip or a snapshot is recorded.
    Motion {
        snapshot: bool,
        seconds: u8,
        height: u16,
    },
    Upload(Upload),
    /// From now on a cut takes so many further steps, as with a vendor's uploader.
    Cuts {
        after: u8,
    },
    PowerCut {
        off: u32,
        fate: Fate,
        wall: Wall,
    },
}

/// Which document is delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Draw {
    /// A higher one.
    Next { owner: bool, skips: u8, variant: u8 },
    /// An earlier one again.
    Again { back: u8 },
    /// A different one at the newest position.
    Rival { variant: u8 },
    /// An invalid one.
    Bad { defect: u8, variant: u8 },
}

/// By which channel it is delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum How {
    Copy { retain: bool, dup: bool },
    Answer { newest: bool },
}

/// Which keyset is delivered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Keys {
    Same,
    Higher,
    Lower,
    /// A higher one with `iat` in milliseconds.
    Milliseconds,
    /// A higher one that resets this camera to a part of its seq, possibly with the time, or repeats an old reset.
    Reset {
        again: bool,
        part: u8,
        time: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Https {
    Failed,
    Missing,
    Found(Draw, Keys),
}

/// What the system clock reads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wall {
    Right,
    /// No RTC.
    Epoch,
    YearBack,
    YearAhead,
    MinutesBack,
    MinutesAhead,
    HoursAhead,
}

/// What an upload does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Upload {
    Begin,
    Send,
    Fail,
    Done,
}

/// The flash contents after a power cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fate {
    /// The flash after unsynced writes were lost, torn or reordered.
    Crash {
        during_operation: u8,
        which: u16,
    },
    Unreadable,
    FactoryReset,
}

impl Step {
    pub(super) fn random(random: &mut Rng) -> Self {
        match random.u32(0..100) {
            0..10 => Self::Connect { subscribe: random.u32(0..6) > 0, granted: random.u32(0..6) > 0 },
            10..13 => Self::Lose,
            13..34 => Self::Deliver(Draw::random(random), How::random(random)),
            34..38 => Self::Keys(Keys::random(random)),
            38..47 => Self::Https {
                question: random.u8(..),
                answer: match random.u32(0..6) {
                    0 => Https::Failed,
                    1 | 2 => Https::Missing,
                    _ => Https::Found(Draw::random(random), Keys::random(random)),
                },
            },
            47..49 => Self::Date,
            49..63 => {
                let spans = [1, 1, 2, 2, 3, 3, 5, 5, 9, 10, 10, 15, 15, 16, 31, 60, 60, 90, 91, 600, 901, 3600, 20_000];
                Self::Wait { seconds: spans[random.usize(0..spans.len())] }
            }
            63..67 => Self::Flash { slow: random.bool(), fails: random.u32(0..3) == 0 },
            67..69 => Self::SyncFails,
            69..72 => Self::FlashWrites,
            72..74 => Self::Refused,
            74..75 => Self::Published,
            75..76 => Self::SystemClock(Wall::random(random)),
            76..77 => {
                let offs = [0, 0, 0, 540, -540, 80_000, -1200, -100 * 86_400, 100 * 86_400, 400 * 86_400];
                Self::CloudClock { off: offs[random.usize(0..offs.len())] }
            }
            77..83 => Self::Motion {
                snapshot: random.u32(0..3) == 0,
                seconds: [5, 11, 40, 100][random.usize(0..4)],
                height: [300, 700, 1000, 2000][random.usize(0..4)],
            },
            83..96 => Self::Upload([Upload::Begin, Upload::Begin, Upload::Send, Upload::Fail, Upload::Done][random.usize(0..5)]),
            _ => Self::PowerCut {
                off: [1, 10, 1000, 10_000][random.usize(0..4)],
                fate: match random.u32(0..10) {
                    0 => Fate::Unreadable,
                    1 => Fate::FactoryReset,
                    _ => Fate::Crash { during_operation: random.u8(0..4), which: random.u16(..) },
                },
                wall: Wall::random(random),
            },
        }
    }

    /// How long cuts take from now on.
    pub(super) fn random_cuts(random: &mut Rng) -> Self {
        Self::Cuts { after: [0, 0, 1, 2, 3, 5, 8, 40][random.usize(0..8)] }
    }

    /// One of the twelve kinds of events that make up all short histories.
    pub(super) const KINDS: [Self; 12] = [
        Self::Connect { subscribe: true, granted: true },
        Self::Lose,
        // Variant 0 is Premium with a long lease, variant 1 Free.
        Self::Deliver(Draw::Next { owner: false, skips: 0, variant: 0 }, How::Copy { retain: true, dup: false }),
        Self::Deliver(Draw::Next { owner: false, skips: 0, variant: 1 }, How::Copy { retain: false, dup: false }),
        Self::Deliver(Draw::Again { back: 0 }, How::Copy { retain: true, dup: false }),
        Self::Deliver(Draw::Again { back: 1 }, How::Copy { retain: false, dup: true }),
        Self::Https { question: 0, answer: Https::Found(Draw::Again { back: 0 }, Keys::Same) },
        Self::Https { question: 0, answer: Https::Missing },
        Self::Wait { seconds: 16 },
        Self::Flash { slow: true, fails: true },
        Self::Flash { slow: false, fails: false },
        Self::PowerCut { off: 1, fate: Fate::Crash { during_operation: 1, which: 0 }, wall: Wall::Epoch },
    ];
}

impl Draw {
    fn random(random: &mut Rng) -> Self {
        let variant = random.u8(0..VARIANTS);
        match random.u32(0..20) {
            0..9 => Self::Next { owner: random.u32(0..12) == 0, skips: random.u8(0..2), variant },
            9..15 => Self::Again { back: random.u8(0..4) },
            15..18 => Self::Rival { variant },
            _ => Self::Bad { defect: random.u8(0..DEFECTS), variant },
        }
    }
}

impl How {
    fn random(random: &mut Rng) -> Self {
        match random.u32(0..4) {
            0 => Self::Answer { newest: random.bool() },
            _ => Self::Copy { retain: random.bool(), dup: random.u32(0..4) == 0 },
        }
    }
}

impl Keys {
    fn random(random: &mut Rng) -> Self {
        match random.u32(0..7) {
            0 | 1 => Self::Higher,
            2 => Self::Reset { again: random.u32(0..4) == 0, part: random.u8(..), time: random.u32(0..3) == 0 },
            3 => Self::Lower,
            4 => Self::Milliseconds,
            _ => Self::Same,
        }
    }
}

impl Wall {
    fn random(random: &mut Rng) -> Self {
        match random.u32(0..10) {
            9 => Self::HoursAhead,
            0 | 1 => Self::Epoch,
            2 => Self::YearBack,
            3 => Self::YearAhead,
            4 => Self::MinutesBack,
            5 => Self::MinutesAhead,
            _ => Self::Right,
        }
    }
}
