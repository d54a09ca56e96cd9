//! Scenes whose truth is known, drawn as the small grey pictures that the detector gets: what moves, and everything that changes
//! a picture without moving. The same seed draws the same pictures on every machine: nothing here but sums, products and
//! roots. Used by `figures`.

use crate::media::source::{GREY_HEIGHT, GREY_WIDTH};

/// The drawn world is larger than the picture: the camera shakes.
const MARGIN: usize = 8;
const WIDE: usize = GREY_WIDTH + 2 * MARGIN;
const TALL: usize = GREY_HEIGHT + 2 * MARGIN;
/// The detector learns what is usual before anything is judged, seconds.
pub(in crate::media) const SETTLE_S: f32 = 40.0;

/// One kind of scene: how it is drawn, and what passes through it.
#[derive(Clone, Copy)]
pub(in crate::media) struct Scene {
    pub name: &'static str,
    pub weather: Weather,
    pub visitor: Option<Visitor>,
}

/// What changes a picture without being motion.
#[derive(Clone, Copy, PartialEq)]
pub(in crate::media) enum Weather {
    Day,
    Night,
    Dusk,
    Rain,
    NightRain,
    Snow,
    Tree,
    Shake,
    Lamp,
    Clouds,
    Infrared,
    Exposure,
    ClockText,
}

/// Who passes: size in cells and cells a second, each from–to, and by how much it stands out.
#[derive(Clone, Copy)]
pub(in crate::media) struct Visitor {
    wide: (f32, f32),
    tall: (f32, f32),
    speed: (f32, f32),
    contrast: (f32, f32),
}

const fn visitor(wide: (f32, f32), tall: (f32, f32), speed: (f32, f32), contrast: (f32, f32)) -> Option<Visitor> {
    Some(Visitor { wide, tall, speed, contrast })
}

const PERSON: Option<Visitor> = visitor((3.0, 5.0), (9.0, 13.0), (3.0, 6.0), (25.0, 70.0));

const fn scene(name: &'static str, weather: Weather, visitor: Option<Visitor>) -> Scene {
    Scene { name, weather, visitor }
}

pub(super) static SCENES: [Scene; 27] = [
    scene("day", Weather::Day, None),
    scene("night, sensor noise", Weather::Night, None),
    scene("rain", Weather::Rain, None),
    scene("rain at night, lit by infrared", Weather::NightRain, None),
    scene("snow", Weather::Snow, None),
    scene("tree in gusts", Weather::Tree, None),
    scene("shaken by wind", Weather::Shake, None),
    scene("lamp on and off", Weather::Lamp, None),
    scene("clouds", Weather::Clouds, None),
    scene("switch to infrared and back", Weather::Infrared, None),
    scene("steps of exposure", Weather::Exposure, None),
    scene("clock in the picture", Weather::ClockText, None),
    scene("person", Weather::Day, PERSON),
    scene("person near", Weather::Day, visitor((9.0, 14.0), (22.0, 30.0), (6.0, 14.0), (25.0, 70.0))),
    scene("person far", Weather::Day, visitor((1.6, 2.4), (4.5, 6.0), (1.2, 2.5), (30.0, 70.0))),
    scene("person slow", Weather::Day, visitor((3.0, 5.0), (9.0, 13.0), (0.5, 0.9), (25.0, 70.0))),
    scene("person running", Weather::Day, visitor((5.0, 7.0), (12.0, 18.0), (14.0, 24.0), (25.0, 70.0))),
    scene("car", Weather::Day, visitor((14.0, 20.0), (6.0, 9.0), (12.0, 24.0), (25.0, 80.0))),
    scene("cat", Weather::Day, visitor((3.0, 4.5), (2.0, 3.0), (3.0, 7.0), (30.0, 70.0))),
    scene("person at dusk", Weather::Dusk, visitor((3.0, 5.0), (9.0, 13.0), (3.0, 6.0), (16.0, 30.0))),
    scene("person at night", Weather::Night, visitor((3.0, 5.0), (9.0, 13.0), (3.0, 6.0), (30.0, 80.0))),
    scene("person in rain", Weather::Rain, PERSON),
    scene("person in rain at night", Weather::NightRain, visitor((3.0, 5.0), (9.0, 13.0), (3.0, 6.0), (30.0, 80.0))),
    scene("person in snow", Weather::Snow, PERSON),
    scene("person, tree in gusts", Weather::Tree, PERSON),
    scene("person, camera shaken", Weather::Shake, PERSON),
    scene("person under clouds", Weather::Clouds, PERSON),
];

