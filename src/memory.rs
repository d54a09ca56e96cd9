//! What the allocator gives back. glibc raises the size from which it maps memory anew each time such a block is freed, what it
//! no longer maps it keeps, and it keeps it apart for up to eight threads a core: after the first large clip or decoder the
//! agent would hold on to that much for ever.
#![allow(unsafe_code)]

/// Blocks from this size on are mapped, and go back to the system when they are freed: glibc's own first guess.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 * 1024;
/// The heaps that the threads share: frames come on one thread and go on another.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Makes large blocks go back to the system when they are freed. To be called once, before any thread is started.
pub fn give_back_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two integers and changes only the allocator's own parameters; no other thread runs yet.
        let set = unsafe { [libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM), libc::mallopt(libc::M_ARENA_MAX, HEAPS)] };
        if set != [1, 1] {
            tracing::warn!("the allocator keeps its own ways; the agent may hold more memory than it needs");
        }
    }
}
