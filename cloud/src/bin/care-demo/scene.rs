//! What the demo's camera sees: a front yard in which somebody brings a parcel, a car passes, clouds drift and a tree
//! sways. Drawn by us, so that a page of the demo shows what a camera shows and not a test card.

use std::time::Duration;

use jiff::Timestamp;
use tiny_skia::{
    Color, FillRule, GradientStop, LinearGradient, Paint, Path, PathBuilder, Pattern, Pixmap, Point, Rect, Shader, SpreadMode, Stroke,
    Transform,
};

/// Pixels a row.
pub const WIDTH: u32 = 640;
/// Rows.
pub const HEIGHT: u32 = 360;

/// The noise of a sensor is a square of this many pixels, laid elsewhere in each frame.
const GRAIN: u32 = 256;
/// How often somebody comes by.
const VISIT_S: f32 = 19.0;
const CAR_S: f32 = 13.0;

/// The yard, and what does not move in it as a picture.
pub struct Scene {
    still: Pixmap,
    grain: Pixmap,
    frame: Pixmap,
}

impl Scene {
    /// The yard without anybody. `None`: there is no memory for its pictures.
    pub fn new() -> Option<Self> {
        let mut still = Pixmap::new(WIDTH, HEIGHT)?;
        background(&mut still);
        Some(Self { frame: still.clone(), still, grain: grain()? })
    }

    /// The yard so long after its beginning, with the time in a corner: RGBA, row by row from the top left.
    pub fn draw(&mut self, since: Duration, now: Timestamp) -> &[u8] {
        let t = since.as_secs_f32();
        let canvas = &mut self.frame;
        canvas.data_mut().copy_from_slice(self.still.data());
        clouds(canvas, t);
        car(canvas, t);
        fence(canvas);
        visitor(canvas, t);
        tree(canvas, t);
        noise(canvas, &self.grain, since);
        clock(canvas, &now.strftime("%Y-%m-%d %H:%M:%S").to_string());
        canvas.data()
    }
}

fn rgb(hex: u32) -> Color {
    let [_, red, green, blue] = hex.to_be_bytes();
    Color::from_rgba8(red, green, blue, 255)
}

fn paint(color: Color) -> Paint<'static> {
    Paint { shader: Shader::SolidColor(color), ..Paint::default() }
}

/// From `top` at one height to `bottom` at another.
fn gradient(from: f32, top: u32, to: f32, bottom: u32) -> Paint<'static> {
    let stops = vec![GradientStop::new(0.0, rgb(top)), GradientStop::new(1.0, rgb(bottom))];
    let shader = LinearGradient::new(Point::from_xy(0.0, from), Point::from_xy(0.0, to), stops, SpreadMode::Pad, Transform::identity());
    Paint { shader: shader.unwrap_or(Shader::SolidColor(rgb(top))), ..Paint::default() }
}

fn fill(canvas: &mut Pixmap, path: Option<Path>, paint: &Paint<'_>) {
    if let Some(path) = path {
        canvas.fill_path(&path, paint, FillRule::Winding, Transform::identity(), None);
    }
}

fn rect(canvas: &mut Pixmap, x: f32, y: f32, wide: f32, high: f32, paint: &Paint<'_>) {
    if let Some(rect) = Rect::from_xywh(x, y, wide, high) {
        canvas.fill_rect(rect, paint, Transform::identity(), None);
    }
}

fn oval(canvas: &mut Pixmap, x: f32, y: f32, wide: f32, high: f32, color: Color) {
    let path = Rect::from_xywh(x - wide / 2.0, y - high / 2.0, wide, high).and_then(PathBuilder::from_oval);
    fill(canvas, path, &paint(color));
}

fn polygon(corners: &[(f32, f32)]) -> Option<Path> {
    let mut path = PathBuilder::new();
    for (index, &(x, y)) in corners.iter().enumerate() {
        if index == 0 {
            path.move_to(x, y);
        } else {
            path.line_to(x, y);
        }
    }
    path.close();
    path.finish()
}

/// A limb: a thick line with round ends.
fn limb(canvas: &mut Pixmap, from: (f32, f32), to: (f32, f32), width: f32, color: Color) {
    let mut path = PathBuilder::new();
    path.move_to(from.0, from.1);
    path.line_to(to.0, to.1);
    if let Some(path) = path.finish() {
        let stroke = Stroke { width, line_cap: tiny_skia::LineCap::Round, ..Stroke::default() };
        canvas.stroke_path(&path, &paint(color), &stroke, Transform::identity(), None);
    }
}

