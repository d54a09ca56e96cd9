//! Chooses the sound of a camera in its SDP: AAC (RFC 3640), which a file can have as it is, before samples (RFC 3551). What is left
//! out, and why, is told. Pure; called once per session, after DESCRIBE.

use std::{num::NonZeroU32, sync::Arc};

use bytes::Bytes;

use super::{
    fault::short,
    offer::encodings,
    sdp::{self, Description, Section},
};
use crate::media::{
    rtp::{AuHeaders, SoundCoding},
    samples::Samples,
    sound::SoundFormat,
};

/// The fields of an AU header that are not read.
const UNREAD: [&str; 6] =
    ["ctsdeltalength", "dtsdeltalength", "randomaccessindication", "streamstateindication", "auxiliarydatasizelength", "constantsize"];

/// What a camera offers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SoundOffer {
    Nothing,
    /// Only what is left out: its name.
    LeftOut(String),
    Stream(Offered),
}

/// The stream to set up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offered {
    /// Its own URL, as the camera writes it.
    pub control: String,
    pub payload_type: u8,
    pub clock_rate: NonZeroU32,
    pub coding: SoundCoding,
}

/// Chooses the first stream of AAC that the camera sends, or else of samples.
pub(super) fn choose(description: &Description) -> SoundOffer {
    let is_sound = |section: &&Section| section.media.eq_ignore_ascii_case("audio") && !section.to_camera && section.is_rtp();
    let sections = || description.sections.iter().filter(is_sound);
    if let Some(offered) = sections().find_map(aac).or_else(|| sections().find_map(samples)) {
        return SoundOffer::Stream(offered);
    }
    sections().next().map_or(SoundOffer::Nothing, |section| SoundOffer::LeftOut(named(section)))
}

fn aac(section: &Section) -> Option<Offered> {
    encodings(section).filter(|(_, encoding, _)| encoding.eq_ignore_ascii_case("mpeg4-generic")).find_map(|(payload_type, _, rate)| {
        let clock_rate = rate.and_then(NonZeroU32::new)?;
        let parameter = |name: &str| {
            let mut parameters = section.attributes.of_format("fmtp", payload_type).flat_map(sdp::parameters);
            parameters.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim_matches('"'))
        };
        // Channels behind the rate; one if there are none.
        let map = section.attributes.of_format("rtpmap", payload_type).next()?;
        let channels = map.split('/').nth(2).map_or(Some(1), |channels| channels.trim().parse().ok());
        // A configuration that cannot be read may be of AAC that cannot be recorded; one that is left out is of the usual kind.
        let format = match parameter("config").filter(|config| !config.is_empty()) {
            Some(config) => SoundFormat::read(&hexadecimal(config)?)?,
            None => SoundFormat::plain(clock_rate.get(), channels?)?,
        };
        Some(Offered {
            control: section.control()?.to_owned(),
            payload_type: sdp::payload_type(payload_type)?,
            clock_rate,
            coding: SoundCoding::Aac(headers(parameter)?, Arc::new(format)),
        })
    })
}

fn samples(section: &Section) -> Option<Offered> {
    section.formats.iter().find_map(|format| {
        let payload_type = sdp::payload_type(format)?;
        let mut maps = section.attributes.of_format("rtpmap", format);
        let samples = match maps.next() {
            Some(map) => {
                let mut parts = map.split('/').map(str::trim);
                let encoding = parts.next()?;
                let rate = parts.next().map_or(Some(8000), |rate| rate.parse().ok())?;
                Samples::named(encoding, rate, parts.next().map_or(Some(1), |channels| channels.parse().ok())?)?
            }
            None => Samples::of_payload_type(payload_type)?,
        };
        Some(Offered {
            control: section.control()?.to_owned(),
            payload_type,
            clock_rate: NonZeroU32::new(samples.rate)?,
            coding: SoundCoding::Samples(samples),
        })
    })
}

/// How AU headers are laid out. Cameras that leave that out send the usual ones.
fn headers<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Option<AuHeaders> {
    let mode = parameter("mode").unwrap_or("AAC-hbr");
    let usual = if mode.eq_ignore_ascii_case("AAC-lbr") { AuHeaders::LOW_RATE } else { AuHeaders::HIGH_RATE };
    if UNREAD.into_iter().any(|name| parameter(name).is_some_and(|value| value != "0")) {
        return None;
    }
    let field = |name, usual, most| match parameter(name) {
        Some(length) => length.parse().ok().filter(|length| *length <= most),
        None => Some(usual),
    };
    let size = field("sizelength", usual.size, 16).filter(|size| *size > 0)?;
    Some(AuHeaders { size, index: field("indexlength", usual.index, 8)?, delta: field("indexdeltalength", usual.delta, 8)? })
}

fn hexadecimal(text: &str) -> Option<Bytes> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let is_whole = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    is_whole.then(|| digits.chunks_exact(2).map(pair).collect::<Option<Vec<u8>>>())?.map(Bytes::from)
}

/// What a section offers, in a word.
fn named(section: &Section) -> String {
    match encodings(section).next() {
        Some((_, encoding, _)) if encoding.eq_ignore_ascii_case("mpeg4-generic") => "AAC of a kind that cannot be recorded".to_owned(),
        Some((_, encoding, _)) if !encoding.is_empty() => short(&encoding.to_ascii_uppercase()),
        _ => static_encoding(section).to_owned(),
    }
}

