//! `status`: prints what the running agent says of itself, in words or, with `--json`, its document unchanged. It exits with 0
//! whenever the agent answers, even if something is wrong; scripts should read `conditions` in the document. `--watch` goes on
//! until it is interrupted, or nobody reads it any more.

use std::{
    io::{self, Write},
    thread,
    time::Duration,
};

use anyhow::bail;

use super::{Exit, screen::Screen};
use crate::{
    config::Listen,
    status::{AskError, ask},
};

/// How often `--watch` asks.
const EVERY: Duration = Duration::from_secs(1);

/// What `status` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Words, once.
    Words,
    /// The document.
    Json,
    /// Words, again whenever they change.
    Watch,
}

pub(super) fn run(listen: Option<&Listen>, form: Form, out: &mut dyn Write, err: &mut dyn Write, screen: Screen) -> anyhow::Result<Exit> {
    let Some(listen) = listen else {
        bail!("the configuration has no [status]: give it listen = \"127.0.0.1:9180\" and start the agent again");
    };
    match form {
        Form::Json => out.write_all(&ask(listen, "/status.json")?)?,
        Form::Words => out.write_all(screen.colour(&words(listen)?).as_bytes())?,
        Form::Watch => {
            let mut watch = Watch { out, err, screen, shown: String::new(), fault: String::new() };
            loop {
                watch.show(words(listen))?;
                thread::sleep(EVERY);
            }
        }
    }
    Ok(Exit::Done)
}

fn words(listen: &Listen) -> Result<String, AskError> {
    ask(listen, "/status.txt").map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// What stands on the screen, or was printed last.
struct Watch<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    screen: Screen,
    /// On a terminal the last words, elsewhere what in them is steady.
    shown: String,
    /// Why the agent did not answer last, if it did not.
    fault: String,
}

impl Watch<'_> {
    fn show(&mut self, answer: Result<String, AskError>) -> io::Result<()> {
        match self.screen {
            Screen::None => self.print(answer),
            Screen::Plain | Screen::Coloured => self.draw(answer, Screen::size()),
        }
    }

    /// Prints the words if more than the time has changed.
    fn print(&mut self, answer: Result<String, AskError>) -> io::Result<()> {
        match answer {
            Ok(words) => {
                let steady: String = words.lines().map(|line| self::steady(line) + "\n").collect();
                if steady != self.shown || !self.fault.is_empty() {
                    let gap = if self.shown.is_empty() { "" } else { "\n" };
                    write!(self.out, "{gap}{words}")?;
                    self.out.flush()?;
                    (self.shown, self.fault) = (steady, String::new());
                }
            }
            Err(why) => {
                let why = why.to_string();
                if why != self.fault {
                    writeln!(self.err, "{why}; trying again")?;
                    self.fault = why;
                }
            }
        }
        Ok(())
    }

    /// Overwrites the screen from its top, in one write and without clearing it first, so that nothing flickers.
    fn draw(&mut self, answer: Result<String, AskError>, size: (usize, usize)) -> io::Result<()> {
        let mut frame = String::new();
        match answer {
            Ok(words) => self.shown = words,
            Err(why) => {
                frame = format!("error        {why}; trying again\n");
                if !self.shown.is_empty() {
                    frame += "\nBefore that:\n\n";
                }
            }
        }
        let fitting = self.screen.colour(&Screen::fit(&(frame + &self.shown), size));
        let lines: String = fitting.lines().map(|line| format!("{line}\x1b[K\r\n")).collect();
        self.out.write_all(format!("\x1b[H{lines}\x1b[J").as_bytes())?;
        self.out.flush()
    }
}

