//! The commands that change a plan: what owners and app stores do.

use care_protocol::{Channel, DeviceId};
use clap::{Args, Subcommand};

use super::{Account, Camera};
use crate::domain::{
    actions::{Action, PaidPlan, Which as Subscription},
    catalogue::Cycle,
    issuer::read_channel,
    money::Zone,
};

/// A subscription: the one that covers a camera, or an account's by its order.
#[derive(Debug, Args)]
pub struct Which {
    /// The camera it covers
    #[arg(long, alias = "id", value_name = "ID", required_unless_present = "order")]
    camera: Option<DeviceId>,
    /// Its order, for a subscription that covers no camera any more
    #[arg(long, requires = "account")]
    order: Option<String>,
    /// The account of --order
    #[arg(long)]
    account: Option<String>,
}

/// What owners and app stores do to a plan.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Subscribe: Plus for one camera, Premium for its account
    Subscribe {
        /// The camera.
        #[command(flatten)]
        camera: Camera,
        /// plus or premium
        #[arg(long, value_parser = plan)]
        plan: PaidPlan,
        /// monthly or annual [default: as the account has it, or monthly]
        #[arg(long, value_parser = cycle)]
        cycle: Option<Cycle>,
        /// portal, app_store or play_store [default: portal]
        #[arg(long, value_parser = channel)]
        channel: Option<Channel>,
        /// The time zone of the bills, such as Europe/Paris [default: UTC]
        #[arg(long, value_parser = Zone::read)]
        zone: Option<Zone>,
    },
    /// End a plan at once
    Cancel(Which),
    /// Change from Premium to Plus at once
    Downgrade(Camera),
    /// Cancel as an app store does: the plan ends with its period
    StoreCancel {
        /// The subscription.
        #[command(flatten)]
        which: Which,
        /// End the period so many seconds from now
        #[arg(long, value_name = "SECONDS")]
        ends_in: Option<u64>,
    },
    /// Take a store-cancel back
    Withdraw(Camera),
    /// Start the account's one free trial
    Trial {
        /// The camera.
        #[command(flatten)]
        camera: Camera,
        /// plus or premium [default: premium]
        #[arg(long, value_parser = plan)]
        plan: Option<PaidPlan>,
        /// End it so many seconds from now
        #[arg(long, value_name = "SECONDS")]
        ends_in: Option<u64>,
    },
    /// Decline the account's card from now on
    PaymentFails {
        /// The account.
        #[command(flatten)]
        account: Account,
        /// Fail the running bills at once, with so much grace
        #[arg(long, value_name = "SECONDS")]
        grace: Option<u64>,
    },
    /// Accept the account's card again
    PaymentRecovers(Account),
    /// Bind a camera to an account
    Bind {
        /// The camera.
        #[command(flatten)]
        camera: Camera,
        /// The account.
        #[command(flatten)]
        account: Account,
    },
    /// Remove a camera from its account
    Unbind(Camera),
}

impl From<PlanCommand> for Action {
    fn from(command: PlanCommand) -> Self {
        match command {
            PlanCommand::Subscribe { camera: Camera { camera }, plan, cycle, channel, zone } => {
                Self::Subscribe { camera, plan, cycle, channel, zone }
            }
            PlanCommand::Cancel(which) => match which.subscription() {
                Subscription::Order { account, order_id } => Self::CancelOrder { account, order_id, quote: None },
                Subscription::OfCamera(camera) => Self::Cancel { camera, quote: None },
            },
            PlanCommand::Downgrade(Camera { camera }) => Self::Downgrade { camera, quote: None },
            PlanCommand::StoreCancel { which, ends_in: ends_in_s } => match which.subscription() {
                Subscription::Order { account, order_id } => Self::StoreCancelOrder { account, order_id, ends_in_s },
                Subscription::OfCamera(camera) => Self::StoreCancel { camera, ends_in_s },
            },
            PlanCommand::Withdraw(Camera { camera }) => Self::Withdraw { camera },
            PlanCommand::Trial { camera: Camera { camera }, plan, ends_in: ends_in_s } => Self::StartTrial { camera, plan, ends_in_s },
            PlanCommand::PaymentFails { account: Account { account }, grace: grace_s } => Self::PaymentFails { account, grace_s },
            PlanCommand::PaymentRecovers(Account { account }) => Self::PaymentRecovers { account },
            PlanCommand::Bind { camera: Camera { camera }, account: Account { account } } => Self::Bind { camera, account },
            PlanCommand::Unbind(Camera { camera }) => Self::Unbind { camera },
        }
    }
}

impl Which {
    fn subscription(self) -> Subscription {
        match (self.order.zip(self.account), self.camera) {
            (Some((order_id, account)), _) => Subscription::Order { account, order_id },
            (None, Some(camera)) => Subscription::OfCamera(camera),
            (None, None) => unreachable!("clap wants --camera unless there is an --order, and --account with it"),
        }
    }
}

fn plan(text: &str) -> Result<PaidPlan, &'static str> {
    PaidPlan::read(text).ok_or("expected plus or premium")
}

fn cycle(text: &str) -> Result<Cycle, &'static str> {
    Cycle::read(text).ok_or("expected monthly or annual")
}

fn channel(text: &str) -> Result<Channel, &'static str> {
    read_channel(text).ok_or("expected portal, app_store or play_store")
}
