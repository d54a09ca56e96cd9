//! What the camera serves and which faults it has, and how the command line says so.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{annexb::Codec, digest::Credentials};

/// The camera: the default is one without faults.
#[derive(Debug, Clone)]
pub struct Options {
    /// The Annex B file to loop.
    pub file: PathBuf,
    /// Its codec, and that of [`Options::changes`].
    pub codec: Codec,
    /// Frames per second.
    pub fps: f64,
    /// The address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// The path of the stream, with a leading slash.
    pub path: String,
    /// Transports that SETUP accepts; others get 461.
    pub transports: Transports,
    /// Files that replace the first one after so many seconds: other parameter sets, another picture size.
    pub changes: Vec<(f64, PathBuf)>,

    /// Which packets carry the marker bit.
    pub marker: Marker,
    /// What the RTP timestamps say.
    pub clock: Clock,
    /// Seconds of video that are sent at once at the start.
    pub lead: f64,
    /// Frames that are sent together, as a camera does that encodes in bursts.
    pub burst: u32,
    /// Seconds from PLAY to the first frame.
    pub start_after: f64,

    /// How the connection ends by itself.
    pub end: Option<(f64, End)>,
    /// The session timeout that SETUP names, in seconds; 0 names none.
    pub timeout: u32,
    /// Which keepalive requests are answered.
    pub keepalive: Keepalive,
    /// Closes the connection when no request has come for so long.
    pub drop_idle: Option<Duration>,
    /// Credentials to ask for.
    pub credentials: Option<Credentials>,

    /// What the SDP says of the parameter sets.
    pub sprop: Sprop,
    /// Leaves the parameter sets out of the stream.
    pub strip_parameter_sets: bool,
    /// Sections of the SDP before the video's.
    pub before: Vec<Section>,
    /// Sections of the SDP after the video's.
    pub after: Vec<Section>,
    /// When the metadata says that something moves: from and until so many seconds after PLAY.
    pub motion: Vec<(f64, f64)>,
    /// Sections of the SDP whose SETUP gets 404.
    pub refused: Vec<Section>,
    /// The AAC file in ADTS form that [`Section::Aac`] loops.
    pub sound: Option<PathBuf>,
    /// The form of the control URLs in the SDP.
    pub control: Control,
    /// Answers DESCRIBE without `Content-Base`.
    pub no_content_base: bool,
    /// What PLAY's `RTP-Info` says.
    pub rtp_info: RtpInfo,
    /// Sends an RTCP sender report each second.
    pub sender_reports: bool,
    /// Answers as no standard has it: lines end with LF, `CSeq` is missing, the session's id is followed by a blank, and the SDP
    /// has lines that are no `x=…` and a section without a format.
    pub odd: bool,

    /// Longest RTP payload in bytes.
    pub mtu: usize,
    /// Puts small NAL units of a picture together into one packet (STAP-A, AP).
    pub aggregate: bool,
    /// Sends NAL units that fit into a packet as a fragmentation unit that both starts and ends.
    pub single_fragments: bool,
    /// Puts an SEI message of its own into each access unit.
    pub sei: bool,
    /// Puts an access unit delimiter before each access unit.
    pub delimiters: bool,

    /// Loses every nth packet.
    pub lose: Option<u32>,
    /// Sends every nth packet after the one that follows it.
    pub swap: Option<u32>,
    /// Sends every nth packet twice.
    pub repeat: Option<u32>,
    /// Sends a malformed packet after every nth one, of each kind in turn.
    pub malformed: Option<u32>,
    /// Changes the SSRC after so many seconds.
    pub ssrc_change: Option<f64>,
    /// Names another SSRC in SETUP than the packets carry.
    pub wrong_ssrc: bool,
}

