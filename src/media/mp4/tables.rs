//! Where every sample of a file is and when it is shown, as the header of a file without fragments lists it (ISO/IEC 14496-12, 8.6 and
//! 8.7). Filled while fragments are made; runs of equal values are one entry, so that a frame takes a few bytes.

use super::{
    boxes::{atom, put, to_u32},
    fragment::{Heard, Sample},
};

/// A file with more samples keeps its fragments: 18 minutes at 30 frames a second. They take 700 KiB at most.
const MOST: usize = 32 * 1024;

/// The tracks of one file.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub picture: Table,
    pub sound: Table,
    /// There are more than [`MOST`].
    over: bool,
}

/// The samples of one track. Times are ticks of the track.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// When the first is decoded.
    pub first: u64,
    /// When the last one is decoded, and how long it lasts.
    last: Option<(u64, u64)>,
    /// How many in a row last how long, without the last one.
    steps: Vec<(u32, u32)>,
    /// How many in a row are shown how much later than they are decoded.
    offsets: Vec<(u32, i64)>,
    sizes: Vec<u32>,
    /// The numbers of those with which a player may begin, from 1 on.
    sync: Vec<u32>,
    /// Where each run of samples is, and how many it has.
    chunks: Vec<(u64, u32)>,
}

impl Tables {
    /// Adds a fragment whose first frame is at `at`; the others follow, and behind them the sound.
    pub fn add(&mut self, at: u64, samples: &[Sample<'_>], sound: &[Heard]) {
        self.over |= self.picture.sizes.len() + self.sound.sizes.len() + samples.len() + sound.len() > MOST;
        if self.over {
            (self.picture, self.sound) = Default::default();
            return;
        }
        let mut end = at;
        self.picture.chunks.push((at, to_u32(samples.len() as u64)));
        for sample in samples {
            let size = (sample.sets.len() + sample.frame.data.len()) as u64;
            self.picture.push(sample.decoded, sample.ticks, size);
            run(&mut self.picture.offsets, sample.shown as i64 - sample.decoded as i64);
            if sample.sync {
                self.picture.sync.push(self.picture.sizes.len() as u32);
            }
            end += size;
        }
        if !sound.is_empty() {
            self.sound.chunks.push((end, to_u32(sound.len() as u64)));
        }
        for heard in sound {
            self.sound.push(heard.at, heard.lasts, heard.data.len() as u64);
        }
    }

    /// Whether they list all there is, and there is something.
    pub fn complete(&self) -> bool {
        !self.over && !self.picture.is_empty()
    }
}

impl Table {
    fn push(&mut self, decoded: u64, lasts: u64, size: u64) {
        match self.last.replace((decoded, lasts)) {
            Some((before, _)) => run(&mut self.steps, to_u32(decoded.saturating_sub(before))),
            None => self.first = decoded,
        }
        self.sizes.push(to_u32(size));
    }

    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// How long all of them last.
    pub fn duration(&self) -> u64 {
        self.last.map_or(0, |(decoded, lasts)| decoded + lasts - self.first)
    }

    /// How much later all must be shown so that none is shown before it is decoded.
    pub fn delay(&self) -> u64 {
        self.offsets.iter().map(|(_, offset)| *offset).min().map_or(0, |least| least.min(0).unsigned_abs())
    }

    /// Appends the boxes. The places of samples count from `base` in the file.
    pub fn write(&self, base: u64, out: &mut Vec<u8>) {
        let mut steps = self.steps.clone();
        if let Some((_, lasts)) = self.last {
            run(&mut steps, to_u32(lasts));
        }
        atom(out, b"stts", |out| pairs(out, steps.iter().copied()));
        let delay = self.delay() as i64;
        if self.offsets.iter().any(|(_, offset)| *offset != 0) {
            atom(out, b"ctts", |out| pairs(out, self.offsets.iter().map(|&(count, offset)| (count, to_u32((offset + delay) as u64)))));
        }
        if !self.sync.is_empty() {
            atom(out, b"stss", |out| {
                put(out, &[0, to_u32(self.sync.len() as u64)]);
                put(out, &self.sync);
            });
        }
        atom(out, b"stsc", |out| {
            let differs = |n: &usize| *n == 0 || self.chunks[*n].1 != self.chunks[n - 1].1;
            let changes: Vec<usize> = (0..self.chunks.len()).filter(differs).collect();
            put(out, &[0, to_u32(changes.len() as u64)]);
            changes.iter().for_each(|&n| put(out, &[n as u32 + 1, self.chunks[n].1, 1]));
        });
        atom(out, b"stsz", |out| {
            put(out, &[0, 0, to_u32(self.sizes.len() as u64)]);
            put(out, &self.sizes);
        });
        atom(out, b"stco", |out| {
            put(out, &[0, to_u32(self.chunks.len() as u64)]);
            self.chunks.iter().for_each(|(at, _)| put(out, &[to_u32(base + at)]));
        });
    }
}

/// Adds a value to a list of runs.
fn run<T: PartialEq>(runs: &mut Vec<(u32, T)>, value: T) {
    match runs.last_mut() {
        Some((count, last)) if *last == value => *count += 1,
        _ => runs.push((1, value)),
    }
}

fn pairs(out: &mut Vec<u8>, pairs: impl ExactSizeIterator<Item = (u32, u32)>) {
    put(out, &[0, to_u32(pairs.len() as u64)]);
    pairs.for_each(|(count, value)| put(out, &[count, value]));
}
