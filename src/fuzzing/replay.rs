//! Replays every kept input through its target, as it is and with many small changes, without cargo-fuzz. The changes
//! are blind; `make fuzz` is guided by coverage and finds more.

use std::{fs, path::Path};

use super::{LONGEST, TARGETS, Target, Verdict, processor_time};

/// The kept inputs of a target, with their names and in their order: a seed changes the same ones in the same way
/// everywhere.
fn corpus(target: &Target) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())).collect()
}

#[test]
fn every_kept_input_is_judged() {
    for target in TARGETS {
        let (mut accepted, mut refused) = (0, 0);
        for (name, input) in corpus(target) {
            // The name identifies the input if the next line panics.
            eprintln!("{name}");
            match target.run(&input) {
                Verdict::Accepted => accepted += 1,
                Verdict::Refused => refused += 1,
            }
        }
        println!("{}: {accepted} inputs accepted, {refused} refused", target.name);
        assert!(accepted > 0 && refused > 0, "{}: {accepted} accepted, {refused} refused: no input passes the first check", target.name);
    }
}

/// Makes one or a few small changes.
fn mutated(random: &mut fastrand::Rng, input: &[u8], others: &[(String, Vec<u8>)]) -> Vec<u8> {
    const NUMBERS: [&str; 9] =
        ["0", "-1", "1.5", "1e400", "4294967296", "9007199254740991", "9007199254740992", "18446744073709551615", "99999999999999999999"];
    const WORDS: [&str; 12] = ["\"", "{", "}", "[", "]", ",", ":", "null", "\\u0000", "\r\n", "é", "://"];
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(0..=bytes.len());
        let end = (at + random.usize(0..16)).min(bytes.len());
        match random.u8(0..7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, random.u8(..)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &others[random.usize(0..others.len())].1;
                let from = random.usize(0..=other.len());
                let to = (from + random.usize(0..200)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => drop(bytes.splice(at..end, WORDS[random.usize(0..WORDS.len())].bytes())),
            _ => {
                // A number, wherever the next one stands.
                let Some(from) = bytes[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else { continue };
                let to = bytes[from..].iter().position(|byte| !byte.is_ascii_digit()).map_or(bytes.len(), |offset| from + offset);
                bytes.splice(from..to, NUMBERS[random.usize(0..NUMBERS.len())].bytes());
            }
        }
    }
    bytes
}

/// `CARE_MUTATIONS` sets their number for each target; `CARE_MUTATIONS_SEED` is the first seed.
#[test]
fn kept_inputs_with_small_changes_are_judged() {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse().expect("a number"));
    let count = number("CARE_MUTATIONS").unwrap_or(500);
    let mut random = fastrand::Rng::with_seed(number("CARE_MUTATIONS_SEED").unwrap_or(1));
    for target in TARGETS {
        let corpus = corpus(target);
        let mut accepted = 0;
        for n in 0..count {
            let kept = random.usize(0..corpus.len());
            let input = mutated(&mut random, &corpus[kept].1, &corpus);
            let judged = std::panic::catch_unwind(|| target.run(&input));
            let verdict = judged.unwrap_or_else(|_| panic!("{} minds change {n}: {:?}", target.name, input.escape_ascii().to_string()));
            accepted += u64::from(verdict == Verdict::Accepted);
        }
        println!("{}: {accepted} of {count} changed inputs accepted", target.name);
    }
}

/// Numbers at the limits of common types.
#[test]
fn no_target_minds_an_empty_or_a_long_input() {
    let mut random = fastrand::Rng::with_seed(5);
    for target in TARGETS {
        target.run(b"");
        for first in [b"P", b"T", b"S", b"R", b"{"] {
            let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(70_000).collect();
            target.run(&[&first[..], &noise].concat());
            target.run(&[&first[..], &vec![b'['; 70_000]].concat());
        }
    }
}

/// Checks the time limit itself: it detects an input that uses too much processor time.
#[test]
#[should_panic(expected = "for one input of")]
fn a_slow_input_is_found() {
    let busy = |_: &[u8]| {
        let began = processor_time();
        while processor_time() - began < LONGEST {}
        Verdict::Refused
    };
    Target { name: "busy", body: busy }.run(b"");
}

/// Each target has its binary and its place in the scripts, and there is none besides.
#[test]
fn fuzz_has_a_binary_for_each_target() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let mut found: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect();
    let mut wanted: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    found.sort();
    wanted.sort();
    assert_eq!(found, wanted);
}
