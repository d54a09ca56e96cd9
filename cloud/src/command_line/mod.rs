//! The command line of care-cloud, as types that clap parses. A command for a running care-cloud becomes the
//! [`Action`](crate::domain::actions::Action) or [`Experiment`](crate::lab::experiments::Experiment) that its portal
//! accepts, so that both sides agree on the format.

mod experiment;
mod plan;

use std::{net::SocketAddr, path::PathBuf};

use care_protocol::DeviceId;
use clap::{Args, Parser, Subcommand};

pub use self::{experiment::ExperimentCommand, plan::PlanCommand};
use crate::storage::db::Address;

/// A stand-in for the Care cloud, made of real parts.
///
/// Without a command it runs everything, embedded and on loopback. The other commands talk to the care-cloud that runs
/// on the same --data.
#[derive(Debug, Parser)]
#[command(
    name = "care-cloud",
    version,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 64 wrong usage, 78 wrong configuration, 70 internal error."
)]
pub struct Arguments {
    /// How to run the cloud.
    #[command(flatten)]
    pub options: Options,
    /// What to do instead.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// How to run the cloud.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// API and clip store: HTTPS with client certificates [default: 127.0.0.1:8443, or a free port]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    pub listen: Option<SocketAddr>,
    /// The portal: HTTP, on a loopback address [default: 127.0.0.1:8480, or a free port]
    #[arg(long, value_name = "ADDR", value_parser = loopback, help_heading = "Listeners")]
    pub portal: Option<SocketAddr>,
    /// Where browsers reach the portal through a proxy that adds TLS, such as `https://care.example`
    #[arg(long, value_name = "URL", value_parser = https_origin, help_heading = "Listeners")]
    pub portal_origin: Option<String>,
    /// The embedded Mosquitto, for cameras [default: 127.0.0.1:8883, or a free port]
    #[arg(long, value_name = "ADDR", help_heading = "Listeners")]
    pub mqtt: Option<SocketAddr>,
    /// Metrics for Prometheus at /metrics: HTTP without a sign-in, on a loopback address [default: none]
    #[arg(long, value_name = "ADDR", value_parser = loopback, help_heading = "Listeners")]
    pub metrics: Option<SocketAddr>,
    /// The host name in URLs and in the server's certificate [default: the address of --listen]
    #[arg(long, value_name = "NAME", help_heading = "Listeners")]
    pub host: Option<String>,
    /// Let anyone sign in to the portal with one click, as the demo does
    #[arg(long, conflicts_with = "portal_origin")]
    pub demo: bool,
    /// An external broker, as cameras reach it: mqtts://host:port, or mqtt:// on loopback. Its configuration is in
    /// deploy/
    #[arg(long, value_name = "URL", help_heading = "External broker")]
    pub broker: Option<String>,
    /// The broker's listener for the cloud, if it has a separate one [default: --broker]
    #[arg(long, value_name = "URL", requires = "broker", help_heading = "External broker")]
    pub broker_cloud: Option<String>,
    /// The CA of the broker's certificate [default: this cloud's own]
    #[arg(long, value_name = "FILE", help_heading = "External broker")]
    pub broker_ca: Option<PathBuf>,
    /// This cloud's client certificate for the broker [default: one by its own CA]
    #[arg(long, value_name = "FILE", help_heading = "External broker")]
    pub broker_cert: Option<PathBuf>,
    /// The key of --broker-cert
    #[arg(long, value_name = "FILE", help_heading = "External broker")]
    pub broker_key: Option<PathBuf>,
    /// An external S3: https://host/bucket[?region=name], or http:// on loopback; with AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY in the environment
    #[arg(long, value_name = "URL", help_heading = "External clip store")]
    pub s3: Option<String>,
    /// The CA of its certificate [default: the system's]
    #[arg(long, value_name = "FILE", help_heading = "External clip store")]
    pub s3_ca: Option<PathBuf>,
    /// The prefix of every MQTT topic
    #[arg(long, default_value = "care/v1")]
    pub prefix: String,
    /// A name for this process, if several run on the same --data or --database
    #[arg(long, value_name = "NAME")]
    pub instance: Option<String>,
    /// How long a camera may rely on a document without hearing from the cloud, seconds
    #[arg(long = "lease", value_name = "SECONDS", default_value_t = 172_800, value_parser = clap::value_parser!(u64).range(1..))]
    pub lease_s: u64,
    /// A PostgreSQL that several processes share: postgres:///name?host=/run/postgresql, postgres://user@localhost/name, or
    /// on another machine postgres://user@host/name?sslmode=verify-full&sslrootcert=FILE [default: an embedded one in --data]
    #[arg(long, global = true, value_name = "URL", env = "CARE_CLOUD_DATABASE", hide_env_values = true)]
    pub database: Option<Address>,
    /// Certificates, keys, database and clips [default: ~/.local/share/care-cloud]
    #[arg(long, global = true, value_name = "DIR", default_value_os_t = default_data(), hide_default_value = true)]
    pub data: PathBuf,
}

/// A command other than running the cloud.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Add a camera
    #[command(subcommand)]
    Camera(CameraCommand),
    /// Add an account
    #[command(subcommand)]
    Account(AccountCommand),
    /// Print everything the portal knows, as JSON
    State,
    /// Break something on purpose, as the engineers' page does
    #[command(subcommand)]
    Experiment(ExperimentCommand),
    /// A change of plan.
    #[command(flatten)]
    Plan(PlanCommand),
}

