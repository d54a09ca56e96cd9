//! A connection to PostgreSQL, which several care-cloud processes share, by the interface of the embedded database: a
//! call returns when the server has answered. It may be made on any thread, also on one that runs async tasks; the
//! protocol itself is served by a thread of its own.

use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::BytesMut;
use futures::executor::block_on;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{
    Client, Config, NoTls, Socket, Statement,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
    types::{FromSql, IsNull, ToSql, Type, to_sql_checked},
};

use super::{
    PREPARED, Scope,
    sql::{SqlError, Value},
    tls::Tls,
};
use crate::storage::pki::{Identity, PkiError, client_config, trusting};

/// How long a connection may take, and a transaction may wait for its turn.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every connection sets: a process that hangs in a transaction, or whose machine is gone, holds nothing up for
/// longer than this. And no plan that was good when a table was small stays when it has grown: every statement on the way of
/// a change has an index for each table, which a join goes by (`cloud/tests/statements.rs`).
const SETTINGS: &str = "SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '60s';
    SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET client_min_messages = warning; SET default_transaction_isolation = 'read committed'";

/// Whoever writes anything writes alone, whatever the process. Whoever writes of some accounts shares that lock with others
/// that do.
const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(1667330661, 0)";
const BEGIN_SHARED: &str = "BEGIN; SELECT pg_advisory_xact_lock_shared(1667330661, 0)";
/// The locks of accounts: all that a transaction needs, at once and in one order, so that two never wait for each other. A
/// camera's account cannot change meanwhile, because only who writes alone moves it. Two accounts of one hash take turns.
const LOCK_ACCOUNTS: &str = "
    SELECT pg_advisory_xact_lock(1667330663, key) FROM (
        SELECT hashtext(coalesce(c.account, w.name)) AS key
        FROM json_array_elements_text(CAST(?1 AS json)) AS w (name) LEFT JOIN cameras c ON c.device = w.name
        UNION SELECT hashtext(a.name) FROM json_array_elements_text(CAST(?2 AS json)) AS a (name)
        ORDER BY key) AS every";
const LOCK_NUMBERS: &str = "SELECT pg_advisory_xact_lock(1667330661, 1)";

/// Where the server is, and how it is spoken to: with TLS, or in plaintext on this machine.
#[derive(Debug, Clone)]
pub struct Address {
    config: Config,
    tls: Option<Tls>,
}

