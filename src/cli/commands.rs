//! The table of commands: everything that people can type, once. The parser takes its options from here, `--help` and
//! `help COMMAND` print it, and a test (`tests/reference`) makes the man page and the completions of shells from it.

use std::fmt::Write as _;

use super::fold;

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// What is typed.
    pub name: &'static str,
    /// Its arguments besides options, as in a synopsis; empty if it has none.
    pub arguments: &'static str,
    /// What it does, in a line that begins with a verb.
    pub purpose: &'static str,
    /// The rest of it: paragraphs with an empty line between them.
    pub text: &'static str,
    /// Its options besides `--help`.
    pub options: &'static [Opt],
    /// Command lines, and what each is for.
    pub examples: &'static [(&'static str, &'static str)],
    /// Its exit codes besides 0 and 64, and when it ends with each.
    pub exits: &'static [(u8, &'static str)],
}

/// One option.
#[derive(Debug, PartialEq, Eq)]
pub struct Opt {
    /// Its short form, if it has one.
    pub short: Option<char>,
    /// Its name, without dashes.
    pub long: &'static str,
    /// What follows it, as in a synopsis; empty if nothing does.
    pub value: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Opt {
    /// As in a synopsis: `-o, --output FILE`.
    fn written(&self) -> String {
        let short = self.short.map_or_else(String::new, |short| format!("-{short}, "));
        let space = if self.value.is_empty() { "" } else { " " };
        format!("{short}--{}{space}{}", self.long, self.value)
    }
}

const CONFIG: Opt =
    Opt { short: Some('c'), long: "config", value: "FILE", meaning: "The configuration; /etc/kasa-care-agent/config.toml unless given." };
const WRONG_CONFIG: (u8, &str) = (78, "The configuration is wrong; each fault is printed with its line.");

/// Every command, in the order in which people meet them.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "run",
        arguments: "",
        purpose: "Runs the service",
        text: "Follows the plan until SIGTERM or SIGINT. SIGHUP reloads the configuration and the certificates. \
               CARE_LOG=debug logs more; its levels are off, error, warn, info, debug and trace, also by module. \
               CARE_LOG_TO says where to: stderr, syslog or file:/PATH.",
        options: &[CONFIG],
        examples: &[
            ("kasa-care-agent run", "as the unit and the init script do"),
            ("CARE_LOG=info,kasa_care_agent::link=trace kasa-care-agent run", "with everything about the broker in the log"),
        ],
        exits: &[
            (70, "The agent stopped because of a fault, which is the last line of its log."),
            (78, "The configuration, a file that it names, or a variable of the environment is wrong."),
        ],
    },
    Command {
        name: "check-config",
        arguments: "",
        purpose: "Lists every fault of the configuration, and tries what it names",
        text: "Reads the configuration and every file that it names, and tries its sources, sockets and folders. It is safe \
               beside a running agent.",
        options: &[
            CONFIG,
            Opt { short: None, long: "connect", value: "", meaning: "Also try DNS, TCP, TLS, MQTT, the API and the clock, step by step." },
            Opt {
                short: None,
                long: "print",
                value: "",
                meaning: "Try nothing, and print the configuration in effect, each value with its origin. Secrets are hidden.",
            },
        ],
        examples: &[
            ("kasa-care-agent check-config", "after every change, before a reload"),
            (
                "kasa-care-agent check-config --connect",
                "when the camera does not reach the cloud: the first step that fails is the one to mend",
            ),
        ],
        exits: &[(70, "The configuration is good, and a step of --connect failed."), (78, "Something in it does not work.")],
    },
    Command {
        name: "status",
        arguments: "",
        purpose: "Prints what is wrong, then plan, link, uploads and camera",
        text: "Asks the running agent. Conditions come first, the gravest at the top, each with its advice; \
               `kasa-care-agent explain` has more about each.",
        options: &[
            CONFIG,
            Opt { short: None, long: "json", value: "", meaning: "Print /status.json as it is, for scripts." },
            Opt {
                short: None,
                long: "watch",
                value: "",
                meaning: "Stay, ask every second, and show the status again whenever it changes. Ctrl-C ends it.",
            },
        ],
        examples: &[
            ("kasa-care-agent status", "what the camera does now"),
            ("kasa-care-agent status --watch", "what a change of plan or network does to it"),
            ("kasa-care-agent status --json | jq -e '.conditions | all(.severity != \"error\")'", "whether anything is gravely wrong"),
        ],
        exits: &[(70, "No agent answers. If one does, the exit code is 0, whatever it says."), WRONG_CONFIG],
    },
    Command {
        name: "verify",
        arguments: "TOKEN-FILE",
        purpose: "Judges an entitlement as the camera would, field by field",
        text: "Uses the keyset, the record and the trusted time of this camera, and prints for each field what was expected \
               and what the token has. Changes nothing.",
        options: &[
            CONFIG,
            Opt { short: None, long: "keyset", value: "FILE", meaning: "Judge with this keyset instead of the one that the camera has." },
        ],
        examples: &[
            ("kasa-care-agent verify token.jws", "why the camera refuses a document"),
            ("kasa-care-agent verify --keyset keyset.jws token.jws", "before a cloud publishes both"),
        ],
        exits: &[(70, "The token is refused, or cannot be judged; the last line has the reason code."), WRONG_CONFIG],
    },
    Command {
        name: "explain",
        arguments: "[CODE]",
        purpose: "Says what a code means, and what to do about it",
        text: "Knows the conditions of status, the outcomes, reasons, causes and modes of reports, the reason codes of rejected \
               documents, what the API and the store answer, and exit codes. Without CODE it lists all of them.",
        options: &[],
        examples: &[
            ("kasa-care-agent explain wrong_audience", "the reason code of a rejected document"),
            ("kasa-care-agent explain 403", "an answer of the cloud"),
            ("kasa-care-agent explain 78", "an exit code"),
        ],
        exits: &[],
    },
    Command {
        name: "support",
        arguments: "",
        purpose: "Writes one archive for support",
        text: "A JSON document with status, timeline, order ids, the last errors and versions. It contains no key, token, account or \
               password. Works while the agent is down, too.",
        options: &[
            CONFIG,
            Opt {
                short: Some('o'),
                long: "output",
                value: "FILE",
                meaning: "Write to FILE, which only its owner may read; to standard output unless given.",
            },
        ],
        examples: &[("kasa-care-agent support --output case.json", "what to attach to a question")],
        exits: &[(70, "The file cannot be written."), WRONG_CONFIG],
    },
    Command {
        name: "factory-reset",
        arguments: "",
        purpose: "Erases clips, entitlement and traces of the account",
        text: "Stop the agent first. Afterwards the camera accepts only a binding with a higher epoch. Ratchet, keyset and trusted \
               time stay.",
        options: &[CONFIG],
        examples: &[("kasa-care-agent factory-reset", "before the camera gets another owner")],
        exits: &[(70, "The agent is running, or the state cannot be read or written; nothing is changed then."), WRONG_CONFIG],
    },
    Command {
        name: "motion",
        arguments: "[start|stop] [NUMBER…]",
        purpose: "Tells the running agent of motion",
        text: "For a streamer's motion script. Without start or stop it reports motion at this moment; start lasts until stop. \
               Numbers (a region) are accepted and have no effect.",
        options: &[CONFIG, Opt { short: None, long: "score", value: "N", meaning: "The detector's confidence, 0 to 1; 1 unless given." }],
        examples: &[("kasa-care-agent motion", "motion now"), ("kasa-care-agent motion start", "motion begins")],
        exits: &[
            (70, "No agent listens, or it does not answer within two seconds."),
            (78, "The configuration is wrong, or [media] motion is no socket."),
        ],
    },
    Command {
        name: "supervise",
        arguments: "[--] [COMMAND…]",
        purpose: "Runs the service where no systemd does, and restarts it",
        text: "Runs COMMAND, by default `kasa-care-agent run`: starts it again after growing pauses when it ends, and kills it when \
               it hangs. Options stand before COMMAND.",
        options: &[
            Opt {
                short: Some('c'),
                long: "config",
                value: "FILE",
                meaning: "The configuration of `kasa-care-agent run`, where COMMAND is not given.",
            },
            Opt {
                short: None,
                long: "hang-after",
                value: "SECONDS",
                meaning: "Kill COMMAND without a sign of progress for this long; 30 unless given, 0: never.",
            },
            Opt { short: None, long: "watchdog", value: "PATH", meaning: "A watchdog device or file, kept by COMMAND's progress alone." },
            Opt { short: None, long: "pidfile", value: "FILE", meaning: "Holds the process id, and a lock." },
            Opt {
                short: None,
                long: "status-file",
                value: "FILE",
                meaning: "Holds one line: what runs, how often and why it was restarted.",
            },
        ],
        examples: &[
            ("kasa-care-agent supervise --status-file /run/kasa-care-agent.status", "as a line of /etc/inittab"),
            ("kasa-care-agent supervise --watchdog /dev/watchdog1", "where nobody else keeps that watchdog"),
        ],
        exits: &[(70, "It cannot start, or another supervisor holds the pidfile."), (78, "COMMAND ended with 78, which no restart mends.")],
    },
    Command {
        name: "help",
        arguments: "[COMMAND]",
        purpose: "Prints this overview, or everything about a command",
        text: "The same as --help after the command.",
        options: &[],
        examples: &[("kasa-care-agent help verify", "options, examples and exit codes of verify")],
        exits: &[],
    },
];

