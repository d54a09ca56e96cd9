//! The record that survives a power cut. The engine writes all of it with every change. After a restart it checks
//! signatures and ranges again before it uses any field. [`crate::durable`] puts its bytes on flash.

use care_protocol::{DeviceId, Digest, MAX_INTEGER, Position, Report, RootKeys, VerifiedEntitlement, VerifiedKeyset};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{past::Past, verifying};

/// The record, as stored in a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format, 1.
    pub format: u32,
    /// The highest `(epoch, seq)` ever accepted.
    pub ratchet: Position,
    /// The document at that position; `None` after a root-signed reset.
    pub ratchet_digest: Option<Digest>,
    /// The document in force.
    pub entitlement: Option<String>,
    /// The highest keyset.
    pub keyset: Option<String>,
    /// The keyset that verified the document in force, if the highest one no longer does.
    pub verified_by: Option<String>,
    /// How much of the lease is used, seconds.
    pub lease_used_s: u64,
    /// The part of it that is the document's age at receipt, seconds.
    #[serde(default)]
    pub lease_late_s: u64,
    /// Whether the document's `next` has taken effect.
    pub next_performed: bool,
    /// Trusted time, seconds since 1970.
    pub trusted_s: u64,
    /// The highest reset id applied.
    pub reset_id: u64,
    /// The camera was reset, and no higher epoch has bound it since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factory_reset: Option<FactoryReset>,
    /// The root keys configured when the agent wrote this. One that was removed since verifies no new document, but
    /// those it has verified stay in force.
    #[serde(default, skip_serializing_if = "RootKeys::is_empty")]
    pub roots: RootKeys,
    /// The newest `applied` report, unless it is known to be delivered.
    pub report: Option<Report>,
    /// The documents accepted under this owner, oldest first, for support. Absent in the records of older agents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Past>,
}

/// Whether the report of a reset to factory settings is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactoryReset {
    /// Its delivery is not certain.
    Untold,
    /// The broker has acknowledged the report.
    Told,
}

/// Why a record counts as unreadable: this agent in this camera did not write it.
#[derive(Debug, Error)]
pub enum BadRecord {
    /// Not JSON of this format.
    #[error("the record is not in a format of this agent: {0}")]
    Format(String),
    /// A number that no document and no clock can produce.
    #[error("the record's {what} is {found}, more than any document can hold")]
    OutOfRange {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// The keyset's or the document's signature is invalid.
    #[error("the {what} on record does not verify: {why}")]
    Signature {
        /// Which part.
        what: &'static str,
        /// Why.
        why: care_protocol::Reject,
    },
}

/// The verified content of a record.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) entitlement: Option<VerifiedEntitlement>,
    pub(super) keyset: Option<VerifiedKeyset>,
    /// Whether the root key that signed it is no longer among the configured ones.
    pub(super) retired: bool,
    /// The version of the highest keyset that the record has.
    pub(super) version: u64,
}

impl Record {
    /// The format that this agent writes and reads.
    pub const FORMAT: u32 = 1;

    /// Reads a record; verifies nothing yet.
    pub fn read(bytes: &[u8]) -> Result<Self, BadRecord> {
        let record: Self = serde_json::from_slice(bytes).map_err(|e| BadRecord::Format(e.to_string()))?;
        if record.format != Self::FORMAT {
            return Err(BadRecord::Format(format!("format {}", record.format)));
        }
        // Such a ratchet would be above every future document.
        let numbers = [
            ("epoch", record.ratchet.epoch),
            ("seq", record.ratchet.seq),
            ("used lease", record.lease_used_s),
            ("age at receipt", record.lease_late_s),
            ("trusted time", record.trusted_s),
            ("reset id", record.reset_id),
        ];
        match numbers.into_iter().find(|(_, found)| *found > MAX_INTEGER) {
            Some((what, found)) => Err(BadRecord::OutOfRange { what, found }),
            None => Ok(record),
        }
    }

    /// The record's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data")
    }

    /// The record after `factory-reset`: it keeps ratchet with digest, keyset, reset id and trusted time, and notes
    /// the reset, so that no document of this epoch binds the camera again.
    pub fn factory_reset(self) -> Self {
        Self {
            entitlement: None,
            verified_by: None,
            lease_used_s: 0,
            lease_late_s: 0,
            next_performed: false,
            report: None,
            factory_reset: Some(FactoryReset::Untold),
            history: Vec::new(),
            ..self
        }
    }

    pub(super) fn verify(&self, roots: &RootKeys, issuer: &str, device: &DeviceId) -> Result<Verified, BadRecord> {
        let mut retired = false;
        let mut keyset = |token: &Option<String>| {
            let Some(token) = token else { return Ok(None) };
            retired = false;
            let verified = verifying::keyset(token.as_bytes(), roots, issuer).or_else(|why| {
                // Signed by a root key that was removed from the configuration, or replaced under the same name.
                retired = true;
                verifying::keyset(token.as_bytes(), &self.roots, issuer).map_err(|_| why)
            });
            verified.map(Some).map_err(|why| BadRecord::Signature { what: "keyset", why })
        };
        let older = keyset(&self.verified_by)?;
        let highest = keyset(&self.keyset)?;
        let version = highest.as_ref().or(older.as_ref()).map_or(0, |verified| verified.keyset.version);
        let by = older.as_ref().or(highest.as_ref()).map(|verified| &verified.keyset);
        let entitlement = self.entitlement.as_ref().map(|token| verifying::entitlement(token.as_bytes(), by, issuer, device)).transpose();
        let entitlement = entitlement.map_err(|why| BadRecord::Signature { what: "entitlement", why })?;
        Ok(Verified { entitlement, keyset: highest, retired, version })
    }
}