/// Why a URL is no address of a database.
#[derive(Debug, thiserror::Error)]
pub enum BadAddress {
    /// It cannot be read.
    #[error("{0}")]
    Url(tokio_postgres::Error),
    /// It is elsewhere, and would be spoken to in plaintext.
    #[error(
        "{0} is another machine: ?sslmode=verify-full&sslrootcert=FILE says by which authority it is known; plaintext is for a \
             socket's directory and for loopback addresses"
    )]
    Remote(String),
    /// A way to use TLS that care-cloud does not have.
    #[error("sslmode={0}: give verify-full, or disable for this machine; require is the same as verify-full")]
    Mode(String),
    /// TLS without knowing whom to trust, or half of an identity.
    #[error("{0}")]
    Incomplete(&'static str),
    /// A file that it names.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of certificates or a key.
    #[error("TLS to PostgreSQL: {0}")]
    Tls(#[from] PkiError),
}

/// What a URL says about TLS, by the names that libpq has for it.
#[derive(Default)]
struct SslOptions {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl SslOptions {
    /// Takes them out of a URL. Returns the rest, which tokio-postgres reads.
    fn taken_from(url: &str) -> (Self, String) {
        let mut options = Self::default();
        let Some((address, query)) = url.split_once('?') else { return (options, url.to_owned()) };
        let mut rest = Vec::new();
        for part in query.split('&') {
            // A plus is a plus, as in libpq.
            let escaped = part.replace('+', "%2B");
            let Some((name, value)) = url::form_urlencoded::parse(escaped.as_bytes()).next() else { continue };
            let option = match &*name {
                "sslmode" => &mut options.mode,
                "sslrootcert" => &mut options.root,
                "sslcert" => &mut options.certificate,
                "sslkey" => &mut options.key,
                _ => {
                    rest.push(part);
                    continue;
                }
            };
            *option = Some(value.into_owned());
        }
        (options, if rest.is_empty() { address.to_owned() } else { format!("{address}?{}", rest.join("&")) })
    }

    fn tls(&self) -> Result<Option<Tls>, BadAddress> {
        let named = self.root.is_some() || self.certificate.is_some() || self.key.is_some();
        match self.mode.as_deref() {
            None if named => return Err(BadAddress::Incomplete("sslrootcert, sslcert and sslkey need sslmode=verify-full")),
            None | Some("disable") => return Ok(None),
            Some("verify-full" | "require") => {}
            Some(other) => return Err(BadAddress::Mode(other.to_owned())),
        }
        let file = |path: &String| std::fs::read(path).map_err(|source| BadAddress::File { path: path.clone(), source });
        let text = |path: &String| Ok::<_, BadAddress>(String::from_utf8_lossy(&file(path)?).into_owned());
        let missing =
            "sslrootcert=FILE is missing: the authority of the server's certificate (of a public one: /etc/ssl/certs/ca-certificates.crt)";
        let root = file(self.root.as_ref().ok_or(BadAddress::Incomplete(missing))?)?;
        let config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => client_config(&root, Some(&Identity { certificate: text(certificate)?, key: text(key)? }))?,
            (None, None) => trusting(&root)?,
            _ => return Err(BadAddress::Incomplete("sslcert and sslkey go together")),
        };
        Ok(Some(Tls(config)))
    }
}

impl std::str::FromStr for Address {
    type Err = BadAddress;

    fn from_str(url: &str) -> Result<Self, BadAddress> {
        let (options, rest) = SslOptions::taken_from(url);
        let mut config: Config = rest.parse().map_err(BadAddress::Url)?;
        let tls = options.tls()?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path("/run/postgresql");
        }
        // Never by what the server would like: whoever is in between could say that it has no TLS.
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        if tls.is_none()
            && let Some(remote) = elsewhere(&config)
        {
            return Err(BadAddress::Remote(remote));
        }
        config.connect_timeout(PATIENCE).application_name("care-cloud");
        Ok(Self { config, tls })
    }
}

/// A host that is another machine than this one, if there is one.
fn elsewhere(config: &Config) -> Option<String> {
    let host = config.get_hosts().iter().find_map(|host| match host {
        Host::Tcp(name) if name != "localhost" && !name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()) => Some(name.clone()),
        _ => None,
    });
    host.or_else(|| config.get_hostaddrs().iter().find(|ip| !ip.is_loopback()).map(ToString::to_string))
}

/// A connection.
pub struct Postgres {
    /// Where it connects again after a failure, before the next transaction or the next statement outside one; `None`:
    /// it does not, because whoever has it must notice.
    again: Option<Address>,
    live: RefCell<Live>,
}

struct Live {
    client: Arc<Client>,
    /// By their text, then by the kinds of their parameters.
    prepared: HashMap<String, Vec<(Vec<Type>, Statement)>>,
    in_transaction: bool,
}

impl Postgres {
    /// Connects; again after a failure.
    pub(super) fn connect(address: &Address) -> Result<Self, SqlError> {
        Ok(Self { again: Some(address.clone()), live: RefCell::new(Live::connect(address)?) })
    }

    /// Connects this once.
    pub(super) fn connect_once(address: &Address) -> Result<Self, SqlError> {
        Ok(Self { again: None, live: RefCell::new(Live::connect(address)?) })
    }

    pub(super) fn begin(&self, scope: &Scope) -> Result<(), SqlError> {
        let begun = match scope {
            Scope::Everything => self.batch(BEGIN),
            Scope::Accounts { .. } => self.batch(BEGIN_SHARED),
        };
        // From here on a lost connection is a failure, not a reason to connect again.
        self.live.borrow_mut().in_transaction = true;
        if let Err(e) = begun.and_then(|()| self.lock(scope)) {
            self.roll_back();
            return Err(e);
        }
        Ok(())
    }

    fn lock(&self, scope: &Scope) -> Result<(), SqlError> {
        if let Scope::Accounts { cameras, accounts } = scope {
            let list = |names| serde_json::to_string(names).expect("plain data");
            self.query(LOCK_ACCOUNTS, &[Value::Text(&list(cameras)), Value::Text(&list(accounts))])?;
        }
        Ok(())
    }

