//! Bugs that the simulation has to find, each in the place where somebody could make it: a check that cannot fail proves
//! nothing. Outside tests `planted!` is the literal `false`, and nothing here is compiled.

#[cfg(not(test))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

#[cfg(test)]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_planted($crate::planted::Bug::$bug)
    };
}

#[cfg(test)]
pub(crate) use switch::{Bug, is_planted, plant};

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    macro_rules! bugs {
        ($($(#[doc = $what:literal])+ $bug:ident),+ $(,)?) => {
            /// A bug that can be planted.
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub(crate) enum Bug { $($(#[doc = $what])+ $bug),+ }

            impl Bug {
                /// Every one, in order.
                pub(crate) const ALL: &'static [Self] = &[$(Self::$bug),+];

                /// What is wrong.
                pub(crate) fn what(self) -> &'static str {
                    match self { $(Self::$bug => concat!($($what),+).trim_ascii()),+ }
                }
            }
        };
    }

    bugs! {
        /// PUBACK does not wait for the flash
        AcknowledgedBeforeFlash,
        /// `>=` for `>`: another document of the same epoch and seq is taken
        EqualIsHigher,
        /// a cancel is written before it cuts
        WrittenBeforeCut,
        /// an upgrade opens before it is on flash
        OpenedBeforeFlash,
        /// an upgrade that could not be written opens all the same
        OpenedAfterFailedWrite,
        /// what a downgrade gives opens although it could not be written
        FailedDowngradeGives,
        /// a cut erases nothing
        NothingErased,
        /// a new owner's better plan leaves the old owner's clips
        OldOwnersClipsStay,
        /// the end of a lease erases
        LeaseErases,
        /// a restart begins the lease anew
        LeaseBeginsAnewAtBoot,
        /// a duplicate undoes a `next` that was performed
        DuplicateUndoesNext,
        /// a duplicate is written
        DuplicateIsWritten,
        /// a clock that nobody has confirmed keeps paid media open while a `next` is pending
        PendingNextTrustsAnyClock,
        /// a redelivery (DUP = 1) confirms
        RedeliveryConfirms,
        /// an answer to any nonce confirms
        AnyNonceConfirms,
        /// a 404 opens at once, without the 15 s in which nobody may speak
        MissingOpensAtOnce,
        /// the loss of the connection does not end its confirmation
        LossKeepsOpen,
        /// a refused grant holds nothing up
        RefusalIgnored,
        /// a reset that was applied is applied again
        ResetAppliesAgain,
        /// the account may change within an epoch
        AccountMayChange,
        /// a camera whose state is lost believes the broker
        LostStateBelievesBroker,
        /// a keyset with a lower version is taken
        OlderKeysetTaken,
        /// trusted time follows a system clock that jumps ahead
        SystemClockTrusted,
        /// trusted time goes back with the system clock
        TimeGoesBack,
        /// a single `Date` far away is followed
        OneDateSuffices,
        /// the second answer counts at once
        SecondAnswerCountsAtOnce,
        /// a `Date` raises trusted time beyond the end of the server's certificate
        DateRaisesBeyondBound,
        /// a `Date` lowers trusted time below the build time
        LoweredBelowBuildTime,
        /// a `Date` confirms only where the system clock agrees
        SystemClockMustAgree,
        /// a document issued after the end of the server's certificate is taken
        OutOfRangeTaken,
        /// a document that is rejected as out of range still moves trusted time
        OutOfRangeMovesTime,
        /// trusted time that was lowered is not what is written
        LoweredTimeNotPersisted,
        /// the record is not synced
        RecordNotSynced,
        /// the directory is not synced
        DirectoryNotSynced,
        /// a record goes over the newest one
        NewestOverwritten,
        /// a descriptor is used again after its sync failed
        FailedDescriptorUsedAgain,
        /// the generation is not compared in the retry sleep
        GenerationNotCompared,
        /// an event is judged before a cut has ended
        JudgedDuringCut,
        /// what follows a cut is carried out before it has ended
        CarriedOutDuringCut,
        /// whatever comes during a cut is kept, without a bound
        InboxUnbounded,
        /// a document that waited for its key confirms a connection that was made after it came
        HeldConfirmsLaterConnection,
        /// a `next` that gives opens before it is on flash
        NextOpensBeforeFlash,
        /// a flash whose sync never returns holds up for ever what both plans allow
        HungFlashHoldsForEver,
        /// a connection on which nothing comes is trusted
        DeafConnectionTrusted,
        /// a question over HTTPS that failed is not asked again soon
        LostPollNotRepeated,
        /// a camera that was reset takes a renewal of the old binding
        ResetCameraTakesRenewal,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug, or none, on this thread.
    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
