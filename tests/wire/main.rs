//! The cut, seen on the wire: the camera in one network namespace, a TLS sink in another, an uplink of 2 Mbit/s
//! between them, and a capture on the far side. Twenty cuts at random moments of a transfer, and in its early
//! phases. After the gate has closed at most one TLS record may follow, and no object may ever be complete. The
//! control only drops the request and must fail the same check. Clips that leave in parts, while they are filmed, are cut as well.
//!
//! On an uplink whose rate changes, the estimated pace is compared with a fixed one; on a fast one the agent with plain hyper.
//!
//! The same again on a kernel like a camera's: no pace, no figures about a connection, late timers, and with a thread of
//! higher priority that takes most of the processor. Needs root, `ip` and `tc`.

mod changing;
mod sink;
#[path = "../../benches/stamp.rs"]
mod stamp;
mod throughput;

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use care_tests::{
    capture::{self, Capture},
    old_kernel::{Call, ImageProcessing, OldKernel},
    shaped_link::Link,
};
use serde::Deserialize;

use self::sink::Sink;

/// One TLS record: 16 KiB of data, header, tag and content type (RFC 8446 section 5).
const ONE_RECORD: u64 = 16_384 + 5 + 16 + 1;
const UPLINK_KBPS: u32 = 2_000;
/// What a cut may at most find in the device's queue on a kernel that does not pace.
const UNPACED_MOST: u64 = 16 * 1024;
/// An uplink that is fast for a camera, and a clip for it.
const FAST_KBPS: u32 = 10_000;
const FAST_CLIP: u64 = 2_000_000;
/// The processor of the crowded camera.
const CROWDED: usize = 0;
/// What a camera films in parts in 250 ms: 1.6 Mbit/s.
const FRAGMENT: u64 = 50_000;
/// A cut this long after the clip is ready comes in the middle of its body.
const MIDDLE: Duration = Duration::from_millis(100);
/// The first part has begun to leave, milliseconds.
const FIRST_PART: u64 = 2_500;
/// More than two seconds at that rate, longer than any cut waits.
const CLIP: u64 = 16 * 32 * 1024;

/// The camera's output about a cut.
#[derive(Debug, Clone, Deserialize)]
struct Said {
    at_ns: u64,
    micros: u64,
    transfers: u32,
    /// `None` if the kernel does not count it.
    bytes_after: Option<u64>,
    /// What prevented the clip from being sent, if anything did.
    fault: Option<String>,
    /// What the kernel lacks.
    pace_fault: Option<String>,
}

/// Observations of one cut.
#[derive(Debug, Clone)]
struct Round {
    said: Said,
    /// Time of the cut, counted from when the clip was ready.
    waited: Duration,
    /// Payload on the wire before the cut.
    before: u64,
    /// Payload on the wire after the decision to cut, and the time until the last of it.
    bytes: u64,
    last: Duration,
    became_whole: bool,
}

impl Round {
    /// The check for both the agent and the control.
    fn holds(&self) -> bool {
        self.bytes <= ONE_RECORD && !self.became_whole
    }
}

/// A program, its configuration and its kernel.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    /// `cut`, `parts`, `drop` or `paced`.
    mode: &'static str,
    /// 0: estimated.
    uplink_kbps: u32,
    kernel: Option<OldKernel>,
}

struct Rounds {
    name: &'static str,
    rounds: Vec<Round>,
}

impl Rounds {
    fn p50_and_most(&self) -> (u64, u64) {
        let mut bytes: Vec<u64> = self.rounds.iter().map(|round| round.bytes).collect();
        bytes.sort_unstable();
        (bytes[bytes.len() / 2], bytes[bytes.len() - 1])
    }

    /// For the published figures: the payload on the wire after the cut.
    fn figures(&self) -> serde_json::Value {
        let (p50, most) = self.p50_and_most();
        serde_json::json!({
            "cuts": self.rounds.len(),
            "bytes": { "p50": p50, "max": most },
            "complete": self.rounds.iter().filter(|round| round.became_whole).count(),
        })
    }
}

impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |figure: &dyn Fn(&Round) -> f64| {
            let mut figures: Vec<f64> = self.rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            (figures[figures.len() / 2], figures[figures.len() - 1])
        };
        let (bytes, most) = of(&|round| round.bytes as f64);
        let (last, latest) = of(&|round| round.last.as_secs_f64() * 1000.0);
        let (micros, slowest) = of(&|round| round.said.micros as f64);
        let whole = self.rounds.iter().filter(|round| round.became_whole).count();
        write!(
            f,
            "{:<28} {:>3} cuts | on the wire after: {:>7.0} / {:>7.0} bytes | last byte after: {:>7.1} / {:>7.1} ms | the call: {:>5.0} / {:>5.0} µs | became whole: {whole}",
            self.name,
            self.rounds.len(),
            bytes,
            most,
            last,
            latest,
            micros,
            slowest
        )
    }
}

/// The camera's program in its namespace.
struct Camera {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Camera {
    fn start(link: &Link, case: Case, sink: &Sink, clip: u64) -> Self {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", link.near()]).arg(program()).arg(case.mode).arg(sink.address().to_string());
        command.arg(sink.ca()).arg(case.uplink_kbps.to_string()).arg(clip.to_string());
        if let Some(kernel) = case.kernel {
            kernel.imitate(&mut command);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the camera's program starts");
        let to = child.stdin.take().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        Self { child, to, from }
    }

    fn go(&mut self) {
        writeln!(self.to, "go").unwrap();
    }

    fn cut(&mut self) -> Said {
        writeln!(self.to, "cut").unwrap();
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Cuts once for each of `waits` and captures until the wire is quiet.
fn cut_and_look(case: Case, waits: &[Duration]) -> Rounds {
    let link = Link::shaped(UPLINK_KBPS);
    let sink = Sink::start(&link);
    let capture = Capture::start(&link);
    let mut camera = Camera::start(&link, case, &sink, if case.mode == "parts" { FRAGMENT } else { CLIP });
    let rounds = waits.iter().map(|wait| {
        let (whole, begun) = (sink.whole(), capture::now_ns());
        camera.go();
        thread::sleep(*wait);
        let said = camera.cut();
        capture.until_quiet(Duration::from_millis(400), Duration::from_secs(15));
        let (bytes, last) = capture.since(said.at_ns);
        let before = capture.since(begun).0 - bytes;
        Round { said, waited: *wait, before, bytes, last, became_whole: sink.whole() > whole }
    });
    Rounds { name: case.name, rounds: rounds.collect() }
}

/// Uploads one clip of [`FAST_CLIP`] over an uplink of [`FAST_KBPS`]; bytes a second.
fn upload_fast(case: Case) -> f64 {
    let link = Link::shaped(FAST_KBPS);
    let sink = Sink::start(&link);
    let mut camera = Camera::start(&link, case, &sink, FAST_CLIP);
    let begun = Instant::now();
    camera.go();
    while sink.whole() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}: the clip does not arrive", case.name);
        thread::sleep(Duration::from_millis(2));
    }
    FAST_CLIP as f64 / begun.elapsed().as_secs_f64()
}

/// The tests take turns: each needs the processors for itself.
fn turn() -> impl Drop {
    static TURN: Mutex<()> = Mutex::new(());
    // SAFETY: geteuid has no precondition.
    assert_eq!(unsafe { libc::geteuid() }, 0, "the wire test makes network namespaces: run it as root");
    program();
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For `docs/benchmarks.md`.
fn publish(file: &str, figures: &serde_json::Value) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(file), format!("{figures:#}\n")).unwrap();
}

/// The example program beside this test, built now if it was not built with it.
fn program() -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let profile = deps.ancestors().nth(2).unwrap();
    let program = profile.join("examples/on_the_wire");
    if !program.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "kasa-care-agent", "--example", "on_the_wire"]).status();
        assert!(built.is_ok_and(|status| status.success()), "the example on_the_wire cannot be built");
    }
    program
}

