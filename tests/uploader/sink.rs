//! A vendor's clip store: accepts PUTs over plain HTTP, counts the bytes, and can stop reading.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

/// A PUT.
#[derive(Debug, Clone)]
pub struct Put {
    /// The clip's file name.
    pub name: String,
    /// The announced length.
    pub length: usize,
    /// The bytes received.
    pub arrived: usize,
    /// Whether it has ended.
    pub ended: bool,
}

impl Put {
    /// Whether all bytes were received.
    pub fn is_whole(&self) -> bool {
        self.arrived == self.length
    }
}

#[derive(Default)]
struct Seen {
    puts: Vec<Put>,
    /// Number of bytes after which the store stops reading.
    stall_after: Option<usize>,
    /// The status of every answer; 200 by default.
    status: Option<u16>,
}

/// The store; stopped on drop.
pub struct Sink {
    pub addr: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Sink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen, changed) = (listener.local_addr().unwrap(), Arc::<Mutex<Seen>>::default(), Arc::<Notify>::default());
        let (shared, wake) = (seen.clone(), changed.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(take(stream, shared.clone(), wake.clone()));
            }
        });
        Self { addr, seen, changed, task }
    }

    /// Limits reading to so many bytes of a clip from now on; `None` for no limit.
    pub fn stall_after(&self, bytes: Option<usize>) {
        self.lock().stall_after = bytes;
        self.changed.notify_waiters();
    }

    /// Sets the status of answers from now on.
    pub fn answer(&self, status: u16) {
        self.lock().status = Some(status);
    }

    pub fn puts(&self) -> Vec<Put> {
        self.lock().puts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
        if std::thread::panicking() {
            eprintln!("--- the sink saw {:#?}", self.lock().puts);
        }
    }
}

async fn take(mut stream: TcpStream, seen: Arc<Mutex<Seen>>, changed: Arc<Notify>) {
    let lock = || seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let name = head.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap().parse().unwrap();
    let index = {
        let mut seen = lock();
        seen.puts.push(Put { name, length, arrived: 0, ended: false });
        seen.puts.len() - 1
    };
    let mut piece = [0; 4096];
    loop {
        let told = changed.notified();
        let (arrived, stalled) = {
            let seen = lock();
            let arrived = seen.puts[index].arrived;
            (arrived, seen.stall_after.is_some_and(|most| arrived >= most))
        };
        if arrived == length {
            break;
        }
        if stalled {
            told.await;
            continue;
        }
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(more) => lock().puts[index].arrived += more,
        }
    }
    let status = {
        let mut seen = lock();
        let put = &mut seen.puts[index];
        put.ended = true;
        put.is_whole().then_some(seen.status.unwrap_or(200))
    };
    if let Some(status) = status {
        let _ = stream.write_all(format!("HTTP/1.1 {status} so\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes()).await;
        // Waits until the client has read the answer.
        let _ = stream.read(&mut piece).await;
    }
}
