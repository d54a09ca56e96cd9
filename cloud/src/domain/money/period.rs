//! The time one bill pays for, in calendar days of its zone: months have 28 to 31 days, a day may have 23 or 25 hours,
//! and an owner must never lose a day by it.

use jiff::{Span, Timestamp, ZonedDateTime, civil::Date};

use super::zone::Zone;
use crate::domain::catalogue::Cycle;

/// From one bill to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// Its first moment, Unix seconds.
    pub start: u64,
    /// The first moment after it, Unix seconds.
    pub end: u64,
    /// Whose days it counts.
    pub zone: Zone,
}

impl Period {
    /// The `n`th period, from 0, of a subscription that began at `anchor` (Unix seconds). Each period is computed from
    /// the anchor, not from the one before: a subscription of 31 January is billed on 28 February and on 31 March.
    pub fn nth(anchor: u64, n: u32, cycle: Cycle, zone: &Zone) -> Self {
        let boundary = |n| boundary(anchor, n, cycle, zone);
        Self { start: boundary(n), end: boundary(n.saturating_add(1)), zone: zone.clone() }
    }

    /// The number of its days: the first day counts, the last belongs to the next period.
    pub fn days(&self) -> u64 {
        days_between(self.date(self.start), self.date(self.end))
    }

    /// The number of its days after that of `now`. A day that has begun is used, the first one too.
    pub fn days_left(&self, now: u64) -> u64 {
        days_between(self.date(now.max(self.start)), self.date(self.end)).saturating_sub(1)
    }

    /// The part of `paid_minor` for the days left at `now`, rounded down to the minor unit.
    pub fn prorated(&self, paid_minor: u64, now: u64) -> u64 {
        let amount = (u128::from(paid_minor) * u128::from(self.days_left(now))).checked_div(u128::from(self.days())).unwrap_or(0);
        u64::try_from(amount).unwrap_or(paid_minor).min(paid_minor)
    }

    fn date(&self, at: u64) -> Date {
        zoned(at, &self.zone).date()
    }
}

fn boundary(anchor: u64, n: u32, cycle: Cycle, zone: &Zone) -> u64 {
    let months = i64::from(n).saturating_mul(cycle.months());
    let at = Span::new().try_months(months).and_then(|span| zoned(anchor, zone).checked_add(span));
    // Beyond the calendar's end there is no further period.
    let at = at.map_or(Timestamp::MAX, |at| at.timestamp());
    u64::try_from(at.as_second()).unwrap_or(0)
}

fn zoned(at: u64, zone: &Zone) -> ZonedDateTime {
    let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX);
    at.to_zoned_datetime(zone.time_zone())
}

fn days_between(from: Date, to: Date) -> u64 {
    from.until(to).map_or(0, |span| u64::try_from(span.get_days()).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn at(text: &str) -> u64 {
        u64::try_from(text.parse::<ZonedDateTime>().unwrap().timestamp().as_second()).unwrap()
    }

    fn zone(name: &str) -> Zone {
        Zone::read(name).unwrap()
    }

    #[test]
    fn who_begins_on_the_31st_pays_on_the_last_day_of_shorter_months() {
        let anchor = at("2028-01-31T10:00[UTC]");
        let periods: Vec<_> = (0..3).map(|n| Period::nth(anchor, n, Cycle::Monthly, &Zone::utc())).collect();
        assert_eq!(periods[0].end, at("2028-02-29T10:00[UTC]"));
        assert_eq!(periods[1].end, at("2028-03-31T10:00[UTC]"));
        assert_eq!(periods[2].end, at("2028-04-30T10:00[UTC]"));
        assert_eq!(periods.iter().map(Period::days).collect::<Vec<_>>(), [29, 31, 30]);
        assert!(periods.windows(2).all(|pair| pair[0].end == pair[1].start));
    }

    #[test]
    fn a_leap_year_has_a_day_more_and_29_february_has_its_anniversary() {
        let days = |start| Period::nth(at(start), 0, Cycle::Annual, &Zone::utc()).days();
        assert_eq!((days("2027-03-01T00:00[UTC]"), days("2027-02-28T23:59[UTC]"), days("2028-03-01T00:00[UTC]")), (366, 365, 365));
        let leap = at("2028-02-29T12:00[UTC]");
        assert_eq!(Period::nth(leap, 0, Cycle::Annual, &Zone::utc()).end, at("2029-02-28T12:00[UTC]"));
        assert_eq!(Period::nth(leap, 3, Cycle::Annual, &Zone::utc()).end, at("2032-02-29T12:00[UTC]"));
    }

    #[test]
    fn a_day_of_23_or_25_hours_is_one_day_and_the_hour_of_day_stays() {
        let paris = zone("Europe/Paris");
        // Summer time begins on 28 March 2027 and ends on 31 October 2027.
        let spring = Period::nth(at("2027-03-15T09:00[Europe/Paris]"), 0, Cycle::Monthly, &paris);
        assert_eq!((spring.days(), spring.end - spring.start), (31, 31 * 86_400 - 3600));
        assert_eq!(spring.end, at("2027-04-15T09:00[Europe/Paris]"));
        assert_eq!(spring.days_left(at("2027-03-27T23:59[Europe/Paris]")), 18);
        assert_eq!(spring.days_left(at("2027-03-28T00:00[Europe/Paris]")), 17);
        assert_eq!(spring.days_left(at("2027-03-28T23:59[Europe/Paris]")), 17);
        let autumn = Period::nth(at("2027-10-15T09:00[Europe/Paris]"), 0, Cycle::Monthly, &paris);
        assert_eq!((autumn.days(), autumn.end - autumn.start), (31, 31 * 86_400 + 3600));
    }

    #[test]
    fn a_day_begins_at_the_payers_midnight() {
        let start = at("2027-06-01T12:00[UTC]");
        let left = |name: &str, now: &str| Period::nth(start, 0, Cycle::Monthly, &zone(name)).days_left(at(now));
        // Noon UTC is midnight in Auckland: there it is 2 June already.
        assert_eq!(left("UTC", "2027-06-10T11:59[UTC]"), 20);
        assert_eq!(left("UTC", "2027-06-10T12:00[UTC]"), 20);
        assert_eq!(left("Pacific/Auckland", "2027-06-10T11:59[UTC]"), 21);
        assert_eq!(left("Pacific/Auckland", "2027-06-10T12:00[UTC]"), 20);
    }

    #[test]
    fn the_first_day_is_used_and_nothing_is_left_at_the_end() {
        let start = at("2027-06-01T12:00[UTC]");
        let period = Period::nth(start, 0, Cycle::Monthly, &Zone::utc());
        assert_eq!(period.prorated(3000, start), 2900);
        assert_eq!(period.prorated(3000, start - 86_400), 2900, "a clock behind gives nothing more");
        assert_eq!(period.prorated(3000, period.end - 86_400), 0);
        assert_eq!(period.prorated(3000, period.end), 0);
        assert_eq!(period.prorated(3000, u64::MAX), 0);
        assert_eq!(period.prorated(u64::MAX, start), u64::try_from(u128::from(u64::MAX) * 29 / 30).unwrap());
        assert!(Zone::read("Mars/Olympus").is_err());
    }
}
