//! Subscriptions as the database has them: what was paid, for which period, and what happens when it ends.

use care_protocol::{Channel, DeviceId, Order, Reason, Refund, RefundKind};
use serde::Serialize;

use crate::{
    domain::{
        catalogue::{Cycle, Tier},
        money::{Period, Zone},
    },
    storage::db::{Connection, DbError},
};

/// A subscription as the database has it.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The running period's order.
    pub order_id: String,
    /// The plan.
    pub tier: Tier,
    /// The camera it is for; `None` for a whole account.
    pub device: Option<DeviceId>,
    /// Where it was bought.
    pub channel: Channel,
    /// How often it is paid.
    pub cycle: Cycle,
    /// What was paid for the running period, minor units.
    pub paid_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// When the running period began, Unix seconds.
    pub started_at: u64,
    /// When it ends, Unix seconds.
    pub period_end: u64,
    /// The time zone whose days are counted.
    pub zone: Zone,
    /// The start from which its periods are computed, Unix seconds.
    pub anchor_at: u64,
    /// How many periods since then are billed.
    pub periods: u32,
    /// When its next step is due, Unix seconds: the next bill, its end, or the end of its grace.
    pub due_at: u64,
    /// Its phase.
    pub phase: Phase,
    /// It is the account's trial: nothing was paid.
    pub trial: bool,
}

/// The phase of a subscription, and what happens at its `due_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Active; the next bill is due then.
    Active,
    /// It ends then: cancelled in its store, or a trial.
    Ending,
    /// Its bill has failed; the plan continues until then.
    Grace,
    /// Its bill was not paid in time: Free, until it is paid; it ends then.
    Hold,
}

impl Phase {
    /// As the database has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Ending => "ending",
            Self::Grace => "grace",
            Self::Hold => "hold",
        }
    }

    fn read(name: &str) -> Option<Self> {
        [Self::Active, Self::Ending, Self::Grace, Self::Hold].into_iter().find(|phase| phase.as_str() == name)
    }
}

/// Subscriptions bought in an app before this time (1 December 2022, UTC) are changed on the portal (FAQ 2116).
const APP_STORES_SINCE: u64 = 1_669_852_800;

impl Subscription {
    /// The period that is paid.
    pub fn period(&self) -> Period {
        Period { start: self.started_at, end: self.period_end, zone: self.zone.clone() }
    }

    /// The refund if it ends at `at` (Unix seconds): what was paid for the remaining whole days.
    pub fn settlement(&self, kind: RefundKind, at: u64) -> Order {
        let amount_minor = self.period().prorated(self.paid_minor, at);
        Order { id: self.order_id.clone(), refund: Refund { kind, amount_minor, currency: self.currency.clone() } }
    }

    /// Whether it can be cancelled and changed on the portal, and not only in its app store.
    pub fn changes_here(&self) -> bool {
        self.channel == Channel::Portal || self.anchor_at < APP_STORES_SINCE
    }

    /// Whether it will have another bill that uses the account's credit.
    pub fn has_bills_here(&self) -> bool {
        self.channel == Channel::Portal && self.phase != Phase::Ending
    }

    /// Whether it covers its cameras at this time.
    pub fn runs_at(&self, at: u64) -> bool {
        match self.phase {
            Phase::Active => true,
            Phase::Ending | Phase::Grace => at < self.due_at,
            Phase::Hold => false,
        }
    }

    /// Why the plan will change at `due_at`, if it will.
    pub(super) fn ends_because(&self) -> Option<Reason> {
        match self.phase {
            Phase::Ending if self.trial => Some(Reason::TrialEnded),
            Phase::Ending => Some(Reason::Cancelled),
            Phase::Grace => Some(Reason::PaymentFailed),
            Phase::Active | Phase::Hold => None,
        }
    }
}

/// The billing cycle of an account; `None` if it has no paid subscription. A trial does not count.
pub fn billing_cycle(connection: &Connection, account: &str) -> Result<Option<Cycle>, DbError> {
    Ok(subscriptions(connection, account)?.iter().find(|subscription| !subscription.trial).map(|subscription| subscription.cycle))
}

/// The subscriptions of an account that have not ended.
pub fn subscriptions(connection: &Connection, account: &str) -> Result<Vec<Subscription>, DbError> {
    let mut statement = connection.prepare_cached(OF_ACCOUNT)?;
    let rows = statement.query_map([account], |row| {
        let text = |i| row.get::<_, String>(i);
        Ok((
            text(0)?,
            text(1)?,
            row.get::<_, Option<String>>(2)?,
            text(3)?,
            text(4)?,
            row.get(5)?,
            text(6)?,
            row.get(7)?,
            row.get(8)?,
            text(9)?,
            (text(10)?, row.get(11)?, row.get(12)?, row.get(13)?, row.get(14)?),
        ))
    })?;
    rows.map(|row| {
        let (order_id, plan, device, channel, cycle, paid_minor, currency, started_at, period_end, state, rest) = row?;
        let (zone, anchor_at, periods, due_at, trial) = rest;
        let damaged = |what, why: String| DbError::Damaged { what, why };
        Ok(Subscription {
            order_id,
            tier: Tier::read(&plan).ok_or_else(|| damaged("subscriptions.plan", plan.clone()))?,
            device: device
                .map(|device| device.parse())
                .transpose()
                .map_err(|e: care_protocol::BadIdent| damaged("subscriptions.device", e.to_string()))?,
            channel: read_channel(&channel).ok_or_else(|| damaged("subscriptions.channel", channel.clone()))?,
            cycle: Cycle::read(&cycle).ok_or_else(|| damaged("subscriptions.cycle", cycle.clone()))?,
            zone: Zone::read(&zone).map_err(|e| damaged("subscriptions.zone", e.to_string()))?,
            anchor_at,
            periods,
            paid_minor,
            currency,
            started_at,
            period_end,
            phase: Phase::read(&state).ok_or_else(|| damaged("subscriptions.state", state.clone()))?,
            due_at,
            trial,
        })
    })
    .collect()
}

/// The channel of this name.
pub fn read_channel(name: &str) -> Option<Channel> {
    Channel::ALL.iter().copied().find(|channel| channel.as_str() == name)
}

/// An account's subscriptions that have not ended.
pub const OF_ACCOUNT: &str = "
    SELECT order_id, plan, device, channel, cycle, paid_minor, currency, started_at, period_end, state,
           zone, anchor_at, periods, due_at, trial FROM subscriptions
    WHERE account = ?1 AND state != 'ended' ORDER BY started_at, rowid";