/// Random moments of a transfer, in milliseconds from when the clip is ready.
fn moments(count: usize, within: std::ops::Range<u64>) -> Vec<Duration> {
    let random = |_| {
        let bytes: [u8; 8] = uuid::Uuid::new_v4().into_bytes()[8..].try_into().unwrap();
        within.start * 1000 + u64::from_le_bytes(bytes) % ((within.end - within.start) * 1000)
    };
    (0..count).map(random).map(Duration::from_micros).collect()
}

#[test]
fn after_a_cut_at_most_one_record_leaves_and_the_control_fails_the_same_check() {
    let _turn = turn();
    let begun = Instant::now();
    let early = moments(6, 0..40);
    let middle = moments(14, 100..1500);
    let (agent, parts, estimating, control) = thread::scope(|scope| {
        let agent = Case { name: "agent, uplink configured", mode: "cut", uplink_kbps: UPLINK_KBPS, kernel: None };
        let estimating = Case { name: "agent, uplink estimated", uplink_kbps: 0, ..agent };
        let parts = Case { name: "agent, clips in parts", mode: "parts", ..agent };
        let control = Case { name: "control, request dropped", mode: "drop", ..estimating };
        let agent = scope.spawn(move || cut_and_look(agent, &[&early[..], &middle].concat()));
        let parts = scope.spawn(move || cut_and_look(parts, &moments(6, FIRST_PART..FIRST_PART + 3000)));
        let estimating = scope.spawn(move || cut_and_look(estimating, &moments(14, 100..2000)));
        let control = scope.spawn(move || cut_and_look(control, &moments(8, 100..1000)));
        (agent.join().unwrap(), parts.join().unwrap(), estimating.join().unwrap(), control.join().unwrap())
    });
    println!("p50 / max over an uplink of {UPLINK_KBPS} kbit/s, {:.0} s in all", begun.elapsed().as_secs_f64());
    println!("{agent}\n{parts}\n{estimating}\n{control}");
    let figures = serde_json::json!({
        "what": "payload on the wire after the gate has closed, bytes, over an uplink of 2 Mbit/s",
        "measured": stamp::stamp("cargo test --workspace --test wire", &[]),
        "configured": agent.figures(), "parts": parts.figures(), "estimated": estimating.figures(), "control": control.figures(),
    });
    publish("wire.json", &figures);

    for round in &agent.rounds {
        assert!(round.holds(), "{round:?}");
        assert!(round.said.bytes_after.is_some_and(|bytes| bytes <= ONE_RECORD), "{round:?}");
    }
    // Parts that left before the cut are whole.
    for round in &parts.rounds {
        assert!(round.bytes <= ONE_RECORD && round.said.bytes_after.is_some_and(|bytes| bytes <= ONE_RECORD), "{round:?}");
        assert!(round.before > 2_000, "no part has left: {:?}, {round:?}", round.said.fault);
    }
    let in_flight = parts.rounds.iter().filter(|round| round.said.transfers == 1).count();
    assert!(in_flight * 2 >= parts.rounds.len(), "hardly a part was under way: {:?}", parts.rounds);
    // A check without a transfer would prove nothing.
    for round in agent.rounds.iter().chain(&estimating.rounds).chain(&control.rounds) {
        let flowing = round.waited < MIDDLE || (round.before > 2_000 && round.said.transfers == 1);
        assert!(flowing, "no transfer was in progress: {:?}, {round:?}", round.said.fault);
    }
    assert!(estimating.rounds.iter().all(|round| !round.became_whole), "{:?}", estimating.rounds);

    let caught = control.rounds.iter().filter(|round| !round.holds()).count();
    assert!(caught * 2 > control.rounds.len(), "the check lets the control pass: {:?}", control.rounds);
    let most = control.rounds.iter().map(|round| round.bytes).max().unwrap();
    assert!(most > 100_000, "the control leaks {most} bytes at most: the link does not behave as this test assumes");
}