/// The command of this name.
pub(super) fn named(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

impl Command {
    /// Its synopsis: `kasa-care-agent verify [OPTIONS] TOKEN-FILE`.
    pub fn synopsis(&self) -> String {
        let options = if self.options.is_empty() { "" } else { " [OPTIONS]" };
        let space = if self.arguments.is_empty() { "" } else { " " };
        format!("kasa-care-agent {}{options}{space}{}", self.name, self.arguments)
    }

    /// Everything about it.
    pub(super) fn help(&self) -> String {
        let mut help = format!("{}\n\n  {}\n\n{}\n", self.purpose, self.synopsis(), fold::paragraphs(self.text, 0));
        if !self.options.is_empty() {
            help += "\nOptions:\n";
        }
        for option in self.options {
            help += &fold::beside(&format!("  {}", option.written()), option.meaning, 24);
        }
        help += "\nExamples:\n";
        for (line, shows) in self.examples {
            // Writing to a string cannot fail.
            let _ = writeln!(help, "  {line}\n{}", fold::paragraphs(shows, 6));
        }
        help += "\nExit codes:\n";
        for (code, when) in [(0, "Done."), (64, "The command line is wrong.")].iter().chain(self.exits) {
            help += &fold::beside(&format!("  {code}"), when, 6);
        }
        help
    }
}

/// The overview of all commands.
pub(super) fn overview() -> String {
    let mut help = "kasa-care-agent: switches a camera's cloud upload with its Care plan, at once\n\n".to_owned();
    for command in COMMANDS {
        help += &fold::beside(&format!("  {}", command.name), command.purpose, 17);
    }
    help += "\nkasa-care-agent COMMAND --help has its options, examples and exit codes;\nkasa-care-agent --version prints the version.\n";
    help
}
