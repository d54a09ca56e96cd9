//! Compact JWS with Ed25519 (RFC 7515, RFC 8037, RFC 9864), read strictly: three canonical base64url parts without
//! padding, and a header of exactly `alg`, `kid` and `typ` (`docs/protocol.md#header`). Entitlements and keysets use
//! it; their fields are not read here. `docs/design/trust.md` explains why it is our own.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::{BadIdent, Reject, json};

/// An Ed25519 public key. In JSON it is a base64url string.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// The key as base64url without padding, as in keysets and configurations.
    pub fn to_base64url(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Reject> {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).map_err(|_| Reject::BadSignature)
    }
}

impl std::str::FromStr for PublicKey {
    type Err = Reject;

    fn from_str(text: &str) -> Result<Self, Reject> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| Reject::BadForm("a public key is the base64url of 32 bytes".into()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = Reject;

    fn try_from(text: String) -> Result<Self, Reject> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> Self {
        key.to_base64url()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

/// A JWS whose form and header have been checked and whose signature has not.
pub(crate) struct Unverified<'a> {
    pub(crate) kid: String,
    signed: &'a str,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

impl<'a> Unverified<'a> {
    /// Checks size, form and header, in this order.
    pub(crate) fn parse(token: &'a [u8], typ: &str, limit: usize) -> Result<Self, Reject> {
        if token.len() > limit {
            return Err(Reject::TooLarge { got: token.len(), limit });
        }
        let bad = |what: &str| Reject::BadForm(what.to_owned());
        let token = std::str::from_utf8(token).map_err(|_| bad("not UTF-8"))?;
        let (signed, signature) = token.rsplit_once('.').ok_or_else(|| bad("not three parts"))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| bad("not three parts"))?;
        let decode = |part: &str, what| URL_SAFE_NO_PAD.decode(part).map_err(|e| Reject::BadForm(format!("{what}: {e}")));
        let header = decode(header, "header")?;
        let payload = decode(payload, "payload")?;
        let signature = decode(signature, "signature")?;

        let header = json::object(&header).map_err(|e| Reject::BadHeader(e.to_string()))?;
        if !header.names().eq(["alg", "kid", "typ"]) {
            let names: Vec<_> = header.names().collect();
            return Err(Reject::BadHeader(format!("it has {names:?}, exactly alg, kid and typ are allowed")));
        }
        let field = |name| header.string(name).map_err(|e| Reject::BadHeader(e.to_string()));
        let (alg, found) = (field("alg")?, field("typ")?);
        if !matches!(alg, "EdDSA" | "Ed25519") {
            return Err(Reject::BadHeader(format!("alg is {alg:?}, only EdDSA and Ed25519 are allowed")));
        }
        if found != typ {
            return Err(Reject::BadHeader(format!("typ is {found:?}, {typ:?} is expected")));
        }
        Ok(Self { kid: field("kid")?.to_owned(), signed, payload, signature })
    }

    /// The payload of anything with dots in it, **unverified**.
    pub(crate) fn claims(token: &[u8], limit: usize) -> Option<Vec<u8>> {
        let token = std::str::from_utf8(token).ok().filter(|token| token.len() <= limit)?;
        URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()
    }

    /// Header, then payload, of three base64url parts, **unverified**.
    pub(crate) fn parts(token: &[u8]) -> Option<[Vec<u8>; 2]> {
        let mut parts = std::str::from_utf8(token).ok()?.split('.').map(|part| URL_SAFE_NO_PAD.decode(part));
        let (header, payload, _signature) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
        parts.next().is_none().then_some([header, payload])
    }

    /// Checks the signature under `key` and returns the payload.
    pub(crate) fn verify(self, key: &PublicKey) -> Result<Vec<u8>, Reject> {
        key.verify(self.signed.as_bytes(), &self.signature)?;
        Ok(self.payload)
    }
}

/// Signs documents with one key. For the cloud and for tests.
pub struct Signer {
    kid: String,
    key: Ed25519KeyPair,
}

impl Signer {
    /// A signer for a private key in PKCS#8 form ([`Signer::generate`]).
    pub fn from_pkcs8(kid: &str, pkcs8: &[u8]) -> Result<Self, BadKey> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(|_| BadKey)?;
        Ok(Self { kid: kid.to_owned(), key })
    }

    /// A fresh private key, in PKCS#8 form.
    pub fn generate() -> Vec<u8> {
        let random = ring::rand::SystemRandom::new();
        let document = Ed25519KeyPair::generate_pkcs8(&random).expect("the kernel gives random bytes");
        document.as_ref().to_vec()
    }

    /// The key's name, as in headers and keysets.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key that verifies its signatures.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key.public_key().as_ref().try_into().expect("an Ed25519 key has 32 bytes"))
    }

    /// Signs any payload under any `typ`. Prefer [`crate::Entitlement::sign`] and [`crate::Keyset::sign`].
    pub fn sign(&self, typ: &str, payload: &[u8]) -> String {
        let header = serde_json::json!({ "alg": "EdDSA", "kid": self.kid, "typ": typ });
        self.sign_with_header(&header, payload)
    }

    /// Signs under any header, for tests of what a device rejects.
    pub fn sign_with_header(&self, header: &serde_json::Value, payload: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// A private key that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an Ed25519 private key in PKCS#8 form")]
pub struct BadKey;

impl From<BadIdent> for Reject {
    fn from(bad: BadIdent) -> Self {
        Self::OutOfRange(bad.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// RFC 8032 section 7.1, without the vector of 1023 bytes.
    #[test]
    fn rfc_8032_vectors_verify_and_a_changed_bit_does_not() {
        let vectors = [
            (
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
                "72",
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            ),
            (
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
            (
                "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
                "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
            ),
        ];
        for (key, message, signature) in vectors {
            let key = PublicKey(hex(key).try_into().unwrap());
            let message = hex(message);
            assert_eq!(key.verify(&message, &hex(signature)), Ok(()));
            for bit in 0..512 {
                let mut changed = hex(signature);
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(key.verify(&message, &changed), Err(Reject::BadSignature), "bit {bit}");
            }
        }
    }

    /// Project Wycheproof's Ed25519 vectors: malleable, truncated and padded signatures, special keys and points.
    #[test]
    fn wycheproof_vectors_are_judged_as_published() {
        use wycheproof::{TestResult, eddsa};

        let set = eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap();
        let (mut valid, mut invalid) = (0, 0);
        for group in &set.test_groups {
            let key = PublicKey(group.key.pk[..].try_into().unwrap());
            for test in &group.tests {
                let held = key.verify(&test.msg, &test.sig).is_ok();
                match test.result {
                    TestResult::Valid => valid += 1,
                    TestResult::Invalid => invalid += 1,
                    // The Ed25519 vectors have none of these; fail if a new version brings one.
                    TestResult::Acceptable => panic!("{test:?}"),
                }
                assert_eq!(held, test.result == TestResult::Valid, "{test:?}");
            }
        }
        assert!(valid >= 80 && invalid >= 50, "{valid} valid and {invalid} invalid vectors");
    }
}
