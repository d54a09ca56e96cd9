//! care-cloud.
fn main() {}
