//! The recent rejections, one for each source of documents. The status shows them to the publisher even while no
//! report can be sent. A rejection ends when a valid document arrives from the same source, when a newer document
//! comes into force, or after a day without another.

use std::{collections::BTreeMap, fmt, time::Duration};

use care_protocol::Reject;

/// How long a rejection is remembered without another.
const REMEMBERED: Duration = Duration::from_secs(86_400);

/// The source of a document, as its publisher knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// On the entitlement topic.
    Topic,
    /// On the answer topic.
    Answer,
    /// The entitlement over HTTPS.
    Https,
    /// On the keyset topic.
    KeysetTopic,
    /// The keyset over HTTPS.
    KeysetHttps,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "the document on the entitlement topic",
            Self::Answer => "the document that answers a get",
            Self::Https => "the document that the API serves",
            Self::KeysetTopic => "the keyset on its topic",
            Self::KeysetHttps => "the keyset that the API serves",
        })
    }
}

/// The newest rejection from each source.
#[derive(Debug, Default)]
pub(super) struct Rejections(BTreeMap<Way, Rejection>);

#[derive(Debug)]
struct Rejection {
    /// BOOTTIME.
    at: Duration,
    code: &'static str,
    why: String,
}

impl Rejections {
    /// Records that a document from this source was rejected now (BOOTTIME).
    pub(super) fn note(&mut self, way: Way, reject: &Reject, now: Duration) {
        // None of these is the publisher's fault, and each is reported elsewhere.
        if !matches!(reject.code(), "state_lost" | "not_persisted" | "factory_reset") {
            self.0.insert(way, Rejection { at: now, code: reject.code(), why: reject.detail() });
        }
    }

    /// Records a valid document from this source.
    pub(super) fn over(&mut self, way: Way) {
        self.0.remove(&way);
    }

    /// A newer entitlement comes into force.
    pub(super) fn superseded(&mut self) {
        self.0.retain(|way, _| matches!(way, Way::KeysetTopic | Way::KeysetHttps));
    }

    /// The rejected documents and the reasons, in a sentence; `None` if there were none recently.
    pub(super) fn sentence(&self, now: Duration) -> Option<String> {
        let sentences: Vec<_> = self.recent(now).map(|(way, Rejection { why, .. })| format!("{way} is rejected: {why}")).collect();
        (!sentences.is_empty()).then(|| sentences.join("; "))
    }

    /// The reason code of the newest of them.
    pub(super) fn code(&self, now: Duration) -> Option<&'static str> {
        self.recent(now).map(|(_, rejection)| rejection).max_by_key(|rejection| rejection.at).map(|rejection| rejection.code)
    }

    fn recent(&self, now: Duration) -> impl Iterator<Item = (&Way, &Rejection)> {
        self.0.iter().filter(move |(_, rejection)| now.saturating_sub(rejection.at) < REMEMBERED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn issuer(got: &str) -> Reject {
        Reject::WrongIssuer { got: got.into(), expected: "care".into() }
    }

    #[test]
    fn a_rejection_holds_until_a_valid_document_comes_the_same_way() {
        let mut rejections = Rejections::default();
        rejections.note(Way::Topic, &issuer("prod"), HOUR);
        rejections.over(Way::Https);
        let said = rejections.sentence(HOUR).unwrap();
        assert_eq!(said, r#"the document on the entitlement topic is rejected: issuer is "prod", this device trusts "care""#);
        rejections.over(Way::Topic);
        assert_eq!(rejections.sentence(HOUR), None);
    }

    #[test]
    fn a_newer_document_in_force_ends_those_of_entitlements_and_no_keyset_s() {
        let mut rejections = Rejections::default();
        rejections.note(Way::Answer, &issuer("prod"), HOUR);
        rejections.note(Way::KeysetTopic, &Reject::OldKeyset { got: 6, least: 7 }, HOUR);
        assert!(rejections.sentence(HOUR).unwrap().contains("; "), "both are told of");
        rejections.note(Way::Answer, &issuer("prod"), 2 * HOUR);
        assert_eq!(rejections.code(2 * HOUR), Some("wrong_issuer"), "the newest one");
        rejections.superseded();
        let said = rejections.sentence(HOUR).unwrap();
        assert_eq!(said, "the keyset on its topic is rejected: keyset version is 6, this device accepts 7 and above");
    }

    #[test]
    fn a_day_without_another_ends_it() {
        let mut rejections = Rejections::default();
        rejections.note(Way::Topic, &issuer("prod"), HOUR);
        rejections.note(Way::Topic, &issuer("test"), 20 * HOUR);
        assert!(rejections.sentence(43 * HOUR).unwrap().contains("test"));
        assert_eq!((rejections.sentence(44 * HOUR), rejections.code(44 * HOUR)), (None, None));
    }

    #[test]
    fn what_is_not_the_publisher_s_fault_is_no_rejection_of_his() {
        let mut rejections = Rejections::default();
        rejections.note(Way::Topic, &Reject::StateLost, HOUR);
        rejections.note(Way::Topic, &Reject::NotPersisted, HOUR);
        assert_eq!(rejections.sentence(HOUR), None);
    }
}
