//! The program that the wire test (`tests/wire`) runs inside its network namespace. With `cut` it uploads as the agent does
//! and cuts on command; `parts` is the same with clips that leave while they are filmed; with `drop`, the control, it uploads as
//! an ordinary program does and on the same command only drops the request; `paced` is that with the kernel's own pace. It reads
//! one command a line on stdin (`go`, `cut`) and writes one JSON object a line on stdout.
//!
//! `on_the_wire cut|drop|paced ADDRESS CA-PEM UPLINK-KBPS CLIP-BYTES`
//! `on_the_wire parts ADDRESS CA-PEM UPLINK-KBPS FRAGMENT-BYTES` with a fragment each 250 ms

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::{BufRead, Write, stdin, stdout},
    net::SocketAddr,
    os::fd::AsRawFd,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use care_engine::Admission;
use care_protocol::{ClipKind, Policy, Position};
use http_body::{Body, Frame, SizeHint};
use hyper_util::rt::TokioIo;
use kasa_care_agent::{
    clock::Clock,
    conditions::Conditions,
    config::{Endpoint, Spool, Upload},
    http::{self, Dialer, Direct, Origin},
    media::{Beginning, ClipWriter, Outlet, Verdict},
    tls::Client,
    upload::{Peers, Settings, Uploads, start},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{runtime, sync::oneshot};

const PAID: Policy = Policy { clips: true, history_h: 720, clip_max_s: 60, cooldown_s: 0, max_height: 1080, snapshots: true };
const NONE: Policy = Policy { clips: false, snapshots: false, ..PAID };

/// How long a fragment of a clip that leaves in parts lasts.
const FRAGMENT_LASTS: Duration = Duration::from_millis(250);

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, address, ca, uplink_kbps, bytes] = &args[..] else { bail!("five arguments are needed, see the source") };
    let address: SocketAddr = address.parse().context("ADDRESS")?;
    let endpoint = Endpoint { host: address.ip().to_string(), port: address.port(), tls: true };
    let origin = Origin { endpoint, tls: Some(trust(ca.as_ref())?) };
    let (uplink_kbps, bytes) = (uplink_kbps.parse().context("UPLINK-KBPS")?, bytes.parse().context("CLIP-BYTES")?);
    let mut camera = match mode.as_str() {
        "cut" | "parts" => {
            let in_parts = mode == "parts";
            let upload = Upload { uplink_kbps, while_recording: in_parts };
            Camera::Agent { uploads: agent(origin, upload)?, in_parts }
        }
        "drop" => Camera::Control { origin, address, pace: None, sent: 0, request: None },
        "paced" => Camera::Control { origin, address, pace: Some(uplink_kbps), sent: 0, request: None },
        other => bail!("{other:?} is none of cut, parts, drop and paced"),
    };
    for (round, line) in (1..).zip(stdin().lock().lines()) {
        match line?.as_str() {
            "go" => camera.go(round, bytes)?,
            "cut" => {
                let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
                let begun = Instant::now();
                let figures = camera.cut(round);
                let micros = begun.elapsed().as_micros();
                writeln!(stdout(), "{{\"at_ns\":{},\"micros\":{micros},{figures}}}", at.as_nanos())?;
                stdout().flush()?;
            }
            other => bail!("{other:?} is no command"),
        }
    }
    if let Camera::Agent { uploads, .. } = camera {
        uploads.stop(Duration::from_secs(5));
    }
    Ok(())
}

enum Camera {
    Agent {
        uploads: Uploads,
        in_parts: bool,
    },
    /// `pace` is the kernel's, kbit/s.
    Control {
        origin: Origin,
        address: SocketAddr,
        pace: Option<u32>,
        sent: u64,
        request: Option<oneshot::Sender<()>>,
    },
}

impl Camera {
    fn go(&mut self, round: u64, bytes: usize) -> Result<()> {
        match self {
            Self::Agent { uploads, in_parts } => {
                let gate = uploads.gate();
                gate.open(Admission { record: PAID, keep: PAID, leave: PAID, position: position(round) });
                let beginning = Beginning { kind: ClipKind::Motion, ago: Duration::ZERO, height: 360 };
                let (mut clip, _) = gate.begin(beginning).ok_or_else(|| anyhow!("no clip may begin"))?;
                if *in_parts {
                    thread::Builder::new().name("filming".into()).spawn(move || film(clip, bytes))?;
                    return Ok(());
                }
                clip.append(Bytes::from(vec![7; bytes]), Duration::from_secs(1));
                clip.finish(Duration::from_secs(1));
            }
            Self::Control { origin, address, pace, sent, request } => {
                *sent += 1;
                let (drop_it, dropped) = oneshot::channel();
                let (origin, address, pace, path) = (origin.clone(), *address, *pace, format!("/clips/control-{sent}"));
                thread::Builder::new().name("control".into()).spawn(move || put(&origin, address, pace, &path, bytes, dropped))?;
                *request = Some(drop_it);
            }
        }
        Ok(())
    }

