//! Checks signatures for the engine. The simulation delivers the same few thousand documents millions of times, so
//! under test a cache keeps each verdict by token and keys. A product build has no cache.

use care_protocol::{DeviceId, Entitlement, Keyset, Reject, RootKeys, VerifiedEntitlement, VerifiedKeyset};

#[cfg(test)]
use super::simulation::signature_cache;

/// As [`Entitlement::verify`].
pub(super) fn entitlement(token: &[u8], keyset: Option<&Keyset>, issuer: &str, device: &DeviceId) -> Result<VerifiedEntitlement, Reject> {
    let verify = || Entitlement::verify(token, keyset, issuer, device);
    #[cfg(test)]
    let verify = || signature_cache::entitlement(token, keyset, verify);
    verify()
}

/// As [`Keyset::verify`].
pub(super) fn keyset(token: &[u8], roots: &RootKeys, issuer: &str) -> Result<VerifiedKeyset, Reject> {
    let verify = || Keyset::verify(token, roots, issuer);
    #[cfg(test)]
    let verify = || signature_cache::keyset(token, verify);
    verify()
}
