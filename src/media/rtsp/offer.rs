//! Chooses the picture among the streams that a camera offers in its SDP, and takes the parameter sets from there. Sound is the
//! matter of `sound_offer`, metadata of `metadata`; back-channels are left alone. Pure; called once per session, after DESCRIBE.

use std::num::NonZeroU32;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;

use super::{
    fault::short,
    sdp::{self, Description, Section},
};
use crate::media::{frame::Codec, source::SourceError};

/// Cameras differ in whether they pad.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
/// Both payload formats have one rate (RFC 6184, section 8.2.1; RFC 7798, section 7.2.1). Some cameras name another.
const CLOCK_RATE: NonZeroU32 = NonZeroU32::new(90_000).expect("not zero");

/// The stream to set up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its own URL, as the camera writes it. `None`: that of all streams.
    pub control: Option<String>,
    pub codec: Codec,
    pub payload_type: u8,
    pub clock_rate: NonZeroU32,
    /// NAL units from the SDP, in its order. Empty if they come in band.
    pub parameter_sets: Vec<Bytes>,
    /// H.265 with decoding order numbers.
    pub numbered: bool,
}

/// Chooses H.264, or else H.265.
///
/// # Errors
/// The camera offers neither: what it sends, and what to do.
pub(super) fn choose(description: &Description) -> Result<Offer, SourceError> {
    let videos = || description.sections.iter().filter(|section| section.media.eq_ignore_ascii_case("video"));
    for (codec, name) in [(Codec::H264, "H264"), (Codec::H265, "H265")] {
        if let Some(offer) = videos().find_map(|section| offer(section, codec, name)) {
            return Ok(offer);
        }
    }
    let Some(video) = videos().next() else {
        return Err(SourceError::Unusable("the camera offers no video at this path: correct the path in the address".into()));
    };
    let encoding = encodings(video).next().map_or_else(|| static_encoding(video), |(_, encoding, _)| encoding);
    let other = match encoding.to_ascii_uppercase().as_str() {
        "" => "video of a kind that it does not name".to_owned(),
        "JPEG" => "MJPEG".to_owned(),
        "MP4V-ES" => "MPEG-4 Part 2".to_owned(),
        "H264" | "H265" => format!("{encoding} in a form that cannot be used ({})", short(video.protocol)),
        "AV1" | "VP8" | "VP9" => encoding.to_ascii_uppercase(),
        _ => short(encoding),
    };
    Err(SourceError::Unusable(format!("the camera sends {other}, and the agent reads H.264 and H.265: set the camera to H.264")))
}

/// The first payload type of a section that has this encoding.
fn offer(section: &Section, codec: Codec, name: &str) -> Option<Offer> {
    if !section.is_rtp() {
        return None;
    }
    let (format, _, rate) = encodings(section).find(|(_, encoding, _)| encoding.eq_ignore_ascii_case(name))?;
    Some(Offer {
        control: section.control().map(str::to_owned),
        codec,
        payload_type: sdp::payload_type(format)?,
        clock_rate: rate.and_then(NonZeroU32::new).unwrap_or(CLOCK_RATE),
        parameter_sets: parameter_sets(section, codec, format),
        // RFC 7798, section 7.1.
        numbered: codec == Codec::H265
            && parameters(section, format).any(|(key, value)| key.eq_ignore_ascii_case("sprop-max-don-diff") && value != "0"),
    })
}

/// Payload type, encoding and clock rate of the formats that a section names, in its order; all that are described if it names none.
pub(super) fn encodings<'a>(section: &'a Section) -> impl Iterator<Item = (&'a str, &'a str, Option<u32>)> {
    let maps = || section.attributes.all("rtpmap").filter_map(|map| map.split_once([' ', '\t']));
    let named = section.formats.iter().flat_map(move |format| maps().find(|(of, _)| of == format));
    let any = maps().filter(|_| section.formats.is_empty());
    named.chain(any).map(|(format, map)| {
        let mut parts = map.trim().split('/');
        (format, parts.next().unwrap_or_default().trim(), parts.next().and_then(|rate| rate.trim().parse().ok()))
    })
}

/// What a payload type means that needs no description (RFC 3551, section 6).
fn static_encoding(section: &Section) -> &'static str {
    match section.formats.first() {
        Some(&"26") => "JPEG",
        Some(&"31") => "H261",
        Some(&"32") => "MPV",
        Some(&"33") => "MP2T",
        Some(&"34") => "H263",
        _ => "",
    }
}

fn parameters<'a>(section: &'a Section, format: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    section.attributes.of_format("fmtp", format).flat_map(sdp::parameters)
}

