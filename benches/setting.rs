//! What the environment says about a benchmark's length.

use std::{fmt::Display, str::FromStr};

use anyhow::{Context as _, ensure};

/// The number in this variable, 1 or more; without the variable the other one.
pub(crate) fn number<T>(name: &str, otherwise: T) -> anyhow::Result<T>
where
    T: FromStr<Err: Display> + From<u8> + PartialOrd,
{
    let Ok(text) = std::env::var(name) else { return Ok(otherwise) };
    let number: T = text.parse().map_err(|fault: T::Err| anyhow::anyhow!("{fault}")).with_context(|| format!("{name} is {text:?}"))?;
    ensure!(number >= T::from(1), "{name} is at least 1");
    Ok(number)
}
