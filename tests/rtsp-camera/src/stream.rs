//! The frames of one PLAY: when each is due, what its packets look like on the wire, and when the stream ends.

use std::{
    io,
    net::UdpSocket,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    Session, adts,
    annexb::{Codec, Video},
    options::{Clock, End, Options, Section},
    packets::{AAC, VIDEO, bye, malformed, metadata, payloads, rtp, sender_report},
    sdp::Media,
    server::Connection,
};

/// The SSRC of the video; other tracks count up from it.
pub(crate) const SSRC: u32 = 0x1234_abcd;
/// Ticks of the RTP clock per second.
const RATE: f64 = 90_000.0;
/// How often a waiting stream looks whether it has to end, or has sound to send.
const TICK: Duration = Duration::from_millis(20);
/// A frame that leaves so much after its time finds a machine that has stalled.
const LATE: Duration = Duration::from_millis(200);
/// Seconds from 1900, where NTP's time begins, to 1970.
const NTP_EPOCH: u64 = 2_208_988_800;

/// Where the packets of a track go.
#[derive(Debug)]
pub(crate) enum Sink {
    Tcp { channel: u8 },
    Udp { rtp: UdpSocket, rtcp: UdpSocket },
}

/// A track that the client has set up.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub media: Media,
    pub sink: Sink,
}

impl Outlet {
    fn send(&self, connection: &Connection, packets: &[Vec<u8>]) -> io::Result<()> {
        self.deliver(connection, packets, false)
    }

    fn send_rtcp(&self, connection: &Connection, packet: Vec<u8>) -> io::Result<()> {
        self.deliver(connection, &[packet], true)
    }

    fn deliver(&self, connection: &Connection, packets: &[Vec<u8>], is_rtcp: bool) -> io::Result<()> {
        match &self.sink {
            Sink::Tcp { channel } => {
                let mut bytes = Vec::with_capacity(packets.iter().map(|packet| packet.len() + 4).sum());
                for packet in packets {
                    let length = u16::try_from(packet.len()).expect("a packet is shorter than 64 KiB");
                    bytes.extend_from_slice(&[b'$', channel + u8::from(is_rtcp)]);
                    bytes.extend_from_slice(&length.to_be_bytes());
                    bytes.extend_from_slice(packet);
                }
                connection.send(&bytes)
            }
            Sink::Udp { rtp, rtcp } => packets.iter().try_for_each(|packet| {
                match if is_rtcp { rtcp } else { rtp }.send(packet) {
                    // The client has closed its port; the camera learns of it by its connection.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                    sent => sent.map(drop),
                }
            }),
        }
    }
}

/// Where a session's sequence numbers and timestamps begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    session: usize,
    pub sequence: u16,
    pub timestamp: u32,
}

impl Start {
    /// The sequence numbers wrap soon; the timestamps only if they have to.
    pub fn of_session(session: usize, options: &Options) -> Self {
        let number = u32::try_from(session).unwrap_or_default();
        let timestamp = match options.clock {
            Clock::WrapAfter(seconds) => 0_u32.wrapping_sub((seconds * RATE) as u32),
            _ => number.wrapping_mul(0x0123_4567) % (1 << 30) + 77,
        };
        Self { session, sequence: 65_500_u16.wrapping_sub(number as u16), timestamp }
    }
}

/// Sends frames until the client or the camera ends the connection.
pub(crate) fn play(connection: &Connection, outlets: &[Outlet], start: Start) {
    let video = outlets.iter().find(|outlet| outlet.media == Media::Video);
    let udp = video.is_some_and(|video| matches!(video.sink, Sink::Udp { .. }));
    let index = {
        let sessions = &mut connection.shared.state().sessions;
        sessions.push(Session { udp, ..Session::default() });
        sessions.len() - 1
    };
    let mut stream = Stream {
        connection,
        options: &connection.shared.options,
        outlets,
        index,
        began: Instant::now(),
        sequence: start.sequence,
        timestamp: start.timestamp,
        last_timestamp: start.timestamp,
        ssrc: SSRC,
        random: 0x2545_f491 ^ (start.session as u32 + 1),
        packets: 0,
        octets: 0,
        malformed: 0,
        first: None,
        swapped: None,
        sounds: 0,
        units: 0,
        messages: 0,
        reports: 0,
    };
    let ended = stream.run();
    connection.shared.state().sessions[index].ended = true;
    match ended {
        Ok(Some(why)) => {
            connection.shared.event(format!("-- {why}"));
            connection.close();
        }
        Ok(None) => {}
        Err(e) => {
            connection.shared.event(format!("-- stream: {e}"));
            connection.close();
        }
    }
}

struct Stream<'a> {
    connection: &'a Connection,
    options: &'a Options,
    outlets: &'a [Outlet],
    /// The place of this PLAY among the camera's sessions.
    index: usize,
    began: Instant,
    sequence: u16,
    /// RTP time of the beginning.
    timestamp: u32,
    last_timestamp: u32,
    ssrc: u32,
    random: u32,
    packets: u32,
    octets: u32,
    malformed: u32,
    /// When the first frame was sent.
    first: Option<Instant>,
    /// A packet that waits for its successor.
    swapped: Option<Vec<u8>>,
    /// Packets of sound, metadata, and sender reports so far.
    sounds: u32,
    units: u32,
    messages: u32,
    reports: u32,
}

