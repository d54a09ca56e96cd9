//! `/events`: server-sent events (WHATWG HTML, "Server-sent events") that keep the page up to date. Each carries the sections that
//! differ from what this reader has, as the server renders them, at most two a second. It only reads the shared status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    select,
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};

use super::{
    SharedStatus,
    body::Feed,
    page::{SECTIONS, Scene, Words},
};

/// How many pages may be kept up to date at a time.
pub(super) const SUBSCRIBERS: usize = 4;
/// The pause after each event.
const PAUSE: Duration = Duration::from_millis(500);
/// Something is sent at least this often, so that both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Sends events until the reader is gone or does not read.
pub(super) async fn feed(feed: Feed, status: Arc<SharedStatus>, words: &'static Words, _place: OwnedSemaphorePermit) {
    let mut sent = BTreeMap::new();
    loop {
        // Read before the document: what changes meanwhile is in the next event.
        let version = status.version();
        if let Some(message) = news(&mut sent, &Scene::of(&status), words)
            && !feed.send(message).await
        {
            return;
        }
        select! {
            () = feed.gone() => return,
            () = sleep(PAUSE) => {}
        }
        let changed = select! {
            () = feed.gone() => return,
            changed = timeout(KEEP_ALIVE, status.changed_since(version)) => changed,
        };
        if changed.is_err() && !feed.send(Bytes::from_static(b":\n\n")).await {
            return;
        }
    }
}

/// What differs from what was sent, as one event: an object of sections by id, and the title.
fn news(sent: &mut BTreeMap<&'static str, String>, scene: &Scene, words: &Words) -> Option<Bytes> {
    let rendered = SECTIONS.iter().map(|section| (section.id, section.html(scene, words)));
    let changed: Vec<_> = rendered.chain([("title", scene.title(words))]).filter(|(id, html)| sent.get(id) != Some(html)).collect();
    if changed.is_empty() {
        return None;
    }
    let data = serde_json::to_string(&changed.iter().map(|(id, html)| (*id, html.as_str())).collect::<BTreeMap<_, _>>());
    sent.extend(changed);
    // A map of strings; JSON has no line break outside of them, and escapes those inside.
    Some(format!("data: {}\n\n", data.expect("plain data")).into())
}
