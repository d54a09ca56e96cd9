//! Provisioning: writes the files that a factory would put on a camera: certificates, key and a configuration that is
//! ready to run.

use std::path::Path;

use care_protocol::{DeviceId, Policy};
use thiserror::Error;

use crate::{
    domain::{catalogue::Tier, issuer::Issuer},
    storage::{
        data_dir::{DataError, Endpoints, StoreEndpoint, make_private_dir, read_if_there, write_private, write_public},
        keys::ISSUER,
        pki::{Authority, CLOUD_NAME, PkiError},
    },
};

/// Why a camera cannot be provisioned.
#[derive(Debug, Error)]
pub enum ProvisionError {
    /// Writing.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The broker's ACL gives this name access to everything.
    #[error("no camera may be called {CLOUD_NAME}: choose another --id")]
    Reserved,
    /// A path that TOML cannot express.
    #[error("the path {0:?} is not UTF-8: choose another --out")]
    Path(std::path::PathBuf),
}

/// Writes `ca.pem`, `device.pem`, `device.key` (0600) and `config.toml` into `out`.
pub fn provision(
    pki: &Authority,
    issuer: &Issuer,
    endpoints: &Endpoints,
    device: &DeviceId,
    model: &str,
    out: &Path,
) -> Result<(), ProvisionError> {
    if device.as_str() == CLOUD_NAME {
        return Err(ProvisionError::Reserved);
    }
    make_private_dir(out)?;
    let out = std::path::absolute(out).map_err(|source| DataError::Io { doing: "finding", path: out.to_owned(), source })?;
    let identity = pki.camera(device)?;
    write_public(&out.join("ca.pem"), pki.ca.as_bytes())?;
    write_public(&out.join("device.pem"), identity.certificate.as_bytes())?;
    write_private(&out.join("device.key"), identity.key.as_bytes())?;
    make_private_dir(&out.join("state"))?;
    let dir = out.to_str().ok_or_else(|| ProvisionError::Path(out.clone()))?;
    let mut config = configuration(device, model, issuer, endpoints, dir);
    if let Some(store) = &endpoints.store {
        config += &store_table(store, &out)?;
    }
    write_public(&out.join("config.toml"), config.as_bytes())?;
    Ok(())
}

/// The `[store]` table: the host that grants may name besides the API's own origin.
fn store_table(store: &StoreEndpoint, out: &Path) -> Result<String, ProvisionError> {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let ca = match &store.ca {
        None => "webpki".to_owned(),
        Some(path) => {
            let missing = || DataError::Damaged { path: path.clone(), why: "there is no such file".into() };
            let copy = out.join("store-ca.pem");
            write_public(&copy, &read_if_there(path)?.ok_or_else(missing)?)?;
            copy.to_str().ok_or_else(|| ProvisionError::Path(copy.clone()))?.to_owned()
        }
    };
    Ok(format!("\n[store]\nhosts = [{}]\nca = {}\n", text(&store.host), text(&ca)))
}

fn configuration(device: &DeviceId, model: &str, issuer: &Issuer, endpoints: &Endpoints, dir: &str) -> String {
    let (root, key) = issuer.keys.root();
    // A JSON string is a TOML string too.
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let file = |name: &str| text(&format!("{dir}/{name}"));
    let Policy { clips, history_h, clip_max_s, cooldown_s, max_height, snapshots } = issuer.catalogue.policy(Tier::Free, model);
    format!(
        "# Written by `care-cloud camera add`.\n\
         [device]\nid = {id}\nmodel = {model}\nstate_dir = {state}\n\n\
         [broker]\nurl = {broker}\nca = {ca}\nclient_cert = {cert}\nclient_key = {client_key}\ntopic_prefix = {prefix}\n\n\
         [cloud]\nurl = {api}\n\n\
         [trust]\nissuer = {issuer}\nroot_keys = {{ {root} = {key} }}\nmin_keyset_version = 1\n\n\
         [free]\nclips = {clips}\nhistory_h = {history_h}\nclip_max_s = {clip_max_s}\ncooldown_s = {cooldown_s}\n\
         max_height = {max_height}\nsnapshots = {snapshots}\n\n\
         [media]\nsource = \"test\"\npre_roll_s = 5\nmotion = \"every:30s\"\n\n\
         [spool]\nmemory_bytes = 8_000_000\nflash_bytes = 64_000_000\n\n\
         [upload]\nuplink_kbps = 0\n\n\
         [status]\nlisten = \"127.0.0.1:9180\"\n",
        id = text(device.as_str()),
        model = text(model),
        state = file("state"),
        broker = text(&endpoints.broker),
        ca = file("ca.pem"),
        cert = file("device.pem"),
        client_key = file("device.key"),
        prefix = text(&endpoints.prefix),
        api = text(&endpoints.api),
        issuer = text(ISSUER),
        root = text(root),
        key = text(&key.to_base64url()),
    )
}
