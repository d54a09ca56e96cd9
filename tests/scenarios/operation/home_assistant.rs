//! `[local_mqtt]`: Home Assistant sees the camera at a broker in the home, and whatever happens to that broker, a cancel
//! takes effect at once.

use std::{net::SocketAddr, time::Duration};

use care_protocol::Mode;
use care_tests::{
    home::{self, Assistant, Home, PASSWORD},
    wait::until,
    world::{DEVICE, World},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const CONFIG: &str = "homeassistant/device/kasa_care_8006E5A1F0C2/config";
const STATE: &str = "kasa-care/8006E5A1F0C2/state";
const AVAILABILITY: &str = "kasa-care/8006E5A1F0C2/availability";
const PICTURE: &str = "kasa-care/8006E5A1F0C2/picture";
const MOTION: &str = "kasa-care/8006E5A1F0C2/motion";

/// A camera on Premium whose home has a broker.
async fn camera_at_home() -> (World, Home, Assistant) {
    let (mut world, home) = (World::with_camera().await, Home::start().await);
    home.equip(&mut world.agent, "page_url = \"http://camera.lan:8080\"");
    let assistant = home.assistant().await;
    world.start_premium().await;
    (world, home, assistant)
}

/// A cancel, which the camera obeys in time; afterwards it is on Premium again.
async fn cancel_and_subscribe(world: &mut World) {
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
}

#[tokio::test]
async fn home_assistant_sees_the_camera_and_a_cancel() {
    let (mut world, home, assistant) = camera_at_home().await;
    let device = assistant.device(CONFIG).await;
    assert_eq!(device["device"]["serial_number"], DEVICE);
    assert_eq!(device["device"]["configuration_url"], "http://camera.lan:8080");
    assistant.hears(AVAILABILITY, |payload| payload == "online").await;
    assistant.state(STATE, |state| state["mode"] == "paid" && state["plan"] == "premium" && state["link"] == "ON").await;
    assistant.hears(PICTURE, |payload| payload == "http://camera.lan:8080/frame.jpg").await;

    // A clip, whose event shows at once, and a cancel.
    world.move_until("a stored clip", |cloud| cloud.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    assistant.hears(MOTION, |payload| payload == "ON").await;
    assistant.state(STATE, |state| state["stored"].as_u64() >= Some(1)).await;
    let cancel = world.free();
    let cancel = world.switch(cancel, Mode::Free).await;
    let state = assistant.state(STATE, |state| state["mode"] == "free" && state["plan"] == "free").await;
    assert_eq!((&state["switch"]["cause"], &state["switch"]["outcome"]), (&"document".into(), &"applied".into()), "{state:#}");

    // Whoever subscribes later finds all of it, and Home Assistant's start has it said again.
    let later = home.assistant().await;
    for topic in [CONFIG, STATE, AVAILABILITY, PICTURE] {
        let (payload, retained) = later.hears(topic, |_| true).await;
        assert!(retained && !payload.is_empty(), "{topic}: {payload}");
    }
    drop(assistant);
    later.forget();
    later.is_born().await;
    assert_eq!(later.device(CONFIG).await, device);
    later.state(STATE, |state| state["mode"] == "free").await;

    // Nothing that is nobody's business, anywhere.
    let said: String = later.heard().into_iter().map(|(topic, (payload, _))| format!("{topic} {payload}\n")).collect();
    let log = world.agent.log().all().join("\n");
    let status = world.agent.status("itself", |_| true).await.text_of_all();
    for secret in ["acct-", &cancel.token, &world.cloud.url(), "sha256:"] {
        assert!(!said.contains(secret), "{secret} is in {said}");
    }
    for (place, text) in [("the home", &said), ("the log", &log), ("the status", &status)] {
        assert!(!text.contains(PASSWORD) && !text.contains("hunter2"), "the password is in {place}: {text}");
    }

    world.agent.stop().await;
    later.hears(AVAILABILITY, |payload| payload == "offline").await;
}

#[tokio::test]
async fn another_owner_sees_nothing_of_the_one_before() {
    let (mut world, _home, assistant) = camera_at_home().await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    assistant.state(STATE, |state| state["switch"]["reason"] == "cancelled").await;
    world.position.epoch += 1;
    let bound = world.free().of("acct-other").because(care_protocol::Reason::Bound);
    world.switch(bound, Mode::Free).await;
    let state = assistant.state(STATE, |state| state["switch"]["reason"] != "cancelled").await;
    assert_ne!(state["switch"]["plan"], "premium", "{state:#}");
}

#[tokio::test]
async fn a_broker_in_the_home_that_dies_or_hangs_delays_no_cancel() {
    let (mut world, mut home, assistant) = camera_at_home().await;
    assistant.state(STATE, |state| state["mode"] == "paid").await;
    // It neither reads nor answers, and its connections stay open.
    home.hang();
    cancel_and_subscribe(&mut world).await;
    home.wake();
    home.kill().await;
    let sentence = world.agent.condition("local_broker").await;
    assert!(sentence.starts_with("Home Assistant is told nothing: ") && sentence.contains(&home.addr.to_string()), "{sentence}");
    cancel_and_subscribe(&mut world).await;
    home.resume().await;
    world.agent.condition_gone("local_broker").await;
    home.assistant().await.state(STATE, |state| state["mode"] == "paid").await;
}

/// Takes connections and answers nothing on them.
async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    addr
}

/// Answers CONNECT, and then sends as fast as it can: messages of Home Assistant's topic, one after the other.
async fn flooding() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let mut message = vec![0x30, 2 + 20 + 6, 0, 20];
    message.extend(b"homeassistant/statusonline");
    let flood = message.repeat(1000);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let flood = flood.clone();
            tokio::spawn(async move {
                let mut connect = [0; 512];
                if stream.read(&mut connect).await.is_ok() && stream.write_all(&[0x20, 2, 0, 0]).await.is_ok() {
                    while stream.write_all(&flood).await.is_ok() {}
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_hostile_broker_in_the_home_delays_no_cancel_and_costs_no_memory() {
    for (addr, part) in [(silent().await, "no answer from the broker"), (flooding().await, "packets a second")] {
        let mut world = World::new().await;
        home::equip(&mut world.agent, addr, "");
        world.start_premium().await;
        let before = world.agent.memory();
        world.agent.status(part, |status| status.sentence("local_broker").contains(part)).await;
        cancel_and_subscribe(&mut world).await;
        let after = world.agent.memory();
        assert!(after.0 < before.0 + 8_000_000, "{part}: {before:?}, {after:?}");
        // It ends in time, too.
        world.agent.stop().await;
    }
}

#[tokio::test]
async fn check_config_tries_the_broker_in_the_home() {
    let (mut world, home) = (World::new().await, Home::start().await);
    home.equip(&mut world.agent, "");
    let premium = world.premium();
    world.issue(premium).await;
    world.agent.write_config();
    let checked = async |world: &World| {
        let output = world.agent.command(&["check-config", "--connect"]).await;
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (well, said) = checked(&world).await;
    assert!(well && said.contains("ok      local broker: "), "{said}");
    std::fs::write(home::password_file(&world.agent), "wrong\n").unwrap();
    let (well, said) = checked(&world).await;
    assert!(!well && said.contains("failed  local broker: ") && said.contains("refused with code 5"), "{said}");
    assert!(!said.contains("wrong\n") && !said.contains(PASSWORD), "{said}");
}

#[tokio::test]
async fn a_build_without_it_says_so_and_obeys_the_plan() {
    let (mut world, home) = (World::new().await, Home::start().await);
    world.agent.without_gstreamer();
    home.equip(&mut world.agent, "");
    world.start_premium().await;
    let sentence = world.agent.condition("local_broker").await;
    assert!(sentence.contains("this build of the agent has no Home Assistant"), "{sentence}");
    cancel_and_subscribe(&mut world).await;
}

#[tokio::test]
async fn a_file_with_the_new_password_is_used_without_a_restart() {
    let (mut world, home) = (World::new().await, Home::start().await);
    home.equip(&mut world.agent, "");
    let file = home::password_file(&world.agent);
    std::fs::write(&file, "outdated\n").unwrap();
    world.start_premium().await;
    world.agent.status("a refusal", |status| status.sentence("local_broker").contains("refused with code 5")).await;
    std::fs::write(&file, PASSWORD).unwrap();
    world.agent.condition_gone("local_broker").await;
    until("no word of either password", Duration::from_secs(1), || {
        (!world.agent.log().all().iter().any(|line| line.contains("outdated") || line.contains(PASSWORD))).then_some(())
    })
    .await;
}
