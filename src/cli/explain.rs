//! `explain`: what a code means, and what to do about it. One table has every code that the camera shows or sends:
//! conditions, outcomes, reasons, causes and modes of reports, reason codes, answers of the cloud, exit codes. Each kind
//! is made by a match, or an array as long as the list in the code, so that a new code does not compile without its
//! words. docs/conditions.md, docs/protocol.md and docs/troubleshooting.md have the same ones.

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use care_protocol::{Cause, Mode, Outcome, Reason, Reject};

use super::{Exit, fold};
use crate::{
    conditions::{Kind, Severity},
    config::nearest,
    rejections::{WORDS, sentence},
};

/// Where a code stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Condition(Severity),
    Rejection,
    Outcome,
    Cause,
    Mode,
    Reason,
    Answer,
    Exit,
}

impl Group {
    /// What such a code is.
    fn title(self) -> &'static str {
        match self {
            Self::Condition(Severity::Warning) => "condition, warning",
            Self::Condition(Severity::Error) => "condition, error",
            Self::Rejection => "reason code of a rejected document",
            Self::Outcome => "outcome in a report",
            Self::Cause => "cause of a report",
            Self::Mode => "mode",
            Self::Reason => "reason of a document",
            Self::Answer => "answer of the API or the store",
            Self::Exit => "exit code",
        }
    }

    /// How its meaning begins.
    fn lead(self) -> &'static str {
        match self {
            Self::Condition(_) | Self::Answer | Self::Exit | Self::Outcome | Self::Mode => "",
            Self::Rejection => "The document was rejected because ",
            Self::Cause => "The agent reports because ",
            Self::Reason => "The document was issued because ",
        }
    }
}

/// A code, its meaning and its remedy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code {
    pub(super) group: Group,
    pub(super) name: &'static str,
    pub(super) meaning: &'static str,
    pub(super) remedy: &'static str,
}

pub(super) fn run(code: Option<&str>, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<Exit> {
    let Some(wanted) = code else { return Ok(list(out).map(|()| Exit::Done)?) };
    let codes = codes();
    let mut found = codes.iter().filter(|code| code.name.eq_ignore_ascii_case(wanted)).peekable();
    if found.peek().is_none() {
        let meant = nearest(&wanted.to_ascii_lowercase(), codes.iter().map(|code| code.name));
        let meant = meant.map_or_else(String::new, |name| format!("; did you mean {name}?"));
        writeln!(err, "kasa-care-agent: {wanted:?} is no code{meant}\nkasa-care-agent explain lists them all")?;
        return Ok(Exit::Usage);
    }
    while let Some(Code { group, name, meaning, remedy }) = found.next() {
        writeln!(out, "{name}: {}", group.title())?;
        writeln!(out, "{}", fold::paragraphs(&sentence(group.lead(), meaning), 2))?;
        writeln!(out, "{}", fold::paragraphs(&sentence("", remedy), 4))?;
        if found.peek().is_some() {
            writeln!(out)?;
        }
    }
    Ok(Exit::Done)
}

/// Every code with its meaning, by group.
fn list(out: &mut dyn Write) -> io::Result<()> {
    let mut title = "";
    for code in codes() {
        if code.group.title() != title {
            let gap = if title.is_empty() { "" } else { "\n" };
            title = code.group.title();
            writeln!(out, "{gap}{title}")?;
        }
        write!(out, "{}", fold::beside(&format!("  {}", code.name), code.meaning, 28))?;
    }
    Ok(())
}

/// The name of every code that `explain` knows, for completions.
pub fn code_names() -> BTreeSet<&'static str> {
    codes().into_iter().map(|code| code.name).collect()
}