    /// Cuts, or drops the request. Returns the figures as JSON members.
    fn cut(&mut self, round: u64) -> String {
        match self {
            Self::Agent { uploads, .. } => {
                let figures = uploads.gate().cut(Some((NONE, position(round))));
                let status = uploads.status();
                let (bytes_after, fault) = (serde_json::json!(figures.bytes_after), serde_json::json!(status.last_fault));
                let pace_fault = serde_json::json!(status.pace_fault);
                format!("\"transfers\":{},\"bytes_after\":{bytes_after},\"fault\":{fault},\"pace_fault\":{pace_fault}", figures.transfers)
            }
            Self::Control { request, .. } => {
                drop(request.take());
                "\"transfers\":1,\"bytes_after\":null,\"fault\":null,\"pace_fault\":null".into()
            }
        }
    }
}

/// Films until a cut erases the clip.
fn film(mut clip: Box<dyn ClipWriter>, fragment: usize) {
    let mut filmed = FRAGMENT_LASTS;
    while clip.append(Bytes::from(vec![7; fragment]), filmed) != Verdict::Erased {
        thread::sleep(FRAGMENT_LASTS);
        filmed += FRAGMENT_LASTS;
    }
}

fn position(round: u64) -> Position {
    Position { epoch: 1, seq: round }
}

fn agent(origin: Origin, upload: Upload) -> Result<Uploads> {
    let device = "8006E5A1F0C2".parse()?;
    // Room for a clip that a fast uplink takes seconds for.
    let spool = Spool { memory_bytes: 32_000_000, flash_bytes: 0, flash_bytes_per_day: 0 };
    // No flash: this measures the wire.
    let spool_dir = std::path::PathBuf::from("/nowhere");
    let settings = Settings {
        device,
        spool,
        spool_dir,
        upload,
        peers: Peers { api: origin, store: None },
        uploader: None,
        conditions: Conditions::default(),
    };
    Ok(start(settings, Clock::start(None), |event| eprintln!("{event:?}"))?)
}

fn trust(ca: &Path) -> Result<Client> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca)?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
    Ok(Client::anonymous(config.with_root_certificates(roots).with_no_client_auth()))
}

/// One PUT by a program that does not own its socket: plain hyper, with the connection in its own task. When `dropped` fires,
/// it drops the request and leaves the connection alone.
fn put(origin: &Origin, address: SocketAddr, pace: Option<u32>, path: &str, bytes: usize, dropped: oneshot::Receiver<()>) {
    let outcome = runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from).and_then(|runtime| {
        runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
            let (stream, _) = http::connect(&Plain { pace }, origin, &[address], deadline).await?.into_stream();
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
            let connection = tokio::spawn(connection);
            let body = Clip { left: VecDeque::from(vec![Bytes::from(vec![7; 32 * 1024]); bytes / (32 * 1024)]) };
            let request = ::http::Request::put(path).header("host", address.to_string()).body(body)?;
            tokio::select! {
                answer = sender.send_request(request) => drop(answer?),
                _ = dropped => {}
            }
            drop(sender);
            connection.await??;
            Ok::<(), anyhow::Error>(())
        })
    });
    eprintln!("control: {outcome:?}");
}

/// Opens sockets as an ordinary program does, with the kernel's pace (`SO_MAX_PACING_RATE`) in kbit/s or without.
struct Plain {
    pace: Option<u32>,
}

impl Dialer for Plain {
    type Guard = <Direct as Dialer>::Guard;

    fn dial(&self, address: SocketAddr) -> std::io::Result<(tokio::net::TcpStream, Self::Guard)> {
        let (stream, guard) = Direct.dial(address)?;
        if let Some(kbps) = self.pace {
            set_pace(&stream, kbps)?;
        }
        Ok((stream, guard))
    }

    fn check(&self) -> Result<(), http::Stale> {
        Ok(())
    }
}

fn set_pace(stream: &tokio::net::TcpStream, kbps: u32) -> std::io::Result<()> {
    let bytes_per_s = u64::from(kbps) * 1000 / 8;
    let length = libc::socklen_t::try_from(size_of_val(&bytes_per_s)).expect("eight");
    // SAFETY: the descriptor is open while `stream` lives, and the kernel reads `length` bytes of a number that lives, too.
    let result = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, (&raw const bytes_per_s).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// A clip's bytes, a chunk at a time.
struct Clip {
    left: VecDeque<Bytes>,
}

impl Body for Clip {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.left.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.iter().map(|chunk| chunk.len() as u64).sum())
    }
}
