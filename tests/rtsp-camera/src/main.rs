//! The camera as a program: see [`USAGE`].

#![forbid(unsafe_code)]

use std::{io::Read, process::ExitCode, thread};

use rtsp_camera::{Camera, CommandLine, USAGE};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let line = match CommandLine::parse(arguments) {
        Ok(line) => line,
        Err(wrong) => {
            eprintln!("rtsp-camera: {wrong}\n\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    let forever = line.forever;
    let camera = match Camera::start(line.options) {
        Ok(camera) => camera,
        Err(e) => {
            eprintln!("rtsp-camera: {e}");
            return ExitCode::FAILURE;
        }
    };
    println!("{}", camera.url());
    camera.print_events();
    if forever {
        loop {
            thread::park();
        }
    }
    // Until the end of the input, or until it cannot be read.
    let mut ignored = [0; 1024];
    while matches!(std::io::stdin().read(&mut ignored), Ok(1..)) {}
    ExitCode::SUCCESS
}
