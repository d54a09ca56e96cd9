//! Makes glibc return large blocks to the system. Each time a mapped block is freed, glibc raises the size from which
//! on it maps blocks; smaller ones it keeps, in up to eight arenas a core. After the first large clip or decoder the
//! agent would hold that much for ever. Called once by `cli`, before the service starts.
#![allow(unsafe_code)]

/// Blocks from this size on are mapped, and return to the system when they are freed. glibc's own initial value.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: libc::c_int = 128 * 1024;
/// Arenas that the threads share: frames are allocated on one thread and freed on another.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;

/// Makes large blocks return to the system when they are freed. Call it once, before any thread starts.
pub fn return_large_blocks() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: mallopt takes two integers and changes only the allocator's own parameters; no other thread runs yet.
        let set = unsafe { [libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM), libc::mallopt(libc::M_ARENA_MAX, ARENAS)] };
        if set != [1, 1] {
            tracing::warn!("the allocator refuses its settings; the agent may hold more memory than it needs");
        }
    }
}
