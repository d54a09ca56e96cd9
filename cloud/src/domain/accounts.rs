//! Accounts and their sign-in: the TP-Link ID and the hash of the password. Sessions and rate limits belong to the
//! portal.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ring::{
    pbkdf2,
    rand::{SecureRandom as _, SystemRandom},
};
use serde::Serialize;
use thiserror::Error;

use crate::storage::db::{Connection, DbError, OptionalExtension as _, SqlError, Transaction, params};

/// OWASP's figure for PBKDF2-HMAC-SHA512. Every hash carries it, so that it can be raised.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(210_000).expect("not 0");
const ALGORITHM: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA512;
const SCHEME: &str = "pbkdf2-sha512";
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// The longest TP-Link ID and password, bytes: a limit on the work a sign-in can cause.
const LONGEST: usize = 256;

/// Why an account could not be given its sign-in.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// Not a TP-Link ID.
    #[error("{0:?} is no TP-Link ID: expected something like an e-mail address")]
    BadLogin(String),
    /// Too short or too long.
    #[error("a password has 8 to {LONGEST} bytes")]
    BadPassword,
    /// Another account has it.
    #[error("another account signs in as {0}: choose another TP-Link ID")]
    Taken(String),
    /// No randomness for a salt.
    #[error("the system gives no random bytes")]
    NoRandomness,
}

impl From<SqlError> for AccountError {
    fn from(e: SqlError) -> Self {
        Self::Db(e.into())
    }
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Its opaque id, as documents carry it.
    pub id: String,
    /// The TP-Link ID; `None`: no sign-in is possible.
    pub login: Option<String>,
    /// Unix seconds.
    pub created_at: u64,
}

/// A password as it is kept: scheme, iterations, salt and hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Hashes a password under a new salt. Takes a while, as it should.
    pub fn new(password: &str) -> Result<Self, AccountError> {
        if !(8..=LONGEST).contains(&password.len()) {
            return Err(AccountError::BadPassword);
        }
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| AccountError::NoRandomness)?;
        let mut hash = [0; HASH_BYTES];
        pbkdf2::derive(ALGORITHM, ITERATIONS, &salt, password.as_bytes(), &mut hash);
        Ok(Self(format!("{SCHEME}${ITERATIONS}${}${}", STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash))))
    }

    /// A hash that no password matches and that takes as long to check as any.
    fn of_nobody() -> Self {
        Self(format!("{SCHEME}${ITERATIONS}${}${}", STANDARD_NO_PAD.encode([0; SALT_BYTES]), STANDARD_NO_PAD.encode([0; HASH_BYTES])))
    }

    /// Whether this is the password's hash, compared in constant time. One that is unreadable matches nothing.
    pub fn matches(&self, password: &str) -> bool {
        let mut parts = self.0.split('$');
        let (Some(SCHEME), Some(iterations), Some(salt), Some(hash), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return false;
        };
        let (Ok(iterations), Ok(salt), Ok(hash)) = (iterations.parse(), STANDARD_NO_PAD.decode(salt), STANDARD_NO_PAD.decode(hash)) else {
            return false;
        };
        password.len() <= LONGEST && pbkdf2::verify(ALGORITHM, iterations, &salt, password.as_bytes(), &hash).is_ok()
    }
}

