//! The real binary with a fault at the first, second or third system call of a kind on its state: a kill, EIO,
//! ENOSPC. Whatever the call, an acknowledged document is on flash, the next start ends with the newest document in
//! force, and the ratchet never goes back.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    time::{Duration, Instant},
};

use care_protocol::{Mode, Reason};
use care_tests::{
    issuer::{Document, NOTHING},
    pki::signer,
    status::Status,
    strace::{CALLS, Strace},
    unix_now,
    wait::PATIENCE,
    world::{DEVICE, World},
};

/// A change that is persisted: the camera's document before it, and the new one.
struct Change {
    name: &'static str,
    before: Option<Document>,
    /// A keyset of version [`NEWER`] that comes with the document.
    keyset: Option<String>,
    after: Document,
    mode: Mode,
}

impl Change {
    /// Reported by the running agent: reports of the previous run may still arrive.
    fn is_done(&self, status: &Status) -> bool {
        let keyset = self.keyset.is_none() || status.keyset() == NEWER;
        keyset && status.seq() == self.after.position.seq && status.mode() == self.mode.as_str() && status.0["persisted"] == true
    }
}

const FAULTS: [&str; 3] = ["signal=KILL", "error=EIO", "error=ENOSPC"];

/// The version of a keyset newer than the camera's.
const NEWER: u64 = 8;
const CHANGES: usize = 12;

/// Twelve changes by document; two of them bring a newer keyset, which makes two records.
fn change(world: &mut World, number: usize) -> Change {
    let premium = world.premium();
    let premium = world.sign(&premium);
    let free = world.free();
    let free = world.sign(&free);
    let known = |document: &Document| Some(document.clone());
    let new_key = signer("2027-01");
    let newer = world.pki.keyset(NEWER).with(&new_key);
    let (name, before, draft, mode) = match number {
        0 => ("first document", None, world.premium(), Mode::Paid),
        1 => ("cancel", known(&premium), world.free(), Mode::Free),
        2 => ("upgrade", known(&free), world.premium(), Mode::Paid),
        3 => ("downgrade", known(&premium), world.plus(), Mode::Paid),
        4 => ("renewal", known(&premium), world.premium().because(Reason::Renewed), Mode::Paid),
        5 => ("unbinding", known(&premium), world.draft("free", NOTHING).because(Reason::Unbound), Mode::Unbound),
        6 => ("store cancel", known(&premium), world.premium().then_free(unix_now() + 90_000), Mode::Paid),
        7 => ("store cancel that is due", known(&premium), world.premium().then_free(unix_now() - 10), Mode::Free),
        8 => ("seat limit", known(&premium), world.free().because(Reason::SeatLimit), Mode::Free),
        9 => ("trial", known(&free), world.draft("trial", care_tests::issuer::PLUS).because(Reason::TrialStarted), Mode::Paid),
        10 => {
            world.position.epoch += 1;
            ("new owner", known(&premium), world.premium().of("acct-new"), Mode::Paid)
        }
        _ => ("rotation of the key", known(&premium), world.premium().because(Reason::Renewed), Mode::Paid),
    };
    let (keyset, key) = match number {
        9 => (Some(newer), &world.pki.key),
        // The old document stays in force although its key is revoked.
        11 => (Some(newer.revoking(world.pki.key.kid())), &new_key),
        _ => (None, &world.pki.key),
    };
    Change { name, before, keyset: keyset.map(|keyset| keyset.sign(&world.pki.root)), after: draft.signed(key), mode }
}

/// The state file before the change.
async fn prepared(world: &mut World, change: &Change) -> Option<Vec<u8>> {
    let _ = std::fs::remove_dir_all(&world.agent.config.state_dir);
    std::fs::create_dir(&world.agent.config.state_dir).unwrap();
    world.agent.under.clear();
    let before = change.before.as_ref()?;
    world.hand_out(before).await;
    world.agent.start();
    let seq = before.position.seq;
    world.agent.status("the document before", |status| status.seq() == seq && status.0["persisted"] == true).await;
    // Wait until the broker has nothing left to deliver from this phase.
    world.agent.stop().await;
    Some(std::fs::read(world.agent.state_file()).unwrap())
}

/// The calls that a run made, and whether its fault was injected.
struct Seen {
    calls: BTreeMap<&'static str, usize>,
    struck: bool,
}

