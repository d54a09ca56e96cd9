//! Which files on the card are recordings of ours, and in which order they were made. A segment is `YYYY-MM-DD/TIME-NUMBER.mp4`;
//! those of versions before day folders lie beside the folders. Nothing else on a card is ever touched.

use std::{
    fs::{self, DirEntry},
    io,
    path::Path,
    time::Duration,
};

use care_engine::trusted_time;

use crate::clock;

/// A time as in the name of a segment: `20261201T052638Z`. Later times compare as greater.
pub(crate) type Stamp = [u8; 16];

/// A system clock this much before the build of this program may still be right: builds and cameras differ.
const BEFORE_BUILD: Duration = Duration::from_secs(86_400);

/// A segment on the card. It has no heap of its own: a large card holds tens of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    /// Counts up over all segments of a card, whatever the clock does, so it tells the order.
    pub number: u64,
    pub time: Stamp,
    /// Not in a day folder.
    pub flat: bool,
    pub bytes: u64,
}

impl Segment {
    pub fn name(&self) -> String {
        format!("{}-{:08}.mp4", String::from_utf8_lossy(&self.time), self.number)
    }

    /// The folder of its day; empty if it is in none.
    pub fn day(&self) -> String {
        if self.flat {
            return String::new();
        }
        let time = String::from_utf8_lossy(&self.time);
        format!("{}-{}-{}", &time[..4], &time[4..6], &time[6..8])
    }

    /// Reads a name. `None`: it is no segment.
    pub fn named(name: &str, flat: bool) -> Option<Self> {
        let (time, number) = name.strip_suffix(".mp4")?.split_once('-')?;
        let time: Stamp = time.as_bytes().try_into().ok()?;
        let digits = time.iter().enumerate().all(|(at, byte)| match at {
            8 => *byte == b'T',
            15 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        });
        let segment = Self { number: number.parse().ok()?, time, flat, bytes: 0 };
        (digits && number.len() >= 8 && segment.name() == name).then_some(segment)
    }

    /// Whether its name tells when it was filmed, and not the time since the camera was switched on.
    pub fn is_dated(&self) -> bool {
        self.time >= *b"20200101T000000Z"
    }
}

/// A time since 1970 as a stamp.
pub(crate) fn stamp(since_1970: Duration) -> Stamp {
    // RFC 3339 without its marks.
    let text = trusted_time::timestamp(Duration::from_secs(since_1970.as_secs())).to_string();
    let stamp: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'-' | b':')).collect();
    stamp.try_into().unwrap_or(*b"99991231T235959Z")
}

/// The stamp of a segment that begins now. `known` is when its first frame was taken, if that is certain; otherwise the system
/// clock counts if it is no nonsense. On a camera without any clock it is the time since it was switched on, in 1970.
pub(crate) fn stamp_now(known: Option<Duration>) -> Stamp {
    let system = clock::system_time();
    let plausible = (system + BEFORE_BUILD >= clock::build_time()).then_some(system);
    stamp(known.or(plausible).unwrap_or_else(|| {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::from_secs(u64::try_from(up.tv_sec).unwrap_or(0))
    }))
}

/// The segments on a card, the oldest first, and the day folders that are empty.
pub(crate) fn list(dir: &Path) -> io::Result<(Vec<Segment>, Vec<String>)> {
    let (mut found, mut empty) = (Vec::new(), Vec::new());
    let file = |entry: &DirEntry, segment: Segment| -> io::Result<Option<Segment>> {
        let file = entry.metadata()?;
        Ok(file.is_file().then_some(Segment { bytes: file.len(), ..segment }))
    };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some(segment) = Segment::named(&name, true) {
            found.extend(file(&entry, segment)?);
        } else if is_day(&name) && entry.file_type()?.is_dir() {
            let mut files = 0;
            for entry in fs::read_dir(entry.path())? {
                let entry = entry?;
                files += 1;
                let segment = entry.file_name().to_str().and_then(|name| Segment::named(name, false));
                if let Some(segment) = segment.filter(|segment| segment.day() == name) {
                    found.extend(file(&entry, segment)?);
                }
            }
            if files == 0 {
                empty.push(name);
            }
        }
    }
    found.sort_unstable();
    Ok((found, empty))
}

fn is_day(name: &str) -> bool {
    name.len() == 10 && name.bytes().enumerate().all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_ours_are_no_segments() {
        let ours = Segment::named("20261201T052638Z-00000041.mp4", false).unwrap();
        assert_eq!((ours.number, ours.day().as_str()), (41, "2026-12-01"));
        assert_eq!(ours.name(), "20261201T052638Z-00000041.mp4");
        for foreign in [
            "holiday.mp4",
            "20261201T052638Z-41.mp4",
            "20261201T052638Z-+0000041.mp4",
            "20261201T052638Z-00000041.mov",
            "2026120 T052638Z-00000041.mp4",
            "20261201T052638Z-00000041.mp4.bak",
            "20261201T052638Z-0000000041.mp4",
            "ä0261201T05263Z-00000041.mp4",
        ] {
            assert_eq!(Segment::named(foreign, false), None, "{foreign}");
        }
        assert!(is_day("1970-01-01") && !is_day("2026-1-011") && !is_day("20261201") && !is_day("aaaa-bb-cc"));
    }

    #[test]
    fn a_segment_filmed_without_a_clock_is_of_1970_and_not_dated() {
        let at = |seconds| Segment { number: 0, time: stamp(Duration::from_secs(seconds)), flat: false, bytes: 0 };
        assert_eq!(at(42).name(), "19700101T000042Z-00000000.mp4");
        assert!(!at(42).is_dated());
        assert!(Segment { time: stamp_now(None), ..at(0) }.is_dated());
        assert_eq!(stamp_now(Some(Duration::from_secs(86_400))), *b"19700102T000000Z");
    }
}
