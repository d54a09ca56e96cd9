//! Says what each NAL unit is, keeps the parameter sets that came, and makes a [`Format`] of those that a picture uses. Called by
//! `access_unit`.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use crate::media::{
    frame::{Codec, Format},
    h264, h265,
};

/// A parameter set is far smaller; a larger one is not kept.
const LARGEST: usize = 1024;

/// What a NAL unit is to an access unit.
#[derive(Debug)]
pub(super) enum Nal {
    Slice(Slice),
    /// A message before the pictures it belongs to. It may say that decoding can begin there, after this many frames.
    Before {
        recovery: Option<u32>,
    },
    /// Belongs to the slices before it.
    After,
    /// Belongs in no file: a parameter set, which is kept here; a delimiter, filler, a redundant picture, another layer.
    Other,
    Unreadable,
}

/// One slice of a picture.
#[derive(Debug)]
pub(super) struct Slice {
    /// Whether it is the picture's first.
    pub first: bool,
    /// Tells pictures of H.264 apart; `None` until the parameter sets are known, and for H.265.
    pub header: Option<h264::SliceHeader>,
    /// H.264 IDR; H.265 IRAP: decoding can begin here.
    pub entry: bool,
    pub intra: bool,
    /// It may be shown before pictures that were decoded earlier: a B slice.
    pub reorders: bool,
    /// H.265 RASL: it refers to pictures before the entry point it follows.
    pub skipped: bool,
    /// What the picture needs, if all its parameter sets are known.
    pub format: Option<Arc<Format>>,
}

#[derive(Debug)]
pub(super) struct ParameterSets {
    codec: Codec,
    known: Known,
    /// Until a set changes: the format for each SPS.
    formats: BTreeMap<u8, Arc<Format>>,
    last: Option<Arc<Format>>,
}

/// By id: each is bounded by the range of its ids.
#[derive(Debug, Default)]
struct Known {
    vps: BTreeMap<u8, Bytes>,
    avc_sps: BTreeMap<u8, (Bytes, h264::Sps)>,
    avc_pps: BTreeMap<u8, (Bytes, h264::Pps)>,
    hevc_sps: BTreeMap<u8, (Bytes, h265::Sps)>,
    hevc_pps: BTreeMap<u8, (Bytes, h265::Pps)>,
}

impl ParameterSets {
    pub fn new(codec: Codec) -> Self {
        Self { codec, known: Known::default(), formats: BTreeMap::new(), last: None }
    }

    /// Keeps a parameter set, or ignores any other NAL unit.
    pub fn store(&mut self, nal: &[u8]) {
        if nal.len() > LARGEST {
            return;
        }
        let Known { vps, avc_sps, avc_pps, hevc_sps, hevc_pps } = &mut self.known;
        let changed = match self.codec {
            Codec::H264 => match nal.first().map(|byte| byte & 31) {
                Some(7) => h264::Sps::parse(nal).is_some_and(|sps| keep(avc_sps, sps.id, nal, sps)),
                Some(8) => h264::Pps::parse(nal).is_some_and(|pps| keep(avc_pps, pps.id, nal, pps)),
                _ => false,
            },
            Codec::H265 => match h265::nal_type(nal) {
                Some(32) => h265::vps_id(nal).is_some_and(|id| {
                    let changed = vps.get(&id).is_none_or(|known| known != nal);
                    vps.insert(id, Bytes::copy_from_slice(nal));
                    changed
                }),
                Some(33) => h265::Sps::parse(nal).is_some_and(|sps| keep(hevc_sps, sps.id, nal, sps)),
                Some(34) => h265::Pps::parse(nal).is_some_and(|pps| keep(hevc_pps, pps.id, nal, pps)),
                _ => false,
            },
        };
        if changed {
            self.formats.clear();
        }
    }

    /// What this NAL unit is. Keeps it if it is a parameter set.
    pub fn read(&mut self, nal: &[u8]) -> Nal {
        match self.codec {
            Codec::H264 => self.read_h264(nal),
            Codec::H265 => self.read_h265(nal),
        }
    }

