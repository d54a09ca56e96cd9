//! What an owner does in the portal: signs in, subscribes, watches clips, downgrades, cancels, reads orders, copies support data.

use serde_json::json;

use super::{browser::Browser, stage::Stage};

const CAMERA: &str = "8006E5A1F0C2";

/// What a language says where the test looks.
struct Said {
    wrong: &'static str,
    premium: &'static str,
    free: &'static str,
    cancel: &'static str,
    remove: &'static str,
    applied: &'static str,
    credited: &'static str,
    refunded: &'static str,
    lost: &'static str,
    copied: &'static str,
    in_app: &'static str,
    grace: &'static str,
}

const ENGLISH: Said = Said {
    wrong: "TP-Link ID or password is wrong.",
    premium: "Premium",
    free: "Free",
    cancel: "Cancel Subscription",
    remove: "REMOVE",
    applied: "camera applied it",
    credited: "is credited on the next bill",
    refunded: "is refunded for the remaining days",
    lost: "cannot be recovered",
    copied: "Copied.",
    in_app: "Bought in the app (App Store): cancel or change it there.",
    grace: "The last payment failed.",
};

const FRENCH: Said = Said {
    wrong: "Identifiant TP-Link ou mot de passe incorrect.",
    premium: "Premium",
    free: "Gratuit",
    cancel: "Résilier l’abonnement",
    remove: "SUPPRIMER",
    applied: "appliqué par la caméra",
    credited: "seront déduits de la prochaine facture",
    refunded: "vous seront remboursés",
    lost: "irrécupérable",
    copied: "Copié.",
    in_app: "c’est là qu’il faut le résilier ou le modifier.",
    grace: "Le dernier paiement a échoué.",
};

#[tokio::test]
async fn an_owner_follows_the_faq_from_subscribing_to_remove_in_english() {
    the_faq("en", &ENGLISH).await;
}

#[tokio::test]
async fn an_owner_follows_the_faq_from_subscribing_to_remove_in_french() {
    the_faq("fr", &FRENCH).await;
}

