//! `check-config --connect` makes a full round trip: a SUBACK alone proves nothing, so it asks for the entitlement
//! and judges the answer. It connects under the client id of the certificate, and asks a running agent instead of
//! disconnecting it.

use care_protocol::Mode;
use care_tests::{
    agent::Agent,
    cloud::{Cloud, Document as Body},
    issuer::{Draft, PREMIUM},
    pki::Pki,
    scripted_broker::ScriptedBroker,
    world::{DEVICE, World},
};
use rumqttc::{Packet, PubAck};

/// The lines that the check prints, and whether it succeeded.
async fn checked(agent: &Agent) -> (bool, String) {
    let output = agent.command(&["check-config", "--connect"]).await;
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn the_check_fetches_the_entitlement_and_verifies_it_with_the_devices_keys() {
    let mut world = World::new().await;
    let premium = world.premium();
    let premium = world.issue(premium).await;
    world.agent.write_config();
    let (well, said) = checked(&world.agent).await;
    let verdict = format!("ok      broker round trip: get was answered: premium {}", premium.position);
    assert!(well && said.contains(&format!("connected as {DEVICE},")) && said.contains(&verdict), "{said}");

    // A document that the device would reject.
    let other = Pki::new();
    let forged = Draft::new(&world.device, "premium", PREMIUM).at(3, 99).signed(&other.key);
    world.issuer.heard().answer = Some(forged.token);
    let (well, said) = checked(&world.agent).await;
    assert!(!well && said.contains("failed  broker round trip: ") && said.contains("bad_signature"), "{said}");
}

#[tokio::test]
async fn the_check_detects_a_broker_that_grants_the_subscription_and_delivers_nothing() {
    let pki = Pki::new();
    let broker = ScriptedBroker::new(&pki).await;
    let cloud = Cloud::start(&pki).await;
    cloud.lock().keyset = Body::Token(pki.keyset(7).sign(&pki.root));
    let premium = Draft::new(&DEVICE.parse().unwrap(), "premium", PREMIUM).at(3, 41).signed(&pki.key);
    cloud.lock().entitlement = Body::Token(premium.token);
    let agent = Agent::new(&pki, DEVICE, broker.addr, &cloud.url());
    agent.write_config();
    let deaf = async {
        // The first connection only tests TCP and TLS.
        drop(broker.accept().await);
        let mut peer = broker.subscribed(true).await;
        let get = peer.publish_to("/get").await;
        peer.send(Packet::PubAck(PubAck::new(get.pkid))).await;
        while peer.try_next().await.is_some() {}
    };
    let ((well, said), ()) = tokio::join!(checked(&agent), deaf);
    assert!(!well && said.contains("ok      broker MQTT: ") && said.contains("failed  broker round trip: "), "{said}");
}

#[tokio::test]
async fn the_check_queries_a_running_agent_and_keeps_its_connection() {
    let mut world = World::new().await;
    world.start_premium().await;
    world.agent.status("a confirmed connection", |status| status.0["link"]["confirmed"] == true).await;
    let connects = world.broker.connects_of(DEVICE);
    let (well, said) = checked(&world.agent).await;
    assert!(well && said.contains("the running agent is connected") && said.contains("confirmed"), "{said}");
    assert_eq!(world.broker.connects_of(DEVICE), connects, "the agent was disconnected");
    assert_eq!(world.broker.connects_of(&format!("{DEVICE}-check")), 0);
    world.agent.mode(Mode::Paid).await;
}
