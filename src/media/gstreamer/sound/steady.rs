//! The timeline of an encoder: what is fed to it must have no holes, and what it gives out carries no times that could be trusted,
//! because encoders give every sound out late by a delay of their own. So samples are counted: those fed, with when they are heard,
//! and the access units that come out. Holes become silence, sound that comes twice is left out. Pure. Called by `encoding`.

use std::{collections::VecDeque, time::Duration};

const SECOND: i64 = 1_000_000_000;
/// Samples of one channel in an access unit.
const UNIT: i64 = 1024;
/// A hole this long is filled with silence. A shorter one is a clock that differs a little: what follows is heard when it says.
const HOLE: i64 = SECOND / 66;
/// Sound that goes back further than this is cut, so that no sound is heard twice.
const BACK: i64 = SECOND / 25;
/// After a longer hole, or a step back, the timeline begins anew.
const LONGEST: i64 = SECOND;
/// Of so many moments it is known when they are heard. An encoder holds back far fewer.
const MOST_KNOWN: usize = 1024;

/// What to feed of samples that have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Feed {
    /// Samples of silence before them.
    pub silence: i64,
    /// How many of them to leave out.
    pub skip: i64,
    /// How many were fed before.
    pub at: i64,
}

/// All positions are samples of one channel at the rate of what is fed.
#[derive(Debug)]
pub(super) struct Steady {
    rate: i64,
    coded_rate: i64,
    delay: i64,
    fed: i64,
    /// Positions, and when they are heard, nanoseconds; `None`: what follows is no sound that came.
    known: VecDeque<(i64, Option<i64>)>,
    /// When what was fed ends. `None`: nothing was, or silence to push it out.
    end: Option<i64>,
    units: i64,
}

impl Steady {
    /// Samples of `rate` are fed and coded at `coded_rate`, Hz. `delay` is by how many of those an encoder is late.
    pub fn new(rate: u32, coded_rate: u32, delay: u16) -> Self {
        let (rate, coded_rate) = (i64::from(rate.max(1)), i64::from(coded_rate.max(1)));
        Self { rate, coded_rate, delay: delay.into(), fed: 0, known: VecDeque::new(), end: None, units: 0 }
    }

    /// Takes so many samples that are heard from then on, nanoseconds.
    pub fn take(&mut self, heard: i64, samples: i64) -> Feed {
        let at = self.fed;
        let mut silence = 0;
        if self.end.is_some_and(|end| (heard - end).abs() > LONGEST) {
            silence = self.rest();
        }
        let (mut begins, mut skip) = (heard, 0);
        match self.end.map(|end| heard - end) {
            None => silence += self.align(heard),
            Some(hole) if hole >= HOLE => {
                let filled = self.samples(hole);
                self.fed += filled;
                silence += filled;
            }
            Some(hole) if hole < -BACK => {
                skip = self.samples(-hole).min(samples);
                begins += self.nanoseconds(skip);
            }
            Some(_) => {}
        }
        if skip < samples {
            self.know(Some(begins));
            self.fed += samples - skip;
            self.end = Some(heard + self.nanoseconds(samples));
        }
        Feed { silence, skip, at }
    }

    /// No more comes for now: so many samples of silence push out what the encoder holds back.
    pub fn rest(&mut self) -> i64 {
        if self.end.take().is_none() {
            return 0;
        }
        self.know(None);
        let silence = (self.delay + 2 * UNIT) * self.rate / self.coded_rate + 1;
        self.fed += silence;
        silence
    }

    /// How many samples were fed.
    pub fn fed(&self) -> i64 {
        self.fed
    }

    /// An access unit has come out: when it is heard. `None`: nothing in it is sound that came.
    pub fn unit(&mut self) -> Option<Duration> {
        let begins = self.begins(self.units);
        self.units += 1;
        while self.known.get(1).is_some_and(|(at, _)| *at <= begins) {
            self.known.pop_front();
        }
        let (at, heard) = self.known.front().copied().filter(|(at, _)| *at <= begins)?;
        let heard = heard? + self.nanoseconds(begins - at);
        u64::try_from(heard).ok().map(Duration::from_nanos)
    }

    /// Silence until where an access unit begins, so that none has sound of two moments. The unit before it, of silence, goes with
    /// it: without it a decoder does not get the first one right.
    fn align(&mut self, heard: i64) -> i64 {
        let coded = (self.fed * self.coded_rate + self.rate - 1) / self.rate + self.delay;
        let mut unit = (coded + UNIT - 1) / UNIT;
        while self.begins(unit) < self.fed {
            unit += 1;
        }
        let (before, begins) = (self.begins(unit - 1), self.begins(unit));
        self.known.push_back((before, Some(heard - self.nanoseconds(begins - before))));
        let silence = begins - self.fed;
        self.fed += silence;
        silence
    }

