//! By how many whole cells the camera looks aside, when wind or a passing lorry shakes it. What is left within one cell the
//! background allows for itself.

use super::{CELLS, HEIGHT, WIDTH};

/// Cells right and down at which the usual picture stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Offset {
    pub right: i32,
    pub down: i32,
}

const FURTHEST: i32 = 3;
/// A picture of which less has changed is not shaken.
const SHAKEN: usize = CELLS / 25;
/// Differences beyond this count no more: an object must not decide.
const ENOUGH: f32 = 30.0;
/// A shift must explain this share of the difference to be believed.
const EXPLAINED: f32 = 0.6;

/// The shift that explains most, if cells differ by more than `clear` in enough of the picture.
pub(super) fn find(usual: &[f32], picture: &[f32], clear: f32) -> Offset {
    let changed = usual.iter().zip(picture).filter(|(x, y)| (*x - *y).abs() > clear).count();
    if changed < SHAKEN {
        return Offset::default();
    }
    let still = cost(usual, picture, Offset::default());
    let mut best = (still * EXPLAINED, Offset::default());
    for down in -FURTHEST..=FURTHEST {
        for right in -FURTHEST..=FURTHEST {
            let offset = Offset { right, down };
            let cost = cost(usual, picture, offset);
            if cost < best.0 {
                best = (cost, offset);
            }
        }
    }
    best.1
}

/// Every second cell of the middle suffices.
fn cost(usual: &[f32], picture: &[f32], offset: Offset) -> f32 {
    let margin = FURTHEST as usize;
    let mut sum = 0.0;
    for y in (margin..HEIGHT - margin).step_by(2) {
        for x in (margin..WIDTH - margin).step_by(2) {
            // The margin is as wide as the furthest shift.
            let from = (y as i32 - offset.down) * WIDTH as i32 + x as i32 - offset.right;
            sum += (picture[y * WIDTH + x] - usual[from as usize]).abs().min(ENOUGH);
        }
    }
    sum
}
