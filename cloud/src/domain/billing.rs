//! What time does to a subscription: bills fall due and are paid or declined, grace and hold run out, a trial or a
//! plan cancelled in its store ends. Each step is taken on its own, so that every bill is written even after a long
//! pause.

use care_protocol::{Channel, Reason};

use crate::{
    domain::{
        actions::{ActionError, Done},
        issuer::{Issued, Issuer, Phase, Subscription, subscriptions},
        money::{
            Period,
            ledger::{self, NewOrder},
        },
    },
    storage::db::{Connection, DbError, OptionalExtension as _, Transaction, params},
};

impl Issuer {
    /// Takes every step that is due at `now` and issues the documents that follow. This is how the cloud performs
    /// `next`.
    pub fn end_periods(&self, tx: &Transaction<'_>, now: u64) -> Result<Vec<Issued>, ActionError> {
        let mut issued = Vec::new();
        let accounts = accounts_due(tx, now)?;
        for account in &accounts {
            let due = |s: &Subscription| s.due_at <= now;
            while let Some(first) = subscriptions(tx, account)?.into_iter().filter(due).min_by_key(|s| s.due_at) {
                if let Some(reason) = self.pass(tx, account, &first)? {
                    issued.extend(self.changed(tx, account, reason, None, now)?.issued);
                }
            }
        }
        for account in &accounts {
            self.pay_out_what_nothing_takes(tx, account, now)?;
        }
        Ok(issued)
    }

    /// Takes the next step of one subscription. Returns the reason if the plan changes.
    fn pass(&self, tx: &Transaction<'_>, account: &str, due: &Subscription) -> Result<Option<Reason>, ActionError> {
        match due.phase {
            Phase::Active if self.is_declined(tx, account, due)? => {
                ledger::close_used(tx, &due.order_id, due.period_end)?;
                enter(tx, due, Phase::Grace, due.due_at.saturating_add(self.catalogue.grace_s()))?;
                Ok(Some(Reason::PaymentFailed))
            }
            Phase::Active => {
                self.bill_next(tx, account, due)?;
                Ok(None)
            }
            Phase::Ending => {
                end_used(tx, &due.order_id, due.due_at)?;
                Ok(Some(if due.trial { Reason::TrialEnded } else { Reason::Cancelled }))
            }
            Phase::Grace => {
                enter(tx, due, Phase::Hold, due.due_at.saturating_add(self.catalogue.hold_s()))?;
                Ok(Some(Reason::PaymentFailed))
            }
            // The plan was Free already.
            Phase::Hold => {
                end_used(tx, &due.order_id, due.due_at)?;
                Ok(None)
            }
        }
    }

    /// Declines the account's card from now on. With `grace_s` its running subscriptions count as unpaid at once and
    /// have that many seconds left, so that an engineer can watch the end.
    pub(crate) fn payment_fails(&self, tx: &Transaction<'_>, account: &str, grace_s: Option<u64>, now: u64) -> Result<Done, ActionError> {
        set_declines(tx, account, true)?;
        if let Some(grace_s) = grace_s {
            let paid_here = |s: &Subscription| s.channel == Channel::Portal && s.phase == Phase::Active;
            for unpaid in subscriptions(tx, account)?.into_iter().filter(paid_here) {
                enter(tx, &unpaid, Phase::Grace, now.saturating_add(grace_s))?;
            }
        }
        self.changed(tx, account, Reason::PaymentFailed, None, now)
    }

    /// Accepts the card again and pays the open bills. A plan in grace continues unchanged; a plan on hold starts a
    /// new period today, because days on Free are not billed.
    pub(crate) fn payment_recovers(&self, tx: &Transaction<'_>, account: &str, now: u64) -> Result<Done, ActionError> {
        set_declines(tx, account, false)?;
        for unpaid in subscriptions(tx, account)?.into_iter().filter(|s| matches!(s.phase, Phase::Grace | Phase::Hold)) {
            if unpaid.period_end > now {
                enter(tx, &unpaid, Phase::Active, unpaid.period_end)?;
            } else if unpaid.phase == Phase::Grace {
                self.bill_next(tx, account, &unpaid)?;
            } else {
                let anew = Subscription { anchor_at: now, periods: 0, ..unpaid };
                tx.execute("UPDATE subscriptions SET anchor_at = ?2, periods = 0 WHERE order_id = ?1", params![anew.order_id, now])?;
                self.bill_next(tx, account, &anew)?;
            }
        }
        self.changed(tx, account, Reason::PaymentRecovered, None, now)
    }

