//! TLS to a PostgreSQL on another machine: only to the one that its authority knows by its name, and never silently
//! without.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "running/postgres.rs"]
#[allow(dead_code, reason = "others start one without TLS")]
mod postgres;

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
};

use care_cloud::{
    storage::{
        data_dir::DataDir,
        db::{Address, BadAddress, Db},
        pki::{Authority, Identity, Pki},
    },
    transport::held_port::HeldPort,
};

/// Puts an identity where PostgreSQL, which may be another user, reads it.
fn install(into: &Path, identity: &Identity, ca: &str) {
    let owner = fs::metadata(into).unwrap();
    for (name, text) in [("server.pem", &identity.certificate[..]), ("server.key", &identity.key), ("ca.pem", ca)] {
        let path = into.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let rules = into.join("hba");
    fs::write(&rules, "local all all trust\nhostssl certified all 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 trust\n").unwrap();
    chown(&rules, Some(owner.uid()), Some(owner.gid())).unwrap();
}

/// Whether the server says that the connection is encrypted; or why there is none.
fn encrypted(url: &str) -> Result<bool, String> {
    let address: Address = url.parse().map_err(|e: BadAddress| e.to_string())?;
    let db = Db::connect(&address).map_err(|e| e.to_string())?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(db.read(|c| Ok(c.query_row(sql, [], |row| row.get(0))?)).unwrap())
}

#[test]
fn a_postgresql_elsewhere_is_spoken_to_with_tls_that_knows_it_or_not_at_all() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let data = DataDir::open(dir.path()).unwrap();
    let pki = Pki::open(&data, &[]).unwrap();
    Pki::open(&DataDir::open(other.path()).unwrap(), &[]).unwrap();
    let held = HeldPort::on_loopback().unwrap();
    let listens = held.address();
    let server = postgres::Postgres::start_with(listens.port(), |home| {
        install(home, &pki.server, &pki.ca);
        let file = |setting: &str, name: &str| format!("{setting}={}", home.join(name).display());
        let files = [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "ca.pem"), ("hba_file", "hba")];
        let mut settings = vec!["listen_addresses=127.0.0.1".to_owned(), "ssl=on".to_owned()];
        settings.extend(files.map(|(setting, name)| file(setting, name)));
        settings
    });
    for database in ["care", "certified"] {
        server.fresh(database);
    }
    let ca = |of: &Path| of.join("pki/ca.pem").display().to_string();
    let url = |host: &str, database: &str, of: &Path| {
        format!("postgres://care@{host}:{}/{database}?sslmode=verify-full&sslrootcert={}", listens.port(), ca(of))
    };
    assert_eq!(encrypted(&url("127.0.0.1", "care", dir.path())), Ok(true));
    assert_eq!(encrypted(&url("localhost", "care", dir.path())), Ok(true));
    let wrong = encrypted(&url("127.0.0.1", "care", other.path())).unwrap_err();
    assert!(wrong.contains("TLS") && wrong.contains("invalid peer certificate"), "{wrong}");
    // Another name than the certificate's, at the address of the server.
    let wrong = encrypted(&format!("{}&hostaddr=127.0.0.1", url("db.example", "care", dir.path()))).unwrap_err();
    assert!(wrong.contains("not valid for name"), "{wrong}");
    let plain = format!("postgres://care@127.0.0.1:{}/care", listens.port());
    let refused = encrypted(&plain).unwrap_err();
    assert!(refused.contains("no encryption"), "the server wants TLS, and nothing chose it silently: {refused}");
    assert!(encrypted("postgres://care@db.example/care").unwrap_err().contains("sslmode=verify-full"));

    // By the camera authority's certificate for the user's name.
    let identity = Authority::open(&data).unwrap().camera(&"care".parse().unwrap()).unwrap();
    let (certificate, key) = (dir.path().join("care.pem"), dir.path().join("care.key"));
    fs::write(&certificate, &identity.certificate).unwrap();
    fs::write(&key, &identity.key).unwrap();
    let certified = url("127.0.0.1", "certified", dir.path());
    assert_eq!(encrypted(&format!("{certified}&sslcert={}&sslkey={}", certificate.display(), key.display())), Ok(true));
    assert!(encrypted(&certified).is_err(), "without one");
}
