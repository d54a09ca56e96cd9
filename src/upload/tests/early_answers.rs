//! A store that answers a PUT before it has the whole clip and goes on reading: what is left of the clip must stay
//! here.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread::JoinHandle,
};

use portable_atomic::AtomicU64;

use super::*;
use crate::config::Endpoint;

/// Paced so that it takes five seconds: it cannot be whole when the store has answered its first bytes.
const SLOW_KBPS: u32 = 8_000;
const BIG: usize = 4_000_000;
/// After these bytes of a body the store answers.
const EARLY: u64 = 50_000;

/// A cloud that grants, and a store that answers early with the status it was made with.
struct Hasty {
    address: SocketAddr,
    /// Bytes of bodies it has got.
    got: Arc<AtomicU64>,
    /// PUTs whose connection has ended.
    ended: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hasty {
    fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (got, ended, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let seen = (got.clone(), ended.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let (got, ended, stop) = seen;
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                serve(stream.unwrap(), address, status, &got, &ended);
            }
        });
        Self { address, got, ended, stop, thread: Some(thread) }
    }

    fn bench(&self) -> Bench {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: self.address.port(), tls: false };
        Bench::with(Peers { api: Origin { endpoint, tls: None }, store: None }, SLOW_KBPS)
    }
}

impl Drop for Hasty {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes it from waiting for a connection.
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Serves one connection: a grant in full; a PUT with `status` once some of it has come, and then reads on.
fn serve(mut stream: TcpStream, address: SocketAddr, status: u16, got: &AtomicU64, ended: &AtomicU64) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    if head.starts_with("POST") {
        let expires_at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let grant = serde_json::json!({"method": "PUT", "url": format!("http://{address}/clip"), "headers": {}, "expires_at": expires_at.to_string()});
        let grant = grant.to_string();
        let date = httpdate::fmt_http_date(std::time::SystemTime::now());
        let head = format!("HTTP/1.1 201 Created\r\ndate: {date}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", grant.len());
        stream.write_all((head + &grant).as_bytes()).unwrap();
        // Until the peer closes: a reset would take the answer with it.
        let _ = reader.read_to_end(&mut Vec::new());
        return;
    }
    let mut answered = false;
    let mut of_this = 0;
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        of_this += count as u64;
        got.fetch_add(count as u64, Ordering::SeqCst);
        if of_this >= EARLY && !answered {
            answered = true;
            let _ = write!(stream, "HTTP/1.1 {status} Early\r\ncontent-length: 0\r\n\r\n");
        }
    }
    ended.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_refusal_in_mid_body_ends_the_transfer_there() {
    let store = Hasty::start(413);
    let bench = store.bench();
    bench.open(PAID);
    bench.record(BIG);
    until("the connection has ended", || store.ended.load(Ordering::SeqCst) > 0);
    let got = store.got.load(Ordering::SeqCst);
    // Half a second more at the pace would be half a megabyte.
    assert!(got < EARLY + 200_000, "{got} bytes came");
    until("no socket is left", || bench.gate.sockets.is_empty());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_store_that_accepts_what_it_has_not_got_is_not_believed() {
    let store = Hasty::start(200);
    let bench = store.bench();
    bench.open(PAID);
    bench.record(BIG);
    until("the connection has ended", || store.ended.load(Ordering::SeqCst) > 0);
    until("the fault is told", || bench.status().last_fault.is_some_and(|fault| fault.contains("before it had the whole body")));
    assert_eq!((bench.stored(), bench.status().spool.clips), (0, 1), "the clip waits to be sent again");
}
