//! RTSP as a source of frames, in every build: one thread, with a runtime of its own, that opens a session, turns its packets
//! into frames and returns when the session ends. The supervisor decides when to try again. What a packet means is `media::rtp`'s
//! matter.
//!
//! ```text
//! source ─ opening, playing ─ conversation ─ connection     what a camera sends may be anything: the files below read it,
//!                                                           without a socket, and the fuzz target `rtsp` feeds them
//! message, login, setup, control, sdp, offer, sound_offer, packet, reorder, sequence, keepalive, metadata
//! ```
//!
//! The client is the agent's own because a camera must not be able to end the agent: `docs/design/rtp.md#the-client`.

mod address;
mod connection;
mod control;
mod conversation;
mod fault;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod hostile;
mod keepalive;
mod login;
mod message;
mod metadata;
mod offer;
mod opening;
mod packet;
mod playing;
mod reorder;
mod sdp;
mod sequence;
mod setup;
mod sound;
mod sound_offer;
#[cfg(test)]
mod tests;
mod udp;
mod way;

use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    runtime::Handle,
    select,
    time::{sleep_until, timeout},
};

pub(super) use self::login::{Credentials, Login, LoginFault};
use self::{
    address::Address,
    conversation::Teardowns,
    fault::{Fault, Step},
    metadata::MetadataRequest,
    opening::{Opening, TransportChoice, Wanted},
    playing::{Given, Playing, Received},
};
use super::{
    backend,
    frame::Frame,
    rtp::{Heard, Output},
    sound::Sound,
    source::{FrameSource, Session, SourceError},
};
use crate::config::RtspTransport;

/// How long teardowns may take once the session is over: the camera forgets the session by itself, too.
const TEARDOWN: Duration = Duration::from_secs(1);
/// How often frames that may be complete are asked for while no packet comes, and for how long.
const QUIET: Duration = Duration::from_millis(350);
const QUIET_FOR: Duration = Duration::from_millis(1500);
/// So long may packets come of which no frame can be made, before that is told.
const FRUITLESS: Duration = Duration::from_secs(60);
/// So long may the first packet take over UDP, which a firewall may drop in silence.
const NO_PACKET: Duration = Duration::from_secs(60);
/// So many sessions in a row must end with keepalives unanswered before the camera is taken to end each one.
const UNANSWERED: u32 = 2;
/// So many sessions in a row must end before their first picture, after the camera was asked for sound, before it is filmed without.
const WITHOUT_PICTURE: u32 = 2;
/// A camera that gives no picture while its metadata is asked for is asked again after so long, in its next session.
const METADATA_REST: Duration = Duration::from_secs(3600);
/// A session that will end is replaced this long before: time for the next one's first keyframe.
const AHEAD: Duration = Duration::from_secs(12);

/// A camera that speaks RTSP.
pub(super) struct RtspSource {
    address: Result<Address, SourceError>,
    transport: RtspTransport,
    sound: bool,
    habits: Mutex<Habits>,
}

/// What earlier sessions have shown of the camera.
#[derive(Debug, Default)]
struct Habits {
    refuses_tcp: bool,
    /// How often in a row a session with sound came to no picture.
    without_picture: u32,
    /// How often in a row a session ended after keepalives without an answer, and how long the last one had lasted.
    unanswered: u32,
    lifetime: Duration,
    /// When it gave no picture while its metadata was asked for.
    metadata_harmed: Option<Instant>,
}

impl RtspSource {
    /// `url` as configured, with user and password.
    pub fn new(url: &str, transport: RtspTransport) -> Self {
        Self { address: Address::parse(url), transport, sound: true, habits: Mutex::default() }
    }

    /// With sound if it is wanted, and the camera offers sound that can be recorded.
    pub fn hearing(self, sound: bool) -> Self {
        Self { sound, ..self }
    }

    fn habits(&self) -> MutexGuard<'_, Habits> {
        self.habits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted(&self) -> Wanted {
        match self.sound {
            false => Wanted::No,
            true if self.habits().without_picture >= WITHOUT_PICTURE => Wanted::NotAgain,
            true => Wanted::Yes,
        }
    }

    fn rests_metadata(&self) -> bool {
        self.habits().metadata_harmed.is_some_and(|at| at.elapsed() < METADATA_REST)
    }

    fn choice(&self) -> TransportChoice {
        match self.transport {
            RtspTransport::Auto if self.habits().refuses_tcp => TransportChoice::Udp,
            RtspTransport::Auto => TransportChoice::TcpThenUdp,
            RtspTransport::Tcp => TransportChoice::Tcp,
            RtspTransport::Udp => TransportChoice::Udp,
        }
    }
}

