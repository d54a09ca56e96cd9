//! The man pages. `clap_mangen` writes the head of kasa-care-agent(1), and the table of commands the rest: everything is on one
//! page, with the examples and exit codes that clap does not know.

use clap_mangen::Man;
use kasa_care_agent::cli::commands::COMMANDS;
use roff::{Inline, Roff, bold, italic, roman};

use crate::{check_or_write, commands::program, objections};

/// Paragraphs, with what stands between backticks in bold.
fn paragraphs(page: &mut Roff, text: &str) {
    for (number, paragraph) in text.split("\n\n").enumerate() {
        if number > 0 {
            page.control("PP", []);
        }
        page.text(marked(paragraph));
    }
}

/// Words with what stands between backticks in bold.
pub fn marked(text: &str) -> Vec<Inline> {
    text.split('`').enumerate().map(|(number, part)| if number % 2 == 1 { bold(part) } else { roman(part) }).collect()
}

fn commands_page() -> String {
    let program = program();
    let mut head = Vec::new();
    let man = Man::new(program).manual("Kasa Care agent");
    man.render_title(&mut head).unwrap();
    man.render_name_section(&mut head).unwrap();

    let mut page = Roff::new();
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("kasa-care-agent"), roman(" "), italic("COMMAND"), roman(" [OPTIONS] [ARGUMENTS]")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text(marked(
        "The agent follows the signed plan of a camera, which it receives over MQTT, and opens or closes the upload of its clips at once. \
         `run` is the service; the other commands ask it, or look at its files. Every command has `--help`.",
    ));
    page.control("SH", ["COMMANDS"]);
    for command in COMMANDS {
        page.control("SS", [command.name]);
        page.text([roman(command.synopsis())]);
        page.control("PP", []);
        page.text([roman(format!("{}.", command.purpose))]);
        page.control("PP", []);
        paragraphs(&mut page, command.text);
        for option in command.options {
            page.control("TP", []);
            let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
            let space = if option.value.is_empty() { "" } else { " " };
            page.text([bold(format!("{short}--{}{space}", option.long)), italic(option.value)]);
            page.text(marked(option.meaning));
        }
        for (line, shows) in command.examples {
            page.control("TP", []);
            page.text([roman("Example: "), bold(*line)]);
            page.text([roman(*shows)]);
        }
        for (code, when) in command.exits {
            page.control("TP", []);
            page.text([roman("Exit code "), bold(code.to_string())]);
            page.text([roman(*when)]);
        }
    }
    page.control("SH", ["EXIT STATUS"]);
    page.text(marked("`0` done, `64` the command line is wrong, `70` it could not be done, `78` the configuration is wrong."));
    page.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in [
        ("CARE_LOG", "how much `run` and `supervise` log: off, error, warn, info, debug or trace, also by module"),
        ("CARE_LOG_TO", "where to: stderr, syslog, syslog:/PATH or file:/PATH"),
        ("CARE_LOG_BYTES", "the bound of a log file, bytes"),
        ("NO_COLOR", "set: no colours on a terminal; elsewhere there are none anyway"),
    ] {
        page.control("TP", []);
        page.text([bold(variable)]);
        page.text(marked(meaning));
    }
    page.control("SH", ["FILES"]);
    page.control("TP", []);
    page.text([bold(kasa_care_agent::config::DEFAULT_PATH)]);
    page.text([roman("the configuration")]);
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("kasa-care-agent.toml"), roman("(5)")]);
    String::from_utf8(head).unwrap() + &page.render()
}

/// Checks that groff, which man(1) uses, has nothing to object to.
pub fn is_good_manual(page: &str) {
    let judge = |page: &str| objections("groff", &["-man", "-ww", "-z", "-Tutf8", "-Kutf8"], page);
    assert_eq!(judge(page), "");
    assert_ne!(judge(&format!("{page}\n.nosuchmacro\n")), "", "groff notices what is wrong");
}

#[test]
fn the_man_page_of_the_commands_is_that_of_the_table() {
    let page = commands_page();
    is_good_manual(&page);
    check_or_write("man/kasa-care-agent.1", &page);
}
