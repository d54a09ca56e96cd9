//! Opens a session with a camera: the connection, DESCRIBE, SETUP of the picture and of sound and metadata beside it, PLAY. It
//! never tries twice. A camera that refuses what is beside the picture is filmed without. Called by the source.

use std::{cell::Cell, io, net::IpAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::timeout};
use url::Url;

use super::{
    address::Address,
    connection::Connection,
    control,
    conversation::{Conversation, Teardowns},
    fault::{self, Fault, Step},
    metadata::MetadataRequest,
    offer::{self, Offer},
    playing::Playing,
    sdp::Description,
    sound::SoundStream,
    sound_offer::{self, SoundOffer},
    way::{Asked, Way, agree},
};
use crate::{
    media::{
        backend,
        rtp::{Depayloader, SoundCoding},
        source::{Hearing, SourceError},
    },
    resolver,
};

/// How long a name server may take.
const RESOLVE: Duration = Duration::from_secs(10);
/// How long a camera may take to accept a connection, and each of several addresses.
const CONNECT: Duration = Duration::from_secs(10);
const CONNECT_OF_SEVERAL: Duration = Duration::from_secs(5);
/// How long a camera may take for DESCRIBE and for PLAY: some start their encoder first.
const ANSWER: Duration = Duration::from_secs(30);
const SETUP: Duration = Duration::from_secs(15);
/// The channels asked for: those of RTP.
const PICTURE: u8 = 0;
const SOUND: u8 = 2;

/// What it takes to open a session.
pub(super) struct Opening<'a> {
    pub address: &'a Address,
    pub teardowns: Arc<Teardowns>,
    pub transport: TransportChoice,
    /// Whether the camera has refused TCP, whatever came of it.
    pub refused_tcp: Cell<bool>,
    /// Whether sound is wanted.
    pub sound: Wanted,
    /// Whether the camera has been asked for sound, whatever came of it.
    pub asked_for_sound: Cell<bool>,
    /// Who wants the camera's metadata.
    pub metadata: Option<MetadataRequest>,
}

/// Which transports may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TransportChoice {
    /// TCP, and UDP if the camera refuses it.
    TcpThenUdp,
    Tcp,
    Udp,
}

/// Whether sound is wanted beside the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Yes,
    /// The configuration says no.
    No,
    /// Sessions in which the camera was asked for it did not come to a picture.
    NotAgain,
}