impl FrameSource for RtspSource {
    fn run(&self, session: &Session) -> Result<(), SourceError> {
        let address = self.address.as_ref().map_err(Clone::clone)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build();
        let runtime = runtime.map_err(|error| SourceError::Failed(format!("no runtime for RTSP: {error}")))?;
        let ended = runtime.block_on(async {
            let teardowns = Arc::new(Teardowns::new(Handle::current()));
            let ended = select! {
                biased;
                () = session.until_over() => Ok(()),
                ended = self.film(address, &teardowns, session) => ended,
            };
            // They are sent, if the camera reads; whether it answers is the camera's matter.
            let _ = timeout(TEARDOWN, teardowns.finished()).await;
            ended
        });
        // A name server may still be waited for.
        runtime.shutdown_background();
        ended
    }
}

type Renewal<'a> = Pin<Box<dyn Future<Output = Result<(Playing, Vec<Given>), SourceError>> + 'a>>;

impl RtspSource {
    async fn film(&self, address: &Address, teardowns: &Arc<Teardowns>, session: &Session) -> Result<(), SourceError> {
        let opening = || Opening {
            address,
            teardowns: teardowns.clone(),
            transport: self.choice(),
            refused_tcp: Cell::new(false),
            sound: self.wanted(),
            asked_for_sound: Cell::new(false),
            metadata: session.metadata().filter(|_| !self.rests_metadata()).map(MetadataRequest::by),
        };
        let mut playing = self.opened(opening()).await?;
        session.hears(playing.hearing.clone());
        let mut delivery =
            Delivery { session, began: Instant::now(), offset: Duration::ZERO, latest: None, fruitless: None, encoder: None };
        let mut renewal = self.renewal(&playing, opening());
        let mut packet_at = tokio::time::Instant::now();
        let mut quiet_at = packet_at + QUIET;
        let mut has_picture = false;
        loop {
            session.packets_late(playing.take_late());
            select! {
                received = playing.receive() => match received {
                    Ok(sound @ Received::Sound(_)) => playing.take(sound, &mut |given| delivery.give(given)),
                    Ok(picture) => {
                        if !std::mem::replace(&mut has_picture, true) {
                            self.came_to_a_picture(&playing);
                        }
                        delivery.fruitless.get_or_insert(Instant::now());
                        playing.take(picture, &mut |given| delivery.give(given));
                        packet_at = tokio::time::Instant::now();
                        quiet_at = packet_at + QUIET;
                        if delivery.fruitless.is_some_and(|since| since.elapsed() > FRUITLESS) {
                            let words = "the camera sends packets, but no picture could be made of them";
                            return Err(SourceError::Failed(format!("{words} for {} s", FRUITLESS.as_secs())));
                        }
                    }
                    Err(fault) => {
                        playing.depayloader.end(&mut |output| delivery.take(output));
                        return Err(self.interrupted(address, &playing, &fault));
                    }
                },
                () = sleep_until(quiet_at) => {
                    playing.depayloader.quiet(Instant::now(), &mut |output| delivery.take(output));
                    quiet_at += if packet_at.elapsed() < QUIET_FOR { QUIET } else { NO_PACKET };
                    if playing.over_udp() && !playing.has_received() && playing.began.elapsed() > NO_PACKET {
                        let words = "no packet has come over UDP: let UDP through, or set the camera to RTP over TCP";
                        return Err(SourceError::Failed(words.into()));
                    }
                }
                renewed = async { match &mut renewal { Some(renewal) => renewal.await, None => std::future::pending().await } } => {
                    renewal = None;
                    match renewed {
                        Ok((next, outputs)) => {
                            playing.depayloader.end(&mut |output| delivery.take(output));
                            playing = next;
                            session.hears(playing.hearing.clone());
                            delivery.shift();
                            outputs.into_iter().for_each(|output| delivery.give(output));
                            renewal = self.renewal(&playing, opening());
                        }
                        // The session before is given up in its time, and that is told.
                        Err(error) => tracing::debug!(%error, "the next RTSP session could not be opened ahead"),
                    }
                }
            }
        }
    }

    async fn opened(&self, opening: Opening<'_>) -> Result<Playing, SourceError> {
        let mut opened = opening.open().await;
        if let (Err(how), Some(request)) = (&opened, opening.metadata.as_ref().filter(|request| request.may_have_failed())) {
            let alone = opening.without_metadata();
            let without = alone.open().await;
            opening.asked_for_sound.set(alone.asked_for_sound.get());
            if without.is_ok() {
                request.harms(how);
                self.habits().metadata_harmed = Some(Instant::now());
            }
            opened = without;
        }
        match &opened {
            // Until the first picture shows otherwise.
            Ok(playing) if playing.sound.is_some() => self.came_to_no_picture(true),
            Ok(_) => {}
            Err(_) => self.came_to_no_picture(opening.asked_for_sound.get()),
        }
        if opening.refused_tcp.get() {
            tracing::info!(camera = opening.address.shown(), "the camera refuses RTP over TCP, so UDP is used");
            self.habits().refuses_tcp = true;
        } else if opened.is_err() {
            // It may have been replaced, or set up anew.
            self.habits().refuses_tcp = false;
        }
        opened
    }

