//! One encoded frame as plain data: what a source hands over, and all that the ring, clips and recordings know of it. The bytes
//! are the agent's own copy: holding a capture driver's buffers would starve it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{
    h264, h265,
    sound::{SoundFormat, Soundtrack},
    usability::Usability,
};

/// How frames are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// ITU-T H.264, AVC.
    H264,
    /// ITU-T H.265, HEVC.
    H265,
}

impl Codec {
    /// The parameter sets in a configuration record of this codec, in its order, up to where it is cut off.
    pub(super) fn parameter_sets(self, record: &[u8]) -> Vec<&[u8]> {
        match self {
            Self::H264 => h264::parameter_sets(record),
            Self::H265 => h265::parameter_sets(record),
        }
    }
}

/// What a decoder must know before the first frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// What decodes it.
    pub codec: Codec,
    /// Pixels.
    pub width: u16,
    /// Pixels.
    pub height: u16,
    /// The parameter sets, as an AVCDecoderConfigurationRecord or HEVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1 and
    /// 8.3.3.1), which says that NAL units have lengths of four bytes.
    pub configuration: Bytes,
}

impl Format {
    /// How it is coded, in the terms of the standard: `H.264 High 4:2:2, interlaced`.
    pub fn coding(&self) -> String {
        match self.codec {
            Codec::H264 => h264::describe(&self.configuration),
            Codec::H265 => h265::describe(&self.configuration),
        }
    }

    /// What its parameter sets say about showing its pictures.
    pub(super) fn usability(&self) -> Usability {
        match self.codec {
            Codec::H264 => h264::usability(&self.configuration),
            Codec::H265 => h265::usability(&self.configuration),
        }
    }

    /// The type of an MP4 file of it, with this sound (RFC 6381), as browsers ask for it: `video/mp4; codecs="avc1.64001F,mp4a.40.2"`.
    pub(super) fn media_type(&self, sound: Option<&SoundFormat>) -> String {
        let codecs = match self.codec {
            Codec::H264 => h264::codecs(&self.configuration),
            Codec::H265 => h265::codecs(&self.configuration),
        };
        let sound = sound.map_or_else(String::new, |sound| format!(",mp4a.40.{}", sound.kind()));
        format!("video/mp4; codecs=\"{codecs}{sound}\"")
    }

    /// The parameter sets as a sample holds them: NAL units, each prefixed by its length in four bytes.
    pub(super) fn parameter_sets(&self) -> Vec<u8> {
        let mut data = Vec::new();
        for set in self.codec.parameter_sets(&self.configuration) {
            // Their lengths are of two bytes in the record.
            data.extend_from_slice(&(set.len() as u32).to_be_bytes());
            data.extend_from_slice(set);
        }
        data
    }
}

/// `640x360 H.264 High`.
impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{} {}", self.width, self.height, self.coding())
    }
}

/// One access unit in decoding order. It carries no DTS: the MP4 writer derives decoding times from the presentation times.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Presentation time. A source counts from the start of its session; in a ring it counts from the start of the stream and
    /// never goes back from one session to the next.
    pub pts: Duration,
    /// Whether decoding can begin here.
    pub key: bool,
    /// When the agent received it.
    pub taken: Instant,
    /// NAL units, each prefixed by its length in four bytes.
    pub data: Bytes,
    /// The same for all frames until the parameter sets change.
    pub format: Arc<Format>,
    /// What is heard until it is shown. A source leaves it `None`: the session adds what [`super::Session::sound`] was given.
    pub sound: Option<Soundtrack>,
}

impl Frame {
    /// The same without what is heard before it.
    pub(super) fn without_units(mut self) -> Self {
        self.sound.iter_mut().for_each(|sound| sound.units.clear());
        self
    }

    /// How much memory it takes, with its sound, bytes.
    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.sound.as_ref().map_or(0, Soundtrack::bytes)
    }
}
