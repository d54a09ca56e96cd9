//! Fail points: places where a test can kill the program, along the path of a document from the transaction to the
//! camera and of its report back. They exist only in debug builds, and only if the environment names the point and the
//! document's sequence.

/// The variable that names them, as `point:seq`.
pub const VARIABLE: &str = "CARE_CLOUD_DIES_AT";

/// The points, in the order in which a document passes them.
pub const POINTS: [&str; 12] = [
    "in_transaction",
    "committed",
    "before_publish",
    "given_to_library",
    "marked_published",
    "on_the_wire",
    "acknowledged",
    "marks_in_transaction",
    "marked_acknowledged",
    "reported",
    "reports_in_transaction",
    "reports_committed",
];

/// Ends the process here if the environment requests it.
#[cfg(debug_assertions)]
pub fn reach(point: &'static str, seq: u64) {
    debug_assert!(POINTS.contains(&point), "{point} is listed");
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted == format!("{point}:{seq}")) {
        crate::child::kill_self();
    }
}

/// Does nothing in release builds.
#[cfg(not(debug_assertions))]
pub fn reach(_: &'static str, _: u64) {}
