//! Three NATS nodes with JetStream. The test kills the node that the camera is connected to at the moment of a
//! cancel; no document may be lost.

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    broker::{Broker, Kind, reserve_port},
    cloud::{Cloud, Document as Body},
    issuer::{Draft, FREE, Issuer, PREMIUM},
    pki::Pki,
    proxy::Proxy,
    wait::{RECONNECT, until},
    world::DEVICE,
};

/// Kills each of the camera's two nodes once and restarts it before killing the other.
const ROUNDS: u64 = 2;

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn a_cluster_that_loses_a_node_during_a_cancel_loses_no_document() {
    let pki = Pki::new();
    let held: [_; 3] = std::array::from_fn(|_| reserve_port());
    let routes = held.each_ref().map(|(_, address)| address.port());
    let all = routes.map(|port| format!("nats-route://127.0.0.1:{port}")).join(", ");
    let mut nodes = Vec::new();
    for port in routes {
        let cluster = format!("cluster {{ name: care, listen: \"127.0.0.1:{port}\", routes: [{all}] }}");
        nodes.push(Broker::start_kind(Kind::Nats, &pki, &pki.ca.server(), &cluster).await);
    }
    let device = DEVICE.parse().unwrap();
    let cloud = Cloud::start(&pki).await;
    // HTTPS and `get` are silent: MQTT must deliver it by itself.
    cloud.lock().entitlement = Body::Silence;
    let proxy = Proxy::to(nodes[0].addr).await;
    // The issuer's own node is never killed.
    let issuer = Issuer::connect(&pki, &nodes[1], &device).await;
    issuer.publish_keyset(&pki.keyset(7).sign(&pki.root)).await;
    let mut agent = Agent::new(&pki, DEVICE, proxy.addr, &cloud.url());
    agent.start();

    for round in 0..ROUNDS {
        let premium = Draft::new(&device, "premium", PREMIUM).at(3, 10 + 2 * round).signed(&pki.key);
        issuer.publish_entitlement(&premium.token).await;
        // A live copy confirms nothing; the answer to the `get` that follows does.
        issuer.heard().answer = Some(premium.token.clone());
        let what = format!("Premium in round {round}");
        agent.status_within(&what, RECONNECT, |status| status.seq() == premium.position.seq && status.mode() != "free").await;
        issuer.heard().answer = None;

        let (dies, lives) = if round % 2 == 0 { (0, 2) } else { (2, 0) };
        let cancel = Draft::new(&device, "free", FREE).at(3, 11 + 2 * round).signed(&pki.key);
        let sent = issuer.heard().acknowledged();
        issuer.post(&issuer.topics().entitlement(), true, cancel.token.clone());
        nodes[dies].kill().await;
        proxy.redirect_to(nodes[lives].addr);
        until(format!("round {round}: the cluster to take the cancel"), RECONNECT, || (issuer.heard().acknowledged() > sent).then_some(()))
            .await;
        let what = format!("Free in round {round}");
        agent.status_within(&what, RECONNECT, |status| status.seq() == cancel.position.seq && status.mode() == "free").await;
        nodes[dies].resume().await;
    }
    let report = issuer.report_within(0, RECONNECT, "the last cancel", |report| report.seq == 9 + 2 * ROUNDS).await;
    assert_eq!(report.mode, Mode::Free);
    println!("{ROUNDS} cancels, each with the loss of the camera's node, all applied");
}