    /// Where the n-th access unit begins.
    fn begins(&self, n: i64) -> i64 {
        ((n * UNIT - self.delay) * self.rate).div_euclid(self.coded_rate)
    }

    fn know(&mut self, heard: Option<i64>) {
        self.known.push_back((self.fed, heard));
        if self.known.len() > MOST_KNOWN {
            self.known.pop_front();
        }
    }

    fn samples(&self, nanoseconds: i64) -> i64 {
        (nanoseconds * self.rate + SECOND / 2) / SECOND
    }

    /// Exact for as long as two moments are apart.
    fn nanoseconds(&self, samples: i64) -> i64 {
        let nanoseconds = i128::from(samples) * i128::from(SECOND) / i128::from(self.rate);
        i64::try_from(nanoseconds).unwrap_or(i64::MAX / 4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = SECOND / 1000;

    /// An encoder that gives a unit out for every 1024 samples, on a timeline that has taken what comes at these milliseconds: 20 ms
    /// each, 8 kHz coded at 16 kHz. When each unit is heard, ms.
    fn heard(times: impl IntoIterator<Item = i64>) -> Vec<Option<u64>> {
        let mut steady = Steady::new(8000, 16_000, 1600);
        times.into_iter().for_each(|ms| _ = steady.take(ms * MS, 160));
        steady.rest();
        units(&mut steady)
    }

    fn units(steady: &mut Steady) -> Vec<Option<u64>> {
        let mut units = Vec::new();
        while (units.len() as i64 + 1) * 512 <= steady.fed {
            units.push(steady.unit().map(|heard| heard.as_millis() as u64));
        }
        units
    }

    #[test]
    fn the_delay_of_the_encoder_is_taken_off() {
        let heard = heard((0..50).map(|n| 3000 + 20 * n));
        let expected: Vec<Option<u64>> = (0..16).map(|n| Some(3000 + 64 * n)).collect();
        assert_eq!(heard[..2], [None, Some(2936)], "one unit of silence before");
        assert_eq!(heard[2..18], expected, "to the last, which the silence has pushed out");
        assert!(heard[18..].iter().all(Option::is_none), "{heard:?}");
    }

    #[test]
    fn a_hole_is_filled_and_what_follows_is_where_it_belongs() {
        let mut steady = Steady::new(8000, 16_000, 1024);
        assert_eq!(steady.take(0, 160), Feed { silence: 0, skip: 0, at: 0 });
        assert_eq!(steady.take(60 * MS, 160), Feed { silence: 320, skip: 0, at: 160 }, "two packets were lost");
        assert_eq!(steady.take(85 * MS, 160).silence, 0, "a clock that differs a little");
        steady.rest();
        assert_eq!(units(&mut steady)[..4], [None, Some(0), Some(64), None]);
    }

    #[test]
    fn sound_that_comes_twice_is_left_out() {
        let mut steady = Steady::new(8000, 16_000, 1024);
        steady.take(0, 1600);
        assert_eq!(steady.take(100 * MS, 800), Feed { silence: 0, skip: 800, at: 1600 });
        assert_eq!(steady.take(150 * MS, 800), Feed { silence: 0, skip: 400, at: 1600 });
        assert_eq!(steady.take(250 * MS, 800), Feed { silence: 0, skip: 0, at: 2000 });
    }

    #[test]
    fn after_a_long_pause_no_unit_has_sound_of_both_sides() {
        for (back, second) in [(5000, &[4936, 5000, 5064, 5128, 5192][..]), (0, &[0, 64, 128, 192])] {
            let heard = heard((0..10).map(|n| 3000 + 20 * n).chain((0..10).map(|n| back + 20 * n)));
            let told: Vec<u64> = heard.into_iter().flatten().collect();
            assert_eq!(told, [&[2936, 3000, 3064, 3128, 3192], second].concat());
        }
    }

    #[test]
    fn every_rate_keeps_its_units_in_step() {
        for (rate, coded) in [(8000, 16_000), (44_100, 44_100), (37_800, 44_100), (96_000, 48_000)] {
            let mut steady = Steady::new(rate, coded, 1600);
            let step = i64::from(rate) / 10;
            (0..100).for_each(|n| _ = steady.take(n * 100 * MS, step));
            let units: Vec<Duration> = (0..200).filter_map(|_| steady.unit()).collect();
            let length = 1024.0 / f64::from(coded);
            for (n, heard) in units.iter().enumerate() {
                assert!((heard.as_secs_f64() - n as f64 * length).abs() < 0.001, "{rate}, {coded}: {n}: {heard:?}");
            }
        }
    }
}
