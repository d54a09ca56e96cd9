//! `[motion]`: how the agent's own motion detection judges the picture, where in it, and when. Reading it needs no picture and no clock;
//! `media::motion` applies it (`docs/motion.md`).

use toml::Spanned;

use super::{
    fault::Wrong,
    keys,
    section::{Section, Value, text},
};

/// What the agent's own motion detection takes into account.
#[derive(Debug, Clone, PartialEq)]
pub struct Detection {
    /// 1, for what is large or stands out, to 100; 50 unless given.
    pub sensitivity: u8,
    /// Parts of the picture; the whole picture if there are none.
    pub zones: Vec<Zone>,
    /// When motion counts.
    pub schedule: Schedule,
}

impl Default for Detection {
    fn default() -> Self {
        Self { sensitivity: keys::number("motion", "sensitivity") as u8, zones: Vec::new(), schedule: Schedule::default() }
    }
}

impl Detection {
    /// Whether motion counts in each cell of a picture of this size, row by row: a cell counts by its middle.
    pub fn cells(&self, columns: usize, rows: usize) -> impl Iterator<Item = bool> {
        let percent = |at: usize, of: usize| (at as f32 + 0.5) * 100.0 / of as f32;
        (0..columns * rows).map(move |cell| self.counts_at(percent(cell % columns, columns), percent(cell / columns, rows)))
    }

    /// Whether motion counts at a point, in percent of the picture's width and height: it must be in a zone that counts, if
    /// there is any such, and in no other.
    pub fn counts_at(&self, x: f32, y: f32) -> bool {
        let within = |counts: bool| self.zones.iter().any(|zone| zone.counts == counts && zone.contains(x, y));
        (within(true) || !self.zones.iter().any(|zone| zone.counts)) && !within(false)
    }
}

/// A part of the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// Whether motion in it counts, or does not.
    pub counts: bool,
    /// The corners of a polygon, in percent of the picture's width and height from its left upper corner.
    pub corners: Vec<(f32, f32)>,
}

impl Zone {
    /// By how often a ray to the left crosses the outline.
    fn contains(&self, x: f32, y: f32) -> bool {
        let next = self.corners.iter().cycle().skip(1);
        let crosses =
            |((x1, y1), (x2, y2)): (&(f32, f32), &(f32, f32))| (*y1 > y) != (*y2 > y) && x1 + (y - y1) / (y2 - y1) * (x2 - x1) < x;
        self.corners.iter().zip(next).filter(|sides| crosses(*sides)).count() % 2 == 1
    }
}

/// When motion counts: windows of local time. Without any it always does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule(Vec<Window>);

/// A part of a day, on some weekdays.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    /// Monday first: those on which it begins.
    days: [bool; 7],
    /// Minutes of the day. If it ends before it begins, it ends on the day after.
    begins: u16,
    ends: u16,
}

const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const WINDOWS: &str = "write windows of local time, as in [\"mon-fri 22:00-06:00\", \"sat,sun 00:00-24:00\"]";
const ZONES: &str =
    "write { include = [left, top, right, bottom] } in percent of the picture, or { exclude = [[x, y], [x, y], [x, y]] } for a polygon";
/// More tell nothing more of 64 × 36 cells.
const MOST_ZONES: usize = 32;
const MOST_CORNERS: usize = 64;

impl Schedule {
    /// A weekday as the configuration names it, 0 for Monday.
    pub fn day(weekday: usize) -> &'static str {
        DAYS[weekday % 7]
    }

    /// Whether there are times at which motion does not count.
    pub fn is_limited(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether motion counts on this weekday, 0 for Monday, at this minute of the day.
    pub fn covers(&self, weekday: usize, minute: u16) -> bool {
        self.0.is_empty() || self.0.iter().any(|window| window.covers(weekday % 7, minute))
    }
}

impl Schedule {
    /// Its windows as the configuration writes them.
    pub(super) fn windows(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(Window::written)
    }
}

impl Window {
    fn written(&self) -> String {
        let Self { days, begins, ends } = self;
        let times = format!("{:02}:{:02}-{:02}:{:02}", begins / 60, begins % 60, ends / 60, ends % 60);
        let named: Vec<_> = DAYS.iter().zip(days).filter(|(_, holds)| **holds).map(|(day, _)| *day).collect();
        if named.len() == 7 { times } else { format!("{} {times}", named.join(",")) }
    }

