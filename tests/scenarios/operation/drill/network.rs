//! Broker and API cannot be reached. The camera knows both by name.

use std::net::SocketAddr;

use care_protocol::Mode;
use care_tests::{
    home::Home,
    proxy::{Fault, Proxy},
    resolver::{NAME, Resolver},
    world::World,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::AbortHandle,
};

use super::{Drill, Group, lead_astray, reload};

/// A web server on the port: it does not understand a ClientHello.
async fn web_server() -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut hello = [0; 512];
            // Whatever becomes of a client, the next one is served.
            let _ = socket.read(&mut hello).await;
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    (addr, task.abort_handle())
}

#[tokio::test]
async fn network() {
    let mut drill = Drill::new(Group::Network);
    let mut world = World::new().await;
    let (resolver, api) = (Resolver::start().await, Proxy::to(world.cloud.addr).await);
    world.agent.resolver = Some(resolver.ip);
    world.agent.config.broker = format!("mqtts://{NAME}:{}", world.proxy.addr.port());
    world.agent.config.cloud = format!("https://{NAME}:{}", api.addr.port());
    let mut home = Home::start().await;
    home.equip(&mut world.agent, "");
    world.start_premium().await;
    let agent = &world.agent;

    let switched_off = drill.fault(agent, "The broker in the home is switched off");
    home.kill().await;
    switched_off.named(agent).await;
    home.resume().await;
    reload(agent);
    switched_off.over(agent).await;

    let down = drill.fault(agent, "The broker is not running");
    world.proxy.control.inject(Fault::Refused);
    down.named(agent).await;
    world.proxy.control.lift();
    down.over(agent).await;

    let other = drill.fault(agent, "Something else listens on the broker's port");
    let (web, task) = web_server().await;
    lead_astray(&world, other, web).await;
    task.abort();

    for (what, fault) in [("The broker's name has no address", Fault::Refused), ("The name server does not answer", Fault::Blackhole)] {
        let meeting = drill.fault(agent, what);
        resolver.inject(fault);
        reload(agent);
        meeting.named(agent).await;
        resolver.lift();
        reload(agent);
        meeting.over(agent).await;
    }

    // Three at once: nothing gets through, so paid media waits.
    world.agent.mode(Mode::Paid).await;
    let meetings = ["A firewall swallows what goes to the broker", "A firewall swallows what goes to the API, too"]
        .map(|what| drill.fault(agent, what));
    let held = drill.fault(agent, "Paid video waits while neither can be reached");
    for proxy in [&world.proxy, &api] {
        proxy.cut().await;
        proxy.control.inject(Fault::Blackhole);
        proxy.restore();
    }
    for meeting in &meetings {
        meeting.named(agent).await;
    }
    held.named(agent).await;
    for proxy in [&world.proxy, &api] {
        proxy.control.lift();
    }
    reload(agent);
    held.over(agent).await;
    for meeting in meetings {
        meeting.over(agent).await;
    }
    drill.end();
}
