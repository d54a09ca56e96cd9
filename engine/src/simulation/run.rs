//! Plays histories from seeds on all cores, and shrinks one that fails until no step can be left out.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use fastrand::Rng;
use portable_atomic::AtomicU64;

use super::{issuer::Issuer, signature_cache, step::Step, world::World};

/// Number of histories that a thread takes at a time.
const BATCH: u64 = 50;

/// A history that violated an invariant.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) number: u64,
    pub(super) why: String,
    pub(super) steps: Vec<Step>,
}

/// The statistics of a run, and its first failure.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) histories: u64,
    pub(super) events: u64,
    pub(super) failure: Option<Failure>,
}

/// The history of a seed, with cuts that complete at once.
pub(super) fn undelayed(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Rng::with_seed(seed);
    (0..steps).map(|_| Step::random(&mut random)).collect()
}

/// The history of a seed, with cuts that take time.
pub(super) fn history(seed: u64, steps: usize) -> Vec<Step> {
    let mut random = Rng::with_seed(!seed);
    let with_cuts = |step| [(random.u8(0..6) == 0).then(|| Step::random_cuts(&mut random)), Some(step)];
    undelayed(seed, steps).into_iter().flat_map(with_cuts).flatten().collect()
}

/// Plays the histories with these numbers until one fails; `make` creates each. Reports the failure with the lowest
/// number, so that the result does not depend on the number of cores.
pub(super) fn play_all(numbers: std::ops::Range<u64>, make: impl Fn(u64) -> Vec<Step> + Sync) -> Outcome {
    let next = AtomicU64::new(numbers.start);
    let failed = AtomicBool::new(false);
    let work = || {
        let issuer = Rc::new(Issuer::new());
        signature_cache::turn_on();
        let mut outcome = Outcome::default();
        while !failed.load(Ordering::Relaxed) {
            let from = next.fetch_add(BATCH, Ordering::Relaxed);
            for number in from..numbers.end.min(from + BATCH) {
                let steps = make(number);
                outcome.histories += 1;
                match play(&issuer, &steps, false) {
                    Ok(events) => outcome.events += events,
                    Err(why) => {
                        failed.store(true, Ordering::Relaxed);
                        outcome.failure = Some(Failure { number, why, steps });
                        return outcome;
                    }
                }
            }
            if from >= numbers.end {
                break;
            }
        }
        outcome
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let outcomes = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("failures are caught")).collect::<Vec<_>>()
    });
    outcomes.into_iter().fold(Outcome::default(), |sum, one| Outcome {
        histories: sum.histories + one.histories,
        events: sum.events + one.events,
        failure: [sum.failure, one.failure].into_iter().flatten().min_by_key(|failure| failure.number),
    })
}

/// Plays one history. Returns its number of events, or the invariant that it violated.
pub(super) fn play(issuer: &Rc<Issuer>, steps: &[Step], verbose: bool) -> Result<u64, String> {
    quietly(|| {
        let mut world = World::new(issuer.clone(), verbose);
        for step in steps {
            world.step(*step);
        }
        world.end_well();
        world.events()
    })
}

/// Removes every step without which the history still fails.
pub(super) fn shrink(steps: &[Step]) -> Vec<Step> {
    let issuer = Rc::new(Issuer::new());
    let mut steps = steps.to_vec();
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut shorter = false;
        while at < steps.len() {
            let mut without = steps.clone();
            without.drain(at..(at + size).min(steps.len()));
            if play(&issuer, &without, false).is_err() {
                steps = without;
                shorter = true;
            } else {
                at += size;
            }
        }
        if !shorter || size > 1 {
            size /= 2;
        }
    }
    // A step and the step that undoes it can only be removed together.
    while let Some(shorter) = without_two(&issuer, &steps) {
        steps = shorter;
    }
    steps
}

fn without_two(issuer: &Rc<Issuer>, steps: &[Step]) -> Option<Vec<Step>> {
    let pairs = (0..steps.len()).flat_map(|second| (0..second).map(move |first| [first, second]));
    let without = pairs.map(|pair| {
        let kept = steps.iter().enumerate().filter(|(place, _)| !pair.contains(place));
        kept.map(|(_, step)| *step).collect::<Vec<_>>()
    });
    without.into_iter().find(|shorter| play(issuer, shorter, false).is_err())
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static SAID: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `history`; catches a panic and returns its message without printing it.
fn quietly<T>(history: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if QUIET.get() {
                let place = info.location().map_or_else(String::new, |place| format!(" ({}:{})", place.file(), place.line()));
                SAID.replace(said(info.payload()) + &place);
            } else {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(history));
    QUIET.set(false);
    result.map_err(|_| SAID.take())
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}
