//! How a span of time is shown, on the page and by `status` alike: in the largest unit of which it has at least two.

/// The whole number of units in so many seconds, and the unit. `days` is the language's word for them; the other units are
/// written alike in every language.
pub(super) const fn span(seconds: u64, days: &str) -> (u64, &str) {
    match seconds {
        0..120 => (seconds, "s"),
        120..7_200 => (seconds / 60, "min"),
        7_200..172_800 => (seconds / 3_600, "h"),
        _ => (seconds / 86_400, days),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_at_least_two_of_its_unit() {
        for (seconds, shown) in [
            (0, (0, "s")),
            (119, (119, "s")),
            (120, (2, "min")),
            (7_199, (119, "min")),
            (7_200, (2, "h")),
            (172_799, (47, "h")),
            (172_800, (2, "jours")),
            (u64::MAX, (u64::MAX / 86_400, "jours")),
        ] {
            assert_eq!(span(seconds, "jours"), shown, "{seconds} s");
        }
    }
}