async fn the_faq(language: &'static str, said: &Said) {
    let mut stage = Stage::set().await;
    stage.agent(CAMERA).await;
    let browser = stage.browser(language).await;

    // Nobody sees anything before signing in, and a wrong password says no more than that.
    browser.goto("/orders").await;
    assert_eq!(browser.path().await, "/sign-in");
    assert_eq!(browser.run("return document.documentElement.lang;").await, language);
    browser.type_into("#id", &stage.owner.login).await;
    browser.type_into("#password", "not this one").await;
    browser.click("#enter").await;
    browser.wait_text("#wrong", said.wrong).await;
    browser.pictures("sign-in").await;
    stage.sign_in(&browser).await;
    browser.wait(&format!("#camera-{CAMERA}")).await;
    assert_eq!(browser.run("return document.cookie.includes('session');").await, false, "no script reads the session");

    // Plans: annual prices, then monthly, then Premium.
    browser.follow(&format!("#plan-{CAMERA}"), &format!("/cameras/{CAMERA}/plan")).await;
    browser.click("#cycle-annual").await;
    let annual = if language == "fr" { "99,99\u{a0}$US" } else { "$99.99" };
    browser.wait_text("[aria-labelledby=p-premium] .price", annual).await;
    browser.click("#cycle-monthly").await;
    let monthly = if language == "fr" { "9,99\u{a0}$US" } else { "$9.99" };
    browser.wait_text("[aria-labelledby=p-premium] .price", monthly).await;
    browser.pictures("plans").await;
    browser.follow("#subscribe-premium", "/").await;
    browser.wait_text(&format!("#camera-{CAMERA} .badge"), said.premium).await;
    // Live: the camera's report arrives without a reload.
    browser.wait_text(".switch:first-child .track li:last-child .stop", said.applied).await;
    browser.wait(".switch:first-child .track li:last-child.done").await;

    // Thirty days of clips, and one of them plays.
    stage.history(CAMERA, 20).await;
    browser.goto("/").await;
    browser.wait(&format!("#camera-{CAMERA} .picture video")).await;
    browser.follow(&format!("#clips-{CAMERA}"), &format!("/cameras/{CAMERA}")).await;
    browser.until("all clips are listed", || async { browser.count("#clip-list li").await == 20 }).await;
    let oldest = browser.run("return document.querySelector('#clip-list li:last-child').id.slice(5);").await;
    let newest = browser.run("return document.querySelector('#clip-list li').id.slice(5);").await;
    plays(&browser).await;
    browser.pictures("clips").await;

    // Down to Plus: what is lost and what is credited is said first, and booked so.
    browser.follow(&format!("#plan-{CAMERA}"), &format!("/cameras/{CAMERA}/plan")).await;
    browser.follow(&format!("#downgrade-{CAMERA}"), &format!("/cameras/{CAMERA}/downgrade")).await;
    let credit = browser.text("#money").await;
    assert!(credit.contains(said.credited), "{credit}");
    assert!(browser.text("#erased").await.contains(said.lost));
    browser.pictures("downgrade").await;
    browser.follow("#remove", "/").await;
    browser.wait_text(&format!("#camera-{CAMERA} .badge"), "Plus").await;
    browser.wait(".switch:first-child .track li:last-child.done").await;
    assert_eq!(status_of(&browser, oldest.as_str().unwrap()).await, 404, "what Plus does not keep is gone");
    assert_eq!(status_of(&browser, newest.as_str().unwrap()).await, 200, "what it keeps is there");

    // Cancel Subscription → confirm → REMOVE.
    browser.wait_text(&format!("#cancel-{CAMERA}"), said.cancel).await;
    browser.follow(&format!("#cancel-{CAMERA}"), &format!("/cameras/{CAMERA}/cancel")).await;
    let refund = browser.text("#money").await;
    assert!(refund.contains(said.refunded), "{refund}");
    let lost: u64 = browser.run("return [...document.querySelectorAll('.losses td:nth-child(3)')].map((td) => parseInt(td.innerText)).reduce((a, b) => a + b, 0);").await.as_u64().unwrap();
    let listed = clips_of(&stage).await;
    assert!(lost > 0 && lost < listed, "{lost} of {listed}");
    browser.pictures("cancel").await;
    assert_eq!(browser.text("#remove").await, said.remove);
    browser.follow("#remove", "/").await;
    browser.wait_text(&format!("#camera-{CAMERA} .badge"), said.free).await;
    browser.wait(".switch:first-child .track li:last-child.done").await;
    assert_eq!(clips_of(&stage).await, listed - lost, "exactly what was said is gone");
    browser.pictures("cameras").await;

    // Orders: what was shown is what is booked.
    browser.follow("nav a[href='/orders']", "/orders").await;
    let credited = browser.text(".entry-credit .amount").await;
    let refunded = browser.text(".entry-refund .amount").await;
    assert!(!credited.is_empty() && credit.contains(&credited), "{credit}: {credited}");
    assert!(!refunded.is_empty() && refund.contains(&refunded), "{refund}: {refunded}");
    browser.pictures("orders").await;

    // Support: what it asks for can be copied.
    browser.follow("nav a[href='/support']", "/support").await;
    let text = browser.run("return document.getElementById('for-support').value;").await;
    let text = text.as_str().unwrap();
    assert!(text.contains(&stage.owner.login) && text.contains("KC-") && text.contains(CAMERA), "{text}");
    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; };").await;
    browser.click("#copy").await;
    browser.wait_text("#copy-said", said.copied).await;
    assert_eq!(browser.run("return window.copied;").await, text);
    browser.pictures("support").await;

    // The other language, remembered.
    let other = if language == "fr" { "en" } else { "fr" };
    browser.click(&format!("#language-{other}")).await;
    browser.until("the other language", || async { browser.run("return document.documentElement.lang;").await == other }).await;
    assert_eq!(browser.path().await, "/support", "on the same page");
    browser.goto("/").await;
    assert_eq!(browser.run("return document.documentElement.lang;").await, other);

    // Signed out is signed out, and the session is no key any more.
    browser.follow("#sign-out", "/sign-in").await;
    browser.goto("/").await;
    assert_eq!(browser.path().await, "/sign-in");
    browser.close().await;
}