impl Opening<'_> {
    /// Opens the session.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn open(&self) -> Result<Playing, SourceError> {
        let url = &self.address.url;
        let connection = self.connect().await?;
        let mut conversation = Conversation::new(connection, self.address.credentials.clone(), url.clone(), self.teardowns.clone());
        let asked = conversation.request("DESCRIBE", url, &[("Accept", "application/sdp")]);
        let described = self.step(Step::Describe, ANSWER, asked).await?;
        let sdp = String::from_utf8_lossy(&described.body);
        let description = Description::read(&sdp);
        if description.sections.is_empty() {
            // Without a length there is no body (RFC 2326): whatever follows the headers is no description.
            let bodiless = described.headers.get("Content-Length").is_none();
            let why = if bodiless { "it describes no stream: it has no Content-Length" } else { "it describes no stream" };
            return Err(fault::told(Step::Describe, &self.address.shown(), &Fault::Unusable(why)));
        }
        let Offer { control, codec, payload_type, clock_rate, parameter_sets, numbered } = offer::choose(&description)?;
        conversation.base = control::base(url, &described.headers);
        let all = description.control().map_or_else(|| url.clone(), |control| control::joined(&conversation.base, control));
        let picture = control.map_or_else(|| all.clone(), |control| control::joined(&conversation.base, &control));
        let (way, timeout) = self.set_up(&mut conversation, &picture).await?;
        let (sound, hearing) = self.set_up_sound(&mut conversation, sound_offer::choose(&description), &way).await?;
        let metadata = match &self.metadata {
            Some(request) => request.set_up(&mut conversation, (&description, &all), &way, &self.address.shown()).await?,
            None => None,
        };
        self.step(Step::Play, ANSWER, conversation.request("PLAY", &all, &[("Range", "npt=0.000-")])).await?;
        let depayloader = Depayloader::new(codec, clock_rate, parameter_sets).numbered(numbered);
        let mut playing = Playing::begin(conversation, way, timeout, payload_type, depayloader);
        if let Some(request) = &self.metadata {
            request.plays(metadata.as_ref());
        }
        (playing.sound, playing.hearing, playing.metadata) = (sound, hearing, metadata);
        Ok(playing)
    }

    /// The same without the metadata.
    pub fn without_metadata(&self) -> Self {
        let transport = if self.refused_tcp.get() { TransportChoice::Udp } else { self.transport };
        let (teardowns, asked) = (self.teardowns.clone(), Cell::new(false));
        Self {
            address: self.address,
            teardowns,
            transport,
            refused_tcp: Cell::new(false),
            sound: self.sound,
            asked_for_sound: asked,
            metadata: None,
        }
    }

    async fn step<T>(&self, step: Step, patience: Duration, asked: impl Future<Output = Result<T, Fault>>) -> Result<T, SourceError> {
        let server = self.address.shown();
        match timeout(patience, asked).await {
            Ok(answered) => answered.map_err(|fault| fault::told(step, &server, &fault)),
            Err(_) => Err(fault::silent(step, &server, patience)),
        }
    }

    async fn set_up(&self, conversation: &mut Conversation, url: &Url) -> Result<(Way, Duration), SourceError> {
        let server = self.address.shown();
        let silent = |_| fault::silent(Step::Setup, &server, SETUP);
        let asked = if self.transport == TransportChoice::Udp { Asked::Ports } else { Asked::Channel(PICTURE) };
        let mut agreed = timeout(SETUP, agree(conversation, url, asked)).await.map_err(silent)?;
        if self.transport == TransportChoice::TcpThenUdp && agreed.as_ref().is_err_and(Fault::refuses_transport) {
            self.refused_tcp.set(true);
            agreed = timeout(SETUP, agree(conversation, url, Asked::Ports)).await.map_err(silent)?;
        }
        agreed.map_err(|fault| fault::told(Step::Setup, &server, &fault))
    }

    /// Sets up the sound on the way that the picture takes. A camera that refuses is filmed without.
    async fn set_up_sound(
        &self,
        conversation: &mut Conversation,
        offer: SoundOffer,
        picture: &Way,
    ) -> Result<(Option<SoundStream>, Hearing), SourceError> {
        let offer = match (self.sound, offer) {
            (Wanted::No, _) | (_, SoundOffer::Nothing) => return Ok((None, Hearing::Nothing)),
            (_, SoundOffer::LeftOut(name)) => return Ok((None, Hearing::LeftOut(name))),
            (_, SoundOffer::Stream(offer)) => offer,
        };
        if let SoundCoding::Samples(samples) = &offer.coding
            && let Err(why) = backend::encodes(*samples).await
        {
            return Ok((None, Hearing::LeftOut(why)));
        }
        let left_out = |why: &str| Hearing::LeftOut(format!("{}, because {why}", offer.coding.name()));
        if self.sound == Wanted::NotAgain {
            return Ok((None, left_out("the camera sends no picture when it is asked for sound")));
        }
        self.asked_for_sound.set(true);
        let asked = match picture {
            Way::Tcp { rtp, rtcp } if *rtp == SOUND || *rtcp == Some(SOUND) => Asked::Channel(SOUND + 2),
            Way::Tcp { .. } => Asked::Channel(SOUND),
            Way::Udp(_) => Asked::Ports,
        };
        let url = control::joined(&conversation.base, &offer.control);
        let server = self.address.shown();
        let agreed = timeout(SETUP, agree(conversation, &url, asked)).await.map_err(|_| fault::silent(Step::Setup, &server, SETUP))?;
        match (agreed, picture) {
            (Ok((Way::Tcp { rtp, .. }, _)), Way::Tcp { rtp: taken, rtcp }) if rtp == *taken || Some(rtp) == *rtcp => {
                Ok((None, left_out("the camera sends it on the channel of the picture")))
            }
            (Ok((way, _)), _) => {
                let hearing = match &offer.coding {
                    SoundCoding::Aac(_, format) => Hearing::Expected(format.clone()),
                    SoundCoding::Samples(samples) => Hearing::Encoded(samples.name().into()),
                };
                Ok((Some(SoundStream::new(&offer, way)), hearing))
            }
            (Err(Fault::Status(status, _) | Fault::Moved(status, _)), _) => {
                Ok((None, left_out(&format!("the camera refuses it ({status})"))))
            }
            (Err(Fault::Login(_)), _) => Ok((None, left_out("the camera refuses it (401)"))),
            (Err(Fault::OtherTransport), _) => Ok((None, left_out("the camera sends it by another transport than the picture"))),
            (Err(Fault::NoPorts(error)), _) => Ok((None, left_out(&format!("no ports for UDP: {error}")))),
            (Err(fault), _) => Err(fault::told(Step::Setup, &server, &fault)),
        }
    }

    /// A connection with the first of the camera's addresses that accepts one.
    async fn connect(&self) -> Result<Connection, SourceError> {
        let (host, port) = (self.address.host().0, self.address.port());
        let unknown = |why: String| SourceError::Failed(format!("the name {host} cannot be resolved: {why}"));
        let mut addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![(address, port).into()],
            Err(_) => match timeout(RESOLVE, resolver::lookup(host, port)).await {
                Ok(found) => found.map_err(|error| unknown(resolver_says(&error)))?,
                Err(_) => return Err(unknown(format!("no answer from the name server within {} s", RESOLVE.as_secs()))),
            },
        };
        addresses.dedup();
        let one = addresses.len() == 1;
        let patience = if one { CONNECT } else { CONNECT_OF_SEVERAL };
        let mut why = unknown("it has no address".into());
        for address in addresses {
            let server = if one { self.address.shown() } else { address.to_string() };
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(Connection::new(stream)),
                Ok(Err(error)) => why = fault::unreachable(&server, &error),
                Err(_) => why = fault::unconnected(&server, patience),
            }
        }
        Err(why)
    }
}

fn resolver_says(error: &io::Error) -> String {
    let words = error.to_string();
    words.strip_prefix("failed to lookup address information: ").unwrap_or(&words).to_ascii_lowercase()
}
