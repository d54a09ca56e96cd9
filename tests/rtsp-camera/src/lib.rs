//! An RTSP camera for tests: it loops a recorded H.264 or H.265 file in real time, over interleaved TCP and over UDP,
//! with faults to choose ([`Options`]). Not a server for anybody else: one stream, threads, no TLS.
//!
//! The black-box tests run it in their own process and compare what the agent made of the stream with what the camera
//! sent ([`Camera::sessions`]). The program of the same name is the streamer of the emulated camera.

#![forbid(unsafe_code)]

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

mod adts;
mod annexb;
mod digest;
mod options;
mod packets;
mod sdp;
mod server;
mod stream;

pub use annexb::{Codec, Video};
pub use digest::{Credentials, Scheme};
pub use options::{Clock, CommandLine, Control, End, Keepalive, Marker, Options, RtpInfo, Section, Sprop, Transports, USAGE};

/// What one PLAY has sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// Frames, whether or not all their packets were sent.
    pub frames: u64,
    /// When each of them was sent, counted from the first: a machine that stalls sends late.
    pub sent: Vec<Duration>,
    /// Frames of which a packet was lost on purpose.
    pub damaged: u64,
    /// RTP packets of the video.
    pub packets: u64,
    /// Whether it went over UDP.
    pub udp: bool,
    /// Whether it has ended.
    pub ended: bool,
}

/// A running camera. Dropping it closes its connections and its port.
#[derive(Debug)]
pub struct Camera {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Listens. The thread of a camera before this one, or a child of this process between fork and exec, may still hold the address.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(address) {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            bound => return bound,
        }
    }
}

/// What the threads of a camera share.
#[derive(Debug)]
struct Shared {
    options: Options,
    videos: Vec<(f64, Video)>,
    sound: Option<adts::Sound>,
    closed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<TcpStream>,
    sessions: Vec<Session>,
    events: Vec<String>,
    print: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: String) {
        let mut state = self.state();
        if state.print {
            println!("{event}");
        } else {
            state.events.push(event);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Camera {
    /// Reads the files and listens.
    ///
    /// # Errors
    /// A file cannot be read, or holds no picture or sound; the address cannot be listened on.
    pub fn start(options: Options) -> io::Result<Self> {
        let mut videos = vec![(0.0, Video::read(&options.file, options.codec)?)];
        for (at, file) in &options.changes {
            videos.push((*at, Video::read(file, options.codec)?));
        }
        let sound = options.sound.as_deref().map(adts::Sound::read).transpose()?;
        let listener = listen(options.listen)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { options, videos, sound, closed: AtomicBool::new(false), state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for connection in listener.incoming() {
                if accepting.is_closed() {
                    return;
                }
                match connection {
                    Ok(connection) => server::serve(&accepting, connection),
                    Err(e) => accepting.event(format!("accept: {e}")),
                }
            }
        });
        Ok(Self { address, shared })
    }

    /// Prints events from now on instead of keeping them.
    pub fn print_events(&self) {
        self.shared.state().print = true;
    }

    /// The stream's URL, without credentials.
    pub fn url(&self) -> String {
        format!("rtsp://{}{}", self.address, self.shared.options.path)
    }

    /// The stream's URL with `user` as its user info: `name:password`, percent-encoded or not.
    pub fn url_for(&self, user: &str) -> String {
        format!("rtsp://{user}@{}{}", self.address, self.shared.options.path)
    }

    /// The events so far: requests as `-> METHOD`, and what the camera did by itself as `-- …`.
    pub fn events(&self) -> Vec<String> {
        self.shared.state().events.clone()
    }

    /// What each PLAY has sent so far, in order.
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.state().sessions.clone()
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        for connection in self.shared.state().connections.drain(..) {
            // Already closed by its peer, or else its threads end now.
            drop(connection.shutdown(std::net::Shutdown::Both));
        }
        // Wakes the accepting thread; if that fails the thread has ended.
        drop(TcpStream::connect(self.address));
    }
}
