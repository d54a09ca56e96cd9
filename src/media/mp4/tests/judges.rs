//! What others say of a file. None of them is ours.

use std::{path::Path, process::Command};

use mp4_atom::{Any, Colr, DecodeMaybe, Moof, Moov, StszSamples, Trak, TrunEntry, Visual};

use super::{streams::told, *};

/// A frame, as ffprobe sees it in a file. Times are ticks.
#[derive(Debug)]
pub(super) struct Packet {
    pub pts: i64,
    pub dts: i64,
    pub size: usize,
    pub at: usize,
    pub key: bool,
}

/// In decoding order.
pub(super) fn packets(path: &Path) -> Vec<Packet> {
    let fields = ["-v", "warning", "-select_streams", "v", "-show_entries", "packet=pts,dts,size,pos,flags", "-of", "csv=p=0"];
    let packet = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |n: usize| fields[n].parse().unwrap_or_else(|_| panic!("{line}"));
        let (size, at) = (number(2) as usize, number(3) as usize);
        Packet { pts: number(0), dts: number(1), size, at, key: fields[4].starts_with('K') }
    };
    told("ffprobe", &fields, path).lines().map(packet).collect()
}

/// Seconds.
pub(super) fn duration(path: &Path) -> f64 {
    told("ffprobe", &["-v", "warning", "-show_entries", "format=duration", "-of", "csv=p=0"], path).trim().parse().unwrap()
}

/// The title that a player shows; empty if there is none.
pub(super) fn title(path: &Path) -> String {
    told("ffprobe", &["-v", "warning", "-show_entries", "format_tags=title", "-of", "csv=p=0"], path).trim().to_owned()
}

/// Every picture that ffmpeg decodes (when it is shown, ticks, and its digest), and what it complains of.
pub(super) fn pictures(path: &Path) -> (Vec<(i64, String)>, String) {
    let options = ["-map", "0:v", "-fps_mode", "passthrough", "-enc_time_base", "1:90000", "-f", "framemd5", "-"];
    let decoded = Command::new("ffmpeg").args(["-v", "warning", "-i"]).arg(path).args(options).output().unwrap();
    assert!(decoded.status.success());
    let told = String::from_utf8(decoded.stdout).unwrap();
    let pictures = told
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            (fields[2].parse().unwrap(), fields[5].to_owned())
        })
        .collect();
    (pictures, String::from_utf8(decoded.stderr).unwrap())
}

/// When each access unit of sound begins, samples, as ffprobe sees it.
pub(super) fn units(path: &Path) -> Vec<i64> {
    let fields = ["-v", "warning", "-select_streams", "a", "-show_entries", "packet=pts", "-of", "csv=p=0"];
    told("ffprobe", &fields, path).lines().map(|line| line.trim_end_matches(',').parse().unwrap()).collect()
}

/// The digest of each unit of sound that ffmpeg decodes, and what it complains of.
pub(super) fn heard(path: &Path) -> (Vec<String>, String) {
    let options = ["-map", "0:a", "-c:a", "pcm_s16le", "-f", "framemd5", "-"];
    let decoded = Command::new("ffmpeg").args(["-v", "warning", "-i"]).arg(path).args(options).output().unwrap();
    let told = String::from_utf8(decoded.stdout).unwrap();
    let digest = |line: &str| line.rsplit(',').next().unwrap().trim().to_owned();
    let digests = told.lines().filter(|line| !line.starts_with('#')).map(digest).collect();
    (digests, String::from_utf8(decoded.stderr).unwrap())
}

/// How many bytes of sound, 16 bits a sample, GStreamer decodes.
pub(super) fn gstreamer_sound(path: &Path) -> usize {
    let location = format!("location={}", path.display());
    let chain = ["!", "qtdemux", "!", "aacparse", "!", "avdec_aac", "!", "audioconvert", "!", "audio/x-raw,format=S16LE", "!", "fdsink"];
    let played = Command::new("gst-launch-1.0").args(["-q", "filesrc", &location]).args(chain).output().unwrap();
    let complaints = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success() && complaints.is_empty(), "{complaints}");
    played.stdout.len()
}

/// How many pictures GStreamer's `qtdemux` and its decoder show.
pub(super) fn gstreamer_frames(path: &Path, codec: Codec) -> usize {
    let (parser, decoder) = match codec {
        Codec::H264 => ("h264parse", "avdec_h264"),
        Codec::H265 => ("h265parse", "avdec_h265"),
    };
    let location = format!("location={}", path.display());
    let chain = ["!", "qtdemux", "!", parser, "!", decoder, "!", "video/x-raw,format=I420", "!", "fdsink"];
    let played = Command::new("gst-launch-1.0").args(["-q", "filesrc", &location]).args(chain).output().unwrap();
    let complaints = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success() && complaints.is_empty(), "{complaints}");
    let picture = 160 * 120 * 3 / 2;
    assert_eq!(played.stdout.len() % picture, 0);
    played.stdout.len() / picture
}

