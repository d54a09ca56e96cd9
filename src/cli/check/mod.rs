//! `check-config`: reports every fault of the configuration and of the files it names, and tries the sources, sockets and
//! folders that it describes. With `--connect` it also connects to the cloud, step by step, so that the step that fails
//! shows where to look.

mod dates;
mod files;
mod findings;
mod memory;
mod motion;
mod probes;
mod round_trip;

use std::{
    fmt::Display,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use care_engine::{Record, trusted_time::timestamp};
use tokio::runtime;

use self::findings::Findings;
use super::Exit;
use crate::{
    clock::{Clock, system_time},
    config::{Config, Endpoint, FileKind, Parsed, TlsFiles},
    http::{self, Direct, Fault, Origin, Stage},
    local_mqtt,
    store::{Restored, Store},
    tls,
};

/// The time limit of one step.
const WITHIN: Duration = Duration::from_secs(10);
/// The largest answer that is accepted from the API, bytes.
const ANSWER_MOST: usize = 64 * 1024;
/// How far the system clock may be from the cloud's, seconds: a `Date` within this confirms trusted time
/// (`docs/protocol.md#trusted-time`).
const CLOCK_WITHIN_S: u64 = 600;

/// How far the checks go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The file alone, which is printed.
    Print,
    /// What it describes on this camera.
    Camera,
    /// The way to the cloud, too.
    Cloud,
}

pub(super) fn run(path: &Path, extent: Extent, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<Exit> {
    if extent == Extent::Print {
        return print(path, out, err);
    }
    let mut findings = Findings::read(path);
    files::check(&mut findings);
    let state_dir = findings.parsed.files.iter().find(|file| file.kind == FileKind::WritableDir).map(|file| file.path.clone());
    let trusted = state_dir.as_deref().and_then(trusted_on_record);
    let running = state_dir.as_deref().is_some_and(Store::is_locked);
    probes::motion_elements(&mut findings);
    // Findings of the dates and the probes do not prevent `--connect`.
    let reachable = findings.parsed.config.clone().filter(|_| findings.faults.is_empty());
    dates::check(&mut findings, Clock::start(trusted).now().trusted);
    memory::check(&mut findings, running);
    if cfg!(not(feature = "local-mqtt")) && findings.parsed.has("local_mqtt") {
        findings.warn("local_mqtt", local_mqtt::LEFT_OUT, "remove it, or use a build that has it");
    }
    let mut passed = motion::check(&mut findings);
    passed.extend(probes::run(&mut findings, running));
    for finding in findings.faults.iter().chain(&findings.warnings) {
        writeln!(err, "{finding}")?;
    }
    if findings.faults.is_empty() {
        writeln!(out, "clock: {}", clocks(trusted))?;
        writeln!(out, "{}: ok", path.display())?;
    }
    for line in &passed {
        writeln!(out, "ok      {line}")?;
    }
    let exit = if findings.faults.is_empty() { Exit::Done } else { Exit::Config };
    let Some(config) = reachable.filter(|_| extent == Extent::Cloud) else { return Ok(exit) };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("cannot start the checks")?;
    let mut report = Report { out, failed: false };
    runtime.block_on(reach(&config, &mut report))?;
    // A resolver that hangs must not delay the end of the command.
    let failed = report.failed;
    runtime.shutdown_background();
    Ok(if failed && exit == Exit::Done { Exit::Internal } else { exit })
}

/// Prints the configuration in effect, or its faults.
fn print(path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<Exit> {
    let parsed = Parsed::read(path);
    match parsed.print() {
        Some(text) => {
            write!(out, "# {}, with every default\n\n{text}", path.display())?;
            Ok(Exit::Done)
        }
        None => {
            for fault in &parsed.faults {
                writeln!(err, "{fault}")?;
            }
            Ok(Exit::Config)
        }
    }
}

/// Prints one line per step.
struct Report<'a> {
    out: &'a mut dyn Write,
    failed: bool,
}

impl Report<'_> {
    fn step(&mut self, what: &str, outcome: Result<impl Display, impl Display>) -> io::Result<()> {
        match outcome {
            Ok(found) => writeln!(self.out, "ok      {what}: {found}"),
            Err(fault) => {
                self.failed = true;
                writeln!(self.out, "failed  {what}: {fault}")
            }
        }
    }
}

async fn reach(config: &Config, report: &mut Report<'_>) -> anyhow::Result<()> {
    let clock = Clock::start(trusted_on_record(&config.device.state_dir));
    let origin = |endpoint: &Endpoint, files: &Option<TlsFiles>| -> anyhow::Result<Origin> {
        let tls = files.as_ref().map(|files| tls::device_client(files, &clock)).transpose()?;
        Ok(Origin { endpoint: endpoint.clone(), tls })
    };
    let mut broker = origin(&config.broker.endpoint, &config.broker.tls)?;
    broker.tls = broker.tls.map(|tls| tls.offering(config.broker.alpn.as_deref()));
    let found = match stages("broker", &broker, report).await? {
        true => round_trip::connect(config, &broker, report).await?,
        false => None,
    };

    let cloud = origin(&config.cloud.endpoint, &config.cloud.tls)?;
    let has_entitlement = match stages("cloud", &cloud, report).await? {
        true => api(config, &cloud, report).await?,
        false => None,
    };
    if let Some(found) = found {
        report.step("broker round trip", round_trip::judge(config, &found, has_entitlement))?;
    }
    if let Some(store) = &config.store {
        let tls = tls::store_client(&store.ca, store.crl.as_deref(), &clock)?;
        for (host, port) in &store.hosts {
            let endpoint = Endpoint { host: host.clone(), port: *port, tls: true };
            stages("store", &Origin { endpoint, tls: Some(tls.clone()) }, report).await?;
        }
    }
    #[cfg(feature = "local-mqtt")]
    if let Some(found) = local_mqtt::probe(config, clock).await {
        report.step("local broker", found)?;
    }
    Ok(())
}

