//! The content of the engineers' page besides the documents: the last reports, the keys, and the experiments in
//! progress.

use care_protocol::{DeviceId, Report};
use serde::Serialize;

use super::experiments::Lab;
use crate::storage::db::{Connection, DbError};

/// How many reports the page shows.
const REPORTS: usize = 50;

/// The content of the page besides the documents.
#[derive(Debug, Serialize)]
pub struct Overview {
    /// The last reports, newest first.
    pub reports: Vec<ReportView>,
    /// The keyset's version.
    pub keyset: u64,
    /// The key that signs.
    pub kid: String,
    /// The keys that are revoked.
    pub revoked: Vec<String>,
    /// Whose grants are refused, until when (Unix seconds); `null`: all cameras'.
    pub refusing: Vec<(Option<DeviceId>, u64)>,
    /// How many cameras are simulated.
    pub simulated: usize,
}

/// One report as it was received.
#[derive(Debug, Serialize)]
pub struct ReportView {
    /// Microseconds since 1970.
    pub received_us: i64,
    /// Its text.
    pub report: Report,
}

impl Lab {
    /// Reads the content of the page.
    pub async fn overview(&self) -> Result<Overview, DbError> {
        let reports = self.cloud.db.read_async(|connection| recent_reports(connection, REPORTS)).await?;
        let keys = self.cloud.issuer.keys.current();
        let now = self.cloud.clock.now_s();
        let refusing = self.cloud.refused_grants.at(now);
        Ok(Overview {
            reports,
            keyset: keys.keyset.version,
            kid: keys.signer.kid().to_owned(),
            revoked: keys.keyset.revoked.clone(),
            refusing,
            simulated: self.fleet.len(),
        })
    }
}

fn recent_reports(connection: &Connection, limit: usize) -> Result<Vec<ReportView>, DbError> {
    let mut statement = connection.prepare_cached("SELECT received_at, body FROM reports ORDER BY id DESC LIMIT ?1")?;
    let rows = statement.query_map([limit], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    rows.map(|row| {
        let (received_us, body) = row?;
        let report = serde_json::from_str(&body).map_err(|e| DbError::Damaged { what: "reports.body", why: e.to_string() })?;
        Ok(ReportView { received_us, report })
    })
    .collect()
}
