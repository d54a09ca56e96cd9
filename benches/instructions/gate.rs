//! Whether what was counted costs more than what is on record.

use std::collections::BTreeMap;

/// Instructions of one repetition, by operation.
pub(crate) type Counts = BTreeMap<String, u64>;

/// The most that a figure may rise above its record.
const MOST: f64 = 1.03;
/// What others do: it is measured, not judged.
const RULERS: [&str; 2] = [SIGNATURE, RIVAL];
const SIGNATURE: &str = "signature";
const RIVAL: &str = "jsonwebtoken";

/// What rose too far above counts of the same build. The signature's check makes up most of each figure and is ring's, so that
/// the rest is judged by itself, too.
pub(crate) fn risen(counted: &Counts, record: &Counts) -> Vec<String> {
    let mut risen = Vec::new();
    for (name, now, before) in ours(counted, record) {
        let rest = |counts: &Counts, of: u64| of.saturating_sub(counts.get(SIGNATURE).copied().unwrap_or_default());
        let without = (rest(counted, now), rest(record, before));
        for (what, (now, before)) in [("", (now, before)), (" without the signature", without)] {
            if now as f64 > before as f64 * MOST {
                risen
                    .push(format!("{name}{what}: {now} instructions, {} above the {before} on record", percent(now as f64, before as f64)));
            }
        }
    }
    risen
}

/// The same against counts of another build, by which only multiples of the rival can be compared.
pub(crate) fn risen_beside_the_rival(counted: &Counts, record: &Counts) -> Vec<String> {
    let multiple = |counts: &Counts, of: u64| of as f64 / counts.get(RIVAL).map_or(f64::NAN, |rival| *rival as f64);
    ours(counted, record)
        .map(|(name, now, before)| (name, multiple(counted, now), multiple(record, before)))
        // What cannot be compared has not been shown to hold.
        .filter(|(_, now, before)| now.is_nan() || before.is_nan() || *now > before * MOST)
        .map(|(name, now, before)| format!("{name}: {now:.3} times {RIVAL}, {} above the {before:.3} on record", percent(now, before)))
        .collect()
}

/// Ours in both: counted, on record.
fn ours<'a>(counted: &'a Counts, record: &'a Counts) -> impl Iterator<Item = (&'a str, u64, u64)> {
    let both = counted.iter().filter_map(|(name, now)| Some((name.as_str(), *now, *record.get(name)?)));
    both.filter(|(name, ..)| !RULERS.contains(name))
}

fn percent(now: f64, before: f64) -> String {
    format!("{:.1} %", (now / before - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(signature: u64, jsonwebtoken: u64, verification: u64, cancel: u64) -> Counts {
        let counts = [(SIGNATURE, signature), (RIVAL, jsonwebtoken), ("verification", verification), ("cancel", cancel)];
        counts.map(|(name, count)| (name.to_owned(), count)).into()
    }

    #[test]
    fn three_percent_more_are_allowed_and_no_more() {
        let record = counts(0, 1000, 1000, 10_000);
        assert_eq!(risen(&counts(0, 1000, 1030, 10_300), &record), [""; 0]);
        assert_eq!(
            risen(&counts(0, 1000, 1031, 9000), &record),
            [
                "verification: 1031 instructions, 3.1 % above the 1000 on record",
                "verification without the signature: 1031 instructions, 3.1 % above the 1000 on record"
            ]
        );
    }

    #[test]
    fn what_the_signature_would_hide_is_judged_without_it() {
        let record = counts(100_000, 120_000, 110_000, 130_000);
        let risen = risen(&counts(100_000, 120_000, 110_000, 131_000), &record);
        assert_eq!(risen, ["cancel without the signature: 31000 instructions, 3.3 % above the 30000 on record"]);
    }

    #[test]
    fn what_others_do_is_not_judged() {
        assert_eq!(risen(&counts(0, 9000, 1000, 1000), &counts(0, 1000, 1000, 1000)), [""; 0]);
    }

    #[test]
    fn another_build_is_judged_by_multiples_of_the_rival() {
        let record = counts(100, 1000, 500, 2000);
        // A compiler that makes everything half as long again.
        assert_eq!(risen_beside_the_rival(&counts(100, 1500, 750, 3000), &record), [""; 0]);
        assert_eq!(
            risen_beside_the_rival(&counts(100, 1500, 750, 3300), &record),
            ["cancel: 2.200 times jsonwebtoken, 10.0 % above the 2.000 on record"]
        );
        let mut without = record.clone();
        without.remove(RIVAL);
        assert_eq!(risen_beside_the_rival(&without, &record).len(), 2, "what cannot be compared fails");
    }

    #[test]
    fn an_operation_that_is_not_on_record_is_not_judged() {
        let mut record = counts(0, 1000, 1000, 1000);
        record.remove("cancel");
        assert_eq!(risen(&counts(0, 1000, 1000, 1000), &record), [""; 0]);
    }
}
