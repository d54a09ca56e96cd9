//! Secrets: keys, tokens and presigned URLs appear nowhere outside memory, the agent executes no program, and no
//! port is open that the configuration does not name.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use care_protocol::{Mode, Outcome, Policy};
use care_tests::{
    cloud::{GrantAnswer, grant},
    issuer::PREMIUM,
    process::{Lines, Process},
    wait::{PATIENCE, until},
    world::World,
};
use serde_json::json;

/// A secret's name, and a text that it must not appear in.
type Canary = (&'static str, String);

/// The secrets that appear in a text.
fn leaks(text: &str, canaries: &[Canary]) -> Vec<&'static str> {
    canaries.iter().filter(|(_, secret)| text.contains(secret)).map(|(name, _)| *name).collect()
}

/// The longest line of a PEM file's body, which no text contains by accident.
fn body_of_pem(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let body = text.lines().filter(|line| !line.starts_with("-----")).max_by_key(|line| line.len());
    body.unwrap().to_owned()
}

#[tokio::test]
async fn no_secret_appears_in_log_status_archive_or_command_line() {
    let mut world = World::with_camera().await;
    // At the most verbose log level.
    world.agent.environment = vec![("CARE_LOG".into(), "info,kasa_care_agent=trace".into())];
    let mut canaries: Vec<Canary> = vec![
        ("the device's key", body_of_pem(&world.agent.config.key)),
        ("a presigned URL's query", "CANARY-SIGNATURE".into()),
        ("a grant's header", "CANARY-HEADER".into()),
        ("a grant that cannot be read", "CANARY-UNREADABLE".into()),
    ];
    let presigned = |host: &str| {
        let mut grant = grant(&format!("{host}/clips/x/0?X-Amz-Signature=CANARY-SIGNATURE"));
        grant["headers"] = json!({ "x-amz-security-token": "CANARY-HEADER" });
        grant
    };
    let home = world.cloud.url();
    let mut unreadable = presigned(&home);
    unreadable["expires_at"] = "CANARY-UNREADABLE".into();
    let mut wrong_type = presigned(&home);
    wrong_type["headers"] = "CANARY-UNREADABLE".into();
    let mut bad_header = presigned(&home);
    bad_header["headers"] = json!({ "x-token": "CANARY-HEADER\n" });
    let bodies = [unreadable, wrong_type, bad_header, presigned("https://elsewhere.example"), presigned(&home), presigned(&home)];
    let count = bodies.len();
    {
        let mut cloud = world.cloud.lock();
        cloud.next_grants.extend(bodies.into_iter().map(GrantAnswer::Body));
        cloud.next_puts.extend([500, 503]);
        cloud.grants = GrantAnswer::Body(presigned(&home));
    }
    let premium = world.premium().limited(Policy { clip_max_s: 1, ..PREMIUM });
    let premium = world.start_with(premium, Mode::Paid).await;
    let signature = |token: &str| token.rsplit_once('.').unwrap().1.to_owned();
    canaries.push(("the entitlement's signature", signature(&premium.token)));
    let forged = world.free();
    let forged = forged.signed(&care_tests::pki::signer(care_tests::pki::KID));
    canaries.push(("a forged entitlement's signature", signature(&forged.token)));
    world.issuer.publish_entitlement(&forged.token).await;
    world.issuer.judged(&forged, Outcome::Rejected).await;
    let mut motion = world.agent.motion().await;
    let began = Instant::now();
    while world.cloud.grants_asked() <= count {
        assert!(began.elapsed() < Duration::from_secs(120), "{} of {count} grants asked for", world.cloud.grants_asked());
        motion.report_motion().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    world.cloud.wait_for("a clip", Duration::from_secs(60), |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let carried = world.cloud.lock().calls.iter().any(|call| call.path.contains("CANARY-SIGNATURE"));
    assert!(carried, "the canary was not in use");

    let proc = PathBuf::from(format!("/proc/{}", world.agent.pid()));
    let read = |name: &str| String::from_utf8_lossy(&fs::read(proc.join(name)).unwrap()).into_owned();
    let page = world.agent.status("anything", |_| true).await.text_of_all();
    let mut places = vec![("cmdline", read("cmdline")), ("environ", read("environ")), ("status.json", page)];
    for command in [&["status"][..], &["status", "--json"], &["check-config"]] {
        let output = world.agent.command(command).await;
        places.push((
            "a command's output",
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
        ));
    }
    let archive = world.agent.dir().join("support.json");
    let output = world.agent.command(&["support", "--output", &archive.display().to_string()]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    places.push(("the support archive", fs::read_to_string(&archive).unwrap()));
    places.push(("the log", world.agent.log().all().join("\n")));
    for (place, text) in &places {
        assert!(!text.is_empty(), "nothing to search in {place}");
        let found = leaks(text, &canaries);
        assert!(found.is_empty(), "{found:?} in {place}");
    }
}

/// Tests the check itself.
#[test]
fn a_leaked_secret_is_detected() {
    let canaries = vec![("a query", "CANARY".to_owned()), ("a key", "MIGH".to_owned())];
    assert_eq!(leaks("PUT https://clips.example/k?X-Amz-Signature=CANARY answered 500", &canaries), ["a query"]);
    assert!(leaks("PUT https://clips.example/k answered 500", &canaries).is_empty());
}

#[tokio::test]
async fn files_that_the_agent_writes_are_readable_by_its_user_only() {
    let mut world = World::new().await;
    world.start_premium().await;
    for entry in fs::read_dir(&world.agent.config.state_dir).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", entry.path().display());
    }
}

/// The sockets on which a process listens: `tcp 127.0.0.1:port` in the kernel's notation, or a unix socket's path.
fn listeners(pid: i32) -> BTreeSet<String> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let inodes: BTreeSet<String> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = BTreeSet::new();
    for (table, listening) in [("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")] {
        for line in fs::read_to_string(proc.join("net").join(table)).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[3] == listening && inodes.contains(fields[9]) {
                found.insert(format!("{table} {}", fields[1]));
            }
        }
    }
    for line in fs::read_to_string(proc.join("net/unix")).unwrap().lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // __SO_ACCEPTCON
        if fields[3] == "00010000" && inodes.contains(fields[6]) {
            found.insert(fields.get(7).copied().unwrap_or("unnamed").to_owned());
        }
    }
    found
}

