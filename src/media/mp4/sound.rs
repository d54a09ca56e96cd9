//! The track of sound: which access units a file has, and when each of them is heard. All units but the last of a file are whole;
//! none is longer than the frames beside it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::fragment::Heard;
use crate::media::sound::{Sound, SoundFormat, Soundtrack};

/// Sound that comes this much later than where the sound before it ends follows it all the same: clocks differ a little.
const CLOSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct SoundTrack {
    pub format: Arc<SoundFormat>,
    /// Those that are in no fragment yet: when each begins, in samples of the file, and its bytes.
    pending: VecDeque<(u64, Bytes)>,
    /// Where the last unit taken ends.
    end: u64,
    /// Where the track begins in the file, once its header says so: its own times count from there.
    begins: Option<u64>,
}

impl SoundTrack {
    pub fn new(format: Arc<SoundFormat>) -> Self {
        Self { format, pending: VecDeque::new(), end: 0, begins: None }
    }

    /// Counts its times from where the file begins, so that no edit need say where the track does.
    pub fn begun_with_the_file(self) -> Self {
        Self { begins: Some(0), ..self }
    }

    /// Takes what travels with a frame. Left out are sound from before the file, which begins at `origin`, sound that overlaps
    /// what is there, and sound of another format: a file has one.
    pub fn take(&mut self, track: &Soundtrack, origin: Duration) {
        if track.format != self.format {
            return;
        }
        for Sound { pts, data } in &track.units {
            let Some(since) = pts.checked_sub(origin) else { continue };
            let (at, length) = (self.samples(since), u64::from(self.format.samples));
            if at + length / 2 < self.end {
                continue;
            }
            let at = if at <= self.end + self.samples(CLOSE) && self.end > 0 { self.end } else { at };
            self.end = at + length;
            self.pending.push_back((at, data.clone()));
        }
    }

    /// Makes the times of units count from where the track begins, and gives that: the first unit that is known when the header is
    /// written.
    pub fn begin(&mut self, units: &mut [Heard]) -> Duration {
        let first = units.first().map(|first| first.at).or(self.pending.front().map(|(at, _)| *at));
        let begins = *self.begins.get_or_insert(first.unwrap_or(0));
        units.iter_mut().for_each(|unit| unit.at -= begins);
        self.place(0)
    }

    /// When a time of the track is in the file.
    pub fn place(&self, at: u64) -> Duration {
        let samples = self.begins.unwrap_or(0).saturating_add(at);
        Duration::from_nanos(samples.saturating_mul(1_000_000_000) / u64::from(self.format.rate.max(1)))
    }

    /// What is heard in full until then, for a fragment that ends there. Where units are missing, the one before lasts longer.
    pub fn until(&mut self, end: Duration) -> Vec<Heard> {
        let (end, length) = (self.samples(end), u64::from(self.format.samples));
        let mut heard: Vec<Heard> = Vec::new();
        while self.pending.front().is_some_and(|(at, _)| at + length <= end) {
            let Some((at, data)) = self.pending.pop_front() else { break };
            follow(&mut heard, Heard { at, lasts: length, data });
        }
        heard
    }

    /// What is heard until then, where the file ends: the last unit lasts no longer.
    pub fn rest(&mut self, end: Duration) -> Vec<Heard> {
        let mut heard = self.until(end);
        if let Some((at, data)) = self.pending.pop_front() {
            let lasts = self.samples(end).saturating_sub(at);
            if lasts > 0 {
                follow(&mut heard, Heard { at, lasts, data });
            }
        }
        self.pending.clear();
        heard
    }

    /// Rounded.
    fn samples(&self, time: Duration) -> u64 {
        let samples = (time.as_nanos() * u128::from(self.format.rate) + 500_000_000) / 1_000_000_000;
        u64::try_from(samples).unwrap_or(u64::MAX / 2)
    }
}

/// Adds a unit. The one before it lasts until it begins.
fn follow(heard: &mut Vec<Heard>, next: Heard) {
    if let Some(last) = heard.last_mut() {
        last.lasts = next.at - last.at;
    }
    heard.push(next);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format() -> Arc<SoundFormat> {
        Arc::new(SoundFormat::plain(16_000, 1).unwrap())
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A track that has taken units which begin at these milliseconds, in a file that begins at 1000.
    fn taken(times: &[u64]) -> SoundTrack {
        let mut track = SoundTrack::new(format());
        let units = times.iter().map(|&at| Sound { pts: ms(at), data: Bytes::from_static(&[1]) }).collect();
        track.take(&Soundtrack { format: format(), units }, ms(1000));
        track
    }

    fn told(heard: &[Heard]) -> Vec<(u64, u64)> {
        heard.iter().map(|heard| (heard.at, heard.lasts)).collect()
    }

    #[test]
    fn sound_is_where_it_belongs_beside_the_first_frame() {
        let mut track = taken(&[900, 999, 1010, 1074, 1138]);
        assert_eq!(told(&track.until(ms(140))), [(160, 1024), (1184, 1024)], "two are over by then");
        assert_eq!(told(&track.until(ms(300))), [(2208, 1024)]);
    }

    #[test]
    fn a_clock_that_differs_a_little_leaves_no_gap_and_a_hole_stays_one() {
        let mut track = taken(&[1000, 1072, 1128, 1300]);
        assert_eq!(told(&track.until(ms(1000))), [(0, 1024), (1024, 1024), (2048, 2752), (4800, 1024)]);
    }

    #[test]
    fn sound_that_goes_back_is_left_out_until_it_is_new() {
        let mut track = taken(&[1000, 1064, 1000, 1064, 1128]);
        assert_eq!(told(&track.until(ms(1000))), [(0, 1024), (1024, 1024), (2048, 1024)]);
    }

    #[test]
    fn the_last_unit_ends_with_the_file() {
        assert_eq!(told(&taken(&[1000, 1064]).rest(ms(100))), [(0, 1024), (1024, 576)]);
        assert_eq!(told(&taken(&[1000, 1064]).rest(ms(64))), [(0, 1024)]);
        assert_eq!(told(&taken(&[1000, 2000]).rest(ms(500))), [(0, 1024)], "what follows is not in the file");
        assert!(taken(&[1000]).rest(ms(0)).is_empty());
    }

    #[test]
    fn sound_of_another_format_is_left_out() {
        let mut track = taken(&[1000]);
        let other = Arc::new(SoundFormat::plain(8000, 1).unwrap());
        track.take(&Soundtrack { format: other, units: vec![Sound { pts: ms(1064), data: Bytes::new() }] }, ms(1000));
        assert_eq!(told(&track.rest(ms(1000))), [(0, 1024)]);
    }
}
