//! What a statement takes and gives: parameters, rows, values and errors, alike for both databases. Only integers and
//! texts are kept; a flag is the integer 0 or 1.

use thiserror::Error;

/// What can go wrong with a statement.
#[derive(Debug, Error)]
pub enum SqlError {
    /// SQLite.
    #[error("{0}")]
    Sqlite(rusqlite::Error),
    /// PostgreSQL.
    #[error("{}", said(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// The thread that serves the connections could not be started.
    #[error("no thread for the connection to PostgreSQL could be started")]
    NoThread,
    /// A query for one row found none.
    #[error("the query returned no rows")]
    NoRow,
    /// A column is not what the program takes it for.
    #[error("column {column} holds {found}, not {wanted}")]
    Column {
        /// Its place in the row, from 0 on.
        column: usize,
        /// What it holds.
        found: &'static str,
        /// The type in the program.
        wanted: &'static str,
    },
    /// A number that no column can hold.
    #[error("{0} is larger than any number in the database")]
    TooLarge(u64),
    /// A text in a row that cannot be read.
    #[error("{0} is unreadable")]
    Unreadable(&'static str),
}

impl SqlError {
    /// Whether a constraint of the schema refused the change.
    pub fn is_constraint(&self) -> bool {
        match self {
            Self::Sqlite(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation),
            Self::Postgres(e) => e.code().is_some_and(|code| code.code().starts_with("23")),
            _ => false,
        }
    }
}

/// What the server said, or else what happened on the way to it.
fn said(e: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    e.source().map_or_else(|| e.to_string(), |why| format!("{e}: {why}"))
}

impl From<rusqlite::Error> for SqlError {
    fn from(e: rusqlite::Error) -> Self {
        match e {
            rusqlite::Error::QueryReturnedNoRows => Self::NoRow,
            e => Self::Sqlite(e),
        }
    }
}

/// Makes of "no row" an absence.
pub trait OptionalExtension<T> {
    /// `None` if there was no row.
    fn optional(self) -> Result<Option<T>, SqlError>;
}

impl<T> OptionalExtension<T> for Result<T, SqlError> {
    fn optional(self) -> Result<Option<T>, SqlError> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(SqlError::NoRow) => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// A value in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// None.
    Null,
    /// A number, or a flag.
    Integer(i64),
    /// A text.
    Text(&'a str),
}

impl Value<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Null => "NULL",
            Self::Integer(_) => "an integer",
            Self::Text(_) => "a text",
        }
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match *self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// What can be a parameter.
pub trait ToSql {
    /// As the database keeps it.
    fn to_sql(&self) -> Result<Value<'_>, SqlError>;
}

/// What can be read from a column.
pub trait FromSql: Sized {
    /// The value; `None` if it is of another kind, or out of range.
    fn from_sql(value: Value<'_>) -> Option<Self>;
}

macro_rules! small_integers {
    ($($type:ty),*) => {$(
        impl ToSql for $type {
            fn to_sql(&self) -> Result<Value<'_>, SqlError> {
                Ok(Value::Integer(i64::from(*self)))
            }
        }
    )*};
}
small_integers!(bool, i32, i64, u8, u16, u32);

impl ToSql for u64 {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        i64::try_from(*self).map(Value::Integer).map_err(|_| SqlError::TooLarge(*self))
    }
}

impl ToSql for usize {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        i64::try_from(*self).map(Value::Integer).map_err(|_| SqlError::TooLarge(*self as u64))
    }
}

impl ToSql for str {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        Ok(Value::Text(self))
    }
}

impl ToSql for String {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        Ok(Value::Text(self))
    }
}

impl<T: ToSql> ToSql for Option<T> {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        self.as_ref().map_or(Ok(Value::Null), ToSql::to_sql)
    }
}

impl<T: ToSql + ?Sized> ToSql for &T {
    fn to_sql(&self) -> Result<Value<'_>, SqlError> {
        (**self).to_sql()
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl FromSql for $type {
            fn from_sql(value: Value<'_>) -> Option<Self> {
                match value {
                    Value::Integer(number) => number.try_into().ok(),
                    _ => None,
                }
            }
        }
    )*};
}
integers!(i32, i64, u8, u16, u32, u64, usize);

impl FromSql for bool {
    fn from_sql(value: Value<'_>) -> Option<Self> {
        i64::from_sql(value).map(|number| number != 0)
    }
}

impl FromSql for String {
    fn from_sql(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.to_owned()),
            _ => None,
        }
    }
}

impl<T: FromSql> FromSql for Option<T> {
    fn from_sql(value: Value<'_>) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_sql(value).map(Some),
        }
    }
}

/// The parameters of a statement, `?1` and so on.
pub trait Params {
    /// In their order.
    fn values(&self) -> Result<Vec<Value<'_>>, SqlError>;
}

impl Params for &[&dyn ToSql] {
    fn values(&self) -> Result<Vec<Value<'_>>, SqlError> {
        self.iter().map(|parameter| parameter.to_sql()).collect()
    }
}

/// None.
impl Params for [&dyn ToSql; 0] {
    fn values(&self) -> Result<Vec<Value<'_>>, SqlError> {
        Ok(Vec::new())
    }
}

/// One.
impl<T: ToSql> Params for [T; 1] {
    fn values(&self) -> Result<Vec<Value<'_>>, SqlError> {
        Ok(vec![self[0].to_sql()?])
    }
}

/// The parameters of a statement, of different types.
#[macro_export]
macro_rules! params {
    ($($parameter:expr),* $(,)?) => {
        &[$(&$parameter as &dyn $crate::storage::db::ToSql),*] as &[&dyn $crate::storage::db::ToSql]
    };
}

/// A column's place in a row, from 0 on.
pub trait Column {
    /// It.
    fn place(self) -> usize;
}

impl Column for usize {
    fn place(self) -> usize {
        self
    }
}

/// A row of a result.
pub enum Row<'a> {
    /// SQLite's.
    Sqlite(&'a rusqlite::Row<'a>),
    /// PostgreSQL's.
    Postgres(&'a tokio_postgres::Row),
}

impl Row<'_> {
    /// A column's value.
    pub fn get<C: Column, T: FromSql>(&self, column: C) -> Result<T, SqlError> {
        let column = column.place();
        let value: Value<'_> = match self {
            Self::Postgres(row) => row.try_get(column)?,
            Self::Sqlite(row) => match row.get_ref(column)? {
                rusqlite::types::ValueRef::Null => Value::Null,
                rusqlite::types::ValueRef::Integer(number) => Value::Integer(number),
                rusqlite::types::ValueRef::Text(text) => Value::Text(std::str::from_utf8(text).map_err(rusqlite::Error::Utf8Error)?),
                other => {
                    let found = if matches!(other, rusqlite::types::ValueRef::Real(_)) { "a real number" } else { "a blob" };
                    return Err(SqlError::Column { column, found, wanted: std::any::type_name::<T>() });
                }
            },
        };
        T::from_sql(value).ok_or(SqlError::Column { column, found: value.name(), wanted: std::any::type_name::<T>() })
    }
}
