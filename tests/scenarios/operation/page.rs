//! The camera's own page in Chromium, reached as through `ssh -L`: what it costs, that it stays up to date by itself, the live view.

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, UnixStream},
    task::{JoinHandle, JoinSet},
};

use super::browser::Browser;
use care_protocol::{Mode, Policy};
use care_tests::{
    issuer::PREMIUM,
    media::{recorded_360_annex_b, tone},
    world::World,
};
use rtsp_camera::{Camera, Codec, Options, Section};

/// A port that leads to the agent's socket, as `ssh -L PORT:SOCKET` makes one.
struct Tunnel {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Tunnel {
    async fn open(at: &str, socket: PathBuf) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let socket = socket.clone();
                connections.spawn(async move {
                    let mut far = UnixStream::connect(&socket).await?;
                    copy_bidirectional(&mut near, &mut far).await
                });
            }
        });
        Self { address, task }
    }

    /// Cuts every connection.
    async fn close(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// Requests of the page itself, and their bytes. What goes on is none of them: events, live view, pictures of events.
const COST: &str = "
    const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    const own = all.filter(entry => !/live|frame|motion|events/.test(new URL(entry.name).pathname));
    return [own.length, own.reduce((sum, entry) => sum + entry.encodedBodySize, 0)];";

const WATCH_SHIFTS: &str = "
    window.shift = 0;
    new PerformanceObserver(list => list.getEntries().forEach(entry => window.shift += entry.value)).observe({type: 'layout-shift', buffered: true});
    window.loaded = 'once';";

async fn updates(browser: &Browser, more: u64) {
    let before = browser.run("return Number(document.body.dataset.updates || 0);").await.as_u64().unwrap();
    browser.until("more updates", &format!("document.body.dataset.updates >= {}", before + more)).await;
}

#[tokio::test]
async fn the_camera_s_page_is_small_live_and_up_to_date() {
    let mut world = World::with_camera().await;
    let card = tempfile::tempdir().unwrap();
    world.agent.config.recording = Some(card.path().to_owned());
    world.agent.config.allow_internal_storage = true;
    // For the pictures in docs/page.md, which show another film.
    if let Some(film) = std::env::var_os("CARE_PAGE_FILM") {
        world.agent.config.source = Some(format!("file:{}", film.display()));
    }
    let premium = world.premium().limited(Policy { clip_max_s: 60, ..PREMIUM });
    world.start_with(premium, Mode::Paid).await;
    let status = world.agent.status("a picture", |status| status.0["media"]["frames"].as_u64() > Some(30)).await;
    let tunnel = Tunnel::open("127.0.0.1:0", world.agent.config.status.clone()).await;
    let (address, url) = (tunnel.address, format!("http://{}/", tunnel.address));
    let browser = Browser::open().await;
    browser.screen(1200, 900).await;
    browser.goto(&url).await;
    browser.run(WATCH_SHIFTS).await;

    // What it costs, and that nothing moves while it is updated.
    updates(&browser, 4).await;
    let cost = browser.run(COST).await;
    assert!(cost[0].as_u64() <= Some(5) && cost[1].as_u64() < Some(80_000), "requests and bytes: {cost}");
    assert!(cost[1].as_u64() > Some(10_000), "they are counted: {cost}");
    let shift = browser.run("return window.shift;").await.as_f64().unwrap();
    assert!(shift < 0.02, "a layout shift of {shift}");

    // The lease: nearly all of it is left.
    let lease = browser.run("return document.querySelector('#plan meter').value;").await;
    assert!((90..=100).contains(&lease.as_u64().unwrap()), "{lease} of 100");

    // The live view.
    browser.until("the video plays", "document.getElementById('video').currentTime > 0.5").await;
    assert_eq!(browser.run("return document.getElementById('video').videoWidth;").await, status.0["media"]["width"]);
    assert_eq!(browser.run("return document.getElementById('sound').hidden;").await, true, "this camera has no sound");
    let at = browser.run("return document.getElementById('video').currentTime;").await.as_f64().unwrap();
    browser.until("it goes on", &format!("document.getElementById('video').currentTime > {at} + 1")).await;

    // An event, with its picture.
    let mut motion = world.agent.motion().await;
    motion.report_motion().await;
    browser.until("the event", "document.querySelector('#motion li')").await;
    browser.until("its picture", "document.querySelector('#motion video').videoWidth > 0").await;

    // A switch, without a reload.
    assert!(browser.run("return document.getElementById('state').innerText;").await.as_str().unwrap().contains("Premium"));
    let free = world.free();
    world.switch(free, Mode::Free).await;
    browser.until("the new plan", "document.getElementById('state').innerText.includes('Free')").await;
    browser.until("the switch", "document.getElementById('switches').innerText.includes('Premium → Free')").await;
    browser.until("its stages", "document.querySelectorAll('#switches .stages')[0].children.length === 5").await;
    assert_eq!(browser.run("return window.loaded;").await, "once");

    // Dark and light differ, and on a phone nothing stands out sideways.
    let colour = "return getComputedStyle(document.body).backgroundColor;";
    let mut colours = Vec::new();
    for dark in [true, false] {
        browser.dark(dark).await;
        colours.push(browser.run(colour).await);
        for (name, width) in [("phone", 390), ("desktop", 1200)] {
            browser.screen(width, 844).await;
            browser.picture(&format!("{name}-{}", if dark { "dark" } else { "light" })).await;
        }
    }
    assert_ne!(colours[0], colours[1]);

    // The keyboard: the first stop skips to the content.
    let skip =
        browser.run("document.querySelector('.skip').focus(); return document.activeElement.getBoundingClientRect().left >= 0;").await;
    assert_eq!(skip, true, "a link that has the focus is seen");
    assert_eq!(browser.console().await, Vec::<String>::new(), "neither errors nor violations of the policy");

    // The connection is lost, is said to be, and comes back.
    tunnel.close().await;
    browser.until("the page says so", "!document.getElementById('lost').hidden").await;
    let said = browser.run("return document.getElementById('lost').innerText;").await;
    assert!(said.as_str().unwrap().starts_with("Not connected to the agent since "), "{said}");
    let tunnel = Tunnel::open(&address.to_string(), world.agent.config.status.clone()).await;
    browser.until("it is back", "document.getElementById('lost').hidden").await;
    updates(&browser, 2).await;
    let at = browser.run("return document.getElementById('video').currentTime;").await;
    browser.until("the picture is back", &format!("document.getElementById('video').currentTime != {at}")).await;
    assert_eq!(browser.run("return window.loaded;").await, Value::from("once"));

    // In French, also what comes without a reload.
    browser.languages("fr-CA,fr").await;
    browser.goto(&url).await;
    assert_eq!(browser.run("return document.documentElement.lang;").await, "fr");
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    let switches = "document.getElementById('switches').innerText.toLowerCase()";
    browser.until("the switch in French", &format!("/derniers changements[^]*free → premium/.test({switches})")).await;
    updates(&browser, 2).await;
    assert_eq!(browser.run(&format!("return {switches}.includes('last switches');")).await, false);
    browser.screen(390, 844).await;
    browser.picture("phone-french").await;
    browser.close().await;
    tunnel.close().await;
}

#[tokio::test]
async fn the_live_view_has_the_camera_s_sound_once_somebody_wants_it() {
    let mut camera = Options::new(recorded_360_annex_b(), Codec::H264);
    (camera.after, camera.sound) = (vec![Section::Aac], Some(tone()));
    let camera = Camera::start(camera).unwrap();
    let mut world = World::new().await;
    world.agent.config.source = Some(camera.url());
    world.start_premium().await;
    let told =
        |status: &care_tests::status::Status| status.0["media"]["sound"].is_string() && status.0["media"]["frames"].as_u64() > Some(30);
    world.agent.status("a picture with sound", told).await;
    let tunnel = Tunnel::open("127.0.0.1:0", world.agent.config.status.clone()).await;
    let url = format!("http://{}/", tunnel.address);
    let browser = Browser::open().await;
    browser.goto(&url).await;

    // Picture and sound begin together, and play although nobody has touched the page.
    let (video, sound) = ("document.getElementById('video')", "document.getElementById('sound')");
    browser.until("the video plays", &format!("{video}.currentTime > 0.5")).await;
    browser.until("sound is decoded", &format!("{video}.webkitAudioDecodedByteCount > 0")).await;
    assert_eq!(browser.run(&format!("return [{video}.muted, {sound}.hidden, {sound}.innerText];")).await, json!([true, false, "Sound on"]));
    let begins = browser.run(&format!("return {video}.buffered.start(0);")).await.as_f64().unwrap();
    assert!(begins < 0.2, "both are there from {begins} s on");

    browser.run(&format!("{sound}.click();")).await;
    assert_eq!(browser.run(&format!("return [{video}.muted, {sound}.innerText];")).await, json!([false, "Sound off"]));
    let state = format!("return [{video}.currentTime, {video}.webkitAudioDecodedByteCount, {video}.webkitDecodedFrameCount];");
    let before = browser.run(&state).await;
    let [at, heard, seen] = [0, 1, 2].map(|n| before[n].as_f64().unwrap());
    let goes_on = format!(
        "{video}.currentTime > {at} + 2 && {video}.webkitAudioDecodedByteCount > {heard} && {video}.webkitDecodedFrameCount > {seen} + 20"
    );
    browser.until("picture and sound go on", &goes_on).await;
    // What is buffered is one piece: neither stream has a hole.
    assert_eq!(browser.run(&format!("return {video}.buffered.length;")).await, 1);
    browser.run(&format!("{sound}.click();")).await;
    assert_eq!(browser.run(&format!("return [{video}.muted, {sound}.innerText];")).await, json!([true, "Sound on"]));
    assert_eq!(browser.console().await, Vec::<String>::new());

    browser.languages("fr").await;
    browser.goto(&url).await;
    browser.until("the button in French", &format!("{sound}.innerText === 'Activer le son'")).await;
    browser.close().await;
    tunnel.close().await;
}
