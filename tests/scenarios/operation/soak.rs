//! Soak test: five plan changes a second while uploads run and a card is written to. Memory, descriptors and threads
//! must stay bounded, and the local branch must lose no frame. One minute here; ten minutes and an hour in `make
//! proof`.

use std::{
    fs,
    time::{Duration, Instant},
};

use care_protocol::{Mode, Policy};
use care_tests::{
    issuer::{FREE, PLUS, PREMIUM},
    media::{every_frame_in, recordings},
    wait::{RECONNECT, until},
    world::World,
};

const CHANGE_EVERY: Duration = Duration::from_millis(200);
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// One sample of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    rss: u64,
    descriptors: usize,
    threads: usize,
}

impl Sample {
    fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { rss: field("VmRSS:") * 1024, descriptors, threads: usize::try_from(field("Threads:")).unwrap() }
    }
}

/// The growth. Caches may fill in the first third; from the second to the last third nothing may grow, however long
/// the run. Memory is compared by median, because it fluctuates on a busy machine; counts are compared by maximum.
fn growth(samples: &[Sample]) -> Vec<String> {
    /// Heap fragmentation, and the pages of one more clip.
    const RSS_SLACK: u64 = 3 << 19;
    /// One more connection at the time of a sample: broker, API, store or a status client.
    const DESCRIPTORS_SLACK: usize = 6;
    /// One more thread of a resolver, and one of GStreamer.
    const THREADS_SLACK: usize = 3;

    let third = samples.len() / 3;
    assert!(third >= 5, "{} samples say nothing", samples.len());
    let (middle, last) = (&samples[third..2 * third], &samples[2 * third..]);
    let median = |part: &[Sample]| {
        let mut sorted: Vec<_> = part.iter().map(|sample| sample.rss).collect();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    };
    let most = |part: &[Sample], of: fn(&Sample) -> usize| part.iter().map(of).max().unwrap_or_default();
    let mut grew = Vec::new();
    let (before, after) = (median(middle), median(last));
    if after > before + RSS_SLACK {
        grew.push(format!("memory from {before} to {after} bytes"));
    }
    let mut count = |what, of, slack| {
        let (before, after) = (most(middle, of), most(last, of));
        if after > before + slack {
            grew.push(format!("{what} from {before} to {after}"));
        }
    };
    count("descriptors", |sample| sample.descriptors, DESCRIPTORS_SLACK);
    count("threads", |sample| sample.threads, THREADS_SLACK);
    grew
}