/// The table.
pub(super) fn codes() -> Vec<Code> {
    let mut conditions: Vec<_> = Kind::ALL.to_vec();
    conditions.sort_by_key(|kind| std::cmp::Reverse(kind.severity()));
    let code = |group, name, (meaning, remedy)| Code { group, name, meaning, remedy };
    let conditions = conditions.into_iter().map(|kind| Code {
        group: Group::Condition(kind.severity()),
        name: kind.name(),
        meaning: kind.meaning(),
        remedy: kind.advice(),
    });
    conditions
        .chain(Reject::CODES.iter().zip(WORDS).map(|(name, words)| code(Group::Rejection, name, words)))
        .chain(Outcome::ALL.iter().map(|outcome| code(Group::Outcome, outcome.as_str(), self::outcome(*outcome))))
        .chain(Cause::ALL.iter().map(|cause| code(Group::Cause, cause.as_str(), self::cause(*cause))))
        .chain(Mode::ALL.iter().map(|mode| code(Group::Mode, mode.as_str(), self::mode(*mode))))
        .chain(Reason::ALL.iter().map(|reason| code(Group::Reason, reason.as_str(), self::reason(*reason))))
        .chain(ANSWERS.iter().map(|(name, words)| code(Group::Answer, name, *words)))
        .chain([Exit::Done, Exit::Usage, Exit::Internal, Exit::Config].map(|exit| {
            let (name, words) = self::exit(exit);
            code(Group::Exit, name, words)
        }))
        .collect()
}

fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Applied => ("a document, or a change without one, is in force", "nothing to do"),
        Outcome::Duplicate => ("the same document came again", "nothing to do"),
        Outcome::Stale => ("an older document came", "publish a higher sequence, if the document was meant to change something"),
        Outcome::Conflict => (
            "another document with the same position came: an alarm",
            "publish a document with a higher sequence, and find out why two have the same",
        ),
        Outcome::Rejected => {
            ("the document was refused; reason is the code", "look up the reason code; detail has what was expected and what came")
        }
    }
}

fn cause(cause: Cause) -> (&'static str, &'static str) {
    match cause {
        Cause::Document => ("it judged a document", "read outcome and reason"),
        Cause::Next => ("a next took effect", "nothing to do; publish the document that follows it"),
        Cause::Lease => ("the lease ended", "restore the camera's connection; the cloud must renew leases"),
        Cause::Boot => ("it started, or its [free] changed", "nothing to do"),
        Cause::Link => {
            ("the connection was lost, or the broker delivers nothing", "restore the connection: check-config --connect names the step")
        }
        Cause::Confirmed => ("the cloud confirmed what is on record", "nothing to do"),
        Cause::Refused => ("a grant was refused with 402 or 403", "compare the cloud's record of the plan with the document in force"),
        Cause::StateLost => ("its state could not be read", "nothing, if the API answers: the camera asks over HTTPS"),
        Cause::FactoryReset => ("the camera was reset", "bind it to an account again, under a higher epoch"),
        Cause::Time => ("trusted time was corrected by more than 10 minutes", "nothing, if the new time is right"),
    }
}

fn mode(mode: Mode) -> (&'static str, &'static str) {
    match mode {
        Mode::Unbound => (
            "nothing is in force, or the document's reason is unbound: nothing leaves",
            "add the camera to an account; the cloud then publishes its entitlement",
        ),
        Mode::Free => ("the plan is free, or the lease has ended", "if the account has paid: the cloud must publish a higher sequence"),
        Mode::Paid => ("any other plan, confirmed", "nothing to do"),
        Mode::Held => (
            "any other plan, but what exceeds [free] waits for confirmation",
            "it ends when the broker or the API answers; check the connections if it lasts",
        ),
    }
}

