//! A connection to the database, and its statements, by the names that rusqlite gave them. Whoever has a statement to
//! run does not ask which database it is.

use std::ops::Deref;

use super::sql::{OptionalExtension as _, Params, Row, SqlError};

/// A connection.
pub struct Connection {
    backend: Backend,
}

enum Backend {
    Sqlite(rusqlite::Connection),
}

impl From<rusqlite::Connection> for Connection {
    fn from(connection: rusqlite::Connection) -> Self {
        Self { backend: Backend::Sqlite(connection) }
    }
}

impl Connection {
    /// Begins a transaction that may write. No other writer runs until it ends.
    pub(super) fn begin(&mut self) -> Result<Transaction<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => connection.execute_batch("BEGIN IMMEDIATE")?,
        }
        Ok(Transaction { connection: self, over: false })
    }

    /// A statement.
    pub fn prepare(&self, sql: &str) -> Result<Statement<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(Statement::Once(connection.prepare(sql)?)),
        }
    }

    /// A statement that stays prepared for the next time.
    pub fn prepare_cached(&self, sql: &str) -> Result<Statement<'_>, SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(Statement::Kept(connection.prepare_cached(sql)?)),
        }
    }

    /// Runs a statement once. Returns how many rows it changed.
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize, SqlError> {
        self.prepare(sql)?.execute(params)
    }

    /// Runs a query once, for one row.
    pub fn query_row<T>(&self, sql: &str, params: impl Params, read: impl FnOnce(&Row<'_>) -> Result<T, SqlError>) -> Result<T, SqlError> {
        self.prepare(sql)?.query_row(params, read)
    }

    /// Runs statements that take and give nothing.
    pub fn execute_batch(&self, sql: &str) -> Result<(), SqlError> {
        match &self.backend {
            Backend::Sqlite(connection) => Ok(connection.execute_batch(sql)?),
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
        self.connection.execute_batch("COMMIT")?;
        self.over = true;
        Ok(())
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
        if !self.over {
            drop(self.connection.execute_batch("ROLLBACK"));
        }
    }
}

/// A prepared statement.
pub enum Statement<'c> {
    /// SQLite's, for this once.
    Once(rusqlite::Statement<'c>),
    /// SQLite's, kept.
    Kept(rusqlite::CachedStatement<'c>),
}

impl<'c> Statement<'c> {
    /// Runs it. Returns how many rows it changed.
    pub fn execute(&mut self, params: impl Params) -> Result<usize, SqlError> {
        Ok(self.sqlite().execute(rusqlite::params_from_iter(params.values()?))?)
    }

    /// Its rows, each read by `read`.
    pub fn query_map<T>(
        &mut self,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T, SqlError>,
    ) -> Result<std::vec::IntoIter<Result<T, SqlError>>, SqlError> {
        let mut rows = self.sqlite().query(rusqlite::params_from_iter(params.values()?))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(&Row::Sqlite(row)));
        }
        Ok(all.into_iter())
    }

    /// Its first row.
    ///
    /// # Errors
    /// [`SqlError::NoRow`].
    pub fn query_row<T>(&mut self, params: impl Params, read: impl FnOnce(&Row<'_>) -> Result<T, SqlError>) -> Result<T, SqlError> {
        let mut rows = self.sqlite().query(rusqlite::params_from_iter(params.values()?))?;
        let row = rows.next()?.ok_or(SqlError::NoRow)?;
        read(&Row::Sqlite(row))
    }

    /// Whether it has a row.
    pub fn exists(&mut self, params: impl Params) -> Result<bool, SqlError> {
        Ok(self.query_row(params, |_| Ok(())).optional()?.is_some())
    }

    fn sqlite(&mut self) -> &mut rusqlite::Statement<'c> {
        match self {
            Self::Once(statement) => statement,
            Self::Kept(statement) => statement,
        }
    }
}
