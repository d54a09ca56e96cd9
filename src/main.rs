//! `kasa-care-agent`: the command line is the program; see [`kasa_care_agent::cli`].

use std::{env, io, process::ExitCode};

use kasa_care_agent::cli::{self, Screen};

fn main() -> ExitCode {
    // Not locked: the service logs to standard error from other threads meanwhile.
    cli::run(env::args_os().skip(1), &mut io::stdout(), &mut io::stderr(), Screen::of_stdout()).into()
}
