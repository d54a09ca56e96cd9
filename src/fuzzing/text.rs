//! Target for the configuration file.

use std::path::Path;

use super::Verdict;
use crate::config::Config;

/// A configuration file's text.
pub(super) fn config(input: &[u8]) -> Verdict {
    let Ok(text) = std::str::from_utf8(input) else { return Verdict::Refused };
    match Config::parse(text, Path::new("config.toml")) {
        Ok(config) => {
            let plaintext = [(config.broker.tls.is_none(), &config.broker.endpoint), (config.cloud.tls.is_none(), &config.cloud.endpoint)];
            for (_, endpoint) in plaintext.into_iter().filter(|(plaintext, _)| *plaintext) {
                assert!(endpoint.is_loopback(), "plaintext to {endpoint:?}");
            }
            Verdict::Accepted
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a word");
            for fault in &faults {
                assert!(!fault.wrong.is_empty() && !fault.right.is_empty() && !fault.to_string().is_empty());
                assert!(fault.line <= text.lines().count() + 1, "line {} of {}", fault.line, text.lines().count());
            }
            Verdict::Refused
        }
    }
}
