//! The portal without a script: sign-in, access, and forms.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, Request, StatusCode, header};
use bytes::Bytes;
use care_cloud::{
    clock::now_s,
    run::{SIGN_IN_FILE, SignIn, add_account},
    storage::db::Db,
};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use super::{
    camera::Camera,
    cloud::{Cloud, PATIENCE},
};

/// A browser without a script: it keeps cookies and reads forms.
pub(super) struct Visitor {
    host: String,
    cookies: BTreeMap<String, String>,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Visitor {
    fn new(cloud: &Cloud) -> Self {
        Self { host: cloud.endpoints.portal.strip_prefix("http://").unwrap().to_owned(), cookies: BTreeMap::new() }
    }

    /// The owner of the cloud's first account.
    pub async fn owner(cloud: &Cloud) -> Self {
        let SignIn { login, password, .. } = sign_in_of(cloud);
        let mut visitor = Self::new(cloud);
        assert_eq!(visitor.sign_in(&login, &password).await, 303);
        visitor
    }

    async fn send(&mut self, mut request: Request<Full<Bytes>>) -> hyper::Response<Incoming> {
        let headers = request.headers_mut();
        headers.entry(header::HOST).or_insert(self.host.parse().unwrap());
        let cookies: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        headers.insert(header::COOKIE, cookies.join("; ").parse().unwrap());
        let stream = TokioIo::new(TcpStream::connect(&self.host).await.unwrap());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.unwrap();
        for cookie in answer.headers().get_all(header::SET_COOKIE) {
            let cookie = cookie.to_str().unwrap();
            assert!(cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
            let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
            match value {
                "" => drop(self.cookies.remove(name)),
                value => drop(self.cookies.insert(name.to_owned(), value.to_owned())),
            }
        }
        answer
    }

    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.send(request).await.into_parts();
        let text = String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask(Request::get(path).body(Full::default()).unwrap()).await
    }

    /// Where this page sends a browser.
    pub async fn redirected(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{path}: {}", answer.text);
        answer.headers[header::LOCATION].to_str().unwrap().to_owned()
    }

    pub async fn page(&mut self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.text
    }

    async fn post(&mut self, path: &str, form: &str) -> Answer {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        self.ask(request.body(Full::from(form.to_owned())).unwrap()).await
    }

    /// Posts a form of this page, with its token.
    async fn submit(&mut self, page: &str, path: &str, form: &str) -> Answer {
        let token = field(&self.page(page).await, "csrf");
        self.post(path, &format!("csrf={token}&{form}")).await
    }

    async fn sign_in(&mut self, login: &str, password: &str) -> StatusCode {
        self.submit("/sign-in", "/sign-in", &format!("id={login}&password={password}")).await.status
    }
}

fn sign_in_of(cloud: &Cloud) -> SignIn {
    serde_json::from_slice(&std::fs::read(cloud.data().join(SIGN_IN_FILE)).unwrap()).unwrap()
}

/// The value of a form's hidden field.
fn field(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("{name} in {page}"));
    rest.split_once('"').unwrap().0.to_owned()
}

/// An account with a camera, and its owner signed in.
async fn somebody(cloud: &Cloud, account: &str, camera: &str) -> Visitor {
    let login = format!("{account}@example.com");
    add_account(&cloud.data(), None, account, &login, "a long password").unwrap();
    Camera::add(cloud, camera);
    cloud.act(json!({ "action": "bind", "camera": camera, "account": account })).await;
    let mut visitor = Visitor::new(cloud);
    assert_eq!(visitor.sign_in(&login, "a+long+password").await, 303);
    visitor
}