/// A line without what changes from one second to the next although nothing happens: times, and counters of frames.
fn steady(line: &str) -> String {
    let (name, value) = line.split_at_checked(12).unwrap_or((line, ""));
    let value = match name.trim_end() {
        "clock" => value.split_once(", ").map_or(value, |(_, confirmed)| confirmed).to_owned(),
        "agent" => value.split(", up ").next().unwrap_or_default().to_owned(),
        // Seconds, minutes, hours: all of it counts down.
        "lease" => {
            if value.ends_with(" left") {
                "runs".to_owned()
            } else {
                value.to_owned()
            }
        }
        "camera" | "low stream" => value.split(", ").filter(|part| !part.ends_with(" frames")).collect(),
        "SD card" => value.split(", ").skip(2).collect(),
        // Its beginning moves with the clock.
        "error" | "warning" => match value.split_once(" since ") {
            Some((condition, rest)) => format!("{condition}{}", rest.split_once(": ").map_or(rest, |(_, sentence)| sentence)),
            None => value.to_owned(),
        },
        _ => value.to_owned(),
    };
    format!("{name}{value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "\
warning      held since 2026-01-01T00:00:00Z: paid media waits
             It ends when the broker answers.
mode         held
lease        47 h left
camera       rtsp://camera/live, 640×360 H.264, 120 frames, 0 lost
SD card      1.2 MB, 120 frames, 0 lost, 0 files made room
clock        2026-01-01T00:00:05Z, confirmed
agent        0.1.0, up 5 s
";

    fn unreachable() -> Result<String, AskError> {
        Err(AskError::Slow { at: "127.0.0.1:9180".into() })
    }

    fn watched(screen: Screen, answers: Vec<Result<String, AskError>>) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut watch = Watch { out: &mut out, err: &mut err, screen, shown: String::new(), fault: String::new() };
        for answer in answers {
            match screen {
                Screen::None => watch.show(answer).unwrap(),
                _ => watch.draw(answer, (80, 24)).unwrap(),
            }
        }
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn changed(from: &str, to: &str) -> Result<String, AskError> {
        assert!(WORDS.contains(from), "{from}");
        Ok(WORDS.replace(from, to))
    }

    #[test]
    fn a_file_gets_the_words_again_only_when_more_than_the_time_has_changed() {
        for (from, to) in [
            ("00:05Z", "00:06Z"),
            ("up 5 s", "up 6 s"),
            ("120 frames", "135 frames"),
            ("47 h", "46 h"),
            ("1.2 MB", "1.3 MB"),
            ("since 2026", "since 2027"),
        ] {
            assert_eq!(watched(Screen::None, vec![Ok(WORDS.into()), changed(from, to)]).0, WORDS, "{to}");
        }
        for (from, to) in [
            ("mode         held", "mode         paid"),
            ("0 lost", "1 lost"),
            ("Z, confirmed", "Z, not confirmed since boot"),
            ("waits", "waits since the start"),
            ("47 h left", "ended"),
            ("0.1.0", "0.2.0"),
            ("0 files", "1 files"),
        ] {
            let new = WORDS.replace(from, to);
            assert_eq!(watched(Screen::None, vec![Ok(WORDS.into()), changed(from, to)]).0, format!("{WORDS}\n{new}"), "{to}");
        }
    }

    #[test]
    fn an_agent_that_does_not_answer_is_said_once_and_asked_again() {
        let (out, err) = watched(Screen::None, vec![unreachable(), unreachable(), Ok(WORDS.into()), unreachable(), Ok(WORDS.into())]);
        assert_eq!(out, format!("{WORDS}\n{WORDS}"), "its return is worth telling");
        assert_eq!(err.matches("did not answer within 5 s; see its log; trying again\n").count(), 2, "{err}");
        assert_eq!(err.lines().count(), 2);
    }

    #[test]
    fn a_terminal_is_drawn_over_from_its_top_without_being_cleared() {
        let (out, _) = watched(Screen::Coloured, vec![Ok(WORDS.into()), unreachable(), Ok("mode         paid\n".into())]);
        let frames: Vec<_> = out.split("\x1b[H").skip(1).collect();
        assert_eq!(frames.len(), 3);
        assert!(!out.contains("\x1b[2J") && frames.iter().all(|frame| frame.ends_with("\x1b[J")), "{out:?}");
        assert!(
            frames[0].starts_with("\x1b[1;33mwarning\x1b[0m      held since") && frames[0].contains("mode         held\x1b[K\r\n"),
            "{out:?}"
        );
        assert!(frames[1].starts_with("\x1b[1;31merror\x1b[0m        the agent at") && frames[1].contains("mode         held"), "{out:?}");
        assert_eq!(frames[2], "mode         paid\x1b[K\r\n\x1b[J", "what was longer is gone");
        assert!(!watched(Screen::Plain, vec![Ok(WORDS.into())]).0.contains("\x1b[1;"));
    }
}
