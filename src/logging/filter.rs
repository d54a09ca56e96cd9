//! Parses `CARE_LOG`. An unknown level is refused, because a typo must not silence a camera's log.

use std::{env, ffi::OsString};

use thiserror::Error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// The environment variable with the filter.
pub const FILTER: &str = "CARE_LOG";

/// The levels, from none to all.
const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::OFF),
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];
/// The agent's own target; its parts are the modules at the root of the crate.
const AGENT: &str = "kasa_care_agent";
const ROOT: &str = include_str!("../lib.rs");
/// Libraries that log. Their level is `warn` unless the filter names them.
const LIBRARIES: [&str; 7] = ["rumqttc", "rustls", "hyper", "hyper_util", "tokio_rustls", "tokio", "mio"];

/// Why `CARE_LOG` is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadFilter {
    /// There is no level of that name.
    #[error("{FILTER}: {0:?} is no level; the levels are off, error, warn, info, debug and trace, alone or as in info,{AGENT}::link=debug")]
    Level(String),
    /// No part of the agent, and no library of it, has that name.
    #[error("{FILTER}: there is no part {0:?}; the parts are {parts}", parts = parts())]
    Part(String),
    /// Not UTF-8.
    #[error("{FILTER} is not UTF-8; the levels are off, error, warn, info, debug and trace")]
    Text,
}

/// Reads the filter from the environment.
///
/// # Errors
/// A word in it is neither a level nor a part with a level.
pub fn from_env() -> Result<Targets, BadFilter> {
    read(env::var_os(FILTER))
}

fn read(text: Option<OsString>) -> Result<Targets, BadFilter> {
    let text = text.unwrap_or_default().into_string().map_err(|_| BadFilter::Text)?;
    let words: Vec<_> = text.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let mut general = None;
    let mut parts = Vec::new();
    for word in words {
        match word.split_once('=') {
            Some((part, of)) => parts.push((known(part.trim())?, level(of.trim())?)),
            None => general = Some(level(word)?),
        }
    }
    // A filter for one part leaves the others at their default.
    let targets = match general {
        Some(level) => Targets::new().with_default(level),
        None => Targets::new().with_default(LevelFilter::INFO).with_targets(LIBRARIES.map(|library| (library, LevelFilter::WARN))),
    };
    Ok(targets.with_targets(parts))
}

fn level(word: &str) -> Result<LevelFilter, BadFilter> {
    let found = LEVELS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, level)| *level).ok_or_else(|| BadFilter::Level(word.to_owned()))
}

/// Whether the target exists. Below a module of the crate's root, any name is accepted.
fn known(part: &str) -> Result<String, BadFilter> {
    let mut path = part.split("::");
    let good = match (path.next(), path.next()) {
        (Some(AGENT), None) => true,
        (Some(AGENT), Some(module)) => modules().any(|known| known == module),
        (Some(library), _) => LIBRARIES.contains(&library),
        (None, _) => false,
    };
    if good { Ok(part.to_owned()) } else { Err(BadFilter::Part(part.to_owned())) }
}

fn modules() -> impl Iterator<Item = &'static str> {
    ROOT.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
}

fn parts() -> String {
    let modules: Vec<_> = modules().map(|module| format!("{AGENT}::{module}")).collect();
    format!("{AGENT}, {}, {}", modules.join(", "), LIBRARIES.join(", "))
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn filter(text: &str) -> Targets {
        read(Some(text.into())).unwrap()
    }

    fn refused(text: &str) -> String {
        read(Some(text.into())).unwrap_err().to_string()
    }

    #[test]
    fn info_of_ours_and_warnings_of_others_by_default() {
        for filter in [read(None).unwrap(), filter(""), filter(" , ")] {
            assert!(filter.would_enable("kasa_care_agent::link", &Level::INFO));
            assert!(!filter.would_enable("kasa_care_agent::link", &Level::DEBUG));
            assert!(!filter.would_enable("rumqttc::state", &Level::INFO));
            assert!(filter.would_enable("rumqttc::state", &Level::WARN));
        }
    }

    #[test]
    fn one_part_can_speak_up_and_the_rest_is_heard() {
        let some = filter("warn, kasa_care_agent::link=trace");
        assert!(some.would_enable("kasa_care_agent::link::session", &Level::TRACE));
        assert!(!some.would_enable("kasa_care_agent::upload", &Level::INFO));
        let alone = filter("kasa_care_agent::link=trace");
        assert!(alone.would_enable("kasa_care_agent::upload", &Level::INFO));
        assert!(!alone.would_enable("rumqttc", &Level::INFO));
    }

    #[test]
    fn a_level_may_be_written_in_capitals() {
        assert!(filter("DEBUG").would_enable("kasa_care_agent", &Level::DEBUG));
        assert!(!filter("off").would_enable("kasa_care_agent", &Level::ERROR));
    }

    #[test]
    fn what_is_no_level_is_refused_with_the_levels() {
        for word in ["warning", "err", "verbose", "info debug", "kasa_care_agent=loud", "kasa_care_agent=", "=", "3", "info,warning"] {
            let said = refused(word);
            if !word.starts_with('=') {
                assert!(said.contains("off, error, warn, info, debug and trace"), "{word}: {said}");
            }
        }
        assert!(refused("warning").contains("\"warning\""));
    }

    #[test]
    fn a_part_that_does_not_exist_is_refused_with_those_that_do() {
        for part in ["kasa_care_agent::lnk", "kasa-care-agent", "link", "rumqtt", ""] {
            let said = refused(&format!("info,{part}=debug"));
            assert!(said.contains("kasa_care_agent::link,") && said.contains("rumqttc"), "{part}: {said}");
        }
    }
}
