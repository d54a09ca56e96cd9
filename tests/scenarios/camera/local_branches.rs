//! Scenarios 71, 78, 81 and 82: local recording during a switch, a wrong configuration, a new camera, misleading
//! grants.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use care_protocol::{Mode, Outcome, Policy};
use care_tests::{
    build::Build,
    cloud::{Cloud, GrantAnswer, Sink, grant},
    footprint::rss_without_program_kb,
    in_each_build, isolated_network,
    issuer::PREMIUM,
    media::{FPS, every_frame_in, recorded_360, recordings},
    pki::server_params,
    wait::{PATIENCE, holds, until},
    world::World,
};
use serde_json::json;

#[tokio::test]
async fn a_640_by_360_camera_with_built_in_motion_idles_on_free_under_24_mb() {
    let mut world = World::with_camera().await;
    world.agent.config.source = Some(format!("file:{}", recorded_360().display()));
    world.agent.config.motion = "built-in".into();
    let free = world.free();
    world.start_with(free, Mode::Free).await;
    // The one clip that Free allows in five minutes has been recorded and uploaded.
    world.cloud.stored(1).await;
    // The limit of 24 MB is for the installed program, with less than 3 MB of program text. This one may be a debug
    // build.
    let process = PathBuf::from(format!("/proc/{}", world.agent.pid()));
    until("memory under 24 MB", PATIENCE, || (rss_without_program_kb(&process).unwrap() < 21 * 1024).then_some(())).await;
    let picture = world.agent.status("a picture", |status| status.0["media"]["frames"].as_u64() > Some(30)).await;
    assert_eq!(picture.0["media"]["height"], 360, "{:#}", picture.0["media"]);
}

in_each_build!(s71_a_plan_switch_loses_no_local_frame);

async fn s71_a_plan_switch_loses_no_local_frame(build: Build) {
    let mut world = World::with_camera_of(build).await;
    let sd = world.agent.dir().join("sd");
    std::fs::create_dir(&sd).unwrap();
    world.agent.config.recording = Some(sd.clone());
    world.cloud.lock().sink = Sink::StallAfter(16_000);
    world.start_premium().await;
    let recording = Instant::now();
    world.upload_in_flight(16_000).await;
    for _ in 0..5 {
        for draft in [world.free(), world.plus(), world.premium()] {
            let mode = if draft.0.plan.is_free() { Mode::Free } else { Mode::Paid };
            world.switch(draft, mode).await;
            world.agent.motion().await.report_motion().await;
        }
    }
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    let switched_for = recording.elapsed();
    until("more of the recording", PATIENCE, || (recording.elapsed() > switched_for + Duration::from_secs(2)).then_some(())).await;
    world.agent.stop().await;

    let files = recordings(&sd);
    let frames = every_frame_in(&files);
    let least = (switched_for.as_secs_f64() * f64::from(FPS)) as usize;
    assert!(frames >= least, "{frames} frames in {files:?}, but {switched_for:?} at {FPS} a second make {least}");
}

#[tokio::test]
async fn s78_a_configuration_error_is_reported_with_file_line_and_key() {
    let mut world = World::new().await;
    world.agent.config.extra = "[upload2]\nx = 1\n".into();
    world.agent.config.min_keyset_version = 0;
    let text = world.agent.config.text().replace("max_height = 720", "max_height = -1");
    std::fs::write(world.agent.config_path(), &text).unwrap();
    let line = text.lines().position(|line| line.contains("max_height")).unwrap() + 1;
    for command in ["check-config", "run"] {
        let output = world.agent.command(&[command]).await;
        assert_eq!(output.status.code(), Some(78), "{command}");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let place = format!("{}:{line}", world.agent.config_path().display());
        assert!(said.lines().any(|said| said.contains(&place) && said.contains("max_height")), "{command} says: {said}");
        assert!(said.contains("upload2"), "every fault at once: {said}");
    }
}

