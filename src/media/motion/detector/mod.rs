//! Motion in small grey pictures: each is compared with a background that adapts cell by cell. Light, a switch of the camera,
//! wind, rain and noise change a picture as well; the steps below tell them from what moves. Pure: it gets a picture and its
//! time, and is called by `built_in`. docs/motion.md says what it can and cannot tell apart, with figures.

mod background;
mod filter;
mod light;
mod regions;
mod shift;
mod tracks;

use std::time::Duration;

use self::{background::Background, tracks::Tracks};
use crate::media::source::{GREY_HEIGHT as HEIGHT, GREY_WIDTH as WIDTH};

/// A picture's pixels are the cells of the background.
const CELLS: usize = WIDTH * HEIGHT;

/// More of the picture than this changes at once only when the camera or the light switches.
const MOST: f32 = 0.35;
/// So does light that changes by this much, of 255, from one picture to the next.
const JUMP: f32 = 18.0;
/// So does this share if nearly all of it becomes brighter, or all darker: a lamp.
const LAMP: f32 = 0.16;
const ONE_SIDED: f32 = 0.93;
/// A region counts if it is this share of all that differs. Where light changes in half of the picture, what stands out of it
/// in spots is light as well.
const NOTABLE: f32 = 0.04;
/// A switch takes pictures for this long: infrared light, exposure and white balance follow each other. What changes as much
/// for longer is something close to the camera.
const SWITCHING_S: f32 = 4.0;
/// Pictures further apart than this do not teach more than these seconds would.
const LONGEST_STEP_S: f32 = 3.0;
/// After a pause like this the stream was away, and what has changed meanwhile is no motion.
const AWAY_S: f32 = 300.0;

/// How much must change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::media) struct Tuning {
    /// By how much a cell must differ beyond its noise, of 255.
    contrast: f32,
    /// How many cells must be connected.
    least: f32,
}

impl Tuning {
    /// From 1, for things that are large or stand out, to 100.
    pub fn of(sensitivity: u8) -> Self {
        let sensitivity = f32::from(sensitivity.clamp(1, 100));
        let (step, from) = if sensitivity < 50.0 { (sensitivity / 50.0, 0) } else { (sensitivity / 50.0 - 1.0, 1) };
        let between = |steps: [f32; 3]| steps[from] + (steps[from + 1] - steps[from]) * step;
        Self { contrast: between([24.0, 8.0, 4.0]), least: between([40.0, 5.0, 3.0]) }
    }
}

/// Compares pictures with what the camera usually sees.
pub(in crate::media) struct Detector {
    tuning: Tuning,
    /// The cells that count; all of them without zones.
    watched: Option<Vec<bool>>,
    background: Option<Background>,
    last: Duration,
    tracks: Tracks,
    switching: Option<Switching>,
}

/// Most of the picture has changed.
struct Switching {
    began: Duration,
    last: Duration,
}

impl Detector {
    pub fn new(tuning: Tuning, watched: Option<Vec<bool>>) -> Self {
        Self { tuning, watched, background: None, last: Duration::ZERO, tracks: Tracks::new(tuning.least), switching: None }
    }

    /// The share of the picture that moved, if something did. `at` is the time since any moment.
    pub fn see(&mut self, grey: &[u8], at: Duration) -> Option<f32> {
        if grey.len() != CELLS {
            return None;
        }
        let Tuning { contrast, least } = self.tuning;
        let picture: Vec<f32> = grey.iter().copied().map(f32::from).collect();
        let step = at.saturating_sub(self.last).as_secs_f32();
        self.last = at;
        let Some(background) = &mut self.background else {
            self.background = Some(Background::new(&picture));
            return None;
        };
        if step > AWAY_S {
            self.tracks.clear();
            background.adopt(&picture);
            return None;
        }
        let lit = light::fit(background.usual(), &picture);
        let jumped = lit.jump(background.usual()) > JUMP;
        background.follow(lit);
        let clear = background.beyond_noise(contrast);
        let offset = shift::find(background.usual(), &picture, clear);
        let raw = background.difference(&picture, offset, contrast);
        let mut difference = filter::smooth(&raw);
        filter::without_soft_light(&mut difference, &picture, background.usual());
        if jumped || changed_at_once(&raw, clear) {
            self.tracks.clear();
            background.adopt(&picture);
            // Soft light may go on for as long as it likes.
            let share = difference.iter().filter(|difference| difference.abs() > contrast).count() as f32 / CELLS as f32;
            return (Switching::goes_on(&mut self.switching, at) && share > LAMP).then_some(share);
        }
        let (clearly, mut somewhat) = background.judge(&difference, contrast);
        let regions = regions::find(&clearly, &mut somewhat, self.watched.as_deref(), least);
        background.learn(&picture, &difference, [&clearly, &somewhat], step.min(LONGEST_STEP_S), contrast);
        let all = raw.iter().filter(|difference| difference.abs() > clear).count();
        let moved = self.tracks.follow(&regions, all as f32 * NOTABLE, at, step);
        moved.map(|cells| cells as f32 / CELLS as f32)
    }
}

impl Switching {
    /// Whether it goes on for too long for a switch.
    fn goes_on(switching: &mut Option<Self>, at: Duration) -> bool {
        let recent = switching.take().filter(|switching| at.saturating_sub(switching.last).as_secs_f32() < SWITCHING_S);
        let began = recent.map_or(at, |switching| switching.began);
        *switching = Some(Self { began, last: at });
        at.saturating_sub(began).as_secs_f32() >= SWITCHING_S
    }
}

/// Whether so much has changed by more than `clear` that the camera or the light has switched.
fn changed_at_once(difference: &[f32], clear: f32) -> bool {
    let brighter = difference.iter().filter(|difference| **difference > clear).count() as f32;
    let darker = difference.iter().filter(|difference| **difference < -clear).count() as f32;
    let all = brighter + darker;
    all >= MOST * CELLS as f32 || all >= LAMP * CELLS as f32 && brighter.max(darker) >= all * ONE_SIDED
}

#[cfg(test)]
mod tests;
