use std::{
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU32, Ordering},
};

use http::Method;
use portable_atomic::AtomicU64;

use super::{
    super::kernel::{Kernel, TcpInfo},
    sink::{grant, status},
    *,
};
use crate::media::Verdict;

/// Paced so that a clip of [`BIG`] bytes takes two and a half seconds: it cannot be whole when it is cut.
const SLOW_KBPS: u32 = 8_000;
const BIG: usize = 2_000_000;

fn slow(sink: &Sink) -> Bench {
    Bench::with(Peers { api: sink.origin(), store: None }, SLOW_KBPS)
}

#[test]
fn a_cut_in_mid_body_stops_it_and_a_forbidden_clip_never_comes_again() {
    let sink = Sink::generous(true);
    let bench = slow(&sink);
    bench.open(PAID);
    bench.record(BIG);
    until("some body has arrived", || sink.puts().first().is_some_and(|put| put.body.len() > 50_000));
    assert_eq!(bench.status().transfers, 1);
    let figures = bench.gate.cut(Some((NONE, AT)));
    assert_eq!((figures.generation, figures.transfers), (Generation(1), 1));
    assert_eq!(figures.erased, Erased { clips: 1, bytes: BIG as u64 });
    assert!(figures.bytes_after.is_none_or(|bytes| bytes < 16_384 + 1000), "{:?}", figures.bytes_after);

    // Another clip under another document passes; the forbidden one is not heard of again.
    bench.open(PAID);
    let next = bench.record(1000);
    until("the next is stored", || bench.stored() == 1);
    let puts = sink.puts();
    assert_eq!(puts.len(), 2);
    assert!(!puts[0].whole && puts[0].body.len() < BIG / 2);
    assert!(puts[1].whole && puts[1].body == next);
    assert_eq!(bench.status().erased, Erased { clips: 1, bytes: BIG as u64 });
    assert_eq!(bench.status().spool, Erased::default());
}

#[test]
fn a_cut_that_erases_nothing_sends_the_clip_again_once_opened() {
    let sink = Sink::generous(true);
    let bench = slow(&sink);
    bench.open(PAID);
    let content = bench.record(BIG / 2);
    until("some body has arrived", || sink.puts().first().is_some_and(|put| put.body.len() > 20_000));
    let figures = bench.gate.cut(None);
    assert_eq!((figures.transfers, figures.erased), (1, Erased::default()));
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
    let (asked, puts) = (sink.asked(), sink.puts());
    assert_eq!(asked[0].clip, asked[1].clip);
    assert!(!puts[0].whole && puts[1].whole && puts[1].body == content);
}

#[test]
fn what_takes_nothing_away_disturbs_no_transfer() {
    let sink = Sink::generous(true);
    let bench = slow(&sink);
    bench.open(Policy { clip_max_s: 30, ..PAID });
    bench.record(BIG / 2);
    until("a body has begun", || sink.puts().first().is_some_and(|put| !put.body.is_empty()));
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
    assert_eq!((sink.puts().len(), bench.gate.generation()), (1, Generation(0)));
}

#[test]
fn what_may_not_leave_waits() {
    let sink = Sink::generous(false);
    let bench = Bench::new(&sink);
    bench.open(Policy { max_height: 240, ..PAID });
    bench.record(1000);
    until("the uploads' thread is idle again", || bench.status().spool.clips == 1);
    assert_eq!(sink.connections(), 0);
    bench.open(PAID);
    until("stored", || bench.stored() == 1);
}

#[test]
fn a_clip_being_recorded_is_taken_away_by_a_cut() {
    let sink = Sink::generous(false);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::from_secs(5), height: 360 };
    let (mut writer, max) = bench.gate.begin(beginning).unwrap();
    assert_eq!((max, bench.gate.clip_max()), (Duration::from_secs(60), Some(Duration::from_secs(60))));
    let fragment = Bytes::from_static(&[7; 100]);
    assert_eq!(writer.append(fragment.clone(), Duration::from_secs(6)), Verdict::Continue { max });
    assert_eq!(bench.gate.cut(Some((NONE, AT))).erased, Erased { clips: 1, bytes: 100 });
    assert_eq!(writer.append(fragment, Duration::from_secs(7)), Verdict::Erased);
    writer.finish(Duration::from_secs(7));
    assert_eq!((bench.status().spool, bench.gate.clip_max()), (Erased::default(), None));
    assert!(bench.gate.begin(beginning).is_none());
}

