//! Where the engine has signatures checked. The simulation, which brings the same few thousand documents a billion times,
//! remembers a verdict by the token and the keys it was judged by; a product build has no such memory.

use care_protocol::{DeviceId, Entitlement, Keyset, Reject, RootKeys, VerifiedEntitlement, VerifiedKeyset};

#[cfg(test)]
use super::simulation::memory;

/// As [`Entitlement::verify`].
pub(super) fn entitlement(token: &[u8], keyset: Option<&Keyset>, issuer: &str, device: &DeviceId) -> Result<VerifiedEntitlement, Reject> {
    let verify = || Entitlement::verify(token, keyset, issuer, device);
    #[cfg(test)]
    let verify = || memory::entitlement(token, keyset, verify);
    verify()
}

/// As [`Keyset::verify`].
pub(super) fn keyset(token: &[u8], roots: &RootKeys, issuer: &str) -> Result<VerifiedKeyset, Reject> {
    let verify = || Keyset::verify(token, roots, issuer);
    #[cfg(test)]
    let verify = || memory::keyset(token, verify);
    verify()
}
