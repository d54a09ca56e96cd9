//! The ledger: one order per bill, with a row for each amount paid, used and given back; rows never change. The
//! database itself refuses a row that would take more out of an order, or out of an account's credit, than was paid
//! in. Closing an order books the remaining amount as used. So used + refunded + credited = paid always holds. Credit
//! that no bill can use is paid out from an order, so that its origin is recorded.

use care_protocol::{Channel, DeviceId, Order, Refund, RefundKind};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::Period;
use crate::{
    domain::catalogue::{Cycle, Tier},
    storage::db::{Connection, DbError, OptionalExtension as _, Transaction, params},
};

/// One bill, before it has its number.
#[derive(Debug)]
pub struct NewOrder<'a> {
    /// The account that pays.
    pub account: &'a str,
    /// For what.
    pub tier: Tier,
    /// For which camera; `None`: the account.
    pub device: Option<&'a DeviceId>,
    /// Where it is paid. A payment to an app store uses no credit.
    pub channel: Channel,
    /// How often.
    pub cycle: Cycle,
    /// For how long.
    pub period: &'a Period,
    /// Minor units.
    pub price_minor: u64,
    /// ISO 4217.
    pub currency: &'a str,
}

/// Where an order's money is, minor units. `paid + credit_used = used + refunded + credited + held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Balance {
    /// With a card, or to the app store.
    pub paid: u64,
    /// From the account's credit.
    pub credit_used: u64,
    /// For days that are over.
    pub used: u64,
    /// Given back.
    pub refunded: u64,
    /// Put to the account's credit.
    pub credited: u64,
    /// Of that, paid out, because no further bill would use it.
    pub paid_out: u64,
}

impl Balance {
    /// The amounts paid in.
    pub fn total(&self) -> u64 {
        self.paid + self.credit_used
    }

    /// The amount not yet booked: 0 once the order is closed.
    pub fn held(&self) -> u64 {
        self.total().saturating_sub(self.used + self.refunded + self.credited)
    }
}

/// Opens an order and books its payment: from the account's credit first, the rest with a card. Returns its id.
pub fn open(tx: &Transaction<'_>, order: &NewOrder<'_>) -> Result<String, DbError> {
    let at = order.period.start;
    let id = next_id(tx, at)?;
    tx.execute(
        "INSERT INTO orders (order_id, account, plan, device, channel, cycle, zone, price_minor, currency, period_start, period_end)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            id,
            order.account,
            order.tier.as_str(),
            order.device.map(DeviceId::as_str),
            order.channel.as_str(),
            order.cycle.as_str(),
            order.period.zone.name(),
            order.price_minor,
            order.currency,
            order.period.start,
            order.period.end,
        ],
    )?;
    let from_credit = match order.channel {
        Channel::Portal => credit(tx, order.account, order.currency)?.min(order.price_minor),
        Channel::AppStore | Channel::PlayStore => 0,
    };
    for (kind, amount) in [("credit_used", from_credit), ("payment", order.price_minor - from_credit)] {
        if amount > 0 {
            book(tx, &id, kind, amount, at)?;
        }
    }
    Ok(id)
}

/// Closes an order at `at`: books the refund or credit, and the rest as used.
pub fn close(tx: &Transaction<'_>, back: &Order, at: u64) -> Result<(), DbError> {
    let kind = match back.refund.kind {
        RefundKind::Refund => "refund",
        RefundKind::Credit => "credit",
    };
    book(tx, &back.id, kind, back.refund.amount_minor, at)?;
    close_used(tx, &back.id, at)
}

/// Closes an order without a refund: the rest is booked as used.
pub fn close_used(tx: &Transaction<'_>, order_id: &str, at: u64) -> Result<(), DbError> {
    book(tx, order_id, "used", balance(tx, order_id)?.held(), at)
}

/// The balance of an order.
pub fn balance(connection: &Connection, order_id: &str) -> Result<Balance, DbError> {
    let mut statement = connection.prepare_cached("SELECT kind, sum(amount_minor) FROM ledger WHERE order_id = ?1 GROUP BY kind")?;
    let mut balance = Balance::default();
    for row in statement.query_map([order_id], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)))? {
        let (kind, sum) = row?;
        match kind.as_str() {
            "payment" => balance.paid = sum,
            "credit_used" => balance.credit_used = sum,
            "used" => balance.used = sum,
            "refund" => balance.refunded = sum,
            "credit" => balance.credited = sum,
            _ => return Err(DbError::Damaged { what: "ledger.kind", why: kind }),
        }
    }
    let paid_out = "SELECT coalesce(sum(amount_minor), 0) FROM payouts WHERE order_id = ?1";
    balance.paid_out = connection.prepare_cached(paid_out)?.query_row([order_id], |row| row.get(0))?;
    Ok(balance)
}

