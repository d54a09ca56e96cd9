//! Tells the benchmark what it was built with: counts of one compiler say nothing of another's.

use std::{env, path::Path, process::Command};

fn main() {
    let rustc = Command::new(env::var("RUSTC").expect("cargo sets it")).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8_lossy(&rustc.stdout);
    // As "rustc 1.95.0 (59807616e 2026-04-14)".
    println!("cargo::rustc-env=BUILT_WITH={}", version.split(" (").next().unwrap_or("rustc unknown").trim());
    println!("cargo::rustc-env=BUILT_FOR={}", env::var("TARGET").expect("cargo sets it"));
    // target/<profile>/build/<package>/out
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name).expect("cargo's own layout");
    println!("cargo::rustc-env=BUILT_AS={}", profile.display());
    println!("cargo::rustc-env=BUILT_FLAGS={}", env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default().replace('\x1f', " "));
    println!("cargo::rerun-if-changed=build.rs");
}