#[tokio::test]
async fn owners_see_every_notice_in_both_languages() {
    for (language, said) in [("en", &ENGLISH), ("fr", &FRENCH)] {
        let stage = Stage::set().await;
        let browser = stage.browser(language).await;
        for n in 1..=11 {
            stage.camera(&format!("CAM-{n:02}"));
        }
        stage.sign_in(&browser).await;

        // The trial, which needs no card and ends by itself.
        browser.goto("/cameras/CAM-01/plan").await;
        browser.follow("#trial-premium", "/").await;
        browser.wait("#trial-CAM-01").await;
        // Ten seats; the eleventh camera is told why it is on Free.
        assert_eq!(browser.count(".seat.taken").await, 10);
        assert!(browser.text("#seatless-CAM-11").await.contains("10"));
        browser.wait_text("#camera-CAM-11 .badge", said.free).await;
        browser.pictures("seats").await;
        browser.follow("#cancel-CAM-01", "/cameras/CAM-01/cancel").await;
        browser.follow("#remove", "/").await;

        // An annual account does not become a monthly one by a click: the page says what it takes.
        browser.goto("/cameras/CAM-01/plan?cycle=annual").await;
        browser.follow("#subscribe-plus", "/").await;
        browser.goto("/cameras/CAM-02/plan?cycle=monthly").await;
        browser.wait_text("#other-cycle", said.lost).await;
        assert!(!browser.has("#subscribe-plus").await && !browser.has("#subscribe-premium").await);
        browser.pictures("other-cycle").await;

        // The payment fails: a grace that is said, and a way to pay.
        stage.cloud.act(json!({ "action": "payment_fails", "account": stage.owner.account, "grace_s": 3600 })).await;
        browser.goto("/").await;
        browser.wait_text("#grace-CAM-01", said.grace).await;
        browser.goto("/orders").await;
        browser.pictures("payment").await;
        browser.click("#pay").await;
        browser.until("it is paid", || async { browser.path().await == "/orders" && !browser.has("#grace").await }).await;
        browser.goto("/").await;
        browser.follow("#cancel-CAM-01", "/cameras/CAM-01/cancel").await;
        browser.follow("#remove", "/").await;

        // Bought in an app: where to cancel is said, and no button pretends otherwise.
        stage.cloud.act(json!({ "action": "subscribe", "camera": "CAM-01", "plan": "plus", "channel": "app_store" })).await;
        browser.wait_text("#in-app-CAM-01", said.in_app).await;
        assert!(!browser.has("#cancel-CAM-01").await);
        browser.goto("/cameras/CAM-01/cancel").await;
        assert!(browser.text("main").await.contains("App Store"));
        browser.close().await;
    }
}

#[tokio::test]
async fn the_focus_and_a_playing_video_survive_what_happens_meanwhile() {
    let stage = Stage::set().await;
    stage.camera(CAMERA);
    stage.cloud.premium(CAMERA).await;
    stage.history(CAMERA, 3).await;
    let browser = stage.browser("en").await;
    stage.sign_in(&browser).await;
    browser.wait("#live[data-live=on]").await;
    let focused = format!("cancel-{CAMERA}");
    browser.run(&format!("window.kept = document.getElementById('{focused}'); window.kept.focus();")).await;
    let before = browser.count(".switch").await;
    stage.cloud.act(json!({ "action": "downgrade", "camera": CAMERA })).await;
    browser.until("the page has changed", || async { browser.count(".switch").await > before }).await;
    browser.wait_text(&format!("#camera-{CAMERA} .badge"), "Plus").await;
    assert_eq!(browser.run("return document.activeElement.id;").await, focused);
    assert_eq!(browser.run("return document.activeElement === window.kept;").await, true, "the same element, not a copy");
    assert!(
        browser.text("#said").await.is_empty()
            || browser.run("return document.getElementById('said').textContent;").await.as_str().unwrap().contains("Plus")
    );

    browser.goto(&format!("/cameras/{CAMERA}")).await;
    browser.wait("#live[data-live=on]").await;
    browser.run("const video = document.getElementById('shown'); video.loop = true; window.kept = video; video.play();").await;
    browser.until("it plays", || async { browser.run("return window.kept.currentTime > 0.1;").await == true }).await;
    stage.cloud.act(json!({ "action": "subscribe", "camera": CAMERA, "plan": "premium" })).await;
    browser.wait_text("main .badge", "Premium").await;
    assert_eq!(browser.run("const video = document.getElementById('shown'); return video === window.kept && !video.paused;").await, true);
    browser.close().await;
}

async fn plays(browser: &Browser) {
    browser.wait("#shown").await;
    browser.run("document.getElementById('shown').play();").await;
    let playing = || async {
        browser.run("const video = document.getElementById('shown'); return video.currentTime > 0.2 && video.videoWidth > 0;").await == true
    };
    browser.until("the clip plays", playing).await;
}

/// What a clip's address answers to the page.
async fn status_of(browser: &Browser, clip: &str) -> u64 {
    let script = format!("return fetch('/cameras/{CAMERA}/clips/{clip}').then((answer) => answer.status);");
    browser.run(&script).await.as_u64().unwrap()
}

async fn clips_of(stage: &Stage) -> u64 {
    super::stage::of(&stage.cloud.state().await, CAMERA)["clips"].as_u64().unwrap()
}
