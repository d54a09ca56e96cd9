//! A connection to the database, and its statements, by the names that rusqlite gave them. Whoever has a statement to
//! run does not ask which database it is.

use std::ops::Deref;

use super::{
    Scope,
    postgres::{Address, Postgres},
    sql::{OptionalExtension as _, Params, Row, SqlError},
};

/// A connection.
pub struct Connection {
    backend: Backend,
}

enum Backend {
    Sqlite(rusqlite::Connection),
    Postgres(Box<Postgres>),
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self { backend: Backend::Sqlite(connection) }
    }
}

impl Connection {
    pub(super) fn to_postgres(address: &Address) -> Result<Self, SqlError> {
        Ok(Self { backend: Backend::Postgres(Box::new(Postgres::connect(address)?)) })
    }

    pub(super) fn to_postgres_once(address: &Address) -> Result<Self, SqlError> {
        Ok(Self { backend: Backend::Postgres(Box::new(Postgres::connect_once(address)?)) })
    }

    /// Begins a transaction that may write this. No other writer of it runs until it ends.
    pub(super) fn begin(&mut self, scope: &Scope) -> Result<Transaction<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => connection.execute_batch("BEGIN IMMEDIATE")?,
            Backend::Postgres(connection) => connection.begin(scope)?,
        }
        Ok(Transaction { connection: self, over: false })
    }

    /// A statement.
    pub fn prepare(&self, sql: &str) -> Result<Statement<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(Statement::Once(connection.prepare(sql)?)),
            Backend::Postgres(connection) => Ok(Statement::Shared(connection, sql.to_owned())),
        }
    }

    /// A statement that stays prepared for the next time.
    pub fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(Statement::Kept(connection.prepare_cached(sql)?)),
            Backend::Postgres(connection) => Ok(Statement::Shared(connection, sql.to_owned())),
        }
    }

    /// Runs a statement once. Returns how many rows it changed.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, SqlError> {
        self.prepare(sql)?.execute(params)
    }

    /// Runs a query once, for one row.
    pub fn query_row<T>(&self, sql: &str, params: impl Params, read: impl FnMut(&Row<'_>) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.prepare(sql)?.query_row(params, read)
    }

    /// Runs statements that take and give nothing.
    pub fn execute_batch(&self, sql: &str) -> Result<(), SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
            Backend::Postgres(connection) => connection.batch(sql),
        }
    }
}

/// A transaction; what it wrote is undone unless it is committed.
pub struct Transaction<'c> {
    connection: &'c Connection,
    over: bool,
}

impl Transaction<'_> {
    pub(super) fn commit(mut self) -> Result<(), SqlError> {
        match &self.connection.backend {
            Backend::Sqlite(connection) => connection.execute_batch("COMMIT")?,
            Backend::Postgres(connection) => connection.commit()?,
        }
        self.over = true;
        Ok(())
    }

    /// From here to its end this transaction alone gives numbers that run through all accounts. Nothing that other
    /// transactions may hold is waited for after it.
    pub fn numbers_alone(&self) -> Result<(), SqlError> {
        match &self.connection.backend {
            Backend::Sqlite(_) => Ok(()),
            Backend::Postgres(connection) => connection.numbers_alone(),
        }
    }
}

impl Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // If even that fails, the database has rolled back by itself, or the connection is lost and does it.
        match &self.connection.backend {
            _ if self.over => {}
            Backend::Sqlite(connection) => drop(connection.execute_batch("ROLLBACK")),
            Backend::Postgres(connection) => connection.roll_back(),
        }
    }
}

/// A prepared statement.
pub enum Statement<'c> {
    /// SQLite's, for this once.
    Once(rusqlite::Statement<'c>),
    /// SQLite's, kept.
    Kept(rusqlite::CachedStatement<'c>),
    /// PostgreSQL's: its connection keeps all of them.
    Shared(&'c Postgres, String),
}

/// Where a statement runs.
enum Runs<'s, 'c> {
    Sqlite(&'s mut rusqlite::Statement<'c>),
    Postgres(&'c Postgres, &'s str),
}

impl<'c> Statement<'c> {
    /// Runs it. Returns how many rows it changed.
    pub fn execute(&mut self, params: impl Params) -> Result<usize, SqlError> {
        let values = params.values()?;
        match self.runs() {
            Runs::Sqlite(statement) => Ok(statement.execute(rusqlite::params_from_iter(values))?),
            Runs::Postgres(connection, sql) => connection.execute(sql, &values),
        }
    }

    /// Its rows, each read by `read`.
    pub fn query_map<T>(
        &mut self,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, SqlError>,
    ) -> Result<std::vec::IntoIter<Result<T, SqlError>>, SqlError> {
        let values = params.values()?;
        let mut all = Vec::new();
        match self.runs() {
            Runs::Sqlite(statement) => {
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                while let Some(row) = rows.next()? {
                    all.push(read(&Row::Sqlite(row)));
                }
            }
            Runs::Postgres(connection, sql) => {
                all.extend(connection.query(sql, &values)?.iter().map(|row| read(&Row::Postgres(row))));
            }
        }
        Ok(all.into_iter())
    }

    /// Its first row.
    ///
    /// # Errors
    /// [`SqlError::NoRow`].
    pub fn query_row<T>(&mut self, params: impl Params, read: impl FnOnce(&Row<'_>) -> Result<T, SqlError>) -> Result<T, SqlError> {
        let values = params.values()?;
        match self.runs() {
            Runs::Sqlite(statement) => {
                let mut rows = statement.query(rusqlite::params_from_iter(values))?;
                read(&Row::Sqlite(rows.next()?.ok_or(SqlError::NoRow)?))
            }
            Runs::Postgres(connection, sql) => read(&Row::Postgres(connection.query(sql, &values)?.first().ok_or(SqlError::NoRow)?)),
        }
    }

    /// Whether it has a row.
    pub fn exists(&mut self, params: impl Params) -> Result<bool, SqlError> {
        Ok(self.query_row(params, |_| Ok(())).optional()?.is_some())
    }

    fn runs(&mut self) -> Runs<'_, 'c> {
        match self {
            Self::Once(statement) => Runs::Sqlite(statement),
            Self::Kept(statement) => Runs::Sqlite(statement),
            Self::Shared(connection, sql) => Runs::Postgres(connection, sql),
        }
    }
}
