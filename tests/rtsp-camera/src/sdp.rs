//! The session description (RFC 8866) that DESCRIBE answers.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    adts::Sound,
    annexb::{Codec, Video},
    options::{Control, Options, Section, Sprop},
};

/// A section of the description, as SETUP names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Video,
    Beside(Section),
}

impl Media {
    pub(crate) const ALL: [Self; 5] = [
        Self::Video,
        Self::Beside(Section::Audio),
        Self::Beside(Section::Aac),
        Self::Beside(Section::Metadata),
        Self::Beside(Section::BackChannel),
    ];

    /// The end of its control URL's path.
    pub(crate) fn track(self) -> &'static str {
        match self {
            Self::Video => "trackID=video",
            Self::Beside(Section::Audio) => "trackID=audio",
            Self::Beside(Section::Aac) => "trackID=aac",
            Self::Beside(Section::Metadata) => "trackID=metadata",
            Self::Beside(Section::BackChannel) => "trackID=back",
        }
    }

    /// Its control URL; `base` is the stream's URL without a trailing slash.
    pub(crate) fn control(self, control: Control, base: &str) -> String {
        match control {
            Control::Relative => self.track().to_owned(),
            Control::Absolute => format!("{base}/{}", self.track()),
            Control::Query => format!("{base}/{}?profile=main&token=1", self.track()),
        }
    }
}

/// The description; `base` is the stream's URL without a trailing slash.
pub(crate) fn describe(options: &Options, video: &Video, sound: Option<&Sound>, base: &str) -> String {
    let session = if options.control == Control::Relative { "*" } else { base };
    let mut text = format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=Camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:{session}\r\n");
    if options.odd {
        text.push_str("Camera 1\r\n \r\nm=application 0 RTP/AVP \r\nfirmware\r\n");
    }
    let beside = |sections: &[Section]| sections.iter().map(|section| Media::Beside(*section)).collect::<Vec<_>>();
    for media in [beside(&options.before), vec![Media::Video], beside(&options.after)].concat() {
        text.push_str(&match media {
            Media::Video => {
                let name = if options.codec == Codec::H264 { "H264" } else { "H265" };
                let format = format(options, video);
                let format = if format.is_empty() { format } else { format!("a=fmtp:96 {format}\r\n") };
                format!("m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n{format}a=recvonly\r\n")
            }
            Media::Beside(Section::Audio) => "m=audio 0 RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\na=recvonly\r\n".to_owned(),
            Media::Beside(Section::Aac) => sound.map_or_else(String::new, |sound| {
                let Sound { rate, channels, configuration: [first, second], .. } = sound;
                let format = "streamtype=5;profile-level-id=1;mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3";
                let (map, config) = (format!("MPEG4-GENERIC/{rate}/{channels}"), format!("config={first:02X}{second:02X}"));
                format!("m=audio 0 RTP/AVP 97\r\na=rtpmap:97 {map}\r\na=fmtp:97 {format};{config}\r\na=recvonly\r\n")
            }),
            Media::Beside(Section::Metadata) => {
                "m=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\na=recvonly\r\n".to_owned()
            }
            Media::Beside(Section::BackChannel) => "m=audio 0 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\n".to_owned(),
        });
        let _ = write!(text, "a=control:{}\r\n", media.control(options.control, base));
    }
    text
}

/// The `fmtp` parameters (RFC 6184 section 8.1, RFC 7798 section 7.1).
fn format(options: &Options, video: &Video) -> String {
    let set = |nal_type| video.parameter_set(nal_type).unwrap_or_default();
    let base64 = |nal_type| STANDARD.encode(set(nal_type));
    match (options.codec, options.sprop) {
        (Codec::H264, sprop) => {
            let mode = "packetization-mode=1";
            match sprop {
                Sprop::Absent => mode.to_owned(),
                Sprop::Present => {
                    let profile: String = set(7).iter().skip(1).take(3).map(|byte| format!("{byte:02X}")).collect();
                    format!("{mode};profile-level-id={profile};sprop-parameter-sets={},{}", base64(7), base64(8))
                }
                Sprop::Garbage => format!("{mode};sprop-parameter-sets=3q2+7w==,yv66vg=="),
                Sprop::Unreadable => format!("{mode};sprop-parameter-sets=!!!,%%%"),
            }
        }
        (Codec::H265, Sprop::Absent) => String::new(),
        (Codec::H265, Sprop::Present) => format!("sprop-vps={};sprop-sps={};sprop-pps={}", base64(32), base64(33), base64(34)),
        (Codec::H265, Sprop::Garbage) => "sprop-vps=3q2+7w==;sprop-sps=3q2+7w==;sprop-pps=yv66vg==".to_owned(),
        (Codec::H265, Sprop::Unreadable) => "sprop-vps=!!!;sprop-sps=%%%;sprop-pps=!!!".to_owned(),
    }
}
