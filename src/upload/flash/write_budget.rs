//! How much the spool may write to flash in a day, because flash wears out with every write. The count needs no extra
//! write: every clip's header and every line of the journal carries the count after that write, so after a power cut
//! the newest of them is the count. It is a quota by calendar day that survives restarts, so it is not a
//! [`TokenBucket`](care_engine::token_bucket::TokenBucket).
//!
//! A day is one of trusted time and lasts at least [`SHORTEST_DAY`]: a correction of the clock begins a new one early
//! only if it is the first after a boot, because a day may have passed while the camera was off. No I/O.

use std::time::Duration;

use care_engine::trusted_time::Now;
use uuid::Uuid;

/// The unit of the count: the least that flash writes at once.
pub(in crate::upload) const PAGE: u64 = 4096;
/// The shortest day, on BOOTTIME.
const SHORTEST_DAY: Duration = Duration::from_secs(20 * 3600);
const DAY_S: u64 = 86_400;

/// How much was written, in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::upload) struct WriteCount {
    /// In total. It grows with every write, so the newer of two counts is the larger one, whatever the clock did.
    pub(in crate::upload) ever: u64,
    /// Today.
    pub(in crate::upload) today: u64,
    /// Days of trusted time since 1970.
    pub(in crate::upload) day: u32,
}

impl WriteCount {
    /// The count as an id (RFC 9562, version 8) that no clip has. A journal lists it among the ids of erased clips;
    /// older firmware looks for a clip's file of that name and finds none.
    pub(super) fn to_id(self) -> Uuid {
        let (ever, today, day) = (self.ever.to_be_bytes(), self.today.to_be_bytes(), self.day.to_be_bytes());
        let mut id = [0; 16];
        id[0..3].copy_from_slice(&day[1..]);
        id[3..6].copy_from_slice(&today[3..6]);
        id[6] = 0x8d;
        id[7] = today[6];
        id[8] = 0xa7;
        id[9] = today[7];
        id[10] = 0x5e;
        id[11..16].copy_from_slice(&ever[3..]);
        Uuid::from_bytes(id)
    }

    /// The count, if this id holds one.
    pub(super) fn from_id(id: Uuid) -> Option<Self> {
        let id = id.into_bytes();
        if (id[6], id[8], id[10]) != (0x8d, 0xa7, 0x5e) {
            return None;
        }
        let ever = u64::from_be_bytes([0, 0, 0, id[11], id[12], id[13], id[14], id[15]]);
        let today = u64::from_be_bytes([0, 0, 0, id[3], id[4], id[5], id[7], id[9]]);
        Some(Self { ever, today, day: u32::from_be_bytes([0, id[0], id[1], id[2]]) })
    }

    /// The newer of two counts.
    pub(super) fn newer(self, other: Self) -> Self {
        if other.ever > self.ever { other } else { self }
    }
}

/// The count of this run, and its limit for a day.
#[derive(Debug)]
pub(in crate::upload) struct WriteBudget {
    /// Pages a day.
    budget: u64,
    written: WriteCount,
    /// BOOTTIME at which the day began, if it began in this boot.
    day_began: Option<Duration>,
}

impl WriteBudget {
    /// A budget of this many bytes a day, with nothing written yet.
    pub(in crate::upload) fn new(bytes_per_day: u64) -> Self {
        Self { budget: bytes_per_day / PAGE, written: WriteCount::default(), day_began: None }
    }

    /// Takes in the count of an earlier run.
    pub(in crate::upload) fn remember(&mut self, written: WriteCount) {
        self.written = written;
    }

    pub(in crate::upload) fn written(&self) -> WriteCount {
        self.written
    }

    /// Bytes written today.
    pub(in crate::upload) fn today(&self) -> u64 {
        self.written.today * PAGE
    }

    /// Begins a new day if it is time.
    pub(in crate::upload) fn roll_day(&mut self, now: Now) {
        let day = u32::try_from(now.trusted.as_secs() / DAY_S).unwrap_or(u32::MAX);
        let long_enough = self.day_began.is_none_or(|at| now.boot.saturating_sub(at) >= SHORTEST_DAY);
        if day > self.written.day && long_enough {
            (self.written.day, self.written.today, self.day_began) = (day, 0, Some(now.boot));
        } else if now.confirmed {
            // The day goes on under its right date, so that a restart does not take it for another. Until a boot's time is confirmed
            // it is only a lower bound, often of the day before.
            self.written.day = day;
        }
    }

    /// Whether this many bytes may still be written today.
    pub(in crate::upload) fn has_room_for(&self, bytes: u64) -> bool {
        self.written.today.saturating_add(pages(bytes)) <= self.budget
    }