impl Options {
    /// A camera without faults: this file at 15 frames per second.
    pub fn new(file: impl Into<PathBuf>, codec: Codec) -> Self {
        Self {
            file: file.into(),
            codec,
            fps: 15.0,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            path: "/stream".into(),
            transports: Transports::Both,
            changes: Vec::new(),
            marker: Marker::Normal,
            clock: Clock::Normal,
            lead: 0.0,
            burst: 1,
            start_after: 0.0,
            end: None,
            timeout: 60,
            keepalive: Keepalive::Answered,
            drop_idle: None,
            credentials: None,
            sprop: Sprop::Present,
            strip_parameter_sets: false,
            before: Vec::new(),
            after: Vec::new(),
            motion: Vec::new(),
            refused: Vec::new(),
            sound: None,
            control: Control::Relative,
            no_content_base: false,
            rtp_info: RtpInfo::Absent,
            sender_reports: false,
            odd: false,
            mtu: 1400,
            aggregate: false,
            single_fragments: false,
            sei: false,
            delimiters: false,
            lose: None,
            swap: None,
            repeat: None,
            malformed: None,
            ssrc_change: None,
            wrong_ssrc: false,
        }
    }
}

/// Transports that SETUP accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transports {
    /// Interleaved TCP and UDP.
    Both,
    /// Interleaved TCP only.
    Tcp,
    /// UDP only.
    Udp,
}

/// Which packets carry the marker bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// The last of each access unit, as RFC 6184 and RFC 7798 say.
    Normal,
    /// None.
    Never,
    /// Every one.
    EachPacket,
    /// The last of each NAL unit.
    EachNal,
    /// The first of each access unit, and no other.
    First,
    /// Also those with SEI.
    Sei,
    /// Also those with parameter sets.
    ParameterSets,
}

/// What the RTP timestamps say, as a function of the true time since PLAY.
#[derive(Debug, Clone, PartialEq)]
pub enum Clock {
    /// The true time.
    Normal,
    /// The true time, wrapping after so many seconds.
    WrapAfter(f64),
    /// Always the same.
    Constant,
    /// Each time for so many frames: 2 is pairs.
    Hold(u32),
    /// So many times too fast; negative is backwards.
    Rate(f64),
    /// The true time, and from each of these seconds on so many seconds more.
    Jumps(Vec<(f64, f64)>),
    /// A random number for each frame.
    Random,
}

/// How the camera ends a connection by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Closes it.
    Close,
    /// Sends an RTCP BYE, then closes it.
    Bye,
    /// Keeps it open and answers requests, but sends no more frames.
    Stall,
}

/// Which keepalive requests (OPTIONS, GET_PARAMETER, SET_PARAMETER during PLAY) are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// All, with 200.
    Answered,
    /// None.
    Silent,
    /// OPTIONS with 200, and the others with 501: `Public` does not name them.
    OnlyOptions,
    /// OPTIONS with 200; the others get no answer though `Public` names them.
    SilentParameters,
}

/// What the SDP says of the parameter sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sprop {
    /// Those of the stream.
    Present,
    /// Nothing.
    Absent,
    /// Valid base64 of bytes that are no parameter sets.
    Garbage,
    /// Characters that are no base64.
    Unreadable,
}

/// A section of the SDP beside the video's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// G.711 sound.
    Audio,
    /// AAC sound: that of [`Options::sound`].
    Aac,
    /// ONVIF metadata.
    Metadata,
    /// A back channel: sound to the camera.
    BackChannel,
}

/// The form of the control URLs in the SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// `trackID=video`.
    Relative,
    /// `rtsp://camera/stream/trackID=video`.
    Absolute,
    /// `rtsp://camera/stream/trackID=video?profile=main&token=1`.
    Query,
}

/// What PLAY's `RTP-Info` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtpInfo {
    /// There is none.
    Absent,
    /// Sequence number and time of the first packet.
    Right,
    /// Zero for both.
    Zero,
    /// A sequence number and time that no packet has.
    Wrong,
}

