//! Quantiles of what a benchmark has measured.

/// The smallest value that `percent` percent of the sorted, non-empty values do not exceed.
pub(crate) fn quantile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100).clamp(1, sorted.len()) - 1]
}
