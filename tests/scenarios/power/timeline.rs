//! What happened before a restart is known after it, and goes with the camera's owner.

use std::{fs, path::Path};

use care_protocol::{Mode, Order, Reason, Refund, RefundKind};
use care_tests::{
    status,
    wait::{PATIENCE, until},
    world::World,
};
use serde_json::Value;

const ORDER: &str = "KC-OF-THE-OLD-OWNER";

/// The files below this directory that contain this text, in raw bytes.
fn that_hold(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(that_hold(&path, text));
        } else if fs::read(&path).unwrap_or_default().windows(text.len()).any(|window| window == text.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

async fn page(world: &World) -> String {
    status::page(&world.agent.config.status, "en").await.expect("the agent serves its page")
}

async fn support(world: &World) -> Value {
    let made = world.agent.command(&["support"]).await;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).unwrap()
}

/// What happened, as one word each, from this timeline.
fn kinds(timeline: &Value) -> Vec<String> {
    let entries = timeline.as_array().unwrap_or_else(|| panic!("no timeline: {timeline}"));
    entries.iter().map(|entry| entry["what"].as_object().unwrap().keys().next().unwrap().clone()).collect()
}

fn cancel(timeline: &Value) -> Option<Value> {
    let mut switches = timeline.as_array()?.iter().map(|entry| &entry["what"]["switch"]);
    // The start has a report of its own, for the same reason.
    let is_cancel = |report: &Value| report["reason"] == "cancelled" && report["cause"] == "document";
    switches.rfind(|switch| is_cancel(&switch["report"])).cloned()
}

#[tokio::test]
async fn a_switch_is_seen_after_a_kill_and_goes_with_its_owner() {
    let mut world = World::new().await;
    world.start_premium().await;
    let mut free = world.free();
    free.0.order = Some(Order { id: ORDER.into(), refund: Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() } });
    let free = world.issue(free).await;
    world.agent.status("the cancel", |status| status.seq() == free.position.seq).await;
    let timeline = world.agent.config.state_dir.join("timeline");
    until("the switch with its report on flash", PATIENCE, || {
        let text = fs::read_to_string(&timeline).unwrap_or_default();
        let is_whole = |line: &str| line.contains(ORDER) && !line.rsplit(ORDER).next().unwrap().contains("\"reported\":null");
        text.lines().any(is_whole).then_some(())
    })
    .await;
    world.agent.kill().await;
    let down = support(&world).await;
    assert!(cancel(&down["timeline_on_flash"]).is_some(), "of an agent that is down: {down:#}");

    world.agent.start();
    world.agent.status("the plan", |status| status.seq() == free.position.seq && status.plan() == "free").await;
    let archive = support(&world).await;
    let seen = &archive["running"]["timeline"];
    let switch = cancel(seen).unwrap_or_else(|| panic!("{seen:#}"));
    assert_eq!((&switch["order"], &switch["report"]["mode"]), (&ORDER.into(), &"free".into()));
    let stages = ["cut", "written", "acknowledged", "reported"].map(|stage| switch["stages"][stage].as_u64());
    assert!(stages[1..].iter().all(Option::is_some), "{switch:#}");
    let starts: Vec<&Value> =
        seen.as_array().unwrap().iter().map(|entry| &entry["what"]["started"]).filter(|start| start.is_object()).collect();
    assert_eq!(starts.iter().map(|start| &start["previous"]).collect::<Vec<_>>(), [&Value::Null, &"killed".into()], "{seen:#}");
    let order = kinds(seen);
    let place = |what: &str| order.iter().rposition(|kind| kind == what).unwrap_or_else(|| panic!("no {what} in {order:?}"));
    assert!(order.iter().position(|kind| kind == "switch").unwrap() < place("started"), "{order:?}");
    let words = String::from_utf8(world.agent.command(&["status"]).await.stdout).unwrap();
    assert!(words.contains("started, after a crash or a kill") && words.contains(&format!("order {ORDER}")), "{words}");
    let html = page(&world).await;
    let at = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is missing in {html}"));
    assert!(at("started after a crash or a kill") < at("Premium → Free"), "the newest first: {html}");
    assert!(at("Premium → Free") < at("reported<br><b>"), "{html}");
    assert!(!that_hold(&world.agent.config.state_dir, ORDER).is_empty(), "the search finds it");

    // Another owner: nothing of it is left when the new document is on record, so before the first upload.
    world.position.epoch += 1;
    world.position.seq = 0;
    let new = world.premium().of("acct-new").because(Reason::Bound);
    world.switch(new, Mode::Paid).await;
    assert_eq!(that_hold(&world.agent.config.state_dir, ORDER), Vec::<String>::new());
    let archive = support(&world).await;
    assert!(!archive.to_string().contains(ORDER), "{archive:#}");
    let seen = &archive["running"]["timeline"];
    assert!(cancel(seen).is_none() && kinds(seen).iter().filter(|kind| *kind == "started").count() == 2, "{seen:#}");
    assert!(!page(&world).await.contains("cancelled"));
    // After another restart, too.
    world.agent.kill().await;
    world.agent.start();
    world.agent.status("the plan", |status| status.plan() == "premium").await;
    assert!(!support(&world).await.to_string().contains(ORDER));
    world.agent.stop().await;
    let down = support(&world).await;
    let order = kinds(&down["timeline_on_flash"]);
    assert_eq!(order.last().map(String::as_str), Some("stopped"), "{down:#}");

    let reset = world.agent.command(&["factory-reset"]).await;
    assert!(reset.status.success(), "{}", String::from_utf8_lossy(&reset.stderr));
    assert!(!timeline.exists());
}
