//! Twelve network faults in seven phases of a connection. Once the fault is over the camera must reach the right
//! mode; until then it must upload nothing that Free forbids.
//!
//! In the phases up to SUBSCRIBE the cancel came while the camera was off: the fault meets the first connection of a
//! camera that has Premium on record. Later the fault meets the cancel on its way, or an upload that the cancel
//! cuts. A case counts only if the fault took effect.

use std::time::Duration;

use care_protocol::Mode;
use care_tests::{
    cloud::Sink,
    issuer::{Document, FREE},
    packet_proxy::{Moment, PacketProxy},
    proxy::{Fault, Proxy},
    resolver::{NAME, Resolver},
    wait::{PATIENCE, RECONNECT, holds, until},
    world::{DEVICE, World},
};
use tokio::sync::Semaphore;

/// How far the camera has come when the fault begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Dns,
    Tcp,
    Tls,
    Connect,
    Subscribe,
    MidPublish,
    MidPut,
    /// The same without a cancel: the clip must not be lost.
    MidPutKept,
}

const PHASES: [Phase; 8] =
    [Phase::Dns, Phase::Tcp, Phase::Tls, Phase::Connect, Phase::Subscribe, Phase::MidPublish, Phase::MidPut, Phase::MidPutKept];

/// How long a fault lasts after it first has an effect.
const LASTS: Duration = Duration::from_secs(2);
/// Much longer than Free's clip of one second, and much shorter than Premium's of three.
const LONGEST_OF_FREE_MS: u64 = 2000;

/// Number of grants requested, from index `mark` on, for clips that Free forbids.
fn forbidden(world: &World, mark: usize) -> Option<String> {
    assert_eq!(FREE.clip_max_s, 1);
    let cloud = world.cloud.lock();
    cloud.asked.iter().skip(mark).find(|(_, asked)| asked.duration_ms > LONGEST_OF_FREE_MS).map(|(_, asked)| format!("{asked:?}"))
}

async fn ends_free(world: &World, cancel: &Document) {
    world.agent.status_within("Free", RECONNECT, |status| status.mode() == "free" && status.seq() == cancel.position.seq).await;
    world.issuer.in_force(cancel, Mode::Free).await;
}

/// A Premium camera is stopped and cancelled; when it starts, its connection meets the fault.
async fn while_connecting(phase: Phase, fault: Fault) {
    let mut world = World::with_camera().await;
    let proxy = PacketProxy::before(&world.pki, world.broker.addr, &["127.0.0.1", NAME], DEVICE).await;
    world.proxy.redirect_to(proxy.addr);
    let resolver = Resolver::start().await;
    if phase == Phase::Dns {
        world.agent.resolver = Some(resolver.ip);
        world.agent.config.broker = format!("mqtts://{NAME}:{}", world.proxy.addr.port());
    }
    world.start_premium().await;
    world.agent.kill().await;
    let cancel = world.cancel_over_mqtt().await;
    let (mark, seen) = (world.cloud.grants_asked(), world.agent.log().len());

    let control = world.proxy.control.clone();
    match phase {
        Phase::Dns => resolver.inject(fault),
        Phase::Tcp => control.inject(fault),
        Phase::Tls => control.inject_after_hello(fault),
        Phase::Connect => proxy.arm(Moment::Connect, fault, &control),
        Phase::Subscribe => proxy.arm(Moment::Subscribe, fault, &control),
        Phase::MidPublish | Phase::MidPut | Phase::MidPutKept => unreachable!("these come later"),
    }
    world.agent.start();
    let port = world.proxy.addr.port();
    until(format!("{fault:?} to be felt"), PATIENCE, || {
        let struck = control.hits() + resolver.hits() > 0;
        let log = world.agent.log();
        // With this fault, the peer sees no connection.
        let alone = phase == Phase::Tcp
            && match fault {
                Fault::Refused => log.find(seen, |line| line.contains("broker_unreachable") && line.contains("refused")).is_some(),
                Fault::Blackhole => unanswered_syn(port),
                _ => false,
            };
        (struck || alone).then_some(())
    })
    .await;
    world.agent.motion().await.report_motion().await;
    holds("nothing leaves that Free forbids", LASTS, || forbidden(&world, mark)).await;
    control.lift();
    resolver.lift();
    ends_free(&world, &cancel).await;
    assert_eq!(forbidden(&world, mark), None);
    world.agent.assert_running();
}

/// Whether a local process has sent a SYN to this loopback port that is unanswered.
fn unanswered_syn(port: u16) -> bool {
    const SYN_SENT: &str = "02";
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(2) == Some(&remote.as_str()) && fields.get(3) == Some(&SYN_SENT)
    })
}

/// The fault begins in the middle of the cancel.
async fn during_cancel(fault: Fault) {
    let mut world = World::with_camera().await;
    let proxy = PacketProxy::before(&world.pki, world.broker.addr, &["127.0.0.1"], DEVICE).await;
    world.proxy.redirect_to(proxy.addr);
    let control = world.proxy.control.clone();
    world.start_premium().await;
    proxy.arm(Moment::MidPublish, fault, &control);
    let cancel = world.cancel_over_mqtt().await;
    until(format!("{fault:?} to be felt"), PATIENCE, || (control.hits() > 0).then_some(())).await;
    tokio::time::sleep(LASTS).await;
    control.lift();
    ends_free(&world, &cancel).await;
    let mark = world.cloud.grants_asked();
    world.agent.motion().await.report_motion().await;
    holds("nothing leaves that Free forbids", LASTS, || forbidden(&world, mark)).await;
    world.agent.assert_running();
}