/// A file in boxes, as `mp4-atom` reads it: it refuses boxes that are too short, or have bytes left.
pub(super) struct Boxes {
    all: Vec<Any>,
}

impl Boxes {
    pub fn read(mut bytes: &[u8]) -> Self {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            all.push(Any::decode_maybe(&mut bytes).unwrap().expect("a whole box"));
        }
        match &all[..] {
            [Any::Ftyp(_), Any::Moov(moov), Any::Moof(_), Any::Mdat(_), ..] => assert!(moov.mvex.is_some()),
            // The index first, and no fragments that anybody would look for.
            [Any::Ftyp(_), Any::Moov(moov), Any::Mdat(_)] => assert!(moov.mvex.is_none()),
            other => panic!("{} boxes", other.len()),
        }
        Self { all }
    }

    fn has_fragments(&self) -> bool {
        self.fragments().next().is_some()
    }

    /// How long film and track are that the header of a progressive file names.
    pub fn durations(&self) -> [Duration; 2] {
        let moov = self.moov();
        assert_eq!(moov.mvhd.timescale, 90_000);
        [moov.mvhd.duration, moov.trak[0].tkhd.duration].map(super::super::duration)
    }

    /// Every sample of a track that the tables of a progressive file point at, in their order.
    pub fn samples<'a>(&self, track: usize, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let table = &self.moov().trak[track].mdia.minf.stbl;
        let StszSamples::Different { sizes } = &table.stsz.samples else { panic!("{:?}", table.stsz) };
        let mut sizes = sizes.iter().map(|size| *size as usize);
        let mut samples = Vec::new();
        for (n, offset) in table.stco.as_ref().unwrap().entries.iter().enumerate() {
            let run = table.stsc.entries.iter().rfind(|run| run.first_chunk as usize <= n + 1).unwrap();
            let mut at = *offset as usize;
            for _ in 0..run.samples_per_chunk {
                let size = sizes.next().unwrap();
                samples.push(&bytes[at..at + size]);
                at += size;
            }
        }
        assert_eq!(sizes.next(), None, "samples that are in no chunk");
        samples
    }

    fn moov(&self) -> &Moov {
        self.all.iter().find_map(|any| if let Any::Moov(moov) = any { Some(moov) } else { None }).unwrap()
    }

    fn fragments(&self) -> impl Iterator<Item = &Moof> {
        self.all.iter().filter_map(|any| if let Any::Moof(moof) = any { Some(moof) } else { None })
    }

    fn visual(&self) -> (&Visual, Option<&Colr>, Option<(u32, u32)>) {
        match &self.moov().trak[0].mdia.minf.stbl.stsd.codecs[..] {
            [mp4_atom::Codec::Avc1(entry)] => {
                (&entry.visual, entry.colr.as_ref(), entry.pasp.as_ref().map(|pasp| (pasp.h_spacing, pasp.v_spacing)))
            }
            [mp4_atom::Codec::Hvc1(entry)] => {
                (&entry.visual, entry.colr.as_ref(), entry.pasp.as_ref().map(|pasp| (pasp.h_spacing, pasp.v_spacing)))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Rate, channels and configuration of the track of sound, if there is one.
    pub fn sound(&self) -> Option<(u16, u16, Vec<u8>)> {
        let codecs = &self.moov().trak.get(1)?.mdia.minf.stbl.stsd.codecs;
        let [mp4_atom::Codec::Mp4a(entry)] = &codecs[..] else { panic!("{codecs:?}") };
        let config = &entry.esds.es_desc.dec_config;
        assert_eq!((config.object_type_indication, config.stream_type), (0x40, 5));
        let specific = config.dec_specific.as_ref().unwrap();
        let first = specific.profile << 3 | specific.freq_index >> 1;
        let second = specific.freq_index << 7 | specific.chan_conf << 3;
        Some((entry.audio.sample_rate.integer(), entry.audio.channel_count, vec![first, second]))
    }

    /// When each access unit of sound begins, and how long it lasts, samples.
    pub fn heard(&self) -> Vec<(i64, i64)> {
        let mut heard = Vec::new();
        let track = &self.moov().trak[1];
        let edits = track.edts.as_ref().and_then(|edts| edts.elst.as_ref());
        let begins = edits.map_or(0, |edits| edits.entries[0].segment_duration);
        let begins = (begins as f64 * f64::from(track.mdia.mdhd.timescale) / 90_000.0).round() as i64;
        if !self.has_fragments() {
            return steps(track).map(|(at, lasts)| (begins + at, lasts)).collect();
        }
        for traf in self.fragments().filter_map(|moof| moof.traf.get(1)) {
            let mut at = begins + traf.tfdt.as_ref().unwrap().base_media_decode_time as i64;
            for n in 0..traf.trun[0].samples.len() {
                let entry: TrunEntry = traf.trun[0].samples.get(n).unwrap();
                let lasts = i64::from(entry.duration.unwrap());
                heard.push((at, lasts));
                at += lasts;
            }
        }
        heard
    }

    /// Where the edit list lets presentation begin, ticks.
    pub fn lead(&self) -> u64 {
        let edits = self.moov().trak[0].edts.as_ref().and_then(|edts| edts.elst.as_ref());
        edits.map_or(0, |edits| edits.entries[0].media_time.unwrap())
    }

    /// When each sync sample is shown in the file, ticks.
    pub fn sync_samples(&self) -> Vec<u64> {
        let first = |moof: &Moof| {
            let traf = &moof.traf[0];
            let entry: TrunEntry = traf.trun[0].samples.get(0).unwrap();
            let shown = traf.tfdt.as_ref().unwrap().base_media_decode_time as i64 + entry.cts.unwrap();
            (entry.flags == Some(0x0200_0000)).then_some(shown as u64)
        };
        if !self.has_fragments() {
            let track = &self.moov().trak[0];
            let sync = &track.mdia.minf.stbl.stss.as_ref().unwrap().entries;
            let late = track.mdia.minf.stbl.ctts.iter().flat_map(|ctts| &ctts.entries);
            let late: Vec<i64> = late.flat_map(|entry| std::iter::repeat_n(entry.sample_offset, entry.sample_count as usize)).collect();
            let shown =
                |(n, (at, _)): (usize, (i64, i64))| sync.contains(&(n as u32 + 1)).then(|| (at + late.get(n).copied().unwrap_or(0)) as u64);
            return steps(track).enumerate().filter_map(shown).collect();
        }
        self.fragments().filter_map(first).collect()
    }

    /// The same according to the index at the end, whose every offset is that of a fragment.
    pub fn indexed(&self, bytes: &[u8]) -> Vec<u64> {
        let Some(Any::Mfra(mfra)) = self.all.last() else { return Vec::new() };
        let size = mfra.mfro.parent_size as usize;
        assert_eq!(&bytes[bytes.len() - size + 4..][..4], b"mfra");
        let entry = |entry: &mp4_atom::FragmentInfo| {
            assert_eq!(&bytes[entry.moof_offset as usize + 4..][..4], b"moof");
            entry.time
        };
        mfra.tfra[0].entries.iter().map(entry).collect()
    }

    pub fn sample_aspect(&self) -> Option<(u16, u16)> {
        self.visual().2.map(|(wide, high)| (wide as u16, high as u16))
    }

    pub fn colour(&self) -> Option<Colour> {
        self.visual().1.map(|colr| match colr {
            Colr::Nclx { colour_primaries, transfer_characteristics, matrix_coefficients, full_range_flag } => Colour {
                primaries: *colour_primaries as u8,
                transfer: *transfer_characteristics as u8,
                matrix: *matrix_coefficients as u8,
                full_range: *full_range_flag,
            },
            other => panic!("{other:?}"),
        })
    }

    /// The width on a screen of square pixels.
    pub fn shown_width(&self) -> f64 {
        let width = &self.moov().trak[0].tkhd.width;
        f64::from(width.integer()) + f64::from(width.decimal()) / 65536.0
    }

    /// As film, track and media say, seconds since 1904.
    pub fn created(&self) -> [u64; 3] {
        let moov = self.moov();
        [moov.mvhd.creation_time, moov.trak[0].tkhd.creation_time, moov.trak[0].mdia.mdhd.creation_time]
    }

    /// Of all frames.
    pub fn media_bytes(&self) -> usize {
        self.all.iter().map(|any| if let Any::Mdat(mdat) = any { mdat.data.len() } else { 0 }).sum()
    }
}

/// When each sample of a progressive file is decoded, and how long it lasts.
fn steps(track: &Trak) -> impl Iterator<Item = (i64, i64)> {
    let runs = track.mdia.minf.stbl.stts.entries.iter();
    let lasts = runs.flat_map(|run| std::iter::repeat_n(i64::from(run.sample_delta), run.sample_count as usize));
    lasts.scan(0, |end, lasts| {
        *end += lasts;
        Some((*end - lasts, lasts))
    })
}
