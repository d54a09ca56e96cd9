//! Finds the ONVIF metadata among what a camera offers (ONVIF Streaming Specification, *RTP for metadata streams*), and what it is
//! encoded with. Pure. Called by `metadata`.

use crate::media::{
    motion::onvif::Blind,
    rtsp::{
        fault::short,
        offer::encodings,
        sdp::{self, Description},
    },
};

/// Plain XML. The others have the encoding behind it: `.gzip`, `.exi.onvif`, `.exi.ext`.
const PLAIN: &str = "vnd.onvif.metadata";

/// The stream to set up beside the picture.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::media::rtsp) struct MetadataOffer {
    /// Its own URL, as the camera writes it. `None`: that of all streams.
    pub control: Option<String>,
    pub payload_type: u8,
}

/// Chooses the first stream of plain XML.
///
/// # Errors
/// The camera offers none.
pub(in crate::media::rtsp) fn choose(description: &Description) -> Result<MetadataOffer, Blind> {
    let mut other = None;
    for section in description.sections.iter().filter(|section| section.is_rtp()) {
        for (format, encoding, _) in encodings(section) {
            let Some(rest) =
                encoding.get(..PLAIN.len()).filter(|start| start.eq_ignore_ascii_case(PLAIN)).map(|_| &encoding[PLAIN.len()..])
            else {
                continue;
            };
            if let Some(payload_type) = sdp::payload_type(format).filter(|_| rest.is_empty()) {
                return Ok(MetadataOffer { control: section.control().map(str::to_owned), payload_type });
            }
            other.get_or_insert_with(|| short(encoding));
        }
    }
    Err(other.map_or(Blind::NotOffered, Blind::Encoding))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(sdp: &str) -> Result<MetadataOffer, Blind> {
        choose(&Description::read(sdp))
    }

    #[test]
    fn plain_xml_is_taken_and_what_is_compressed_is_named() {
        const VIDEO: &str = "m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=control:video\n";
        let plain = |control: Option<&str>, payload_type| Ok(MetadataOffer { control: control.map(str::to_owned), payload_type });
        let axis = "m=application 0 RTP/AVP 98\na=rtpmap:98 vnd.onvif.metadata/90000\na=control:rtsp://h/axis-media/stream=2\n";
        assert_eq!(chosen(&format!("{VIDEO}{axis}")), plain(Some("rtsp://h/axis-media/stream=2"), 98));
        assert_eq!(chosen("m=application 0 RTP/AVP 107\na=rtpmap:107 VND.ONVIF.METADATA/90000\n"), plain(None, 107));
        assert_eq!(chosen("m=metadata 0 RTP/AVPF 107\na=rtpmap:107 vnd.onvif.metadata"), plain(None, 107));
        let both = "m=application 0 RTP/AVP 108 107\na=rtpmap:108 vnd.onvif.metadata.gzip/90000\na=rtpmap:107 vnd.onvif.metadata/90000\n";
        assert_eq!(chosen(both), plain(None, 107));
        for encoding in ["vnd.onvif.metadata.gzip", "vnd.onvif.metadata.exi.onvif", "vnd.onvif.metadata.exi.ext"] {
            let sdp = format!("{VIDEO}m=application 0 RTP/AVP 107\na=rtpmap:107 {encoding}/90000\n");
            assert_eq!(chosen(&sdp), Err(Blind::Encoding(encoding.into())));
        }
        for none in [
            VIDEO,
            "",
            "m=application 0 UDP 107\na=rtpmap:107 vnd.onvif.metadata/90000\n",
            "m=audio 0 RTP/AVP 8\na=rtpmap:8 ä\u{20ac}vnd.onvif.metadat€\n",
        ] {
            assert_eq!(chosen(none), Err(Blind::NotOffered), "{none}");
        }
    }
}
