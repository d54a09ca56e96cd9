//! How the light of the whole picture has changed: one gain and one offset, fitted to the cells that agree, so that something
//! large in front of the camera does not count as light.

/// What makes the usual picture the present one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Light {
    pub gain: f32,
    pub offset: f32,
}

/// Beyond these a camera has switched, and no line fits.
const GAINS: std::ops::RangeInclusive<f32> = 0.4..=2.5;
/// Cells within this of the line agree with it, pass by pass.
const AGREEING: [f32; 4] = [40.0, 25.0, 15.0, CLOSE];
const CLOSE: f32 = 10.0;
/// Cells nearer than this to black or white may be clipped.
const CLIPPED: f32 = 4.0;

impl Light {
    const SAME: Self = Self { gain: 1.0, offset: 0.0 };

    /// How many cells agree with it.
    fn agreeing(self, usual: &[f32], picture: &[f32]) -> usize {
        usual.iter().zip(picture).filter(|(x, y)| (*y - self.gain * *x - self.offset).abs() <= CLOSE).count()
    }

    /// By how much it changes a picture of the middle of the range, of 255.
    pub fn jump(self, usual: &[f32]) -> f32 {
        let mean = usual.iter().sum::<f32>() / usual.len() as f32;
        (self.gain * mean + self.offset - mean).abs()
    }
}

/// The light in which `usual` is most like `picture`; the same as before unless another explains clearly more.
pub(super) fn fit(usual: &[f32], picture: &[f32]) -> Light {
    let light = line(usual, picture);
    let better = light.agreeing(usual, picture) > Light::SAME.agreeing(usual, picture) + usual.len() / 50;
    if better { light } else { Light::SAME }
}

fn line(usual: &[f32], picture: &[f32]) -> Light {
    let offset = median_difference(usual, picture);
    let mut light = Light { gain: 1.0, offset };
    for within in AGREEING {
        let (mut count, mut sum_x, mut sum_y, mut sum_xx, mut sum_xy) = (0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32, 0.0_f32);
        for (&x, &y) in usual.iter().zip(picture) {
            if !(CLIPPED..255.0 - CLIPPED).contains(&y) || (y - light.gain * x - light.offset).abs() > within {
                continue;
            }
            // Around the middle of the range, so that 32 bits suffice.
            let (x, y) = (x - 128.0, y - 128.0);
            count += 1.0;
            sum_x += x;
            sum_y += y;
            sum_xx += x * x;
            sum_xy += x * y;
        }
        // A handful of cells, or a wall of one shade, tells an offset at most.
        if count < 64.0 {
            return light;
        }
        let spread = sum_xx - sum_x * sum_x / count;
        if spread / count < 30.0 {
            light.offset = (sum_y - light.gain * sum_x) / count + 128.0 - light.gain * 128.0;
            continue;
        }
        let gain = (sum_xy - sum_x * sum_y / count) / spread;
        if !GAINS.contains(&gain) {
            return light;
        }
        light = Light { gain, offset: (sum_y - gain * sum_x) / count + 128.0 - gain * 128.0 };
    }
    light
}

/// The median of the differences, within one of 255.
fn median_difference(usual: &[f32], picture: &[f32]) -> f32 {
    let mut counts = [0_u32; 512];
    for (x, y) in usual.iter().zip(picture) {
        counts[(y - x + 256.0) as usize & 511] += 1;
    }
    let half = picture.len() as u32 / 2;
    let mut below = 0;
    let middle = counts.iter().position(|count| {
        below += count;
        below > half
    });
    middle.map_or(0.0, |middle| middle as f32 - 256.0)
}
