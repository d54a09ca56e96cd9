//! `/metrics` of agent and care-cloud: the figures move with what happens, `promtool` finds no fault, and
//! `docs/metrics.md`, the alerts and the dashboard name exactly what is exported.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use care_protocol::Mode;
use care_tests::{
    care_cloud::CareCloud,
    metrics::{Metrics, promtool},
    wait::PATIENCE,
    world::{DEVICE, World},
};
use serde_json::{Value, json};

use crate::catalogue::root;

/// An agent that films, records and has switched once while it uploaded.
async fn switched() -> (World, Metrics) {
    let mut world = World::with_camera().await;
    let card = world.agent.dir().join("card");
    std::fs::create_dir(&card).unwrap();
    world.agent.config.recording = Some(card);
    world.agent.config.allow_internal_storage = true;
    world.cloud.lock().sink = care_tests::cloud::Sink::StallAfter(16_000);
    world.start_premium().await;
    world.upload_in_flight(1).await;
    let in_flight = |metrics: &Metrics| metrics.value("kasa_care_transfers_in_flight") == 1.0;
    let before = world.agent.metrics_with("a transfer in flight", in_flight).await;
    assert_eq!(before.value("kasa_care_mode{mode=\"paid\"}"), 1.0);
    assert_eq!(before.value("kasa_care_cut_duration_seconds_count"), 0.0);
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    (world, before)
}

#[tokio::test]
async fn a_switch_moves_the_metrics_and_promtool_finds_no_fault_in_them() {
    let (world, before) = switched().await;
    let recorded = "kasa_care_card_frames_total";
    let after = world.agent.metrics_with("frames on the card", |metrics| metrics.value(recorded) > before.value(recorded)).await;
    let grew = |sample: &str| after.value(sample) - before.value(sample);
    assert_eq!(grew("kasa_care_switches_total{cause=\"document\",mode=\"free\"}"), 1.0);
    assert_eq!(grew("kasa_care_reports_total{outcome=\"applied\"}"), 1.0);
    assert_eq!(grew("kasa_care_report_duration_seconds_count"), 1.0);
    assert_eq!(grew("kasa_care_cut_duration_seconds_count"), 1.0);
    assert_eq!(grew("kasa_care_cut_transfers_total"), 1.0);
    assert!(grew("kasa_care_cuts_total") >= 1.0 && grew("kasa_care_clips_total{outcome=\"erased\"}") >= 1.0);
    let (cut, report) = (grew("kasa_care_cut_duration_seconds_sum"), grew("kasa_care_report_duration_seconds_sum"));
    // The report comes after the cut, and flash between them.
    assert!(0.0 < cut && cut <= report && report < PATIENCE.as_secs_f64(), "{cut} s, {report} s");
    assert_eq!(after.value("kasa_care_mode{mode=\"free\"}"), 1.0);
    assert_eq!(after.value("kasa_care_transfers_in_flight"), 0.0);
    assert!(after.value("kasa_care_stream_frames_total{stream=\"main\"}") > 0.0);
    assert_eq!(after.value("kasa_care_broker_connections_total"), 1.0);
    assert_eq!(after.value("kasa_care_condition{name=\"state_lost\",severity=\"error\"}"), 0.0);
    assert!(after.value("kasa_care_clock_offset_seconds").abs() < 30.0);
    assert!(after.value("kasa_care_control_loop_age_seconds") < PATIENCE.as_secs_f64());
    let left = after.value("kasa_care_certificate_expiry_timestamp_seconds") - care_tests::unix_now() as f64;
    assert!(left > 0.0, "{left}");
    assert!(after.value("process_resident_memory_bytes") > 1e6);
    assert_eq!(after.labels("kasa_care_agent_info"), ["device", "model", "version"]);
    for secret in [world.cloud.url(), world.agent.dir().display().to_string(), "file:".to_owned()] {
        assert!(!after.text().contains(&secret), "{secret} is in\n{}", after.text());
    }
    no_fault(&after);
}

#[tokio::test]
async fn a_condition_shows_in_the_metrics_while_it_holds() {
    let mut world = World::new().await;
    world.start_premium().await;
    let held = "kasa_care_condition{name=\"broker_unreachable\",severity=\"warning\"}";
    assert_eq!(world.agent.metrics().await.value(held), 0.0);
    world.proxy.cut().await;
    world.agent.condition("broker_unreachable").await;
    let metrics = world.agent.metrics().await;
    assert_eq!((metrics.value(held), metrics.value("kasa_care_broker_connected")), (1.0, 0.0));
}

