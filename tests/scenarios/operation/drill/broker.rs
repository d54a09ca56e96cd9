//! The broker answers, and does not serve this camera.

use std::{sync::Arc, time::Duration};

use care_protocol::Mode;
use care_tests::{
    broker::Broker,
    scripted_broker::ScriptedBroker,
    wait::{PATIENCE, until},
    world::{DEVICE, World},
};
use rumqttc::{AsyncClient, MqttOptions, Packet, TlsConfiguration, Transport};
use tokio::task::JoinHandle;

use super::{Drill, Group};

const CAMERAS_ACL: &str = include_str!("../../../../deploy/mosquitto/cameras.acl");

/// A broker whose policy forbids every SUBSCRIBE: it closes the connection, as AWS IoT Core does.
fn forbidding(broker: ScriptedBroker) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let mut peer = broker.connected(false).await;
            assert!(matches!(peer.try_next().await, Some(Packet::Subscribe(_)) | None));
        }
    })
}

/// Another camera with this one's certificate.
fn clone_of(world: &World) -> JoinHandle<()> {
    let mut options = MqttOptions::new(DEVICE, world.broker.addr.ip().to_string(), world.broker.addr.port());
    let tls = world.pki.client_tls(&world.pki.ca.client(DEVICE));
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
    tokio::spawn(async move {
        let (_client, mut events) = AsyncClient::new(options, 16);
        loop {
            if events.poll().await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    })
}

/// Whoever has mended something need not wait for the camera to try again.
async fn connected_anew(world: &World) {
    let connects = world.broker.connects_of(DEVICE);
    super::reload(&world.agent);
    until("the camera at the broker", PATIENCE, || (world.broker.connects_of(DEVICE) > connects).then_some(())).await;
}

async fn restart(broker: &mut Broker, acl: &std::path::Path, rules: &str) {
    std::fs::write(acl, rules).unwrap();
    broker.restart().await;
}

#[tokio::test]
async fn broker() {
    let mut drill = Drill::new(Group::Broker);
    let dir = tempfile::tempdir().unwrap();
    let acl = dir.path().join("cameras.acl");
    std::fs::write(&acl, CAMERAS_ACL).unwrap();
    let mut world = World::with_broker(&format!("acl_file {}", acl.display())).await;
    world.start_premium().await;

    let deaf = drill.fault(&world.agent, "The broker's ACL lets the camera read nothing");
    let writes: Vec<_> = CAMERAS_ACL.lines().filter(|line| !line.contains(" read ")).collect();
    restart(&mut world.broker, &acl, &(writes.join("\n") + "\n")).await;
    deaf.named(&world.agent).await;
    restart(&mut world.broker, &acl, CAMERAS_ACL).await;
    deaf.over(&world.agent).await;

    let rights = drill.fault(&world.agent, "The broker's policy forbids the subscription");
    let scripted = ScriptedBroker::new(&world.pki).await;
    world.proxy.redirect_to(scripted.addr);
    let policy = forbidding(scripted);
    super::reload(&world.agent);
    rights.named(&world.agent).await;
    world.proxy.redirect_to(world.broker.addr);
    policy.abort();
    rights.over(&world.agent).await;
    world.agent.mode(Mode::Paid).await;

    let clone = drill.fault(&world.agent, "Another client connects with the camera's id");
    let other = clone_of(&world);
    clone.named(&world.agent).await;
    other.abort();
    connected_anew(&world).await;
    clone.over(&world.agent).await;
    drill.end();
}

#[tokio::test]
async fn messages() {
    let mut drill = Drill::new(Group::Messages);
    let mut world = World::new().await;
    world.start_premium().await;
    let large = drill.fault(&world.agent, "A message of 300 KB waits in the camera's topic");
    let premium = world.premium();
    let premium = world.sign(&premium);
    world.issuer.publish_entitlement(&"x".repeat(300_000)).await;
    large.named(&world.agent).await;
    // The second copy has cost the session, in which the message waited.
    world.agent.logged(large.line, "the wait", |line| line.contains("not subscribing for a while")).await;
    world.hand_out(&premium).await;
    connected_anew(&world).await;
    world.issuer.in_force(&premium, Mode::Paid).await;
    large.over(&world.agent).await;
    drill.end();
}
