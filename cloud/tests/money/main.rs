//! Money: the FAQ's table, bills and credits, and random histories after each step of which the ledger must balance.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod faq;
mod histories;
mod lives;
mod payments;
mod plans;
#[path = "../running/postgres.rs"]
mod postgres;
mod world;

/// The worlds of a process that has this variable are in the PostgreSQL that it names: a schema for each.
const DATABASE: &str = "CARE_CLOUD_TEST_DATABASE";

#[test]
fn money_is_the_same_on_postgresql() {
    if std::env::var_os(DATABASE).is_some() {
        return;
    }
    let server = postgres::Postgres::start();
    let mut tests = std::process::Command::new(std::env::current_exe().unwrap());
    tests.args(["faq::", "payments::", "plans::"]).env(DATABASE, server.fresh("money"));
    let done = tests.output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && !said.contains("running 0 tests"), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
}