/// The scene of a name.
#[cfg(feature = "gstreamer")]
pub(in crate::media) fn named(name: &str) -> &'static Scene {
    SCENES.iter().find(|scene| scene.name == name).expect("a scene of this name")
}

/// One scene with its chances decided.
pub(in crate::media) struct World {
    weather: Weather,
    random: fastrand::Rng,
    seed: u32,
    texture: Vec<f32>,
    noise: f32,
    lamp: (f32, f32),
    tree: (f32, f32),
    pub passages: Vec<Passage>,
}

/// One visitor on its way.
pub(in crate::media) struct Passage {
    pub begins: f32,
    pub ends: f32,
    wide: f32,
    tall: f32,
    top: f32,
    from: f32,
    speed: f32,
    shades: [f32; 3],
}

impl World {
    /// `length` seconds of a scene.
    pub fn new(scene: &Scene, seed: u64, length: f32) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let noise = match scene.weather {
            Weather::Night | Weather::NightRain => 4.0,
            Weather::Dusk => 4.5,
            _ => 1.2,
        };
        let dark = matches!(scene.weather, Weather::Night | Weather::NightRain);
        let texture = texture(&mut random, if dark { 0.5 } else { 1.0 });
        let mut world = Self {
            weather: scene.weather,
            seed: random.u32(..),
            texture,
            noise,
            lamp: (between(&mut random, (0.0, 64.0)), between(&mut random, (0.0, 36.0))),
            tree: (between(&mut random, (8.0, 50.0)), between(&mut random, (8.0, 16.0))),
            passages: Vec::new(),
            random,
        };
        if let Some(visitor) = scene.visitor {
            let mut at = SETTLE_S + 3.0;
            loop {
                let passage = world.passage(visitor, at);
                at = passage.ends + between(&mut world.random, (12.0, 25.0));
                if passage.ends > length {
                    break;
                }
                world.passages.push(passage);
            }
        }
        world
    }

    /// The same without sensor noise, for whoever adds it to a larger picture, and how strong it would be there.
    pub fn without_noise(self) -> (Self, u8) {
        let strength = if self.noise > 2.0 { 12 } else { 4 };
        (Self { noise: 0.0, ..self }, strength)
    }

    fn passage(&mut self, visitor: Visitor, begins: f32) -> Passage {
        let random = &mut self.random;
        let (wide, tall) = (between(random, visitor.wide), between(random, visitor.tall));
        let speed = between(random, visitor.speed);
        let mut way = GREY_WIDTH as f32 + wide;
        // The slow ones come through a door.
        if speed < 1.0 {
            way = way.min(20.0);
        }
        let rightwards = random.bool();
        let brighter = random.bool();
        let mut shade = || {
            let stands_out = between(random, visitor.contrast);
            if brighter { stands_out } else { -stands_out }
        };
        let shades = [shade(), shade(), shade()];
        let top = between(random, (2.0, (GREY_HEIGHT as f32 - tall - 1.0).max(3.0)));
        Passage {
            begins,
            ends: begins + way / speed,
            wide,
            tall,
            top,
            from: if rightwards { -wide } else { GREY_WIDTH as f32 },
            speed: if rightwards { speed } else { -speed },
            shades,
        }
    }

    /// The picture at a time, seconds.
    pub fn picture(&mut self, at: f32) -> Vec<u8> {
        let (right, down) = self.aim(at);
        let mut cells = self.sample(right, down);
        if self.weather == Weather::Infrared {
            self.infrared(&mut cells, at);
        }
        if self.weather == Weather::Tree {
            self.tree(&mut cells, at);
        }
        let seed = self.seed;
        for passage in self.passages.iter().filter(|passage| (passage.begins..passage.ends).contains(&at)) {
            passage.draw(&mut cells, at, seed);
        }
        match self.weather {
            Weather::Lamp => self.lamp(&mut cells, at),
            Weather::Clouds => self.clouds(&mut cells, at),
            Weather::Exposure => self.exposure(&mut cells, at),
            Weather::Rain => self.drops(&mut cells, 60, (0.3, 0.7), (2.0, 6.0), 9.0),
            Weather::NightRain => self.drops(&mut cells, 14, (0.2, 0.6), (2.0, 7.0), 45.0),
            Weather::Snow => self.flakes(&mut cells),
            Weather::ClockText => self.clock(&mut cells, at),
            Weather::Dusk => cells.iter_mut().for_each(|cell| *cell *= 0.75 - at.min(350.0) * 0.0004),
            _ => {}
        }
        let in_infrared = self.weather == Weather::Infrared && (at / 60.0) as u32 % 2 == 1;
        let noise = if in_infrared && self.noise > 0.0 { 3.5 } else { self.noise };
        let random = &mut self.random;
        let noisy = |cell: f32| {
            // Three of the same range: nearly normal, of the standard deviation 1.
            let normal = (random.f32() + random.f32() + random.f32() - 1.5) * 2.0;
            (cell + normal * noise + 0.5).clamp(0.0, 255.0) as u8
        };
        cells.into_iter().map(noisy).collect()
    }

    /// Where the camera looks.
    fn aim(&self, at: f32) -> (f32, f32) {
        if self.weather != Weather::Shake {
            return (0.0, 0.0);
        }
        let strength = 1.6 * (0.5 + 0.5 * wave(self.seed, 1, at / 7.0));
        (strength * wave(self.seed, 2, at * 3.0), strength * 0.6 * wave(self.seed, 3, at * 2.7))
    }

    fn sample(&self, right: f32, down: f32) -> Vec<f32> {
        let (x0, y0) = (MARGIN as f32 + right, MARGIN as f32 + down);
        let (left, top) = (x0 as usize, y0 as usize);
        let (part_x, part_y) = (x0 - left as f32, y0 - top as f32);
        let mut cells = Vec::with_capacity(GREY_WIDTH * GREY_HEIGHT);
        for y in top..top + GREY_HEIGHT {
            let (upper, lower) = (&self.texture[y * WIDE..], &self.texture[(y + 1) * WIDE..]);
            for x in left..left + GREY_WIDTH {
                let above = upper[x] + (upper[x + 1] - upper[x]) * part_x;
                let below = lower[x] + (lower[x + 1] - lower[x]) * part_x;
                cells.push(above + (below - above) * part_y);
            }
        }
        cells
    }

    /// A crown of leaves, lighter and darker, that swings by up to three cells when a gust comes.
    fn tree(&self, cells: &mut [f32], at: f32) {
        let gust = (0.5 + 0.8 * wave(self.seed, 4, at / 9.0)).max(0.1);
        let swing = 2.5 * gust * wave(self.seed, 5, at * 0.9);
        let rustle = 1.0 * gust * wave(self.seed, 6, at * 2.3);
        let (centre_x, centre_y) = self.tree;
        for y in 0..GREY_HEIGHT {
            for x in 0..GREY_WIDTH {
                let (from_x, from_y) = (x as f32 - centre_x - swing, y as f32 - centre_y - rustle);
                let edge = 49.0 - (from_x * from_x + from_y * from_y);
                if edge > 0.0 {
                    let leaves = wave(self.seed, 100 + ((from_y + 40.0) * 0.7) as u32, from_x * 0.6) * 28.0;
                    let cover = (edge / 10.0).min(1.0);
                    let cell = &mut cells[y * GREY_WIDTH + x];
                    *cell += (70.0 + leaves - *cell) * cover;
                }
            }
        }
    }

    /// A lamp goes on for 20 s in every 45 s, in two steps of exposure.
    fn lamp(&self, cells: &mut [f32], at: f32) {
        let phase = at - (at / 45.0) as u32 as f32 * 45.0;
        if !(20.0..40.0).contains(&phase) {
            return;
        }
        let exposure = if phase < 21.0 { 1.0 } else { 0.85 };
        for (number, cell) in cells.iter_mut().enumerate() {
            let (x, y) = ((number % GREY_WIDTH) as f32 - self.lamp.0, (number / GREY_WIDTH) as f32 - self.lamp.1);
            // A wall keeps its light off a part.
            let shaded = x > 14.0;
            let light = if shaded { 0.08 } else { 1.6 / (1.0 + (x * x + y * y) / 420.0) };
            *cell = *cell * exposure * (1.0 + light) + 12.0 * light;
        }
    }

    /// Soft edges of shadow that cross the picture in some seconds, and light that changes meanwhile.
    fn clouds(&self, cells: &mut [f32], at: f32) {
        let whole = 1.0 - 0.2 * (0.5 + 0.5 * wave(self.seed, 7, at / 6.0));
        for (number, cell) in cells.iter_mut().enumerate() {
            let across = (number % GREY_WIDTH) as f32 + 0.5 * (number / GREY_WIDTH) as f32;
            let shade = (wave(self.seed, 8, (across - at * 5.0) / 40.0) * 2.0).clamp(-1.0, 1.0);
            *cell *= whole * (1.0 + 0.22 * shade);
        }
    }

    /// Every minute between colour and infrared: a dark picture, an overexposed one, then other shades than before.
    fn infrared(&mut self, cells: &mut [f32], at: f32) {
        let minute = (at / 60.0) as u32;
        let since = at - minute as f32 * 60.0;
        if minute > 0 && since < 0.8 {
            cells.iter_mut().for_each(|cell| *cell *= 0.08);
            return;
        }
        let flash = if minute > 0 && since < 1.7 { 1.5 } else { 1.0 };
        let infrared = minute % 2 == 1;
        for (number, cell) in cells.iter_mut().enumerate() {
            if infrared {
                let (x, y) = (number % GREY_WIDTH, number / GREY_WIDTH);
                // Leaves and cloth are bright in infrared, others dark; the lamp is in the middle.
                let other = wave(self.seed, 200 + (y / 5) as u32, x as f32 * 0.15) * 50.0;
                let (x, y) = (x as f32 - 32.0, y as f32 - 18.0);
                *cell = (0.5 * *cell + other + 30.0) * (1.2 - (x * x + y * y) / 2000.0);
            }
            *cell *= flash;
        }
    }

    /// Every 25 s the exposure goes by a half up or down, in three steps within two seconds.
    fn exposure(&self, cells: &mut [f32], at: f32) {
        let number = (at / 25.0) as u32;
        let since = at - number as f32 * 25.0;
        let of = |number: u32| [1.0, 1.5, 0.8, 0.55, 1.2][(number % 5) as usize];
        let (from, to): (f32, f32) = (of(number + 4), of(number));
        let part = ((since * 1.5) as u32 as f32 / 3.0).min(1.0);
        let gain = from + (to - from) * part;
        cells.iter_mut().for_each(|cell| *cell *= gain);
    }

    /// Streaks of rain.
    fn drops(&mut self, cells: &mut [f32], most: u32, wide: (f32, f32), tall: (f32, f32), bright: f32) {
        let random = &mut self.random;
        for _ in 0..random.u32(most / 2..=most) {
            let (x, y) = (between(random, (0.0, GREY_WIDTH as f32)), between(random, (-4.0, GREY_HEIGHT as f32)));
            let (wide, tall) = (between(random, wide), between(random, tall));
            let bright = between(random, (0.4, 1.3)) * bright;
            rectangle(cells, [x, y, x + wide, y + tall], |cell| cell + bright);
        }
    }

    /// Flakes, some of them near the lens.
    fn flakes(&mut self, cells: &mut [f32]) {
        let random = &mut self.random;
        for _ in 0..random.u32(15..=40) {
            let (x, y) = (between(random, (0.0, GREY_WIDTH as f32)), between(random, (0.0, GREY_HEIGHT as f32)));
            let size = if random.u32(0..25) == 0 { between(random, (1.0, 2.0)) } else { between(random, (0.2, 0.9)) };
            let bright = between(random, (20.0, 70.0));
            rectangle(cells, [x, y, x + size, y + size], |cell| cell + bright);
        }
    }

    /// A clock in a corner, of which some digits change every second.
    fn clock(&self, cells: &mut [f32], at: f32) {
        for digit in 0..8 {
            let value = if digit > 5 { at as u32 } else { 7 };
            let bright = 128.0 + 100.0 * wave(self.seed, 300 + digit, value as f32 * 0.77);
            let x = 2.0 + digit as f32 * 1.3;
            rectangle(cells, [x, 1.0, x + 1.0, 3.0], |_| bright);
        }
    }
}