fn reason(reason: Reason) -> (&'static str, &'static str) {
    let meaning = match reason {
        Reason::Subscribed => "a paid plan began",
        Reason::Upgraded => "the plan is a higher one now",
        Reason::Downgraded => "the plan is a lower one now",
        Reason::Cancelled => "the owner cancelled",
        Reason::Renewed => "the same plan has a new lease",
        Reason::TrialStarted => "a trial began",
        Reason::TrialEnded => "a trial ended",
        Reason::PaymentFailed => "a payment failed",
        Reason::PaymentRecovered => "a failed payment came in after all",
        Reason::Refunded => "the owner was given the money back",
        Reason::SeatLimit => "Premium has no seat left for this camera",
        Reason::Bound => "the camera was bound to an account",
        Reason::Unbound => "the camera belongs to no account; clips and snapshots are false",
    };
    (
        meaning,
        "nothing on the camera: the reason is for people, and the camera obeys the policy alone. Where it is wrong, look at the account",
    )
}

/// What the API says to a grant request, and what else its numbers mean.
const ANSWERS: [(&str, (&str, &str)); 15] = {
    const CLIP: (&str, &str) =
        ("there is something wrong with this one clip; others go on", "ask the operator of API or store; clip_failing quotes the answer");
    const PLAN: (&str, &str) = (
        "the plan or the binding does not allow it, says the API to a grant request; what exceeds [free] waits. 403 of a store: the grant is \
         not good any more, and the camera asks for a fresh one",
        "compare the cloud's record of the plan with the document in force: see grant_refused. A store: its clock, and the keys that sign grants",
    );
    const LATER: (&str, &str) = (
        "not now; the camera tries again after growing pauses",
        "see the log of the API or the store; Retry-After is obeyed up to an hour",
    );
    [
        ("400", ("the request is malformed", "agent and API are of different versions, or something between them changes requests")),
        (
            "401",
            (
                "not now: the API does not know who asks; the camera tries again after growing pauses",
                "register this device's certificate with the cloud",
            ),
        ),
        ("402", PLAN),
        ("403", PLAN),
        (
            "404",
            (
                "there is none: the cloud has no entitlement for this device, or no keyset",
                "add the camera to an account; the cloud must then have an entitlement for it",
            ),
        ),
        ("409", CLIP),
        ("411", CLIP),
        ("412", CLIP),
        ("413", CLIP),
        ("415", CLIP),
        ("422", CLIP),
        ("429", LATER),
        ("500", LATER),
        ("502", LATER),
        ("503", LATER),
    ]
};

