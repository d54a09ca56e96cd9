//! Server-sent events: every one says "look again" and nothing else, and only to those whom it concerns. An owner hears of
//! the cameras of their own account; of one that leaves it, once more.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse as _, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::stream;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::{
    Portal,
    session::{self, Who},
    visitor::Visitor,
};
use crate::{
    domain::issuer::devices,
    storage::db::DbError,
    transport::{cloud::Cloud, events::CloudEvent},
};

/// A session can end while nothing happens: it is looked at so often.
const SIGNED_IN_EVERY: Duration = Duration::from_secs(5);

struct Listener {
    cloud: Arc<Cloud>,
    events: Receiver<CloudEvent>,
    secret: String,
    who: Who,
    // The cameras of the account when it was last looked at.
    cameras: BTreeSet<String>,
}

/// The stream; it ends when the session does.
pub async fn stream(State(portal): State<Arc<Portal>>, visitor: Visitor) -> Response {
    let Some(who) = visitor.who else { return StatusCode::FORBIDDEN.into_response() };
    let cloud = portal.cloud.clone();
    let mut listener = Listener { events: cloud.events.subscribe(), cloud, secret: visitor.secret, who, cameras: BTreeSet::new() };
    if let Err(e) = listener.concerns(None).await {
        tracing::error!("{e}");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let events = stream::unfold(listener, |mut listener| async {
        listener.wait().await.then(|| (Ok::<_, Infallible>(Event::default().data("look")), listener))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}

impl Listener {
    /// Waits for something that concerns this session; `false` once it is over.
    async fn wait(&mut self) -> bool {
        loop {
            let heard = tokio::time::timeout(SIGNED_IN_EVERY, self.events.recv()).await;
            let quiet = heard.is_err();
            let device = match heard {
                Ok(Ok(event)) => Some(event.device().to_owned()),
                // Whoever was too slow has missed something, and looks again all the same.
                Ok(Err(RecvError::Lagged(_))) | Err(_) => None,
                Ok(Err(RecvError::Closed)) => return false,
            };
            match self.concerns(device.as_deref()).await {
                Ok(Some(true)) if quiet => {}
                Ok(Some(true)) => return true,
                Ok(Some(false)) => {}
                Ok(None) => return false,
                Err(e) => {
                    tracing::error!("{e}");
                    return false;
                }
            }
        }
    }

    /// Whether an event of this camera, or of any, is theirs; `None` once they are signed out.
    async fn concerns(&mut self, device: Option<&str>) -> Result<Option<bool>, DbError> {
        let (secret, now, who) = (self.secret.clone(), self.cloud.clock.now_s(), self.who.clone());
        let looked = self.cloud.db.read_async(move |connection| {
            if session::peek(connection, &secret, now)?.is_none() {
                return Ok(None);
            }
            match who {
                Who::Owner { account, .. } => Ok(Some(devices(connection, Some(&account))?.iter().map(ToString::to_string).collect())),
                Who::Engineer => Ok(Some(BTreeSet::new())),
            }
        });
        let Some(now) = looked.await? else { return Ok(None) };
        let before = std::mem::replace(&mut self.cameras, now);
        Ok(Some(match (&self.who, device) {
            (Who::Engineer, _) | (_, None) => true,
            (Who::Owner { .. }, Some(device)) => before.contains(device) || self.cameras.contains(device),
        }))
    }
}