impl Passage {
    fn draw(&self, cells: &mut [f32], at: f32, seed: u32) {
        let since = at - self.begins;
        let x = self.from + self.speed * since;
        let y = self.top + 0.4 * wave(seed, 9, since * 2.0);
        let part = self.tall / 3.0;
        for (number, shade) in self.shades.iter().enumerate() {
            let top = y + number as f32 * part;
            // A wheel or a leg moves within.
            let inset = if number == 2 { self.wide * 0.15 * (1.0 + wave(seed, 10, since * 3.0)) } else { 0.0 };
            rectangle(cells, [x + inset, top, x + self.wide - inset, top + part], |cell| cell + shade);
        }
    }
}

/// Paints a rectangle, given by its left, top, right and bottom; a cell that it covers in part changes in part.
fn rectangle(cells: &mut [f32], [left, top, right, bottom]: [f32; 4], paint: impl Fn(f32) -> f32) {
    let columns = left.max(0.0) as usize..(right.max(0.0) as usize + 1).min(GREY_WIDTH);
    for y in top.max(0.0) as usize..(bottom.max(0.0) as usize + 1).min(GREY_HEIGHT) {
        let covered_y = (bottom.min(y as f32 + 1.0) - top.max(y as f32)).max(0.0);
        for x in columns.clone() {
            let covered = (right.min(x as f32 + 1.0) - left.max(x as f32)).max(0.0) * covered_y;
            let cell = &mut cells[y * GREY_WIDTH + x];
            *cell += (paint(*cell) - *cell) * covered;
        }
    }
}