    fn covers(&self, weekday: usize, minute: u16) -> bool {
        let (today, yesterday) = (self.days[weekday], self.days[(weekday + 6) % 7]);
        if self.begins < self.ends {
            today && (self.begins..self.ends).contains(&minute)
        } else {
            today && minute >= self.begins || yesterday && minute < self.ends
        }
    }
}

pub(super) fn read(section: Section) -> Option<Detection> {
    let default = Detection::default();
    let sensitivity = section.number("sensitivity").map(|level| level as u8);
    let zones = section.or("zones", default.zones, zones);
    let schedule = section.or("schedule", default.schedule, |value| each(value, WINDOWS, 7 * 24, window).map(Schedule));
    section.finish();
    Some(Detection { sensitivity: sensitivity?, zones: zones?, schedule: schedule? })
}

fn zones(value: &Value<'_>) -> Result<Vec<Zone>, Wrong> {
    let read = Detection { zones: each(value, ZONES, MOST_ZONES, zone)?, ..Detection::default() };
    // As fine as the cells that are compared.
    let sees = read.cells(64, 36).any(|counts| counts);
    let wrong = || Wrong::new("leaves no part of the picture in which motion counts", "include more, or exclude less");
    sees.then_some(read.zones).ok_or_else(wrong)
}

/// Reads a list; the first wrong item is its fault.
fn each<T>(value: &Value<'_>, right: &str, most: usize, read: impl Fn(&Value<'_>) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    let array = value.as_array().ok_or_else(|| Wrong::new(format!("is a {}", value.type_str()), right))?;
    if array.is_empty() {
        return Err(Wrong::new("is empty", format!("{right}, or remove it")));
    }
    if array.len() > most {
        return Err(Wrong::new(format!("has {} items", array.len()), format!("write at most {most}")));
    }
    let item = |(number, item): (usize, &Spanned<Value<'_>>)| {
        read(item.get_ref()).map_err(|wrong| Wrong { wrong: format!("item {} {}", number + 1, wrong.wrong), ..wrong })
    };
    array.iter().enumerate().map(item).collect()
}

fn zone(value: &Value<'_>) -> Result<Zone, Wrong> {
    let table = value.as_table().filter(|table| table.len() == 1).and_then(|table| table.iter().next());
    let (counts, shape) = match table.map(|(key, shape)| (key.get_ref().as_ref(), shape.get_ref())) {
        Some(("include", shape)) => (true, shape),
        Some(("exclude", shape)) => (false, shape),
        Some((key, _)) => return Err(Wrong::new(format!("has the key {key:?}"), ZONES)),
        None => return Err(Wrong::new("is not one of include and exclude", ZONES)),
    };
    let Some(parts) = shape.as_array() else { return Err(Wrong::new(format!("holds a {}", shape.type_str()), ZONES)) };
    let corners = if parts.iter().all(|part| part.get_ref().as_array().is_some()) && !parts.is_empty() {
        if !(3..=MOST_CORNERS).contains(&parts.len()) {
            return Err(Wrong::new(format!("has {} corners", parts.len()), format!("write 3 to {MOST_CORNERS}: a polygon has no fewer")));
        }
        let corner = |part: &Spanned<Value<'_>>| match percents(part.get_ref())?[..] {
            [x, y] => Ok((x, y)),
            _ => Err(Wrong::new("has a corner that is no [x, y]", ZONES)),
        };
        parts.iter().map(corner).collect::<Result<Vec<_>, _>>()?
    } else {
        match percents(shape)?[..] {
            [left, top, right, bottom] if left < right && top < bottom => {
                vec![(left, top), (right, top), (right, bottom), (left, bottom)]
            }
            [left, top, right, bottom] => {
                let wrong = format!("has the rectangle [{left}, {top}, {right}, {bottom}], which holds nothing");
                return Err(Wrong::new(wrong, "write [left, top, right, bottom] with left < right and top < bottom"));
            }
            _ => return Err(Wrong::new("is neither a rectangle of four numbers nor a polygon", ZONES)),
        }
    };
    Ok(Zone { counts, corners })
}

