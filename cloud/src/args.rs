//! The command line, parsed into what is to be done. Every mistake says what would be right.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use care_protocol::DeviceId;
use lexopt::prelude::*;
use serde_json::{Value, json};
use thiserror::Error;

/// What `--help` prints.
pub const USAGE: &str = "\
care-cloud: a stand-in for the Care cloud, made of real parts

  care-cloud [--listen ADDR] [--portal ADDR] [--mqtt ADDR] [--broker URL] [--s3 URL] [--data DIR]
      Runs everything. With no flag all of it is embedded and on loopback.
      --listen ADDR     API and clip store, HTTPS with client certificates   [127.0.0.1:8443]
      --portal ADDR     the portal's pages, HTTP on loopback                 [127.0.0.1:8480]
      --portal-origin URL
                        where browsers reach them, through a proxy that brings TLS: https://care.example
      --demo            lets visitors of the portal in by a click
      --mqtt ADDR       where the embedded Mosquitto listens for cameras     [127.0.0.1:8883]
      --broker URL      an external broker instead, as cameras reach it: mqtts://host:port, or mqtt:// on loopback;
                        deploy/ has what it must be told
      --broker-cloud URL
                        its listener for the cloud                           [the cameras']
      --broker-ca, --broker-cert, --broker-key FILE
                        how to speak to it                                   [this cloud's own]
      --s3 URL          an external S3 instead: https://host/bucket[?region=name], with
                        AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; http:// on loopback
      --s3-ca FILE      the authority of its certificate                     [the system's]
      --host NAME       the name in URLs and in the certificate              [the address of --listen]
      --prefix PREFIX   of every topic                                       [care/v1]
      --instance NAME   what it is called beside others on the same --data
      --lease SECONDS   how long a document may be trusted without news      [172800]
      --data DIR        certificates, keys, database, clips                  [~/.local/share/care-cloud]

  care-cloud camera add --id ID --model MODEL [--account ACCOUNT] --out DIR [--data DIR]
      Makes a camera known and writes ca.pem, device.pem, device.key and config.toml into DIR.

  care-cloud account add --account ACCOUNT --login TP-LINK-ID [--password-file FILE] [--data DIR]
      Gives an account its sign-in; without a file it prints a new password. The first start makes demo@kasa.example,
      whose password is in DIR/demo-sign-in.json.

  care-cloud subscribe --camera ID --plan plus|premium [--cycle monthly|annual]
                       [--channel portal|app_store|play_store] [--zone Europe/Paris] [--data DIR]
  care-cloud cancel --camera ID                ends the plan at once
  care-cloud cancel --account ACCOUNT --order ORDER
                                               the same for a subscription that no camera is left under; store-cancel too
  care-cloud downgrade --camera ID             Premium to Plus at once
  care-cloud store-cancel --camera ID [--ends-in SECONDS]
                                               what an app store does: ends with its period
  care-cloud withdraw --camera ID              takes a store-cancel back
  care-cloud trial --camera ID [--plan plus|premium] [--ends-in SECONDS]
                                               the account's one trial
  care-cloud payment-fails --account ACCOUNT [--grace SECONDS]
  care-cloud payment-recovers --account ACCOUNT
  care-cloud bind --camera ID --account ACCOUNT
  care-cloud unbind --camera ID
  care-cloud state                             everything the portal knows, as JSON
  care-cloud experiment NAME [--camera ID] [--account ACCOUNT] [--seconds N] [--cameras N] [--clips N] [--run true|false]
                                               what the engineers' page does: send-duplicate, replay, old-key, unknown-key,
                                               expired-lease, reissue, reset (--camera), rotate-key, refuse-grants (--seconds),
                                               broker (--run), simulate, stop-simulated, add-history (--camera --clips)
      These talk to the care-cloud that runs on the same --data.

Exit codes: 0 done, 64 wrong usage, 78 wrong configuration, 70 internal error.
";

/// A mistake on the command line: exit code 64.
#[derive(Debug, Error)]
pub enum UsageError {
    /// lexopt's own.
    #[error(transparent)]
    Lexopt(#[from] lexopt::Error),
    /// Something is missing.
    #[error("{command} needs {option}")]
    Missing {
        /// The command.
        command: &'static str,
        /// What it needs.
        option: &'static str,
    },
    /// No such command.
    #[error("there is no command {0:?}: see care-cloud --help")]
    Command(String),
    /// A combination that means nothing.
    #[error("{0}")]
    Wrong(&'static str),
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Print the usage.
    Help,
    /// Print the version.
    Version,
    /// Run the cloud.
    Run(Box<Run>),
    /// Provision a camera.
    CameraAdd {
        /// The data directory.
        data: PathBuf,
        /// The device id.
        id: DeviceId,
        /// The model.
        model: String,
        /// The account.
        account: String,
        /// Where its files go.
        out: PathBuf,
    },
    /// Give an account its sign-in.
    AccountAdd {
        /// The data directory.
        data: PathBuf,
        /// The account.
        account: String,
        /// The TP-Link ID.
        login: String,
        /// Where the password is; `None`: a new one.
        password_file: Option<PathBuf>,
    },
    /// Make an experiment with the running care-cloud.
    Experiment {
        /// The data directory.
        data: PathBuf,
        /// The experiment as JSON.
        experiment: Value,
    },
    /// Send something to the portal of the running care-cloud.
    Act {
        /// The data directory, which says where the portal is.
        data: PathBuf,
        /// The action as JSON.
        action: Value,
    },
    /// Print the portal's state.
    State {
        /// The data directory.
        data: PathBuf,
    },
}

/// How to run the cloud.
#[derive(Debug, Clone)]
pub struct Run {
    /// API and store; `None`: 127.0.0.1:8443, or any free port if that is taken.
    pub listen: Option<SocketAddr>,
    /// The portal; loopback.
    pub portal: Option<SocketAddr>,
    /// Where browsers reach the portal, if not there.
    pub portal_origin: Option<String>,
    /// The sign-in page says how to sign in.
    pub demo: bool,
    /// The embedded broker.
    pub mqtt: Option<SocketAddr>,
    /// An external broker.
    pub broker: Option<String>,
    /// Its listener for the cloud, if not the cameras'.
    pub broker_cloud: Option<String>,
    /// Its CA.
    pub broker_ca: Option<PathBuf>,
    /// Our certificate for it.
    pub broker_cert: Option<PathBuf>,
    /// And key.
    pub broker_key: Option<PathBuf>,
    /// An external S3.
    pub s3: Option<String>,
    /// The authority of its certificate.
    pub s3_ca: Option<PathBuf>,
    /// The name in URLs.
    pub host: Option<String>,
    /// The topics' prefix.
    pub prefix: String,
    /// Its name beside others on the same data directory.
    pub instance: Option<String>,
    /// `max_age_s`.
    pub lease_s: u64,
    /// The data directory.
    pub data: PathBuf,
}

/// Parses the arguments after the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut words = Vec::new();
    let mut run = Run {
        listen: None,
        portal: None,
        portal_origin: None,
        demo: false,
        mqtt: None,
        broker: None,
        broker_cloud: None,
        broker_ca: None,
        broker_cert: None,
        broker_key: None,
        s3: None,
        s3_ca: None,
        host: None,
        prefix: "care/v1".into(),
        instance: None,
        lease_s: 172_800,
        data: default_data(),
    };
    let (mut id, mut model, mut account, mut out): (Option<DeviceId>, Option<String>, Option<String>, Option<PathBuf>) = Default::default();
    let (mut login, mut password_file, mut order): (Option<String>, Option<PathBuf>, Option<String>) = Default::default();
    let mut fields = serde_json::Map::new();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Long("listen") => run.listen = Some(parser.value()?.parse()?),
            Long("portal") => run.portal = Some(parser.value()?.parse()?),
            Long("portal-origin") => run.portal_origin = Some(parser.value()?.string()?),
            Long("demo") => run.demo = true,
            Long("mqtt") => run.mqtt = Some(parser.value()?.parse()?),
            Long("broker") => run.broker = Some(parser.value()?.string()?),
            Long("broker-cloud") => run.broker_cloud = Some(parser.value()?.string()?),
            Long("broker-ca") => run.broker_ca = Some(parser.value()?.into()),
            Long("broker-cert") => run.broker_cert = Some(parser.value()?.into()),
            Long("broker-key") => run.broker_key = Some(parser.value()?.into()),
            Long("s3") => run.s3 = Some(parser.value()?.string()?),
            Long("s3-ca") => run.s3_ca = Some(parser.value()?.into()),
            Long("host") => run.host = Some(parser.value()?.string()?),
            Long("prefix") => run.prefix = parser.value()?.string()?,
            Long("instance") => run.instance = Some(parser.value()?.string()?),
            Long("lease") => run.lease_s = parser.value()?.parse()?,
            Long("data") => run.data = parser.value()?.into(),
            Long("id" | "camera") => id = Some(parser.value()?.parse()?),
            Long("model") => model = Some(parser.value()?.string()?),
            Long("account") => account = Some(parser.value()?.string()?),
            Long("out") => out = Some(parser.value()?.into()),
            Long(name @ ("plan" | "cycle" | "channel" | "zone")) => {
                let name = name.to_owned();
                fields.insert(name, parser.value()?.string()?.into());
            }
            Long("order") => order = Some(parser.value()?.string()?),
            Long("login") => login = Some(parser.value()?.string()?),
            Long("password-file") => password_file = Some(parser.value()?.into()),
            Long("grace") => {
                fields.insert("grace_s".into(), parser.value()?.parse::<u64>()?.into());
            }
            Long(name @ ("seconds" | "cameras" | "clips")) => {
                let name = name.to_owned();
                fields.insert(name, parser.value()?.parse::<u32>()?.into());
            }
            Long("run") => {
                fields.insert("run".into(), parser.value()?.parse::<bool>()?.into());
            }
            Long("ends-in") => {
                fields.insert("ends_in_s".into(), parser.value()?.parse::<u64>()?.into());
            }
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if run.lease_s == 0 {
        return Err(UsageError::Wrong("--lease is at least 1 second"));
    }
    if run.broker_cloud.is_some() && run.broker.is_none() {
        return Err(UsageError::Wrong("--broker-cloud belongs to --broker: the embedded broker has a listener of its own for the cloud"));
    }
    if run.portal.is_some_and(|address| !address.ip().is_loopback()) {
        return Err(UsageError::Wrong("--portal must be a loopback address: it speaks plain HTTP; put a proxy with TLS before it"));
    }
    if run.portal_origin.as_deref().is_some_and(|origin| !is_https_origin(origin)) {
        return Err(UsageError::Wrong("--portal-origin is https://host or https://host:port, with nothing after it"));
    }
    if run.demo && run.portal_origin.is_some() {
        return Err(UsageError::Wrong("--demo shows its passwords: not where others reach the portal (--portal-origin)"));
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let needs = |command, option| UsageError::Missing { command, option };
    let data = run.data.clone();
    match words[..] {
        [] => Ok(Command::Run(Box::new(run))),
        ["camera", "add"] => Ok(Command::CameraAdd {
            data,
            id: id.ok_or(needs("camera add", "--id"))?,
            model: model.ok_or(needs("camera add", "--model"))?,
            account: account.unwrap_or_else(|| "acct-1".into()),
            out: out.ok_or(needs("camera add", "--out"))?,
        }),
        ["account", "add"] => Ok(Command::AccountAdd {
            data,
            account: account.ok_or(needs("account add", "--account"))?,
            login: login.ok_or(needs("account add", "--login"))?,
            password_file,
        }),
        ["experiment", name] => {
            fields.insert("experiment".into(), name.replace('-', "_").into());
            if let Some(camera) = id {
                fields.insert("camera".into(), camera.as_str().into());
            }
            if let Some(account) = account {
                fields.insert("account".into(), account.into());
            }
            Ok(Command::Experiment { data, experiment: fields.into() })
        }
        ["state"] => Ok(Command::State { data }),
        [command @ ("payment-fails" | "payment-recovers")] => {
            fields.insert("action".into(), command.replace('-', "_").into());
            fields.insert("account".into(), account.ok_or(needs("payment-fails", "--account"))?.into());
            Ok(Command::Act { data, action: fields.into() })
        }
        [command @ ("cancel" | "store-cancel")] if order.is_some() => {
            fields.insert("action".into(), format!("{}_order", command.replace('-', "_")).into());
            fields.insert("account".into(), account.ok_or(needs("cancel --order", "--account"))?.into());
            fields.insert("order_id".into(), order.into());
            Ok(Command::Act { data, action: fields.into() })
        }
        [command] => {
            let command = match command {
                "subscribe" => "subscribe",
                "cancel" => "cancel",
                "downgrade" => "downgrade",
                "store-cancel" => "store_cancel",
                "withdraw" => "withdraw",
                "bind" => "bind",
                "unbind" => "unbind",
                "trial" => "start_trial",
                other => return Err(UsageError::Command(other.into())),
            };
            let mut action = json!({ "action": command, "camera": id.ok_or(needs(command, "--camera"))? });
            if let Some(account) = account {
                action["account"] = account.into();
            }
            for (name, value) in fields {
                action[name] = value;
            }
            Ok(Command::Act { data, action })
        }
        [first, ..] => Err(UsageError::Command(first.into())),
    }
}

fn is_https_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.origin().ascii_serialization() == text)
}

fn default_data() -> PathBuf {
    let share = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    share.or_else(home).unwrap_or_else(|| ".".into()).join("care-cloud")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn no_argument_runs_everything_and_an_action_becomes_json() {
        assert!(matches!(parsed(""), Ok(Command::Run(_))));
        let Ok(Command::Act { action, .. }) = parsed("store-cancel --camera CAM1 --ends-in 5") else { panic!("an action") };
        assert_eq!(action, json!({ "action": "store_cancel", "camera": "CAM1", "ends_in_s": 5 }));
        let Ok(Command::Act { action, .. }) = parsed("cancel --account a --order KC-1") else { panic!("an action") };
        assert_eq!(action, json!({ "action": "cancel_order", "account": "a", "order_id": "KC-1" }));
    }

    #[test]
    fn mistakes_are_refused() {
        for line in [
            "frobnicate",
            "cancel",
            "cancel --order KC-1",
            "--broker-cloud mqtts://127.0.0.1:8884",
            "camera add --id A --model B",
            "--portal 0.0.0.0:80",
            "--portal-origin http://care.example",
            "--portal-origin https://care.example/",
            "--demo --portal-origin https://care.example",
            "--lease 0",
            "--listen here",
            "camera",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
