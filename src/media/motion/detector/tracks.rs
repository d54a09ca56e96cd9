//! Follows regions from picture to picture: what is large counts at once where pictures are rare; what is small, or where
//! pictures are frequent, must be seen again nearby. What flashes up once is rain, snow or noise, and tells how large that is.

use std::time::Duration;

use super::regions::Region;

/// So many times the least size is large.
const LARGE: f32 = 2.5;
/// Pictures further apart than this are rare: what is large counts at once. Further apart than the other, everything does.
const RARE_S: f32 = 0.6;
const VERY_RARE_S: f32 = 1.8;
/// For how long a small one must have been seen, and a large one where pictures are frequent, seconds.
const SEEN_S: f32 = 0.5;
/// What is not seen in this many pictures has gone.
const MISSED: f32 = 2.2;
/// How far something moves in a second, cells, and more if it is wide: then it is near.
const FASTEST: f32 = 6.0;
/// What became so many times larger or smaller is another thing.
const GROWN: f32 = 4.0;
const MOST: usize = 48;

/// How much of the size of a larger drop is learned at once, and in how many seconds it is forgotten.
const LEARNS: f32 = 0.25;
const FORGETS_S: f32 = 900.0;
/// What is larger than so many times the least is no drop.
const DROP: f32 = 5.0;
/// What counts is larger than drops by this.
const BEYOND_DROPS: f32 = 1.4;

pub(super) struct Tracks {
    seen: Vec<Track>,
    least: f32,
    /// The size of what flashes up.
    drops: f32,
}

struct Track {
    region: Region,
    first: Duration,
    last: Duration,
    sightings: u32,
}

impl Tracks {
    /// `least`: how many cells count.
    pub fn new(least: f32) -> Self {
        Self { seen: Vec::new(), least, drops: 0.0 }
    }

    pub fn clear(&mut self) {
        self.seen.clear();
    }

    /// How many cells the largest one that counts has, if that is at least so many. The picture came `step` seconds after the one before.
    pub fn follow(&mut self, regions: &[Region], least: f32, at: Duration, step: f32) -> Option<usize> {
        let least = least.max(self.least).max(BEYOND_DROPS * self.drops + 1.0);
        let mut counts = None;
        for region in regions {
            let track = self.seen.iter_mut().filter(|track| track.last < at).filter_map(|track| Some((track.gap(region, at)?, track)));
            let nearest = track.min_by(|(one, _), (other, _)| one.total_cmp(other));
            let track = match nearest {
                Some((_, track)) => track,
                None => {
                    self.seen.push(Track { region: *region, first: at, last: at, sightings: 0 });
                    self.seen.last_mut().expect("one was added")
                }
            };
            (track.region, track.last, track.sightings) = (*region, at, track.sightings + 1);
            let (cells, seen) = (region.cells as f32, at.saturating_sub(track.first).as_secs_f32());
            let large = cells >= least * LARGE;
            let again = track.sightings >= 2;
            let lasting = again && seen >= SEEN_S;
            if cells >= least && (lasting || large && (again || step >= RARE_S) || step >= VERY_RARE_S) {
                counts = counts.max(Some(region.cells));
            }
        }
        self.forget(at, step);
        counts
    }

    fn forget(&mut self, at: Duration, step: f32) {
        let keep = MISSED * step;
        let (drops, largest) = (&mut self.drops, self.least * DROP);
        *drops -= *drops * step / (FORGETS_S + step);
        self.seen.retain(|track| {
            let kept = at.saturating_sub(track.last).as_secs_f32() <= keep;
            let cells = track.region.cells as f32;
            if !kept && track.sightings == 1 && cells > *drops && cells <= largest {
                *drops += (cells - *drops) * LEARNS;
            }
            kept
        });
        let extra = self.seen.len().saturating_sub(MOST);
        self.seen.drain(..extra);
    }
}

impl Track {
    /// How far this region is away, if it can be the same thing.
    fn gap(&self, region: &Region, at: Duration) -> Option<f32> {
        let (one, other) = (region.cells as f32, self.region.cells as f32);
        let gap = |low: usize, high: usize, other_low: usize, other_high: usize| {
            low.saturating_sub(other_high).max(other_low.saturating_sub(high)) as f32
        };
        let aside = gap(self.region.left, self.region.right, region.left, region.right);
        let along = gap(self.region.top, self.region.bottom, region.top, region.bottom);
        let wide = (region.right - region.left) as f32;
        let reach = 1.0 + (FASTEST + wide) * at.saturating_sub(self.last).as_secs_f32();
        (one.max(other) <= GROWN * one.min(other) && aside.max(along) <= reach).then(|| aside.max(along))
    }
}
