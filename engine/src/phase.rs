//! The operations that the engine waits for: a write to flash, a cut, both or neither. One type lists the
//! combinations; the simulation reaches each. Documents that wait for a key or a confirmation are not here, because
//! they change nothing yet.

use super::{Cutting, Staged, Unwritten};

/// Whether a cut is under way, and which documents are being written to flash.
pub(super) enum Phase {
    /// The engine handles each event at once.
    Deciding(Writing),
    /// A cut is under way: events wait. Documents that were being written when it began still are.
    Cutting(Cutting, Writing),
}

/// The documents being written to flash.
#[derive(Default)]
#[allow(clippy::large_enum_variant, reason = "an engine has one, and it never moves")]
pub(super) enum Writing {
    /// None: the document in force is on flash.
    #[default]
    Settled,
    /// A document that grants more. It opens nothing before it is on flash.
    Staged(Staged),
    /// A restriction, in force already.
    Unwritten(Unwritten),
    /// One of each: a document that grants more arrived before the restriction was on flash, or the `next` of the
    /// document in force was a restriction while a higher document was being written.
    StagedAndUnwritten(Staged, Unwritten),
}

impl Phase {
    pub(super) fn is_cutting(&self) -> bool {
        matches!(self, Self::Cutting(..))
    }

    pub(super) fn begin_cut(&mut self, cutting: Cutting) {
        let writing = std::mem::take(self.writing_mut());
        *self = Self::Cutting(cutting, writing);
    }

    /// The cut under way is done.
    pub(super) fn end_cut(&mut self) -> Option<Cutting> {
        match std::mem::replace(self, Self::Deciding(Writing::Settled)) {
            Self::Cutting(cutting, writing) => {
                *self = Self::Deciding(writing);
                Some(cutting)
            }
            deciding => {
                *self = deciding;
                None
            }
        }
    }

    pub(super) fn staged(&self) -> Option<&Staged> {
        match self.writing() {
            Writing::Staged(staged) | Writing::StagedAndUnwritten(staged, _) => Some(staged),
            Writing::Settled | Writing::Unwritten(_) => None,
        }
    }

    pub(super) fn staged_mut(&mut self) -> Option<&mut Staged> {
        match self.writing_mut() {
            Writing::Staged(staged) | Writing::StagedAndUnwritten(staged, _) => Some(staged),
            Writing::Settled | Writing::Unwritten(_) => None,
        }
    }

    pub(super) fn unwritten(&self) -> Option<&Unwritten> {
        match self.writing() {
            Writing::Unwritten(unwritten) | Writing::StagedAndUnwritten(_, unwritten) => Some(unwritten),
            Writing::Settled | Writing::Staged(_) => None,
        }
    }

    pub(super) fn unwritten_mut(&mut self) -> Option<&mut Unwritten> {
        match self.writing_mut() {
            Writing::Unwritten(unwritten) | Writing::StagedAndUnwritten(_, unwritten) => Some(unwritten),
            Writing::Settled | Writing::Staged(_) => None,
        }
    }

    /// A document that grants more is being written to flash, in place of the previous one.
    pub(super) fn stage(&mut self, staged: Staged) {
        let (_, unwritten) = self.take();
        self.put(Some(staged), unwritten);
    }

    /// A restriction is being written to flash, in place of the previous one.
    pub(super) fn write(&mut self, unwritten: Unwritten) {
        let (staged, _) = self.take();
        self.put(staged, Some(unwritten));
    }

    pub(super) fn take_staged_if(&mut self, wanted: impl FnOnce(&Staged) -> bool) -> Option<Staged> {
        if !self.staged().is_some_and(wanted) {
            return None;
        }
        let (staged, unwritten) = self.take();
        self.put(None, unwritten);
        staged
    }

    pub(super) fn take_unwritten_if(&mut self, wanted: impl FnOnce(&Unwritten) -> bool) -> Option<Unwritten> {
        if !self.unwritten().is_some_and(wanted) {
            return None;
        }
        let (staged, unwritten) = self.take();
        self.put(staged, None);
        unwritten
    }

    fn writing(&self) -> &Writing {
        match self {
            Self::Deciding(writing) | Self::Cutting(_, writing) => writing,
        }
    }

    fn writing_mut(&mut self) -> &mut Writing {
        match self {
            Self::Deciding(writing) | Self::Cutting(_, writing) => writing,
        }
    }

    fn take(&mut self) -> (Option<Staged>, Option<Unwritten>) {
        match std::mem::take(self.writing_mut()) {
            Writing::Settled => (None, None),
            Writing::Staged(staged) => (Some(staged), None),
            Writing::Unwritten(unwritten) => (None, Some(unwritten)),
            Writing::StagedAndUnwritten(staged, unwritten) => (Some(staged), Some(unwritten)),
        }
    }

    fn put(&mut self, staged: Option<Staged>, unwritten: Option<Unwritten>) {
        *self.writing_mut() = match (staged, unwritten) {
            (None, None) => Writing::Settled,
            (Some(staged), None) => Writing::Staged(staged),
            (None, Some(unwritten)) => Writing::Unwritten(unwritten),
            (Some(staged), Some(unwritten)) => Writing::StagedAndUnwritten(staged, unwritten),
        };
    }
}
