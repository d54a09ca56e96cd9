//! `kasa-care-agent supervise`: the agent where no systemd runs. Most tests supervise a small shell script that leaves marks,
//! the others the agent itself.

use std::{
    fs,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use care_protocol::Mode;
use care_tests::{
    agent::program,
    process::{Lines, Process},
    wait::{PATIENCE, holds, until},
    world::World,
};
use tempfile::TempDir;
use tokio::process::Command;

/// A supervised shell script in a directory of its own.
struct Supervised {
    dir: TempDir,
    process: Process,
    log: Lines,
}

impl Supervised {
    /// Runs `script` under `supervise` with these options. `mark WORD` in the script adds a line to the marks.
    fn start(options: &[&str], script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(program("kasa-care-agent", "CARE_AGENT"));
        command.arg("supervise").args(options).args(["--", "sh", "-c", &format!("mark() {{ echo $1 >>marks; }}\n{script}")]);
        command.current_dir(dir.path());
        let log = Lines::default();
        Self { process: Process::spawn("supervise", command, log.clone()), dir, log }
    }

    fn marks(&self) -> Vec<String> {
        marks(self.dir.path())
    }

    async fn marked(&self, count: usize) {
        until(format!("{count} marks"), PATIENCE, || (self.marks().len() >= count).then_some(())).await;
    }

    async fn logged(&self, what: &str) -> String {
        until(format!("a line with {what:?}"), PATIENCE, || self.log.find(0, |line| line.contains(what))).await
    }

    async fn ends_with(mut self, code: i32) -> Vec<String> {
        let status = self.process.exited(PATIENCE).await;
        assert_eq!(status.code(), Some(code), "{:#?}", self.log.all());
        self.log.all()
    }
}

fn marks(dir: &Path) -> Vec<String> {
    fs::read_to_string(dir.join("marks")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The processes that a process has started.
fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill accesses no memory; the process is a child of a process that the test runs.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "signal {signal} to {pid}");
}

fn runs(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The supervised agent's process id.
async fn agent_of(supervisor: i32) -> i32 {
    until("the supervised agent", PATIENCE, || children(supervisor).first().copied()).await
}

/// Supervises the world's agent from its next start on.
fn supervise(world: &mut World, options: &[&str]) {
    let own = world.agent.program.display().to_string();
    world.agent.under = [&[&own, "supervise"], options, &["--"]].concat().into_iter().map(str::to_owned).collect();
}

#[tokio::test]
async fn a_crash_loop_is_restarted_after_pauses_that_grow() {
    let supervised = Supervised::start(&[], "mark run; exit 3");
    supervised.marked(4).await;
    let line = supervised.logged("pause_s=8").await;
    assert!(line.contains("ERROR") && line.contains("exit code 3") && line.contains("restarts=4"), "{line}");
    let log = supervised.log.all();
    let pauses: Vec<&str> = log.iter().filter_map(|line| line.split("pause_s=").nth(1)?.split(' ').next()).collect();
    assert_eq!(pauses, ["1", "2", "4", "8"], "{log:#?}");
    // Told to stop in a pause, it stops at once and starts nothing more.
    let told = Instant::now();
    supervised.process.terminate();
    let (dir, marks) = (supervised.dir.path().to_owned(), supervised.marks());
    supervised.ends_with(0).await;
    assert!(told.elapsed() < Duration::from_secs(5));
    assert_eq!(marks.len(), 4, "{} {marks:?}", dir.display());
}

#[tokio::test]
async fn wrong_usage_and_wrong_configuration_stop_it_for_good() {
    for (code, word) in [(64, "command line"), (78, "configuration")] {
        let supervised = Supervised::start(&["--status-file", "status", "--pidfile", "pid"], &format!("mark run; exit {code}"));
        let dir = supervised.dir.path().to_owned();
        supervised.logged(&format!("code={code}")).await;
        let marks = supervised.marks();
        let log = supervised.ends_with(code).await;
        assert_eq!(marks.len(), 1, "{log:#?}");
        assert!(log.iter().any(|line| line.contains("not started again") && line.contains(word)), "{log:#?}");
        assert!(!dir.join("pid").exists() && !dir.join("status").exists());
    }
    // The control: any other code is a reason to go on.
    let supervised = Supervised::start(&[], "mark run; exit 77");
    supervised.marked(2).await;
}

/// As BusyBox's init does with `::respawn:`, which would start again at once whatever ends.
#[tokio::test]
async fn under_an_init_that_respawns_a_wrong_configuration_waits_for_a_hup() {
    let dir = tempfile::tempdir().unwrap();
    let agent = program("kasa-care-agent", "CARE_AGENT");
    fs::write(dir.path().join("run"), "#!/bin/sh\necho run >>marks\nexit 78\n").unwrap();
    let supervise =
        format!("cd {0}; exec {1} supervise --pidfile pid --status-file status -- sh ./run", dir.path().display(), agent.display());
    fs::write(dir.path().join("supervise"), supervise).unwrap();
    let script = format!(
        "mount -t tmpfs none /etc && echo '::respawn:/bin/sh {0}/supervise >>{0}/log 2>&1' >/etc/inittab && exec busybox init",
        dir.path().display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script]);
    let init = Process::spawn("init", command, Lines::default());
    let said = || fs::read_to_string(dir.path().join("log")).unwrap_or_default();
    until("the reason", PATIENCE, || said().contains("not started again").then_some(())).await;
    holds("one run", Duration::from_secs(3), || (marks(dir.path()).len() != 1).then(&said)).await;
    let status = fs::read_to_string(dir.path().join("status")).unwrap();
    assert!(status.contains("configuration is wrong") && status.contains("78"), "{status}");
    let of_init = until("init", PATIENCE, || children(init.pid()).first().copied()).await;
    let supervisor = until("the supervisor", PATIENCE, || children(of_init).first().copied()).await;
    signal(supervisor, libc::SIGHUP);
    until("another run", PATIENCE, || (marks(dir.path()).len() == 2).then_some(())).await;
    assert_eq!(children(of_init), [supervisor], "init had nothing to respawn");
}

#[tokio::test]
async fn both_stop_on_sigterm_and_a_command_that_does_not_is_killed() {
    let obedient = Supervised::start(&[], "trap 'mark term; exit 0' TERM; mark run; while :; do sleep 0.1; done");
    obedient.marked(1).await;
    obedient.process.terminate();
    obedient.marked(2).await;
    obedient.ends_with(0).await;

    let stubborn = Supervised::start(&[], "trap 'mark term' TERM INT; mark run; while :; do sleep 0.1; done");
    stubborn.marked(1).await;
    let child = agent_of(stubborn.process.pid()).await;
    stubborn.process.signal(libc::SIGINT);
    stubborn.marked(2).await;
    assert!(runs(child), "it has ten seconds");
    let log = stubborn.ends_with(0).await;
    assert!(log.iter().any(|line| line.contains("did not stop within 10 s")), "{log:#?}");
    assert!(!runs(child));
}

#[tokio::test]
async fn what_a_command_has_started_ends_with_it_and_a_killed_supervisor_leaves_nothing_behind() {
    let supervised = Supervised::start(&[], "sleep 1000 & mark $!; exit 1");
    supervised.marked(2).await;
    let grandchild: i32 = supervised.marks()[0].parse().unwrap();
    until("the end of the grandchild", PATIENCE, || (!runs(grandchild)).then_some(())).await;

    let supervised = Supervised::start(&[], "mark run; exec sleep 1000");
    supervised.marked(1).await;
    let child = agent_of(supervised.process.pid()).await;
    supervised.process.signal(libc::SIGKILL);
    until("the end of the child", PATIENCE, || (!runs(child)).then_some(())).await;
}

#[tokio::test]
async fn a_second_supervisor_is_refused() {
    let first = Supervised::start(&["--pidfile", "pid"], "mark run; sleep 1000");
    first.marked(1).await;
    let pid = fs::read_to_string(first.dir.path().join("pid")).unwrap();
    assert_eq!(pid.trim(), first.process.pid().to_string());
    let agent = program("kasa-care-agent", "CARE_AGENT");
    let mut second = Command::new(agent);
    second.args(["supervise", "--pidfile"]).arg(first.dir.path().join("pid")).args(["--", "true"]);
    let refused = second.output().await.unwrap();
    assert_eq!(refused.status.code(), Some(70));
    assert!(String::from_utf8_lossy(&refused.stderr).contains(pid.trim()), "{refused:?}");
}

#[tokio::test]
async fn a_command_that_never_reports_is_killed_unless_that_is_switched_off() {
    let silent = Supervised::start(&["--hang-after", "1"], "mark run; sleep 1000");
    silent.marked(2).await;
    silent.logged("was not ready within 1 s").await;
    let left_alone = Supervised::start(&["--hang-after", "0"], "mark ${WATCHDOG_USEC:-none}; sleep 1000");
    left_alone.marked(1).await;
    assert_eq!(left_alone.marks(), ["none"]);
    holds("it runs", Duration::from_secs(3), || (left_alone.marks().len() != 1).then(|| format!("{:?}", left_alone.log.all()))).await;
}

#[tokio::test]
async fn s77_a_supervised_agent_that_hangs_is_killed_and_started_again() {
    let mut world = World::new().await;
    let status_file = world.agent.dir().join("supervise.status");
    supervise(&mut world, &["--hang-after", "4", "--status-file", status_file.to_str().unwrap()]);
    world.start_premium().await;
    let hung = agent_of(world.agent.pid()).await;
    let line = until("its status", PATIENCE, || fs::read_to_string(&status_file).ok().filter(|line| line.contains("premium"))).await;
    assert!(line.contains(&format!("process {hung}; restarts: 0")), "{line}");
    let seen = world.agent.log().len();
    signal(hung, libc::SIGSTOP);
    world.agent.logged(seen, "the hang", |line| line.contains("made no progress for 4 s") && line.contains("restarts=1")).await;
    let next = until("another process", PATIENCE, || children(world.agent.pid()).into_iter().find(|pid| *pid != hung)).await;
    world.agent.mode(Mode::Paid).await;
    let wanted = format!("process {next}; restarts: 1, the last because it made no progress for 4 s");
    until("the reason in the status", PATIENCE, || fs::read_to_string(&status_file).ok().filter(|line| line.contains(&wanted))).await;
    // A reload reaches the agent, and a stop both.
    let seen = world.agent.log().len();
    world.agent.signal(libc::SIGHUP);
    world.agent.logged(seen, "the reload", |line| line.contains("configuration read again")).await;
    world.agent.stop().await;
    assert!(!runs(next) && !status_file.exists());
}

/// A pipe in place of the device shows every byte.
fn device(dir: &Path) -> (PathBuf, fs::File) {
    let path = dir.join("watchdog");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let reader = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
    (path, reader)
}

fn written(device: &mut fs::File) -> String {
    let mut bytes = [0; 4096];
    let length = device.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[tokio::test]
async fn the_watchdog_is_kept_by_progress_alone_and_disarmed_by_a_regular_stop_alone() {
    let mut world = World::new().await;
    let (path, mut device) = device(world.agent.dir());
    supervise(&mut world, &["--hang-after", "8", "--watchdog", path.to_str().unwrap()]);
    assert_eq!(written(&mut device), "", "not before the first progress");
    world.start_premium().await;
    let agent = agent_of(world.agent.pid()).await;
    until("signs of life", PATIENCE, || written(&mut device).contains('1').then_some(())).await;
    signal(agent, libc::SIGSTOP);
    // What was sent before the stop may still be on its way.
    tokio::time::timeout(PATIENCE, world.agent.logged(0, "the hang", |line| line.contains("killing the command"))).await.unwrap();
    written(&mut device);
    let restarted = until("another process", PATIENCE, || children(world.agent.pid()).into_iter().find(|pid| *pid != agent)).await;
    let again = until("signs of life of the next", PATIENCE, || Some(written(&mut device)).filter(|bytes| !bytes.is_empty())).await;
    assert!(!again.contains('V'), "{again:?}");
    assert!(runs(restarted));
    world.agent.stop().await;
    let last = until("the last byte", PATIENCE, || Some(written(&mut device)).filter(|bytes| bytes.contains('V'))).await;
    assert!(last.ends_with('V'), "{last:?}");

    // Killed, it leaves the device armed.
    world.agent.start();
    let agent = agent_of(world.agent.pid()).await;
    until("signs of life", PATIENCE, || written(&mut device).contains('1').then_some(())).await;
    world.agent.kill().await;
    until("the agent's end", PATIENCE, || (!runs(agent)).then_some(())).await;
    assert!(!written(&mut device).contains('V'));
}

/// A hung agent's watchdog gets nothing for as long as it hangs.
#[tokio::test]
async fn a_hung_agent_lets_the_watchdog_starve() {
    let mut world = World::new().await;
    let (path, mut device) = device(world.agent.dir());
    // Never killed, so that only the device could help.
    world.agent.environment = vec![("CARE_LOG".into(), "info".into())];
    supervise(&mut world, &["--hang-after", "60", "--watchdog", path.to_str().unwrap()]);
    world.start_premium().await;
    let agent = agent_of(world.agent.pid()).await;
    until("signs of life", PATIENCE, || written(&mut device).contains('1').then_some(())).await;
    signal(agent, libc::SIGSTOP);
    until("the last of them", PATIENCE, || written(&mut device).is_empty().then_some(())).await;
    holds("nothing is written", Duration::from_secs(20), || Some(written(&mut device)).filter(|bytes| !bytes.is_empty())).await;
    signal(agent, libc::SIGCONT);
    until("signs of life again", PATIENCE, || written(&mut device).contains('1').then_some(())).await;
}

/// The supervisor stays resident beside the agent.
#[tokio::test]
async fn the_supervisor_is_one_thread_and_small() {
    let supervised = Supervised::start(&["--hang-after", "0", "--pidfile", "pid", "--status-file", "status"], "mark run; sleep 1000");
    supervised.marked(1).await;
    supervised.logged("started the command").await;
    let pid = supervised.process.pid();
    let field = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert_eq!(field("status", "Threads:"), 1);
    // Its own: the program's pages are shared with the agent.
    let own = field("smaps_rollup", "Anonymous:");
    eprintln!("supervise: anonymous {own} kB, PSS {} kB", field("smaps_rollup", "Pss:"));
    assert!(own < 2500, "{own} kB");
}
