//! The signing keys (`docs/protocol.md#keyset`): the root key signs keysets and would be kept offline; the signing
//! keys sign entitlements. The first start creates one of each, and keyset 1. The keyset file decides which key signs:
//! if another care-cloud on the same directory rotates, this one follows at its next signature.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use care_protocol::{DeviceId, Key, Keyset, Position, PublicKey, Reset, RootKeys, Signer};
use thiserror::Error;

use crate::storage::data_dir::{DataDir, DataError, read_if_there, write_private};

/// The `iss` of every document.
pub const ISSUER: &str = "care";
const ROOT_KID: &str = "root-1";
/// The most resets in a keyset, which has at most 64 KiB.
const RESETS_KEPT: usize = 100;
const SIGNING_KID: &str = "care-";

/// Why the keys could not be used.
#[derive(Debug, Error)]
pub enum KeysError {
    /// Reading or writing.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The keys, on disk and in use.
#[derive(Debug)]
pub struct Keys {
    data: DataDir,
    root: Signer,
    current: RwLock<Arc<Current>>,
}

/// The keys in force.
#[derive(Debug)]
pub struct Current {
    /// Signs entitlements.
    pub signer: Signer,
    /// The keyset's content.
    pub keyset: Keyset,
    /// The keyset as JWS.
    pub token: String,
    /// Which file it was read from.
    file: Option<FileMark>,
}

impl Current {
    /// The number of the signing key: a later key has a higher one.
    pub fn number(&self) -> u64 {
        number(self.signer.kid()).unwrap_or(0)
    }
}

impl Keys {
    /// Opens the keys under the data directory, or makes them. `now` in Unix seconds.
    pub fn open(data: &DataDir, now: u64) -> Result<Self, KeysError> {
        let root = open_key(&data.path("keys/root.pk8"), ROOT_KID)?;
        if read_if_there(&keyset_path(data))?.is_none() {
            let signer = make_key(data, 1)?;
            let keys = BTreeMap::from([(signer.kid().to_owned(), Key { public: signer.public_key(), not_before: now })]);
            let keyset = Keyset { iss: ISSUER.into(), version: 1, iat: now, keys, revoked: vec![], resets: vec![] };
            write_private(&keyset_path(data), keyset.sign(&root).as_bytes())?;
        }
        let current = read(data, &root)?;
        Ok(Self { data: data.clone(), root, current: RwLock::new(Arc::new(current)) })
    }

    /// The root key's name and public half, for cameras' configurations.
    pub fn root(&self) -> (&str, PublicKey) {
        (ROOT_KID, self.root.public_key())
    }

    /// The keys in force now.
    pub fn current(&self) -> Arc<Current> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        if mark(&keyset_path(&self.data)) == current.file {
            return current;
        }
        match self.read_again() {
            Ok(current) => current,
            Err(e) => {
                tracing::error!("reading the keyset again: {e}; the one known so far is kept");
                current
            }
        }
    }

    /// Replaces the signing key and revokes the old ones. Call it inside a transaction: two processes must not rotate
    /// at once. Every document has then to be issued again under the new key.
    pub fn rotate(&self, now: u64) -> Result<Arc<Current>, KeysError> {
        let before = self.current();
        let number = before.keyset.keys.keys().chain(&before.keyset.revoked).filter_map(|kid| number(kid)).max().unwrap_or(0) + 1;
        let signer = make_key(&self.data, number)?;
        let mut keyset = before.keyset.clone();
        let old: Vec<_> = std::mem::take(&mut keyset.keys).into_keys().collect();
        keyset.revoked.extend(old);
        keyset.keys.insert(signer.kid().to_owned(), Key { public: signer.public_key(), not_before: now });
        self.publish(keyset, now)
    }

    /// Lowers the ratchet of one camera to `position`.
    pub fn reset(&self, device: &DeviceId, position: Position, now: u64) -> Result<Arc<Current>, KeysError> {
        let mut keyset = self.current().keyset.clone();
        let id = keyset.resets.iter().map(|reset| reset.id).max().unwrap_or(0) + 1;
        // A camera that was offline applies the resets it missed; older ones are no longer needed.
        let too_many = (keyset.resets.len() + 1).saturating_sub(RESETS_KEPT);
        keyset.resets.drain(..too_many);
        keyset.resets.push(Reset { id, aud: device.to_string(), epoch: position.epoch, seq: position.seq, time: None });
        self.publish(keyset, now)
    }