/// Ground, walls with windows, and fine structure.
fn texture(random: &mut fastrand::Rng, light: f32) -> Vec<f32> {
    let seed = random.u32(..);
    let mut cells: Vec<f32> = (0..WIDE * TALL)
        .map(|cell| {
            let (x, y) = ((cell % WIDE) as f32, (cell / WIDE) as f32);
            110.0 + 22.0 * wave(seed, (y / 6.0) as u32, x / 9.0) + 5.0 * wave(seed, 1000 + y as u32, x) + (y - 20.0) * 0.5
        })
        .collect();
    for _ in 0..14 {
        let (left, top) = (random.usize(0..WIDE - 6), random.usize(0..TALL - 6));
        let (wide, tall) = (random.usize(2..18), random.usize(2..14));
        let shade = between(random, (-45.0, 45.0));
        for y in top..(top + tall).min(TALL) {
            for cell in &mut cells[y * WIDE + left..y * WIDE + (left + wide).min(WIDE)] {
                *cell = (*cell + shade).clamp(25.0, 225.0);
            }
        }
    }
    cells.iter_mut().for_each(|cell| *cell *= light);
    cells
}

fn between(random: &mut fastrand::Rng, (least, most): (f32, f32)) -> f32 {
    least + (most - least) * random.f32()
}

/// A smooth random curve between -1 and 1 with about one turn in each unit of `at`.
fn wave(seed: u32, curve: u32, at: f32) -> f32 {
    let at = at + 1000.0;
    let whole = at as u32;
    let part = at - whole as f32;
    let knot = |whole: u32| {
        let mixed = (seed ^ curve.wrapping_mul(0x9E37_79B9)).wrapping_add(whole.wrapping_mul(0x85EB_CA6B));
        let mixed = (mixed ^ mixed >> 15).wrapping_mul(0x2C1B_3C6D);
        let mixed = (mixed ^ mixed >> 12).wrapping_mul(0x297A_2D39);
        (mixed ^ mixed >> 15) as u16 as f32 / 32767.5 - 1.0
    };
    let (one, other) = (knot(whole), knot(whole + 1));
    one + (other - one) * part * part * (3.0 - 2.0 * part)
}
