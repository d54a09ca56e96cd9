//! Chooses among the streams that a camera offers in its SDP, and takes the parameter sets from there. Audio, metadata and
//! back-channels are left alone. Pure; called once per session, after DESCRIBE.

use std::num::NonZeroU32;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use retina::client::Stream;

use crate::media::{frame::Codec, source::SourceError};

/// Cameras differ in whether they pad.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// The stream to set up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Among the streams of the session.
    pub index: usize,
    pub codec: Codec,
    pub payload_type: u8,
    pub clock_rate: NonZeroU32,
    /// NAL units from the SDP, in its order. Empty if they come in band.
    pub parameter_sets: Vec<Bytes>,
}

/// One of the streams offered, as far as the choice needs it.
#[derive(Debug, Clone, Copy)]
struct Offered<'a> {
    media: &'a str,
    encoding: &'a str,
    payload_type: u8,
    clock_rate: u32,
}

/// Chooses H.264, or else H.265.
///
/// # Errors
/// The camera offers neither: what it sends, and what to do.
pub(super) fn choose(streams: &[Stream], sdp: &[u8]) -> Result<Offer, SourceError> {
    let offered: Vec<Offered> = streams
        .iter()
        .map(|stream| Offered {
            media: stream.media(),
            encoding: stream.encoding_name(),
            payload_type: stream.rtp_payload_type(),
            clock_rate: stream.clock_rate_hz(),
        })
        .collect();
    choose_of(&offered, &String::from_utf8_lossy(sdp))
}

fn choose_of(offered: &[Offered], sdp: &str) -> Result<Offer, SourceError> {
    for (codec, name) in [(Codec::H264, "h264"), (Codec::H265, "h265")] {
        let found = offered.iter().enumerate().find(|(_, stream)| stream.media == "video" && stream.encoding == name);
        let Some((index, stream)) = found else { continue };
        // Both payload formats have one rate (RFC 6184, section 8.2.1; RFC 7798, section 7.2.1).
        let clock_rate = NonZeroU32::new(stream.clock_rate).unwrap_or(NonZeroU32::new(90_000).expect("not zero"));
        let parameter_sets = parameter_sets(sdp, codec, stream.payload_type);
        return Ok(Offer { index, codec, payload_type: stream.payload_type, clock_rate, parameter_sets });
    }
    let other = offered.iter().find(|stream| stream.media == "video").map(|stream| match stream.encoding {
        "jpeg" => "MJPEG".to_owned(),
        "mp4v-es" => "MPEG-4 Part 2".to_owned(),
        "h265" | "h264" | "av1" | "vp8" | "vp9" => stream.encoding.to_uppercase(),
        other => other.chars().filter(|c| !c.is_control()).take(40).collect(),
    });
    Err(SourceError::Unusable(match other {
        Some(other) => format!("the camera sends {other}, and the agent reads H.264 and H.265: set the camera to H.264"),
        None => "the camera offers no video at this path: correct the path in the address".into(),
    }))
}

/// The parameter sets in the `fmtp` line of this payload type: `sprop-parameter-sets` (RFC 6184, section 8.1), or `sprop-vps`,
/// `sprop-sps` and `sprop-pps` (RFC 7798, section 7.1). One that is no Base64 is left out: it may come in band.
fn parameter_sets(sdp: &str, codec: Codec, payload_type: u8) -> Vec<Bytes> {
    let names: &[&str] = match codec {
        Codec::H264 => &["sprop-parameter-sets"],
        Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
    };
    let payload_type = payload_type.to_string();
    let mut in_video = false;
    let mut sets = Vec::new();
    for line in sdp.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            in_video = media.starts_with("video") && sets.is_empty();
        }
        let Some((kind, parameters)) = line.strip_prefix("a=fmtp:").filter(|_| in_video).and_then(|line| line.split_once(' ')) else {
            continue;
        };
        if kind != payload_type {
            continue;
        }
        for name in names {
            for parameter in parameters.split(';') {
                let Some((key, value)) = parameter.trim().split_once('=') else { continue };
                if key.trim().eq_ignore_ascii_case(name) {
                    let units = value.split(',').map(|unit| unit.trim().trim_matches('"'));
                    sets.extend(units.filter_map(|unit| BASE64.decode(unit).ok()).filter(|unit| !unit.is_empty()).map(Bytes::from));
                }
            }
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream<'a>(media: &'a str, encoding: &'a str, payload_type: u8) -> Offered<'a> {
        Offered { media, encoding, payload_type, clock_rate: 90_000 }
    }

    #[test]
    fn h264_is_taken_before_h265_and_what_is_no_picture_never() {
        let audio = [stream("audio", "pcma", 8), stream("application", "vnd.onvif.metadata", 107), stream("audio", "h264", 97)];
        let both = [audio[0], stream("video", "h265", 98), audio[1], stream("video", "h264", 96), audio[2]];
        let chosen = choose_of(&both, "").unwrap();
        assert_eq!((chosen.index, chosen.codec, chosen.payload_type), (3, Codec::H264, 96));
        assert_eq!(choose_of(&both[..3], "").unwrap().codec, Codec::H265);
        let told = |offered: &[Offered]| choose_of(offered, "").unwrap_err().to_string();
        assert!(told(&audio).contains("no video"));
        assert!(told(&[stream("video", "jpeg", 26)]).starts_with("the camera sends MJPEG, and"));
        assert!(told(&[stream("video", "av1", 26)]).contains("AV1"));
    }

    #[test]
    fn parameter_sets_are_those_of_the_stream_chosen() {
        let sdp = "v=0\r\nm=audio 0 RTP/AVP 96\r\na=fmtp:96 sprop-parameter-sets=AAAA\r\n\
                   m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                   a=fmtp:96 packetization-mode=1; profile-level-id=4D401F; Sprop-Parameter-Sets=Z00AHg==,aO4=, aO8 ,!\r\n\
                   m=video 0 RTP/AVP 98\r\na=fmtp:98 sprop-pps=RAHA;sprop-vps=QAEM;sprop-sps=\"QgEB\"\r\n";
        let of = |codec, payload_type| parameter_sets(sdp, codec, payload_type).iter().map(|set| set.to_vec()).collect::<Vec<_>>();
        assert_eq!(of(Codec::H264, 96), [vec![0x67, 0x4D, 0, 0x1E], vec![0x68, 0xEE], vec![0x68, 0xEF]]);
        assert_eq!(of(Codec::H265, 98), [[0x40, 1, 0x0C], [0x42, 1, 1], [0x44, 1, 0xC0]]);
        assert!(of(Codec::H264, 97).is_empty() && of(Codec::H265, 96).is_empty());
    }
}
