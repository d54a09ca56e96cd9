//! The FAQ's table with cameras: after a cancel or downgrade every camera of the account changes its mode at once, and the document
//! it reports on carries the refund that was shown.

use std::time::Duration;

use serde_json::{Value, json};

use super::cloud::{Cloud, until};

struct Row {
    cycle: &'static str,
    from: &'static str,
    downgrade: bool,
    others: bool,
    kind: &'static str,
}

#[rustfmt::skip]
const TABLE: [Row; 12] = [
    Row { cycle: "monthly", from: "plus",    downgrade: false, others: false, kind: "refund" },
    Row { cycle: "monthly", from: "plus",    downgrade: false, others: true,  kind: "credit" },
    Row { cycle: "monthly", from: "premium", downgrade: false, others: false, kind: "refund" },
    Row { cycle: "monthly", from: "premium", downgrade: false, others: true,  kind: "credit" },
    Row { cycle: "monthly", from: "premium", downgrade: true,  others: false, kind: "credit" },
    Row { cycle: "monthly", from: "premium", downgrade: true,  others: true,  kind: "credit" },
    Row { cycle: "annual",  from: "plus",    downgrade: false, others: false, kind: "refund" },
    Row { cycle: "annual",  from: "plus",    downgrade: false, others: true,  kind: "credit" },
    Row { cycle: "annual",  from: "premium", downgrade: false, others: false, kind: "refund" },
    Row { cycle: "annual",  from: "premium", downgrade: false, others: true,  kind: "credit" },
    Row { cycle: "annual",  from: "premium", downgrade: true,  others: false, kind: "credit" },
    Row { cycle: "annual",  from: "premium", downgrade: true,  others: true,  kind: "credit" },
];

/// What each camera of an account says that it does, in the order of their seats.
async fn modes(cloud: &Cloud, account: &str) -> Vec<(String, String)> {
    let view = cloud.portal().get(&format!("/portal/accounts/{account}")).await.unwrap();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    view["cameras"].as_array().unwrap().iter().map(|c| (text(&c["report"]["plan"]), text(&c["mode"]))).collect()
}

async fn until_modes(cloud: &Cloud, account: &str, expected: &[(&str, &str)]) {
    until(&format!("{account} in {expected:?}"), || async {
        let modes = modes(cloud, account).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        (modes.len() == expected.len() && modes.iter().zip(expected).all(|(is, wanted)| (&*is.0, &*is.1) == *wanted)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_faqs_table_holds_for_the_cameras_themselves() {
    let cloud = Cloud::start().await;
    for (n, row) in TABLE.iter().enumerate() {
        let account = format!("acct-row-{n}");
        // Premium covers ten: only an eleventh camera can have a Plus beside it.
        let size = if row.from == "premium" && row.others { 11 } else { 2 };
        let joined = cloud.experiment(json!({ "experiment": "simulate", "account": account, "cameras": size })).await;
        let (first, last) = (&joined["cameras"][0], &joined["cameras"][size - 1]);
        let subscribe = |camera: &Value, plan: &str| json!({ "action": "subscribe", "camera": camera, "plan": plan, "cycle": row.cycle });
        cloud.act(subscribe(first, row.from)).await;
        if row.others {
            cloud.act(subscribe(last, "plus")).await;
        }
        let mut expected =
            vec![(if row.from == "premium" { "premium" } else { "free" }, if row.from == "premium" { "paid" } else { "free" }); size];
        expected[0] = (row.from, "paid");
        if row.others {
            expected[size - 1] = ("plus", "paid");
        }
        until_modes(&cloud, &account, &expected).await;

        let action = json!({ "action": if row.downgrade { "downgrade" } else { "cancel" }, "camera": first });
        let shown = cloud.portal().post("/portal/preview", &action).await.unwrap();
        let done = cloud.act(action).await;
        expected = vec![("free", "free"); size];
        if row.downgrade {
            expected[0] = ("plus", "paid");
        }
        if row.others {
            expected[size - 1] = ("plus", "paid");
        }
        until_modes(&cloud, &account, &expected).await;

        assert_eq!(done["orders"], shown["back"], "row {n}: booked as shown");
        assert_eq!(done["orders"][0]["refund"]["kind"], row.kind, "row {n}");
        let orders = cloud.portal().get(&format!("/portal/accounts/{account}/orders")).await.unwrap();
        let closed = orders.as_array().unwrap().iter().find(|order| order["order_id"] == done["orders"][0]["id"]).unwrap();
        let (balance, back) = (&closed["balance"], done["orders"][0]["refund"]["amount_minor"].as_u64().unwrap());
        let minor = |name: &str| balance[name].as_u64().unwrap();
        assert_eq!(minor("refunded") + minor("credited"), back, "row {n}");
        assert_eq!(minor("used") + back, minor("paid") + minor("credit_used"), "row {n}: used + given back = paid");
        assert_eq!(cloud.experiment(json!({ "experiment": "stop_simulated" })).await["stopped"], size);
    }
}
