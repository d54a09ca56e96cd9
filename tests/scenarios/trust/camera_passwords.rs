//! Passwords in a camera's URL, unencoded as people write them. The agent never shows, logs or archives any part of
//! them.

use std::{fs, net::TcpListener};

use care_protocol::Mode;
use care_tests::world::World;

/// Passwords, no part of which may appear anywhere, separated by characters that have a meaning in a URL.
const FORMS: [(&str, &str); 4] = [
    ("rtsp://admin:CANARYONE/CANARYTWO@HOST/live", "rtsp://HOST/live?token=CANARYONE@CANARYTWO"),
    ("rtsp://admin:CANARYONE?CANARYTWO@HOST/live", "rtsp://CANARYONE:@CANARYTWO@HOST/low"),
    ("rtsp://admin:CANARYONE#CANARYTWO@HOST/live", "rtsp://HOST/user=admin&password=CANARYONE_CANARYTWO"),
    ("rtsp://admin:CANARYONE:1@/CANARYTWO@HOST/live", "launch:rtspsrc location=rtsp://a:CANARYONE/CANARYTWO@HOST/x nosuch=1 ! nothing"),
];

/// The texts of one camera, by source.
async fn texts(world: &World) -> Vec<(String, String)> {
    let mut places = vec![("status.json".to_owned(), world.agent.status("anything", |_| true).await.text_of_all())];
    for command in [&["status"][..], &["status", "--json"], &["support"], &["check-config"]] {
        let output = world.agent.command(command).await;
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        places.push((command.join(" "), said));
    }
    places.push(("the log".to_owned(), world.agent.log().all().join("\n")));
    places
}

#[tokio::test]
async fn no_part_of_an_unencoded_password_is_shown_logged_or_archived() {
    // A port that was bound here and is closed again, so that every attempt to open the stream is reported.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    for (source, low) in FORMS {
        let mut world = World::new().await;
        world.agent.environment = vec![("CARE_LOG".into(), "info,kasa_care_agent=trace".into())];
        world.agent.config.source = Some(source.replace("HOST", &host));
        world.agent.config.low_source = Some(low.replace("HOST", &host));
        let free = world.free();
        world.start_with(free, Mode::Free).await;
        world.agent.status("a fault of the stream", |status| status.text_of_all().contains("rtsp")).await;
        for (place, text) in texts(&world).await {
            assert!(!text.is_empty(), "nothing to search in {place}");
            assert!(!text.contains("CANARY") && !text.contains("ANARY"), "{source} or {low} in {place}: {text}");
        }
        world.agent.stop().await;
    }
}

#[tokio::test]
async fn a_misplaced_url_is_not_repeated_in_the_error() {
    let world = World::new().await;
    let secret = "rtsp://admin:CANARY/CANARY@127.0.0.1/live?token=CANARY";
    for key in ["motion", "source"] {
        let mut config = world.agent.config.clone();
        config.source = Some("test".into());
        match key {
            "motion" => config.motion = secret.into(),
            _ => config.source = Some(format!("x{secret}")),
        }
        fs::write(world.agent.config_path(), config.text()).unwrap();
        let output = world.agent.command(&["check-config"]).await;
        assert_eq!(output.status.code(), Some(78), "{key}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&format!("media.{key}")) && !said.contains("CANARY"), "{said}");
    }
}
