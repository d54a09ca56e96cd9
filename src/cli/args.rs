//! Parses the command line into a request, or refuses it. It runs nothing.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use care_protocol::MotionState;
use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

use crate::{config::DEFAULT_PATH, supervision};

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
  kasa-care-agent motion [start|stop] [--score N] [--config FILE]
                                                          tells the running agent of motion: for a streamer's motion
                                                          script; start lasts until stop; N from 0 to 1; further numbers
                                                          (a region) are accepted
  kasa-care-agent supervise [OPTIONS] [-- COMMAND…]       runs COMMAND, by default the service, where no systemd does:
                                                          restarts it after growing pauses, kills it when it hangs
      --hang-after SECONDS     without a sign of progress for this long (30; 0: never)
      --watchdog PATH          a watchdog device or file, kept by COMMAND's progress alone
      --pidfile FILE           holds the process id, and a lock
      --status-file FILE       holds one line: what runs, how often and why it was restarted
  kasa-care-agent --help | --version

The default of --config is /etc/kasa-care-agent/config.toml. CARE_LOG=debug makes the service log
more; its levels are off, error, warn, info, debug and trace.

Exit codes: 0 done, 64 wrong usage, 78 wrong configuration, 70 the command failed.
";

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    Help(&'static str),
    Version,
    Run(Command),
}

/// One command with its arguments.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Run { config: PathBuf },
    CheckConfig { config: PathBuf, connect: bool },
    Status { config: PathBuf, json: bool },
    Verify { config: PathBuf, token: PathBuf, keyset: Option<PathBuf> },
    Support { config: PathBuf, output: Option<PathBuf> },
    FactoryReset { config: PathBuf },
    Motion { config: PathBuf, state: Option<MotionState>, score: f64 },
    Supervise(supervision::Options),
}

const COMMANDS: [&str; 8] = ["run", "check-config", "status", "verify", "support", "factory-reset", "motion", "supervise"];

/// Parses a command line, given without the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, lexopt::Error> {
    let mut parser = Parser::from_args(args);
    let (mut command, mut token, mut config, mut keyset, mut output) = (None, None, None, None, None);
    let (mut connect, mut json) = (false, false);
    // A detector that gives no score is certain.
    let (mut state, mut score) = (None, 1.0);
    let mut supervised = supervision::Options {
        command: Vec::new(),
        hang_after: Some(supervision::HANG_AFTER),
        watchdog: None,
        pid_file: None,
        status_file: None,
    };
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
            Long("score") if of("motion") => score = confidence(&parser.value()?)?,
            Value(word) if of("motion") => match word.to_str() {
                Some("start") if state.is_none() => state = Some(MotionState::Start),
                Some("stop") if state.is_none() => state = Some(MotionState::Stop),
                // Where in the picture: streamers tell it, and a clip has no use for it.
                Some(number) if number.parse::<f64>().is_ok() => {}
                _ => return Err(Value(word).unexpected()),
            },
            Long("hang-after") if of("supervise") => supervised.hang_after = seconds(&parser.value()?)?,
            Long("watchdog") if of("supervise") => supervised.watchdog = Some(parser.value()?.into()),
            Long("pidfile") if of("supervise") => supervised.pid_file = Some(parser.value()?.into()),
            Long("status-file") if of("supervise") => supervised.status_file = Some(parser.value()?.into()),
            // Everything from here on is the command's, its options too.
            Value(program) if of("supervise") => {
                supervised.command = vec![program];
                supervised.command.extend(parser.raw_args()?);
            }
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
        Some("motion") => Command::Motion { config, state, score },
        Some("supervise") => {
            if supervised.command.is_empty() {
                supervised.command = vec![own_program(), "run".into(), "--config".into(), config.into()];
            }
            Command::Supervise(supervised)
        }
        Some(_) => Command::FactoryReset { config },
    };
    Ok(Request::Run(command))
}

/// A score from 0 to 1.
fn confidence(value: &OsString) -> Result<f64, lexopt::Error> {
    let score = value.parse()?;
    if (0.0..=1.0).contains(&score) { Ok(score) } else { Err(format!("--score {score} is not from 0 to 1").into()) }
}

/// A number of seconds; 0 is none.
fn seconds(value: &OsString) -> Result<Option<Duration>, lexopt::Error> {
    let number: u32 = value.parse()?;
    Ok((number > 0).then(|| Duration::from_secs(number.into())))
}

/// This program's path, so that a restart takes the program that is there by then.
fn own_program() -> OsString {
    env::current_exe().map_or_else(|_| env::args_os().next().unwrap_or_else(|| "kasa-care-agent".into()), PathBuf::into_os_string)
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
    }

    #[test]
    fn supervise_runs_the_service_or_the_command_with_all_its_options() {
        let supervised = |line: &str| match parsed(line) {
            Ok(Request::Run(Command::Supervise(options))) => options,
            other => panic!("{line}: {other:?}"),
        };
        let words = |words: &[OsString]| words.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let own = supervised("supervise --config a.toml --pidfile p --status-file s");
        assert_eq!(words(&own.command)[1..], ["run", "--config", "a.toml"]);
        assert_eq!((own.hang_after, own.watchdog), (Some(supervision::HANG_AFTER), None));
        assert_eq!((own.pid_file, own.status_file), (Some("p".into()), Some("s".into())));
        for line in [
            "supervise --hang-after 7 --watchdog /dev/watchdog1 -- sh -c exit --config x",
            "supervise --watchdog=/dev/watchdog1 --hang-after=7 sh -c exit --config x",
        ] {
            let other = supervised(line);
            assert_eq!(words(&other.command), ["sh", "-c", "exit", "--config", "x"], "{line}");
            assert_eq!((other.hang_after, other.watchdog), (Some(Duration::from_secs(7)), Some("/dev/watchdog1".into())), "{line}");
        }
        assert_eq!(supervised("supervise --hang-after 0").hang_after, None);
        for line in ["supervise --hang-after soon", "supervise --json", "run --pidfile p", "supervise --watchdog"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn motion_takes_what_streamers_pass_to_their_scripts() {
        let of = |state, score| Ok(Request::Run(Command::Motion { config: DEFAULT_PATH.into(), state, score }));
        assert_eq!(parsed("motion"), of(None, 1.0));
        assert_eq!(parsed("motion start"), of(Some(MotionState::Start), 1.0));
        assert_eq!(parsed("motion stop 3"), of(Some(MotionState::Stop), 1.0));
        assert_eq!(parsed("motion 10 20 640 360"), of(None, 1.0));
        assert_eq!(parsed("motion --score 0.25 10.5 20 0 0"), of(None, 0.25));
        for line in
            ["motion begin", "motion --score 2", "motion --score NaN", "motion --score", "motion start stop", "motion --json", "run start"]
        {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn help_and_version_need_no_command() {
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