#[tokio::test]
async fn s78_a_running_agent_keeps_the_last_good_configuration() {
    let mut world = World::new().await;
    world.start_premium().await;
    let good = world.agent.config.text();
    std::fs::write(world.agent.config_path(), good.replace("max_height = 720", "max_height = \"tall\"")).unwrap();
    let line = good.lines().position(|line| line.contains("max_height")).unwrap() + 1;
    let seen = world.agent.log().len();
    world.agent.signal(libc::SIGHUP);
    world.agent.logged(seen, "the wrong line", |said| said.contains("max_height") && said.contains(&format!("config.toml:{line}"))).await;
    world.agent.assert_running();
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;

    // It applies the next valid configuration.
    world.agent.config.free = Policy { max_height: 480, ..world.agent.config.free };
    world.agent.write_config();
    world.agent.signal(libc::SIGHUP);
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    world.agent.assert_running();
}

#[tokio::test]
async fn s81_a_new_camera_is_unbound_until_its_first_document_whatever_its_seq() {
    let mut world = World::with_camera().await;
    world.agent.start();
    let get = world.issuer.get_since(0).await;
    assert_eq!((get.epoch, get.seq), (0, 0));
    world.agent.mode(Mode::Unbound).await;
    world.agent.motion().await.report_motion().await;
    holds("nothing is uploaded", Duration::from_secs(4), || {
        (world.cloud.grants_asked() > 0).then(|| format!("{:?}", world.cloud.lock().asked.last()))
    })
    .await;
    world.position.seq = 1_000_000;
    let first = world.premium();
    let first = world.switch(first, Mode::Paid).await;
    assert!(world.issuer.judged(&first, Outcome::Applied).await.persisted);
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
}

