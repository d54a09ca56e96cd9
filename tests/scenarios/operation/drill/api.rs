//! The API is away, refuses, or answers what it should not. A reload makes the camera ask it at once.

use care_tests::{
    cloud::{Clock, Document as Body},
    impostor::Impostor,
    pki::plain_tls,
    proxy::{Fault, Proxy},
    wait::{PATIENCE, until},
    world::World,
};

use super::{Drill, Group, Meeting, reload};

/// The camera asks the API again: named, then mended, then over.
async fn play(world: &World, meeting: Meeting, break_it: impl FnOnce(&World), mend: impl FnOnce(&World)) {
    break_it(world);
    reload(&world.agent);
    meeting.named(&world.agent).await;
    mend(world);
    let asked = world.cloud.entitlement_gets();
    reload(&world.agent);
    until("the camera to ask again", PATIENCE, || (world.cloud.entitlement_gets() > asked).then_some(())).await;
    meeting.over(&world.agent).await;
}

#[tokio::test]
async fn api() {
    let mut drill = Drill::new(Group::Api);
    let mut world = World::new().await;
    let api = Proxy::to(world.cloud.addr).await;
    world.agent.config.cloud = format!("https://{}", api.addr);
    let document = world.start_premium().await;
    let right = || Body::Token(document.token.clone());
    let good = |world: &World| world.cloud.lock().entitlement = right();

    let down = drill.fault(&world.agent, "The API is not running");
    play(&world, down, |_| api.control.inject(Fault::Refused), |_| api.control.lift()).await;

    for (what, code) in [("The API answers 500", 500), ("The API answers 403", 403), ("The API has moved, and answers 301", 301)] {
        let meeting = drill.fault(&world.agent, what);
        play(&world, meeting, |world| world.cloud.lock().entitlement = Body::Status(code), good).await;
    }

    let large = drill.fault(&world.agent, "The API answers with 300 KB");
    play(&world, large, |world| world.cloud.lock().entitlement = Body::Token("x".repeat(300_000)), good).await;

    let portal = drill.fault(&world.agent, "A login page answers for the API");
    let page = "<!doctype html><title>Sign in</title><p>Welcome to the hotel's network.";
    play(&world, portal, |world| world.cloud.lock().entitlement = Body::Token(page.into()), good).await;

    let anybody = drill.fault(&world.agent, "The API asks for no client certificate");
    let impostor = Impostor::listen(([127, 0, 0, 1], 0).into(), plain_tls(&world.pki.ca.server())).await;
    play(&world, anybody, |_| api.redirect_to(impostor.addr), |world| api.redirect_to(world.cloud.addr)).await;

    let silent = drill.fault(&world.agent, "The API takes the request and never answers");
    play(&world, silent, |world| world.cloud.lock().entitlement = Body::Silence, good).await;

    let far = drill.fault(&world.agent, "The API's clock is in 2099");
    let years = 73 * 365 * 86_400;
    play(&world, far, |world| world.cloud.lock().clock = Clock::Offset(years), |world| world.cloud.lock().clock = Clock::Offset(0)).await;

    let ahead = drill.fault(&world.agent, "The API's clock is two hours ahead");
    world.cloud.lock().clock = Clock::Offset(7_200);
    reload(&world.agent);
    ahead.named(&world.agent).await;
    ahead.lasts(&world.agent);
    drill.end();
}
