//! What an owner or an app store can do to a plan, and the result. `act.rs` carries the actions out, `ending.rs`
//! computes refunds; [`crate::domain::billing`] handles changes that are due.

mod act;
mod ending;

use care_protocol::{Channel, DeviceId, Order, RefundKind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    domain::{catalogue::Cycle, issuer::Issued, money::Zone},
    storage::{
        db::{DbError, Scope, SqlError},
        keys::KeysError,
    },
};

/// Why an action was refused; the message is for the user.
#[derive(Debug, Error)]
pub enum ActionError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// No such camera.
    #[error("there is no camera {0}: add it with `care-cloud camera add`")]
    NoCamera(DeviceId),
    /// The camera is not bound to an account.
    #[error("camera {0} belongs to no account: bind it first")]
    NotBound(DeviceId),
    /// It refuses everything of the binding it had.
    #[error("camera {0} was reset to factory settings and takes nothing of its binding any more: bind it again")]
    WasReset(DeviceId),
    /// Nothing to act on.
    #[error("camera {0} has no subscription")]
    NoSubscription(DeviceId),
    /// Bought in an app store (FAQ 2116).
    #[error("this subscription was bought in the app ({0}): cancel it there; it stays active until its period ends")]
    BoughtInApp(Channel),
    /// The other way round.
    #[error("this subscription was bought on the portal: cancel it there")]
    BoughtOnPortal,
    /// Nothing of this account's runs under this order.
    #[error("no subscription of account {account} runs under the order {order_id}: `care-cloud state` and the orders page list them")]
    NoOrder {
        /// The account.
        account: String,
        /// The order.
        order_id: String,
    },
    /// The plan is there already, or a higher one covers the camera.
    #[error("camera {device} has {plan} already{hint}")]
    HasPlan {
        /// The camera.
        device: DeviceId,
        /// The plan it has.
        plan: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// Another change was made meanwhile, so the result would differ from the one confirmed.
    #[error("this is not what was shown any more: look again what is given back, then confirm")]
    NotAsShown,
    /// No such account.
    #[error("there is no account {0}: it begins with its first camera")]
    NoAccount(String),
    /// All of an account is billed in one rhythm (FAQ 2116).
    #[error(
        "this account is billed {have}, and has one billing cycle for all its cameras: to change it, cancel every subscription, \
         then subscribe again; cancelling erases the history that Free does not keep, and it cannot be recovered"
    )]
    OneCycle {
        /// The cycle it has.
        have: &'static str,
    },
    /// One trial an account.
    #[error("account {0} has had its free trial")]
    TrialUsed(String),
    /// Nothing was paid for it.
    #[error("a trial is not downgraded: subscribe to Plus, or let it end")]
    TrialIsNotDowngraded,
    /// The card.
    #[error("the payment was declined: nothing was bought and nothing changes; try another card")]
    Declined,
    /// Nothing that could be taken back.
    #[error("the subscription of camera {0} was not cancelled in an app store: there is nothing to take back")]
    NothingToWithdraw(DeviceId),
    /// Nothing lower to go to.
    #[error("only Premium can be downgraded to Plus; camera {0} does not have Premium")]
    NotPremium(DeviceId),
}

impl From<SqlError> for ActionError {
    fn from(e: SqlError) -> Self {
        Self::Db(e.into())
    }
}