#[test]
fn everything_can_be_erased() {
    let sink = Sink::start(false, |_| None);
    let bench = Bench::new(&sink);
    bench.open(PAID);
    bench.record(1000);
    bench.record(2000);
    until("one is under way", || bench.status().transfers == 1);
    assert_eq!(bench.gate.erase_all(), Erased { clips: 2, bytes: 3000 });
    assert_eq!(bench.status().spool, Erased::default());
}

#[test]
fn a_cut_waits_for_nobody_and_takes_no_longer_than_a_moment() {
    let sink = Sink::generous(true);
    let bench = slow(&sink);
    let mut times = Vec::new();
    for _ in 0..20 {
        bench.open(PAID);
        let before = sink.puts().len();
        bench.record(BIG);
        until("a body has begun", || sink.puts().len() > before);
        let begun = Instant::now();
        bench.gate.cut(Some((NONE, AT)));
        times.push(begun.elapsed());
    }
    times.sort();
    // Far above what it takes (some 50 µs), far below what waiting for the transfer would take.
    assert!(times[10] < Duration::from_millis(20), "{times:?}");
}

/// Cuts at every phase of a transfer, two hundred of them, while the uploads' thread runs on: no object may ever become
/// whole, no clip may be asked for again, and each cut leaves an empty spool behind.
#[test]
fn two_hundred_cuts_in_every_phase_let_nothing_through() {
    let fail = Arc::new(AtomicU32::new(0));
    let failing = fail.clone();
    let sink = Sink::start(true, move |call| {
        Some(match (call.method, failing.load(Ordering::SeqCst)) {
            (&Method::PUT, _) => status(200),
            (_, 0) => grant(call),
            (_, _) => status(503),
        })
    });
    let bench = slow(&sink);
    for round in 0..200_usize {
        let (connections, asked, puts) = (sink.connections(), sink.asked().len(), sink.seen.puts.lock().unwrap().len());
        let phase = round % 8;
        fail.store(u32::from(phase == 7), Ordering::SeqCst);
        bench.open(PAID);
        bench.record(BIG);
        match phase {
            0 => {}
            1 => thread::sleep(Duration::from_micros(fastrand::u64(0..8000))),
            2 => until("connected", || sink.connections() > connections),
            3 => until("asked", || sink.asked().len() > asked),
            4 => until("connected to put", || sink.connections() > connections + 1),
            5 => until("put", || sink.seen.puts.lock().unwrap().len() > puts),
            6 => until("body", || sink.seen.puts.lock().unwrap().get(puts).is_some_and(|put| put.body.len() > 10_000)),
            _ => {
                until("retry sleep", || bench.status().last_fault.is_some() && sink.asked().len() > asked && bench.status().transfers == 0)
            }
        }
        let figures = bench.gate.cut(Some((NONE, AT)));
        assert_eq!(figures.generation, Generation(round as u64 + 1));
        assert_eq!(figures.erased, Erased { clips: 1, bytes: BIG as u64 }, "phase {phase}");
        assert!(figures.bytes_after.is_none_or(|bytes| bytes < 16_384 + 1000), "phase {phase}: {:?} after", figures.bytes_after);
        assert!(bench.gate.sockets.is_empty(), "phase {phase}: a socket survived the cut");
        assert_eq!(bench.status().spool, Erased::default());
    }
    // One more, allowed this time: what is heard of after the cuts is this clip alone.
    fail.store(0, Ordering::SeqCst);
    bench.open(PAID);
    bench.record(1000);
    until("the last is stored", || bench.stored() == 1);
    let puts = sink.puts();
    assert_eq!(puts.iter().filter(|put| put.whole).count(), 1);
    let mut names: Vec<_> = sink.asked().into_iter().map(|asked| asked.clip).collect();
    let asked = names.len();
    names.sort();
    names.dedup();
    assert!(asked - names.len() <= 25, "only the retries of the failing rounds ask twice");
    assert!(puts.iter().filter(|put| !put.body.is_empty()).count() >= 25, "the rounds that cut in the body did");
}