#[tokio::test]
async fn s82_a_grant_for_an_unlisted_store_is_refused_and_no_byte_is_sent() {
    let mut world = World::with_camera().await;
    let stranger = Cloud::start_with(Some(world.pki.optional_client_tls(&world.pki.ca.server()))).await;
    let plain = Cloud::start_with(None).await;
    let home = world.cloud.url();
    let mut cases = vec![
        ("neither cloud.url's origin nor in [store] hosts", grant(&format!("{}/x", stranger.url()))),
        ("url is http", grant(&format!("{}/x", plain.url()))),
        ("url is http", grant(&format!("{}/x", home.replace("https", "http")))),
        ("192.168.1.1", grant("https://192.168.1.1/x")),
        ("169.254.169.254", grant("https://169.254.169.254/latest")),
        ("user information", grant(&format!("{}/x", home.replace("https://", "https://user:word@")))),
        ("not an absolute https URL", grant("not a url")),
    ];
    for header in ["Host", "Content-Length", "Transfer-Encoding", "Connection"] {
        let mut body = grant(&format!("{home}/x"));
        body["headers"] = json!({ header: "1" });
        cases.push((header, body));
    }
    let mut body = grant(&format!("{home}/x"));
    body["method"] = "POST".into();
    cases.push(("POST", body));

    let count = cases.len();
    world.cloud.lock().next_grants.extend(cases.iter().map(|(_, body)| GrantAnswer::Body(body.clone())));
    world.cloud.lock().grants = GrantAnswer::Status(503);
    // Each failed clip is counted, in addition to the condition.
    world.agent.environment.push(("CARE_LOG".into(), "info,kasa_care_agent::upload=debug".into()));
    let premium = world.premium().limited(Policy { clip_max_s: 1, ..PREMIUM });
    let premium = world.start_with(premium, Mode::Paid).await;
    let mut motion = world.agent.motion().await;
    let started = Instant::now();
    while world.cloud.grants_asked() <= count {
        assert!(started.elapsed() < Duration::from_secs(60), "{} of {count} grants asked for", world.cloud.grants_asked());
        motion.report_motion().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!((stranger.lock().connections, plain.lock().connections), (0, 0), "a byte was sent to the unlisted store");
    assert!(world.cloud.lock().puts.is_empty(), "{:?}", world.cloud.lock().puts);
    for (reason, _) in cases {
        world.agent.logged(0, reason, |line| line.contains("clip not sent") && line.contains(reason)).await;
    }
    let status = world.agent.status("the last fault", |status| !status.last_upload_fault().is_empty()).await;
    assert_eq!((status.mode(), status.seq()), ("paid", premium.position.seq), "{}", status.last_upload_fault());
}

#[tokio::test]
async fn s82_a_listed_store_at_a_private_address_is_refused_if_the_cloud_is_public() {
    isolated_network::enter();
    let public = isolated_network::PUBLIC;
    let mut world = World::with_camera().await;
    let identity = world.pki.ca.sign(server_params(&[&public.to_string()]));
    let api = Cloud::start_at(public, Some(world.pki.mutual_tls(&identity))).await;
    world.move_to(api).await;

    let near = Cloud::start_with(Some(world.pki.optional_client_tls(&world.pki.ca.server()))).await;
    let far = Cloud::start_at(public, Some(world.pki.optional_client_tls(&identity))).await;
    // By name: the address is known only after resolution.
    let near_by_name = format!("localhost:{}", near.addr.port());
    world.agent.config.store = Some((vec![near_by_name.clone(), far.addr.to_string()], world.agent.dir().join("ca.pem")));
    {
        let mut cloud = world.cloud.lock();
        cloud.next_grants.push_back(GrantAnswer::Body(grant(&format!("https://{near_by_name}/x"))));
        cloud.grants = GrantAnswer::Body(grant(&format!("{}/x", far.url())));
    }
    world.agent.environment.push(("CARE_LOG".into(), "info,kasa_care_agent::upload=debug".into()));
    world.start_premium().await;
    world.move_until("a grant request", |seen| (!seen.asked.is_empty()).then_some(())).await;
    world.agent.logged(0, "the refusal", |line| line.contains("clip not sent") && line.contains("private address")).await;
    far.wait_for("a clip", Duration::from_secs(40), |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    assert_eq!(near.lock().connections, 0, "a byte was sent to the private address");
}

#[tokio::test]
async fn s82_a_redirect_is_not_followed() {
    let mut world = World::with_camera().await;
    let stranger = Cloud::start_with(Some(world.pki.optional_client_tls(&world.pki.ca.server()))).await;
    {
        let mut cloud = world.cloud.lock();
        cloud.sink = Sink::Redirect;
        cloud.redirect = format!("{}/elsewhere", stranger.url());
    }
    world.start_premium().await;
    let clip =
        world.move_until("an upload", |seen| seen.puts.first().filter(|put| put.complete.is_some()).map(|put| put.clip.clone())).await;
    world.cloud.lock().sink = Sink::Swallow;
    world
        .cloud
        .wait_for("the clip with a fresh grant", Duration::from_secs(40), |seen| {
            seen.puts.iter().skip(1).find(|put| put.clip == clip && put.complete == Some(true)).cloned()
        })
        .await;
    assert_eq!(stranger.lock().connections, 0);
}

#[tokio::test]
async fn s82_a_listed_store_gets_the_clip_without_a_client_certificate() {
    let mut world = World::with_camera().await;
    let other_ca = care_tests::pki::Authority::root("Store CA");
    let store = Cloud::start_with(Some(world.pki.optional_client_tls(&other_ca.server()))).await;
    let ca = world.agent.dir().join("store-ca.pem");
    std::fs::write(&ca, other_ca.pem()).unwrap();
    world.agent.config.store = Some((vec![store.addr.to_string()], ca));
    world.cloud.lock().grants = GrantAnswer::Body(grant(&format!("{}/clips/elsewhere/0", store.url())));
    world.start_premium().await;
    world.move_until("a grant request", |seen| (!seen.asked.is_empty()).then_some(())).await;
    let put = store.stored(1).await;
    let seen = store.lock();
    let call = seen.calls.iter().find(|call| call.path == put.path).unwrap();
    assert!(!call.client_certificate, "the store has seen the camera's certificate");
    assert_eq!(call.headers.get("x-care-test").unwrap(), "verbatim");
    assert_eq!(call.headers.get("content-length").unwrap(), &put.body.len().to_string());
}