/// A list of numbers from 0 to 100.
fn percents(value: &Value<'_>) -> Result<Vec<f32>, Wrong> {
    let array = value.as_array().ok_or_else(|| Wrong::new(format!("holds a {}", value.type_str()), ZONES))?;
    let percent = |item: &Spanned<Value<'_>>| {
        let item = item.get_ref();
        let number = item
            .as_integer()
            .filter(|number| number.radix() == 10)
            .map(|number| number.as_str())
            .or_else(|| item.as_float().map(|number| number.as_str()));
        number.and_then(decimal).ok_or_else(|| Wrong::new("holds what is no number from 0 to 100", ZONES))
    };
    array.iter().map(percent).collect()
}

/// `12` or `12.5`, up to 100. By hand: the tables that read every float would be larger than all of this.
fn decimal(text: &str) -> Option<f32> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.parse::<u16>().ok().filter(|_| (1..=4).contains(&text.len()) && !text.starts_with('+')).map(f32::from);
    let scale = 10_f32.powi(part.len() as i32);
    Some(digits(whole)? + digits(part)? / scale).filter(|number| *number <= 100.0)
}

/// `mon-fri 22:00-06:00`, `sat,sun 00:00-24:00`, or `22:00-06:00` for every day.
fn window(value: &Value<'_>) -> Result<Window, Wrong> {
    let text = text(value)?;
    let wrong = || Wrong::new(format!("is {text:?}, which is no window of time"), WINDOWS);
    let (days, times) = match text.trim().rsplit_once(' ') {
        Some((days, times)) => (self::days(days).ok_or_else(wrong)?, times),
        None => ([true; 7], text.trim()),
    };
    let (begins, ends) = times.split_once('-').and_then(|(begins, ends)| Some((minute(begins)?, minute(ends)?))).ok_or_else(wrong)?;
    if begins == ends || begins == DAY {
        return Err(Wrong::new(format!("is {text:?}, which holds nothing"), "write 00:00-24:00 for a whole day"));
    }
    Ok(Window { days, begins, ends })
}

fn days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| name.trim().eq_ignore_ascii_case(day));
    let mut found = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (day(from)?, day(to)?);
        // From Saturday to Monday, too.
        for step in 0..=(to + 7 - from) % 7 {
            found[(from + step) % 7] = true;
        }
    }
    Some(found)
}

/// The minute of the day, `00:00` to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()));
    let minute = number(hour)?.checked_mul(60)? + number(minute).filter(|minute| *minute < 60)?;
    (minute <= DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(windows: &[&str]) -> Schedule {
        Schedule(windows.iter().map(|text| window(&Value::String((*text).into())).unwrap()).collect())
    }

    #[test]
    fn a_window_may_end_on_the_next_day() {
        let nights = schedule(&["mon-fri 22:00-06:00"]);
        let (evening, night, noon) = (22 * 60, 5 * 60 + 59, 12 * 60);
        assert!(nights.covers(0, evening) && nights.covers(4, DAY - 1));
        assert!(nights.covers(5, night), "the night of Friday ends on Saturday");
        assert!(!nights.covers(0, night), "that of Sunday is not in it");
        assert!(!nights.covers(5, evening) && !nights.covers(2, noon) && !nights.covers(1, 6 * 60));
    }

    #[test]
    fn a_percentage_may_have_decimals() {
        assert_eq!(["0", "100", "12.5", "33.25", "0.0"].map(decimal), [0.0, 100.0, 12.5, 33.25, 0.0].map(Some));
        assert_eq!(["100.1", "101", "-1", "+1", "1e1", "nan", "1.", ".5", ""].map(decimal), [None; 9]);
    }

    #[test]
    fn windows_add_up_and_days_may_be_left_out_or_wrap() {
        let all = schedule(&["Sat-Mon 00:00-24:00", "12:30-13:00"]);
        assert!([5, 6, 0].into_iter().all(|day| all.covers(day, 0) && all.covers(day, DAY - 1)));
        assert!((0..7).all(|day| all.covers(day, 12 * 60 + 30)));
        assert!((1..5).all(|day| !all.covers(day, 13 * 60)));
        assert!(Schedule::default().covers(3, 3) && !Schedule::default().is_limited());
    }
}
