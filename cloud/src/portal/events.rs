//! Server-sent events. An event only means that the page should be fetched again, and is sent only to the users it
//! concerns: an owner gets those of the account's cameras, including the one by which a camera leaves the account.

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
    context::RequestContext,
    session::{self, User},
};
use crate::{
    domain::issuer::devices,
    storage::db::DbError,
    transport::{cloud::Cloud, events::CloudEvent},
};

/// How often an idle stream checks that its session still exists.
const SIGNED_IN_EVERY: Duration = Duration::from_secs(5);

struct Listener {
    cloud: Arc<Cloud>,
    events: Receiver<CloudEvent>,
    secret: String,
    user: User,
    // The cameras of the account when it was last looked at.
    cameras: BTreeSet<String>,
}

/// The stream; it ends when the session does.
pub async fn stream(State(portal): State<Arc<Portal>>, context: RequestContext) -> Response {
    let Some(user) = context.user else { return StatusCode::FORBIDDEN.into_response() };
    let cloud = portal.cloud.clone();
    let mut listener = Listener { events: cloud.events.subscribe(), cloud, secret: context.secret, user, cameras: BTreeSet::new() };
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
            let received = tokio::time::timeout(SIGNED_IN_EVERY, self.events.recv()).await;
            let quiet = received.is_err();
            let device = match received {
                Ok(Ok(event)) => Some(event.device().to_owned()),
                // A slow subscriber has missed events, so the page is fetched again.
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

    /// Whether an event of this camera, or of any, concerns the user; `None` once the session has ended.
    async fn concerns(&mut self, device: Option<&str>) -> Result<Option<bool>, DbError> {
        let (secret, now, user) = (self.secret.clone(), self.cloud.clock.now_s(), self.user.clone());
        let looked = self.cloud.db.read_async(move |connection| {
            if session::peek(connection, &secret, now)?.is_none() {
                return Ok(None);
            }
            match user {
                User::Owner { account, .. } => Ok(Some(devices(connection, Some(&account))?.iter().map(ToString::to_string).collect())),
                User::Engineer => Ok(Some(BTreeSet::new())),
            }
        });
        let Some(now) = looked.await? else { return Ok(None) };
        let before = std::mem::replace(&mut self.cameras, now);
        Ok(Some(match (&self.user, device) {
            (User::Engineer, _) | (_, None) => true,
            (User::Owner { .. }, Some(device)) => before.contains(device) || self.cameras.contains(device),
        }))
    }
}