/// Linux 4.9 accepts a pace and does nothing, others refuse it; its timers are late, and an image processing thread
/// takes most of the processor. What the cut rests on then is the agent's own timer.
#[test]
fn on_a_kernel_that_neither_paces_nor_counts_a_cut_finds_one_record_at_most() {
    let _turn = turn();
    let begun = Instant::now();
    let configured = Case { name: "4.9, uplink configured", mode: "cut", uplink_kbps: UPLINK_KBPS, kernel: Some(OldKernel::CAMERA) };
    let refusing = OldKernel { pacing: Call::Refused(libc::EPERM), tcp_info: Call::Works, ..OldKernel::CAMERA };
    let estimating = Case { name: "4.9, uplink estimated", uplink_kbps: 0, kernel: Some(refusing), ..configured };
    let crowded = OldKernel { tcp_info: Call::Ignored, processor: Some(CROWDED), ..OldKernel::CAMERA };
    let crowded = Case { name: "4.9, processor 70 % taken", kernel: Some(crowded), ..configured };
    let (configured, estimating) = thread::scope(|scope| {
        let configured = scope.spawn(|| cut_and_look(configured, &moments(14, 100..1500)));
        let estimating = scope.spawn(|| cut_and_look(estimating, &moments(14, 100..1800)));
        (configured.join().unwrap(), estimating.join().unwrap())
    });
    let crowded = {
        let _image_processing = ImageProcessing::start(CROWDED);
        cut_and_look(crowded, &moments(8, 300..1500))
    };
    println!("p50 / max over an uplink of {UPLINK_KBPS} kbit/s, {:.0} s in all", begun.elapsed().as_secs_f64());
    println!("{configured}\n{estimating}\n{crowded}");
    publish(
        "wire-old-kernel.json",
        &serde_json::json!({
            "what": "payload on the wire after the gate has closed, bytes, over an uplink of 2 Mbit/s, without the kernel's pace",
            "measured": stamp::stamp("cargo test --workspace --test wire", &[]),
            "configured": configured.figures(), "estimated": estimating.figures(), "crowded": crowded.figures(),
        }),
    );

    for rounds in [&configured, &estimating, &crowded] {
        let (p50, most) = rounds.p50_and_most();
        assert!(p50 <= ONE_RECORD && most <= UNPACED_MOST, "{p50} and {most}: {rounds}");
        for round in &rounds.rounds {
            assert!(!round.became_whole, "{round:?}");
            assert!(round.before > 2_000 && round.said.transfers == 1, "no transfer was in progress: {round:?}");
        }
    }
    for (rounds, counts, why) in [
        (&configured, false, "it accepts SO_MAX_PACING_RATE and does not keep it"),
        (&estimating, true, "Operation not permitted"),
        (&crowded, false, "it accepts SO_MAX_PACING_RATE and does not keep it"),
    ] {
        let said = &rounds.rounds[0].said;
        assert_eq!(said.bytes_after.is_some(), counts, "{said:?}");
        let fault = said.pace_fault.as_deref().unwrap_or_default();
        assert!(fault.contains(why) && fault.contains("bytes_after is not counted") != counts, "{fault}");
    }
}

/// Small bursts and late timers cost some of the rate, not most of it.
#[test]
fn a_fast_uplink_is_used_without_the_kernels_pace_as_well() {
    let _turn = turn();
    let old = OldKernel { tcp_info: Call::Works, ..OldKernel::CAMERA };
    for (uplink_kbps, name) in [(FAST_KBPS, "uplink configured"), (0, "uplink estimated")] {
        let paced = Case { name, mode: "cut", uplink_kbps, kernel: None };
        let (paced, unpaced) = (upload_fast(paced), upload_fast(Case { kernel: Some(old), ..paced }));
        let kbps = |rate: f64| rate * 8.0 / 1000.0;
        println!("{name}: {:.0} kbit/s, without the kernel's pace {:.0} kbit/s, of {FAST_KBPS}", kbps(paced), kbps(unpaced));
        assert!(unpaced > paced / 2.0, "{name}: {unpaced} and {paced} bytes/s");
    }
}
