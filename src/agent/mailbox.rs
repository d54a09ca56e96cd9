//! The queue from the other threads to the control thread. Posting never blocks, and the queue is bounded by
//! construction: an event replaces a waiting one of the same kind wherever the newer one says everything.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use care_engine::{Fetched, Resource};
use tokio::sync::Notify;

use crate::{media::Media, store::Written, upload};

/// An event from another thread or task.
pub(super) enum WorkerEvent {
    /// From the store thread.
    Store(Written),
    /// From the upload thread or the flash thread.
    Upload(upload::Event),
    /// The timeline has nothing of the previous owner on flash any more, or could not erase it.
    TimelineErased,
    /// The answer to a fetch over HTTPS.
    Fetched(Resource, Fetched),
    /// The media pipeline has started. This happens once.
    Media(Box<Media>),
}

impl WorkerEvent {
    /// Whether `self`, which comes later, says everything that `earlier` does.
    fn replaces(&self, earlier: &Self) -> bool {
        use upload::Event;
        match (self, earlier) {
            // A ticket covers all tickets before it.
            (Self::Store(Written::Done { .. }), Self::Store(Written::Done { .. }))
            | (Self::Store(Written::Failed { .. }), Self::Store(Written::Failed { .. })) => true,
            // The control thread uses no field of these but the newest status of a refusal.
            (Self::Upload(later), Self::Upload(earlier)) => match later {
                Event::Refused { .. } => matches!(earlier, Event::Refused { .. }),
                Event::Stored { .. } => matches!(earlier, Event::Stored { .. }),
                Event::GrantFault { .. } => matches!(earlier, Event::GrantFault { .. }),
                Event::Dropped { .. } => matches!(earlier, Event::Dropped { .. }),
                Event::Date => matches!(earlier, Event::Date),
                Event::Uploader => matches!(earlier, Event::Uploader),
                Event::ErasuresSettled => matches!(earlier, Event::ErasuresSettled),
            },
            (Self::TimelineErased, Self::TimelineErased) => true,
            // Answers are not merged. There are few: the engine asks a few times a minute, and each fetch ends within
            // ten seconds.
            _ => false,
        }
    }
}

/// Posts events to the control thread. Clones post to the same queue.
#[derive(Clone)]
pub(super) struct Sender(Arc<Queue>);

/// The control thread's end. Once it is dropped, events are dropped too.
pub(super) struct Mailbox(Arc<Queue>);

#[derive(Default)]
struct Queue {
    events: Mutex<VecDeque<WorkerEvent>>,
    posted: Notify,
    closed: AtomicBool,
}

/// An empty queue.
pub(super) fn mailbox() -> (Sender, Mailbox) {
    let queue = Arc::new(Queue::default());
    (Sender(queue.clone()), Mailbox(queue))
}

impl Sender {
    /// Posts an event. If the agent has stopped, the event is dropped.
    pub(super) fn post(&self, event: WorkerEvent) {
        let mut events = self.0.lock();
        if self.is_closed() {
            return;
        }
        events.retain(|earlier| !event.replaces(earlier));
        events.push_back(event);
        drop(events);
        self.0.posted.notify_one();
    }

    /// Whether the agent has stopped.
    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }
}

impl Mailbox {
    /// The next event. Cancel safe: an event is taken only when it is returned.
    pub(super) async fn next(&mut self) -> WorkerEvent {
        loop {
            // Created first, so that a post between the two is not missed.
            let posted = self.0.posted.notified();
            if let Some(event) = self.0.lock().pop_front() {
                return event;
            }
            posted.await;
        }
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let mut events = self.0.lock();
        self.0.closed.store(true, Ordering::Relaxed);
        let dropped = std::mem::take(&mut *events);
        drop(events);
        // A media pipeline takes a moment to stop, so not under the lock.
        drop(dropped);
    }
}

impl Queue {
    /// Every change leaves the queue consistent, so the lock's poison flag can be ignored.
    fn lock(&self) -> MutexGuard<'_, VecDeque<WorkerEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    async fn drain(mailbox: &mut Mailbox) -> Vec<WorkerEvent> {
        let mut events = Vec::new();
        while let Ok(event) = timeout(Duration::from_millis(1), mailbox.next()).await {
            events.push(event);
        }
        events
    }

    #[tokio::test]
    async fn a_flood_of_one_kind_waits_as_one_event_in_order() {
        let (sender, mut mailbox) = mailbox();
        for ticket in 0..1000 {
            sender.post(WorkerEvent::Upload(upload::Event::Uploader));
            sender.post(WorkerEvent::Store(Written::Done { ticket }));
        }
        sender.post(WorkerEvent::Store(Written::Failed { ticket: 1000, why: "full".into() }));
        let events = drain(&mut mailbox).await;
        assert!(matches!(
            events[..],
            [
                WorkerEvent::Upload(upload::Event::Uploader),
                WorkerEvent::Store(Written::Done { ticket: 999 }),
                WorkerEvent::Store(Written::Failed { ticket: 1000, .. })
            ]
        ));
    }

    #[tokio::test]
    async fn every_answer_to_a_fetch_is_delivered() {
        let (sender, mut mailbox) = mailbox();
        sender.post(WorkerEvent::Fetched(Resource::Entitlement, Fetched::Missing));
        sender.post(WorkerEvent::Fetched(Resource::Entitlement, Fetched::Failed));
        assert_eq!(drain(&mut mailbox).await.len(), 2);
    }

    #[tokio::test]
    async fn a_waiting_receiver_is_woken_by_another_thread() {
        let (sender, mut mailbox) = mailbox();
        let poster = std::thread::spawn(move || sender.post(WorkerEvent::Upload(upload::Event::Date)));
        let event = timeout(Duration::from_secs(10), mailbox.next()).await;
        assert!(matches!(event, Ok(WorkerEvent::Upload(upload::Event::Date))));
        poster.join().unwrap();
    }

    #[tokio::test]
    async fn nothing_is_queued_once_the_agent_has_stopped() {
        let (sender, mailbox) = mailbox();
        sender.post(WorkerEvent::Upload(upload::Event::Date));
        drop(mailbox);
        assert!(sender.is_closed());
        sender.post(WorkerEvent::Upload(upload::Event::Date));
        assert!(sender.0.lock().is_empty());
    }
}
