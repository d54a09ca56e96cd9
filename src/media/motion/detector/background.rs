//! What each cell usually shows: its mean, how much it varies, and what it showed before something came to stand there.

use super::{CELLS, HEIGHT, WIDTH, filter, light::Light, shift::Offset};

/// How fast the mean follows, seconds.
const FOLLOWS_S: f32 = 8.0;
/// How fast a cell is found to vary, and to have become quiet, seconds.
const VARIES_S: f32 = 30.0;
const QUIETENS_S: f32 = 120.0;
/// Something that has not moved for this long belongs to the background.
const SETTLED_S: f32 = 20.0;
/// Differences beyond this teach no more about how much a cell varies.
const WILD: f32 = 24.0;
/// For so long it counts that a cell has begun to differ, seconds. So many times are people who pass; more are leaves.
const RESTLESS_S: f32 = 240.0;
const PASSES: f32 = 3.0;
/// By how much more a restless cell must differ for each further time, and at most.
const RESTLESS: f32 = 9.0;
const MOST_RESTLESS: f32 = 70.0;
/// A cell must differ by its contrast and this many times its mean variation.
const BEYOND_NOISE: f32 = 3.5;
/// Beside a cell that differs, this part of it suffices.
const SOMEWHAT: f32 = 0.6;
/// Variation is measured after smoothing. Before it a cell shows the same within its contrast and this many times that.
const RAW_NOISE: f32 = 4.0;
/// The variation assumed at first.
const AT_FIRST: f32 = 1.5;
/// And at least, after a switch.
const AFTER_SWITCH: f32 = 2.0;

pub(super) struct Background {
    usual: Vec<f32>,
    /// Mean difference, which is noise, or leaves in the wind.
    varies: Vec<f32>,
    /// What the cell showed before, when something came to stand there or left; NaN: nothing yet.
    before: Vec<f32>,
    /// What the cell shows for a while now, and for how many seconds.
    lately: Vec<f32>,
    since: Vec<f32>,
    /// Whether it differed in the last picture, and how often that has begun of late.
    differed: Vec<bool>,
    restless: Vec<f32>,
}

impl Background {
    pub fn new(picture: &[f32]) -> Self {
        Self {
            usual: picture.to_vec(),
            varies: vec![AT_FIRST; CELLS],
            before: vec![f32::NAN; CELLS],
            lately: picture.to_vec(),
            since: vec![0.0; CELLS],
            differed: vec![false; CELLS],
            restless: vec![0.0; CELLS],
        }
    }

    pub fn usual(&self) -> &[f32] {
        &self.usual
    }

    /// The median of what cells vary.
    pub fn noise(&self) -> f32 {
        let mut counts = [0_u32; 256];
        for varies in &self.varies {
            counts[((varies * 8.0) as usize).min(255)] += 1;
        }
        let mut below = 0;
        let middle = counts.iter().position(|count| {
            below += count;
            below > CELLS as u32 / 2
        });
        middle.unwrap_or(0) as f32 / 8.0
    }

    /// What differs by this before smoothing is no noise.
    pub fn beyond_noise(&self, contrast: f32) -> f32 {
        contrast + RAW_NOISE * self.noise()
    }

    /// The light has changed: everything that is remembered is seen in the new one.
    pub fn follow(&mut self, light: Light) {
        for remembered in [&mut self.usual, &mut self.before, &mut self.lately] {
            for cell in remembered.iter_mut() {
                *cell = (light.gain * *cell + light.offset).clamp(0.0, 255.0);
            }
        }
    }