async fn soak(span: Duration) {
    let mut world = World::with_camera().await;
    let sd = world.agent.dir().join("sd");
    fs::create_dir(&sd).unwrap();
    world.agent.config.recording = Some(sd.clone());
    world.start_premium().await;
    let mut motion = world.agent.motion().await;
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;

    let pid = world.agent.pid().try_into().unwrap();
    let (mut samples, mut changes) = (Vec::new(), 0);
    let (began, mut sampled) = (Instant::now(), Instant::now());
    let mut due = tokio::time::interval(CHANGE_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < span {
        due.tick().await;
        changes += 1;
        // Policies that restrict and grant, with limits that do not affect clips of three seconds; sometimes one
        // that forbids and erases everything.
        let draft = match changes % 4 {
            _ if changes % 25 == 0 => world.free(),
            0 => world.premium(),
            1 => world.draft("plus", PLUS),
            2 => world.draft("free", Policy { cooldown_s: 0, clip_max_s: PREMIUM.clip_max_s, ..FREE }),
            _ => world.draft("plus", Policy { history_h: 100, ..PLUS }),
        };
        world.issue(draft).await;
        if changes % 5 == 0 {
            motion.report_motion().await;
        }
        if sampled.elapsed() >= SAMPLE_EVERY {
            sampled = Instant::now();
            samples.push(Sample::of(pid));
            // The test discards what has arrived, too.
            world.cloud.lock().puts.iter_mut().filter(|put| put.complete.is_some()).for_each(|put| put.body = Vec::new());
        }
    }
    world.agent.assert_running();
    let last = world.premium();
    let last = world.issue(last).await;
    until("the last document in force", RECONNECT, || {
        world.issuer.heard().reports.last().map(|(_, report)| report).filter(|r| last.in_force(r) && r.mode == Mode::Paid).map(drop)
    })
    .await;
    let stored = world.cloud.lock().puts.iter().filter(|put| put.complete == Some(true)).count();
    let (_, lost) = world.agent.status("the recording", |status| status.recorded_and_lost().0 > 0).await.recorded_and_lost();
    world.agent.stop().await;
    let frames = every_frame_in(&recordings(&sd));
    let (first, highest) = (samples[0], samples.iter().map(|sample| sample.rss).max().unwrap());
    println!(
        "{} s: {changes} plan changes, {stored} clips stored, {frames} frames recorded, {lost} lost; memory {} kB at first, {} kB at most, \
         {} kB at the end; {} descriptors, {} threads",
        span.as_secs(),
        first.rss / 1024,
        highest / 1024,
        samples.last().unwrap().rss / 1024,
        samples.last().unwrap().descriptors,
        samples.last().unwrap().threads,
    );
    assert_eq!(lost, 0, "frames were not written to the card");
    assert!(changes as u64 >= span.as_secs(), "{changes} plan changes in {span:?}: this machine is too slow to tell");
    assert!(stored > 1, "no uploads ran");
    let grew = growth(&samples);
    assert!(grew.is_empty(), "{grew:?} in {span:?}: {samples:?}");
}

#[tokio::test]
async fn a_minute_on_duty() {
    soak(Duration::from_secs(60)).await;
}

#[tokio::test]
#[ignore = "ten minutes: make proof"]
async fn ten_minutes_on_duty() {
    soak(Duration::from_secs(600)).await;
}

#[tokio::test]
#[ignore = "an hour: make proof"]
async fn an_hour_on_duty() {
    soak(Duration::from_secs(3600)).await;
}

/// Tests the check itself: with leaks in this process, and with memory that only fluctuates.
#[test]
fn growth_is_detected_and_fluctuation_is_not() {
    let pid = std::process::id();
    let mut kept: Vec<Vec<u8>> = Vec::new();
    let leaking: Vec<_> = (0..30)
        .map(|_| {
            // Of a block of more than 32 MB, so that the allocator takes fresh pages and none that other tests have given back.
            let mut block = Vec::with_capacity(33 << 20);
            block.resize(1 << 20, 1);
            kept.push(block);
            Sample::of(pid)
        })
        .collect();
    drop(std::hint::black_box(kept));
    assert!(growth(&leaking).iter().any(|grew| grew.starts_with("memory")), "{leaking:?}");

    let mut kept = Vec::new();
    let leaking: Vec<_> = (0..60)
        .map(|_| {
            kept.extend([(); 2].map(|()| fs::File::open("/dev/null").unwrap()));
            Sample::of(pid)
        })
        .collect();
    drop(kept);
    assert!(growth(&leaking).iter().any(|grew| grew.starts_with("descriptors")), "{leaking:?}");

    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = std::sync::Arc::new(std::sync::Mutex::new(ended));
    let mut kept = Vec::new();
    let leaking: Vec<_> = (0..45)
        .map(|_| {
            let ended = ended.clone();
            kept.push(std::thread::spawn(move || ended.lock().unwrap().recv().is_ok()));
            Sample::of(pid)
        })
        .collect();
    drop(end);
    for thread in kept {
        thread.join().unwrap();
    }
    assert!(growth(&leaking).iter().any(|grew| grew.starts_with("threads")), "{leaking:?}");

    let breathing: Vec<_> = (0..120_u64)
        .map(|n| Sample {
            rss: (24 << 20) + (n * 7919 % 5) * (256 << 10),
            descriptors: 40 + (n % 4) as usize,
            threads: 20 + (n % 2) as usize,
        })
        .collect();
    assert_eq!(growth(&breathing), Vec::<String>::new());
    // Four hundred bytes for each of 18 000 changes in an hour: too little for a minute, obvious after an hour.
    let seeping: Vec<_> = (0..7200_u64).map(|n| Sample { rss: (24 << 20) + n * 1000, ..breathing[0] }).collect();
    assert_eq!(growth(&seeping[..120]), Vec::<String>::new());
    assert!(growth(&seeping).iter().any(|grew| grew.starts_with("memory")), "{:?}", growth(&seeping));
}