    /// Closes the order of the past period and bills the next one, from the account's credit first.
    fn bill_next(&self, tx: &Transaction<'_>, account: &str, old: &Subscription) -> Result<(), ActionError> {
        if ledger::balance(tx, &old.order_id)?.held() > 0 {
            ledger::close_used(tx, &old.order_id, old.period_end)?;
        }
        let period = Period::nth(old.anchor_at, old.periods, old.cycle, &old.zone);
        let price_minor = self.catalogue.price_minor(old.tier, old.cycle);
        let order = NewOrder {
            account,
            tier: old.tier,
            device: old.device.as_ref(),
            channel: old.channel,
            cycle: old.cycle,
            period: &period,
            price_minor,
            currency: &self.catalogue.currency,
        };
        let order_id = ledger::open(tx, &order)?;
        tx.execute(
            "UPDATE subscriptions SET order_id = ?2, paid_minor = ?3, currency = ?4, started_at = ?5, period_end = ?6, due_at = ?6,
                    state = 'active', periods = periods + 1
             WHERE order_id = ?1",
            params![old.order_id, order_id, price_minor, order.currency, period.start, period.end],
        )?;
        Ok(())
    }

    /// Whether the next bill of a subscription would be declined: the card is, and the credit is too small.
    fn is_declined(&self, tx: &Transaction<'_>, account: &str, subscription: &Subscription) -> Result<bool, DbError> {
        let price_minor = self.catalogue.price_minor(subscription.tier, subscription.cycle);
        is_declined(tx, account, subscription.channel, price_minor, &self.catalogue.currency)
    }
}

/// Whether a bill would be declined. Bills of an app store are always paid here.
pub(crate) fn is_declined(
    tx: &Transaction<'_>,
    account: &str,
    channel: Channel,
    price_minor: u64,
    currency: &str,
) -> Result<bool, DbError> {
    Ok(channel == Channel::Portal && declines(tx, account)? && ledger::credit(tx, account, currency)? < price_minor)
}

/// Whether the account's card is declined.
pub fn declines(connection: &Connection, account: &str) -> Result<bool, DbError> {
    let declines = connection.prepare_cached("SELECT declines FROM accounts WHERE id = ?1")?.query_row([account], |row| row.get(0));
    Ok(declines.optional()?.unwrap_or(false))
}

fn set_declines(tx: &Transaction<'_>, account: &str, declines: bool) -> Result<(), ActionError> {
    match tx.execute("UPDATE accounts SET declines = ?2 WHERE id = ?1", params![account, declines])? {
        0 => Err(ActionError::NoAccount(account.to_owned())),
        _ => Ok(()),
    }
}

fn enter(tx: &Transaction<'_>, subscription: &Subscription, phase: Phase, due_at: u64) -> Result<(), DbError> {
    let sql = "UPDATE subscriptions SET state = ?2, due_at = ?3 WHERE order_id = ?1";
    tx.execute(sql, params![subscription.order_id, phase.as_str(), due_at])?;
    Ok(())
}

/// Ends the subscription of this order without a refund.
pub(crate) fn end_used(tx: &Transaction<'_>, order_id: &str, now: u64) -> Result<(), ActionError> {
    tx.execute("UPDATE subscriptions SET state = 'ended' WHERE order_id = ?1", [order_id])?;
    Ok(ledger::close_used(tx, order_id, now)?)
}

fn accounts_due(tx: &Transaction<'_>, now: u64) -> Result<Vec<String>, DbError> {
    let mut statement = tx.prepare_cached(ACCOUNTS_DUE)?;
    let accounts = statement.query_map([now], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(accounts)
}

/// The next time a bill or an end is due, Unix seconds.
pub fn next_due(connection: &Connection) -> Result<Option<u64>, DbError> {
    Ok(connection.prepare_cached(NEXT_DUE)?.query_row([], |row| row.get(0)).optional()?)
}

const ACCOUNTS_DUE: &str =
    "SELECT DISTINCT account FROM subscriptions INDEXED BY subscriptions_due WHERE state != 'ended' AND due_at <= ?1";
const NEXT_DUE: &str = "SELECT due_at FROM subscriptions WHERE state != 'ended' AND due_at >= 0 ORDER BY due_at LIMIT 1";

/// The statements of every look at the clock, for the test of their plans.
pub const STATEMENTS: [&str; 2] = [ACCOUNTS_DUE, NEXT_DUE];