#[tokio::test]
async fn the_agent_listens_only_for_status_and_motion_and_executes_nothing() {
    let mut world = World::with_camera().await;
    world.start_premium().await;
    world.agent.motion().await;
    // GStreamer's plugin scan has finished.
    let trace = world.agent.dir().join("strace");
    let log = Lines::default();
    let mut strace = tokio::process::Command::new("strace");
    strace.args(["-f", "-p", &world.agent.pid().to_string(), "-e", "trace=execve,execveat,fork,vfork,connect", "-o"]).arg(&trace);
    let mut strace = Process::spawn("strace", strace, log.clone());
    until("strace", PATIENCE, || log.find(0, |line| line.contains("attached"))).await;
    world.move_until("a clip", |seen| seen.puts.iter().find(|put| put.complete == Some(true)).cloned()).await;
    let cancel = world.free();
    world.switch(cancel, Mode::Free).await;
    world.agent.signal(libc::SIGHUP);
    let premium = world.premium();
    world.switch(premium, Mode::Paid).await;
    let found = listeners(world.agent.pid());
    strace.terminate();
    strace.exited(PATIENCE).await;
    let ours = [world.agent.config.status.clone(), world.agent.dir().join("motion.sock")].map(|path| path.display().to_string());
    assert_eq!(found, ours.into());
    let calls = fs::read_to_string(&trace).unwrap();
    assert!(calls.contains("connect("), "strace saw nothing: {calls}");
    let executed: Vec<_> = calls.lines().filter(|line| line.contains("exec") || line.contains("fork")).collect();
    assert!(executed.is_empty(), "{executed:?}");
}

/// Tests the check itself.
#[test]
fn a_listening_port_is_detected() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("{:04X}", listener.local_addr().unwrap().port());
    let found = listeners(std::process::id().try_into().unwrap());
    assert!(found.iter().any(|at| at.starts_with("tcp ") && at.ends_with(&port)), "{found:?}");
}

/// Calls that execute a program.
fn executes(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["process::Command", "Command::new", "libc::system", "libc::exec", "posix_spawn", "libc::fork"].iter().any(|way| code.contains(way))
}

#[test]
fn no_source_line_of_the_agent_executes_a_program() {
    // `supervise` starts what its command line names, which is its work; the agent itself never calls it.
    const SUPERVISED: &str = "src/supervision/command.rs";
    fn look(dir: &Path, found: &mut Vec<String>, seen: &mut usize) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "tests" {
                look(&path, found, seen);
            } else if path.is_file() && name != "tests.rs" && !path.ends_with(SUPERVISED) {
                *seen += 1;
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
                found.extend(code.lines().filter(|line| executes(line)).map(|line| format!("{}: {line}", path.display())));
            }
        }
    }
    let (mut found, mut seen) = (Vec::new(), 0);
    for dir in ["src", "protocol/src"] {
        look(&Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(dir), &mut found, &mut seen);
    }
    assert!(seen > 50 && found.is_empty(), "in {seen} files: {found:?}");
    assert!(executes("    let out = std::process::Command::new(\"sh\").output();"), "the test of the test");
}
