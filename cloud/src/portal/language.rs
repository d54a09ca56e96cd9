//! The languages of the pages, and how each writes money, dates, sizes and numbers. A cookie remembers the user's
//! choice; without one, `Accept-Language` decides.

use axum::http::{HeaderMap, header};
use axum_extra::extract::CookieJar;
use jiff::{Timestamp, ZonedDateTime, tz::TimeZone};
use serde::Deserialize;

use super::translations::{ENGLISH, FRENCH, Translations, fill};

/// The cookie that remembers a choice.
pub const COOKIE: &str = "care_language";

/// A language the pages speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Language {
    /// English.
    #[serde(rename = "en")]
    English,
    /// French.
    #[serde(rename = "fr")]
    French,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::English, Self::French];

    /// The language tag (BCP 47).
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::French => "fr",
        }
    }

    /// Its own name.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::French => "Français",
        }
    }

    /// Its strings.
    pub fn translations(self) -> &'static Translations {
        match self {
            Self::English => &ENGLISH,
            Self::French => &FRENCH,
        }
    }

    /// The language for a request.
    pub fn of(headers: &HeaderMap, jar: &CookieJar) -> Self {
        let chosen = jar.get(COOKIE).and_then(|cookie| Self::tagged(cookie.value()));
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok());
        chosen.or_else(|| accepted.and_then(Self::accepted)).unwrap_or(Self::English)
    }

    fn tagged(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or(tag);
        Self::ALL.into_iter().find(|language| language.tag().eq_ignore_ascii_case(primary))
    }

    /// The best of an `Accept-Language` (RFC 9110 section 12.5.4); of equal weight, the first.
    fn accepted(list: &str) -> Option<Self> {
        let weighed = list.split(',').filter_map(|item| {
            let (tag, parameters) = item.split_once(';').unwrap_or((item, ""));
            let weight = match parameters.trim().strip_prefix("q=") {
                Some(weight) => weight.parse::<f32>().ok()?,
                None => 1.0,
            };
            (weight > 0.0).then_some((Self::tagged(tag.trim())?, weight))
        });
        weighed.reduce(|best, other| if other.1 > best.1 { other } else { best }).map(|(language, _)| language)
    }

    /// An amount of a currency with two decimals, as all of the catalogue's are.
    pub fn money(self, minor: u64, currency: &str) -> String {
        let (whole, cents) = (self.number(minor / 100), minor % 100);
        match (self, currency) {
            (Self::English, "USD") => format!("${whole}.{cents:02}"),
            (Self::English, "EUR") => format!("€{whole}.{cents:02}"),
            (Self::English, _) => format!("{currency}\u{a0}{whole}.{cents:02}"),
            (Self::French, "USD") => format!("{whole},{cents:02}\u{a0}$US"),
            (Self::French, "EUR") => format!("{whole},{cents:02}\u{a0}€"),
            (Self::French, _) => format!("{whole},{cents:02}\u{a0}{currency}"),
        }
    }

    /// A whole number, its digits in groups of three.
    pub fn number(self, number: u64) -> String {
        let separator = match self {
            Self::English => ',',
            Self::French => '\u{202f}',
        };
        let digits = number.to_string();
        let mut text = String::new();
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                text.push(separator);
            }
            text.push(digit);
        }
        text
    }

    /// One decimal, cut off.
    fn tenths(self, tenths: u64) -> String {
        let point = match self {
            Self::English => '.',
            Self::French => ',',
        };
        format!("{}{point}{}", self.number(tenths / 10), tenths % 10)
    }

    /// Bytes: `996 kB`, `1.2 MB`.
    pub fn size(self, bytes: u64) -> String {
        let unit = match self {
            Self::English => 'B',
            Self::French => 'o',
        };
        match bytes {
            0..1_000 => format!("{bytes}\u{a0}{unit}"),
            1_000..1_000_000 => format!("{}\u{a0}k{unit}", bytes / 1_000),
            1_000_000..1_000_000_000 => format!("{}\u{a0}M{unit}", self.tenths(bytes / 100_000)),
            _ => format!("{}\u{a0}G{unit}", self.tenths(bytes / 100_000_000)),
        }
    }

    /// A short while, from microseconds: `840 µs`, `1.4 ms`, `2.0 s`.
    pub fn span(self, micros: i64) -> String {
        let micros = u64::try_from(micros).unwrap_or(0);
        match micros {
            0 => "0".into(),
            1..1_000 => format!("{micros}\u{a0}µs"),
            1_000..1_000_000 => format!("{}\u{a0}ms", self.tenths(micros / 100)),
            _ => format!("{}\u{a0}s", self.tenths(micros / 100_000)),
        }
    }

    /// A day: `Nov 25, 2026`, `25 nov. 2026`.
    pub fn day(self, at: u64, zone: &TimeZone) -> String {
        let at = zoned(at, zone);
        let month = &self.translations().months[usize::try_from(at.month() - 1).unwrap_or(0)];
        match (self, at.day()) {
            (Self::English, day) => format!("{month} {day}, {}", at.year()),
            (Self::French, 1) => format!("1er {month} {}", at.year()),
            (Self::French, day) => format!("{day} {month} {}", at.year()),
        }
    }

    /// A day and its hour and minute: `Nov 25, 2026, 14:03 UTC`.
    pub fn moment(self, at: u64, zone: &TimeZone) -> String {
        let local = zoned(at, zone);
        let joint = match self {
            Self::English => ", ",
            Self::French => " à ",
        };
        format!("{}{joint}{} {}", self.day(at, zone), local.strftime("%H:%M"), local.strftime("%Z"))
    }

    /// The hour, minute and second of a moment today: `14:03:21 UTC`.
    pub fn clock(self, at: u64, zone: &TimeZone) -> String {
        zoned(at, zone).strftime("%H:%M:%S %Z").to_string()
    }

    /// A count: `{n}` in the singular or plural pattern. French uses the singular for 0 as well.
    pub fn count(self, n: u64, one: &str, other: &str) -> String {
        let singular = match self {
            Self::English => n == 1,
            Self::French => n < 2,
        };
        fill(if singular { one } else { other }, &[("n", &self.number(n))])
    }

    /// A history of so many hours: `12 hours`, `30 days`.
    pub fn history(self, hours: u32) -> String {
        let t = self.translations();
        match u64::from(hours) {
            0 => t.history_none.clone(),
            hours if hours > 48 => self.count(hours / 24, &t.days_one, &t.days_other),
            hours => self.count(hours, &t.hours_one, &t.hours_other),
        }
    }

    /// How long ago something was, from microseconds.
    pub fn ago(self, micros: i64) -> String {
        let t = self.translations();
        let seconds = u64::try_from(micros / 1_000_000).unwrap_or(0);
        match seconds {
            0..2 => t.just_now.clone(),
            2..120 => fill(&t.seconds_ago, &[("n", &seconds.to_string())]),
            120..7_200 => fill(&t.minutes_ago, &[("n", &(seconds / 60).to_string())]),
            7_200..172_800 => fill(&t.hours_ago, &[("n", &(seconds / 3_600).to_string())]),
            _ => fill(&t.days_ago, &[("n", &self.number(seconds / 86_400))]),
        }
    }
}