/// The parameter sets in the `fmtp` lines of this payload type: `sprop-parameter-sets` (RFC 6184, section 8.1), or `sprop-vps`,
/// `sprop-sps` and `sprop-pps` (RFC 7798, section 7.1). One that is no Base64 is left out: it may come in band.
fn parameter_sets(section: &Section, codec: Codec, format: &str) -> Vec<Bytes> {
    let names: &[&str] = match codec {
        Codec::H264 => &["sprop-parameter-sets"],
        Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
    };
    let mut sets = Vec::new();
    for name in names {
        for (_, value) in parameters(section, format).filter(|(key, _)| key.eq_ignore_ascii_case(name)) {
            let units = value.split(',').map(|unit| unit.trim().trim_matches('"'));
            sets.extend(units.filter_map(|unit| BASE64.decode(unit).ok()).filter(|unit| !unit.is_empty()).map(Bytes::from));
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIO: &str = "m=audio 0 RTP/AVP 8\r\nm=application 0 RTP/AVP 107\r\na=rtpmap:107 vnd.onvif.metadata/90000\r\n\
                         m=audio 0 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\n";

    fn chosen(sdp: &str) -> Result<Offer, SourceError> {
        choose(&Description::read(sdp))
    }

    fn told(sdp: &str) -> String {
        chosen(sdp).unwrap_err().to_string()
    }

    #[test]
    fn h264_is_taken_before_h265_and_what_is_no_picture_never() {
        let h265 = format!("{AUDIO}m=video 0 RTP/AVP 98\na=rtpmap:98 H265/90000\na=control:second\n");
        let both = format!("{h265}{AUDIO}m=VIDEO 0 RTP/AVP 96\na=rtpmap:96 h264/90000/1\na=control\na=control:third\n{AUDIO}");
        let offer = chosen(&both).unwrap();
        assert_eq!((offer.control.as_deref(), offer.codec, offer.payload_type), (Some("third"), Codec::H264, 96));
        assert_eq!(chosen(&h265).unwrap().codec, Codec::H265);
        assert!(told(AUDIO).contains("no video"));
        assert!(told("m=video 0 RTP/AVP 26\n").starts_with("the camera sends MJPEG, and"));
        assert!(told("m=video 0 RTP/AVP 26\na=rtpmap:26 av1/90000\n").contains("AV1"));
        assert!(told("m=video 0 RTP/AVP 96\n").contains("a kind that it does not name"));
        assert!(told("m=video 0 UDP 96\na=rtpmap:96 H264/90000\n").contains("a form that cannot be used (UDP)"));
    }

    #[test]
    fn a_description_with_gaps_is_used_as_far_as_it_goes() {
        for (video, payload_type) in [
            ("m=video 0 RTP/AVP 96\na=rtpmap:96 H264", 96),
            ("m=video 0 RTP/AVP 96\na=rtpmap:96  H264 / 0 ", 96),
            ("m=video 0 RTP/AVP\na=rtpmap:97 H264/90000", 97),
            ("m=video 0 RTP/AVP 26 96\na=rtpmap:96 H264/90000", 96),
            ("m=video 0 RTP/AVPF 96\na=rtpmap:95 JPEG/90000\na=rtpmap:96 H264/90000", 96),
            ("m=video 0 RTP/AVP 300 96\na=rtpmap:300 H264/90000\nm=video 0 rtp/avp 96\na=rtpmap:96 H264/x", 96),
        ] {
            let offer = chosen(video).unwrap();
            assert_eq!((offer.payload_type, offer.clock_rate.get(), offer.control), (payload_type, 90_000, None), "{video}");
        }
    }

    #[test]
    fn parameter_sets_are_those_of_the_stream_chosen() {
        let sdp = "v=0\r\nm=audio 0 RTP/AVP 96\r\na=fmtp:96 sprop-parameter-sets=AAAA\r\n\
                   m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
                   a=fmtp:96 packetization-mode=1; profile-level-id=4D401F; Sprop-Parameter-Sets=Z00AHg==,aO4=, aO8 ,!\r\n\
                   m=video 0 RTP/AVP 98\r\na=rtpmap:98 H265/90000\r\na=fmtp:98 sprop-pps=RAHA;sprop-vps=QAEM;sprop-sps=\"QgEB\"\r\n";
        let of = |sdp: &str| chosen(sdp).unwrap().parameter_sets.iter().map(|set| set.to_vec()).collect::<Vec<_>>();
        assert_eq!(of(sdp), [vec![0x67, 0x4D, 0, 0x1E], vec![0x68, 0xEE], vec![0x68, 0xEF]]);
        assert_eq!(of(&sdp.replace("H264", "JPEG")), [[0x40, 1, 0x0C], [0x42, 1, 1], [0x44, 1, 0xC0]]);
        assert!(of(&sdp.replace("fmtp:96", "fmtp:97")).is_empty());
    }

    #[test]
    fn h265_has_decoding_order_numbers_if_they_may_differ_from_the_order_sent() {
        for (fmtp, numbered) in [("", false), ("sprop-max-don-diff=0", false), ("tx-mode=SRST; Sprop-Max-Don-Diff = 2", true)] {
            let sdp = format!("m=video 0 RTP/AVP 98\na=rtpmap:98 H265/90000\na=fmtp:98 {fmtp}\n");
            assert_eq!(chosen(&sdp).unwrap().numbered, numbered, "{fmtp}");
            assert!(!chosen(&sdp.replace("H265", "H264")).unwrap().numbered, "{fmtp}");
        }
    }
}