/// How to call the program.
pub const USAGE: &str = "\
usage: rtsp-camera FILE [OPTION...]
An RTSP camera with faults to choose: loops an H.264 or H.265 file in Annex B form in real time, over TCP and UDP.
Prints its URL, then a line for each event. Ends with its standard input.

  --codec h264|h265        the file's codec (h264)
  --fps N                  frames per second (15)
  --every SECONDS          seconds from frame to frame, instead of --fps
  --listen ADDRESS:PORT    (127.0.0.1:0: the system chooses the port)
  --path PATH              path of the stream (/stream)
  --forever                do not end with standard input
  --transport both|tcp|udp others get 461 (both)
  --change FILE@SECONDS    goes on with another file after that time; may be repeated

  --marker normal|never|each-packet|each-nal|first|sei|parameter-sets
                           which packets carry the marker bit
  --clock normal|const|pairs|triples|hold:FRAMES|wrap[:SECONDS]|rate:FACTOR|at:SECONDS:DELTA[,...]|random
                           what RTP timestamps say; at: they jump by DELTA seconds
  --lead SECONDS           sends so much at once at the start
  --burst FRAMES           sends so many frames together
  --start-after SECONDS    from PLAY to the first frame

  --close-after SECONDS    closes the connection; --bye-after with an RTCP BYE; --stall-after only stops the frames
  --timeout SECONDS        session timeout that SETUP names (60; 0: none)
  --keepalive answered|silent|only-options|silent-parameters
                           which keepalives get an answer
  --drop-idle SECONDS      closes the connection when no request has come for so long
  --auth SCHEMES:USER:PASSWORD
                           SCHEMES: md5, sha256, basic, or several with commas, offered in that order
  --qop                    offers qop=auth
  --nonce-uses N           a nonce is stale after so many requests

  --sprop present|absent|garbage|unreadable
                           parameter sets in the SDP
  --strip-parameter-sets   leaves them out of the stream
  --before SECTIONS, --after SECTIONS
                           audio, aac, metadata, back-channel (with commas) before and after the video in the SDP
  --motion FROM-UNTIL[,...] seconds during which the metadata says that something moves
  --refused SECTIONS       SETUP of these gets 404
  --sound FILE             AAC in ADTS form, for the section aac
  --control relative|absolute|query
                           form of the control URLs
  --no-content-base        DESCRIBE without Content-Base
  --rtp-info absent|right|zero|wrong
  --sender-reports         an RTCP sender report each second
  --odd                    answers as no standard has it: line ends, CSeq, Session, lines and sections of the SDP

  --mtu BYTES              longest RTP payload (1400)
  --aggregate              STAP-A, AP
  --single-fragments       fragmentation units that both start and end
  --sei, --delimiters      SEI, an access unit delimiter with each picture

  --lose N, --swap N, --repeat N, --malformed N
                           loses, swaps with its successor, repeats every nth packet; a malformed one after every nth
  --ssrc-change SECONDS    another SSRC from then on
  --wrong-ssrc             SETUP names another SSRC
";

/// A parsed command line.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The camera.
    pub options: Options,
    /// Whether it outlives its standard input.
    pub forever: bool,
}

impl CommandLine {
    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// Names the argument that is wrong.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments.into_iter();
        let (mut file, mut qop, mut nonce_uses, mut forever) = (None, false, None, false);
        let mut options = Options::new("", Codec::H264);
        while let Some(name) = arguments.next() {
            if !name.starts_with("--") {
                if file.replace(name.clone()).is_some() {
                    return Err(format!("{name}: a second file; later ones go with --change"));
                }
                continue;
            }
            match name.as_str() {
                "--forever" => forever = true,
                "--qop" => qop = true,
                "--strip-parameter-sets" => options.strip_parameter_sets = true,
                "--no-content-base" => options.no_content_base = true,
                "--sender-reports" => options.sender_reports = true,
                "--odd" => options.odd = true,
                "--aggregate" => options.aggregate = true,
                "--single-fragments" => options.single_fragments = true,
                "--sei" => options.sei = true,
                "--delimiters" => options.delimiters = true,
                "--wrong-ssrc" => options.wrong_ssrc = true,
                _ => {
                    let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
                    let set = if name == "--nonce-uses" {
                        number(&value).map(|uses| nonce_uses = Some(uses as u32))
                    } else {
                        options.set(&name, &value)
                    };
                    set.ok_or_else(|| format!("{name} {value}: unknown; --help lists the options"))?;
                }
            }
        }
        options.file = file.ok_or("which FILE?")?.into();
        if let Some(credentials) = &mut options.credentials {
            (credentials.qop, credentials.nonce_uses) = (qop, nonce_uses);
        }
        Ok(Self { options, forever })
    }
}