/// The credit of an account, minor units of `currency`. Its next order uses it first.
pub fn credit(connection: &Connection, account: &str, currency: &str) -> Result<u64, DbError> {
    Ok(connection.prepare_cached(CREDIT)?.query_row(params![account, currency], |row| row.get(0))?)
}

/// Pays out the whole credit of an account, newest order first, and returns the amount per order. The caller knows
/// that no further bill would use it.
pub fn pay_out(tx: &Transaction<'_>, account: &str, currency: &str, at: u64) -> Result<Vec<Order>, DbError> {
    let mut left = credit(tx, account, currency)?;
    let mut out = Vec::new();
    let mut statement = tx.prepare_cached(GIVEN)?;
    let given: Vec<(String, u64)> =
        statement.query_map(params![account, currency], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    for (id, given) in given {
        let amount_minor = given.min(left);
        if amount_minor == 0 {
            break;
        }
        let sql = "INSERT INTO payouts (order_id, amount_minor, at) VALUES (?1, ?2, ?3)";
        tx.prepare_cached(sql)?.execute(params![id, amount_minor, at])?;
        left -= amount_minor;
        out.push(Order { id, refund: Refund { kind: RefundKind::Refund, amount_minor, currency: currency.to_owned() } });
    }
    Ok(out)
}

fn book(tx: &Transaction<'_>, order_id: &str, kind: &str, amount_minor: u64, at: u64) -> Result<(), DbError> {
    let sql = "INSERT INTO ledger (order_id, kind, amount_minor, at) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(sql)?.execute(params![order_id, kind, amount_minor, at])?;
    Ok(())
}

/// `KC-YYYY-NNNNNN`, numbered through each year of UTC.
fn next_id(tx: &Transaction<'_>, at: u64) -> Result<String, DbError> {
    let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok()).unwrap_or(Timestamp::MAX);
    let year = format!("KC-{:04}-", at.to_zoned_datetime(TimeZone::UTC).year());
    tx.numbers_alone()?;
    let last: Option<u64> = tx.prepare_cached(LAST_NUMBER)?.query_row([&year], |row| row.get(0)).optional()?;
    Ok(format!("{year}{:06}", last.unwrap_or(0) + 1))
}

const LAST_NUMBER: &str = "
    SELECT CAST(substr(order_id, 9) AS INTEGER) FROM orders WHERE substr(order_id, 1, 8) = ?1
    ORDER BY CAST(substr(order_id, 9) AS INTEGER) DESC LIMIT 1";
// The view `credits` says the same, and reads the whole ledger for it.
const CREDIT: &str = "
    SELECT coalesce(sum(CASE l.kind WHEN 'credit' THEN l.amount_minor WHEN 'credit_used' THEN -l.amount_minor ELSE 0 END), 0)
         - (SELECT coalesce(sum(p.amount_minor), 0) FROM orders b JOIN payouts p ON p.order_id = b.order_id
            WHERE b.account = ?1 AND b.currency = ?2)
    FROM orders a JOIN ledger l ON l.order_id = a.order_id WHERE a.account = ?1 AND a.currency = ?2";
const GIVEN: &str = "
    SELECT order_id, given FROM (
        SELECT o.order_id, o.period_start, o.rowid AS opened,
               (SELECT coalesce(sum(amount_minor), 0) FROM ledger l WHERE l.order_id = o.order_id AND l.kind = 'credit')
             - (SELECT coalesce(sum(amount_minor), 0) FROM payouts p WHERE p.order_id = o.order_id) AS given
        FROM orders o WHERE o.account = ?1 AND o.currency = ?2) AS every
    WHERE given > 0 ORDER BY period_start DESC, opened DESC";

/// The statements that an account's change adds to a change for everybody, for the test of their plans.
pub const STATEMENTS: [&str; 3] = [LAST_NUMBER, CREDIT, GIVEN];
