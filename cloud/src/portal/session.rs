//! Sessions: a random secret in a cookie identifies the user. The database holds only its hash, so that a copy of the
//! database opens no session. A session ends on sign-out, when it is idle, and after twelve hours. Forms carry a CSRF
//! token made from the secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::storage::db::{Connection, DbError, OptionalExtension as _, Transaction, params};

/// A session ends after so long, seconds.
pub const LASTS_S: u64 = 12 * 3600;
/// It also ends after this long without a request, seconds.
pub const IDLE_S: u64 = 2 * 3600;
/// How often the use of a session is recorded, seconds.
const NOTED_EVERY_S: u64 = 300;

/// A signed-in user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// The owner of an account.
    Owner {
        /// The account.
        account: String,
        /// Its TP-Link ID.
        login: String,
    },
    /// An engineer: sees every account, and injects faults.
    Engineer,
}

/// The login of engineers; their password is the operator's secret.
pub const ENGINEER: &str = "engineer";

impl User {
    /// The login name.
    pub fn login(&self) -> &str {
        match self {
            Self::Owner { login, .. } => login,
            Self::Engineer => ENGINEER,
        }
    }
}

/// A new secret: 256 random bits, base64url.
pub fn new_secret() -> Result<String, ring::error::Unspecified> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The CSRF token of a page's forms, derived from the secret in the cookie.
pub fn form_token(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("form\n{secret}").as_bytes()))
}

/// Whether two secrets are equal, in constant time.
pub fn same(one: &str, other: &str) -> bool {
    // Hashed first, so that lengths are equal and the comparison's duration reveals nothing.
    digest(&SHA256, one.as_bytes()).as_ref() == digest(&SHA256, other.as_bytes()).as_ref()
}

fn hash(secret: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("session\n{secret}").as_bytes()))
}

/// Opens a session, and removes ended ones.
pub fn open(tx: &Transaction<'_>, secret: &str, user: &User, now: u64) -> Result<(), DbError> {
    let account = match user {
        User::Owner { account, .. } => Some(account),
        User::Engineer => None,
    };
    tx.execute(
        "DELETE FROM sessions WHERE opened_at <= ?1 OR seen_at <= ?2",
        params![now.saturating_sub(LASTS_S), now.saturating_sub(IDLE_S)],
    )?;
    tx.execute(
        "INSERT INTO sessions (secret_hash, account, login, opened_at, seen_at) VALUES (?1, ?2, ?3, ?4, ?4)",
        params![hash(secret), account, user.login(), now],
    )?;
    Ok(())
}

/// The user of the session with this secret. This counts as use of the session.
pub fn find(connection: &Connection, secret: &str, now: u64) -> Result<Option<User>, DbError> {
    let Some((user, seen_at)) = look(connection, secret, now)? else { return Ok(None) };
    if seen_at + NOTED_EVERY_S <= now {
        connection.prepare_cached("UPDATE sessions SET seen_at = ?2 WHERE secret_hash = ?1")?.execute(params![hash(secret), now])?;
    }
    Ok(Some(user))
}

/// The user of the session with this secret. This does not count as use: the request comes from the page's script, not
/// from the user.
pub fn peek(connection: &Connection, secret: &str, now: u64) -> Result<Option<User>, DbError> {
    Ok(look(connection, secret, now)?.map(|(user, _)| user))
}

fn look(connection: &Connection, secret: &str, now: u64) -> Result<Option<(User, u64)>, DbError> {
    let hash = hash(secret);
    let mut statement = connection.prepare_cached(
        "SELECT account, login, seen_at FROM sessions WHERE secret_hash = ?1 AND opened_at > ?2 - ?3 AND seen_at > ?2 - ?4",
    )?;
    let found = statement
        .query_row(params![hash, now, LASTS_S, IDLE_S], |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)?, row.get::<_, u64>(2)?))
        })
        .optional()?;
    let Some((account, login, seen_at)) = found else { return Ok(None) };
    let user = match account {
        Some(account) => User::Owner { account, login },
        None => User::Engineer,
    };
    Ok(Some((user, seen_at)))
}

/// Ends a session.
pub fn close(connection: &Connection, secret: &str) -> Result<(), DbError> {
    connection.execute("DELETE FROM sessions WHERE secret_hash = ?1", [hash(secret)])?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::db::Db;

    fn database() -> (tempfile::TempDir, Db) {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("care.db")).unwrap();
        db.read(|c| Ok(c.execute_batch("INSERT INTO accounts (id, created_at) VALUES ('a', 1)")?)).unwrap();
        (dir, db)
    }

    fn owner() -> User {
        User::Owner { account: "a".into(), login: "a@example.com".into() }
    }

    #[test]
    fn a_session_holds_until_it_is_closed_idle_or_old() {
        let (_dir, db) = database();
        let (start, secret) = (1_000_000, new_secret().unwrap());
        db.transact(|tx| open(tx, &secret, &owner(), start)).unwrap();
        let at = |now| db.read(|c| find(c, &secret, now)).unwrap();
        assert_eq!(at(start), Some(owner()));
        assert_eq!(at(start + IDLE_S), None);
        // In use all day, and over all the same.
        for hour in 1..12 {
            assert_eq!(at(start + hour * 3600), Some(owner()), "{hour}");
        }
        assert_eq!(at(start + LASTS_S), None);

        // An open page that polls every few seconds is not a user at work.
        let secret = new_secret().unwrap();
        db.transact(|tx| open(tx, &secret, &owner(), start)).unwrap();
        let peeked = |now| db.read(|c| peek(c, &secret, now)).unwrap();
        assert!((0..IDLE_S).step_by(60).all(|passed| peeked(start + passed) == Some(owner())));
        assert_eq!(peeked(start + IDLE_S), None);

        let secret = new_secret().unwrap();
        db.transact(|tx| open(tx, &secret, &User::Engineer, start + LASTS_S)).unwrap();
        assert_eq!(db.read(|c| find(c, &secret, start + LASTS_S)).unwrap(), Some(User::Engineer));
        db.read(|c| close(c, &secret)).unwrap();
        assert_eq!(db.read(|c| find(c, &secret, start + LASTS_S)).unwrap(), None);
        let left: u64 = db.read(|c| Ok(c.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))?)).unwrap();
        assert_eq!(left, 0, "what has ended is not kept");
    }

    #[test]
    fn the_database_does_not_hold_what_a_cookie_does() {
        let (dir, db) = database();
        let secret = new_secret().unwrap();
        assert!(secret.len() >= 43, "256 bits");
        assert_ne!(secret, new_secret().unwrap());
        db.transact(|tx| open(tx, &secret, &owner(), 1)).unwrap();
        drop(db);
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
        }
        assert_ne!(form_token(&secret), hash(&secret), "a form's token is no key to the database's row");
    }
}
