//! Parses the command line into a request, or refuses it. It runs nothing.

use std::{ffi::OsString, path::PathBuf};

use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

use crate::config::DEFAULT_PATH;

const HELP: &str = "\
kasa-care-agent: switches a camera's cloud upload with its Care plan, at once

  kasa-care-agent run [--config FILE]                     the service
  kasa-care-agent check-config [--connect] [--config FILE]
                                                          every fault of the configuration, its files, and the sources
                                                          and folders it names; --connect also tries DNS, TLS, MQTT,
                                                          the API and the clock
  kasa-care-agent status [--json] [--config FILE]         plan, mode, lease, link, transfers, spool, last switch
  kasa-care-agent verify TOKEN-FILE [--keyset FILE] [--config FILE]
                                                          checks and prints an entitlement with the device's keys
  kasa-care-agent support [--output FILE] [--config FILE] one archive for support: status, history with order ids, the
                                                          last errors, versions; no secrets
  kasa-care-agent factory-reset [--config FILE]           erases clips, entitlement and account data
  kasa-care-agent --help | --version

The default of --config is /etc/kasa-care-agent/config.toml. CARE_LOG=debug makes the service log
more; its levels are off, error, warn, info, debug and trace.

Exit codes: 0 done, 64 wrong usage, 78 wrong configuration, 70 the command failed.
";

/// A parsed command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Help(&'static str),
    Version,
    Run(Command),
}

/// One command with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Run { config: PathBuf },
    CheckConfig { config: PathBuf, connect: bool },
    Status { config: PathBuf, json: bool },
    Verify { config: PathBuf, token: PathBuf, keyset: Option<PathBuf> },
    Support { config: PathBuf, output: Option<PathBuf> },
    FactoryReset { config: PathBuf },
}

const COMMANDS: [&str; 6] = ["run", "check-config", "status", "verify", "support", "factory-reset"];

/// Parses a command line, given without the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, lexopt::Error> {
    let mut parser = Parser::from_args(args);
    let (mut command, mut token, mut config, mut keyset, mut output) = (None, None, None, None, None);
    let (mut connect, mut json) = (false, false);
    while let Some(arg) = parser.next()? {
        let of = |wanted: &str| command.as_deref() == Some(wanted);
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help(HELP)),
            Short('V') | Long("version") => return Ok(Request::Version),
            Short('c') | Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("connect") if of("check-config") => connect = true,
            Long("json") if of("status") => json = true,
            Long("keyset") if of("verify") => keyset = Some(PathBuf::from(parser.value()?)),
            Short('o') | Long("output") if of("support") => output = Some(PathBuf::from(parser.value()?)),
            Value(name) if command.is_none() => {
                let name = name.string()?;
                if !COMMANDS.contains(&name.as_str()) {
                    return Err(format!("{name:?} is not a command; there are {}", COMMANDS.join(", ")).into());
                }
                command = Some(name);
            }
            Value(file) if of("verify") && token.is_none() => token = Some(PathBuf::from(file)),
            other => return Err(other.unexpected()),
        }
    }
    let config = config.unwrap_or_else(|| DEFAULT_PATH.into());
    let command = match command.as_deref() {
        None => return Err(format!("a command is missing; there are {}", COMMANDS.join(", ")).into()),
        Some("run") => Command::Run { config },
        Some("check-config") => Command::CheckConfig { config, connect },
        Some("status") => Command::Status { config, json },
        Some("verify") => Command::Verify { config, token: token.ok_or("verify needs a TOKEN-FILE")?, keyset },
        Some("support") => Command::Support { config, output },
        Some(_) => Command::FactoryReset { config },
    };
    Ok(Request::Run(command))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_command_is_parsed() {
        let default = || PathBuf::from(DEFAULT_PATH);
        let cases = [
            ("run", Command::Run { config: default() }),
            ("run --config a.toml", Command::Run { config: "a.toml".into() }),
            ("--config=a.toml run", Command::Run { config: "a.toml".into() }),
            ("check-config", Command::CheckConfig { config: default(), connect: false }),
            ("check-config --connect -c x", Command::CheckConfig { config: "x".into(), connect: true }),
            ("status", Command::Status { config: default(), json: false }),
            ("status --json", Command::Status { config: default(), json: true }),
            ("verify t.jws", Command::Verify { config: default(), token: "t.jws".into(), keyset: None }),
            ("verify --keyset k t", Command::Verify { config: default(), token: "t".into(), keyset: Some("k".into()) }),
            ("support", Command::Support { config: default(), output: None }),
            ("support --output s.json", Command::Support { config: default(), output: Some("s.json".into()) }),
            ("factory-reset", Command::FactoryReset { config: default() }),
        ];
        for (line, command) in cases {
            assert_eq!(parsed(line), Ok(Request::Run(command)), "{line}");
        }
        assert_eq!(parsed("run --help"), Ok(Request::Help(HELP)));
        assert_eq!(parsed("-V"), Ok(Request::Version));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "start",
            "run now",
            "run --json",
            "status --connect",
            "verify",
            "verify a b",
            "run --config",
            "--keyset k verify t",
            "factory-reset --yes",
            "status --output s.json",
            "support s.json",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