fn background(canvas: &mut Pixmap) {
    rect(canvas, 0.0, 0.0, 640.0, 170.0, &gradient(0.0, 0x4a_84bd, 150.0, 0xc3_dcea));
    for (x, high, color) in [(90.0, 120.0, 0x7f_a394), (330.0, 90.0, 0x8d_b09c), (560.0, 130.0, 0x76_9b8a)] {
        oval(canvas, x, 170.0, 420.0, high, rgb(color));
    }
    rect(canvas, 0.0, 152.0, 640.0, 34.0, &gradient(152.0, 0x8a_8d90, 186.0, 0x76_797d));
    rect(canvas, 0.0, 148.0, 640.0, 5.0, &paint(rgb(0xb9_b6ac)));
    house(canvas, 42.0, 0xb8_ae9c, 0x4d_5566);
    house(canvas, 400.0, 0xd9_cfb8, 0x85_4a36);
    rect(canvas, 0.0, 186.0, 640.0, 174.0, &gradient(186.0, 0x6f_9a4e, 360.0, 0x3f_6b31));
    fill(canvas, polygon(&[(292.0, 186.0), (336.0, 186.0), (470.0, 360.0), (170.0, 360.0)]), &gradient(186.0, 0xc4_bba9, 360.0, 0x9b_9282));
    for joint in [208.0_f32, 238.0, 280.0, 332.0] {
        let half = 22.0 + (joint - 186.0) * 0.737;
        rect(canvas, 316.0 - half, joint, half * 2.0, 1.5, &paint(rgb(0x8b_8375)));
    }
    for (x, y, size) in [(60.0, 338.0, 110.0), (130.0, 350.0, 90.0), (560.0, 345.0, 150.0)] {
        oval(canvas, x, y, size, size * 0.5, rgb(0x35_5a2c));
        oval(canvas, x - size * 0.1, y - size * 0.08, size * 0.7, size * 0.3, rgb(0x4b_7a3c));
    }
}

fn house(canvas: &mut Pixmap, x: f32, wall: u32, roof: u32) {
    rect(canvas, x, 84.0, 150.0, 66.0, &gradient(84.0, wall, 150.0, wall - 0x12_1212));
    fill(canvas, polygon(&[(x - 10.0, 86.0), (x + 75.0, 44.0), (x + 160.0, 86.0)]), &paint(rgb(roof)));
    for window in [16.0, 106.0] {
        rect(canvas, x + window - 2.0, 98.0, 30.0, 28.0, &paint(rgb(0xf1_ecdf)));
        rect(canvas, x + window, 100.0, 26.0, 24.0, &gradient(100.0, 0x2e_455c, 124.0, 0x5d_7f97));
        rect(canvas, x + window + 12.0, 100.0, 2.0, 24.0, &paint(rgb(0xf1_ecdf)));
    }
    rect(canvas, x + 62.0, 104.0, 26.0, 46.0, &paint(rgb(0x5c_3c28)));
    oval(canvas, x + 83.0, 128.0, 3.0, 3.0, rgb(0xd8_b45a));
}

fn clouds(canvas: &mut Pixmap, t: f32) {
    for (offset, y, size, speed) in [(0.0, 26.0, 1.0, 5.0), (300.0, 48.0, 0.7, 3.5), (520.0, 18.0, 0.8, 4.2)] {
        let x = (offset + t * speed) % 800.0 - 80.0;
        let white = Color::from_rgba8(255, 255, 255, 190);
        for (dx, dy, wide, high) in [(0.0, 0.0, 90.0, 20.0), (-20.0, -6.0, 46.0, 22.0), (18.0, -8.0, 54.0, 26.0)] {
            oval(canvas, x + dx * size, y + dy * size, wide * size, high * size, white);
        }
    }
}

fn fence(canvas: &mut Pixmap) {
    let white = paint(rgb(0xed_e9df));
    for (from, to) in [(0.0, 286.0), (344.0, 640.0)] {
        rect(canvas, from, 180.0, to - from, 3.0, &white);
        rect(canvas, from, 192.0, to - from, 3.0, &white);
        let mut x: f32 = from + 2.0;
        while x + 5.0 < to {
            fill(canvas, polygon(&[(x, 203.0), (x, 176.0), (x + 2.5, 171.0), (x + 5.0, 176.0), (x + 5.0, 203.0)]), &white);
            x += 11.0;
        }
    }
}

