//! The keys that sign: the root key, which signs keysets and would lie in a safe, and the signing key, which signs
//! entitlements (section 3.2). The first start makes both, and keyset 1.

use std::{collections::BTreeMap, path::Path};

use care_protocol::{Key, Keyset, PublicKey, RootKeys, Signer};
use thiserror::Error;

use crate::data_dir::{DataDir, DataError, read_if_there, write_private};

/// The `iss` of every document.
pub const ISSUER: &str = "care";
const ROOT_KID: &str = "root-1";
const SIGNING_KID: &str = "care-1";

/// What can go wrong with the keys.
#[derive(Debug, Error)]
pub enum KeysError {
    /// Reading or writing.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The keys in use.
#[derive(Debug)]
pub struct Keys {
    /// Signs entitlements.
    pub signer: Signer,
    /// The keyset in force, as JWS.
    pub keyset: String,
    /// Its version.
    pub version: u64,
    root: (String, PublicKey),
}

impl Keys {
    /// Opens the keys under the data directory, or makes them. `now` in Unix seconds.
    pub fn open(data: &DataDir, now: u64) -> Result<Self, KeysError> {
        let root = open_key(&data.path("keys/root.pk8"), ROOT_KID)?;
        let signer = open_key(&data.path("keys/signing.pk8"), SIGNING_KID)?;
        let roots = RootKeys::from([(ROOT_KID.to_owned(), root.public_key())]);
        let path = data.path("keys/keyset.jws");
        if read_if_there(&path)?.is_none() {
            let key = Key { public: signer.public_key(), not_before: now };
            let keys = BTreeMap::from([(SIGNING_KID.to_owned(), key)]);
            let keyset = Keyset { iss: ISSUER.into(), version: 1, iat: now, keys, revoked: vec![], resets: vec![] };
            write_private(&path, keyset.sign(&root).as_bytes())?;
        }
        let damaged = |why: String| DataError::Damaged { path: path.clone(), why };
        let token = read_if_there(&path)?.ok_or_else(|| damaged("it is missing".into()))?;
        let verified = Keyset::verify(&token, &roots, ISSUER).map_err(|e| damaged(e.to_string()))?;
        Ok(Self { version: verified.keyset.version, keyset: verified.token, signer, root: (ROOT_KID.to_owned(), root.public_key()) })
    }

    /// The root key's name and public half, for cameras' configurations.
    pub fn root(&self) -> (&str, PublicKey) {
        (&self.root.0, self.root.1)
    }
}

fn open_key(path: &Path, kid: &str) -> Result<Signer, KeysError> {
    let pkcs8 = match read_if_there(path)? {
        Some(pkcs8) => pkcs8,
        None => {
            let pkcs8 = Signer::generate();
            write_private(path, &pkcs8)?;
            pkcs8
        }
    };
    Signer::from_pkcs8(kid, &pkcs8).map_err(|e| DataError::Damaged { path: path.to_owned(), why: e.to_string() }.into())
}
