//! Scenario 92: the path MTU is smaller than the link's, and no router says so.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use care_protocol::Mode;
use care_tests::{
    cloud::Cloud,
    narrow_path::{CLOUD, NarrowPath},
    pki::signer,
    status::Status,
    world::World,
};
use tokio::net::{TcpListener, TcpStream};

/// A camera on such a path, with broker and cloud at the other end. The path comes first, so that it is dropped
/// last.
async fn behind(mtu: u32) -> (World, NarrowPath) {
    let path = NarrowPath::of(mtu);
    path.enter_cloud();
    let mut world = World::with_camera().await;
    let api = Cloud::start_at(CLOUD, Some(world.pki.mutual_tls(&world.pki.ca.server()))).await;
    world.move_to(api).await;
    let broker = redirect_to(world.proxy.addr).await;
    world.agent.config.broker = format!("mqtts://{broker}");
    world.agent.under = path.camera();
    (world, path)
}

/// The same broker at the cloud's address.
async fn redirect_to(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((CLOUD, 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(broker).await else { return };
                // Stops both, whatever the result.
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    addr
}

/// Reports motion until the store has so many clips.
async fn stored(world: &World, clips: usize, patience: Duration) {
    let started = Instant::now();
    let whole = || world.cloud.lock().puts.iter().filter(|put| put.complete == Some(true)).count();
    let mut motion = world.agent.motion().await;
    while whole() < clips {
        assert!(started.elapsed() < patience, "{} of {clips} clips are in the store after {patience:?}", whole());
        motion.report_motion().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test]
async fn s92_where_large_packets_are_dropped_clips_are_uploaded_after_the_first_stall() {
    let (mut world, _path) = behind(1400).await;
    world.start_premium().await;
    stored(&world, 1, Duration::from_secs(60)).await;
    let status = world.agent.status("a narrow path", |status| status.condition("path_mtu").is_some()).await;
    assert!(status.sentence("path_mtu").contains(&world.cloud.addr.to_string()), "{}", status.sentence("path_mtu"));
    // The next connection uses the smaller segments at once.
    stored(&world, 2, Duration::from_secs(60)).await;
    let cut_short = world.cloud.lock().puts.iter().filter(|put| put.complete == Some(false)).count();
    assert!(cut_short <= 1, "{cut_short} transfers stalled");
}

/// The control: on the same path without the fault, segments keep their size.
#[tokio::test]
async fn s92_with_full_path_mtu_no_condition_is_raised() {
    let (mut world, _path) = behind(1500).await;
    world.start_premium().await;
    stored(&world, 1, Duration::from_secs(60)).await;
    assert_eq!(world.agent.status("its conditions", |_| true).await.condition("path_mtu"), None);
}

/// A certificate with its chain takes more than one segment: without smaller segments even the handshake fails.
#[tokio::test]
async fn s92_a_handshake_too_large_for_the_path_gets_through_in_smaller_segments() {
    let (mut world, _path) = behind(1400).await;
    // As long as the intermediates of some public authorities.
    let chain = (0..2).fold(world.pki.ca.intermediate("1"), |above, n| above.intermediate(&format!("{n} {}", "long ".repeat(60))));
    let (cert, key) = chain.client(care_tests::world::DEVICE).write(world.agent.dir(), "long");
    (world.agent.config.cert, world.agent.config.key) = (cert, key);
    let premium = world.premium();
    world.issue(premium).await;
    world.agent.start();
    // The broker's handshake first, then the API's, then the store's.
    world.agent.mode(Mode::Paid).await;
    stored(&world, 1, Duration::from_secs(120)).await;
    let status = world.agent.status("a narrow path", |status| status.condition("path_mtu").is_some()).await;
    assert!(status.sentence("path_mtu").contains(&world.cloud.addr.to_string()), "{}", status.sentence("path_mtu"));
}

/// Large packets vanish on the way down: the servers' certificates, or a keyset.
#[tokio::test]
async fn s92_what_is_too_large_for_the_way_down_comes_in_smaller_segments() {
    let (mut world, path) = behind(1500).await;
    path.narrow_down(1400);
    let keyset = (0..30).fold(world.pki.keyset(8), |keyset, n| keyset.with(&signer(&format!("key-{n}"))));
    world.hand_out_keyset(&keyset.sign(&world.pki.root)).await;
    let premium = world.premium();
    world.issue(premium).await;
    world.agent.start();
    let paid = |status: &Status| status.mode() == "paid" && status.keyset() == 8;
    world.agent.status_within("the plan and the keyset", Duration::from_secs(240), paid).await;
    stored(&world, 1, Duration::from_secs(120)).await;
}
