//! Waiting for conditions: every wait has a deadline and says what it waited for.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// Default timeout. Generous: only failing tests wait that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long the camera may take to reconnect after an outage: its random delays go up to two minutes.
pub const RECONNECT: Duration = Duration::from_secs(150);

/// Polls until `condition` returns a value; panics with `what` after `patience`.
pub async fn until<T>(what: impl Display, patience: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < patience, "after {patience:?} still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A free loopback port, for programs that need one as an argument. Another process may take it first.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Checks for `span` that `broken` returns `None`; panics with its value otherwise. For tests that nothing more
/// happens, which only a time window can show.
pub async fn holds<T: Display>(what: impl Display, span: Duration, mut broken: impl FnMut() -> Option<T>) {
    let started = Instant::now();
    while started.elapsed() < span {
        if let Some(fault) = broken() {
            panic!("{what} did not hold: {fault}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
