//! An operator's drill: the faults that befall such cameras, injected from outside one after the other. For each,
//! `status`, `/status.json` and the page name it and say what to do, the log stays short, and once the fault is mended
//! the agent says so. [`faults::FAULTS`] is the table, which docs/troubleshooting.md shows; each test of this folder
//! plays one group of it with an agent of its own.
//!
//! Behaviour under a fault is the subject of other scenarios; this one is about what people see.

mod api;
mod broker;
mod camera;
mod card;
mod catalogue;
mod certificates;
mod clips;
mod documents;
mod faults;
mod flash;
mod network;
mod starts;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use care_tests::{
    agent::Agent,
    status::{self, Status},
    wait::{PATIENCE, RECONNECT},
    world::World,
};
use kasa_care_agent::conditions::Kind;

use self::faults::{FAULTS, Fault, Group, Shows};

/// The log lines that a fault may cost, from its beginning to its end, at the default level.
const MOST_LINES: usize = 20;

/// One group of the table being played.
struct Drill {
    group: Group,
    met: Vec<&'static str>,
}

/// A fault that is about to happen.
struct Meeting {
    fault: &'static Fault,
    /// The line of the log at which it begins.
    line: usize,
    began: Instant,
}

impl Drill {
    fn new(group: Group) -> Self {
        Self { group, met: Vec::new() }
    }

    /// The fault of this name, which is injected from here on.
    fn fault(&mut self, agent: &Agent, what: &str) -> Meeting {
        let fault = FAULTS.iter().find(|fault| fault.what == what).unwrap_or_else(|| panic!("{what} is not in the table"));
        assert_eq!(fault.group, self.group, "{what}");
        self.met.push(fault.what);
        Meeting { fault, line: agent.log().len(), began: Instant::now() }
    }

    /// Every fault of the group was played.
    fn end(self) {
        let all = FAULTS.iter().filter(|fault| fault.group == self.group).map(|fault| fault.what);
        let missing: Vec<_> = all.filter(|what| !self.met.contains(what)).collect();
        assert!(missing.is_empty(), "not played: {missing:?}");
    }
}

impl Meeting {
    fn kind(&self) -> Kind {
        match self.fault.shows {
            Shows::Condition(kind) => kind,
            Shows::Exit(code) => panic!("{} ends the agent with {code}", self.fault.what),
        }
    }

    /// Whether the status document has the condition, with these words and this remedy.
    fn is_named(&self, status: &Status) -> bool {
        let Some(condition) = status.condition(self.kind().name()) else { return false };
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        self.fault.says.iter().all(|word| text("sentence").contains(word)) && text("advice").contains(self.fault.remedy)
    }

    /// Waits until everything that an operator looks at names the fault, and says what to do.
    async fn named(&self, agent: &Agent) {
        let Fault { what, says, remedy, .. } = self.fault;
        let name = self.kind().name();
        let wanted = format!("{what}: {name} with {says:?} and {remedy:?}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A condition that comes and goes may do so between two looks.
            agent.status_within(&wanted, RECONNECT, |status| self.is_named(status)).await;
            let text = self.in_text(agent).await;
            let pages = [self.on_page(agent, "en").await, self.on_page(agent, "fr").await];
            match (text, pages) {
                (Ok(()), [Ok(()), Ok(())]) => break,
                (text, pages) => assert!(Instant::now() < deadline, "{wanted}: {text:?}, {pages:?}"),
            }
        }
        eprintln!("{what}: {name} after {:?}", self.began.elapsed());
    }

    /// `kasa-care-agent status`, as it prints.
    async fn in_text(&self, agent: &Agent) -> Result<(), String> {
        let Fault { says, remedy, .. } = self.fault;
        let output = agent.command(&["status"]).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let named = format!(" {} since ", self.kind().name());
        let mut lines = text.lines().skip_while(|line| !(line.contains(&named) && says.iter().all(|word| line.contains(word))));
        let told = lines.next().is_some() && lines.next().is_some_and(|line| line.contains(remedy));
        if told && output.status.success() { Ok(()) } else { Err(format!("status: {}: {text}", output.status)) }
    }

    /// The page without its script, in a language.
    async fn on_page(&self, agent: &Agent, language: &str) -> Result<(), String> {
        let page = status::page(&agent.config.status, language).await.ok_or("no page")?;
        let begins = format!("<code>{}</code>", self.kind().name());
        let shown = page.split_once(&begins).and_then(|(_, rest)| rest.split_once("</li>")).map(|(item, _)| item);
        let told = shown.is_some_and(|item| {
            let (sentence, advice) = item.split_once("<p class=\"advice\"").unwrap_or((item, ""));
            self.fault.says.iter().all(|word| sentence.contains(&escaped(word))) && advice.contains(&escaped(self.fault.remedy))
        });
        let heading = if language == "fr" { "Anomalies" } else { "Conditions" };
        let spoken = page.contains(&format!("<html lang=\"{language}\"")) && page.contains(heading);
        if told && spoken { Ok(()) } else { Err(format!("the page in {language}: {page}")) }
    }

    /// The fault is mended: waits until the condition is over, and counts the lines that it cost.
    async fn over(self, agent: &Agent) {
        let (what, name) = (self.fault.what, self.kind().name());
        let mended = Instant::now();
        agent.status_within(&format!("{what}: the end of {name}"), RECONNECT, |status| status.condition(name).is_none()).await;
        eprintln!("{what}: over {:?} after it was mended", mended.elapsed());
        self.lasts(agent);
    }

    /// The same where the condition goes on for longer than a test: the lines so far.
    fn lasts(self, agent: &Agent) {
        // Clips that leave are no part of the fault, and on a slow machine more of them do meanwhile.
        let lines: Vec<_> = agent.log().since(self.line).into_iter().filter(|line| !line.contains("clip stored")).collect();
        assert!(lines.len() < MOST_LINES, "{}: {} lines: {lines:#?}", self.fault.what, lines.len());
    }
}

/// Text as HTML has it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

/// As an operator does who has changed something: the agent reads its configuration and connects anew, without the growing
/// pauses between attempts.
fn reload(agent: &Agent) {
    agent.signal(libc::SIGHUP);
}

/// The broker's address leads to somebody else until the fault is named, and then to the broker again.
async fn lead_astray(world: &World, meeting: Meeting, somebody: SocketAddr) {
    world.proxy.redirect_to(somebody);
    reload(&world.agent);
    meeting.named(&world.agent).await;
    world.proxy.redirect_to(world.broker.addr);
    reload(&world.agent);
    meeting.over(&world.agent).await;
}

/// Motion goes on, so that there are clips; meanwhile `look`.
async fn while_moving(agent: &Agent, look: impl Future<Output = ()>) {
    let mut motion = agent.motion().await;
    let mut look = std::pin::pin!(look);
    loop {
        tokio::select! {
            () = &mut look => return,
            () = tokio::time::sleep(Duration::from_millis(500)) => motion.report_motion().await,
        }
    }
}