    pub(super) fn numbers_alone(&self) -> Result<(), SqlError> {
        self.query(LOCK_NUMBERS, &[]).map(drop)
    }

    pub(super) fn commit(&self) -> Result<(), SqlError> {
        // After a failed statement, COMMIT alone would undo everything and report success.
        self.batch("SELECT 1; COMMIT")?;
        self.live.borrow_mut().in_transaction = false;
        Ok(())
    }

    pub(super) fn roll_back(&self) {
        self.live.borrow_mut().in_transaction = false;
        // If it fails the connection is lost, and the server does it.
        drop(self.batch("ROLLBACK"));
    }

    pub(super) fn batch(&self, sql: &str) -> Result<(), SqlError> {
        self.be_connected()?;
        let client = self.live.borrow().client.clone();
        Ok(block_on(client.batch_execute(sql))?)
    }

    pub(super) fn execute(&self, sql: &str, values: &[Value<'_>]) -> Result<usize, SqlError> {
        let (client, statement) = self.prepared(sql, values)?;
        let changed = block_on(client.execute(&statement, &parameters(values)))?;
        Ok(usize::try_from(changed).unwrap_or(usize::MAX))
    }

    pub(super) fn query(&self, sql: &str, values: &[Value<'_>]) -> Result<Vec<tokio_postgres::Row>, SqlError> {
        let (client, statement) = self.prepared(sql, values)?;
        Ok(block_on(client.query(&statement, &parameters(values)))?)
    }

    /// The statement, prepared for parameters of these kinds: what the server would take a parameter for depends on
    /// what stands beside it.
    fn prepared(&self, sql: &str, values: &[Value<'_>]) -> Result<(Arc<Client>, Statement), SqlError> {
        self.be_connected()?;
        let types: Vec<Type> = values.iter().map(|value| value.kind()).collect();
        let mut live = self.live.borrow_mut();
        let client = live.client.clone();
        if let Some((_, statement)) = live.prepared.get(sql).and_then(|of| of.iter().find(|(of, _)| *of == types)) {
            return Ok((client, statement.clone()));
        }
        let statement = block_on(client.prepare_typed(&translated(sql), &types))?;
        if live.prepared.len() >= PREPARED {
            live.prepared.clear();
        }
        live.prepared.entry(sql.to_owned()).or_default().push((types, statement.clone()));
        Ok((client, statement))
    }

    fn be_connected(&self) -> Result<(), SqlError> {
        let mut live = self.live.borrow_mut();
        // Within a transaction the next statement fails, and with it the transaction.
        if live.client.is_closed()
            && !live.in_transaction
            && let Some(address) = &self.again
        {
            *live = Live::connect(address)?;
        }
        Ok(())
    }
}

impl Live {
    fn connect(Address { config, tls }: &Address) -> Result<Self, SqlError> {
        let (config, tls) = (config.clone(), tls.clone());
        let (answer, answered) = std::sync::mpsc::sync_channel(1);
        runtime()?.spawn(async move {
            let connected = match tls {
                Some(tls) => connect(&config, tls).await,
                None => connect(&config, NoTls).await,
            };
            drop(answer.send(connected));
        });
        let client = answered.recv().map_err(|_| SqlError::NoThread)??;
        Ok(Self { client: Arc::new(client), prepared: HashMap::new(), in_transaction: false })
    }
}

async fn connect<T>(config: &Config, tls: T) -> Result<Client, tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect(tls).await?;
    tokio::spawn(async move {
        // Whoever waits for an answer gets the error, too.
        if let Err(e) = connection.await {
            tracing::warn!("the connection to PostgreSQL: {e}");
        }
    });
    client.batch_execute(SETTINGS).await?;
    Ok(client)
}

/// The thread that serves all connections. It lives as long as the process.
fn runtime() -> Result<&'static Runtime, SqlError> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).thread_name("postgres").enable_all().build().ok();
    RUNTIME.get_or_init(start).as_ref().ok_or(SqlError::NoThread)
}

fn parameters<'a>(values: &'a [Value<'_>]) -> Vec<&'a (dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

/// A statement as PostgreSQL reads it: `$1` for `?1`, and no hint for SQLite's planner.
fn translated(sql: &str) -> String {
    let sql = sql.replace('?', "$");
    let mut words = sql.split("INDEXED BY ");
    let mut plain = words.next().unwrap_or_default().to_owned();
    for rest in words {
        plain.push_str(rest.trim_start_matches(|letter: char| letter.is_alphanumeric() || letter == '_'));
    }
    plain
}

impl Value<'_> {
    fn kind(self) -> Type {
        match self {
            // Whatever the statement takes.
            Self::Null => Type::UNKNOWN,
            Self::Integer(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Integer(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(match *kind {
            Type::BOOL => Self::Integer(bool::from_sql(kind, raw)?.into()),
            Type::INT4 => Self::Integer(i32::from_sql(kind, raw)?.into()),
            Type::INT8 => Self::Integer(i64::from_sql(kind, raw)?),
            Type::NUMERIC => Self::Integer(whole(raw).ok_or("a number that is not whole, or too large")?),
            _ => Self::Text(<&str>::from_sql(kind, raw)?),
        })
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self::Null)
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::BOOL | Type::INT4 | Type::INT8 | Type::NUMERIC | Type::TEXT | Type::VARCHAR | Type::UNKNOWN)
    }
}

/// A whole number of the type that sums have: digits to the base of 10000, the weight of the first, the sign.
fn whole(raw: &[u8]) -> Option<i64> {
    let mut words = raw.chunks_exact(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]]));
    let (count, weight, sign, _scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut number: i64 = 0;
    let mut digits = words.take(usize::try_from(count).ok()?);
    for _ in 0..=weight {
        number = number.checked_mul(10_000)?.checked_add(digits.next().unwrap_or(0).into())?;
    }
    if digits.any(|digit| digit != 0) {
        return None;
    }
    match sign {
        0 => Some(number),
        0x4000 => Some(-number),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_translated() {
        let sql = "SELECT a FROM t INDEXED BY t_a WHERE a = ?1 AND b = ?12";
        assert_eq!(translated(sql), "SELECT a FROM t  WHERE a = $1 AND b = $12");
        assert_eq!(translated("SELECT 1"), "SELECT 1");
    }

    #[test]
    fn a_sum_is_a_whole_number() {
        let raw = |words: &[i16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
        assert_eq!(whole(&raw(&[0, 0, 0, 0])), Some(0));
        assert_eq!(whole(&raw(&[2, 1, 0, 0, 12, 3456])), Some(123_456));
        assert_eq!(whole(&raw(&[1, 1, 0x4000, 0, 5])), Some(-50_000));
        assert_eq!(whole(&raw(&[1, -1, 0, 1, 5000])), None, "a half");
        assert_eq!(whole(&raw(&[1, 9, 0, 0, 1])), None, "too large");
    }

    #[test]
    fn what_a_url_says_about_tls_is_complete_or_refused() {
        let refused = |query: &str| format!("postgres://u@db.example/care?{query}").parse::<Address>().unwrap_err().to_string();
        assert!(refused("application_name=x").contains("another machine"));
        assert!(refused("sslmode=disable").contains("another machine"));
        for query in ["sslmode=verify-full", "sslmode=require"] {
            assert!(refused(query).contains("sslrootcert=FILE is missing"), "{}", refused(query));
        }
        assert!(refused("sslmode=prefer").contains("give verify-full"));
        assert!(refused("sslrootcert=/ca.pem").contains("need sslmode"));
        assert!(refused("sslmode=verify-full&sslrootcert=%2Fno+such%2Fca.pem").starts_with("/no+such/ca.pem: "));
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for near in ["postgres:///care", "postgres://u@localhost/care", "postgres://u:p@127.0.0.1:5433/care", "postgres://%2Frun%2Fpg/care"]
        {
            assert!(near.parse::<Address>().is_ok(), "{near}");
        }
        assert!(matches!("postgres://u@db.example/care".parse::<Address>(), Err(BadAddress::Remote(host)) if host == "db.example"));
        assert!(matches!("postgres://u@localhost/care?hostaddr=10.0.0.1".parse::<Address>(), Err(BadAddress::Remote(_))));
        assert!(matches!("sqlite://x".parse::<Address>(), Err(BadAddress::Url(_))));
    }
}
