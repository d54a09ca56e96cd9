//! The live view: what a camera films now, for people beside it. It reads the pre-roll as any reader does, with a position of its
//! own, so a viewer never slows the camera, the card or a clip: one that falls behind is dropped. Sound comes with the frames that it
//! travels with, and no frame waits for it. It knows nothing of plans, since nothing of it leaves the camera. Called by the status
//! page.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Mutex as TurnByTurn, OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::{
    backend::Jpegs,
    frame::{Format, Frame},
    mp4::Mp4,
    recent::{MotionEvent, Recent},
    ring::{Next, Ring},
    sound::{SoundFormat, Soundtrack},
    stop_signal::StopSignal,
};

/// How many people may watch at a time.
pub const VIEWERS: usize = 4;
/// A stream of which nothing has come for this long has no picture.
const STALE: Duration = Duration::from_secs(10);
/// A view has sound if there was some in this time, and ends once there was none.
const SILENCE: Duration = Duration::from_secs(2);
/// What has come by then is sent at once. Only the frames since the last keyframe are more than one at a time.
const CHUNK: usize = 64 * 1024;

/// Why there is nothing to see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoView {
    /// The camera gives none.
    #[error("there is no picture: no keyframe has come from the camera, or nothing for {} s", STALE.as_secs())]
    NoPicture,
    /// As many people watch as may.
    #[error("{VIEWERS} viewers watch already: close one of them")]
    TooMany,
    /// No decoder.
    #[error("no decoder here makes a JPEG of this stream; /frame.mp4 has the picture as it was filmed")]
    NoDecoder,
    /// The decoder has one, and it does not work.
    #[error("no JPEG can be made of the stream: {0}")]
    Decoder(String),
}

/// What can be seen of a camera. Clones see the same.
#[derive(Clone)]
pub struct Live {
    ring: Arc<Ring>,
    recent: Arc<Recent>,
    viewers: Arc<Semaphore>,
    /// Makes one JPEG at a time.
    jpegs: Arc<TurnByTurn<Jpegs>>,
    /// The newest one, and when its frame is shown.
    made: Arc<Mutex<Option<(Duration, Bytes)>>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl Live {
    pub(super) fn new(ring: Arc<Ring>, recent: Arc<Recent>, stop: StopSignal) -> Self {
        let jpegs = Arc::new(TurnByTurn::new(Jpegs::new(stop)));
        Self { ring, recent, viewers: Arc::new(Semaphore::new(VIEWERS)), jpegs, made: Arc::default() }
    }

    /// A new viewer, whose picture begins with the newest keyframe.
    ///
    /// # Errors
    /// There is no picture, or no place.
    pub fn view(&self) -> Result<View, NoView> {
        let place = self.viewers.clone().try_acquire_owned().map_err(|_| NoView::TooMany)?;
        let (position, first) = self.newest()?;
        let (format, heard) = (first.format.clone(), first.pts);
        let sound = self.ring.sound(SILENCE);
        // What was heard before it is not in the file.
        let track = sound.clone().map(|format| Soundtrack { format, units: Vec::new() });
        let file = Mp4::begin(Frame { sound: track, ..first }).live();
        Ok(View { ring: self.ring.clone(), position: position + 1, format, sound, heard, file, ended: false, _place: place })
    }

    /// The newest keyframe, as a file of one frame.
    ///
    /// # Errors
    /// There is no picture.
    pub fn frame(&self) -> Result<Bytes, NoView> {
        self.newest().and_then(|(_, frame)| of_one(frame).ok_or(NoView::NoPicture))
    }

    /// The newest keyframe as a JPEG.
    ///
    /// # Errors
    /// There is no picture, or nothing here can make a JPEG of it.
    pub async fn jpeg(&self) -> Result<Bytes, NoView> {
        // Before the frame is taken.
        let erasures = self.ring.erasures();
        let (_, frame) = self.newest()?;
        // One decoder at a time; whoever waited may find the picture made.
        let mut jpegs = self.jpegs.clone().lock_owned().await;
        let pts = frame.pts;
        if let Some((_, made)) = self.made().as_ref().filter(|(of, _)| *of == pts) {
            return Ok(made.clone());
        }
        let this = self.clone();
        let made = spawn_blocking(move || {
            let made = jpegs.jpeg(frame);
            if let Ok(Some(jpeg)) = &made {
                this.keep(erasures, pts, jpeg);
            }
            made
        });
        match made.await {
            Ok(Ok(jpeg)) => jpeg.ok_or(NoView::NoDecoder),
            Ok(Err(why)) => Err(NoView::Decoder(why)),
            Err(_) => Err(NoView::Decoder("its decoder ended".into())),
        }
    }

    /// Erases the newest JPEG, because the camera's owner has changed. Call it after the ring was erased: one that is being made
    /// meanwhile is then not kept.
    pub(super) fn forget(&self) {
        *self.made() = None;
    }

    /// Keeps a JPEG, unless its frame belongs to another owner by now.
    pub(super) fn keep(&self, erasures: u64, pts: Duration, jpeg: &Bytes) {
        let mut made = self.made();
        if self.ring.erasures() == erasures {
            *made = Some((pts, jpeg.clone()));
        }
    }

    /// The newest JPEG.
    pub(super) fn made(&self) -> MutexGuard<'_, Option<(Duration, Bytes)>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest motion events, the newest first.
    pub fn motion(&self) -> Vec<MotionEvent> {
        self.recent.list()
    }

    /// The picture of an event, as a file of one frame.
    pub fn motion_picture(&self, number: u64) -> Option<Bytes> {
        of_one(self.recent.picture(number)?)
    }

    /// The newest keyframe and its position.
    fn newest(&self) -> Result<(u64, Frame), NoView> {
        let last = self.ring.end().checked_sub(1).and_then(|last| self.ring.at(last));
        last.filter(|last| last.taken.elapsed() < STALE).ok_or(NoView::NoPicture)?;
        let position = self.ring.newest_key().ok_or(NoView::NoPicture)?;
        Ok((position, self.ring.at(position).ok_or(NoView::NoPicture)?))
    }
}

fn of_one(frame: Frame) -> Option<Bytes> {
    let fragment = Mp4::begin(Frame { sound: None, ..frame }).finish(Duration::MAX)?;
    Some(fragment.bytes)
}

/// One viewer.
pub struct View {
    ring: Arc<Ring>,
    position: u64,
    format: Arc<Format>,
    /// `None`: the file has none.
    sound: Option<Arc<SoundFormat>>,
    /// When the newest sound in the file begins.
    heard: Duration,
    file: Mp4,
    ended: bool,
    _place: OwnedSemaphorePermit,
}

impl View {
    /// The type of the file, with its codecs, for Media Source Extensions.
    pub fn media_type(&self) -> String {
        self.format.media_type(self.sound.as_deref())
    }

