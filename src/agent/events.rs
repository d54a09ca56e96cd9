//! Turns what the link and the other threads report into engine events. What the engine does not need is handled here.

use std::time::Instant;

use care_engine::{Delivery, Event, Fetched, Message, Ports, Resource};
use care_protocol::Topic;

use super::{Agent, mailbox::WorkerEvent};
use crate::{link, store::Written, upload};

impl Agent {
    /// Handles an event of the MQTT link.
    pub(super) fn handle_link_event(&mut self, event: link::Event) {
        let event = match event {
            link::Event::Connected { connection, session_present, valid_until } => {
                self.broker_valid_until = valid_until;
                self.monitor.server_certificate("the broker's", self.config.broker.endpoint.authority(), valid_until);
                tracing::info!(connection = connection.0, session_present, "connected");
                Event::Connected(connection)
            }
            link::Event::SubscribeSent { connection } => Event::SubscribeSent(connection),
            link::Event::Subscribed { connection } => Event::Subscribed(connection),
            link::Event::Publish { connection, topic, payload, retain, dup, at, ack } => {
                let received = self.clock.now().boot.saturating_sub(at.elapsed());
                let delivery = ack.map(|ack| {
                    self.deliveries += 1;
                    let delivery = Delivery(self.deliveries);
                    self.unacknowledged.insert(delivery, ack);
                    delivery
                });
                if matches!(topic, Topic::Entitlement | Topic::Answer) {
                    self.stopwatch.document(at, delivery);
                }
                Event::Message(Message {
                    connection,
                    topic,
                    payload,
                    retain,
                    dup,
                    received,
                    delivery,
                    valid_until: self.broker_valid_until,
                })
            }
            link::Event::Published { ticket } => {
                if let Some(stages) = self.stopwatch.reported(ticket) {
                    self.status.timeline().time(stages);
                    let took = self.stopwatch.report_of_document();
                    self.status.observe(|observed| took.into_iter().for_each(|took| observed.reported(took)));
                }
                Event::Published { ticket }
            }
            link::Event::Lost { connection, .. } => {
                if connection.is_some() {
                    self.unacknowledged.clear();
                }
                Event::Lost(connection)
            }
            // The link has already raised a condition.
            link::Event::CloneSuspected => return,
            link::Event::SubscribeDeferred { for_ } => {
                tracing::info!(seconds = for_.as_secs(), "not subscribing for a while; asking over HTTPS meanwhile");
                return;
            }
        };
        self.handle(event);
    }

    /// Handles an event of another thread or task.
    pub(super) fn handle_worker_event(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Store(Written::Done { ticket }) => {
                self.store_fault = None;
                self.stopwatch.written(ticket).into_iter().for_each(|stages| self.status.timeline().time(stages));
                self.handle(Event::Written { ticket });
            }
            WorkerEvent::Store(Written::Failed { ticket, why }) => {
                tracing::debug!(ticket, why, "the state could not be written; trying again");
                self.store_fault = Some(why);
                self.handle(Event::WriteFailed { ticket });
            }
            WorkerEvent::Upload(upload::Event::Refused { status, .. }) => {
                self.note_refused_grant(status);
                self.handle(Event::Refused);
            }
            WorkerEvent::Upload(upload::Event::Stored { .. }) => {
                self.monitor.clip_stored();
                self.request_status_update();
            }
            // The uploads have already raised a condition.
            WorkerEvent::Upload(upload::Event::GrantFault { .. } | upload::Event::Dropped { .. }) => self.request_status_update(),
            WorkerEvent::Upload(upload::Event::Date) => self.tick(),
            WorkerEvent::Upload(upload::Event::ErasuresSettled) | WorkerEvent::TimelineErased => {
                if let Some((ticket, record)) = self.deferred_record.take() {
                    self.split().1.persist(ticket, record);
                }
            }
            WorkerEvent::Upload(upload::Event::Uploader) => self.handle_uploader_event(),
            WorkerEvent::Fetched(resource, fetched) => {
                if let Fetched::Found(body) = &fetched {
                    if resource == Resource::Entitlement {
                        self.stopwatch.document(Instant::now(), None);
                    }
                    self.monitor.server_certificate("the API's", self.config.cloud.endpoint.authority(), body.valid_until);
                }
                self.handle(Event::Fetched(resource, fetched));
            }
            WorkerEvent::Media(media) => {
                // The camera's owner may have changed while the pipeline was starting.
                media.forget();
                self.status.set_live(media.live());
                self.media = Some(*media);
            }
        }
    }

    /// A vendor's uploader has connected, disconnected or sent a line.
    fn handle_uploader_event(&mut self) {
        self.request_status_update();
        self.uploads.look();
        let uploader = self.gate.uploader_events();
        if uploader.stored {
            self.monitor.clip_stored();
        }
        if let Some(status) = uploader.refused {
            self.note_refused_grant(status);
            self.handle(Event::Refused);
        }
        self.end_cut();
    }

    /// The cloud answered a grant request with 402 or 403.
    fn note_refused_grant(&mut self, status: u16) {
        let now = self.clock.now();
        let in_force = self.engine.view(now).position;
        self.monitor.grant_refused(status, in_force, now);
    }
}
