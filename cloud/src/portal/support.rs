//! What support asks for: the TP-Link ID, the order ID, the last error; on a page from which it can be copied.

use std::sync::Arc;

use askama::Template;
use axum::{extract::State, response::Response};
use care_protocol::Report;

use super::{
    Portal,
    cameras::Household,
    frame::Frame,
    language::machine_time,
    page::{failed, html},
    translations::{fill, judgement, name_of},
};
use crate::{
    portal::account_view,
    storage::db::{Connection, DbError, OptionalExtension as _},
};

#[derive(Template)]
#[template(path = "support.html")]
struct Page {
    frame: Frame,
    facts: Vec<(String, String)>,
    text: String,
    rows: usize,
}

/// The page.
pub async fn page(State(portal): State<Arc<Portal>>, Household { account, view, context }: Household) -> Response {
    let cloud = &portal.cloud;
    let orders = match account_view::orders(cloud, &account).await {
        Ok(orders) => orders,
        Err(e) => return failed(&context, &e.into()),
    };
    let asked = account.clone();
    let error = match cloud.db.read_async(move |connection| last_error(connection, &asked)).await {
        Ok(error) => error,
        Err(e) => return failed(&context, &e.into()),
    };
    let t = context.language.translations();
    let all = orders.iter().map(|order| order.order_id.as_str()).collect::<Vec<_>>();
    let error = error.map(|(report, at)| {
        let at = machine_time(u64::try_from(at / 1_000_000).unwrap_or(0));
        fill(&t.error_line, &[("camera", report.device.as_str()), ("at", &at), ("judgement", &judgement(t, &report))])
    });
    let mut facts = vec![
        (t.tp_link_id.clone(), context.user.as_ref().map_or_else(String::new, |user| user.login().to_owned())),
        (t.account.clone(), account),
        (t.last_order.clone(), all.first().map_or_else(|| t.none.clone(), |id| (*id).to_owned())),
        (t.last_error.clone(), error.unwrap_or_else(|| t.no_error.clone())),
    ];
    if all.len() > 1 {
        facts.insert(3, (t.all_orders.clone(), all.join(", ")));
    }
    for camera in &view.cameras {
        let agent = camera.reported.report.as_ref().map_or("?", |report| &report.agent);
        let plan = name_of(&t.plan, camera.plan.as_str());
        let values = [("camera", camera.device.as_str()), ("model", &camera.model), ("plan", &plan), ("agent", agent)];
        facts.push((t.camera.clone(), fill(&t.camera_line, &values)));
    }
    let text = facts.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>();
    html(&Page { frame: context.frame(), rows: text.len() + 1, text: text.join("\n"), facts })
}

/// The last negative report of this account's cameras since they were bound to it.
fn last_error(connection: &Connection, account: &str) -> Result<Option<(Report, i64)>, DbError> {
    let mut statement = connection.prepare_cached(
        "SELECT r.body, r.received_at FROM reports r JOIN cameras c ON c.device = r.device
         WHERE c.account = ?1 AND c.bound = 1 AND CAST(r.body ->> 'epoch' AS BIGINT) = c.epoch AND r.body ->> 'outcome' IN ('rejected', 'conflict', 'stale')
         ORDER BY r.id DESC LIMIT 1",
    )?;
    let found = statement.query_row([account], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).optional()?;
    found
        .map(|(body, at)| match serde_json::from_str(&body) {
            Ok(report) => Ok((report, at)),
            Err(e) => Err(DbError::Damaged { what: "reports.body", why: e.to_string() }),
        })
        .transpose()
}
