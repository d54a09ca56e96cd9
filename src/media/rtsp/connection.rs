//! The connection with a camera: bytes in and out, whole messages to its caller. What it waits for may be given up at any time: no
//! byte is lost or sent twice. It bounds what either side may hold back. Called by `conversation`.

use std::{io, net::SocketAddr, time::Instant};

use bytes::{Buf, BytesMut};
use tokio::{io::Interest, net::TcpStream};

use super::{
    fault::Fault,
    message::{Message, Reader},
};

/// How much is read at once, bytes.
const READ: usize = 16 << 10;
/// A camera that leaves so many bytes of requests and answers unread reads none, bytes.
const UNREAD: usize = 16 << 10;

pub(super) struct Connection {
    stream: TcpStream,
    reader: Reader,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// When the newest bytes came.
    pub read_at: Instant,
    /// The number of the newest request.
    sequence: u32,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Self {
        // Requests are small, and wait for nothing.
        let _ = stream.set_nodelay(true);
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        Self { stream, reader: Reader::default(), incoming, outgoing, read_at: Instant::now(), sequence: 0 }
    }

    /// Our address, and the camera's.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.stream.local_addr()?, self.stream.peer_addr()?))
    }

    /// Whether all that was to be sent has been.
    pub fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Sends a request without a body as soon as the camera reads, and gives its number (`CSeq`).
    ///
    /// # Errors
    /// The camera reads nothing.
    pub fn request(&mut self, method: &str, url: &str, headers: &[(&str, &str)]) -> Result<u32, Fault> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut text = format!("{method} {url} RTSP/1.0\r\nCSeq: {}\r\n", self.sequence);
        for (name, value) in headers.iter().chain(&[("User-Agent", concat!("kasa-care-agent/", env!("CARGO_PKG_VERSION")))]) {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push_str("\r\n");
        }
        self.send(&text)?;
        Ok(self.sequence)
    }

    /// Sends a response without a body.
    ///
    /// # Errors
    /// The camera reads nothing.
    pub fn respond(&mut self, status: &str, sequence: Option<u32>, headers: &str) -> Result<(), Fault> {
        let sequence = sequence.map(|sequence| format!("CSeq: {sequence}\r\n")).unwrap_or_default();
        self.send(&format!("RTSP/1.0 {status}\r\n{sequence}{headers}"))
    }

    fn send(&mut self, head: &str) -> Result<(), Fault> {
        if self.outgoing.len() + head.len() > UNREAD {
            return Err(Fault::Unread);
        }
        self.outgoing.extend_from_slice(head.as_bytes());
        self.outgoing.extend_from_slice(b"\r\n");
        self.flush()
    }

    /// The next message that has come as a whole.
    ///
    /// # Errors
    /// What has come is no message.
    pub fn received(&mut self) -> Result<Option<Message>, Fault> {
        self.reader.next(&mut self.incoming).map_err(Fault::Malformed)
    }

    /// Waits for the next message. May be dropped at any time.
    ///
    /// # Errors
    /// The connection has ended, or what has come is no message.
    pub async fn next(&mut self) -> Result<Message, Fault> {
        loop {
            if let Some(message) = self.received()? {
                return Ok(message);
            }
            self.progress().await?;
        }
    }

    /// Waits until bytes have come or gone. May be dropped at any time.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn progress(&mut self) -> Result<(), Fault> {
        let interest = if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE.add(Interest::WRITABLE) };
        let ready = self.stream.ready(interest).await.map_err(Fault::Broken)?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.incoming.reserve(READ);
            match self.stream.try_read_buf(&mut self.incoming) {
                Ok(0) => return Err(Fault::Closed),
                Ok(_) => self.read_at = Instant::now(),
                Err(error) if waits(&error) => {}
                Err(error) => return Err(Fault::Broken(error)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        while !self.outgoing.is_empty() {
            match self.stream.try_write(&self.outgoing) {
                Ok(sent) => self.outgoing.advance(sent.min(self.outgoing.len())),
                Err(error) if waits(&error) => break,
                Err(error) => return Err(Fault::Broken(error)),
            }
        }
        Ok(())
    }
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
