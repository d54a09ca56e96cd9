//! The lines of a session description (RFC 8866) that filming needs. A line that is none of them, or none at all, is passed over:
//! cameras write names, blanks and comments where the standard has none. Pure; the fuzz target `rtsp` feeds it. Called by `offer`.

/// The most streams, the most payload types of one, and the most attributes that are read of it. Further ones are passed over.
const MOST_SECTIONS: usize = 32;
const MOST_FORMATS: usize = 32;
const MOST_ATTRIBUTES: usize = 64;
/// The attributes that are read.
const READ: [&str; 3] = ["control", "rtpmap", "fmtp"];

/// What a camera offers.
#[derive(Debug, Default)]
pub(super) struct Description<'a> {
    /// Those of the session as a whole.
    attributes: Attributes<'a>,
    pub sections: Vec<Section<'a>>,
}

/// A stream: an `m=` line, and its attributes.
#[derive(Debug)]
pub(super) struct Section<'a> {
    /// `video`, `audio`, `application`.
    pub media: &'a str,
    /// `RTP/AVP`.
    pub protocol: &'a str,
    /// Payload types, the preferred one first. There may be none.
    pub formats: Vec<&'a str>,
    /// It goes to the camera, not from it (`sendonly`): a back-channel.
    pub to_camera: bool,
    pub attributes: Attributes<'a>,
}

/// Those that are read and have a value.
#[derive(Debug, Default)]
pub(super) struct Attributes<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Attributes<'a> {
    /// The values of an attribute.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// Those that begin with a payload type: what follows it.
    pub fn of_format(&self, name: &str, format: &str) -> impl Iterator<Item = &'a str> {
        self.all(name).filter_map(move |value| {
            let (of, value) = value.split_once([' ', '\t'])?;
            (of == format).then(|| value.trim())
        })
    }

    fn take(&mut self, attribute: &'a str) {
        let Some((name, value)) = attribute.split_once(':').map(|(name, value)| (name.trim(), value.trim())) else { return };
        let read = READ.iter().any(|read| read.eq_ignore_ascii_case(name)) && !value.is_empty();
        if read && self.0.len() < MOST_ATTRIBUTES {
            self.0.push((name, value));
        }
    }
}

impl<'a> Section<'a> {
    /// Whether it comes as RTP.
    pub fn is_rtp(&self) -> bool {
        self.protocol.to_ascii_uppercase().contains("RTP/")
    }

    /// Its own URL, as the camera writes it.
    pub fn control(&self) -> Option<&'a str> {
        self.attributes.all("control").last()
    }
}

/// The number of a payload type, 0 to 127.
pub(super) fn payload_type(format: &str) -> Option<u8> {
    format.parse().ok().filter(|kind| *kind < 128)
}

/// The parameters of an `fmtp` line, in its order.
pub(super) fn parameters(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = line.split(';').filter_map(|parameter| parameter.split_once('='));
    pairs.map(|(name, value)| (name.trim(), value.trim()))
}

impl<'a> Description<'a> {
    /// Reads all there is to read.
    pub fn read(text: &'a str) -> Self {
        let mut description = Self::default();
        for line in text.split(['\r', '\n']).map(str::trim) {
            match line.split_once('=') {
                Some(("m", _)) if description.sections.len() == MOST_SECTIONS => break,
                Some(("m", value)) => description.sections.extend(Section::read(value)),
                Some(("a", "sendonly")) => {
                    if let Some(section) = description.sections.last_mut() {
                        section.to_camera = true;
                    }
                }
                Some(("a", value)) => match description.sections.last_mut() {
                    Some(section) => section.attributes.take(value),
                    None => description.attributes.take(value),
                },
                _ => {}
            }
        }
        description
    }

    /// The URL that controls all streams at once (RFC 2326, C.1.1).
    pub fn control(&self) -> Option<&'a str> {
        self.attributes.all("control").next()
    }
}

impl<'a> Section<'a> {
    /// Reads `video 0 RTP/AVP 96 97`.
    fn read(value: &'a str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let media = words.next()?;
        // The port, which RTSP does not use.
        words.next();
        let protocol = words.next().unwrap_or_default();
        let formats = words.take(MOST_FORMATS).collect();
        Some(Self { media, protocol, formats, to_camera: false, attributes: Attributes::default() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sections_have_their_own_attributes_and_other_lines_none() {
        let text = "v=0\r\nCamera 1\r\n \r\na=control:*\r\na=recvonly\nm=audio 0 RTP/AVP 8 0\na=control: audio \n=\nm=\n \
                    m=video  0  RTP/AVP\t96\r\ra=rtpmap:96 H264/90000\ra=rtpmap:97\tH265/90000 \ra=fmtp:96\na=control\na=control:video\nx";
        let description = Description::read(text);
        assert_eq!(description.control(), Some("*"));
        let [audio, video] = &description.sections[..] else { panic!("{description:?}") };
        assert_eq!((audio.media, audio.protocol, &audio.formats[..]), ("audio", "RTP/AVP", &["8", "0"][..]));
        assert_eq!(audio.attributes.all("control").collect::<Vec<_>>(), ["audio"]);
        assert_eq!((video.media, &video.formats[..]), ("video", &["96"][..]));
        assert_eq!(video.attributes.of_format("rtpmap", "97").collect::<Vec<_>>(), ["H265/90000"]);
        assert_eq!(video.attributes.of_format("fmtp", "96").count(), 0);
        assert_eq!(video.attributes.all("control").collect::<Vec<_>>(), ["video"]);
    }

    #[test]
    fn what_is_beyond_the_bounds_is_passed_over() {
        let formats = format!("m=video 0 RTP/AVP {}\n", "9 ".repeat(1000));
        let text = format!("{formats}{}{}", "a=x:y\na=rtpmap:9 x\n".repeat(1000), "m=audio 0 RTP/AVP 8\n".repeat(1000));
        let description = Description::read(&text);
        assert_eq!((description.sections.len(), description.sections[0].formats.len()), (MOST_SECTIONS, MOST_FORMATS));
        assert_eq!(description.sections[0].attributes.0.len(), MOST_ATTRIBUTES);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "([vmao]=|video|[ :/=\r\n\t]|[ -~\u{e4}]){0,60}") {
            let _ = Description::read(&text).control();
        }
    }
}