    /// The next session, opened before the one that plays will be given up; `None` if it will not.
    fn renewal<'a>(&'a self, playing: &Playing, opening: Opening<'a>) -> Option<Renewal<'a>> {
        let Habits { unanswered, lifetime, .. } = *self.habits();
        if unanswered < UNANSWERED {
            return None;
        }
        let at = playing.began + lifetime - AHEAD.min(lifetime / 2);
        Some(Box::pin(async move {
            sleep_until(at.into()).await;
            let server = opening.address.shown();
            let mut playing = self.opened(opening).await?;
            let mut outputs = Vec::new();
            while !outputs.iter().any(|output| matches!(output, Given::Picture(Output::Frame(_)))) {
                // What comes before the first keyframe is in the session before.
                outputs.clear();
                let received = playing.receive().await;
                let packet = received.map_err(|fault| closed(&server, &fault))?;
                playing.take(packet, &mut |output| outputs.push(output));
            }
            self.came_to_a_picture(&playing);
            Ok((playing, outputs))
        }))
    }

    /// A session has failed, or shown nothing yet. Some cameras fail when they are asked for sound, and would never be filmed.
    fn came_to_no_picture(&self, asked_for_sound: bool) {
        let mut habits = self.habits();
        habits.without_picture = if asked_for_sound { habits.without_picture.saturating_add(1) } else { 0 };
    }

    fn came_to_a_picture(&self, playing: &Playing) {
        if playing.sound.is_some() {
            self.habits().without_picture = 0;
        }
    }

    fn interrupted(&self, address: &Address, playing: &Playing, fault: &Fault) -> SourceError {
        if !playing.has_received() && playing.sound.is_none() {
            self.came_to_no_picture(false);
        }
        let mut habits = self.habits();
        if playing.ignores_keepalives() && fault.ends_session() {
            habits.unanswered += 1;
            habits.lifetime = playing.began.elapsed();
            if habits.unanswered == UNANSWERED {
                tracing::warn!(
                    camera = address.shown(),
                    every_s = habits.lifetime.as_secs(),
                    "the camera answers no keepalives and ends its sessions: from now on the next one is opened before that"
                );
            }
        } else if habits.unanswered < UNANSWERED {
            habits.unanswered = 0;
        }
        closed(&address.shown(), fault)
    }
}

fn closed(server: &str, fault: &Fault) -> SourceError {
    SourceError::Interrupted(fault::told(Step::Receive, server, fault).to_string())
}

/// Hands to the supervisor's session what the sessions with the camera deliver, on one timeline.
struct Delivery<'a> {
    session: &'a Session,
    began: Instant,
    /// Where the newest session with the camera begins.
    offset: Duration,
    latest: Option<Duration>,
    /// Since when packets have come to nothing.
    fruitless: Option<Instant>,
    /// What makes AAC of samples, once some have come.
    encoder: Option<backend::SoundEncoder>,
}

impl Delivery<'_> {
    fn give(&mut self, given: Given) {
        match given {
            Given::Picture(output) => self.take(output),
            Given::Sound(Heard::Unit(format, sound)) => {
                let pts = self.offset + sound.pts;
                self.session.sound(&format, Sound { pts, ..sound });
            }
            Given::Sound(Heard::Samples(samples, sound)) => {
                let pts = self.offset + sound.pts;
                if self.encoder.as_ref().is_none_or(|encoder| !encoder.takes(samples)) {
                    self.encoder = backend::sound_encoder(samples, self.session);
                }
                if let Some(encoder) = &self.encoder {
                    encoder.push(Sound { pts, ..sound });
                }
            }
            Given::Sound(Heard::Lost(units)) => self.session.sound_lost(units),
        }
    }

    fn take(&mut self, output: Output) {
        self.fruitless = None;
        match output {
            Output::Frame(frame) => {
                let pts = self.offset + frame.pts;
                self.latest = self.latest.max(Some(pts));
                self.session.frame(Frame { pts, ..frame });
            }
            Output::Lost { frames, reason } => self.session.lost(frames, reason),
            Output::Gap => self.session.gap(),
        }
    }

    /// The next session with the camera begins now.
    fn shift(&mut self) {
        let now = self.began.elapsed();
        self.offset = self.latest.map_or(now, |latest| now.max(latest + Duration::from_millis(1)));
        self.session.gap();
    }
}