fn exit(exit: Exit) -> (&'static str, (&'static str, &'static str)) {
    match exit {
        Exit::Done => ("0", ("done", "nothing to do")),
        Exit::Usage => ("64", ("the command line is wrong", "compare it with kasa-care-agent COMMAND --help")),
        Exit::Internal => (
            "70",
            (
                "it could not be done: the agent does not answer, a token is refused (with its reason code), a step of --connect failed, the \
                 agent is running (factory-reset), or an internal error",
                "act on the last line that was printed",
            ),
        ),
        Exit::Config => ("78", ("the configuration, or a file that it names, is wrong", "check-config lists every fault with its line")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOL: &str = include_str!("../../docs/protocol.md");
    const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
    const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");

    /// The rows below a table's header, as cells without the marks of Markdown.
    fn rows(document: &str, header: &str) -> Vec<Vec<String>> {
        let (_, table) = document.split_once(&format!("\n{header}\n")).unwrap_or_else(|| panic!("no table {header}"));
        let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| plain(cell.trim())).collect()).collect()
    }

    /// Without backticks and the targets of links.
    fn plain(cell: &str) -> String {
        let mut text = String::new();
        let mut rest = cell;
        while let Some((before, link)) = rest.split_once('[') {
            text += before;
            let Some((words, after)) = link.split_once("](") else {
                text.push('[');
                rest = link;
                continue;
            };
            text += words;
            rest = after.split_once(')').map_or("", |(_, rest)| rest);
        }
        (text + rest).replace('`', "").replace("protocol.md", "docs/protocol.md")
    }

    fn explained(code: &str) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(Some(code), &mut out, &mut err).unwrap();
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn of(group: Group) -> Vec<Code> {
        codes().into_iter().filter(|code| code.group == group).collect()
    }

    #[test]
    fn every_code_has_words_and_is_found() {
        for Code { group, name, meaning, remedy } in codes() {
            assert!(!meaning.is_empty() && !remedy.is_empty(), "{name}");
            let (exit, out, _) = explained(name);
            assert_eq!(exit, Exit::Done);
            assert!(out.contains(&format!("{name}: {}\n", group.title())), "{out}");
            assert!(out.lines().all(|line| line.chars().count() <= fold::WIDTH), "{out}");
        }
        let held = explained("held").1;
        assert!(held.contains("held: condition, warning\n") && held.contains("\nheld: mode\n"), "{held}");
        assert_eq!(explained("HELD").0, Exit::Done);
    }

    #[test]
    fn what_is_not_a_code_gives_the_nearest_and_64() {
        let (exit, out, err) = explained("wrong_audiense");
        assert_eq!((exit, out.as_str()), (Exit::Usage, ""));
        assert!(err.contains("did you mean wrong_audience?"), "{err}");
        let (exit, _, err) = explained("xyzzy");
        assert!(exit == Exit::Usage && !err.contains("mean") && err.contains("explain lists them all"), "{err}");
    }

    #[test]
    fn the_list_has_every_code_once_in_each_group() {
        let mut out = Vec::new();
        run(None, &mut out, &mut Vec::new()).unwrap();
        let out = String::from_utf8(out).unwrap();
        let listed: Vec<_> = out.lines().filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' '))).collect();
        assert_eq!(listed.len(), codes().len(), "{out}");
        let different: BTreeSet<_> = codes().iter().map(|code| (code.name, code.group.title())).collect();
        assert_eq!(different.len(), codes().len());
    }

    #[test]
    fn the_protocol_has_the_same_words() {
        for (group, header) in [
            (Group::Rejection, "| code | the document was rejected because |"),
            (Group::Outcome, "| `outcome` | meaning |"),
            (Group::Cause, "| `cause` | the agent reports because |"),
            (Group::Mode, "| mode | when |"),
            (Group::Reason, "| `reason` | the document was issued because |"),
        ] {
            let ours: Vec<_> = of(group).iter().map(|code| vec![code.name.to_owned(), code.meaning.to_owned()]).collect();
            assert_eq!(ours, rows(PROTOCOL, header), "{header}");
        }
    }

    #[test]
    fn every_answer_of_the_protocol_but_the_good_ones_is_explained() {
        let known: Vec<_> = of(Group::Answer).iter().map(|code| code.name).collect();
        for row in rows(PROTOCOL, "| request | the cloud answers | body |") {
            for status in row[1].split(", ").filter(|status| !status.starts_with('2')) {
                let same = |known: &&str| *known == status || status == "5xx" && known.starts_with('5');
                assert!(known.iter().any(same), "{status}");
            }
        }
    }

    #[test]
    fn the_exit_codes_are_those_of_the_document() {
        let ours: Vec<_> = of(Group::Exit).iter().map(|code| vec![code.name.to_owned(), code.meaning.to_owned()]).collect();
        assert_eq!(ours, rows(CONFIGURATION, "| exit code | means |"));
        for code in [Exit::Done, Exit::Usage, Exit::Internal, Exit::Config] {
            assert_eq!(exit(code).0, (code as u8).to_string());
        }
    }

    #[test]
    fn troubleshooting_has_the_same_remedies() {
        let mut seen = BTreeSet::new();
        for row in rows(TROUBLESHOOTING, "| code | do this |") {
            for name in row[0].split(", ") {
                let code = of(Group::Rejection).into_iter().find(|code| code.name == name).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(code.remedy, row[1], "{name}");
                seen.insert(code.name);
            }
        }
        assert_eq!(seen.len(), Reject::CODES.len());
    }
}