    /// Whether this frame belongs to another file. The picture would stand still where sound is promised and does not come; sound
    /// that begins waits for a keyframe, from which the next view shows every frame.
    fn is_over(&mut self, frame: &Frame) -> bool {
        let last = frame.sound.as_ref().filter(|track| self.sound.as_ref() == Some(&track.format)).and_then(|track| track.units.last());
        self.heard = last.map_or(self.heard, |last| last.pts);
        let in_doubt = if self.sound.is_some() { frame.pts.saturating_sub(self.heard) > SILENCE } else { frame.key };
        *frame.format != *self.format || (in_doubt && self.ring.sound(SILENCE) != self.sound)
    }

    /// More of the file; waits for it. `None`: it has ended, because the viewer fell behind, the camera's format changed, sound began
    /// or ceased, or no picture comes. Another view begins where this one ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        let (mut chunk, ring) = (Vec::new(), self.ring.clone());
        while !self.ended {
            let pushed = ring.until_pushed();
            match ring.next(&mut self.position, Duration::ZERO) {
                Next::Frame { lost: 1.., .. } => return None,
                // What was filmed before is shown first.
                Next::Frame { frame, .. } if self.is_over(&frame) => {
                    self.ended = true;
                    chunk.extend(self.file.flush().map(|last| last.bytes).unwrap_or_default());
                    return Some(chunk.into());
                }
                Next::Frame { frame, .. } => {
                    let sound = frame.sound.filter(|_| self.sound.is_some());
                    let fragment = self.file.push(Frame { sound, ..frame });
                    chunk.extend(fragment.map(|fragment| fragment.bytes).unwrap_or_default());
                    if chunk.len() >= CHUNK {
                        return Some(chunk.into());
                    }
                }
                Next::Quiet if !chunk.is_empty() => return Some(chunk.into()),
                Next::Quiet => timeout(STALE, pushed).await.ok()?,
            }
        }
        None
    }
}
