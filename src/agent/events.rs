//! What the other threads tell the control thread, translated into events of the engine.

use care_engine::{Delivery, Event, Fetched, Message, Ports, Resource};

use super::Agent;
use crate::{link, media::Media, store::Written, upload};

/// What reaches the control thread from the other threads.
pub(super) enum Input {
    Store(Written),
    Upload(upload::Event),
    Fetched(Resource, Fetched),
    Media(Box<Media>),
}

impl Agent {
    pub(super) fn take_link(&mut self, event: link::Event) {
        let event = match event {
            link::Event::Connected { connection, session_present, valid_until } => {
                self.broker_valid_until = valid_until;
                self.notice.server("the broker's", self.config.broker.endpoint.authority(), valid_until);
                tracing::info!(connection = connection.0, session_present, "connected");
                Event::Connected(connection)
            }
            link::Event::SubscribeSent { connection } => Event::SubscribeSent(connection),
            link::Event::Subscribed { connection } => Event::Subscribed(connection),
            link::Event::Publish { connection, topic, payload, retain, dup, at, ack } => {
                let delivery = ack.map(|ack| {
                    self.deliveries += 1;
                    let delivery = Delivery(self.deliveries);
                    self.unacknowledged.insert(delivery, ack);
                    delivery
                });
                let received = self.clock.now().boot.saturating_sub(at.elapsed());
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
            link::Event::Published { ticket } => Event::Published { ticket },
            link::Event::Lost { connection, .. } => {
                if connection.is_some() {
                    self.unacknowledged.clear();
                }
                Event::Lost(connection)
            }
            // The link has raised a condition.
            link::Event::CloneSuspected => return,
            link::Event::SubscribeDeferred { for_ } => {
                tracing::info!(seconds = for_.as_secs(), "not subscribing for a while; asking over HTTPS meanwhile");
                return;
            }
        };
        self.handle(event);
    }

    pub(super) fn take(&mut self, input: Input) {
        match input {
            Input::Store(Written::Done { ticket }) => {
                self.store_fault = None;
                self.handle(Event::Written { ticket });
            }
            Input::Store(Written::Failed { ticket, why }) => {
                tracing::debug!(ticket, why, "the state could not be written; trying again");
                self.store_fault = Some(why);
                self.handle(Event::WriteFailed { ticket });
            }
            Input::Upload(upload::Event::Refused { status, .. }) => {
                self.refused(status);
                self.handle(Event::Refused);
            }
            Input::Upload(upload::Event::Stored { .. }) => {
                self.notice.stored();
                self.show_soon();
            }
            // Named as conditions where they happen.
            Input::Upload(upload::Event::GrantFault { .. } | upload::Event::Dropped { .. }) => self.show_soon(),
            Input::Upload(upload::Event::Date) => self.turn(),
            Input::Upload(upload::Event::ErasuresSettled) => {
                if let Some((ticket, record)) = self.record_waits.take() {
                    self.split().1.persist(ticket, record);
                }
            }
            Input::Upload(upload::Event::Uploader) => self.hear_uploader(),
            Input::Fetched(resource, fetched) => {
                if let Fetched::Found(body) = &fetched {
                    self.notice.server("the API's", self.config.cloud.endpoint.authority(), body.valid_until);
                }
                self.handle(Event::Fetched(resource, fetched));
            }
            Input::Media(media) => {
                // The camera may have changed hands while the pipeline was starting.
                media.forget();
                self.media = Some(*media);
            }
        }
    }

    /// A vendor's uploader has come, gone, or said something.
    pub(super) fn hear_uploader(&mut self) {
        self.show_soon();
        self.uploads.look();
        let uploader = self.gate.uploader_events();
        if uploader.stored {
            self.notice.stored();
        }
        if let Some(status) = uploader.refused {
            self.refused(status);
            self.handle(Event::Refused);
        }
        self.end_cut();
    }

    /// The cloud answered a grant request with 402 or 403.
    pub(super) fn refused(&mut self, status: u16) {
        let now = self.clock.now();
        let in_force = self.engine.view(now).position;
        self.notice.grant_refused(status, in_force, now);
    }
}