/// Creates the account, without a sign-in, if it does not exist.
pub fn ensure(tx: &Transaction<'_>, id: &str, now: u64) -> Result<(), DbError> {
    tx.execute("INSERT INTO accounts (id, created_at) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![id, now])?;
    Ok(())
}

/// Sets the sign-in of an account, which is created if it does not exist. Its sessions end, because another person may
/// have known the old password.
pub fn set_sign_in(tx: &Transaction<'_>, id: &str, login: &str, password: &PasswordHash, now: u64) -> Result<(), AccountError> {
    let login = normal(login).ok_or_else(|| AccountError::BadLogin(login.to_owned()))?;
    ensure(tx, id, now)?;
    match tx.execute("UPDATE accounts SET login = ?2, password = ?3 WHERE id = ?1", params![id, login, password.0]) {
        Err(e) if e.is_constraint() => Err(AccountError::Taken(login)),
        done => {
            done?;
            tx.execute("DELETE FROM sessions WHERE account = ?1", [id])?;
            Ok(())
        }
    }
}

/// One account.
pub fn find(connection: &Connection, id: &str) -> Result<Option<Account>, DbError> {
    let mut statement = connection.prepare_cached("SELECT id, login, created_at FROM accounts WHERE id = ?1")?;
    let account = statement.query_row([id], |row| Ok(Account { id: row.get(0)?, login: row.get(1)?, created_at: row.get(2)? }));
    Ok(account.optional()?)
}

/// All accounts, oldest first.
pub fn all(connection: &Connection) -> Result<Vec<Account>, DbError> {
    let mut statement = connection.prepare_cached("SELECT id, login, created_at FROM accounts ORDER BY created_at, rowid")?;
    let accounts = statement.query_map([], |row| Ok(Account { id: row.get(0)?, login: row.get(1)?, created_at: row.get(2)? }))?;
    Ok(accounts.collect::<Result<_, _>>()?)
}

/// The account of a TP-Link ID, with the hash to compare. An unknown name gets a hash that nothing matches, so that
/// the answer takes as long and does not reveal which of the two was wrong.
pub fn credentials(connection: &Connection, login: &str) -> Result<(Option<Account>, PasswordHash), DbError> {
    let nobody = || (None, PasswordHash::of_nobody());
    let Some(login) = normal(login) else { return Ok(nobody()) };
    let mut statement =
        connection.prepare_cached("SELECT id, login, created_at, password FROM accounts WHERE login = ?1 AND password IS NOT NULL")?;
    let found = statement.query_row([login], |row| {
        let account = Account { id: row.get(0)?, login: row.get(1)?, created_at: row.get(2)? };
        Ok((Some(account), PasswordHash(row.get(3)?)))
    });
    Ok(found.optional()?.unwrap_or_else(nobody))
}

/// TP-Link IDs are not case-sensitive.
fn normal(login: &str) -> Option<String> {
    let login = login.trim().to_lowercase();
    let (name, domain) = login.split_once('@')?;
    let plain = !login.chars().any(|c| c.is_whitespace() || c.is_control());
    (plain && !name.is_empty() && !domain.is_empty() && login.len() <= LONGEST).then_some(login)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::storage::db::Db;

    #[test]
    fn a_hash_matches_its_own_password_and_no_other() {
        let hash = PasswordHash::new("correct horse").unwrap();
        assert!(hash.matches("correct horse"));
        assert!(!hash.matches("correct horsf") && !hash.matches(""));
        assert_ne!(hash, PasswordHash::new("correct horse").unwrap(), "each has its own salt");
        assert!(!hash.0.contains("correct"));
        assert!(matches!(PasswordHash::new("short"), Err(AccountError::BadPassword)));
        assert!(!PasswordHash("nonsense".into()).matches("nonsense"));
    }

    #[test]
    fn one_tp_link_id_opens_one_account_whatever_its_capitals() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open(&dir.path().join("care.db")).unwrap();
        let hash = PasswordHash::new("correct horse").unwrap();
        let set = |id: &str, login: &str| db.transact(|tx| set_sign_in(tx, id, login, &hash, 1));
        set("a", "Ann@Example.com").unwrap();
        assert!(matches!(set("b", "ann@example.COM"), Err(AccountError::Taken(_))));
        assert!(matches!(set("b", "ann"), Err(AccountError::BadLogin(_))));
        let found = |login: &str| db.read(|c| credentials(c, login)).unwrap();
        let (account, kept) = found(" ann@example.com ");
        assert_eq!(account.unwrap().id, "a");
        assert!(kept.matches("correct horse"));
        let (account, kept) = found("bob@example.com");
        assert!(account.is_none() && !kept.matches("correct horse"));
    }
}
