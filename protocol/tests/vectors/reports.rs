//! `vectors/reports.json`: reports as cameras send them, and what each tells a publisher that knows its newest
//! document.

use care_protocol::{Cause, Cut, Digest, Erased, Mode, Outcome, Position, Report};
use serde::{Deserialize, Serialize};

use super::{DEVICE, check_names, check_or_write, read};

#[derive(Serialize, Deserialize)]
struct File {
    cases: Vec<Case>,
}

#[derive(Serialize, Deserialize)]
struct Case {
    name: String,
    tests: String,
    newest: Newest,
    report: Report,
    meaning: Meaning,
}

/// The newest document that the publisher has signed for this device.
#[derive(Serialize, Deserialize)]
struct Newest {
    epoch: u64,
    seq: u64,
    digest: Digest,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meaning {
    /// The newest document is in force on the camera.
    obeys: bool,
    /// What is in force would survive a power cut.
    durable: bool,
    /// The publisher's next action; vectors/README.md lists them.
    then: String,
}

const PREMIUM: Position = Position { epoch: 3, seq: 41 };
const CANCEL: Position = Position { epoch: 3, seq: 42 };

fn digest_of(position: Position) -> Digest {
    Digest::of(format!("the payload of {position}").as_bytes())
}

/// The newest document in all cases: the cancel.
fn newest() -> Newest {
    Newest { epoch: CANCEL.epoch, seq: CANCEL.seq, digest: digest_of(CANCEL) }
}

/// The report of an applied cancel.
fn cancelled() -> Report {
    Report {
        device: DEVICE.parse().unwrap(),
        outcome: Outcome::Applied,
        reason: "cancelled".into(),
        detail: None,
        cause: Cause::Document,
        judged: Some(CANCEL),
        epoch: CANCEL.epoch,
        seq: CANCEL.seq,
        digest: Some(digest_of(CANCEL)),
        plan: Some("free".parse().unwrap()),
        mode: Mode::Free,
        persisted: true,
        keyset: 7,
        cut: Cut { transfers: 2, micros: 840, bytes_after: 0 },
        erased: Erased { clips: 3, bytes: 5_242_880 },
        at: "2026-01-01T00:00:00Z".parse().unwrap(),
        agent: "0.1.0".into(),
    }
}

/// The same camera without a cut, with another cause.
fn quiet() -> Report {
    Report { cut: Cut::default(), erased: Erased::default(), ..cancelled() }
}

/// A camera on which the document before the cancel is in force.
fn premium() -> Report {
    Report {
        epoch: PREMIUM.epoch,
        seq: PREMIUM.seq,
        digest: Some(digest_of(PREMIUM)),
        plan: Some("premium".parse().unwrap()),
        mode: Mode::Paid,
        reason: "subscribed".into(),
        judged: Some(PREMIUM),
        ..quiet()
    }
}

/// A camera on which no document is in force.
fn nothing() -> Report {
    Report { epoch: 0, seq: 0, digest: None, plan: None, mode: Mode::Unbound, reason: "unbound".into(), judged: None, ..quiet() }
}

fn rejected(reason: &str, detail: &str, report: Report) -> Report {
    Report { outcome: Outcome::Rejected, reason: reason.into(), detail: Some(detail.into()), judged: Some(CANCEL), ..report }
}

fn cases() -> Vec<Case> {
    let case = |name: &str, report: Report, (obeys, durable, then): (bool, bool, &str)| Case {
        name: name.into(),
        tests: "docs/protocol.md#report".into(),
        newest: newest(),
        report,
        meaning: Meaning { obeys, durable, then: then.into() },
    };
    let fixed = |outcome: Outcome, judged| Report { outcome, reason: outcome.as_str().into(), judged: Some(judged), ..quiet() };
    vec![
        case("a cancel was applied", cancelled(), (true, true, "nothing")),
        case("it came a second time", fixed(Outcome::Duplicate, CANCEL), (true, true, "nothing")),
        case("an older document came again", fixed(Outcome::Stale, PREMIUM), (true, true, "nothing")),
        case("in force, and not on flash yet", Report { persisted: false, ..cancelled() }, (true, false, "nothing")),
        case("the camera has not seen the cancel", premium(), (false, true, "wait")),
        case(
            "paid media waits for a confirmation",
            Report { mode: Mode::Held, cause: Cause::Link, judged: None, ..premium() },
            (false, true, "wait"),
        ),
        case(
            "an earlier change took effect by itself",
            Report { cause: Cause::Next, mode: Mode::Free, judged: None, ..premium() },
            (false, true, "wait"),
        ),
        case("the lease has ended", Report { cause: Cause::Lease, judged: None, ..quiet() }, (true, true, "nothing")),
        case("the agent started", Report { cause: Cause::Boot, judged: None, ..quiet() }, (true, true, "nothing")),
        case(
            "trusted time was corrected",
            Report {
                cause: Cause::Time,
                judged: None,
                detail: Some("the API's Date set trusted time back by 3600 s, from 2026-01-01T01:00:00Z to 2026-01-01T00:00:00Z".into()),
                ..quiet()
            },
            (true, true, "nothing"),
        ),
        case("another document of this position was signed", fixed(Outcome::Conflict, CANCEL), (true, true, "alarm")),
        case(
            "the cancel names another issuer",
            rejected("wrong_issuer", r#"issuer is "prod", this device trusts "care""#, premium()),
            (false, true, "correct"),
        ),
        case(
            "the cancel is signed by a key that the camera does not know",
            rejected("unknown_key", r#"signed with key "2027-01", which this device does not know"#, premium()),
            (false, true, "correct"),
        ),
        case(
            "what came could not be read",
            Report { judged: None, ..rejected("bad_form", "malformed: not three parts", premium()) },
            (false, true, "correct"),
        ),
        case(
            "an upgrade could not be written",
            rejected("not_persisted", "could not be written to flash", premium()),
            (false, true, "wait"),
        ),
        case("the camera was reset", Report { cause: Cause::FactoryReset, ..nothing() }, (false, true, "rebind")),
        case(
            "a renewal came to a camera that was reset",
            rejected("factory_reset", "this device was reset: only a binding with an epoch above 3 is accepted", nothing()),
            (false, true, "rebind"),
        ),
        case(
            "the camera's state is unreadable",
            Report { cause: Cause::StateLost, reason: "state_lost".into(), keyset: 0, ..nothing() },
            (false, true, "restore"),
        ),
    ]
}

/// The rule of vectors/README.md, written with this crate's types.
fn meaning(newest: &Newest, report: &Report) -> Meaning {
    let obeys = (report.epoch, report.seq, report.digest) == (newest.epoch, newest.seq, Some(newest.digest));
    let then = match (report.outcome, report.cause, report.reason.as_str()) {
        (Outcome::Conflict, ..) => "alarm",
        (_, Cause::FactoryReset, _) | (Outcome::Rejected, _, "factory_reset") => "rebind",
        (_, Cause::StateLost, _) | (Outcome::Rejected, _, "state_lost") => "restore",
        (Outcome::Rejected, _, reason) if reason != "not_persisted" => "correct",
        _ if obeys => "nothing",
        _ => "wait",
    };
    Meaning { obeys, durable: report.persisted, then: then.into() }
}

#[test]
fn the_file_matches_the_cases() {
    let cases = cases();
    check_names(cases.iter().map(|case| (case.name.as_str(), case.tests.as_str())));
    check_or_write("reports.json", &File { cases });
}

#[test]
fn every_report_is_read_and_interpreted_as_the_file_says() {
    let file: File = read("reports.json");
    for case in &file.cases {
        assert_eq!(meaning(&case.newest, &case.report), case.meaning, "{}", case.name);
        let characters = case.report.detail.as_ref().map_or(0, |detail| detail.chars().count());
        assert!(characters <= Report::DETAIL_MOST, "{}", case.name);
    }
}