#[tokio::test]
async fn a_fleet_shows_in_care_clouds_metrics() {
    let (mut cloud, first) = (CareCloud::with_metrics().await, "acct-1");
    assert_eq!(cloud.metrics().await.value("kasa_care_cloud_cameras{status=\"online\"}"), 0.0);
    cloud.camera(DEVICE, first).await;
    cloud.reported(&[(DEVICE, "free", "free")]).await;
    cloud.command(&["subscribe", "--camera", DEVICE, "--plan", "premium"]).await;
    cloud.reported(&[(DEVICE, "premium", "paid")]).await;
    let metrics = cloud.metrics().await;
    assert_eq!(metrics.value("kasa_care_cloud_cameras{status=\"online\"}"), 1.0);
    assert_eq!(metrics.value("kasa_care_cloud_cameras_overdue{status=\"online\"}"), 0.0);
    assert_eq!(metrics.value("kasa_care_cloud_outbox_documents"), 0.0);
    assert_eq!(metrics.value("kasa_care_cloud_broker_connected"), 1.0);
    assert_eq!(metrics.value("kasa_care_cloud_click_to_report_seconds_count"), 1.0);
    assert!(metrics.value("kasa_care_cloud_publishes_total") >= 2.0);
    assert!(metrics.value("kasa_care_cloud_reports_total{outcome=\"applied\"}") >= 2.0);
    assert!(!metrics.text().contains(DEVICE) && !metrics.text().contains(first), "{}", metrics.text());
    no_fault(&metrics);

    // A camera that is away has not reported, and the metrics say so.
    cloud.switch_off(DEVICE).await;
    cloud.command(&["cancel", "--camera", DEVICE]).await;
    let overdue = "kasa_care_cloud_cameras_overdue{status=\"offline\"}";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while cloud.metrics().await.value(overdue) != 1.0 {
        assert!(tokio::time::Instant::now() < deadline, "{}", cloud.metrics().await.text());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(cloud.metrics().await.value("kasa_care_cloud_oldest_overdue_seconds") >= 5.0);
}

/// `promtool check metrics` says nothing.
fn no_fault(metrics: &Metrics) {
    let (content, said) = promtool(&["check", "metrics"], &root(), metrics.text());
    assert!(content && said.is_empty(), "{said}");
}

#[test]
fn promtool_is_a_judge_that_finds_faults() {
    let faulty = "# HELP kasa_care_a_milliseconds Wrong unit.\n# TYPE kasa_care_a_milliseconds gauge\nkasa_care_a_milliseconds 1\n";
    assert!(!promtool(&["check", "metrics"], &root(), faulty).0);
}

/// The families of agent and cloud, with their types and labels.
async fn exported() -> [Metrics; 2] {
    let (world, _) = switched().await;
    let agent = world.agent.metrics().await;
    [agent, CareCloud::with_metrics().await.metrics().await]
}

#[tokio::test]
async fn the_tables_the_alerts_and_the_dashboard_name_what_is_exported() {
    let [agent, cloud] = exported().await;
    let document = std::fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    for (heading, metrics) in [("## The agent's", &agent), ("## care-cloud's", &cloud)] {
        let listed = listed(&document, heading);
        assert_eq!(listed.iter().map(|(name, row)| (name.clone(), row.kind.clone())).collect::<BTreeMap<_, _>>(), metrics.families());
        for (name, row) in listed {
            let labels = metrics.labels(&name);
            // There may be no sample: this agent has no vendor's uploader.
            let bare = metrics.find(&name).is_some() || row.kind == "histogram";
            assert!(labels == row.labels || (labels.is_empty() && !bare), "{name} has {labels:?}, docs/metrics.md says {:?}", row.labels);
        }
    }

    let known: BTreeSet<String> = [agent, cloud].iter().flat_map(|metrics| samples(&metrics.families())).collect();
    let mut unknown = Vec::new();
    for (place, expression) in expressions() {
        let named = names(&expression);
        assert!(!named.is_empty() || expression.starts_with("up"), "{place} names no metric: {expression}");
        unknown.extend(named.into_iter().filter(|name| !known.contains(name)).map(|name| format!("{place}: {name}")));
    }
    assert!(unknown.is_empty(), "nobody exports:\n{}", unknown.join("\n"));
}

/// A row of a table of docs/metrics.md.
struct Row {
    kind: String,
    labels: Vec<String>,
}

/// The rows below a heading, up to the next of its level.
fn listed(document: &str, heading: &str) -> BTreeMap<String, Row> {
    let (_, part) = document.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("docs/metrics.md has no {heading}"));
    let part = part.split_once("\n## ").map_or(part, |(part, _)| part);
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `kasa_care_").or(line.strip_prefix("| `process_"))?.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{line}");
        let labels = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let name = line.split('`').nth(1)?.to_owned();
        Some((name, Row { kind: cells[1].to_owned(), labels }))
    };
    let rows: Vec<_> = part.lines().filter_map(row).collect();
    let count = rows.len();
    let listed: BTreeMap<_, _> = rows.into_iter().collect();
    assert_eq!(listed.len(), count, "a metric is listed twice");
    listed
}

