//! `kasa-care-agent`: parse the command line, load the configuration, run.
fn main() {}