#[tokio::test]
async fn subscribing_and_cancelling_work_by_forms_alone() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    let mut owner = Visitor::owner(&cloud).await;
    assert!(owner.page("/").await.contains("CAM-A"));
    let buy = "plan=premium&cycle=monthly&how=subscribe&zone=Europe%2FParis";
    assert_eq!(owner.submit("/cameras/CAM-A/plan", "/cameras/CAM-A/subscribe", buy).await.status, 303);
    let home = owner.page("/").await;
    assert!(home.contains("Cancel Subscription") && home.contains("KC-"), "{home}");

    // Cancel Subscription → confirm, with what it costs → REMOVE.
    let confirm = owner.page("/cameras/CAM-A/cancel").await;
    assert!(confirm.contains("REMOVE") && confirm.contains("cannot be recovered"), "{confirm}");
    let shown = ["order_id", "kind", "amount_minor", "at"].map(|name| (name, field(&confirm, name)));
    let amount: u64 = shown[2].1.parse().unwrap();
    assert!(amount > 900 && confirm.contains(&format!("${}.{:02} is refunded", amount / 100, amount % 100)), "{confirm}");
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium", "asking changes nothing");
    let form = |amount: u64| format!("order_id={}&kind={}&amount_minor={amount}&at={}", shown[0].1, shown[1].1, shown[3].1);
    let path = "/cameras/CAM-A/cancel";
    assert_eq!(owner.submit(path, path, &form(amount + 1)).await.status, 409, "no more than was shown");
    let token = field(&confirm, "csrf");
    let form = format!("csrf={token}&{}", form(amount));
    assert_eq!(owner.post(path, &form).await.status, 303);
    let state = cloud.state().await;
    assert_eq!(state["cameras"][0]["plan"], "free");
    // What was shown is what the document says, and when it was clicked is known.
    let order = &state["switches"][0]["order"];
    assert_eq!((&order["id"], &order["kind"], &order["amount_minor"]), (&shown[0].1.as_str().into(), &"refund".into(), &amount.into()));
    assert!(state["switches"][0]["clicked_us"].as_i64() <= state["switches"][0]["issued_us"].as_i64(), "{state:#}");
    assert!(state["switches"][0]["clicked_us"].is_i64(), "{state:#}");
    assert_eq!(owner.post(path, &form).await.status, 409);
}

#[tokio::test]
async fn nobody_sees_anything_before_signing_in() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    let mut visitor = Visitor::new(&cloud);
    for path in ["/", "/cameras/CAM-A", "/cameras/CAM-A/plan", "/cameras/CAM-A/cancel", "/orders", "/support", "/engineers"] {
        let answer = visitor.get(path).await;
        assert_eq!((answer.status, &answer.headers[header::LOCATION]), (StatusCode::SEE_OTHER, &"/sign-in".parse().unwrap()), "{path}");
        assert!(!answer.text.contains("CAM-A"));
    }
    assert_eq!(visitor.get("/events").await.status, 403);
    for path in ["/cameras/CAM-A/cancel", "/cameras/CAM-A/subscribe", "/orders/pay", "/engineers/play"] {
        assert!(visitor.post(path, "").await.status.is_client_error(), "{path}");
    }
    let SignIn { login, password, .. } = sign_in_of(&cloud);
    assert!(!visitor.page("/sign-in").await.contains(&login), "only the demo says how to sign in");
    assert_eq!(visitor.sign_in(&login, "wrong").await, 403);
    assert_eq!(visitor.sign_in("engineer", &password).await, 403);
    assert_eq!(visitor.sign_in(&login, &password).await, 303);

    // Signing out ends the session itself, not only the cookie.
    let stolen = visitor.cookies.clone();
    assert_eq!(visitor.submit("/", "/sign-out", "").await.status, 303);
    visitor.cookies = stolen;
    assert_eq!(visitor.get("/").await.status, 303);
}

#[tokio::test]
async fn a_form_is_taken_from_our_own_page_only() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    let mut owner = Visitor::owner(&cloud).await;
    let confirm = owner.page("/cameras/CAM-A/cancel").await;
    let names = ["order_id", "kind", "amount_minor", "at"];
    let fields: Vec<_> = names.iter().map(|name| format!("{name}={}", field(&confirm, name))).collect();
    let token = field(&confirm, "csrf");
    let form = |token: &str| format!("csrf={token}&{}", fields.join("&"));
    for (name, value) in [(header::ORIGIN, "http://evil.example"), (header::ORIGIN, "null"), (header::HOST, "evil.example")] {
        let request = Request::post("/cameras/CAM-A/cancel").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.header(name, value).body(Full::from(form(&token))).unwrap();
        assert_eq!(owner.ask(request).await.status, 403, "{value}");
    }
    // Neither no token nor another visitor's.
    let other = field(&Visitor::new(&cloud).page("/sign-in").await, "csrf");
    for token in ["", &other] {
        assert_eq!(owner.post("/cameras/CAM-A/cancel", &form(token)).await.status, 403);
    }
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium");
    assert_eq!(owner.post("/cameras/CAM-A/cancel", &form(&token)).await.status, 303);
}

