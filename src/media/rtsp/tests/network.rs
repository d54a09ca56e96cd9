//! A network that swaps, repeats and loses the packets of a camera that a test scripts: what was swapped costs no frame, what was lost
//! is found.

use super::*;

/// What a network does to packets, one after the other: after how many others the copies of each arrive. Without copies it is lost.
pub(in crate::media::rtsp) type Disorder = &'static [&'static [u64]];

/// A network that does nothing to them.
pub(super) const ORDER: Disorder = &[&[0]];

/// A packet holds so many bytes of a picture, where the network does something to them.
const FRAGMENT: usize = 150;

pub(super) struct Network {
    disorder: Disorder,
    sent: u64,
    under_way: Vec<(u64, Vec<u8>)>,
}

impl Network {
    pub fn new(disorder: Disorder) -> Self {
        Self { disorder, sent: 0, under_way: Vec::new() }
    }

    /// The packets that arrive once this one is sent.
    pub fn pass(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        let number = self.sent;
        self.sent += 1;
        let copies = self.disorder[(number % self.disorder.len() as u64) as usize];
        self.under_way.splice(..0, copies.iter().map(|delay| (number + delay, packet.to_vec())));
        let arrives = |due: u64| due <= number;
        let (now, later) = std::mem::take(&mut self.under_way).into_iter().partition(|(due, _)| arrives(*due));
        self.under_way = later;
        Vec::into_iter(now).map(|(_, packet)| packet).collect()
    }

    /// The payloads in which a NAL unit travels (FU-A, RFC 6184, section 5.8).
    pub fn payloads(&self, unit: &[u8]) -> Vec<Vec<u8>> {
        if self.disorder == ORDER || unit.len() <= FRAGMENT {
            return vec![unit.to_vec()];
        }
        let (head, pieces) = (unit[0], unit[1..].chunks(FRAGMENT));
        let last = pieces.len() - 1;
        let fragment = |(n, piece): (usize, &[u8])| {
            let edges = if n == 0 { 0x80 } else { 0 } | if n == last { 0x40 } else { 0 };
            [&[head & 0xE0 | 28, head & 0x1F | edges], piece].concat()
        };
        pieces.enumerate().map(fragment).collect()
    }
}

/// Frames that came one after the other, none of them missing.
#[derive(Default)]
struct Row {
    position: u64,
    next: Option<usize>,
    length: usize,
}

impl Row {
    /// Looks at those that have come since.
    fn length(&mut self, run: &Run) -> usize {
        let film = scripted::film("640x360");
        while let Next::Frame { frame, .. } = run.ring.next(&mut self.position, Duration::ZERO) {
            let at = film.iter().position(|filmed| filmed.data == frame.data).expect("it is as it was filmed");
            self.length = if self.next == Some(at) { self.length + 1 } else { 1 };
            self.next = Some((at + 1) % film.len());
        }
        self.length
    }
}

fn filmed_through(disorder: Disorder) -> Run {
    let camera = Camera::through(disorder, |method, _, headers| match method {
        "DESCRIBE" => Answer::Sdp(sound::AAC),
        "SETUP" if headers.contains("interleaved") => Answer::Status("461 Unsupported Transport"),
        _ => Answer::Well,
    });
    Run::of(&Arc::new(camera.source()))
}

fn late(run: &Run) -> u64 {
    run.stream.counters.packets_late.load(Ordering::Relaxed)
}

/// Without the buffer no row would last from one keyframe to the next. A busy machine may hold a packet up for too long: then the next row
/// counts.
#[test]
fn packets_that_a_network_swaps_or_repeats_cost_no_frame_and_no_sound() {
    const SWAPPED: Disorder = &[&[1], &[0]];
    const MIXED: Disorder = &[&[0], &[5], &[0], &[0], &[2], &[0], &[0]];
    const REPEATED: Disorder = &[&[0, 0], &[1, 3], &[0]];
    for disorder in [SWAPPED, MIXED, REPEATED] {
        let run = filmed_through(disorder);
        let mut row = Row::default();
        eventually("forty frames come in a row", || row.length(&run) >= 40);
        let (mut position, mut heard) = (0, 0);
        while let Next::Frame { frame, .. } = run.ring.next(&mut position, Duration::ZERO) {
            heard += frame.sound.iter().map(|sound| sound.units.len()).sum::<usize>();
        }
        assert!(heard >= 35, "{heard} units of sound, {disorder:?}");
        run.end();
    }
}

#[test]
fn a_packet_that_is_lost_costs_the_frames_up_to_the_next_keyframe_and_is_told_once() {
    const ONE_IN_MANY: Disorder = &{
        let mut disorder: [&[u64]; 400] = [&[0]; 400];
        disorder[100] = &[];
        disorder
    };
    let run = filmed_through(ONE_IN_MANY);
    let dropped = || run.stream.counters.dropped.load(Ordering::Relaxed);
    eventually("the loss is told", || dropped() > 0);
    let mut row = Row::default();
    eventually("frames go on", || row.length(&run) >= 5);
    assert_eq!(late(&run), 0);
    run.end();
}

#[test]
fn a_packet_that_comes_after_it_was_given_up_is_counted() {
    const ONE_FAR_BEHIND: Disorder = &{
        let mut disorder: [&[u64]; 4000] = [&[0]; 4000];
        disorder[100] = &[60];
        disorder
    };
    let run = filmed_through(ONE_FAR_BEHIND);
    eventually("it is counted", || late(&run) == 1);
    assert!(run.stream.counters.dropped.load(Ordering::Relaxed) > 0);
    run.end();
}
