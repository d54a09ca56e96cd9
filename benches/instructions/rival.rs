//! `jsonwebtoken` for the same tokens. It gets the key, which ours finds by name; reads laxly, where ours refuses what is
//! ambiguous; and makes no digest. Its Ed25519 is ring's, as ours, so that the two differ in everything else only.

use anyhow::anyhow;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Validation,
    crypto::{CryptoProvider, JwkUtils, JwtVerifier},
    errors::{ErrorKind, Result},
    signature,
};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde::Deserialize;

/// The claims of an entitlement.
#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, as it would be by who uses it")]
pub(crate) struct Claims {
    iss: String,
    aud: String,
    account: String,
    epoch: u64,
    seq: u64,
    plan: String,
    reason: String,
    channel: String,
    iat: u64,
    lease: Lease,
    policy: Policy,
    #[serde(default)]
    crit: Vec<String>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, as it would be by who uses it")]
struct Lease {
    max_age_s: u64,
    not_after: u64,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "it is read, as it would be by who uses it")]
struct Policy {
    clips: bool,
    history_h: u32,
    clip_max_s: u32,
    cooldown_s: u32,
    max_height: u32,
    snapshots: bool,
}

/// One key, for one issuer and one recipient.
pub(crate) struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_: &Algorithm, _: &EncodingKey| Err(ErrorKind::InvalidAlgorithm.into()),
    verifier_factory: |algorithm: &Algorithm, key: &DecodingKey| Ring::of(*algorithm, key),
    jwk_utils: JwkUtils::new_unimplemented(),
};

impl Verifier {
    pub(crate) fn new(public: &[u8], issuer: &str, device: &str) -> anyhow::Result<Self> {
        // Another test of this process may have installed it.
        let _ = PROVIDER.install_default();
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[device]);
        validation.set_required_spec_claims(&["iss", "aud"]);
        // The engine judges the lease; there is no `exp`.
        validation.validate_exp = false;
        Ok(Self { key: DecodingKey::from_ed_der(public), validation })
    }

    pub(crate) fn verify(&self, token: &str) -> anyhow::Result<Claims> {
        let verified = jsonwebtoken::decode(token, &self.key, &self.validation).map_err(|fault| anyhow!("jsonwebtoken: {fault}"))?;
        Ok(verified.claims)
    }
}

/// Ed25519 by ring.
struct Ring(UnparsedPublicKey<[u8; 32]>);

impl Ring {
    fn of(algorithm: Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
        let public = key.as_bytes().try_into().map_err(|_| ErrorKind::InvalidEddsaKey)?;
        if algorithm != Algorithm::EdDSA {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Ok(Box::new(Self(UnparsedPublicKey::new(&ED25519, public))))
    }
}

impl signature::Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), signature::Error> {
        self.0.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