/// Along the road, every [`CAR_S`] in the other direction.
fn car(canvas: &mut Pixmap, t: f32) {
    let way = (t % CAR_S) / 6.0 * 800.0 - 80.0;
    let leftward = (t / CAR_S).floor() % 2.0 >= 1.0;
    let (x, color) = if leftward { (640.0 - way, 0x2f_5683) } else { (way, 0x9c_352b) };
    oval(canvas, x, 181.0, 84.0, 6.0, Color::from_rgba8(0, 0, 0, 90));
    fill(canvas, polygon(&[(x - 24.0, 160.0), (x - 14.0, 147.0), (x + 15.0, 147.0), (x + 26.0, 160.0)]), &paint(rgb(color)));
    fill(canvas, polygon(&[(x - 17.0, 159.0), (x - 11.0, 150.0), (x + 12.0, 150.0), (x + 19.0, 159.0)]), &paint(rgb(0xa9_c4d2)));
    let body = [(x - 40.0, 174.0), (x - 38.0, 161.0), (x - 22.0, 158.0), (x + 24.0, 158.0), (x + 39.0, 163.0), (x + 41.0, 174.0)];
    fill(canvas, polygon(&body), &paint(rgb(color)));
    for wheel in [-23.0, 23.0] {
        oval(canvas, x + wheel, 174.0, 16.0, 16.0, rgb(0x22_2427));
        oval(canvas, x + wheel, 174.0, 7.0, 7.0, rgb(0xa9_acb0));
    }
}

/// Crosses the yard with a parcel and comes back without.
fn visitor(canvas: &mut Pixmap, t: f32) {
    let phase = (t % VISIT_S) / VISIT_S;
    let (along, ahead) = if phase < 0.5 { (phase * 2.0, 1.0) } else { (2.0 - phase * 2.0, -1.0) };
    let x = -60.0 + along * 470.0;
    let ground = 322.0 - along * 34.0;
    let size = 1.25 - along * 0.25;
    let step = (t * 7.0).sin();
    let at = |dx: f32, dy: f32| (x + dx * size, ground + dy * size - step.abs() * 1.5);
    oval(canvas, x, ground + 2.0, 46.0 * size, 9.0 * size, Color::from_rgba8(0, 0, 0, 80));
    for side in [1.0, -1.0] {
        let (knee, foot) = (at(side * step * 7.0 + ahead * 2.0, -20.0), at(side * step * 13.0, 0.0));
        limb(canvas, at(0.0, -42.0), knee, 9.0 * size, rgb(0x2b_3545));
        limb(canvas, knee, foot, 8.0 * size, rgb(0x2b_3545));
        limb(canvas, foot, (foot.0 + ahead * 6.0 * size, foot.1), 6.0 * size, rgb(0x1c_1e22));
    }
    limb(canvas, at(0.0, -72.0), at(0.0, -44.0), 20.0 * size, rgb(0xd9_7a2b));
    let hand = at(ahead * 16.0, -54.0);
    if ahead > 0.0 {
        rect(canvas, hand.0 - 4.0 * size, hand.1 - 14.0 * size, 24.0 * size, 18.0 * size, &paint(rgb(0xb5_8a55)));
        rect(canvas, hand.0 + 6.0 * size, hand.1 - 14.0 * size, 4.0 * size, 18.0 * size, &paint(rgb(0xd8_bf92)));
    }
    limb(canvas, at(0.0, -72.0), at(ahead * 6.0 - step * 4.0, -58.0), 7.0 * size, rgb(0xc0_6620));
    limb(canvas, at(ahead * 6.0 - step * 4.0, -58.0), hand, 6.0 * size, rgb(0xc0_6620));
    let head = at(ahead * 1.5, -90.0);
    oval(canvas, head.0, head.1, 17.0 * size, 20.0 * size, rgb(0xe2_b28e));
    let cap = [at(ahead * 1.5 - 9.0, -92.0), at(ahead * 1.5, -103.0), at(ahead * 1.5 + 9.0, -92.0), at(ahead * 14.0, -91.0)];
    fill(canvas, polygon(&cap), &paint(rgb(0x3a_3f4a)));
}

fn tree(canvas: &mut Pixmap, t: f32) {
    let sway = (t * 0.9).sin() * 3.0 + (t * 2.3).sin();
    fill(canvas, polygon(&[(584.0, 290.0), (590.0, 200.0), (602.0, 200.0), (610.0, 290.0)]), &gradient(200.0, 0x5f_4732, 290.0, 0x43_3122));
    for (dx, dy, size, color) in
        [(-34.0, 10.0, 76.0, 0x3d_6630), (30.0, 6.0, 84.0, 0x39_602d), (0.0, -26.0, 92.0, 0x48_7838), (-14.0, -34.0, 56.0, 0x5a_8d45)]
    {
        oval(canvas, 598.0 + dx + sway * (1.0 - dy / 60.0), 176.0 + dy, size, size * 0.86, rgb(color));
    }
}

/// Grey dots of all brightnesses, by a small generator of pseudo-random numbers (xorshift).
fn grain() -> Option<Pixmap> {
    let mut grain = Pixmap::new(GRAIN, GRAIN)?;
    let mut state = 0x2545_f491_u32;
    for pixel in grain.data_mut().chunks_exact_mut(4) {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let [bright, ..] = state.to_le_bytes();
        pixel.copy_from_slice(&[bright, bright, bright, 255]);
    }
    Some(grain)
}