impl Options {
    /// Applies an option with a value; `None` if there is no such option or value.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "--codec" => self.codec = choice(value, &[("h264", Codec::H264), ("h265", Codec::H265)])?,
            "--fps" => self.fps = number(value).filter(|fps| *fps > 0.0)?,
            "--every" => self.fps = 1.0 / number(value).filter(|every| *every > 0.0)?,
            "--listen" => self.listen = value.parse().ok()?,
            "--path" => self.path = Some(value).filter(|path| path.starts_with('/'))?.to_owned(),
            "--transport" => {
                self.transports = choice(value, &[("both", Transports::Both), ("tcp", Transports::Tcp), ("udp", Transports::Udp)])?;
            }
            "--change" => {
                let (file, at) = value.rsplit_once('@')?;
                self.changes.push((number(at)?, file.into()));
            }
            "--marker" => self.marker = marker(value)?,
            "--clock" => self.clock = clock(value)?,
            "--lead" => self.lead = number(value)?,
            "--burst" => self.burst = value.parse().ok().filter(|frames| *frames > 0)?,
            "--start-after" => self.start_after = number(value)?,
            "--close-after" => self.end = Some((number(value)?, End::Close)),
            "--bye-after" => self.end = Some((number(value)?, End::Bye)),
            "--stall-after" => self.end = Some((number(value)?, End::Stall)),
            "--timeout" => self.timeout = value.parse().ok()?,
            "--keepalive" => self.keepalive = keepalive(value)?,
            "--drop-idle" => self.drop_idle = Some(Duration::try_from_secs_f64(number(value)?).ok()?),
            "--auth" => self.credentials = Some(Credentials::parse(value)?),
            "--sprop" => self.sprop = sprop(value)?,
            "--before" => self.before = sections(value)?,
            "--after" => self.after = sections(value)?,
            "--motion" => self.motion = value.split(',').map(span).collect::<Option<_>>()?,
            "--refused" => self.refused = sections(value)?,
            "--sound" => self.sound = Some(value.into()),
            "--control" => {
                self.control =
                    choice(value, &[("relative", Control::Relative), ("absolute", Control::Absolute), ("query", Control::Query)])?;
            }
            "--rtp-info" => {
                let values = [("absent", RtpInfo::Absent), ("right", RtpInfo::Right), ("zero", RtpInfo::Zero), ("wrong", RtpInfo::Wrong)];
                self.rtp_info = choice(value, &values)?;
            }
            "--mtu" => self.mtu = value.parse().ok().filter(|mtu| (64..=65_000).contains(mtu))?,
            "--lose" => self.lose = Some(nth(value)?),
            "--swap" => self.swap = Some(nth(value)?),
            "--repeat" => self.repeat = Some(nth(value)?),
            "--malformed" => self.malformed = Some(nth(value)?),
            "--ssrc-change" => self.ssrc_change = Some(number(value)?),
            _ => return None,
        }
        Some(())
    }
}

fn choice<T: Clone>(value: &str, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(name, _)| *name == value).map(|(_, choice)| choice.clone())
}

fn number(value: &str) -> Option<f64> {
    value.parse().ok().filter(|number: &f64| number.is_finite())
}

fn nth(value: &str) -> Option<u32> {
    value.parse().ok().filter(|nth| *nth > 0)
}

fn marker(value: &str) -> Option<Marker> {
    let values = [
        ("normal", Marker::Normal),
        ("never", Marker::Never),
        ("each-packet", Marker::EachPacket),
        ("each-nal", Marker::EachNal),
        ("first", Marker::First),
        ("sei", Marker::Sei),
        ("parameter-sets", Marker::ParameterSets),
    ];
    choice(value, &values)
}

fn keepalive(value: &str) -> Option<Keepalive> {
    let values = [
        ("answered", Keepalive::Answered),
        ("silent", Keepalive::Silent),
        ("only-options", Keepalive::OnlyOptions),
        ("silent-parameters", Keepalive::SilentParameters),
    ];
    choice(value, &values)
}

