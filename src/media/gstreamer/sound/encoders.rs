//! The encoders of AAC that GStreamer may have, and which of them is used. Called by `sound` and, before a camera is asked for
//! samples, by the RTSP client.

use gstreamer as gst;

use super::Input;

/// An encoder of AAC.
#[derive(Debug)]
pub(in crate::media::gstreamer) struct AacEncoder {
    /// GStreamer's element.
    pub name: &'static str,
    /// The element with what sets it up beside its bit rate, the property that follows.
    pub launch: &'static str,
    /// By how many samples what it gives out is late. Tests measure it where the element is installed; Debian's main archive has
    /// neither `fdkaacenc` nor `faac`, whose delay is assumed, so they come last.
    pub delay: u16,
}

/// In order of preference.
pub(in crate::media::gstreamer) const ENCODERS: [AacEncoder; 4] = [
    AacEncoder { name: "voaacenc", launch: "voaacenc", delay: 1600 },
    AacEncoder { name: "avenc_aac", launch: "avenc_aac aac-coder=fast", delay: 1024 },
    AacEncoder { name: "fdkaacenc", launch: "fdkaacenc", delay: 2048 },
    AacEncoder { name: "faac", launch: "faac", delay: 1024 },
];

/// What is coded at other rates becomes one of these, Hz. At lower ones an encoder would hold sound back for too long.
const RATES: [u32; 6] = [16_000, 22_050, 24_000, 32_000, 44_100, 48_000];

/// The first of these that is installed, for samples of `input`.
///
/// # Errors
/// What is missing: it completes the sentence "left out: PCMU, because …".
pub(in crate::media::gstreamer) fn find(candidates: &'static [AacEncoder], input: &Input) -> Result<&'static AacEncoder, String> {
    let is_missing = |name: &&str| gst::ElementFactory::find(name).is_none();
    let needed = ["audioconvert", "audioresample"].into_iter().chain(input.decoder).filter(is_missing).collect::<Vec<_>>();
    if !needed.is_empty() {
        return Err(format!("GStreamer's {} is not installed", needed.join(" and ")));
    }
    candidates.iter().find(|encoder| !is_missing(&encoder.name)).ok_or_else(|| {
        let names: Vec<&str> = candidates.iter().map(|encoder| encoder.name).collect();
        format!("no AAC encoder is installed: {}", names.join(" or "))
    })
}

/// The rate at which samples of this rate are coded, Hz.
pub(super) fn coded_rate(rate: u32) -> u32 {
    let whole = RATES.into_iter().find(|coded| coded.is_multiple_of(rate.max(1)));
    whole.or(RATES.into_iter().find(|coded| *coded >= rate)).unwrap_or(48_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_coded_at_a_rate_that_aac_has() {
        for (rate, coded) in [(8000, 16_000), (11_025, 22_050), (16_000, 16_000), (44_100, 44_100), (37_800, 44_100), (96_000, 48_000)] {
            assert_eq!(coded_rate(rate), coded);
        }
    }
}
