//! A camera firmware's snapshot address: plain HTTP on loopback, with basic login, in the test's own process.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// `admin:hunter2`
const LOGIN: &str = "authorization: basic ywrtaw46ahvudgvymg==";

/// A running service, until the test ends.
pub struct SnapshotService {
    address: SocketAddr,
    fails: Arc<AtomicBool>,
}

impl SnapshotService {
    /// Gives this JPEG to who logs in.
    pub fn start(jpeg: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fails = Arc::<AtomicBool>::default();
        let failing = Arc::clone(&fails);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (jpeg, failing) = (jpeg.clone(), Arc::clone(&failing));
                // A client that leaves early is no matter of the service.
                thread::spawn(move || stream.and_then(|stream| answer(stream, &jpeg, failing.load(Ordering::Relaxed))));
            }
        });
        Self { address, fails }
    }

    /// Its URL, with user and password.
    pub fn url(&self) -> String {
        format!("http://admin:hunter2@{}/cgi-bin/snapshot.jpg", self.address)
    }

    /// Answers 503 from now on.
    pub fn fail(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    /// Answers with the JPEG again.
    pub fn mend(&self) {
        self.fails.store(false, Ordering::Relaxed);
    }
}

fn answer(stream: TcpStream, jpeg: &[u8], fails: bool) -> std::io::Result<()> {
    let (mut reader, mut head) = (BufReader::new(&stream), String::new());
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let logged_in = head.to_ascii_lowercase().contains(LOGIN);
    let (status, body) = match () {
        () if fails => ("503 Service Unavailable", &[][..]),
        () if !logged_in => ("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"camera\"", &[][..]),
        () => ("200 OK\r\nContent-Type: image/jpeg", jpeg),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    { &stream }.write_all(&[head.as_bytes(), body].concat())
}
