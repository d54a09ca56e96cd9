//! The HTTP client of care-cloud: the command line and the demo ask a running portal with it, the store an external S3.

use std::{error::Error, time::Duration};

use reqwest::{Client, redirect};
use rustls::ClientConfig;

/// A client that trusts what `tls` trusts, follows no redirect, and gives a request `within` from its start to the end
/// of the answer.
pub fn client(tls: &ClientConfig, within: Duration) -> Result<Client, reqwest::Error> {
    // Without the environment's proxy: the peers are on this machine or have a configured address.
    Client::builder().tls_backend_preconfigured(tls.clone()).redirect(redirect::Policy::none()).no_proxy().timeout(within).build()
}

/// Why a request failed, with all its causes. Its URL is left out: it may hold a signature.
pub fn reason(e: reqwest::Error) -> String {
    let e = e.without_url();
    let mut reason = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        reason = format!("{reason}: {e}");
        cause = e.source();
    }
    reason
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::pki::client_config;

    #[tokio::test]
    async fn the_reason_names_the_cause_and_not_the_url() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let http = client(&client_config(b"", None).unwrap(), Duration::from_secs(5)).unwrap();
        let failed = http.get(format!("http://{closed}/clips?X-Amz-Signature=secret")).send().await.unwrap_err();
        let reason = reason(failed);
        assert!(reason.contains("refused") && !reason.contains("secret"), "{reason}");
    }
}
