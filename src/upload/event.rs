//! What uploads report to the control thread.

use care_engine::ClipFacts;

/// What happened. The callback runs on the uploads' thread and must not block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The cloud refused a grant with 402 or 403. The clip waits 15 minutes, or until [`super::Gate::retry_refused`].
    Refused {
        /// 402 or 403.
        status: u16,
        /// The clip.
        clip: ClipFacts,
    },
    /// The store has the clip.
    Stored {
        /// The clip.
        clip: ClipFacts,
        /// Its size.
        bytes: u64,
    },
    /// A grant breaks a rule (`docs/protocol.md#grants`); no byte was sent to its URL.
    GrantFault {
        /// Which rule, and what breaks it.
        why: String,
    },
    /// The spool is full; a clip was dropped to make room for a newer one.
    Dropped {
        /// The clip.
        clip: ClipFacts,
        /// Its size.
        bytes: u64,
    },
    /// The `Date` of an HTTPS answer was passed to the clock.
    Date,
    /// A vendor's uploader has connected, disconnected, or reported something ([`super::Gate::uploader_events`]).
    Uploader,
    /// The erasure of clips is durable on flash, or has failed: [`super::Gate::erasures_settled`] may have become
    /// true. Called on the flash thread.
    ErasuresSettled,
}
