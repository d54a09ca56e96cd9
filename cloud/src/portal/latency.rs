//! How long plan changes take: from the arrival of a request at the portal to the arrival of the camera's report.

use crate::{
    domain::issuer::Issued,
    storage::db::{Connection, DbError, Transaction, params},
};

/// Records which documents a click at `at` caused.
pub fn record(tx: &Transaction<'_>, issued: &[Issued], at: i64) -> Result<(), DbError> {
    let sql = "INSERT INTO clicks (document, at) SELECT id, ?4 FROM documents WHERE device = ?1 AND epoch = ?2 AND seq = ?3
               ON CONFLICT DO NOTHING";
    let mut statement = tx.prepare_cached(sql)?;
    for document in issued {
        statement.execute(params![document.device.as_str(), document.position.epoch, document.position.seq, at])?;
    }
    Ok(())
}

/// How long the last plan changes took from click to report, microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    sorted: Vec<i64>,
}

impl Latencies {
    /// Of the newest `most` clicks whose document the camera has applied.
    pub fn read(connection: &Connection, most: usize) -> Result<Self, DbError> {
        let mut statement = connection.prepare_cached(
            "SELECT d.reported_at - c.at FROM clicks c JOIN documents d ON d.id = c.document
             WHERE d.report ->> 'outcome' = 'applied' ORDER BY c.document DESC LIMIT ?1",
        )?;
        let mut sorted = statement.query_map([most], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
        sorted.sort_unstable();
        Ok(Self { sorted })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The given percentile (nearest rank).
    pub fn percentile(&self, percent: usize) -> Option<i64> {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_waits_that_were_there() {
        let latencies = Latencies { sorted: vec![1, 2, 3, 40] };
        assert_eq!((latencies.percentile(50), latencies.percentile(75), latencies.percentile(90)), (Some(2), Some(3), Some(40)));
        assert_eq!(Latencies { sorted: vec![7] }.percentile(50), Some(7));
        assert_eq!(Latencies { sorted: vec![] }.percentile(50), None);
    }
}
