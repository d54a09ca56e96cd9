//! The flash thread: carries out the spool's chores one at a time and reports each result to the spool. Erasures run
//! before writes.

use care_engine::durable::filesystem::Filesystem;

use super::{Files, Put, flash_fault};
use crate::{
    hex::hex,
    upload::{
        Event,
        gate::Gate,
        spool::{Chore, Completion, Diagnosis, Piece, Reading, Spill, Spilled},
    },
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
        Chore::Complete(Completion { id, mut facts, offered }) => {
            let wanted = || match offered {
                Some(_) => gate.spool.lock().is_read(id, gate.clock.now()),
                None => gate.spool.lock().is_wanted(id),
            };
            let put = files.complete(id, &mut facts, offered.as_ref(), wanted);
            let (spilled, why) = outcome(put, "a clip longer than memory would not survive a power cut");
            tracing::debug!(clip = %id, bytes = facts.bytes, outcome = ?spilled, "clip that grew on flash");
            let let_go = gate.spool.lock().completed(id, spilled, &facts, why, gate.clock.now());
            // Outside the lock.
            drop((let_go, offered));
        }
        Chore::Read(Reading { id, head, offered }) => {
            let digests = match files.read_back(id, &head, &offered, || gate.spool.lock().is_read(id, gate.clock.now())) {
                Ok(None) => return,
                Ok(Some([mut whole, stays])) => {
                    // Where nothing of it is on flash, the first fragment begins with what is replaced.
                    let mut replaced = if head.bytes == 0 { offered.replaces } else { 0 };
                    for fragment in (0..).map_while(|n| gate.spool.lock().waiting_fragment(id, n)) {
                        whole.update(fragment.get(std::mem::take(&mut replaced)..).unwrap_or_default());
                    }
                    Some([whole, stays].map(|digest| hex(digest.finish().as_ref())))
                }
                Err(why) => {
                    tracing::warn!(clip = %id, %why, "a clip that leaves from flash and memory keeps its fragments");
                    None
                }
            };
            let let_go = gate.spool.lock().headed(id, digests);
            // Outside the lock.
            drop((let_go, offered));
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