/// The names that samples of these families have.
fn samples(families: &BTreeMap<String, String>) -> Vec<String> {
    let of = |(name, kind): (&String, &String)| match kind.as_str() {
        "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
        _ => vec![name.clone()],
    };
    families.iter().flat_map(of).collect()
}

/// The metrics of agent and cloud that an expression names.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("kasa_care_") || word.starts_with("process_")).map(str::to_owned).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(root().join("deploy/grafana/kasa-care-agent.json")).unwrap()).unwrap()
}

/// Every expression of the dashboard and of the alerts, with where it stands.
fn expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            found.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        found.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    assert!(found.len() > 40, "only {} expressions in the dashboard", found.len());
    let alerts = std::fs::read_to_string(prometheus().join("alerts.yml")).unwrap();
    let expressions = alerts.lines().filter_map(|line| line.trim_start().strip_prefix("expr: "));
    found.extend(expressions.map(|expression| ("alerts.yml".to_owned(), expression.to_owned())));
    found
}

fn prometheus() -> PathBuf {
    root().join("deploy/prometheus")
}

#[test]
fn promtool_accepts_the_configuration_and_every_alert_fires_when_it_should() {
    for arguments in [["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let (content, said) = promtool(&arguments, &prometheus(), "");
        assert!(content, "promtool {arguments:?}: {said}");
    }
    let [alerts, tests] = ["alerts.yml", "alerts_test.yml"].map(|name| std::fs::read_to_string(prometheus().join(name)).unwrap());
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(names.len() > 10, "{names:?}");
    // One that is expected to fire, each.
    let fires =
        |name: &str| tests.split("- eval_time: ").any(|case| case.contains(&format!("alertname: {name}\n")) && case.contains("exp_alerts"));
    let untested: Vec<&&str> = names.iter().filter(|name| !fires(name)).collect();
    assert!(untested.is_empty(), "{untested:?}");
    assert_eq!(alerts.matches("        annotations:\n          summary: \"").count(), names.len());
    assert_eq!(alerts.matches("\n          action: \"").count(), names.len());
}

#[test]
fn promtool_can_read_every_expression_of_the_dashboard() {
    let expressions = expressions();
    let rule = |(number, (_, expression)): (usize, &(String, String))| {
        let expression = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
        assert!(!expression.contains('$'), "a variable that the dashboard does not have: {expression}");
        json!({ "record": format!("dashboard:expression:{number}"), "expr": expression })
    };
    let rules: Vec<Value> = expressions.iter().enumerate().map(rule).collect();
    // JSON is YAML.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rules.yml"), rules.to_string()).unwrap();
    let (content, said) = promtool(&["check", "rules", "rules.yml"], dir.path(), "");
    assert!(content, "{said}");
}

#[test]
fn the_dashboard_can_be_imported_for_any_data_source() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "kasa-care-agent");
    let variables: Vec<&str> = dashboard["templating"]["list"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(variables, ["datasource", "instance"]);
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the same id: {}", panel["title"]);
        let at = &panel["gridPos"];
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| at[side].as_u64().unwrap());
        assert!(x + w <= 24, "{} is too wide", panel["title"]);
        for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(places.insert(place), "{} lies on another panel", panel["title"]);
        }
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
}
