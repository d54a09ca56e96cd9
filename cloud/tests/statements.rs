//! No statement on the way of a change for the whole fleet, and none of those of every look at the clock, reads a table
//! from end to end: what one camera costs does not depend on how many there are.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use care_cloud::{
    domain::{billing, issuer, money::ledger, reports},
    storage::{db::Db, outbox},
};
use rusqlite::Connection;

/// The plan of a statement: a line for each table it reads.
fn plan(db: &Connection, sql: &str) -> Vec<String> {
    let mut statement = db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    for parameter in 1..=statement.parameter_count() {
        statement.raw_bind_parameter(parameter, rusqlite::types::Null).unwrap();
    }
    statement.raw_query().mapped(|row| row.get(3)).collect::<Result<_, _>>().unwrap()
}

/// The embedded database, as SQLite opens it: only SQLite tells its plans.
fn database(dir: &Path) -> Connection {
    let path = dir.join("care.db");
    drop(Db::open(&path).unwrap());
    Connection::open(path).unwrap()
}

/// What the statement reads from end to end. The result of a subquery is not a table, nor
/// is a list that the statement is given.
fn scans(db: &Connection, sql: &str) -> Vec<String> {
    plan(db, sql)
        .into_iter()
        .filter(|line| line.starts_with("SCAN") && !line.starts_with("SCAN (subquery") && !line.contains("VIRTUAL TABLE"))
        .collect()
}

#[test]
fn no_statement_of_a_tick_or_of_a_change_for_everybody_scans_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let db = database(dir.path());
    let mut all = issuer::statements();
    all.extend(outbox::STATEMENTS);
    all.extend(reports::STATEMENTS);
    all.extend(billing::STATEMENTS);
    all.extend(ledger::STATEMENTS);
    let scanning: Vec<_> = all.iter().map(|sql| (sql, scans(&db, sql))).filter(|(_, scans)| !scans.is_empty()).collect();
    assert!(scanning.is_empty(), "{scanning:#?}");
}

#[test]
fn the_test_tells_a_scan_from_a_search() {
    let dir = tempfile::tempdir().unwrap();
    let db = database(dir.path());
    for scan in [
        "SELECT device FROM cameras ORDER BY bound_at",
        "UPDATE outbox SET due = 1 WHERE document IN (SELECT max(id) FROM documents GROUP BY device)",
        "SELECT minor FROM credits WHERE account = ?1 AND currency = ?2",
    ] {
        assert!(!scans(&db, scan).is_empty(), "{scan}: {:?}", plan(&db, scan));
    }
    assert!(scans(&db, "SELECT device FROM cameras WHERE device = ?1").is_empty());
}
