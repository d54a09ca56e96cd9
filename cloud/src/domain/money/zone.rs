//! The time zone whose midnights separate the days of a bill. It belongs to the order: an owner who paid in Auckland
//! is charged by days of Auckland.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A time zone by its IANA name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(TimeZone);

/// No such time zone.
#[derive(Debug, Error)]
#[error("there is no time zone {0:?}: expected an IANA name such as Europe/Paris (known from the system's tzdata)")]
pub struct UnknownZone(String);

impl Zone {
    /// UTC, the default.
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// The zone of this name.
    pub fn read(name: &str) -> Result<Self, UnknownZone> {
        match name {
            "UTC" => Ok(Self::utc()),
            name => TimeZone::get(name).map(Self).map_err(|_| UnknownZone(name.to_owned())),
        }
    }

    /// Its IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    pub(super) fn time_zone(&self) -> TimeZone {
        self.0.clone()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name().to_owned()
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;

    fn try_from(name: String) -> Result<Self, UnknownZone> {
        Self::read(&name)
    }
}