/// Commands about cameras.
#[derive(Debug, Subcommand)]
pub enum CameraCommand {
    /// Register a camera and write ca.pem, device.pem, device.key and config.toml into a directory
    Add {
        /// The device id, 1 to 64 of A-Z a-z 0-9 _ -
        #[arg(long, alias = "camera")]
        id: DeviceId,
        /// The model, such as KC420WS
        #[arg(long)]
        model: String,
        /// The account it is bound to
        #[arg(long, default_value = "acct-1")]
        account: String,
        /// The directory for its files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Commands about accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Set the sign-in of an account. The first start creates demo@kasa.example; its password is in
    /// DIR/demo-sign-in.json
    Add {
        /// The account
        #[arg(long)]
        account: String,
        /// The TP-Link ID its owner signs in with
        #[arg(long, value_name = "TP-LINK-ID")]
        login: String,
        /// A file with the password [default: print a new one]
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
}

/// A camera.
#[derive(Debug, Args)]
pub struct Camera {
    /// The device id
    #[arg(long, alias = "id", value_name = "ID")]
    camera: DeviceId,
}

/// An account.
#[derive(Debug, Args)]
pub struct Account {
    /// The account
    #[arg(long)]
    account: String,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|e: std::net::AddrParseError| e.to_string())?;
    let wrong = || "it must be a loopback address, because it speaks plain HTTP: put a proxy with TLS in front of it".to_owned();
    address.ip().is_loopback().then_some(address).ok_or_else(wrong)
}

fn https_origin(text: &str) -> Result<String, &'static str> {
    let is_origin = url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.origin().ascii_serialization() == text);
    is_origin.then(|| text.to_owned()).ok_or("expected https://host or https://host:port, with nothing after it")
}

fn default_data() -> PathBuf {
    let share = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    share.or_else(home).unwrap_or_else(|| ".".into()).join("care-cloud")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};
    use serde_json::{Value, json};

    use super::*;
    use crate::{domain::actions::Action, lab::experiments::Experiment};

    fn parsed(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["care-cloud"].into_iter().chain(line.split_whitespace()))
    }

    /// The JSON that a command sends to the portal, without what is not given.
    fn sent(line: &str) -> Value {
        let mut sent = match parsed(line).unwrap().command.unwrap() {
            Command::Plan(command) => serde_json::to_value(Action::from(command)).unwrap(),
            Command::Experiment(command) => serde_json::to_value(Experiment::from(command)).unwrap(),
            other => panic!("{other:?} sends nothing"),
        };
        sent.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        sent
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_argument_runs_everything_and_a_change_of_plan_becomes_the_portals_json() {
        assert!(parsed("").unwrap().command.is_none());
        assert_eq!(sent("store-cancel --camera CAM1 --ends-in 5"), json!({ "action": "store_cancel", "camera": "CAM1", "ends_in_s": 5 }));
        assert_eq!(sent("cancel --account a --order KC-1"), json!({ "action": "cancel_order", "account": "a", "order_id": "KC-1" }));
        assert_eq!(
            sent("subscribe --id CAM1 --plan premium --cycle annual --channel play_store --zone Europe/Paris"),
            json!({ "action": "subscribe", "camera": "CAM1", "plan": "premium", "cycle": "annual", "channel": "play_store",
                    "zone": "Europe/Paris" })
        );
        assert_eq!(sent("trial --camera CAM1"), json!({ "action": "start_trial", "camera": "CAM1" }));
        assert_eq!(sent("payment-fails --account a --grace 30"), json!({ "action": "payment_fails", "account": "a", "grace_s": 30 }));
    }

    #[test]
    fn an_experiment_becomes_the_portals_json() {
        assert_eq!(sent("experiment rotate-key"), json!({ "experiment": "rotate_key" }));
        assert_eq!(sent("experiment broker --run false"), json!({ "experiment": "broker", "run": false }));
        assert_eq!(
            sent("experiment add-history --camera CAM1 --clips 3"),
            json!({ "experiment": "add_history", "camera": "CAM1", "clips": 3 })
        );
    }

    #[test]
    fn the_data_directory_may_stand_before_or_after_the_command() {
        for line in ["--data /d state", "state --data /d", "experiment rotate-key --data /d"] {
            assert_eq!(parsed(line).unwrap().options.data, PathBuf::from("/d"), "{line}");
        }
    }

    #[test]
    fn help_and_version_are_no_mistakes() {
        for (line, kind) in [("--help", ErrorKind::DisplayHelp), ("-V", ErrorKind::DisplayVersion), ("help cancel", ErrorKind::DisplayHelp)]
        {
            let shown = parsed(line).unwrap_err();
            assert!(shown.kind() == kind && !shown.use_stderr(), "{line}");
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for line in [
            "frobnicate",
            "cancel",
            "cancel --order KC-1",
            "cancel --camera A/B",
            "subscribe --camera A --plan gold",
            "experiment",
            "experiment frobnicate",
            "--broker-cloud mqtts://127.0.0.1:8884",
            "camera add --id A --model B",
            "--portal 0.0.0.0:80",
            "--metrics 0.0.0.0:9464",
            "--portal-origin http://care.example",
            "--portal-origin https://care.example/",
            "--demo --portal-origin https://care.example",
            "--lease 0",
            "--database sqlite:x",
            "--database postgres://db.example/care",
            "--listen here",
            "camera",
        ] {
            assert!(parsed(line).is_err_and(|e| e.use_stderr()), "{line}");
        }
    }
}
