//! What engineers do in the portal: watch documents and reports, and inject faults.

use super::{browser::Browser, stage::Stage};

const CAMERA: &str = "8006E5A1F0C2";

async fn enter(stage: &Stage, browser: &Browser) {
    browser.goto("/").await;
    browser.follow("#demo-engineer", "/engineers").await;
    assert!(browser.text("#all-cameras").await.contains(CAMERA), "{}", stage.owner.account);
}

#[tokio::test]
async fn engineers_inject_every_fault_and_see_how_the_camera_reacts() {
    let mut stage = Stage::set().await;
    stage.agent(CAMERA).await;
    stage.cloud.premium(CAMERA).await;
    let browser = stage.browser("en").await;
    enter(&stage, &browser).await;
    browser.wait("#live[data-live=on]").await;

    let play = async |fault: &str| {
        browser.click(&format!("#fault-{fault}")).await;
        browser
            .until(&format!("{fault} was played"), || async { browser.path().await == "/engineers" && browser.has("#played-text").await })
            .await;
    };
    let reported = async |what: &str| browser.wait_text("#reports tbody", what).await;
    play("send_duplicate").await;
    reported("duplicate").await;
    play("replay").await;
    reported("stale").await;
    play("unknown_key").await;
    play("rotate_key").await;
    play("old_key").await;
    reported("revoked_key").await;
    play("reissue").await;
    reported("renewed").await;
    play("expired_lease").await;
    play("reset").await;
    play("refuse_grants").await;
    play("allow_grants").await;
    browser.wait("#figure-p50").await;
    let p50 = browser.text("#figure-p50").await;
    assert!(p50.contains("ms") || p50.contains("µs") || p50.contains('s'), "the switch was timed: {p50}");
    browser.pictures("engineers").await;

    // Ten cameras that are none: they are there, and report.
    play("simulate").await;
    browser.until("ten more cameras are listed", || async { browser.count("#all-cameras tbody tr").await == 11 }).await;
    browser.until("they all are online", || async { browser.count("#all-cameras .dot.online").await >= 11 }).await;
    play("stop_simulated").await;

    play("broker_stop").await;
    browser.wait_text("#figure-broker", "stopped").await;
    play("broker_start").await;
    browser.wait_text("#figure-broker", "running").await;
    browser.close().await;
}

#[tokio::test]
async fn an_owner_has_no_engineers_page_and_engineers_read_french() {
    let stage = Stage::set().await;
    stage.camera(CAMERA);
    let browser = stage.browser("fr").await;
    browser.goto("/").await;
    browser.follow("#demo-owner", "/").await;
    assert!(!browser.has("nav a[href='/engineers']").await);
    browser.goto("/engineers").await;
    assert!(!browser.has("#faults-title").await);
    browser.follow("#sign-out", "/sign-in").await;
    enter(&stage, &browser).await;
    assert_eq!(browser.text("#faults-title").await, "Pannes");
    browser.pictures("engineers").await;
    browser.close().await;
}