    /// By how much each cell differs from all that the background shows in its neighbourhood.
    pub fn difference(&self, picture: &[f32], offset: Offset, contrast: f32) -> Vec<f32> {
        let (least, most) = filter::range(&self.usual);
        let mut difference = vec![0.0; CELLS];
        for y in 0..HEIGHT as i32 {
            for x in 0..WIDTH as i32 {
                let (from_x, from_y) = (x - offset.right, y - offset.down);
                if !(0..WIDTH as i32).contains(&from_x) || !(0..HEIGHT as i32).contains(&from_y) {
                    continue;
                }
                let (cell, from) = ((y * WIDTH as i32 + x) as usize, (from_y * WIDTH as i32 + from_x) as usize);
                let now = picture[cell];
                // False for NaN.
                if (now - self.before[from]).abs() < contrast {
                    continue;
                }
                difference[cell] = if now > most[from] { now - most[from] } else { (now - least[from]).min(0.0) };
            }
        }
        difference
    }

    /// The cells that differ by more than they usually do: clearly, and at least somewhat.
    pub fn judge(&self, difference: &[f32], contrast: f32) -> (Vec<bool>, Vec<bool>) {
        let everywhere = self.noise();
        // A stronger gust reaches the neighbours.
        let (_, restless) = filter::range(&self.restless);
        let beyond = |part: f32| -> Vec<bool> {
            let clear = |((difference, varies), restless): ((&f32, &f32), &f32)| {
                let restless = ((restless - PASSES) * RESTLESS).clamp(0.0, MOST_RESTLESS);
                difference.abs() > part * (contrast + BEYOND_NOISE * varies.max(everywhere)) + restless
            };
            difference.iter().zip(&self.varies).zip(&restless).map(clear).collect()
        };
        (beyond(1.0), beyond(SOMEWHAT))
    }

    /// Learns of a picture that came `step` seconds after the one before, in which cells changed clearly, and somewhat together
    /// with others.
    pub fn learn(&mut self, picture: &[f32], difference: &[f32], [changed, somewhat]: [&[bool]; 2], step: f32, contrast: f32) {
        let part = |seconds: f32| step / (seconds + step);
        let (follow, vary, quieten) = (part(FOLLOWS_S), part(VARIES_S), part(QUIETENS_S));
        let everywhere = self.noise();
        for cell in 0..CELLS {
            let now = picture[cell];
            let begins = !std::mem::replace(&mut self.differed[cell], somewhat[cell]) && somewhat[cell];
            self.restless[cell] += f32::from(u8::from(begins)) - self.restless[cell] * part(RESTLESS_S);
            // What stands still differs, and does not vary.
            let wild = difference[cell].abs().min((now - self.lately[cell]).abs()).min(WILD);
            let varies = &mut self.varies[cell];
            *varies += (wild - *varies) * if wild > *varies { vary } else { quieten };
            let varies = *varies;
            let (lately, since) = (&mut self.lately[cell], &mut self.since[cell]);
            let (other, noise) = ((now - *lately).abs(), contrast + RAW_NOISE * varies.max(everywhere));
            if other < noise {
                *since += step;
                *lately += (now - *lately) * follow;
            } else {
                // Wild noise takes back some of it, another thing all.
                *since -= step * 2.0;
                if *since <= 0.0 || other > noise * 2.0 {
                    (*lately, *since) = (now, 0.0);
                }
            }
            *since = since.min(SETTLED_S);
            let usual = &mut self.usual[cell];
            let before = &mut self.before[cell];
            // False for NaN.
            if (now - *before).abs() < (now - *usual).abs().min(contrast) {
                *before += (now - *before) * follow;
            } else if !changed[cell] {
                *usual += (now - *usual) * follow;
            }
            if *since >= SETTLED_S && (*lately - *usual).abs() >= contrast {
                *before = *usual;
                *usual = *lately;
            }
        }
    }

    /// The camera has switched: this is the background now.
    pub fn adopt(&mut self, picture: &[f32]) {
        self.usual.copy_from_slice(picture);
        self.lately.copy_from_slice(picture);
        self.before.fill(f32::NAN);
        self.since.fill(0.0);
        // A camera in another mode has other noise.
        self.varies.iter_mut().for_each(|varies| *varies = varies.max(AFTER_SWITCH));
    }
}
