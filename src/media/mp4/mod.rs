//! Writes fragmented MP4 (ISO/IEC 14496-12) with a track of H.264 or H.265, and one of AAC if sound comes in its first second:
//! frames in, fragments out, without pipeline or thread. A file that is cut anywhere plays up to there. One that is complete can get
//! another header in front of the same bytes, with which it is a progressive file. Our own, because no maintained crate that builds
//! on Rust 1.88 writes one without an unmaintained dependency, and GStreamer 1.22's `mp4mux` needs a pipeline for each clip. Why the
//! file is as it is: docs/design/mp4.md. Called by `clip` and `recording`.

mod boxes;
mod fragment;
mod header;
mod sound;
mod tables;
#[cfg(test)]
mod tests;
mod timing;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use self::{
    boxes::put,
    fragment::{EntryPoint, Sample},
    header::{Header, Whole},
    sound::SoundTrack,
    tables::Tables,
    timing::{DecodingTimes, usual_step},
};
use super::{
    Identity, Progressive,
    frame::{Codec, Format, Frame},
};

/// Ticks a second in the file: RTP's, so that its times are exact.
const TIMESCALE: u64 = 90_000;
const HALF_A_TICK: Duration = Duration::from_nanos(5_555);
/// A fragment ends at the next keyframe, or once it is this long.
pub(super) const FRAGMENT: Duration = Duration::from_secs(1);
/// The length of a frame until two frames have shown it: 15 frames a second.
const FIRST_FRAME_TICKS: u64 = TIMESCALE / 15;
/// Size and name of the box around the samples.
const MDAT_HEADER: u64 = 8;

/// A file being written.
#[derive(Debug)]
pub(super) struct Mp4 {
    /// What the header says: that of the first frame.
    format: Arc<Format>,
    identity: Identity,
    origin: Duration,
    pending: Vec<Frame>,
    sequence: u32,
    /// From the first fragment on, once its frames have shown how they are ordered.
    times: Option<DecodingTimes>,
    /// When the latest frame in the fragments is shown, ticks.
    latest: Option<u64>,
    /// How long the file is, ticks.
    end: u64,
    frame_ticks: u64,
    sets: InBand,
    sound: Option<SoundTrack>,
    bytes: u64,
    /// How many of them are the header.
    header: usize,
    entries: Vec<EntryPoint>,
    pace: Pace,
    /// What [`Self::progressive`] needs.
    tables: Option<Tables>,
}

/// When a fragment is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// At the next keyframe, or after [`FRAGMENT`]: a file.
    File,
    /// At the next frame, once it is known how frames are ordered: somebody watches it as it is filmed.
    Live,
}

/// The next bytes of the file.
#[derive(Debug)]
pub(super) struct Fragment {
    pub bytes: Bytes,
    /// How long the file is with it.
    pub duration: Duration,
}

/// What follows a fragment.
#[derive(Debug, Clone, Copy)]
enum Then<'a> {
    /// This frame.
    Frame(&'a Frame),
    /// Frames that are not known yet.
    Unknown,
    /// Nothing: the file ends, and is no longer than this, ticks.
    End(u64),
}

/// Parameter sets that stand among the frames.
#[derive(Debug)]
struct InBand {
    /// What the frame before used.
    current: Arc<Format>,
    /// They differ from the header's, or did: then a decoder that comes from elsewhere in the file needs them at each keyframe.
    changed: bool,
}

impl InBand {
    fn before(&mut self, frame: &Frame) -> Vec<u8> {
        let new = frame.format != self.current;
        self.changed |= new;
        self.current = frame.format.clone();
        if new || (self.changed && frame.key) { frame.format.parameter_sets() } else { Vec::new() }
    }
}

impl Mp4 {
    /// A file that begins with this keyframe.
    pub fn begin(first: Frame) -> Self {
        Self {
            format: first.format.clone(),
            identity: Identity::default(),
            origin: first.pts,
            sets: InBand { current: first.format.clone(), changed: false },
            sound: first.sound.as_ref().map(|sound| SoundTrack::new(sound.format.clone())),
            pending: vec![first],
            sequence: 0,
            times: None,
            latest: None,
            end: 0,
            frame_ticks: FIRST_FRAME_TICKS,
            bytes: 0,
            header: 0,
            entries: Vec::new(),
            pace: Pace::File,
            tables: None,
        }
    }