    /// The last revoked key, for the experiment with it.
    pub fn retired(&self) -> Result<Option<Signer>, KeysError> {
        let current = self.current();
        let Some(newest) = current.keyset.revoked.iter().filter_map(|kid| number(kid)).max() else { return Ok(None) };
        Ok(Some(open_key(&key_path(&self.data, newest), &kid(newest))?))
    }

    fn publish(&self, keyset: Keyset, now: u64) -> Result<Arc<Current>, KeysError> {
        let keyset = Keyset { version: keyset.version + 1, iat: now, ..keyset };
        write_private(&keyset_path(&self.data), keyset.sign(&self.root).as_bytes())?;
        self.read_again()
    }

    fn read_again(&self) -> Result<Arc<Current>, KeysError> {
        let current = Arc::new(read(&self.data, &self.root)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = current.clone();
        Ok(current)
    }
}

fn read(data: &DataDir, root: &Signer) -> Result<Current, KeysError> {
    let path = keyset_path(data);
    // Taken before reading, so that a replacement in between is noticed next time.
    let file = mark(&path);
    let damaged = |why: String| DataError::Damaged { path: path.clone(), why };
    let token = read_if_there(&path)?.ok_or_else(|| damaged("it is missing".into()))?;
    let roots = RootKeys::from([(ROOT_KID.to_owned(), root.public_key())]);
    let verified = Keyset::verify(&token, &roots, ISSUER).map_err(|e| damaged(e.to_string()))?;
    let newest = verified.keyset.keys.keys().filter_map(|kid| number(kid)).max();
    let newest = newest.ok_or_else(|| damaged("it names no key of this cloud".into()))?;
    let signer = open_key(&key_path(data, newest), &kid(newest))?;
    Ok(Current { signer, keyset: verified.keyset, token: verified.token, file })
}

fn keyset_path(data: &DataDir) -> PathBuf {
    data.path("keys/keyset.jws")
}

/// Distinguishes successive versions of a file: two may be written within one tick of the clock, but each is a new
/// inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileMark {
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
}

fn mark(keyset: &Path) -> Option<FileMark> {
    let file = fs::metadata(keyset).ok()?;
    Some(FileMark { inode: file.ino(), bytes: file.len(), modified: file.modified().ok() })
}

fn kid(number: u64) -> String {
    format!("{SIGNING_KID}{number}")
}

fn number(kid: &str) -> Option<u64> {
    kid.strip_prefix(SIGNING_KID)?.parse().ok()
}

fn key_path(data: &DataDir, number: u64) -> PathBuf {
    match number {
        1 => data.path("keys/signing.pk8"),
        number => data.path(&format!("keys/signing-{number}.pk8")),
    }
}

fn make_key(data: &DataDir, number: u64) -> Result<Signer, KeysError> {
    open_key(&key_path(data, number), &kid(number))
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_revokes_the_old_key_and_every_process_on_the_directory_follows() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let (first, second) = (Keys::open(&data, 10).unwrap(), Keys::open(&data, 10).unwrap());
        assert_eq!((first.current().signer.kid(), first.retired().unwrap().is_none()), ("care-1", true));
        first.rotate(20).unwrap();
        for keys in [&first, &second, &Keys::open(&data, 30).unwrap()] {
            let current = keys.current();
            assert_eq!(
                (current.signer.kid(), current.keyset.version, &current.keyset.revoked[..]),
                ("care-2", 2, &["care-1".to_owned()][..])
            );
            assert_eq!(current.keyset.keys["care-2"].not_before, 20);
            assert_eq!(keys.retired().unwrap().unwrap().kid(), "care-1");
        }
    }

    #[test]
    fn a_reset_has_a_higher_id_each_time_and_the_keyset_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(&DataDir::open(dir.path()).unwrap(), 10).unwrap();
        let (a, b): (DeviceId, DeviceId) = ("CAM-A".parse().unwrap(), "CAM-B".parse().unwrap());
        for device in [&a, &b, &a] {
            keys.reset(device, Position { epoch: 1, seq: 2 }, 20).unwrap();
        }
        let current = keys.current();
        let ids: Vec<_> = current.keyset.resets.iter().map(|reset| (reset.aud.as_str(), reset.id)).collect();
        assert_eq!((current.keyset.version, &ids[..]), (4, &[("CAM-A", 1), ("CAM-B", 2), ("CAM-A", 3)][..]));
        for _ in 0..RESETS_KEPT {
            keys.reset(&a, Position { epoch: 1, seq: 2 }, 20).unwrap();
        }
        let resets = &keys.current().keyset.resets;
        assert_eq!((resets.len(), resets.last().map(|reset| reset.id)), (RESETS_KEPT, Some(3 + RESETS_KEPT as u64)));
    }
}
