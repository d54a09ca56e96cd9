//! Which cells of a small grey picture count, by the zones of the configuration.

use crate::{
    config::Detection,
    media::source::{GREY_HEIGHT, GREY_WIDTH},
};

/// `None`: all count.
pub(super) fn watched(detection: &Detection) -> Option<Vec<bool>> {
    (!detection.zones.is_empty()).then(|| detection.cells(GREY_WIDTH, GREY_HEIGHT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Zone;

    fn rectangle(counts: bool, left: f32, top: f32, right: f32, bottom: f32) -> Zone {
        Zone { counts, corners: vec![(left, top), (right, top), (right, bottom), (left, bottom)] }
    }

    fn in_zones(zones: &[Zone]) -> Option<Vec<bool>> {
        watched(&Detection { zones: zones.to_vec(), ..Detection::default() })
    }

    fn counting(zones: &[Zone]) -> usize {
        in_zones(zones).unwrap().into_iter().filter(|counts| *counts).count()
    }

    #[test]
    fn zones_that_count_add_up_and_the_others_are_taken_away() {
        let (left, right) = (rectangle(true, 0.0, 0.0, 50.0, 100.0), rectangle(true, 25.0, 0.0, 75.0, 100.0));
        let upper = rectangle(false, 0.0, 0.0, 100.0, 50.0);
        assert_eq!(in_zones(&[]), None);
        assert_eq!(counting(&[left.clone(), right]), 48 * 36);
        assert_eq!(counting(&[left, upper.clone()]), 32 * 18);
        assert_eq!(counting(&[upper]), 64 * 18, "the rest of the picture");
    }

    #[test]
    fn a_polygon_counts_by_the_middle_of_each_cell() {
        let watched = in_zones(&[Zone { counts: true, corners: vec![(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)] }]).unwrap();
        assert!(watched[0] && watched[GREY_WIDTH - 2]);
        assert!(!watched[GREY_WIDTH * GREY_HEIGHT - 1]);
        let share = watched.iter().filter(|counts| **counts).count() as f32 / watched.len() as f32;
        assert!((0.48..0.52).contains(&share), "{share}");
    }
}