/// The fault begins in the middle of a paid upload. With `cancelled`, the cancel arrives during the fault.
async fn during_upload(fault: Fault, cancelled: bool) {
    let mut world = World::with_camera().await;
    let proxy = Proxy::to(world.cloud.addr).await;
    world.agent.config.cloud = format!("https://{}", proxy.addr);
    world.cloud.lock().origin = format!("https://{}", proxy.addr);
    // The store reads only the beginning, so that the upload is in progress when the fault begins.
    world.cloud.lock().sink = Sink::StallAfter(8 * 1024);
    world.start_premium().await;
    let put = world.upload_in_flight(8 * 1024).await;
    proxy.control.inject_upstream(fault);
    world.cloud.lock().sink = Sink::Swallow;
    until(format!("{fault:?} to be felt"), PATIENCE, || (proxy.control.hits() > 0).then_some(())).await;
    if !cancelled {
        tokio::time::sleep(LASTS).await;
        proxy.control.lift();
        let whole = |seen: &care_tests::cloud::CloudState| {
            seen.puts.iter().find(|again| again.clip == put.clip && again.complete == Some(true)).cloned()
        };
        let stored = world.cloud.wait_for("the clip after all", RECONNECT, whole).await;
        let asked = world.cloud.lock().asked.iter().find(|(_, asked)| asked.clip == put.clip).map(|(_, asked)| asked.clone()).unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, &stored.body);
        let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((stored.body.len() as u64, hex), (asked.bytes, asked.sha256), "the clip has its announced length");
        return;
    }
    let cancel = world.cancel_over_mqtt().await;
    ends_free(&world, &cancel).await;
    let (mark, puts) = (world.cloud.grants_asked(), world.cloud.lock().puts.len());
    tokio::time::sleep(LASTS).await;
    proxy.control.lift();
    world.agent.motion().await.report_motion().await;
    holds("a cut clip stays cut", LASTS, || {
        let again = world.cloud.lock().puts.iter().skip(puts).find(|again| again.clip == put.clip).map(|again| again.path.clone());
        forbidden(&world, mark).or(again)
    })
    .await;
    let whole = world.cloud.lock().puts.iter().any(|again| again.clip == put.clip && again.complete == Some(true));
    // A fault that only delays may deliver what was sent before the cut, but never the whole clip: most of it was
    // still in the camera.
    assert!(!whole, "the clip was completed after the cancel");
    world.agent.assert_running();
}

async fn case(phase: Phase, fault: Fault) {
    match phase {
        Phase::MidPublish => during_cancel(fault).await,
        Phase::MidPut => during_upload(fault, true).await,
        Phase::MidPutKept => during_upload(fault, false).await,
        _ => while_connecting(phase, fault).await,
    }
}

/// Runs these cases, several at a time, and names each that failed.
async fn all(cases: Vec<(Phase, Fault)>, at_once: usize) {
    let room = std::sync::Arc::new(Semaphore::new(at_once));
    let started: Vec<_> = cases
        .into_iter()
        .map(|(phase, fault)| {
            let room = room.clone();
            let ended = tokio::spawn(async move {
                let _place = room.acquire().await.expect("the semaphore is never closed");
                let started = std::time::Instant::now();
                case(phase, fault).await;
                println!("{phase:?} × {fault:?}: {:.1} s", started.elapsed().as_secs_f64());
            });
            (phase, fault, ended)
        })
        .collect();
    let mut failed = Vec::new();
    let cases = started.len();
    for (phase, fault, ended) in started {
        if ended.await.is_err() {
            failed.push(format!("{phase:?} × {fault:?}"));
        }
    }
    println!("{} of {cases} cases passed", cases - failed.len());
    assert!(failed.is_empty(), "failed: {}", failed.join(", "));
}

/// Checks that a paid camera requests grants that Free forbids, which the cases look for.
#[tokio::test]
async fn a_paid_camera_requests_grants_that_free_forbids() {
    let mut world = World::with_camera().await;
    world.start_premium().await;
    world.move_until("a stored clip", |cloud| cloud.puts.iter().any(|put| put.complete == Some(true)).then_some(())).await;
    assert!(forbidden(&world, 0).is_some(), "{:?}", world.cloud.lock().asked);
}

/// One fault for each phase, and no fault twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_in_each_phase_leaves_the_right_mode() {
    let cases = vec![
        (Phase::Dns, Fault::Truncation),
        (Phase::Tcp, Fault::Blackhole),
        (Phase::Tls, Fault::Corruption),
        (Phase::Connect, Fault::Stall),
        (Phase::Subscribe, Fault::Reset),
        (Phase::MidPublish, Fault::Close),
        (Phase::MidPut, Fault::HalfOpen),
        (Phase::MidPutKept, Fault::Refused),
    ];
    all(cases, 4).await;
}

/// `CARE_CASE=Tls` or `CARE_CASE=Tls,Stall` selects cases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make proof"]
async fn every_fault_in_every_phase_leaves_the_right_mode() {
    let wanted = std::env::var("CARE_CASE").unwrap_or_default();
    let (phase_wanted, fault_wanted) = wanted.split_once(',').unwrap_or((&wanted, ""));
    let of = |phase: Phase, fault: Fault| {
        (phase_wanted.is_empty() || format!("{phase:?}") == phase_wanted)
            && (fault_wanted.is_empty() || format!("{fault:?}") == fault_wanted)
    };
    let cases: Vec<_> = PHASES.into_iter().flat_map(|phase| Fault::ALL.map(|fault| (phase, fault))).filter(|(p, f)| of(*p, *f)).collect();
    all(cases, 6).await;
}