    fn read_h264(&mut self, nal: &[u8]) -> Nal {
        match nal.first().map(|byte| byte & 31) {
            Some(kind @ (1 | 2 | 5)) => match h264::SliceStart::parse(nal) {
                Some(start) => self.h264_slice(nal, kind == 5, start),
                None => Nal::Unreadable,
            },
            // The rest of data partitions; the ends of sequence and stream.
            Some(3 | 4 | 10 | 11) => Nal::After,
            Some(6) => Nal::Before { recovery: h264::recovery_point(nal) },
            Some(7 | 8) => {
                self.store(nal);
                Nal::Other
            }
            _ => Nal::Other,
        }
    }

    fn h264_slice(&mut self, nal: &[u8], idr: bool, start: h264::SliceStart) -> Nal {
        let sets = self.known.avc_pps.get(&start.pps).and_then(|(_, pps)| Some((pps, &self.known.avc_sps.get(&pps.sps)?.1)));
        let sps = sets.map(|(_, sps)| sps.id);
        let header = match sets.map(|(pps, sps)| h264::SliceHeader::parse(nal, sps, pps)) {
            Some(None) => return Nal::Unreadable,
            Some(Some(header)) if header.redundant => return Nal::Other,
            header => header.flatten(),
        };
        Nal::Slice(Slice {
            first: start.first_mb == 0,
            header,
            entry: idr,
            intra: matches!(start.kind, 2 | 4),
            reorders: start.kind == 1,
            skipped: false,
            format: sps.and_then(|sps| self.format(sps)),
        })
    }

    fn read_h265(&mut self, nal: &[u8]) -> Nal {
        match h265::nal_type(nal) {
            Some(kind @ (0..=9 | 16..=21)) => match h265::SliceStart::parse(nal) {
                Some(start) => self.h265_slice(nal, kind, start),
                None => Nal::Unreadable,
            },
            Some(32..=34) => {
                self.store(nal);
                Nal::Other
            }
            // A recovery point at once is an IRAP picture, which says so itself.
            Some(39) => Nal::Before { recovery: h265::recovery_point(nal).filter(|&frames| frames > 0) },
            // The ends of sequence and stream; messages about the picture before.
            Some(36 | 37 | 40) => Nal::After,
            _ => Nal::Other,
        }
    }

    fn h265_slice(&mut self, nal: &[u8], kind: u8, start: h265::SliceStart) -> Nal {
        let pps = self.known.hevc_pps.get(&start.pps).map(|(_, pps)| *pps);
        let entry = (16..=21).contains(&kind);
        Nal::Slice(Slice {
            first: start.first,
            header: None,
            entry,
            intra: entry,
            reorders: start.first && pps.and_then(|pps| h265::is_b(nal, &pps)).unwrap_or(false),
            skipped: matches!(kind, 8 | 9),
            format: pps.and_then(|pps| self.format(pps.sps)),
        })
    }

    /// Everything that a picture with this SPS may use. The same as before unless a set has changed.
    fn format(&mut self, sps: u8) -> Option<Arc<Format>> {
        if let Some(format) = self.formats.get(&sps) {
            return Some(format.clone());
        }
        let new = self.known.format(self.codec, sps)?;
        let format = match &self.last {
            Some(last) if **last == new => last.clone(),
            _ => Arc::new(new),
        };
        self.last = Some(format.clone());
        self.formats.insert(sps, format.clone());
        Some(format)
    }
}

impl Known {
    fn format(&self, codec: Codec, id: u8) -> Option<Format> {
        let (width, height, configuration) = match codec {
            Codec::H264 => {
                let (nal, sps) = self.avc_sps.get(&id)?;
                let pps: Vec<&Bytes> = self.avc_pps.values().filter(|(_, pps)| pps.sps == id).map(|(nal, _)| nal).take(255).collect();
                (sps.width, sps.height, h264::configuration(nal, &pps)?)
            }
            Codec::H265 => {
                let (nal, sps) = self.hevc_sps.get(&id)?;
                let pps: Vec<&Bytes> = self.hevc_pps.values().filter(|(_, pps)| pps.sps == id).map(|(nal, _)| nal).collect();
                (sps.width, sps.height, h265::configuration(self.vps.get(&sps.vps)?, (nal, sps), &pps)?)
            }
        };
        Some(Format { codec, width, height, configuration })
    }
}

/// Whether this is new.
fn keep<T>(known: &mut BTreeMap<u8, (Bytes, T)>, id: u8, nal: &[u8], set: T) -> bool {
    let changed = known.get(&id).is_none_or(|(known, _)| known != nal);
    if changed {
        known.insert(id, (Bytes::copy_from_slice(nal), set));
    }
    changed
}
