//! The flash thread: carries out the spool's chores one at a time and reports each result to the spool. Erasures run
//! before writes.

use care_engine::durable::filesystem::Filesystem;

use super::{Files, Put, flash_fault};
use crate::upload::{
    Event,
    gate::Gate,
    spool::{Chore, Completion, Diagnosis, Piece, Spill, Spilled},
};

/// Runs until the spool is stopped and no work is left.
pub(in crate::upload) fn run<F: Filesystem>(mut files: Files<F>, gate: &Gate, tell: impl Fn(Event)) {
    while let Some(chore) = gate.spool.wait_for_chore(&gate.clock) {
        carry_out(chore, &mut files, gate, &tell);
        // The uploads' thread raises the conditions.
        gate.spool.wake.notify_one();
    }
}

/// Carries out one chore.
pub(in crate::upload) fn carry_out<F: Filesystem>(chore: Chore, files: &mut Files<F>, gate: &Gate, tell: &impl Fn(Event)) {
    files.count(gate.spool.lock().written());
    match chore {
        Chore::Erase(ids) => {
            let count = ids.len();
            let erasure_recorded = files.record_erased(ids);
            let fault = erasure_recorded.as_ref().err().map(|why| flash_fault(&format!("{count} erased clips may still be on flash"), why));
            gate.spool.lock().erasure_recorded(fault, gate.clock.now());
            tell(Event::ErasuresSettled);
            if erasure_recorded.is_ok() {
                let fault = files.unlink().err().map(|why| flash_fault("erased clips still take room on flash", &why));
                gate.spool.lock().unlinked(fault, gate.clock.now());
            }
        }
        Chore::Spill(Spill { id, facts, fragments }) => {
            let put = files.put(id, &facts, &fragments, || gate.spool.lock().is_wanted(id));
            let (spilled, why) = outcome(put, "clips cannot be put on flash, and wait in memory");
            tracing::debug!(clip = %id, bytes = facts.bytes, outcome = ?spilled, "clip to flash");
            let let_go = gate.spool.lock().spilled(id, spilled, why, gate.clock.now());
            // Outside the lock.
            drop(let_go);
        }
        Chore::Grow(Piece { id, offset, fragment }) => {
            let written =
                files.grow(id, offset, &fragment).map_err(|why| flash_fault("a clip longer than memory cannot be put on flash", &why));
            let let_go = gate.spool.lock().piece_written(id, written, gate.clock.now());
            // Outside the lock.
            drop((let_go, fragment));
        }
        Chore::Complete(Completion { id, facts }) => {
            let put = files.complete(id, &facts, || gate.spool.lock().is_wanted(id));
            let (spilled, why) = outcome(put, "a clip longer than memory would not survive a power cut");
            tracing::debug!(clip = %id, bytes = facts.bytes, outcome = ?spilled, "clip that grew on flash");
            gate.spool.lock().completed(id, spilled, why, gate.clock.now());
        }
    }
}

fn outcome(put: Put, fault: &str) -> (Spilled, Option<Diagnosis>) {
    match put {
        Put::Durable => (Spilled::Durable, None),
        Put::Unwanted => (Spilled::Interrupted, None),
        Put::Failed(why) => (Spilled::Failed, Some(flash_fault(fault, &why))),
    }
}
