//! Draws the time into the picture of the test source, so that a person or a test sees when each frame was taken. GStreamer's
//! own overlays need Pango, which is larger than the agent and on no camera.

use gstreamer::{self as gst, prelude::*};

/// Luma bytes a row in the test picture.
const STRIDE: usize = 640;
/// Screen pixels for each of a digit's 3×5.
const SCALE: usize = 4;
const LEFT: usize = 16;
const TOP: usize = 16;

/// Draws the wall clock, UTC, into every buffer that leaves the element named `picture` (I420, 640 wide).
pub(super) fn add(pipeline: &gst::Pipeline) {
    let Some(pad) = pipeline.by_name("picture").and_then(|element| element.static_pad("src")) else { return };
    pad.add_probe(gst::PadProbeType::BUFFER, |_, info| {
        if let Some(buffer) = info.buffer_mut()
            && let Ok(mut luma) = buffer.make_mut().map_writable()
        {
            let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S.%3f").to_string();
            draw(&mut luma, &now);
        }
        gst::PadProbeReturn::Ok
    });
}

fn draw(luma: &mut [u8], text: &str) {
    for (index, letter) in text.chars().enumerate() {
        let glyph = glyph(letter);
        for (y, x) in (0..7 * SCALE).flat_map(|y| (0..4 * SCALE).map(move |x| (y, x))) {
            let (row, column) = ((y / SCALE).wrapping_sub(1), x / SCALE);
            let lit = row < 5 && column < 3 && glyph >> (14 - (row * 3 + column)) & 1 == 1;
            if let Some(pixel) = luma.get_mut((TOP + y) * STRIDE + LEFT + index * 4 * SCALE + x) {
                *pixel = if lit { 235 } else { 16 };
            }
        }
    }
}

/// Fifteen bits, row by row from the top left.
fn glyph(letter: char) -> u16 {
    match letter {
        '0' => 0b111_101_101_101_111,
        '1' => 0b010_110_010_010_111,
        '2' => 0b111_001_111_100_111,
        '3' => 0b111_001_111_001_111,
        '4' => 0b101_101_111_001_001,
        '5' => 0b111_100_111_001_111,
        '6' => 0b111_100_111_101_111,
        '7' => 0b111_001_001_010_010,
        '8' => 0b111_101_111_101_111,
        '9' => 0b111_101_111_001_111,
        ':' => 0b000_010_000_010_000,
        '-' => 0b000_000_111_000_000,
        '.' => 0b000_000_000_000_010,
        _ => 0,
    }
}