#[test]
fn a_socket_is_not_opened_under_an_old_generation() {
    use crate::http::Dialer;
    let sink = Sink::generous(false);
    let bench = Bench::new(&sink);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let permit = socket::Permit::new(bench.gate.sockets.clone(), bench.gate.generation(), 1_000_000);
    assert!(permit.check().is_ok() && permit.dial(sink.address).is_ok());
    until("connected", || sink.connections() == 1);
    bench.gate.cut(None);
    assert!(permit.check().is_err() && permit.dial(sink.address).is_err());
    let fresh = socket::Permit::new(bench.gate.sockets.clone(), bench.gate.generation(), 1_000_000);
    assert!(fresh.dial(sink.address).is_ok());
    until("connected again", || sink.connections() == 2);
}

#[test]
fn a_kernel_that_refuses_pace_or_counters_is_no_reason_not_to_upload_and_is_named() {
    use crate::http::Dialer;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    // The fault, and whether a cut's bytes are counted, on such a kernel.
    let on = |kernel: Kernel| {
        let sink = Sink::generous(false);
        let sockets = Arc::new(socket::Sockets::under(kernel));
        assert_eq!(sockets.pace_fault(), None);
        let permit = socket::Permit::new(sockets.clone(), Generation(0), 1_000_000);
        let (_stream, guard) = permit.dial(sink.address).unwrap();
        until("connected", || sink.connections() == 1);
        guard.gauge().pace(2_000_000);
        sockets.advance();
        (sockets.pace_fault().unwrap_or_default(), sockets.abort().is_some())
    };
    // Not this machine's, which may be an emulator that lacks the same.
    let new = Kernel { set_max_pacing_rate: |_, _| Ok(()), tcp_info: |_| Ok(TcpInfo { bytes_sent: Some(0), ..TcpInfo::default() }) };
    assert_eq!(on(new), (String::new(), true));
    let refusals: [fn(BorrowedFd<'_>, u64) -> io::Result<()>; 2] =
        [|_, _| Err(io::ErrorKind::Unsupported.into()), |_, _| Err(io::ErrorKind::PermissionDenied.into())];
    for set_max_pacing_rate in refusals {
        let (fault, counted) = on(Kernel { set_max_pacing_rate, ..new });
        assert!(fault.starts_with("this kernel does not pace a socket (") && counted, "{fault}");
    }
    let (fault, counted) = on(Kernel { tcp_info: |_| Err(io::ErrorKind::Unsupported.into()), ..new });
    assert!(fault.contains("the uplink's rate is not estimated") && !counted, "{fault}");
    let (fault, counted) = on(Kernel { tcp_info: |_| Ok(TcpInfo::default()), ..new });
    assert!(fault.contains("bytes_after is not counted") && !fault.contains("estimated") && !counted, "{fault}");
}

#[test]
fn what_leaves_between_the_closing_and_the_kill_is_counted_for_every_connection() {
    use crate::http::Dialer;
    static SENT: AtomicU64 = AtomicU64::new(10_000);
    // Each time it is asked, another segment has left.
    let sending: fn(BorrowedFd<'_>) -> io::Result<TcpInfo> =
        |_| Ok(TcpInfo { bytes_sent: Some(SENT.fetch_add(1448, Ordering::Relaxed)), ..TcpInfo::default() });
    let sink = Sink::generous(false);
    let sockets = Arc::new(socket::Sockets::under(Kernel { tcp_info: sending, ..Kernel::default() }));
    let permit = socket::Permit::new(sockets.clone(), Generation(0), 1_000_000);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let _open = [permit.dial(sink.address).unwrap(), permit.dial(sink.address).unwrap()];
    sockets.advance();
    // Asked in the order 1, 2, 1, 2: two segments each.
    assert_eq!(sockets.abort(), Some(2 * 2 * 1448));
    assert_eq!(sockets.abort(), Some(0), "nothing is open any more");
}

/// The task may be late, or its thread blocked: the connection must die all the same, with what the kernel holds for
/// it.
#[test]
fn a_cut_kills_a_connection_while_its_task_still_holds_it() {
    use std::io::{ErrorKind, Read};

    use crate::http::Dialer;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let sockets = Arc::new(socket::Sockets::default());
    let permit = socket::Permit::new(sockets.clone(), Generation(0), 100_000);
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let (stream, _guard) = permit.dial(listener.local_addr().unwrap()).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    runtime.block_on(stream.writable()).unwrap();
    // More than the pace lets out in the time this takes: the rest waits in the kernel.
    let mut given = 0;
    while let Ok(more) = stream.try_write(&[7; 64 * 1024]) {
        given += more;
    }
    sockets.advance();
    sockets.abort();
    let mut received = Vec::new();
    let end = peer.read_to_end(&mut received);
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(received.len() < given, "{} of {given} bytes came though the connection was cut", received.len());
    assert!(stream.try_write(b"x").is_err());
}

#[test]
fn stopping_aborts_what_is_under_way_and_ends_the_thread() {
    let sink = Sink::generous(true);
    let bench = slow(&sink);
    bench.open(PAID);
    bench.record(BIG);
    until("a body has begun", || sink.puts().first().is_some_and(|put| !put.body.is_empty()));
    let begun = Instant::now();
    drop(bench);
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert!(!sink.puts()[0].whole);
}

#[test]
fn a_stale_body_ends_in_an_error_and_never_early() {
    use std::pin::pin;

    use http_body_util::BodyExt;
    let gate = Gate::new(&SpoolLimits { memory_bytes: 1_000_000, flash_bytes: 0, flash_bytes_per_day: 0 }, None, Clock::start(None));
    gate.open(Admission { record: PAID, keep: PAID, leave: PAID, position: AT });
    let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
    let (mut writer, _) = gate.begin(beginning).unwrap();
    writer.append(Bytes::from(vec![7; 100_000]), Duration::from_secs(1));
    writer.finish(Duration::from_secs(1));
    let next = gate.spool.lock().next(gate.generation(), gate.clock.now());
    let Next::Take(job) = next else { panic!("{next:?}") };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pace = Arc::new(body::Pace::new(1_000_000));
    runtime.block_on(async {
        let mut body = pin!(body::body_of(&gate, &job, &pace, &(Arc::new(|_| Err(io::ErrorKind::NotFound.into())) as Open)));
        assert_eq!(pace.arrived(None), 0);
        let frame = body.frame().await.unwrap().unwrap();
        // A kernel that does not say what has arrived must not make a transfer look as if it stood still.
        assert_eq!(pace.arrived(None), frame.data_ref().unwrap().len() as u64);
        gate.cut(None);
        assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
    });
}

/// A name with several addresses opens several sockets at once: the cut owns each of them.
#[test]
fn a_cut_kills_every_socket_that_races_for_a_name() {
    use crate::{
        config::Endpoint,
        http::{Fault, Origin, connect},
    };
    // Their queues are full, so that no SYN is answered.
    let deaf: Vec<_> = (0..3).map(|_| deaf_listener()).collect();
    let addresses: Vec<_> = deaf.iter().map(|(_, _, address)| *address).collect();
    let sockets = Arc::new(socket::Sockets::default());
    let permit = socket::Permit::new(sockets.clone(), Generation(0), 100_000);
    let origin = Origin { endpoint: Endpoint { host: "clips.example".into(), port: 1, tls: false }, tls: None };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let raced = runtime.block_on(async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let racing = connect(&permit, &origin, &addresses, deadline);
        tokio::pin!(racing);
        loop {
            tokio::select! {
                raced = &mut racing => break raced.map(drop),
                () = tokio::time::sleep(Duration::from_millis(5)) => if sockets.open_count() == addresses.len() {
                    sockets.advance();
                    sockets.abort();
                    assert!(sockets.is_empty());
                },
            }
        }
    });
    assert!(matches!(raced, Err(Fault::Stale(_))), "{raced:?}");
}

type Deaf = (socket2::Socket, Vec<socket2::Socket>, std::net::SocketAddr);

fn deaf_listener() -> Deaf {
    let new = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None).unwrap();
    let listener = new();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fill = (0..4).map(|_| {
        let socket = new();
        let _ = socket.connect(&address);
        socket
    });
    let fill = fill.collect();
    (listener, fill, address.as_socket().unwrap())
}
