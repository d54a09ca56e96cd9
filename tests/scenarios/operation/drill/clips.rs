//! Clips do not get to the store.

use care_protocol::{Mode, Policy};
use care_tests::{
    cloud::{CloudState, GrantAnswer, PutFault, grant},
    issuer::PREMIUM,
    world::World,
};

use super::{Drill, Group, Meeting, while_moving};

async fn play(world: &World, meeting: Meeting, break_it: impl FnOnce(&mut CloudState)) {
    break_it(&mut world.cloud.lock());
    while_moving(&world.agent, meeting.named(&world.agent)).await;
    {
        let mut cloud = world.cloud.lock();
        (cloud.on_put, cloud.grants) = (None, GrantAnswer::Here);
    }
    while_moving(&world.agent, meeting.over(&world.agent)).await;
}

#[tokio::test]
async fn clips() {
    let mut drill = Drill::new(Group::Clips);
    let mut world = World::with_camera().await;
    let short = Policy { clip_max_s: 1, ..PREMIUM };
    let premium = world.premium().limited(short);
    world.start_with(premium, Mode::Paid).await;

    for (what, fault) in [
        ("The store is full: 507", PutFault::Status(507)),
        ("The store refuses the grants: 403", PutFault::Status(403)),
        ("A proxy takes no clips of that size", PutFault::Early(413)),
    ] {
        let meeting = drill.fault(&world.agent, what);
        play(&world, meeting, |cloud| cloud.on_put = Some(Box::new(move |_, _| Some(fault)))).await;
    }

    let meeting = drill.fault(&world.agent, "The store does not like one clip");
    let mut first = None;
    let one = move |clip: &str, _| (first.get_or_insert_with(|| clip.to_owned()) == clip).then_some(PutFault::Status(500));
    play(&world, meeting, |cloud| cloud.on_put = Some(Box::new(one))).await;

    let meeting = drill.fault(&world.agent, "The API cannot make grants: 500");
    play(&world, meeting, |cloud| cloud.grants = GrantAnswer::Status(500)).await;
    let meeting = drill.fault(&world.agent, "Grants name a host that is not in the list");
    play(&world, meeting, |cloud| cloud.grants = GrantAnswer::Body(grant("https://clips.example/k"))).await;
    let meeting = drill.fault(&world.agent, "The cloud refuses grants that the document allows");
    play(&world, meeting, |cloud| cloud.grants = GrantAnswer::Status(403)).await;

    let tall = drill.fault(&world.agent, "The picture is larger than the plan allows");
    let small = world.premium().limited(Policy { max_height: 100, ..short });
    world.switch(small, Mode::Paid).await;
    tall.named(&world.agent).await;
    let again = world.premium().limited(short);
    world.switch(again, Mode::Paid).await;
    tall.over(&world.agent).await;
    drill.end();
}
