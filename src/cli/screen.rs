//! What standard output is: a terminal that can be coloured, one that shall not be (`NO_COLOR`, see no-color.org), or no
//! terminal, where commands write nothing but their text. Only the word at the start of a line is coloured, and it is a
//! word without its colour, too.

use std::{
    env,
    io::{IsTerminal, stdout},
};

use rustix::termios::tcgetwinsize;

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    /// A file, a pipe, or a terminal that can only print.
    None,
    /// A terminal without colours.
    Plain,
    /// A terminal with colours.
    Coloured,
}

impl Screen {
    /// That of this process.
    pub fn of_stdout() -> Self {
        let term = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        match stdout().is_terminal() && !term {
            false => Self::None,
            true if env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => Self::Plain,
            true => Self::Coloured,
        }
    }

    /// The text, each line with its first word in the colour of that word.
    pub(super) fn colour(self, text: &str) -> String {
        match self {
            Self::None | Self::Plain => text.to_owned(),
            Self::Coloured => text.split_inclusive('\n').map(coloured).collect(),
        }
    }

    /// The part of a text that fits, from its top, with a mark if something is left out. The size is in columns and rows.
    pub(super) fn fit(text: &str, (columns, rows): (usize, usize)) -> String {
        let takes = |line: &str| line.chars().count().div_ceil(columns.max(1)).max(1);
        // The last row holds the cursor.
        let room = rows.saturating_sub(1);
        if text.lines().map(takes).sum::<usize>() <= room {
            return text.to_owned();
        }
        let mut left = room.saturating_sub(1);
        let mut fits = |line: &&str| left.checked_sub(takes(line)).map(|rest| left = rest).is_some();
        text.lines().take_while(|line| fits(line)).chain(["…"]).map(|line| format!("{line}\n")).collect()
    }

    /// Columns and rows of the terminal now; without bounds if it does not tell.
    pub(super) fn size() -> (usize, usize) {
        let told = tcgetwinsize(stdout()).ok().filter(|size| size.ws_row > 0 && size.ws_col > 0);
        told.map_or((usize::MAX, usize::MAX), |size| (size.ws_col.into(), size.ws_row.into()))
    }
}

fn coloured(line: &str) -> String {
    let word = line.split([' ', '\n']).next().unwrap_or_default();
    let colour = match word {
        "error" | "failed" => "31",
        "warning" => "33",
        "ok" => "32",
        _ => return line.to_owned(),
    };
    format!("\x1b[1;{colour}m{word}\x1b[0m{}", &line[word.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_with_colours_is_coloured_and_only_the_first_word() {
        let text = "error        stream: no error\nmode         paid\nwarning      held\n";
        assert_eq!([Screen::None, Screen::Plain].map(|screen| screen.colour(text)), [text; 2]);
        let coloured = Screen::Coloured.colour(text);
        assert_eq!(coloured, "\x1b[1;31merror\x1b[0m        stream: no error\nmode         paid\n\x1b[1;33mwarning\x1b[0m      held\n");
    }

    #[test]
    fn what_does_not_fit_is_left_out_at_the_end() {
        assert_eq!(Screen::fit("a\nb\nc\n", (80, 24)), "a\nb\nc\n");
        assert_eq!(Screen::fit("a\nb\nc\n", (80, 4)), "a\nb\nc\n");
        assert_eq!(Screen::fit("a\nb\nc\nd\n", (80, 4)), "a\nb\n…\n");
        let long = format!("{}\nb\nc\n", "x".repeat(81));
        assert_eq!(Screen::fit(&long, (80, 5)), long);
        assert_eq!(Screen::fit(&long, (80, 4)), format!("{}\n…\n", "x".repeat(81)));
        assert_eq!(Screen::fit("a\nb\n", (usize::MAX, usize::MAX)), "a\nb\n");
    }
}
