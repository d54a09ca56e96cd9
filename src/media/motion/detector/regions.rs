//! Connected regions of changed cells: an object covers cells that touch, drops of rain and noise do not.

use super::{CELLS, HEIGHT, WIDTH};

/// So many cells of a region must have changed clearly.
const CLEAR: usize = 2;

/// Cells that touch, corners included, and the rectangle around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub cells: usize,
    pub left: usize,
    pub right: usize,
    pub top: usize,
    pub bottom: usize,
}

/// The regions of cells that changed at least somewhat, if enough of their cells changed clearly. Only watched cells count; all
/// without `watched`. What remains in `changed` are the cells of regions that have at least so many.
pub(super) fn find(clearly: &[bool], changed: &mut [bool], watched: Option<&[bool]>, least: f32) -> Vec<Region> {
    let mut left_over = changed.to_vec();
    let mut regions = Vec::new();
    let mut found = Vec::new();
    for start in 0..CELLS {
        if !std::mem::take(&mut left_over[start]) {
            continue;
        }
        found.clear();
        found.push(start);
        let mut clear = 0;
        let mut region = Region { cells: 0, left: WIDTH, right: 0, top: HEIGHT, bottom: 0 };
        let mut next = 0;
        while let Some(&cell) = found.get(next) {
            next += 1;
            let (x, y) = (cell % WIDTH, cell / WIDTH);
            if watched.is_none_or(|watched| watched[cell]) {
                region.cells += 1;
                clear += usize::from(clearly[cell]);
                (region.left, region.right) = (region.left.min(x), region.right.max(x));
                (region.top, region.bottom) = (region.top.min(y), region.bottom.max(y));
            }
            for near_y in y.saturating_sub(1)..(y + 2).min(HEIGHT) {
                for near_x in x.saturating_sub(1)..(x + 2).min(WIDTH) {
                    let near = near_y * WIDTH + near_x;
                    if std::mem::take(&mut left_over[near]) {
                        found.push(near);
                    }
                }
            }
        }
        if clear >= CLEAR {
            regions.push(region);
        }
        if (found.len() as f32) < least {
            found.iter().for_each(|cell| changed[*cell] = false);
        }
    }
    regions
}