/// The trusted time on record, so that certificates are judged as the agent judges them.
fn trusted_on_record(state_dir: &Path) -> Option<Duration> {
    match Store::peek(state_dir) {
        Ok(Restored::Record(bytes)) => Record::read(&bytes).ok().map(|record| Duration::from_secs(record.trusted_s)),
        _ => None,
    }
}

/// Tries DNS, TCP and TLS to one host; true if all succeeded.
async fn stages(name: &str, origin: &Origin, report: &mut Report<'_>) -> io::Result<bool> {
    let at = origin.endpoint.authority();
    let addresses = match http::resolve(&origin.endpoint, deadline()).await {
        Ok(addresses) => addresses,
        Err(fault) => {
            report.step(&format!("{name} DNS"), Err::<&str, _>(fault))?;
            return Ok(false);
        }
    };
    let list = addresses.iter().map(|address| address.ip().to_string()).collect::<Vec<_>>().join(", ");
    report.step(&format!("{name} DNS"), Ok::<_, Fault>(format!("{} is {list}", origin.endpoint.host)))?;

    let connected = http::connect(&Direct, origin, &addresses, deadline()).await.map(drop);
    let reached = match &connected {
        Ok(()) => true,
        Err(fault) => fault.stage() == Some(Stage::Tls),
    };
    if reached {
        report.step(&format!("{name} TCP"), Ok::<_, Fault>(format!("{at} answers")))?;
    }
    match connected {
        Ok(()) if origin.tls.is_none() => Ok(true),
        Ok(()) => report.step(&format!("{name} TLS"), Ok::<_, Fault>("the server's certificate is good")).map(|()| true),
        Err(fault) => {
            let stage = if reached { "TLS" } else { "TCP" };
            report.step(&format!("{name} {stage}"), Err::<&str, _>(fault)).map(|()| false)
        }
    }
}

/// Asks the API for the entitlement and compares clocks. Returns whether the API has an entitlement for this device, if it
/// told.
async fn api(config: &Config, cloud: &Origin, report: &mut Report<'_>) -> io::Result<Option<bool>> {
    let path = format!("/v1/devices/{}/entitlement", config.device.id);
    let answer = match http::get(cloud, &path, ANSWER_MOST, WITHIN).await {
        Ok(answer) => answer,
        Err(fault) => return report.step("API", Err::<&str, _>(fault)).map(|()| None),
    };
    report.step(
        "API",
        match answer.status {
            200 => Ok("the cloud has an entitlement for this device".to_owned()),
            404 => Ok("the cloud has no entitlement for this device (404)".to_owned()),
            401 | 403 => Err(format!("the cloud refuses this device ({}): is its certificate registered?", answer.status)),
            status => Err(format!("GET {path} was answered {status}")),
        },
    )?;
    let system = system_time();
    let both = clocks(trusted_on_record(&config.device.state_dir));
    let with_clocks = |found: String| format!("{found}; {both}");
    report.step("clock", skew(system, answer.date).map(with_clocks).map_err(with_clocks))?;
    Ok(match answer.status {
        200 => Some(true),
        404 => Some(false),
        _ => None,
    })
}

/// Both clocks: the agent judges certificates by trusted time, the rest of the camera uses the system clock.
fn clocks(on_record: Option<Duration>) -> String {
    let trusted = Clock::start(on_record).now().trusted;
    let source = if on_record.is_some() { "on record" } else { "from the build time, nothing is on record" };
    format!("trusted time is {} ({source}), the system clock says {}", timestamp(trusted), timestamp(system_time()))
}

fn skew(system: Duration, cloud: Option<Duration>) -> Result<String, String> {
    let Some(cloud) = cloud else {
        return Err("the cloud's answer has no Date as RFC 9110 wants it, so trusted time can never be confirmed".to_owned());
    };
    let (apart, direction) = match system.checked_sub(cloud) {
        Some(ahead) => (ahead.as_secs(), "ahead of"),
        None => (cloud.saturating_sub(system).as_secs(), "behind"),
    };
    let found = format!("the system clock is {apart} s {direction} the cloud's");
    if apart <= CLOCK_WITHIN_S {
        Ok(found)
    } else {
        Err(format!("{found}; the agent goes by the cloud's, everything else on this camera does not"))
    }
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_compared_both_ways() {
        let at = Duration::from_secs;
        assert_eq!(skew(at(1000), Some(at(990))).unwrap(), "the system clock is 10 s ahead of the cloud's");
        assert_eq!(skew(at(990), Some(at(1000))).unwrap(), "the system clock is 10 s behind the cloud's");
        assert!(skew(at(0), Some(at(1_767_225_600))).is_err());
        assert!(skew(at(1_767_225_600), Some(at(0))).is_err());
        assert!(skew(at(0), None).is_err());
    }
}