fn sprop(value: &str) -> Option<Sprop> {
    let values = [("present", Sprop::Present), ("absent", Sprop::Absent), ("garbage", Sprop::Garbage), ("unreadable", Sprop::Unreadable)];
    choice(value, &values)
}

fn sections(value: &str) -> Option<Vec<Section>> {
    let values =
        [("audio", Section::Audio), ("aac", Section::Aac), ("metadata", Section::Metadata), ("back-channel", Section::BackChannel)];
    value.split(',').map(|section| choice(section, &values)).collect()
}

fn span(value: &str) -> Option<(f64, f64)> {
    let (from, until) = value.split_once('-')?;
    Some((number(from)?, number(until)?))
}

fn clock(value: &str) -> Option<Clock> {
    let values = [
        ("normal", Clock::Normal),
        ("wrap", Clock::WrapAfter(5.0)),
        ("const", Clock::Constant),
        ("pairs", Clock::Hold(2)),
        ("triples", Clock::Hold(3)),
        ("random", Clock::Random),
    ];
    choice(value, &values).or_else(|| {
        let (kind, rest) = value.split_once(':')?;
        match kind {
            "wrap" => Some(Clock::WrapAfter(number(rest)?)),
            "hold" => Some(Clock::Hold(nth(rest)?)),
            "rate" => Some(Clock::Rate(number(rest)?)),
            "at" => {
                let jump = |jump: &str| {
                    let (at, delta) = jump.split_once(':')?;
                    Some((number(at)?, number(delta)?))
                };
                rest.split(',').map(jump).collect::<Option<_>>().map(Clock::Jumps)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<CommandLine, String> {
        CommandLine::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn every_option_of_the_usage_is_known() {
        let values = [
            ("--codec", "h265"),
            ("--listen", "127.0.0.1:554"),
            ("--path", "/ch0"),
            ("--transport", "udp"),
            ("--change", "other.h264@5"),
            ("--marker", "each-nal"),
            ("--clock", "at:2:-3600,4:1"),
            ("--keepalive", "silent"),
            ("--auth", "sha256,md5:admin:a:b"),
            ("--sprop", "garbage"),
            ("--before", "audio,metadata"),
            ("--after", "back-channel"),
            ("--motion", "3-9,20-21.5"),
            ("--refused", "metadata"),
            ("--control", "query"),
            ("--rtp-info", "zero"),
        ];
        let flags = [
            "--forever",
            "--qop",
            "--strip-parameter-sets",
            "--no-content-base",
            "--sender-reports",
            "--aggregate",
            "--single-fragments",
            "--sei",
            "--delimiters",
            "--wrong-ssrc",
            "--odd",
        ];
        let words = USAGE.split(|c: char| !(c.is_ascii_alphabetic() || c == '-'));
        let names: Vec<&str> = words.filter(|word| word.starts_with("--") && word.len() > 3 && *word != "--help").collect();
        assert!(names.len() > 30);
        for name in names {
            let line = match values.iter().find(|(of, _)| *of == name) {
                Some((_, value)) => format!("a.h264 {name} {value}"),
                None if flags.contains(&name) => format!("a.h264 {name}"),
                None => format!("a.h264 {name} 100"),
            };
            parse(&line).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn values_are_understood() {
        let line = parse("a.h264 --clock at:2:-3600,4:1 --auth sha256,md5:admin:a:b --qop --every 7 --change b.h264@5").unwrap();
        assert_eq!(line.options.clock, Clock::Jumps(vec![(2.0, -3600.0), (4.0, 1.0)]));
        let credentials = line.options.credentials.unwrap();
        assert_eq!((credentials.user.as_str(), credentials.password.as_str(), credentials.qop), ("admin", "a:b", true));
        assert!((line.options.fps - 1.0 / 7.0).abs() < 1e-9);
        assert_eq!(line.options.changes, [(5.0, "b.h264".into())]);
    }

    #[test]
    fn unknown_options_and_values_are_named() {
        for line in ["a.h264 --markers never", "a.h264 --marker always", "a.h264 b.h264", "--sei", "a.h264 --fps", "a.h264 --fps 0"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
