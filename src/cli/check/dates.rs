//! Checks certificate dates against the later of two clocks: the system clock and trusted time, which is a lower bound of the
//! true time. A camera whose clock is behind must not call a good certificate bad.

use std::time::Duration;

use jiff::Timestamp;

use super::findings::Findings;
use crate::{
    clock,
    config::FileKind,
    tls::{self, Validity},
};

/// Warns of a certificate that ends within this, as the running agent does.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Checks the dates of every certificate that the configuration names; `trusted` is the agent's time, since 1970.
pub(super) fn check(findings: &mut Findings, trusted: Duration) {
    let clocks = Clocks { system: clock::system_time(), trusted };
    for file in findings.parsed.files.clone() {
        let (found, what) = match file.kind {
            FileKind::Certificate => (tls::device_validity(&file.path), "the device certificate"),
            FileKind::Authorities => (tls::authority_validity(&file.path), "the CA certificate"),
            FileKind::PrivateKey | FileKind::Revocations | FileKind::Password | FileKind::WritableDir => continue,
        };
        // A file that cannot be read is already a fault.
        let found = found.unwrap_or_default();
        let ended = |validity: &Validity| validity.not_after < clocks.latest();
        // One of several authorities may have expired, but every certificate of a chain must be valid.
        let fatal = file.kind == FileKind::Certificate || found.iter().all(ended);
        for validity in &found {
            let Validity { number, subject, not_before, not_after } = validity;
            let name = format!("{what} {} (number {number}, {subject})", file.path.display());
            if ended(validity) {
                let wrong = format!("{name} ended on {} ({clocks})", at(*not_after));
                let right = "replace it, or correct the clock";
                if fatal { findings.fault(&file.key, wrong, right) } else { findings.warn(&file.key, wrong, right) }
            } else if *not_before > clocks.latest() {
                let wrong = format!("{name} is not valid before {} ({clocks})", at(*not_before));
                findings.warn(&file.key, wrong, "correct the clock, or replace it");
            } else if not_after.saturating_sub(clocks.latest()) < SOON {
                findings.warn(
                    &file.key,
                    format!("{name} ends on {}", at(*not_after)),
                    "replace it; a running agent takes the new one over",
                );
            }
        }
    }
}

struct Clocks {
    system: Duration,
    trusted: Duration,
}

impl Clocks {
    fn latest(&self) -> Duration {
        self.system.max(self.trusted)
    }
}

impl std::fmt::Display for Clocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the system clock says {}, the agent knows that it is at least {}", at(self.system), at(self.trusted))
    }
}

fn at(since_1970: Duration) -> Timestamp {
    i64::try_from(since_1970.as_secs()).ok().and_then(|seconds| Timestamp::from_second(seconds).ok()).unwrap_or(Timestamp::MAX)
}
