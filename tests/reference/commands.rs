//! The commands for `clap`, which writes completions for bash, zsh and fish. The agent does not have it: it is too large
//! for a camera.

use clap::{Arg, ArgAction, Command, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};
use kasa_care_agent::cli::{
    code_names,
    commands::{COMMANDS, Opt},
};

use crate::{check_or_write, objections};

/// The whole command line.
pub fn program() -> Command {
    let about = "Switches a camera's cloud upload with its Care plan, at once";
    let mut program = Command::new("kasa-care-agent").version(env!("CARGO_PKG_VERSION")).about(about).disable_help_subcommand(true);
    for command in COMMANDS {
        let mut sub = Command::new(command.name).about(command.purpose).long_about(command.text).args(command.options.iter().map(option));
        for word in command.arguments.split_whitespace().filter(|word| *word != "[--]") {
            sub = sub.arg(argument(command.name, word));
        }
        program = program.subcommand(sub);
    }
    program
}

fn option(option: &Opt) -> Arg {
    let arg = Arg::new(option.long).long(option.long).short(option.short).help(option.meaning);
    match option.value {
        "" => arg.action(ArgAction::SetTrue),
        value @ ("FILE" | "PATH") => arg.value_name(value).value_hint(ValueHint::FilePath),
        value => arg.value_name(value),
    }
}

/// An argument, by the word of the synopsis: `TOKEN-FILE`, `[start|stop]`, `[NUMBER…]`.
fn argument(command: &str, word: &'static str) -> Arg {
    let name = word.trim_matches(['[', ']']);
    let arg = Arg::new(name).required(name == word);
    match name.strip_suffix('…') {
        Some(_) if command == "supervise" => {
            arg.num_args(0..).trailing_var_arg(true).allow_hyphen_values(true).value_hint(ValueHint::CommandWithArguments)
        }
        Some(_) => arg.num_args(0..),
        None if name.contains('|') => arg.value_parser(PossibleValuesParser::new(name.split('|'))),
        None if name == "CODE" => arg.value_parser(PossibleValuesParser::new(code_names())),
        None if name == "COMMAND" => arg.value_parser(PossibleValuesParser::new(COMMANDS.iter().map(|command| command.name))),
        None => arg.value_hint(ValueHint::FilePath),
    }
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    generate(shell, &mut program(), "kasa-care-agent", &mut text);
    // Bash's functions of subcommands are found by one name and called by another where the program's has hyphens
    // (clap_complete 4.6); nothing below the first word would be completed.
    String::from_utf8(text).unwrap().replace("kasa__subcmd__care__subcmd__agent", "kasa__care__agent")
}

#[test]
fn the_completions_are_those_of_the_table() {
    program().debug_assert();
    check_or_write("completions/kasa-care-agent.bash", &completions(Shell::Bash));
    check_or_write("completions/_kasa-care-agent", &completions(Shell::Zsh));
    check_or_write("completions/kasa-care-agent.fish", &completions(Shell::Fish));
}

#[test]
fn bash_reads_its_completions_and_completes_with_them() {
    let script = completions(Shell::Bash);
    assert_eq!(objections("bash", &["-n"], &script), "");
    assert_ne!(objections("bash", &["-n"], &format!("{script}\nif")), "", "bash notices what is wrong");
    let function = script.lines().find_map(|line| line.trim().strip_prefix("complete -F ")?.split(' ').next()).unwrap();
    // As bash does after a tab: the words, and which of them is to be completed.
    let complete = |words: &str, wanted: &str| {
        let count = words.split(' ').count() - 1;
        let test = format!(
            "{script}\nCOMP_WORDS=({words})\nCOMP_CWORD={count}\n{function} kasa-care-agent \"${{COMP_WORDS[{count}]}}\" \
             \"${{COMP_WORDS[{}]}}\"\ncase \" ${{COMPREPLY[*]}} \" in *' {wanted} '*) ;; *) echo \"${{COMPREPLY[*]}}\" >&2 ;; esac\n",
            count - 1
        );
        assert_eq!(objections("bash", &["--norc"], &test), "", "{words}: {wanted}");
    };
    complete("kasa-care-agent sta", "status");
    complete("kasa-care-agent status --w", "--watch");
    complete("kasa-care-agent explain wrong_a", "wrong_audience");
    complete("kasa-care-agent motion sta", "start");
    complete("kasa-care-agent help ver", "verify");
}

#[test]
fn zsh_and_fish_read_their_completions() {
    for (shell, program, args) in
        [(Shell::Zsh, "zsh", &["-f", "-n"][..]), (Shell::Fish, "fish", &["--no-config", "--no-execute", "/dev/stdin"])]
    {
        let script = completions(shell);
        assert_eq!(objections(program, args, &script), "");
        assert_ne!(objections(program, args, &format!("{script}\nif true\n")), "", "{program} notices what is wrong");
    }
}

#[test]
fn fish_completes_with_its_completions() {
    let script = completions(Shell::Fish);
    let complete = |words: &str, wanted: &str| {
        let test =
            format!("{script}\nset found (complete -C '{words}')\nstring match -q -- '{wanted}*' $found; or echo $found >&2; or true\n");
        assert_eq!(objections("fish", &["--no-config"], &test), "", "{words}: {wanted}");
    };
    complete("kasa-care-agent sta", "status");
    complete("kasa-care-agent status --w", "--watch");
    complete("kasa-care-agent run --conf", "--config");
}