#[tokio::test]
async fn an_owner_sees_and_changes_their_own_cameras_only() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    let mut bob = somebody(&cloud, "bob", "CAM-B").await;
    cloud.premium("CAM-B").await;
    cloud.portal().post("/portal/experiment", &json!({ "experiment": "add_history", "camera": "CAM-B", "clips": 3 })).await.unwrap();
    let clips = cloud.portal().get("/portal/accounts/bob/cameras/CAM-B/clips").await.unwrap();
    let clip = format!("/cameras/CAM-B/clips/{}", clips[0]["clip"].as_str().unwrap());
    assert_eq!(bob.get(&clip).await.status, 200);

    for path in ["/", "/orders", "/support"] {
        let page = anne.page(path).await;
        assert!(!page.contains("CAM-B") && !page.contains("bob"), "{path}: {page}");
    }
    for path in ["/cameras/CAM-B", "/cameras/CAM-B/plan", "/cameras/CAM-B/cancel", &clip, "/engineers"] {
        assert_eq!(anne.get(path).await.status, 404, "{path}");
    }
    let token = field(&anne.page("/").await, "csrf");
    let confirm = bob.page("/cameras/CAM-B/cancel").await;
    let names = ["order_id", "kind", "amount_minor", "at"];
    let fields: Vec<_> = names.iter().map(|name| format!("{name}={}", field(&confirm, name))).collect();
    let form = format!("csrf={token}&{}", fields.join("&"));
    assert_eq!(anne.post("/cameras/CAM-B/cancel", &form).await.status, 404);
    let buy = format!("csrf={token}&plan=premium&cycle=monthly&how=subscribe");
    assert_eq!(anne.post("/cameras/CAM-B/subscribe", &buy).await.status, 404);
    assert_eq!(anne.post("/engineers/play", &format!("csrf={token}&fault=broker_stop")).await.status, 404);
    assert_eq!(cloud.state().await["broker_running"], true);
}

#[tokio::test]
async fn a_snapshot_that_is_a_jpeg_is_shown_as_a_picture() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    cloud.portal().post("/portal/experiment", &json!({ "experiment": "add_history", "camera": "CAM-A", "clips": 1 })).await.unwrap();
    let clips = cloud.portal().get("/portal/accounts/anne/cameras/CAM-A/clips").await.unwrap();
    let clip = clips[0]["clip"].as_str().unwrap();
    let url = format!("/cameras/CAM-A/clips/{clip}");
    for page in ["/", "/cameras/CAM-A"] {
        let page = anne.page(page).await;
        assert!(page.contains(&format!("<video src=\"{url}\"")) || page.contains(&format!("<video id=\"shown\" src=\"{url}\"")), "{page}");
    }
    let db = Db::open(&cloud.data().join("care.db")).unwrap();
    db.read(|c| Ok(c.execute("UPDATE clips SET kind = 'snapshot'", [])?)).unwrap();
    std::fs::write(cloud.data().join(format!("store/clips/CAM-A/{clip}.mp4")), [0xFF, 0xD8, 0xFF, 0xD9]).unwrap();
    for page in ["/", "/cameras/CAM-A"] {
        let page = anne.page(page).await;
        assert!(page.contains(&format!("<img src=\"{url}\"")) || page.contains(&format!("<img id=\"shown\" src=\"{url}\"")), "{page}");
        assert!(!page.contains("<video"), "{page}");
    }
    assert_eq!(anne.get(&url).await.headers["content-type"], "image/jpeg");
}

