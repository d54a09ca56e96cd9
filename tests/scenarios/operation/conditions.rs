//! Conditions: the agent names each fault once, with what it expected and what it got, in log, status, report,
//! support archive and systemd's status line.

use std::time::{Duration, Instant};

use care_protocol::{Channel, Mode, Order, Outcome, Policy, Refund, RefundKind, Report};
use care_tests::{
    cloud::{Document as Body, GrantAnswer, grant},
    issuer::{Draft, PREMIUM},
    pki::ISSUER,
    status::Status,
    wait::{PATIENCE, RECONNECT},
    world::{DEVICE, World},
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// Waits until this condition holds and its message contains all of `words`.
async fn holds(world: &World, name: &str, words: &[&str]) -> Status {
    let what = format!("{name} with {words:?}");
    world.agent.status_within(&what, RECONNECT, |status| words.iter().all(|word| status.sentence(name).contains(word))).await
}

/// Waits until this condition no longer holds.
async fn is_over(world: &World, name: &str) {
    world.agent.status(&format!("the end of {name}"), |status| status.condition(name).is_none()).await;
}

/// Waits for the report of a rejection with this reason; returns its detail.
async fn rejected(world: &World, mark: usize, reason: &str) -> (Report, String) {
    let wanted = |report: &Report| report.outcome == Outcome::Rejected && report.reason == reason;
    let report = world.issuer.report_since(mark, reason, wanted).await;
    let detail = report.detail.clone().unwrap_or_default();
    assert!((1..=200).contains(&detail.chars().count()), "{detail:?}");
    (report, detail)
}

#[tokio::test]
async fn a_rejected_document_is_reported_with_expected_and_actual_values() {
    let mut world = World::new().await;
    world.start_premium().await;
    let seen = world.agent.log().len();

    let mut draft = world.free();
    draft.0.iss = "prod".into();
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&world.sign(&draft).token).await;
    let (_, detail) = rejected(&world, mark, "wrong_issuer").await;
    assert_eq!(detail, format!("issuer is \"prod\", this device trusts \"{ISSUER}\""));
    let status = holds(&world, "document_rejected", &["entitlement topic", &detail]).await;
    let condition = status.condition("document_rejected").unwrap();
    assert_eq!(condition["severity"], "error");
    assert!(condition["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{condition}");
    assert!(condition["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{condition}");
    assert!(status.warnings().contains("this device trusts"), "{}", status.warnings());
    world.agent.logged(seen, "the rejection", |line| line.contains("ERROR") && line.contains("document_rejected")).await;

    let mut draft = world.free();
    draft.0.aud = "8006E5A1F0C3".parse().unwrap();
    let mark = world.issuer.mark();
    world.issuer.publish_entitlement(&world.sign(&draft).token).await;
    let (_, detail) = rejected(&world, mark, "wrong_audience").await;
    assert!(detail.contains("8006E5A1F0C3") && detail.contains(DEVICE), "{detail}");
    holds(&world, "document_rejected", &["8006E5A1F0C3", DEVICE]).await;

    // An older keyset than the current one.
    let mark = world.issuer.mark();
    world.issuer.publish_keyset(&world.pki.keyset(6).sign(&world.pki.root)).await;
    let (_, detail) = rejected(&world, mark, "old_keyset").await;
    assert!(detail.contains('6') && detail.contains('7'), "{detail}");
    holds(&world, "document_rejected", &["keyset on its topic", "6", "7"]).await;

    // A valid document ends the conditions about documents, a valid keyset the others; each end is logged.
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.agent.status("the keyset alone", |status| !status.sentence("document_rejected").contains(DEVICE)).await;
    world.hand_out_keyset(&world.pki.keyset(8).sign(&world.pki.root)).await;
    is_over(&world, "document_rejected").await;
    world.agent.logged(seen, "its end", |line| line.contains("condition over") && line.contains("document_rejected")).await;
    assert!(world.agent.log().count("condition=\"document_rejected\"") <= 2, "{:#?}", world.agent.log().since(seen));
}

#[tokio::test]
async fn a_host_that_is_not_in_the_store_list_is_one_condition_and_few_lines() {
    let mut world = World::with_camera().await;
    world.cloud.lock().grants = GrantAnswer::Body(grant("https://elsewhere.example/clips/x/0"));
    let premium = world.premium().limited(Policy { clip_max_s: 1, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let mut motion = world.agent.motion().await;
    let began = Instant::now();
    while world.cloud.grants_asked() < 8 {
        assert!(began.elapsed() < RECONNECT, "{} grants asked for", world.cloud.grants_asked());
        motion.report_motion().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    holds(&world, "grant_misleads", &["elsewhere.example"]).await;
    let lines = world.agent.log().all();
    let of_the_fault = lines.iter().filter(|line| line.contains("elsewhere.example")).count();
    assert!((1..=4).contains(&of_the_fault), "{lines:#?}");
    let troubles = lines.iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).count();
    assert!(troubles <= 20, "{lines:#?}");
}

#[tokio::test]
async fn a_refused_or_expired_plan_is_reported() {
    let mut world = World::with_camera().await;
    let premium = world.premium();
    world.start_with(premium, Mode::Paid).await;
    world.cloud.lock().grants = GrantAnswer::Status(403);
    world.move_until("a grant request", |seen| seen.calls.iter().any(|call| call.path.ends_with("/clips")).then_some(())).await;
    holds(&world, "grant_refused", &["403"]).await;
    world.cloud.lock().grants = GrantAnswer::Here;
    let brief = world.premium().leased(3);
    world.issue(brief).await;
    let status = holds(&world, "lease_ended", &["lease", "Free"]).await;
    assert_eq!(status.mode(), "free");
    assert!(status.condition("grant_refused").is_none(), "another document: nothing has been refused under it");
    // Lower than the recorded video's height.
    let small = world.premium().limited(Policy { max_height: 100, ..PREMIUM });
    world.switch(small, Mode::Paid).await;
    let status = holds(&world, "picture_too_tall", &["180", "100"]).await;
    assert!(status.condition("lease_ended").is_none());
}

#[tokio::test]
async fn long_waits_of_paid_media_are_reported_and_a_restart_alone_is_not() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.agent.stop().await;
    world.proxy.cut().await;
    world.cloud.lock().entitlement = Body::Silence;
    world.agent.start();
    let status = world.agent.mode(Mode::Held).await;
    assert!(status.condition("held").is_none(), "nothing has lasted yet");
    holds(&world, "held", &["premium", "waits"]).await;
    world.proxy.restore();
    is_over(&world, "held").await;
}

#[tokio::test]
async fn two_documents_at_one_position_raise_a_condition_until_a_higher_one_arrives() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    let mut forged = world.free();
    forged.0.seq = premium.position.seq.try_into().unwrap();
    world.issuer.publish_entitlement(&world.sign(&forged).token).await;
    holds(&world, "document_conflict", &["(3, 41)"]).await;
    let next = world.free();
    world.switch(next, Mode::Free).await;
    is_over(&world, "document_conflict").await;
}

#[tokio::test]
async fn a_bad_configuration_or_certificate_raises_a_condition_until_it_is_fixed() {
    let mut world = World::new().await;
    world.start_premium().await;
    let good = std::fs::read_to_string(world.agent.config_path()).unwrap();
    std::fs::write(world.agent.config_path(), good.replace("history_h = 12", "history_h = \"twelve\"")).unwrap();
    world.agent.signal(libc::SIGHUP);
    holds(&world, "config_rejected", &["history_h", "config.toml"]).await;
    std::fs::write(world.agent.config_path(), good).unwrap();
    world.agent.signal(libc::SIGHUP);
    is_over(&world, "config_rejected").await;

    world.pki.ca.client("ANOTHER").write(world.agent.dir(), "device");
    holds(&world, "certificate_rejected", &["common name", "ANOTHER"]).await;
    world.pki.ca.client_for(DEVICE, 13).write(world.agent.dir(), "device");
    holds(&world, "certificate_ends", &["device certificate", "12 days"]).await;
    is_over(&world, "certificate_rejected").await;
}

#[tokio::test]
async fn status_and_systemd_name_the_most_severe_condition() {
    let mut world = World::new().await;
    let path = world.agent.dir().join("notify.sock");
    let systemd = tokio::net::UnixDatagram::bind(&path).unwrap();
    world.agent.environment = vec![("NOTIFY_SOCKET".into(), path.display().to_string())];
    world.start_premium().await;
    let mut draft = world.free();
    draft.0.iss = "prod".into();
    world.issuer.publish_entitlement(&world.sign(&draft).token).await;
    let told = async {
        let mut buffer = [0; 4096];
        loop {
            let length = systemd.recv(&mut buffer).await.unwrap();
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains("STATUS=") && text.contains("document_rejected") {
                break text;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.expect("a message to systemd");
    assert!(told.contains("STATUS=paid, premium") && told.contains("this device trusts"), "{told}");
    let output = world.agent.command(&["status"]).await;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "the command succeeds despite a condition");
    let first = text.lines().next().unwrap_or_default();
    assert!(first.starts_with("error") && first.contains("document_rejected") && first.contains("this device trusts"), "{text}");
    let json = world.agent.command(&["status", "--json"]).await;
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["conditions"][0]["name"], "document_rejected", "{json:#}");
}

#[tokio::test]
async fn an_unknown_log_level_stops_the_start_and_lists_the_levels() {
    for (filter, words) in [
        ("warning", &["\"warning\"", "off, error, warn, info, debug and trace"][..]),
        ("info,kasa_care_agent::link=loud", &["\"loud\"", "off, error, warn, info, debug and trace"]),
        ("info,kasa_care_agent::lnk=debug", &["kasa_care_agent::lnk", "kasa_care_agent::link"]),
    ] {
        let mut world = World::new().await;
        world.agent.environment = vec![("CARE_LOG".into(), filter.into())];
        world.agent.start();
        let ended = world.agent.ended().await;
        assert_eq!(ended.code(), Some(78), "{filter}");
        for word in words {
            world.agent.logged(0, word, |line| line.contains("CARE_LOG") && line.contains(word)).await;
        }
    }
}

/// Every number and every string in a document, with its path.
fn leaves(value: &Value, path: &str, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Array(values) => values.iter().enumerate().for_each(|(i, value)| leaves(value, &format!("{path}/{i}"), found)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(value, &format!("{path}/{name}"), found)),
        leaf => found.push((path.to_owned(), leaf.clone())),
    }
}

async fn support(world: &World) -> Value {
    let output = world.agent.command(&["support"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn ordered(mut draft: Draft, id: &str) -> Draft {
    let refund = Refund { kind: RefundKind::Refund, amount_minor: 412, currency: "USD".into() };
    draft.0.order = Some(Order { id: id.into(), refund });
    draft.through(Channel::Portal)
}

fn orders(documents: &Value) -> Vec<String> {
    let documents = documents.as_array().expect("a list of documents");
    documents.iter().filter_map(|document| Some(document["order"].as_str()?.to_owned())).collect()
}

#[tokio::test]
async fn the_support_archive_keeps_order_ids_over_a_restart_but_not_over_a_change_of_owner() {
    let mut world = World::new().await;
    let first = ordered(world.premium(), "KC-2026-000001");
    world.start_with(first, Mode::Paid).await;
    let second = ordered(world.free(), "KC-2026-000002");
    world.switch(second, Mode::Free).await;
    let third = world.plus();
    world.switch(third, Mode::Paid).await;
    world.agent.stop().await;
    let both = ["KC-2026-000001", "KC-2026-000002"];
    let archive = support(&world).await;
    assert_eq!(orders(&archive["on_flash"]["documents"]), both, "while it is off: {archive:#}");
    world.agent.start();
    world.agent.mode(Mode::Paid).await;
    let archive = support(&world).await;
    assert_eq!(orders(&archive["running"]["documents"]), both, "{archive:#}");

    world.position.epoch += 1;
    world.position.seq = 0;
    let other = ordered(world.premium().of("acct-other"), "KC-2026-000099");
    world.switch(other, Mode::Paid).await;
    let archive = support(&world).await;
    assert_eq!(orders(&archive["running"]["documents"]), ["KC-2026-000099"], "{archive:#}");
    assert!(both.iter().all(|order| !archive.to_string().contains(order)), "the last owner's orders are gone: {archive:#}");
}

#[tokio::test]
async fn the_support_archive_has_the_last_200_lines_and_all_times_in_rfc_3339() {
    let mut world = World::new().await;
    world.agent.environment = vec![("CARE_LOG".into(), "debug".into())];
    world.start_premium().await;
    world.agent.status("its page", |_| true).await;
    let began = Instant::now();
    while world.agent.log().len() < 300 {
        assert!(began.elapsed() < PATIENCE, "{} lines", world.agent.log().len());
        // Each is a line at debug: the status server logs a client that does not speak HTTP.
        let mut client = UnixStream::connect(&world.agent.config.status).await.unwrap();
        // The server may close the connection before it has read everything.
        let _ = client.write_all(b"nonsense\r\n\r\n").await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    }
    let mut draft = world.free();
    draft.0.iss = "prod".into();
    world.issuer.publish_entitlement(&world.sign(&draft).token).await;
    holds(&world, "document_rejected", &["prod"]).await;
    let archive = support(&world).await;
    let log = archive["running"]["log"].as_array().expect("the log");
    assert_eq!(log.len(), 200);
    let levels: std::collections::BTreeSet<_> = log.iter().filter_map(|line| line["level"].as_str()).collect();
    assert!(levels.contains("DEBUG") && levels.contains("ERROR"), "every level that is logged: {levels:?}");
    assert_eq!(archive["running"]["status"]["conditions"][0]["name"], "document_rejected", "{archive:#}");

    let mut found = Vec::new();
    leaves(&archive, "", &mut found);
    let mut times = 0;
    for (path, value) in found {
        if path.ends_with("/at") || path.ends_with("/since") || path.ends_with("/trusted") {
            let text = value.as_str().unwrap_or_else(|| panic!("{path} is {value}"));
            text.parse::<jiff::Timestamp>().unwrap_or_else(|error| panic!("{path} is {text}: {error}"));
            times += 1;
        }
        let seconds = value.as_u64().filter(|number| (1_600_000_000..2_600_000_000).contains(number));
        assert!(seconds.is_none(), "{path} is {value}: Unix seconds?");
    }
    assert!(times > 200, "{times} times");
}
