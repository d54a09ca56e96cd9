//! The device's subscriptions, and the meaning of a SUBACK.

use care_protocol::Topics;
use rumqttc::{SubAck, SubscribeReasonCode};

use super::{LinkFault, Stage, fault::GIVE_RIGHTS};

/// The topics of this device, in the order in which they are subscribed to.
pub(super) fn filters(topics: &Topics) -> [String; 3] {
    [topics.entitlement(), topics.answer(), topics.keyset()]
}

/// Whether SUBACK grants `entitlement`, the first filter; with QoS 0 too (scenario 57).
pub(super) fn granted(suback: &SubAck, topics: &Topics, peer: &str) -> Result<(), LinkFault> {
    match suback.return_codes.first() {
        Some(SubscribeReasonCode::Success(_)) => Ok(()),
        _ => {
            let reason = format!("{peer} refuses the subscription to {}", topics.entitlement());
            Err(LinkFault::new(Stage::Suback, reason).advising(GIVE_RIGHTS))
        }
    }
}

/// The topics that SUBACK refuses.
pub(super) fn refused(suback: &SubAck, topics: &Topics) -> Vec<String> {
    let codes = suback.return_codes.iter();
    let refused = filters(topics).into_iter().zip(codes).filter(|(_, code)| **code == SubscribeReasonCode::Failure);
    refused.map(|(topic, _)| topic).collect()
}