fn noise(canvas: &mut Pixmap, grain: &Pixmap, since: Duration) {
    let mixed = u32::try_from(since.as_millis() % 1_000_000).unwrap_or(0).wrapping_mul(2_654_435_761) >> 16;
    let offset = Transform::from_translate(f32::from(mixed.to_le_bytes()[0]), f32::from(mixed.to_le_bytes()[1]));
    let shader = Pattern::new(grain.as_ref(), SpreadMode::Repeat, tiny_skia::FilterQuality::Nearest, 0.05, offset);
    rect(canvas, 0.0, 0.0, 640.0, 360.0, &Paint { shader, ..Paint::default() });
}

/// White digits of 3×5 squares on black.
fn clock(canvas: &mut Pixmap, text: &str) {
    const SQUARE: f32 = 3.0;
    const LEFT: f32 = 14.0;
    const TOP: f32 = 14.0;
    let letters = f32::from(u8::try_from(text.len()).unwrap_or(u8::MAX));
    rect(canvas, LEFT, TOP, (letters * 4.0 + 1.0) * SQUARE, 7.0 * SQUARE, &paint(Color::from_rgba8(0, 0, 0, 150)));
    let mut left = LEFT + SQUARE;
    for letter in text.chars() {
        for (row, dots) in (0_u8..).zip(glyph(letter)) {
            for column in (0_u8..3).filter(|column| dots >> (2 - column) & 1 == 1) {
                let (x, y) = (left + f32::from(column) * SQUARE, TOP + f32::from(row + 1) * SQUARE);
                rect(canvas, x, y, SQUARE, SQUARE, &paint(Color::WHITE));
            }
        }
        left += 4.0 * SQUARE;
    }
}

/// Five rows of three dots.
fn glyph(letter: char) -> [u8; 5] {
    match letter {
        '0' => [0b111, 0b101, 0b101, 0b101, 0b111],
        '1' => [0b010, 0b110, 0b010, 0b010, 0b111],
        '2' => [0b111, 0b001, 0b111, 0b100, 0b111],
        '3' => [0b111, 0b001, 0b111, 0b001, 0b111],
        '4' => [0b101, 0b101, 0b111, 0b001, 0b001],
        '5' => [0b111, 0b100, 0b111, 0b001, 0b111],
        '6' => [0b111, 0b100, 0b111, 0b101, 0b111],
        '7' => [0b111, 0b001, 0b001, 0b010, 0b010],
        '8' => [0b111, 0b101, 0b111, 0b101, 0b111],
        '9' => [0b111, 0b101, 0b111, 0b001, 0b111],
        ':' => [0b000, 0b010, 0b000, 0b010, 0b000],
        '-' => [0b000, 0b000, 0b111, 0b000, 0b000],
        _ => [0; 5],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels that differ between two frames by more than the grain does.
    fn changed(scene: &mut Scene, from: Duration, to: Duration) -> usize {
        let before = scene.draw(from, Timestamp::UNIX_EPOCH).to_vec();
        let after = scene.draw(to, Timestamp::UNIX_EPOCH);
        before.chunks_exact(4).zip(after.chunks_exact(4)).filter(|(a, b)| a[1].abs_diff(b[1]) > 40).count()
    }

    #[test]
    fn somebody_moves_in_front_of_what_stands_still() {
        let mut scene = Scene::new().unwrap();
        let (early, later) = (Duration::from_secs(4), Duration::from_secs(6));
        let moved = changed(&mut scene, early, later);
        assert!((2_000..60_000).contains(&moved), "{moved} pixels of {} changed in two seconds", WIDTH * HEIGHT);
        let mut again = Scene::new().unwrap();
        assert_eq!(scene.draw(early, Timestamp::UNIX_EPOCH), again.draw(early, Timestamp::UNIX_EPOCH), "the same moment, drawn twice");
    }

    #[test]
    fn the_corner_tells_the_time() {
        let mut scene = Scene::new().unwrap();
        let at = Duration::from_secs(3);
        let before = scene.draw(at, Timestamp::UNIX_EPOCH).to_vec();
        let after = scene.draw(at, Timestamp::from_second(1).unwrap());
        let different: Vec<usize> =
            (0..).zip(before.chunks_exact(4).zip(after.chunks_exact(4))).filter(|(_, (a, b))| a != b).map(|(n, _)| n).collect();
        let width = usize::try_from(WIDTH).unwrap();
        assert!(!different.is_empty() && different.iter().all(|n| n / width < 35 && n % width < 250), "{different:?}");
    }
}
