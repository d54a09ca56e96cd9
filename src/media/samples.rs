//! Sound that comes as samples: G.711 and L16 over RTP (RFC 3551). No file has it as it is; GStreamer makes AAC of it where it is
//! there. Plain data.

/// How samples are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Law {
    /// G.711 µ-law: a byte each.
    Mu,
    /// G.711 A-law: a byte each.
    A,
    /// 16 bits each, the higher byte first.
    Linear,
}

/// A stream of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Samples {
    pub law: Law,
    /// Samples a second of one channel, Hz, 8000 to 48000.
    pub rate: u32,
    /// 1 or 2.
    pub channels: u8,
}

impl Samples {
    /// The encoding of this name (RFC 3551, table 4). `None`: no such samples.
    pub fn named(encoding: &str, rate: u32, channels: u8) -> Option<Self> {
        let named = |name: &str| encoding.eq_ignore_ascii_case(name);
        let law = if named("PCMU") {
            Law::Mu
        } else if named("PCMA") {
            Law::A
        } else if named("L16") {
            Law::Linear
        } else {
            return None;
        };
        let known = (8000..=48_000).contains(&rate) && (1..=2).contains(&channels);
        known.then_some(Self { law, rate, channels })
    }

    /// What a payload type means that needs no description (RFC 3551, table 4).
    pub fn of_payload_type(payload_type: u8) -> Option<Self> {
        let (law, rate, channels) = match payload_type {
            0 => (Law::Mu, 8000, 1),
            8 => (Law::A, 8000, 1),
            10 => (Law::Linear, 44_100, 2),
            11 => (Law::Linear, 44_100, 1),
            _ => return None,
        };
        Some(Self { law, rate, channels })
    }

    /// Its name in the status.
    pub fn name(&self) -> &'static str {
        match self.law {
            Law::Mu => "PCMU",
            Law::A => "PCMA",
            Law::Linear => "L16",
        }
    }
}
