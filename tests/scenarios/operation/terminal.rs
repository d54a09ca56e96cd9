//! What a person sees at a terminal: `status --watch` on a pseudo-terminal whose screen a terminal emulator (the crate
//! `vt100`) draws.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    wait::{PATIENCE, until},
    world::World,
};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use vt100::{Color, Parser, Screen};

/// A command at a terminal of its own.
struct Terminal {
    command: Child,
    keyboard: File,
    screen: Arc<Mutex<Parser>>,
}

impl Terminal {
    /// Runs a command of the agent's on a terminal of this size.
    fn run(agent: &Agent, arguments: &[&str], (columns, rows): (u16, u16), environment: &[(&str, &str)]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let name = ptsname(&keyboard, Vec::new()).unwrap().into_string().unwrap();
        // `setsid --ctty` makes its standard input its terminal, so that Ctrl-C reaches it.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(&agent.program).args(arguments).arg("--config").arg(agent.config_path());
        command.env_remove("NO_COLOR").env("TERM", "xterm").envs(environment.iter().copied());
        let device = File::options().read(true).write(true).open(name).unwrap();
        let (out, err) = (device.try_clone().unwrap(), device.try_clone().unwrap());
        command.stdin(Stdio::from(device)).stdout(Stdio::from(out)).stderr(Stdio::from(err));
        let screen = Arc::new(Mutex::new(Parser::new(rows, columns, 0)));
        let keyboard = File::from(keyboard);
        // Before anything runs on it.
        tcsetwinsize(&keyboard, size((columns, rows))).unwrap();
        let terminal = Self { command: command.spawn().unwrap(), keyboard, screen: screen.clone() };
        let mut shown = terminal.keyboard.try_clone().unwrap();
        // Ends with the last process that has the terminal.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = shown.read(&mut bytes) {
                screen.lock().unwrap().process(&bytes[..length]);
            }
        });
        terminal
    }

    fn resize(&self, (columns, rows): (u16, u16)) {
        self.screen.lock().unwrap().screen_mut().set_size(rows, columns);
        tcsetwinsize(&self.keyboard, size((columns, rows))).unwrap();
    }

    fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen satisfies `wanted`.
    async fn shows(&self, what: &str, wanted: impl Fn(&Screen) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(self.screen.lock().unwrap().screen()) {
            assert!(Instant::now() < deadline, "the screen does not show {what}:\n{}", self.contents());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Presses Ctrl-C and returns how the command ended.
    async fn interrupt(mut self) -> ExitStatus {
        self.keyboard.write_all(b"\x03").unwrap();
        until("the end of the command", PATIENCE, || self.command.try_wait().unwrap()).await
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

fn size((columns, rows): (u16, u16)) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// The number of the row that begins with this word.
fn row(screen: &Screen, word: &str) -> Option<u16> {
    let (_, columns) = screen.size();
    (0..).zip(screen.rows(0, columns)).find(|(_, row)| row.starts_with(word)).map(|(number, _)| number)
}

/// Whether a row begins with this word, in this colour.
fn has(screen: &Screen, word: &str, colour: Color) -> bool {
    row(screen, word).and_then(|row| screen.cell(row, 0)).is_some_and(|cell| cell.fgcolor() == colour)
}

#[tokio::test]
async fn a_terminal_follows_the_plan_in_place_and_in_colour() {
    let mut world = World::new().await;
    world.start_premium().await;
    let terminal = Terminal::run(&world.agent, &["status", "--watch"], (100, 40), &[]);
    let says = |screen: &Screen, what: &str| screen.contents().lines().filter(|line| line.starts_with(what)).count() == 1;
    terminal.shows("Premium", |screen| says(screen, "mode         paid")).await;
    let top = terminal.contents();
    let free = world.free();
    world.switch(free, Mode::Free).await;
    // In the same place: one line for the mode.
    terminal.shows("Free", |screen| says(screen, "mode         free") && !says(screen, "mode         paid")).await;
    assert_eq!(top.lines().next(), terminal.contents().lines().next(), "it begins at the top again");
    world.broker.stop().await;
    let fault = |screen: &Screen| has(screen, "error", Color::Idx(1)) || has(screen, "warning", Color::Idx(3));
    terminal.shows("the broker's fault in its colour", fault).await;
    // Only the word is coloured.
    terminal
        .shows("the mode without colour", |screen| {
            has(screen, "mode", Color::Default) && row(screen, "mode").and_then(|row| screen.cell(row, 13)).is_some_and(|c| !c.bold())
        })
        .await;

    // A smaller window shows the beginning and says that there is more.
    terminal.resize((60, 8));
    terminal.shows("that there is more", |screen| screen.contents().trim_end().ends_with('…')).await;
    world.agent.stop().await;
    terminal.shows("that nobody answers", |screen| has(screen, "error", Color::Idx(1)) && screen.contents().contains("trying again")).await;
    assert_eq!(terminal.interrupt().await.signal(), Some(libc::SIGINT));
}

#[tokio::test]
async fn a_terminal_without_colours_gets_none() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.broker.stop().await;
    let unheard = |status: &care_tests::status::Status| !status.warnings().is_empty();
    world.agent.status("the broker's fault", unheard).await;
    let shown = |screen: &Screen| row(screen, "error").or(row(screen, "warning")).is_some();
    for (environment, colours) in [(vec![("NO_COLOR", "1")], false), (vec![("TERM", "dumb")], false), (vec![], true)] {
        let terminal = Terminal::run(&world.agent, &["status"], (100, 40), &environment);
        terminal.shows("the fault", shown).await;
        terminal.shows("the mode", |screen| row(screen, "mode").is_some()).await;
        let screen = terminal.screen.lock().unwrap().screen().clone();
        let coloured = has(&screen, "error", Color::Idx(1)) || has(&screen, "warning", Color::Idx(3));
        assert_eq!(coloured, colours, "{environment:?}:\n{}", screen.contents());
    }
}
