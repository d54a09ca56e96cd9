//! Scenario 103: the network's configuration comes after the agent, or belongs to somebody else's portal. The C library
//! reads `/etc/resolv.conf` again; the agent must not remember that a name had no address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use care_protocol::Mode;
use care_tests::{
    impostor::Impostor,
    pki::{Authority, plain_tls},
    resolver::{NAME, Resolver},
    wait::{PATIENCE, until},
    world::World,
};

/// Names the broker and the API, which are elsewhere for now.
fn by_name(world: &mut World) {
    world.agent.config.broker = format!("mqtts://{NAME}:{}", world.proxy.addr.port());
    world.agent.config.cloud = format!("https://{NAME}:{}", world.cloud.addr.port());
}

/// What DHCP writes once there is a lease: in place, as its scripts do.
fn lease(world: &World, nameserver: IpAddr) {
    std::fs::write(world.agent.dir().join("resolv.conf"), format!("nameserver {nameserver}\noptions timeout:2 attempts:2\n")).unwrap();
}

#[tokio::test]
async fn s103_a_name_server_that_comes_after_the_agent_is_used() {
    let mut world = World::with_camera().await;
    by_name(&mut world);
    let document = world.premium();
    let document = world.issue(document).await;
    // Nobody serves names there: the lease has not come yet.
    world.agent.resolver = Some(IpAddr::V4(Ipv4Addr::new(127, 255, 7, 9)));
    world.agent.start();
    for name in ["broker_unreachable", "api_unreachable"] {
        let said = world.agent.condition(name).await;
        assert!(said.contains(NAME), "{said}");
    }
    world.agent.status("a picture", |status| status.0["media"]["frames"].as_u64() > Some(30)).await;

    let resolver = Resolver::start().await;
    lease(&world, resolver.ip);
    world.issuer.in_force(&document, Mode::Paid).await;
    world.agent.condition_gone("broker_unreachable").await;
    world.agent.condition_gone("api_unreachable").await;
}

/// The C library waits for the answer that does not come, longer than a connection may take.
#[tokio::test]
async fn s103_a_name_server_that_drops_questions_for_ipv6_is_asked_for_ipv4_alone() {
    let mut world = World::with_camera().await;
    by_name(&mut world);
    let resolver = Resolver::deaf_to_ipv6().await;
    (world.agent.resolver, world.agent.resolver_patience_s) = (Some(resolver.ip), 30);
    let document = world.premium();
    let document = world.issue(document).await;
    world.agent.start();
    world.issuer.in_force(&document, Mode::Paid).await;
    world.agent.condition_gone("api_unreachable").await;
}

/// The portal of a hotel answers every name with itself.
#[tokio::test]
async fn s103_behind_a_captive_portal_nothing_is_told_to_it_and_the_cause_is_named() {
    let mut world = World::with_camera().await;
    by_name(&mut world);
    let document = world.premium();
    let document = world.issue(document).await;
    let portal = IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9));
    let certificate = Authority::root("Hotel Portal").server();
    let mut portals = Vec::new();
    for server in [world.proxy.addr, world.cloud.addr] {
        portals.push(Impostor::listen(SocketAddr::new(portal, server.port()), plain_tls(&certificate)).await);
    }
    let captive = Resolver::naming(&[portal]).await;
    world.agent.resolver = Some(captive.ip);
    world.agent.start();
    for name in ["broker_unreachable", "api_unreachable"] {
        let said = world.agent.condition(name).await;
        assert!(said.contains("certificate") && said.contains(&portal.to_string()), "{name}: {said}");
    }
    until("both portals to be tried", PATIENCE, || portals.iter().all(|portal| portal.seen().connections > 0).then_some(())).await;

    let resolver = Resolver::start().await;
    lease(&world, resolver.ip);
    world.issuer.in_force(&document, Mode::Paid).await;
    for portal in &portals {
        assert_eq!(portal.seen().told, Vec::<u8>::new(), "the portal was told something");
    }
}