/// What a payload type means that needs no description (RFC 3551, section 6).
fn static_encoding(section: &Section) -> &'static str {
    match section.formats.first() {
        Some(&"0") => "PCMU",
        Some(&"3") => "GSM",
        Some(&"4") => "G723",
        Some(&"8") => "PCMA",
        Some(&"9") => "G722",
        Some(&"10" | &"11") => "L16",
        Some(&"14") => "MPA",
        Some(&"18") => "G729",
        _ => "sound of a kind that the camera does not name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::samples::Law;

    const VIDEO: &str = "v=0\nm=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:video\n";
    const AAC: &str = "m=audio 0 RTP/AVP 97\na=rtpmap:97 MPEG4-GENERIC/16000/1\na=control:audio\n\
                       a=fmtp:97 streamtype=5;profile-level-id=1;mode=AAC-hbr;SizeLength=13;indexlength=3;indexdeltalength=3; config=1408\n";

    fn chosen(sound: &str) -> SoundOffer {
        choose(&Description::read(&format!("{VIDEO}{sound}")))
    }

    fn expected() -> Offered {
        Offered {
            control: "audio".into(),
            payload_type: 97,
            clock_rate: NonZeroU32::new(16_000).unwrap(),
            coding: of(AuHeaders::HIGH_RATE),
        }
    }

    fn of(headers: AuHeaders) -> SoundCoding {
        SoundCoding::Aac(headers, Arc::new(SoundFormat::plain(16_000, 1).unwrap()))
    }

    #[test]
    fn aac_is_taken_whatever_else_there_is() {
        assert_eq!(chosen(""), SoundOffer::Nothing);
        let back = "m=audio 0 RTP/AVP 0\na=sendonly\na=control:back\n";
        assert_eq!(chosen(back), SoundOffer::Nothing, "sound to the camera is none of it");
        let other = "m=audio 0 RTP/AVP 8\na=control:other\n";
        for sound in [AAC.to_owned(), format!("{back}{other}{AAC}"), format!("{AAC}{other}")] {
            assert_eq!(chosen(&sound), SoundOffer::Stream(expected()), "{sound}");
        }
        let bare = "m=audio 0 RTP/AVP 97\na=rtpmap:97 mpeg4-generic/16000\na=control:audio\n";
        assert_eq!(chosen(bare), SoundOffer::Stream(expected()), "what is left out is as usual");
        let low = AAC.replace("SizeLength=13;indexlength=3;indexdeltalength=3", "").replace("AAC-hbr", "AAC-lbr");
        assert_eq!(chosen(&low), SoundOffer::Stream(Offered { coding: of(AuHeaders::LOW_RATE), ..expected() }));
    }

    #[test]
    fn samples_are_taken_if_there_is_no_aac() {
        for (sound, law, rate, channels, payload_type) in [
            ("m=audio 0 RTP/AVP 0\n", Law::Mu, 8000, 1, 0),
            ("m=audio 0 RTP/AVP 8\na=rtpmap:8 pcma/8000\n", Law::A, 8000, 1, 8),
            ("m=audio 0 RTP/AVP 96\na=rtpmap:96 PCMU/16000\n", Law::Mu, 16_000, 1, 96),
            ("m=audio 0 RTP/AVP 9 97\na=rtpmap:9 G722/8000\na=rtpmap:97 PCMA/8000/2\n", Law::A, 8000, 2, 97),
            ("m=audio 0 RTP/AVP 11\n", Law::Linear, 44_100, 1, 11),
            ("m=audio 0 RTP/AVP 9\na=control:x\nm=audio 0 RTP/AVP 98\na=rtpmap:98 L16/48000/2\n", Law::Linear, 48_000, 2, 98),
        ] {
            let coding = SoundCoding::Samples(Samples { law, rate, channels });
            let expected = Offered { control: "audio".into(), payload_type, clock_rate: NonZeroU32::new(rate).unwrap(), coding };
            assert_eq!(chosen(&format!("{sound}a=control:audio\n")), SoundOffer::Stream(expected), "{sound}");
        }
    }

    #[test]
    fn what_is_left_out_is_named() {
        let told = |sound: &str| match chosen(sound) {
            SoundOffer::LeftOut(name) => name,
            other => panic!("{sound}: {other:?}"),
        };
        assert_eq!(told("m=audio 0 RTP/AVP 0\n"), "PCMU", "it has no address");
        assert_eq!(told("m=audio 0 RTP/AVP 8 0\na=rtpmap:8 pcma/8000\na=rtpmap:0 PCMU/8000\n"), "PCMA");
        for rate in ["0", "x", "7350", "4000000000", "8000/3"] {
            assert_eq!(told(&format!("m=audio 0 RTP/AVP 97\na=rtpmap:97 PCMU/{rate}\na=control:audio\n")), "PCMU", "{rate}");
        }
        assert_eq!(told("m=audio 0 RTP/AVP 97\na=rtpmap:97 G726-32/8000\n"), "G726-32");
        assert_eq!(told("m=audio 0 RTP/AVP 111\na=rtpmap:111 opus/48000/2\n"), "OPUS");
        assert_eq!(told("m=audio 0 RTP/AVP 99\n"), "sound of a kind that the camera does not name");
        for (from, to) in [
            ("config=1408", "config=0C08"),
            ("config=1408", "config=140"),
            ("config=1408", "config=14+8"),
            ("config=1408", "constantsize=9"),
            ("SizeLength=13", "SizeLength=17"),
            ("SizeLength=13", "SizeLength=0"),
            ("indexlength=3", "indexlength=x"),
            ("16000", "0"),
            ("a=control:audio\n", ""),
        ] {
            assert_eq!(told(&AAC.replace(from, to)), "AAC of a kind that cannot be recorded", "{to}");
        }
    }
}
