//! Parses the command line into a request, or refuses it. It runs nothing.

use std::{env, ffi::OsString, path::PathBuf, time::Duration};

use care_protocol::MotionState;
use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};

use super::{
    check::Extent,
    commands::{self, COMMANDS},
    status::Form,
};
use crate::{config::DEFAULT_PATH, supervision};

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    /// Of one command, or of all.
    Help(Option<&'static commands::Command>),
    Version,
    Run(Command),
}

/// One command with its arguments.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Run { config: PathBuf },
    CheckConfig { config: PathBuf, extent: Extent },
    Status { config: PathBuf, form: Form },
    Verify { config: PathBuf, token: PathBuf, keyset: Option<PathBuf> },
    Explain { code: Option<String> },
    Support { config: PathBuf, output: Option<PathBuf> },
    FactoryReset { config: PathBuf },
    Motion { config: PathBuf, state: Option<MotionState>, score: f64 },
    Supervise(supervision::Options),
}

/// Parses a command line, given without the program's name.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request, lexopt::Error> {
    let mut parser = Parser::from_args(args);
    let (mut command, mut config, mut keyset, mut output) = (None::<&commands::Command>, None, None, None);
    let (mut token, mut code, mut topic) = (None, None, None);
    let mut extent = Extent::Camera;
    let mut form = Form::Words;
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
        let of = |wanted: &str| command.is_some_and(|command| command.name == wanted);
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help(command)),
            Short('V') | Long("version") => return Ok(Request::Version),
            Short('c') | Long("config") => config = Some(PathBuf::from(parser.value()?)),
            Long("connect") if of("check-config") && extent != Extent::Print => extent = Extent::Cloud,
            Long("print") if of("check-config") && extent != Extent::Cloud => extent = Extent::Print,
            Long("json") if of("status") && form != Form::Watch => form = Form::Json,
            Long("watch") if of("status") && form != Form::Json => form = Form::Watch,
            Long("keyset") if of("verify") => keyset = Some(PathBuf::from(parser.value()?)),
            Short('o') | Long("output") if of("support") => output = Some(PathBuf::from(parser.value()?)),
            Long("score") if of("motion") => score = confidence(&parser.value()?)?,
            Value(word) if of("motion") => match word.to_str() {
                Some("start") if state.is_none() => state = Some(MotionState::Start),
                Some("stop") if state.is_none() => state = Some(MotionState::Stop),
                // Where in the picture: streamers tell it, and a clip has no use for it.
                Some(word) if number(word).is_some() => {}
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
            Value(name) if command.is_none() => command = Some(command_of(name)?),
            Value(name) if of("help") && topic.is_none() => topic = Some(command_of(name)?),
            Value(word) if of("explain") && code.is_none() => code = Some(word.string()?),
            Value(file) if of("verify") && token.is_none() => token = Some(PathBuf::from(file)),
            other => return Err(other.unexpected()),
        }
    }
    let Some(command) = command else { return Err(format!("a command is missing; there are {}", names()).into()) };
    // It may stand before the command, so it is judged only now.
    if config.is_some() && !command.options.iter().any(|option| option.long == "config") {
        return Err(format!("{} reads no configuration", command.name).into());
    }
    let config = config.unwrap_or_else(|| DEFAULT_PATH.into());
    let command = match command.name {
        "help" => return Ok(Request::Help(topic)),
        "run" => Command::Run { config },
        "check-config" => Command::CheckConfig { config, extent },
        "status" => Command::Status { config, form },
        "verify" => Command::Verify { config, token: token.ok_or("verify needs a TOKEN-FILE")?, keyset },
        "support" => Command::Support { config, output },
        "motion" => Command::Motion { config, state, score },
        "supervise" => {
            if supervised.command.is_empty() {
                supervised.command = vec![own_program(), "run".into(), "--config".into(), config.into()];
            }
            Command::Supervise(supervised)
        }
        "explain" => Command::Explain { code },
        _ => Command::FactoryReset { config },
    };
    Ok(Request::Run(command))
}

fn command_of(name: OsString) -> Result<&'static commands::Command, lexopt::Error> {
    let name = name.string()?;
    commands::named(&name).ok_or_else(|| format!("{name:?} is not a command; there are {}", names()).into())
}

fn names() -> String {
    COMMANDS.iter().map(|command| command.name).collect::<Vec<_>>().join(", ")
}

/// A score from 0 to 1.
fn confidence(value: &OsString) -> Result<f64, lexopt::Error> {
    let score = value.to_str().and_then(number).filter(|score| (0.0..=1.0).contains(score));
    score.ok_or_else(|| format!("--score {} is not a number from 0 to 1", value.display()).into())
}

