//! Fuzz targets: each parser of untrusted bytes, as a function of bytes. cargo-fuzz calls them with generated inputs
//! (`fuzz/`), the tests with the inputs it kept (`fuzz/corpus/`).
//!
//! A target may accept or refuse an input. It must not panic, and must not use a second of processor time for one
//! input. It asserts any further guarantee. The feature `fuzzing` is for `fuzz/` alone and not part of the firmware.

mod documents;
#[cfg(test)]
mod replay;
mod state;
mod text;

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The result for an input. A corpus without accepted inputs tests only the first check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Refused by one of the checks.
    Refused,
    /// Accepted.
    Accepted,
}

impl Verdict {
    pub(crate) fn of(accepted: bool) -> Self {
        if accepted { Self::Accepted } else { Self::Refused }
    }
}

/// One fuzz target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its binary in `fuzz/` and of its folder in `fuzz/corpus/`.
    pub name: &'static str,
    body: fn(&[u8]) -> Verdict,
}

impl Target {
    /// Runs the target on one input and measures the time.
    fn run(&self, input: &[u8]) -> Verdict {
        let before = processor_time();
        let verdict = (self.body)(input);
        let took = processor_time().saturating_sub(before);
        assert!(took < LONGEST, "{}: {took:?} for one input of {} bytes", self.name, input.len());
        verdict
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "entitlement", body: documents::entitlement },
    Target { name: "keyset", body: documents::keyset },
    Target { name: "state", body: state::state },
    Target { name: "config", body: text::config },
    Target { name: "status_request", body: crate::status::fuzz_request },
    Target { name: "grant", body: crate::upload::hostile_grant },
    Target { name: "spool", body: crate::upload::hostile_spool },
    Target { name: "uploader", body: crate::upload::vendor::hostile_uploader },
    Target { name: "motion", body: crate::media::motion_socket_input },
    Target { name: "jpeg", body: crate::media::snapshot_jpeg },
    Target { name: "onvif", body: crate::media::metadata_document },
    Target { name: "rtp", body: crate::media::rtp_packets },
    Target { name: "rtsp", body: crate::media::rtsp_messages },
];

/// The longest that one input may take, in processor time: so the load of the machine does not matter.
const LONGEST: Duration = Duration::from_secs(1);

/// Gives an input to the target of this name.
///
/// # Panics
/// There is no such target, the input has found a bug, or it took too long.
pub fn run(name: &str, input: &[u8]) -> Verdict {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this name").run(input)
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