impl Stream<'_> {
    /// Returns why the camera closes the connection, or `None` if the client has ended it.
    fn run(&mut self) -> io::Result<Option<&'static str>> {
        let fps = self.options.fps;
        let ready = Instant::now() + Duration::from_secs_f64(self.options.start_after);
        if let Some(ended) = self.wait(ready)? {
            return Ok(ended);
        }
        self.began = ready;
        let (mut source, mut unit, mut earliest) = (0, 0, ready);
        for frame in 0_u32.. {
            let time = f64::from(frame) / fps;
            let burst = self.options.burst;
            let together = f64::from(frame / burst * burst + burst - 1) / fps;
            let due = self.began + Duration::from_secs_f64((together - self.options.lead).max(0.0));
            if let Some(ended) = self.wait(due.max(earliest))? {
                return Ok(ended);
            }
            let videos = &self.connection.shared.videos;
            if let Some(next) = videos.get(source + 1)
                && time >= next.0
            {
                (source, unit) = (source + 1, 0);
                self.connection.shared.event(format!("-- file {}", source + 1));
            }
            if self.options.ssrc_change.is_some_and(|at| time >= at) {
                self.ssrc = SSRC ^ 0xffff;
            }
            let video = &videos[source].1;
            self.send_frame(video, unit, frame)?;
            if due.elapsed() > LATE {
                // The machine has stalled: no camera sends the seconds that it missed at once.
                earliest = Instant::now() + Duration::from_secs_f64(0.25 / fps);
            }
            unit = (unit + 1) % video.len();
        }
        Ok(None)
    }

    /// Waits until `due`; returns early, with the reason, if the stream ends before.
    fn wait(&mut self, due: Instant) -> io::Result<Option<Option<&'static str>>> {
        loop {
            if self.connection.is_stopped() {
                return Ok(Some(None));
            }
            let now = Instant::now();
            if self.options.drop_idle.is_some_and(|most| self.connection.idle() > most) {
                return Ok(Some(Some("dropped: no keepalive")));
            }
            let elapsed = now.saturating_duration_since(self.began).as_secs_f64();
            let mut stalled = false;
            if let Some((_, how)) = self.options.end.filter(|(at, _)| elapsed >= *at) {
                match how {
                    End::Close => return Ok(Some(Some("closed"))),
                    End::Bye => {
                        let ssrc = self.ssrc;
                        self.video(|stream, video| video.send_rtcp(stream.connection, bye(ssrc)))?;
                        return Ok(Some(Some("closed with BYE")));
                    }
                    End::Stall => stalled = true,
                }
            }
            if !stalled {
                self.send_beside(elapsed)?;
                if now >= due {
                    return Ok(None);
                }
            }
            let left = if stalled { TICK } else { due.saturating_duration_since(now) };
            thread::sleep(left.min(TICK));
        }
    }

    fn video<T: Default>(&self, act: impl FnOnce(&Self, &Outlet) -> io::Result<T>) -> io::Result<T> {
        match self.outlets.iter().find(|outlet| outlet.media == Media::Video) {
            Some(video) => act(self, video),
            None => Ok(T::default()),
        }
    }

    fn send_frame(&mut self, video: &Video, unit: usize, frame: u32) -> io::Result<()> {
        let options = self.options;
        let delimiter: &[u8] = match options.codec {
            Codec::H264 => &[9, 0xf0],
            Codec::H265 => &[35 << 1, 1, 0x50],
        };
        // User data (payload type 5): a UUID of 16 bytes, and nothing.
        let sei: &[u8] = match options.codec {
            Codec::H264 => &[6, 5, 16, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0x80],
            Codec::H265 => &[39 << 1, 1, 5, 16, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0x80],
        };
        let mut nals = Vec::new();
        if options.delimiters {
            nals.push(delimiter);
        }
        let kept = |nal: &&[u8]| !options.strip_parameter_sets || options.codec.kind(nal) != crate::annexb::Kind::ParameterSet;
        nals.extend(video.unit(unit).filter(kept));
        if options.sei {
            // Behind the parameter sets, before the picture.
            let at = nals.iter().position(|nal| options.codec.kind(nal) == crate::annexb::Kind::Slice).unwrap_or(nals.len());
            nals.insert(at, sei);
        }
        // A frame later than the file says: then no B picture is shown before the first frame.
        let shown = frame.saturating_add_signed(video.shift(unit) + 1);
        let timestamp = self.timestamp.wrapping_add(self.clock(shown));
        self.last_timestamp = timestamp;

        let (mut wire, mut damaged) = (Vec::new(), false);
        for payload in payloads(options, &nals) {
            let packet = rtp(VIDEO, payload.marker, self.sequence, timestamp, self.ssrc, &payload.bytes);
            self.sequence = self.sequence.wrapping_add(1);
            self.packets += 1;
            self.octets = self.octets.wrapping_add(payload.bytes.len() as u32);
            let is_nth = |nth: Option<u32>| nth.is_some_and(|nth| self.packets.is_multiple_of(nth));
            if is_nth(options.lose) {
                damaged = true;
                continue;
            }
            let waits = is_nth(options.swap) && self.swapped.is_none();
            let twice = is_nth(options.repeat);
            let then_malformed = is_nth(options.malformed);
            if waits {
                self.swapped = Some(packet);
            } else {
                if twice {
                    wire.push(packet.clone());
                }
                wire.push(packet);
                wire.extend(self.swapped.take());
            }
            if then_malformed {
                let (packet, counts) = malformed(self.malformed, options.codec, self.sequence, timestamp, self.ssrc);
                self.malformed += 1;
                self.sequence = self.sequence.wrapping_add(u16::from(counts));
                wire.push(packet);
            }
        }
        self.video(|stream, video| video.send(stream.connection, &wire))?;
        let (packets, sent) = (self.packets, Instant::now());
        let first = *self.first.get_or_insert(sent);
        let session = &mut self.connection.shared.state().sessions[self.index];
        session.frames += 1;
        session.sent.push(sent - first);
        session.damaged += u64::from(damaged);
        session.packets = u64::from(packets);
        Ok(())
    }

    /// Ticks of the RTP clock for the frame that is shown as this one.
    fn clock(&mut self, shown: u32) -> u32 {
        let fps = self.options.fps;
        let true_time = f64::from(shown) / fps;
        let seconds = match &self.options.clock {
            Clock::Normal | Clock::WrapAfter(_) => true_time,
            Clock::Constant => 0.0,
            Clock::Hold(frames) => f64::from(shown / frames * frames) / fps,
            Clock::Rate(factor) => true_time * factor,
            Clock::Jumps(jumps) => true_time + jumps.iter().filter(|(at, _)| true_time >= *at).map(|(_, delta)| delta).sum::<f64>(),
            Clock::Random => {
                // Xorshift.
                self.random ^= self.random << 13;
                self.random ^= self.random >> 17;
                self.random ^= self.random << 5;
                return self.random;
            }
        };
        // Timestamps are the low 32 bits.
        (seconds * RATE).round() as i64 as u32
    }

    /// Sound, metadata and sender reports that are due after so many seconds.
    fn send_beside(&mut self, elapsed: f64) -> io::Result<()> {
        let due = |each: f64| (elapsed / each) as u32;
        let mut units = self.units;
        for outlet in self.outlets {
            match outlet.media {
                Media::Beside(Section::Audio) => {
                    // 20 ms of silence (G.711 A-law).
                    let packets = (self.sounds..due(0.02)).map(|n| rtp(8, n == 0, n as u16, n.wrapping_mul(160), SSRC + 1, &[0xd5; 160]));
                    outlet.send(self.connection, &packets.collect::<Vec<_>>())?;
                }
                Media::Beside(Section::Aac) => {
                    let Some(sound) = &self.connection.shared.sound else { continue };
                    let each = f64::from(adts::SAMPLES) / f64::from(sound.rate);
                    // A unit can leave when it has been heard.
                    let packets = (self.units..due(each)).map(|n| {
                        let unit = &sound.units[n as usize % sound.units.len()];
                        let size = u16::try_from(unit.len()).expect("an access unit is shorter than 8 KiB") << 3;
                        let payload = [&[0, 16][..], &size.to_be_bytes(), unit].concat();
                        rtp(AAC, true, n as u16, n.wrapping_mul(adts::SAMPLES), SSRC + 3, &payload)
                    });
                    outlet.send(self.connection, &packets.collect::<Vec<_>>())?;
                    units = due(each);
                }
                Media::Beside(Section::Metadata) => {
                    let moves = |n: u32| self.options.motion.iter().any(|(from, until)| (*from..*until).contains(&f64::from(n)));
                    let packets = (self.messages..due(1.0)).flat_map(|n| metadata(n, moves(n), SSRC + 2));
                    outlet.send(self.connection, &packets.collect::<Vec<_>>())?;
                }
                Media::Video | Media::Beside(Section::BackChannel) => {}
            }
        }
        (self.sounds, self.units, self.messages) = (due(0.02), units, due(1.0));
        if self.options.sender_reports && self.reports < due(1.0) + 1 && self.packets > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let ntp = ((now.as_secs() + NTP_EPOCH) << 32) | ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000);
            let report = sender_report(self.ssrc, ntp, self.last_timestamp, self.packets, self.octets);
            self.reports = due(1.0) + 1;
            self.video(|stream, video| video.send_rtcp(stream.connection, report))?;
            for outlet in self.outlets.iter().filter(|outlet| outlet.media == Media::Beside(Section::Aac)) {
                let rate = self.connection.shared.sound.as_ref().map_or(0, |sound| sound.rate);
                let timestamp = (self.began.elapsed().as_secs_f64() * f64::from(rate)) as u32;
                outlet.send_rtcp(self.connection, sender_report(SSRC + 3, ntp, timestamp, self.units, 0))?;
            }
        }
        Ok(())
    }
}
