//! The portal without a script: pages, forms, and who may post them.

use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{camera::Camera, cloud::Cloud};

async fn browse(cloud: &Cloud, request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let host = cloud.endpoints.portal.strip_prefix("http://").unwrap();
    let stream = TokioIo::new(TcpStream::connect(host).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    (status, String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes()).into_owned())
}

fn to(cloud: &Cloud, path: &str) -> axum::http::request::Builder {
    Request::builder().uri(path).header(header::HOST, cloud.endpoints.portal.strip_prefix("http://").unwrap())
}

async fn page(cloud: &Cloud, path: &str) -> String {
    let (status, text) = browse(cloud, to(cloud, path).body(Full::default()).unwrap()).await;
    assert_eq!(status, 200, "{path}: {text}");
    text
}

/// The value of a form's hidden field.
fn field(page: &str, name: &str) -> String {
    let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("{name} in {page}"));
    rest.split_once('"').unwrap().0.to_owned()
}

async fn submit(cloud: &Cloud, path: &str, form: &str) -> StatusCode {
    let request = to(cloud, path).method("POST").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    browse(cloud, request.body(Full::from(form.to_owned())).unwrap()).await.0
}

#[tokio::test]
async fn subscribing_and_cancelling_work_by_forms_alone() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    assert!(page(&cloud, "/").await.contains("CAM-A"));
    assert_eq!(submit(&cloud, "/cameras/CAM-A/subscribe", "plan=premium").await, 303);
    let home = page(&cloud, "/").await;
    assert!(home.contains("Cancel Subscription") && home.contains("KC-"), "{home}");

    // Cancel Subscription → confirm, with what it costs → REMOVE.
    let confirm = page(&cloud, "/cameras/CAM-A/cancel").await;
    assert!(confirm.contains("REMOVE") && confirm.contains("cannot be recovered"), "{confirm}");
    let shown = ["order_id", "kind", "amount_minor", "at"].map(|name| (name, field(&confirm, name)));
    let amount: u64 = shown[2].1.parse().unwrap();
    assert!(amount > 900 && confirm.contains(&format!("${}.{:02} is refunded", amount / 100, amount % 100)), "{confirm}");
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium", "asking changes nothing");
    let form = |amount: u64| format!("order_id={}&kind={}&amount_minor={amount}&at={}", shown[0].1, shown[1].1, shown[3].1);
    assert_eq!(submit(&cloud, "/cameras/CAM-A/cancel", &form(amount + 1)).await, 409, "no more than was shown");
    assert_eq!(submit(&cloud, "/cameras/CAM-A/cancel", &form(amount)).await, 303);
    let state = cloud.state().await;
    assert_eq!(state["cameras"][0]["plan"], "free");
    // What was shown is what the document says.
    let order = &state["switches"][0]["order"];
    assert_eq!((&order["id"], &order["kind"], &order["amount_minor"]), (&shown[0].1.as_str().into(), &"refund".into(), &amount.into()));
    assert_eq!(submit(&cloud, "/cameras/CAM-A/cancel", "").await, 409);
}

#[tokio::test]
async fn another_sites_page_cannot_act_here() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.premium("CAM-A").await;
    for (name, value) in [(header::ORIGIN, "http://evil.example"), (header::ORIGIN, "null"), (header::HOST, "evil.example")] {
        let mut request = to(&cloud, "/cameras/CAM-A/cancel").method("POST").body(Full::default()).unwrap();
        request.headers_mut().insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(browse(&cloud, request).await.0, 403, "{value}");
    }
    assert_eq!(cloud.state().await["cameras"][0]["plan"], "premium");
}

#[tokio::test]
async fn a_subscription_from_the_app_cannot_be_cancelled_here() {
    let cloud = Cloud::start().await;
    Camera::add(&cloud, "CAM-A");
    cloud.act(serde_json::json!({ "action": "subscribe", "camera": "CAM-A", "plan": "premium", "channel": "app_store" })).await;
    let home = page(&cloud, "/").await;
    assert!(home.contains("Bought in the app") && !home.contains("Cancel Subscription"), "{home}");
    let (status, why) = browse(&cloud, to(&cloud, "/cameras/CAM-A/cancel").body(Full::default()).unwrap()).await;
    assert!(status == 409 && why.contains("cancel it there"), "{why}");
}
