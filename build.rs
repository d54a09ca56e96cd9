//! Gives the agent its build time, the floor of trusted time: `SOURCE_DATE_EPOCH` where set (reproducible builds), else now.

use std::{env, time::SystemTime};

fn main() {
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    println!("cargo:rerun-if-changed=build.rs");
    let seconds = match env::var("SOURCE_DATE_EPOCH") {
        Ok(epoch) => epoch.trim().parse().expect("SOURCE_DATE_EPOCH is a number of seconds since 1970"),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    println!("cargo:rustc-env=CARE_BUILD_TIME={seconds}");
}