/// A decimal number, also one that begins with its point. JSON's parser is in the program anyway; that of the standard library has a
/// table of 10 KB.
fn number(text: &str) -> Option<f64> {
    let zero = if text.starts_with('.') { "0" } else { "" };
    serde_json::from_slice(format!("{zero}{text}").as_bytes()).ok()
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
            ("check-config", Command::CheckConfig { config: default(), extent: Extent::Camera }),
            ("check-config --connect -c x", Command::CheckConfig { config: "x".into(), extent: Extent::Cloud }),
            ("check-config --print", Command::CheckConfig { config: default(), extent: Extent::Print }),
            ("status", Command::Status { config: default(), form: Form::Words }),
            ("status --watch", Command::Status { config: default(), form: Form::Watch }),
            ("status --json", Command::Status { config: default(), form: Form::Json }),
            ("verify t.jws", Command::Verify { config: default(), token: "t.jws".into(), keyset: None }),
            ("verify --keyset k t", Command::Verify { config: default(), token: "t".into(), keyset: Some("k".into()) }),
            ("support", Command::Support { config: default(), output: None }),
            ("support --output s.json", Command::Support { config: default(), output: Some("s.json".into()) }),
            ("factory-reset", Command::FactoryReset { config: default() }),
        ];
        for (line, command) in cases {
            assert_eq!(parsed(line), Ok(Request::Run(command)), "{line}");
        }
    }

    #[test]
    fn help_is_of_the_command_before_it_or_of_all() {
        for command in COMMANDS {
            let of_it = Ok(Request::Help(Some(command)));
            assert_eq!(parsed(&format!("{} --help", command.name)), of_it);
            assert_eq!(parsed(&format!("--config x {} -h", command.name)), of_it);
            assert_eq!(parsed(&format!("help {}", command.name)), of_it);
        }
        for line in ["--help", "-h", "help", "--help status"] {
            assert_eq!(parsed(line), Ok(Request::Help(None)), "{line}");
        }
        for line in ["help dance", "help status verify", "help --config x", "--config x explain"] {
            assert!(parsed(line).is_err(), "{line}");
        }
        // After COMMAND of supervise it belongs to that.
        assert!(matches!(parsed("supervise sh --help"), Ok(Request::Run(Command::Supervise(_)))));
    }

    #[test]
    fn each_command_takes_exactly_the_options_of_its_entry() {
        let every: Vec<_> = COMMANDS.iter().flat_map(|command| command.options).collect();
        for command in COMMANDS {
            let arguments = if command.name == "verify" { "token" } else { "" };
            for option in &every {
                let value = match option.value {
                    "" => "",
                    "N" | "SECONDS" => "1",
                    _ => "x",
                };
                let known = command.options.iter().any(|own| own.long == option.long && own.short == option.short);
                for written in [Some(format!("--{}", option.long)), option.short.map(|short| format!("-{short}"))].into_iter().flatten() {
                    let line = format!("{} {written} {value} {arguments}", command.name);
                    assert_eq!(parsed(&line).is_ok(), known, "{line}");
                    // A value is wanted exactly where the entry has one.
                    if known {
                        let last = format!("{} {arguments} {written}", command.name);
                        assert_eq!(parsed(&last).is_ok(), value.is_empty(), "{last}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_parser_knows_no_option_that_no_entry_has() {
        let source = include_str!("args.rs");
        let (parser, _) = source.split_once("#[cfg(test)]").unwrap();
        let named = parser.split("Long(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let known = |name: &&str| COMMANDS.iter().flat_map(|command| command.options).any(|option| option.long == *name);
        let unknown: Vec<_> = named.filter(|name| !known(name) && !["help", "version"].contains(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    #[test]
    fn every_example_is_a_command_line_of_its_command() {
        for command in COMMANDS {
            for (line, _) in command.examples {
                let (_, typed) = line.split_once("kasa-care-agent ").unwrap();
                let typed = typed.split(" | ").next().unwrap();
                assert!(typed.starts_with(command.name) && parsed(typed).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn codes_are_explained_one_at_a_time() {
        assert_eq!(parsed("explain"), Ok(Request::Run(Command::Explain { code: None })));
        assert_eq!(parsed("explain held"), Ok(Request::Run(Command::Explain { code: Some("held".into()) })));
        assert!(parsed("explain held stale").is_err());
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
        assert_eq!(parsed("motion --score 0.25 10.5 20 0 .5"), of(None, 0.25));
        assert_eq!(parsed("motion start --score .5"), of(Some(MotionState::Start), 0.5));
        for line in [
            "motion begin",
            "motion --score 2",
            "motion --score NaN",
            "motion --score 1x",
            "motion --score",
            "motion start stop",
            "motion --json",
            "run start",
        ] {
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
            "check-config --print --connect",
            "status --json --watch",
            "status --watch --json",
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