/// One action, as the portal and the command line ask for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    /// A new plan for a camera (Plus) or for its account (Premium).
    Subscribe {
        /// The camera.
        camera: DeviceId,
        /// `plus` or `premium`.
        plan: PaidPlan,
        /// How often it is paid.
        #[serde(default)]
        cycle: Option<Cycle>,
        /// Where it is bought.
        #[serde(default)]
        channel: Option<Channel>,
        /// Whose days are counted on its bills.
        #[serde(default)]
        zone: Option<Zone>,
    },
    /// Ends the portal subscription that covers the camera, now.
    Cancel {
        /// The camera.
        camera: DeviceId,
        /// The amounts that were shown and confirmed; without it, the present ones.
        #[serde(default)]
        quote: Option<Quote>,
    },
    /// Ends a portal subscription by its order, now: also one that no camera of the account is left under.
    CancelOrder {
        /// The account.
        account: String,
        /// The order of its running period.
        order_id: String,
        /// As with `Cancel`.
        #[serde(default)]
        quote: Option<Quote>,
    },
    /// From Premium to Plus for this camera, now; the account's others get Free.
    Downgrade {
        /// The camera.
        camera: DeviceId,
        /// As with `Cancel`.
        #[serde(default)]
        quote: Option<Quote>,
    },
    /// The owner cancelled in the app store: it ends with its period.
    StoreCancel {
        /// The camera.
        camera: DeviceId,
        /// Lets the period end so many seconds from now, so that one can watch it.
        #[serde(default)]
        ends_in_s: Option<u64>,
    },
    /// The same for a subscription that no camera of the account is left under, by its order.
    StoreCancelOrder {
        /// The account.
        account: String,
        /// The order of its running period.
        order_id: String,
        /// As with `StoreCancel`.
        #[serde(default)]
        ends_in_s: Option<u64>,
    },
    /// The owner changed their mind in the app store before the period ended.
    Withdraw {
        /// The camera.
        camera: DeviceId,
    },
    /// The account's one trial: a plan for nothing, that ends by itself.
    StartTrial {
        /// The camera.
        camera: DeviceId,
        /// Premium, if absent.
        #[serde(default)]
        plan: Option<PaidPlan>,
        /// Lets it end so many seconds from now, so that one can watch it.
        #[serde(default)]
        ends_in_s: Option<u64>,
    },
    /// The account's card is declined: the next bill fails, or with `grace_s` the running plans at once.
    PaymentFails {
        /// The account.
        account: String,
        /// How long the plans then go on.
        #[serde(default)]
        grace_s: Option<u64>,
    },
    /// The account's card works again: unpaid bills are paid.
    PaymentRecovers {
        /// The account.
        account: String,
    },
    /// The camera is bound to an account; its binding epoch rises.
    Bind {
        /// The camera.
        camera: DeviceId,
        /// The account.
        account: String,
    },
    /// The camera leaves its account.
    Unbind {
        /// The camera.
        camera: DeviceId,
    },
}

impl Action {
    /// What it may write. What moves a camera concerns the account that it leaves, too, and whoever relies on its account.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Subscribe { camera, .. }
            | Self::Cancel { camera, .. }
            | Self::Downgrade { camera, .. }
            | Self::StoreCancel { camera, .. }
            | Self::Withdraw { camera }
            | Self::StartTrial { camera, .. } => Scope::camera(camera.as_str()),
            Self::CancelOrder { account, .. }
            | Self::StoreCancelOrder { account, .. }
            | Self::PaymentFails { account, .. }
            | Self::PaymentRecovers { account } => Scope::account(account),
            Self::Bind { .. } | Self::Unbind { .. } => Scope::Everything,
        }
    }
}

/// A plan that costs money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaidPlan {
    /// One camera.
    Plus,
    /// The account.
    Premium,
}

/// Which subscription is meant.
#[derive(Debug, Clone)]
pub enum Which {
    /// The one that covers this camera, or else the one that waits to be paid and would.
    OfCamera(DeviceId),
    /// An account's, by the order of its running period.
    Order {
        /// The account.
        account: String,
        /// The order.
        order_id: String,
    },
}

/// The amounts shown before confirming. They are booked exactly so, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// The subscription's order.
    pub order_id: String,
    /// `refund` or `credit`.
    pub kind: RefundKind,
    /// Minor units.
    pub amount_minor: u64,
    /// When it was shown, Unix seconds.
    pub at: u64,
}

/// The result of an action.
#[derive(Debug, Clone)]
pub struct Done {
    /// The documents it caused.
    pub issued: Vec<Issued>,
    /// Refunds and credits, by order.
    pub back: Vec<Order>,
}