    /// With this in its header.
    pub fn identified(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// With what [`Self::progressive`] needs, a few bytes of memory for each frame.
    pub fn with_tables(self) -> Self {
        Self { tables: Some(Tables::default()), ..self }
    }

    /// With a fragment for each frame, and without what an index needs: it may go on for weeks. It has sound if the first frame has,
    /// and no empty edit before it, which Media Source Extensions of Chromium leave out.
    pub fn live(self) -> Self {
        Self { pace: Pace::Live, sound: self.sound.map(SoundTrack::begun_with_the_file), ..self }
    }

    /// Adds the next frame, and returns the fragment before it if that is complete. Leaves out pictures shown before the first
    /// keyframe: they refer to a GOP that is not in the file.
    pub fn push(&mut self, frame: Frame) -> Option<Fragment> {
        self.hear(&frame);
        if frame.pts < self.origin {
            return None;
        }
        let longest = if self.pace == Pace::Live && self.knows_order() { Duration::ZERO } else { FRAGMENT };
        let whole = self.pending.first().is_some_and(|first| frame.key || frame.pts.saturating_sub(first.pts) >= longest);
        let fragment = if whole { self.cut(Then::Frame(&frame)) } else { None };
        self.pending.push(frame);
        fragment
    }

    /// Takes the sound that travels with a frame which will not be in the file itself: it is heard before. The header says whether
    /// there is sound, so sound that begins after the first fragment is left out.
    pub fn hear(&mut self, frame: &Frame) {
        let Some(sound) = &frame.sound else { return };
        if self.sequence == 0 {
            self.sound.get_or_insert_with(|| SoundTrack::new(sound.format.clone()));
        }
        if let Some(track) = &mut self.sound {
            track.take(sound, self.origin);
        }
    }

    /// Whether a frame of this format may be pushed. Parameter sets may change within a file; codec and picture size may not.
    pub fn takes(&self, format: &Format) -> bool {
        (format.codec, format.width, format.height) == (self.format.codec, self.format.width, self.format.height)
    }

    /// How long the file would be with this frame in it.
    pub fn reach(&self, frame: &Frame) -> Duration {
        duration(self.ticks(frame.pts) + self.frame_ticks)
    }

    /// The last fragment, without what would make the file longer than `max`.
    pub fn finish(&mut self, max: Duration) -> Option<Fragment> {
        let pending = std::mem::take(&mut self.pending);
        self.pending = pending.into_iter().take_while(|frame| self.reach(frame) <= max).collect();
        self.cut(Then::End(ticks(max)))
    }

    /// The fragment of what is pending, although the next frame has not come.
    pub fn flush(&mut self) -> Option<Fragment> {
        self.cut(Then::Unknown)
    }

    /// Whether it is known how frames are ordered. Until then a longer first fragment makes better decoding times.
    pub fn knows_order(&self) -> bool {
        self.times.is_some() || self.format.usability().reordered.is_some()
    }

    /// The index of the fragments, to follow the last one in a file that stays where it can be searched. `None` if there is none.
    pub fn index(&self) -> Option<Bytes> {
        let mut out = Vec::new();
        fragment::index(&mut out, &self.entries);
        (!self.entries.is_empty()).then(|| out.into())
    }

    /// The header with which the fragments so far are a progressive file: it says where each frame is, and all that follows is one
    /// `mdat`. `None` if there is none, or more frames than the tables take.
    pub fn progressive(&self) -> Option<Progressive> {
        let tables = self.tables.as_ref().filter(|tables| tables.complete())?;
        let body = self.bytes - self.header as u64;
        let sound = self.sound.as_ref().filter(|_| !tables.sound.is_empty());
        let place = |track: &SoundTrack, at| ticks(track.place(at) + HALF_A_TICK);
        let sound_end = sound.map_or(0, |track| place(track, tables.sound.first + tables.sound.duration())).min(self.end);
        let write = |base| {
            let mut out = Vec::new();
            let whole = Some(Whole { tables, base, end: self.end, sound_end });
            let sound = sound.map(|track| (&*track.format, place(track, tables.sound.first)));
            let lead = self.times.as_ref().map_or(0, DecodingTimes::lead);
            Header { format: &self.format, identity: &self.identity, sound, lead, whole }.write(&mut out);
            out
        };
        // The places take as many bytes wherever they are.
        let base = write(0).len() as u64 + MDAT_HEADER;
        let size = u32::try_from(body + MDAT_HEADER).ok().filter(|size| base.checked_add(u64::from(*size)) <= Some(u32::MAX.into()))?;
        let mut header = write(base);
        put(&mut header, &[size]);
        header.extend_from_slice(b"mdat");
        Some(Progressive { header: header.into(), replaces: self.header })
    }

    /// How long the file is so far, without what is pending.
    pub fn duration(&self) -> Duration {
        duration(self.end)
    }

    /// Rounded: sources have cut ticks off to nanoseconds.
    fn ticks(&self, pts: Duration) -> u64 {
        ticks(pts.saturating_sub(self.origin) + HALF_A_TICK)
    }

    /// Makes a fragment of what is pending.
    fn cut(&mut self, then: Then) -> Option<Fragment> {
        let frames = std::mem::take(&mut self.pending);
        let shown: Vec<u64> = frames.iter().map(|frame| self.ticks(frame.pts)).collect();
        let next = if let Then::Frame(next) = then { Some(self.ticks(next.pts)) } else { None };
        let most = if let Then::End(most) = then { most } else { u64::MAX };
        let latest = shown.iter().copied().max()?.max(self.latest.unwrap_or(0));
        self.frame_ticks = usual_step(shown.iter().copied().chain(self.latest)).unwrap_or(self.frame_ticks);
        self.latest = Some(latest);
        self.end = self.end.max(match next {
            Some(next) if next > latest => next,
            _ => (latest + self.frame_ticks).min(most).max(latest + 1),
        });

        let mut out = Vec::with_capacity(1024 + frames.iter().map(|frame| frame.data.len() + 16).sum::<usize>());
        let step = self.frame_ticks;
        let times = self.times.get_or_insert_with(|| {
            let first: Vec<u64> = shown.iter().copied().chain(next).collect();
            DecodingTimes::new(self.format.usability().reordered, &first, step)
        });
        let lead = times.lead();
        let decoded: Vec<u64> = shown.iter().map(|&shown| times.next(shown)).collect();
        // The file's length is that of its frames as they are decoded: so the last one lasts until its end.
        let end = match next {
            Some(next) => times.peek(next),
            // Its last frame lasts no longer than usual.
            None if matches!(then, Then::Unknown) => decoded.last().map_or(self.end, |last| last + step),
            None => self.end,
        };
        let sets: Vec<Vec<u8>> = frames.iter().map(|frame| self.sets.before(frame)).collect();
        // Keyframes begin fragments. Chromium gives up at leading pictures of H.264 if it seeks to their I picture, and the standard
        // names only IDR pictures; H.265 marks leading pictures, and all its entry points are sync samples.
        let open = self.format.codec == Codec::H264 && shown.iter().any(|&other| other < shown[0]);
        let ends = decoded[1..].iter().copied().chain([end]);
        let samples: Vec<Sample<'_>> = frames
            .iter()
            .zip(&sets)
            .zip(shown)
            .zip(decoded.iter().zip(ends))
            .map(|(((frame, sets), shown), (&decoded, end))| Sample {
                frame,
                sync: frame.key && !open,
                sets,
                decoded,
                shown: shown + lead,
                ticks: end.saturating_sub(decoded).max(1),
            })
            .collect();

        let until = duration(self.end);
        let sound = self.sound.as_mut().map(|track| if let Then::End(_) = then { track.rest(until) } else { track.until(until) });
        let mut sound = sound.unwrap_or_default();
        let begins = self.sound.as_mut().map(|track| track.begin(&mut sound));
        if self.sequence == 0 {
            let sound = self.sound.as_ref().zip(begins).map(|(track, begins)| (&*track.format, ticks(begins + HALF_A_TICK)));
            Header { format: &self.format, identity: &self.identity, sound, lead, whole: None }.write(&mut out);
            self.header = out.len();
        }
        if let Some(first) = samples.first().filter(|first| first.sync && self.pace == Pace::File) {
            self.entries.push(EntryPoint { shown: first.shown, at: self.bytes + out.len() as u64 });
        }
        self.sequence += 1;
        let at = fragment::fragment(&mut out, self.sequence, &samples, &sound);
        if let Some(tables) = &mut self.tables {
            tables.add(self.bytes + at - self.header as u64, &samples, &sound);
        }
        self.bytes += out.len() as u64;
        Some(Fragment { bytes: out.into(), duration: self.duration() })
    }
}

fn ticks(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos() * u128::from(TIMESCALE) / 1_000_000_000).unwrap_or(u64::MAX)
}

fn duration(ticks: u64) -> Duration {
    Duration::from_nanos(u64::try_from(u128::from(ticks) * 1_000_000_000 / u128::from(TIMESCALE)).unwrap_or(u64::MAX))
}