/// One run, with a fault or without. `Err` names the guarantee that was broken.
async fn run(world: &mut World, change: &Change, state: Option<&[u8]>, inject: Option<&str>) -> Result<Seen, String> {
    let _ = std::fs::remove_dir_all(&world.agent.config.state_dir);
    std::fs::create_dir(&world.agent.config.state_dir).unwrap();
    if let Some(state) = state {
        std::fs::write(world.agent.state_file(), state).unwrap();
    }
    let line = world.broker.log().len();
    let strace = Strace::on(&world.agent.config.state_dir, inject);
    world.agent.under = strace.command();
    world.agent.start();
    let deadline = Instant::now() + PATIENCE;
    let ended = loop {
        if let Some(status) = world.agent.has_ended() {
            break Some(status);
        }
        if world.agent.try_status().await.is_some_and(|status| change.is_done(&status)) {
            break None;
        }
        assert!(Instant::now() < deadline, "neither the change nor the agent's exit: {inject:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    match ended {
        Some(status) if status.signal() == Some(libc::SIGKILL) || inject.is_some() => drop(world.agent.ended().await),
        Some(status) => return Err(format!("it ended by itself with {status}")),
        None => world.agent.kill().await,
    }
    let acknowledged = world.broker.has_puback_of(DEVICE, line, |topic| topic.ends_with("/entitlement"));
    if acknowledged && !world.agent.has_on_flash(&change.after.token) {
        return Err("acknowledged but not on flash".into());
    }
    let calls = CALLS.iter().map(|call| (*call, strace.most(call))).collect();
    let seen = Seen { calls, struck: ended.is_some() || strace.has_injected() };

    world.agent.under.clear();
    let line = world.agent.log().len();
    world.agent.start();
    let ratchet = world.agent.ratchet_at_start(line).await;
    if change.before.as_ref().is_some_and(|before| ratchet < before.position) {
        return Err(format!("the ratchet went back to {ratchet}"));
    }
    world.agent.status("the newest document after the fault", |status| change.is_done(status)).await;
    world.agent.stop().await;
    if world.agent.has_on_flash(&change.after.token) { Ok(seen) } else { Err("in force, and not on flash".into()) }
}

/// Injects every fault at every call of this change, or one of the faults at each call; returns the number injected.
async fn fault_everywhere(world: &mut World, number: usize, all: bool) -> usize {
    let change = change(world, number);
    let state = prepared(world, &change).await;
    if let Some(keyset) = &change.keyset {
        world.hand_out_keyset(keyset).await;
    }
    world.hand_out(&change.after).await;
    let seen = run(world, &change, state.as_deref(), None).await.unwrap_or_else(|why| panic!("{} without a fault: {why}", change.name));
    let mut struck = 0;
    for (call, count) in seen.calls {
        for when in 1..=count {
            for (place, fault) in FAULTS.iter().enumerate() {
                if all || (when + place) % FAULTS.len() == 0 {
                    let inject = format!("{call}:{fault}:when={when}");
                    let result = run(world, &change, state.as_deref(), Some(&inject)).await;
                    let seen = result.unwrap_or_else(|why| panic!("{}: {inject}: {why}", change.name));
                    struck += usize::from(seen.struck);
                }
            }
        }
    }
    println!("{}: {struck} faults", change.name);
    struck
}

#[tokio::test]
async fn no_fault_during_a_first_document_loses_an_acknowledged_change() {
    let mut world = World::new().await;
    assert!(fault_everywhere(&mut world, 0, false).await >= 8);
}

#[tokio::test]
async fn no_fault_during_a_cancel_loses_an_acknowledged_change() {
    let mut world = World::new().await;
    assert!(fault_everywhere(&mut world, 1, false).await >= 4);
}

#[tokio::test]
#[ignore = "minutes: make proof"]
async fn no_fault_during_twelve_changes_loses_an_acknowledged_change() {
    let mut runs = 0;
    for number in 0..CHANGES {
        let mut world = World::new().await;
        runs += fault_everywhere(&mut world, number, true).await;
    }
    println!("{runs} faults in all");
}

/// Checks that the harness detects a disk that acknowledges writes and does not write.
#[tokio::test]
async fn a_lying_disk_is_detected() {
    let mut world = World::new().await;
    let change = change(&mut world, 1);
    let state = prepared(&mut world, &change).await;
    world.hand_out(&change.after).await;
    let found = run(&mut world, &change, state.as_deref(), Some("pwrite64:retval=1:when=1+")).await;
    assert_eq!(found.err().as_deref(), Some("acknowledged but not on flash"));
}

#[tokio::test]
async fn a_factory_reset_killed_at_any_call_is_completed_by_the_next() {
    let mut world = World::new().await;
    let premium = world.start_premium().await;
    world.everything_acknowledged().await;
    world.agent.stop().await;
    let state = std::fs::read(world.agent.state_file()).unwrap();
    let mut runs = 0;
    for call in ["pwrite64", "fdatasync", "fsync"] {
        for when in 1.. {
            std::fs::write(world.agent.state_file(), &state).unwrap();
            let strace = Strace::on(&world.agent.config.state_dir, Some(&format!("{call}:signal=KILL:when={when}")));
            world.agent.under = strace.command();
            let output = world.agent.command(&["factory-reset"]).await;
            world.agent.under.clear();
            if output.status.success() {
                break;
            }
            assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{call} {when}: {}", String::from_utf8_lossy(&output.stderr));
            let again = world.agent.command(&["factory-reset"]).await;
            assert!(again.status.success(), "{call} {when}: {}", String::from_utf8_lossy(&again.stderr));
            assert!(!world.agent.has_on_flash(&premium.token), "{call} {when}: the document is still there");
            runs += 1;
        }
    }
    assert!(runs >= 4, "only {runs} calls to be killed at");
    // The ratchet has survived all of them.
    let gets = world.issuer.gets();
    world.agent.start();
    let get = world.issuer.get_since(gets).await;
    assert_eq!((get.epoch, get.seq), (premium.position.epoch, premium.position.seq));
    world.agent.status_within("unbound", Duration::from_secs(30), |status| status.mode() == "unbound").await;
}