#[tokio::test]
async fn an_owner_gets_events_of_their_own_cameras_only() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    let mut bob = somebody(&cloud, "bob", "CAM-B").await;
    let listen = || Request::get("/events").body(Full::default()).unwrap();
    let (mut to_anne, mut to_bob) = (anne.send(listen()).await.into_body(), bob.send(listen()).await.into_body());
    async fn reported(stream: &mut Incoming) -> String {
        loop {
            let frame = tokio::time::timeout(PATIENCE, stream.frame()).await.expect("an event").expect("the stream goes on").unwrap();
            let text = String::from_utf8_lossy(&frame.into_data().unwrap()).into_owned();
            // What keeps the connection alive says nothing.
            if !text.starts_with(':') {
                return text;
            }
        }
    }
    cloud.premium("CAM-B").await;
    assert_eq!(reported(&mut to_bob).await, "data: look\n\n", "and nothing else");
    // Everything that follows from Bob's is published before Anne's begins: her first event is her own.
    cloud.until("Bob's document is at the broker", |state| state["switches"][0]["acked_us"].is_i64()).await;
    let quiet = tokio::time::timeout(std::time::Duration::from_millis(200), reported(&mut to_anne)).await;
    assert!(quiet.is_err(), "Anne heard of Bob's camera: {quiet:?}");
    cloud.premium("CAM-A").await;
    assert_eq!(reported(&mut to_anne).await, "data: look\n\n");

    // Signed out, she hears no more: the stream ends at the next news.
    assert_eq!(anne.submit("/", "/sign-out", "").await.status, 303);
    cloud.act(json!({ "action": "downgrade", "camera": "CAM-A" })).await;
    let end = async { while to_anne.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream ends");
}

#[tokio::test]
async fn guessing_passwords_takes_long_and_does_not_lock_others_out() {
    let cloud = Cloud::start().await;
    let SignIn { login, password, .. } = sign_in_of(&cloud);
    let mut guesser = Visitor::new(&cloud);
    let mut last = StatusCode::OK;
    for _ in 0..6 {
        last = guesser.sign_in(&login.to_uppercase(), "wrong").await;
    }
    assert_eq!(last, 429);
    assert_eq!(guesser.sign_in(&login, &password).await, 429, "not even with the right one");
    add_account(&cloud.data(), None, "anne", "anne@example.com", "a long password").unwrap();
    assert_eq!(Visitor::new(&cloud).sign_in("anne@example.com", "a+long+password").await, 303);
}

#[tokio::test]
async fn every_answer_has_its_security_headers() {
    let cloud = Cloud::start().await;
    let mut owner = Visitor::owner(&cloud).await;
    for path in ["/", "/sign-in", "/nowhere", "/portal.js", "/portal/state"] {
        let headers = owner.get(path).await.headers;
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "same-origin");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
    }
    let secret = std::fs::read_to_string(cloud.data().join("keys/operator.secret")).unwrap();
    for path in ["/", "/orders", "/support"] {
        let page = owner.page(path).await;
        assert!(!page.contains(&secret) && !page.contains(&owner.cookies["care_session"]), "{path}");
    }
}

