//! Waiting for conditions: every wait has a deadline and says what it waited for.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// How long a condition may take unless a test says otherwise. Generous: it is only spent when a test fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long the camera may take to come back after an outage: its delays are drawn from up to two minutes.
pub const RECONNECT: Duration = Duration::from_secs(150);

/// Waits until `condition` gives a value, looking every few milliseconds; panics with `what` after `patience`.
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

/// A loopback port that nobody uses, for programs that must be told one. Somebody else may take it before they do.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Watches for `span` that `broken` stays `None`; panics with what it gives. For "nothing more happens", where only a window of time can tell.
pub async fn holds<T: Display>(what: impl Display, span: Duration, mut broken: impl FnMut() -> Option<T>) {
    let started = Instant::now();
    while started.elapsed() < span {
        if let Some(fault) = broken() {
            panic!("{what} did not hold: {fault}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
