//! What a verification and a decision cost, in instructions, which do not depend on what else the machine does. Each operation
//! runs once and 33 times under callgrind; a 32nd of the difference is one repetition, without the program's start.
//!
//! Fails if a figure is 3 % above the record of the same build in `benches/results/instructions.json`: compiler, profile, target,
//! the processor's features as valgrind shows them, valgrind and glibc. Without such a record it says so, and compares the
//! multiples of `jsonwebtoken` with those of the newest other one. Writes `target/bench/instructions.json`; a rise that is meant
//! goes on record with `bench-report`.

mod gate;
mod operations;
mod rival;
#[path = "../stamp.rs"]
mod stamp;

use std::{ffi::CStr, fs, path::Path, process::Command};

use anyhow::{Context as _, bail, ensure};
use gate::Counts;
use operations::{MOST, Operation};
use serde_json::{Value, json};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => count(),
        ["features"] => {
            println!("{}", features().join(" "));
            Ok(())
        }
        [name, repetitions] => {
            let operation = Operation::ALL.into_iter().find(|operation| operation.name() == name);
            operation.with_context(|| format!("{name} is no operation"))?.run(repetitions.parse()?)
        }
        _ => bail!("without arguments it counts; OPERATION REPETITIONS is what it counts"),
    }
}

fn count() -> anyhow::Result<()> {
    let build = build()?;
    let mut counts = Counts::new();
    for operation in Operation::ALL {
        let [once, often] = [1, MOST].map(|repetitions| instructions(operation, repetitions));
        counts.insert(operation.name().to_owned(), often?.saturating_sub(once?) / (MOST as u64 - 1));
    }
    let document = json!({ &build: { "measured": stamp::stamp("scripts/instructions.sh", &[]), "instructions": counts } });
    fs::create_dir_all("target/bench")?;
    let path = "target/bench/instructions.json";
    fs::write(path, format!("{document:#}\n")).with_context(|| format!("writing {path}"))?;
    println!("{build}");
    for (name, count) in &counts {
        println!("{name:<14} {count:>9}");
    }
    println!("{path}");

    let record = Path::new("benches/results/instructions.json");
    let record: Value = match fs::read(record) {
        Ok(text) => serde_json::from_slice(&text).with_context(|| format!("reading {}", record.display()))?,
        Err(fault) => bail!("reading {}: {fault}", record.display()),
    };
    let risen = match record.get(&build) {
        Some(same) => gate::risen(&counts, &counts_of(same)?),
        None => {
            let newest = newest(&record).context("there is nothing on record")?;
            // As test.sh shows it.
            println!("instructions.sh: no record of this build: {build}; compared by multiples of jsonwebtoken instead");
            gate::risen_beside_the_rival(&counts, &counts_of(newest)?)
        }
    };
    ensure!(
        risen.is_empty(),
        "{}\nA rise that is meant goes on record with target/debug/bench-report; say in the commit why.",
        risen.join("\n")
    );
    Ok(())
}

fn counts_of(record: &Value) -> anyhow::Result<Counts> {
    Ok(serde_json::from_value(record["instructions"].clone())?)
}

fn newest(record: &Value) -> Option<&Value> {
    let of = record.as_object()?.values();
    of.max_by_key(|of| of["measured"]["at"].as_str().map(str::to_owned))
}

/// What counts can be compared with.
fn build() -> anyhow::Result<String> {
    // SAFETY: glibc returns a constant string.
    let glibc = unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_str()?;
    let version = Command::new("valgrind").arg("--version").output().context("valgrind is needed: scripts/deps.sh bench")?;
    let features = under_valgrind("none", &[], &["features"])?;
    let parts = [
        env!("BUILT_WITH"),
        env!("BUILT_AS"),
        env!("BUILT_FOR"),
        env!("BUILT_FLAGS"),
        features.stdout.trim(),
        String::from_utf8_lossy(&version.stdout).trim(),
        &format!("glibc-{glibc}"),
    ]
    .map(str::to_owned);
    Ok(parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}

/// Those by which ring and glibc choose their code.
fn features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! look {
            ($($name:tt),+) => { $(if std::is_x86_feature_detected!($name) { features.push($name); })+ };
        }
        look!("ssse3", "sse4.1", "avx", "avx2", "bmi1", "bmi2", "adx", "sha");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! look {
            ($($name:tt),+) => { $(if std::arch::is_aarch64_feature_detected!($name) { features.push($name); })+ };
        }
        look!("aes", "sha2", "sha3");
    }
    features
}

/// All instructions of a run.
fn instructions(operation: Operation, repetitions: usize) -> anyhow::Result<u64> {
    let run = under_valgrind("callgrind", &["--callgrind-out-file=/dev/null"], &[operation.name(), &repetitions.to_string()])?;
    // As "==4711== Collected : 12345".
    let collected = run.stderr.lines().find_map(|line| line.split_once("Collected : ")).context("callgrind says what it counted")?;
    Ok(collected.1.trim().parse()?)
}

struct Run {
    stdout: String,
    stderr: String,
}

/// Runs this program again. Without an environment, whose size would move the stack.
fn under_valgrind(tool: &str, options: &[&str], arguments: &[&str]) -> anyhow::Result<Run> {
    let own = std::env::current_exe()?;
    let mut command = Command::new("valgrind");
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.arg(format!("--tool={tool}")).args(options).arg(own).args(arguments).output()?;
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(output.status.success(), "valgrind {arguments:?}: {}\n{stderr}", output.status);
    Ok(Run { stdout, stderr })
}