#[tokio::test]
async fn programs_authenticate_with_the_operators_secret() {
    let cloud = Cloud::start().await;
    let mut owner = Visitor::owner(&cloud).await;
    for path in ["/portal/state", "/portal/overview", "/portal/accounts/acct-1"] {
        assert_eq!(owner.get(path).await.status, 401, "a session is not enough: {path}");
        let wrong = Request::get(path).header(header::AUTHORIZATION, "Bearer wrong").body(Full::default()).unwrap();
        assert_eq!(owner.ask(wrong).await.status, 401);
        cloud.portal().get(path).await.unwrap();
    }
    for path in ["/portal/act", "/portal/broker", "/portal/experiment"] {
        assert_eq!(owner.post(path, "").await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn a_subscription_from_the_app_cannot_be_cancelled_here() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.act(json!({ "action": "subscribe", "camera": "CAM-A", "plan": "premium", "channel": "app_store" })).await;
    let mut owner = Visitor::owner(&cloud).await;
    let home = owner.page("/").await;
    assert!(home.contains("Bought in the app") && !home.contains("Cancel Subscription"), "{home}");
    let answer = owner.get("/cameras/CAM-A/cancel").await;
    assert!(answer.status == 409 && answer.text.contains("cancel it there"), "{}", answer.text);
}

#[tokio::test]
async fn a_new_password_ends_every_session_of_its_account_and_of_no_other() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    let mut bob = somebody(&cloud, "bob", "CAM-B").await;
    // Somebody who knows the old password, too.
    let mut thief = Visitor::new(&cloud);
    assert_eq!(thief.sign_in("anne@example.com", "a+long+password").await, 303);
    let mut events = thief.send(Request::get("/events").body(Full::default()).unwrap()).await.into_body();

    add_account(&cloud.data(), None, "anne", "anne@example.com", "another long password").unwrap();
    for visitor in [&mut anne, &mut thief] {
        assert_eq!(visitor.get("/").await.headers[header::LOCATION], "/sign-in");
    }
    // Its live page ends as well, though nothing happens that it would hear of.
    let end = async { while events.frame().await.is_some_and(|frame| frame.is_ok()) {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the stream ends");
    assert_eq!(thief.sign_in("anne@example.com", "a+long+password").await, 403);
    assert_eq!(anne.sign_in("anne@example.com", "another+long+password").await, 303);
    assert!(bob.page("/").await.contains("CAM-B"));
}

#[tokio::test]
async fn a_page_that_is_only_open_keeps_nobody_signed_in() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    cloud.portal().post("/portal/experiment", &json!({ "experiment": "add_history", "camera": "CAM-A", "clips": 1 })).await.unwrap();
    let clips = cloud.portal().get("/portal/accounts/anne/cameras/CAM-A/clips").await.unwrap();
    let clip = format!("/cameras/CAM-A/clips/{}", clips[0]["clip"].as_str().unwrap());
    let db = Db::open(&cloud.data().join("care.db")).unwrap();
    let seen_at =
        || -> u64 { db.read(|c| Ok(c.query_row("SELECT seen_at FROM sessions WHERE account = 'anne'", [], |row| row.get(0))?)).unwrap() };
    let an_hour_ago = now_s() - 3600;
    db.read(|c| Ok(c.execute("UPDATE sessions SET seen_at = ?1", [an_hour_ago])?)).unwrap();

    // Its events, what it looks at again by itself, its pictures.
    drop(anne.send(Request::get("/events").body(Full::default()).unwrap()).await);
    let live = Request::get("/").header("x-care-live", "1").body(Full::default()).unwrap();
    assert_eq!(anne.ask(live).await.status, 200);
    assert_eq!(anne.get(&clip).await.status, 200);
    assert_eq!(seen_at(), an_hour_ago);
    // The person does something.
    anne.page("/").await;
    assert!(seen_at() > an_hour_ago);
    // Nothing for two hours: over, whatever the page did.
    db.read(|c| Ok(c.execute("UPDATE sessions SET seen_at = ?1", [now_s() - 2 * 3600])?)).unwrap();
    let live = Request::get("/").header("x-care-live", "1").body(Full::default()).unwrap();
    assert_eq!(anne.ask(live).await.status, 303);
}

#[tokio::test]
async fn a_premium_without_a_camera_is_shown_and_cancelled_by_forms_alone() {
    let cloud = Cloud::start().await;
    let mut anne = somebody(&cloud, "anne", "CAM-A").await;
    cloud.premium("CAM-A").await;
    cloud.act(json!({ "action": "unbind", "camera": "CAM-A" })).await;
    let home = anne.page("/").await;
    assert!(home.contains("Other subscriptions") && home.contains("monthly ·"), "{home}");
    let (_, order) = home.split_once("/orders/").unwrap();
    let path = format!("/orders/{}/cancel", order.split_once('/').unwrap().0);
    assert!(anne.page("/orders").await.contains(&path));
    // Nobody else's.
    let mut bob = somebody(&cloud, "bob", "CAM-B").await;
    assert_eq!(bob.get(&path).await.status, 404);

    let confirm = anne.page(&path).await;
    assert!(confirm.contains("REMOVE") && confirm.contains("is refunded"), "{confirm}");
    let fields: Vec<_> =
        ["order_id", "kind", "amount_minor", "at"].iter().map(|name| format!("{name}={}", field(&confirm, name))).collect();
    let form = fields.join("&");
    assert_eq!(bob.submit("/", &path, &form).await.status, 404);
    assert_eq!(anne.submit(&path, &path, &form).await.status, 303);
    assert!(!anne.page("/").await.contains("Other subscriptions"));
    let orders = cloud.portal().get("/portal/accounts/anne/orders").await.unwrap();
    assert!(orders[0]["balance"]["refunded"].as_u64().unwrap() > 900 && orders[0]["running"] == false, "{orders:#}");
}