    /// Counts this many bytes, which are about to be written.
    pub(in crate::upload) fn charge(&mut self, bytes: u64) {
        self.written.today += pages(bytes);
        self.written.ever += pages(bytes);
    }
}

/// The cost of writing this many bytes: their pages, and one for the file system's metadata.
fn pages(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 20_000 * DAY_S;

    fn at(boot_s: u64, trusted_s: u64) -> Now {
        Now { boot: Duration::from_secs(boot_s), trusted: Duration::from_secs(trusted_s), confirmed: true, ..Now::default() }
    }

    #[test]
    fn a_count_survives_as_an_id_that_is_no_clips() {
        for written in [
            WriteCount::default(),
            WriteCount { ever: 1, today: 1, day: 20_454 },
            WriteCount { ever: (1 << 40) - 1, today: (1 << 40) - 1, day: (1 << 24) - 1 },
            WriteCount { ever: 0x01_0203_0405, today: 0x06_0708_090a, day: 0x0b_0c0d },
        ] {
            let id = written.to_id();
            assert_eq!(WriteCount::from_id(id), Some(written));
            assert_eq!(Uuid::try_parse(&id.to_string()), Ok(id));
            assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        }
        for _ in 0..1000 {
            let clip = uuid::Builder::from_random_bytes(fastrand::u128(..).to_be_bytes()).into_uuid();
            assert_eq!(WriteCount::from_id(clip), None);
        }
    }

    #[test]
    fn a_day_has_its_budget_and_the_next_one_has_it_again() {
        let mut budget = WriteBudget::new(10 * PAGE);
        budget.roll_day(at(0, START));
        assert!(budget.has_room_for(9 * PAGE) && !budget.has_room_for(9 * PAGE + 1));
        budget.charge(5 * PAGE);
        assert!(budget.has_room_for(3 * PAGE) && !budget.has_room_for(4 * PAGE));
        budget.roll_day(at(DAY_S - 1, START + DAY_S - 1));
        assert_eq!(budget.today(), 6 * PAGE);
        budget.roll_day(at(DAY_S, START + DAY_S));
        assert_eq!((budget.today(), budget.written().ever), (0, 6));
    }

    #[test]
    fn no_step_of_the_clock_gives_a_second_budget() {
        let mut budget = WriteBudget::new(10 * PAGE);
        budget.roll_day(at(0, START));
        budget.charge(8 * PAGE);
        for (boot, days) in [(10, 1), (20, 400), (30, 0), (40, 1), (50, 2)] {
            budget.roll_day(at(boot, START + days * DAY_S));
            assert_eq!(budget.today(), 9 * PAGE, "{days} days from the start");
        }
        // Nor does a clock that was far ahead take tomorrow's away.
        budget.roll_day(at(60, START));
        budget.roll_day(at(DAY_S, START + DAY_S));
        assert_eq!(budget.today(), 0);
        budget.charge(PAGE);
        budget.roll_day(at(DAY_S + 1, START + 400 * DAY_S));
        budget.roll_day(at(DAY_S + 2, START + DAY_S));
        budget.roll_day(at(2 * DAY_S, START + 2 * DAY_S));
        assert_eq!(budget.today(), 0);
    }

    #[test]
    fn the_count_goes_on_after_a_restart_and_a_day_that_passed_meanwhile_is_seen() {
        let mut budget = WriteBudget::new(10 * PAGE);
        budget.roll_day(at(0, START));
        budget.charge(PAGE);
        let found = budget.written();
        let mut budget = WriteBudget::new(10 * PAGE);
        budget.remember(found);
        budget.roll_day(at(5, START));
        assert_eq!(budget.today(), 2 * PAGE);
        // A boot begins with the time on record, which may be of the day before.
        budget.roll_day(Now { confirmed: false, ..at(6, START - 1) });
        budget.roll_day(at(7, START));
        assert_eq!(budget.today(), 2 * PAGE);
        // So does the first boot of all; the day goes on once the date is known, also after another restart.
        let mut first = WriteBudget::new(10 * PAGE);
        first.roll_day(Now { confirmed: false, ..at(1, START) });
        first.charge(PAGE);
        first.roll_day(at(2, START + 9 * DAY_S));
        let mut again = WriteBudget::new(10 * PAGE);
        again.remember(first.written());
        again.roll_day(Now { confirmed: false, ..at(1, START) });
        again.roll_day(at(2, START + 9 * DAY_S));
        assert_eq!(again.today(), 2 * PAGE);
        // The first answer over HTTPS shows that the camera was off for three days.
        budget.roll_day(at(10, START + 3 * DAY_S));
        assert_eq!(budget.today(), 0);
    }
}
