//! The plan catalogue: limits and prices of each plan, read from `catalogue.toml`. No other code holds a figure of a
//! plan.

use care_protocol::{Plan, Policy};
use serde::{Deserialize, Serialize};

/// The longest history a plan may have, 30 days (FAQ 2116). The catalogue cannot exceed it.
pub const LONGEST_HISTORY_H: u32 = 30 * 24;
const DAY_S: u64 = 86_400;

/// Every plan on offer.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// ISO 4217.
    pub currency: String,
    free: Free,
    plus: Plus,
    premium: Premium,
    trial: Trial,
    payment: Payment,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trial {
    days: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payment {
    grace_days: u64,
    hold_days: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Free {
    short_history_models: Vec<String>,
    short_history_h: u32,
    policy: Policy,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plus {
    monthly_minor: u64,
    annual_minor: u64,
    policy: Policy,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Premium {
    seats: usize,
    monthly_minor: u64,
    annual_minor: u64,
    policy: Policy,
}

/// A plan of this catalogue, lowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// The plan of every bound camera without a subscription.
    Free,
    /// One camera.
    Plus,
    /// An account's cameras, up to its seats.
    Premium,
}

/// How often a subscription is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cycle {
    /// Every calendar month.
    Monthly,
    /// Every calendar year.
    Annual,
}

impl Tier {
    /// The plan's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Plus => "plus",
            Self::Premium => "premium",
        }
    }

    /// The tier of this name.
    pub fn read(name: &str) -> Option<Self> {
        [Self::Free, Self::Plus, Self::Premium].into_iter().find(|tier| tier.as_str() == name)
    }

    /// The plan as documents carry it.
    pub fn plan(self) -> Plan {
        self.as_str().parse().expect("our plan names are short and plain")
    }
}

impl Cycle {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Monthly => "monthly",
            Self::Annual => "annual",
        }
    }

    /// The cycle of this name.
    pub fn read(name: &str) -> Option<Self> {
        [Self::Monthly, Self::Annual].into_iter().find(|cycle| cycle.as_str() == name)
    }

    /// Its length in calendar months.
    pub fn months(self) -> i64 {
        match self {
            Self::Monthly => 1,
            Self::Annual => 12,
        }
    }
}

impl Catalogue {
    /// The catalogue that is built in.
    pub fn built_in() -> Self {
        toml::from_str(include_str!("../../catalogue.toml")).expect("the catalogue is part of the program and has its test")
    }

    /// The policy of `tier` for a camera of this model.
    pub fn policy(&self, tier: Tier, model: &str) -> Policy {
        let policy = match tier {
            Tier::Free if self.free.short_history_models.iter().any(|short| model.starts_with(short.as_str())) => {
                Policy { history_h: self.free.short_history_h, ..self.free.policy }
            }
            Tier::Free => self.free.policy,
            Tier::Plus => self.plus.policy,
            Tier::Premium => self.premium.policy,
        };
        Policy { history_h: policy.history_h.min(LONGEST_HISTORY_H), ..policy }
    }

    /// The price of `tier` per cycle, minor units.
    pub fn price_minor(&self, tier: Tier, cycle: Cycle) -> u64 {
        match (tier, cycle) {
            (Tier::Free, _) => 0,
            (Tier::Plus, Cycle::Monthly) => self.plus.monthly_minor,
            (Tier::Plus, Cycle::Annual) => self.plus.annual_minor,
            (Tier::Premium, Cycle::Monthly) => self.premium.monthly_minor,
            (Tier::Premium, Cycle::Annual) => self.premium.annual_minor,
        }
    }

    /// How long a trial runs, seconds.
    pub fn trial_s(&self) -> u64 {
        self.trial.days * DAY_S
    }

    /// How long a plan continues after a failed bill, seconds.
    pub fn grace_s(&self) -> u64 {
        self.payment.grace_days * DAY_S
    }

    /// How long it then stays on hold, seconds.
    pub fn hold_s(&self) -> u64 {
        self.payment.hold_days * DAY_S
    }

    /// How many cameras one Premium covers.
    pub fn seats(&self) -> usize {
        self.premium.seats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_history_windows_are_those_of_the_faq() {
        let catalogue = Catalogue::built_in();
        let history = |tier, model| catalogue.policy(tier, model).history_h;
        assert_eq!(history(Tier::Free, "EC70"), 12);
        assert_eq!(history(Tier::Free, "EC60"), 12);
        assert_eq!(history(Tier::Free, "KC420WS"), 48);
        assert_eq!(history(Tier::Plus, "KC420WS"), 14 * 24);
        assert_eq!(history(Tier::Premium, "KC420WS"), 30 * 24);
        assert_eq!(catalogue.seats(), 10);
    }

    #[test]
    fn no_catalogue_keeps_clips_longer_than_30_days() {
        let text = include_str!("../../catalogue.toml").replace("history_h = 720", "history_h = 8760");
        let catalogue: Catalogue = toml::from_str(&text).expect("it is read");
        assert_eq!(catalogue.policy(Tier::Premium, "KC420WS").history_h, 30 * 24);
    }

    #[test]
    fn every_step_down_takes_something_away() {
        let catalogue = Catalogue::built_in();
        let policy = |tier| catalogue.policy(tier, "KC420WS");
        assert!(policy(Tier::Plus).is_less_than(&policy(Tier::Premium)));
        assert!(policy(Tier::Free).is_less_than(&policy(Tier::Plus)));
        assert!(!policy(Tier::Premium).is_less_than(&policy(Tier::Plus)));
    }
}