fn zoned(at: u64, zone: &TimeZone) -> ZonedDateTime {
    let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX);
    at.to_zoned_datetime(zone.clone())
}

/// A moment as HTML's `datetime` has it.
pub fn machine_time(at: u64) -> String {
    i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn asked(accept: &str, cookie: &str) -> Language {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_LANGUAGE, accept.parse().unwrap());
        headers.insert(header::COOKIE, cookie.parse().unwrap());
        Language::of(&headers, &CookieJar::from_headers(&headers))
    }

    #[test]
    fn the_choice_beats_the_browser_and_the_browser_beats_english() {
        assert_eq!(asked("fr-CA,fr;q=0.9,en;q=0.8", ""), Language::French);
        assert_eq!(asked("en;q=0.5, fr;q=0.6", ""), Language::French);
        assert_eq!(asked("de, en-GB;q=0.7, fr;q=0.7", ""), Language::English);
        assert_eq!(asked("de, fr;q=0", ""), Language::English);
        assert_eq!(asked("fr", "care_language=en"), Language::English);
        assert_eq!(asked("fr", "care_language=<script>"), Language::French);
        assert_eq!(Language::of(&HeaderMap::new(), &CookieJar::new()), Language::English);
    }

    #[test]
    fn money_is_written_as_its_readers_write_it() {
        let english = |minor, currency| Language::English.money(minor, currency);
        assert_eq!((english(5, "USD"), english(123_456_789, "USD")), ("$0.05".into(), "$1,234,567.89".into()));
        assert_eq!((english(965, "EUR"), english(965, "CHF")), ("€9.65".into(), "CHF\u{a0}9.65".into()));
        let french = |minor, currency| Language::French.money(minor, currency);
        assert_eq!((french(5, "USD"), french(123_456_789, "EUR")), ("0,05\u{a0}$US".into(), "1\u{202f}234\u{202f}567,89\u{a0}€".into()));
    }

    #[test]
    fn dates_and_times_follow_language_and_zone() {
        // 2028-03-01 03:30:09 UTC, which is still the leap day in New York.
        let (at, new_york) = (1_835_494_209, TimeZone::get("America/New_York").unwrap());
        assert_eq!(Language::English.moment(at, &TimeZone::UTC), "Mar 1, 2028, 03:30 UTC");
        assert_eq!(Language::English.moment(at, &new_york), "Feb 29, 2028, 22:30 EST");
        assert_eq!(Language::French.moment(at, &TimeZone::UTC), "1er mars 2028 à 03:30 UTC");
        assert_eq!(Language::French.day(at, &new_york), "29 févr. 2028");
        assert_eq!(Language::French.clock(at, &TimeZone::UTC), "03:30:09 UTC");
        assert_eq!(machine_time(at), "2028-03-01T03:30:09Z");
    }

    #[test]
    fn sizes_spans_and_counts() {
        assert_eq!(Language::English.size(1_250_000), "1.2\u{a0}MB");
        assert_eq!(Language::French.size(1_250_000_000), "1,2\u{a0}Go");
        assert_eq!((Language::English.size(0), Language::French.size(12_345)), ("0\u{a0}B".into(), "12\u{a0}ko".into()));
        let spans = [(0, "0"), (840, "840\u{a0}µs"), (1_450, "1.4\u{a0}ms"), (2_000_000, "2.0\u{a0}s"), (-5, "0")];
        spans.iter().for_each(|(micros, text)| assert_eq!(Language::English.span(*micros), *text));
        assert_eq!((Language::English.history(12), Language::English.history(720)), ("12 hours".into(), "30 days".into()));
        assert_eq!((Language::English.history(0), Language::French.history(1)), ("none".into(), "1 heure".into()));
        let clips = |language: Language, n| language.count(n, "{n} a", "{n} b");
        assert_eq!((clips(Language::English, 0), clips(Language::French, 0)), ("0 b".into(), "0 a".into()));
    }
}
