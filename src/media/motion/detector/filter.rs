//! Filters over the cells of a picture.

use super::{CELLS, HEIGHT, WIDTH};

/// A local mean of differences takes them up to this: an object weighs no more than a change of light.
const LIGHT: f32 = 40.0;
/// So much that the sides have in common is no light: noise, and a part of an object.
const OBJECT: f32 = 2.0;
/// The surrounding is a square that reaches this far, and less at the edges of the picture.
const REACH: usize = 7;
const NEAREST: usize = 3;
/// The middle of a shadow's edge changes by more than its sides have in common.
const CURVED: f32 = 1.7;

/// The least and the greatest of each cell and its eight neighbours.
pub(super) fn range(cells: &[f32]) -> (Vec<f32>, Vec<f32>) {
    (extreme(cells, f32::min), extreme(cells, f32::max))
}

fn extreme(cells: &[f32], pick: fn(f32, f32) -> f32) -> Vec<f32> {
    let rows = along_rows(cells, |left, here, right| pick(pick(left, here), right));
    along_columns(&rows, |above, here, below| pick(pick(above, here), below))
}

/// Weighs each cell 1:2:1 with its neighbours, in both directions: less noise, and hardly less of what covers some cells.
pub(super) fn smooth(cells: &[f32]) -> Vec<f32> {
    let weigh = |one: f32, here: f32, other: f32| (one + here + here + other) * 0.25;
    along_columns(&along_rows(cells, weigh), weigh)
}

fn along_rows(cells: &[f32], join: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
    let mut joined = Vec::with_capacity(CELLS);
    for row in cells.chunks_exact(WIDTH) {
        joined.push(join(row[0], row[0], row[1]));
        joined.extend(row.windows(3).map(|near| join(near[0], near[1], near[2])));
        joined.push(join(row[WIDTH - 2], row[WIDTH - 1], row[WIDTH - 1]));
    }
    joined
}

fn along_columns(cells: &[f32], join: impl Fn(f32, f32, f32) -> f32) -> Vec<f32> {
    let mut joined = Vec::with_capacity(CELLS);
    for y in 0..HEIGHT {
        let row = |y: usize| &cells[y * WIDTH..(y + 1) * WIDTH];
        let (above, here, below) = (row(y.saturating_sub(1)), row(y), row((y + 1).min(HEIGHT - 1)));
        joined.extend(above.iter().zip(here).zip(below).map(|((&above, &here), &below)| join(above, here, below)));
    }
    joined
}

/// Takes away what a wide surrounding has in common: the soft edge of a cloud's shadow, not the outline of a person. A shadow
/// takes the same part of all that `usual` shows. Never adds: around an object nothing appears.
pub(super) fn without_soft_light(differences: &mut [f32], picture: &[f32], usual: &[f32]) {
    let change = picture.iter().zip(usual).map(|(now, usual)| (now - usual).clamp(-LIGHT, LIGHT));
    let (changes, shades) = (Sums::of(change), Sums::of(usual.iter().map(|shade| shade + 1.0)));
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let here = &mut differences[y * WIDTH + x];
            if *here == 0.0 {
                continue;
            }
            let (columns, rows) = (Around::of(x, WIDTH), Around::of(y, HEIGHT));
            // Of the strips on either side, and of those above and below: an object is narrow one way at least.
            let part = |one: Area, other: Area| {
                let change = changes.within(one) + changes.within(other);
                let mean = change.abs() / (one.cells() + other.cells()).max(1.0);
                change * (mean - OBJECT).max(0.0) / mean.max(OBJECT) / (shades.within(one) + shades.within(other))
            };
            let aside = part((rows.whole(), columns.before()).into(), (rows.whole(), columns.after()).into());
            let along = part((rows.before(), columns.whole()).into(), (rows.after(), columns.whole()).into());
            let light = CURVED * (usual[y * WIDTH + x] + 1.0);
            *here = if *here > 0.0 {
                (*here - light * aside.min(along).max(0.0)).max(0.0)
            } else {
                (*here - light * aside.max(along).min(0.0)).min(0.0)
            };
        }
    }
}

/// Of each cell, the sum of all above and left of it.
struct Sums(Vec<f32>);

impl Sums {
    fn of(mut cells: impl Iterator<Item = f32>) -> Self {
        let mut sums = vec![0.0_f32; (WIDTH + 1) * (HEIGHT + 1)];
        for y in 0..HEIGHT {
            let mut row = 0.0;
            for x in 0..WIDTH {
                row += cells.next().unwrap_or_default();
                sums[(y + 1) * (WIDTH + 1) + x + 1] = sums[y * (WIDTH + 1) + x + 1] + row;
            }
        }
        Self(sums)
    }

    fn within(&self, Area { top, bottom, left, right }: Area) -> f32 {
        let at = |y: usize, x: usize| self.0[y * (WIDTH + 1) + x];
        at(bottom, right) - at(top, right) - at(bottom, left) + at(top, left)
    }
}

/// From the first up to the second of some rows and columns.
#[derive(Clone, Copy)]
struct Area {
    top: usize,
    bottom: usize,
    left: usize,
    right: usize,
}

impl Area {
    fn cells(self) -> f32 {
        ((self.bottom - self.top) * (self.right - self.left)) as f32
    }
}

impl From<((usize, usize), (usize, usize))> for Area {
    fn from(((top, bottom), (left, right)): ((usize, usize), (usize, usize))) -> Self {
        Self { top, bottom, left, right }
    }
}

/// The rows around a cell, or its columns: as many on either side, or a slope of light would show at the edges of the picture.
struct Around {
    from: usize,
    to: usize,
    /// The strip before it ends here, and the one after it begins there.
    inner: (usize, usize),
}

impl Around {
    fn of(at: usize, of: usize) -> Self {
        let reach = at.min(of - 1 - at).clamp(NEAREST, REACH);
        let (from, to) = (at.saturating_sub(reach), (at + reach + 1).min(of));
        let inner = reach / 2;
        Self { from, to, inner: ((at.saturating_sub(inner)).max(from), (at + inner + 1).min(to)) }
    }

    fn whole(&self) -> (usize, usize) {
        (self.from, self.to)
    }

    fn before(&self) -> (usize, usize) {
        (self.from, self.inner.0)
    }

    fn after(&self) -> (usize, usize) {
        (self.inner.1, self.to)
    }
}
