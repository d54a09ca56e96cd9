//! A wire between the agent and a server that a test can cut, blackhole and mend.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::wait::{PATIENCE, until};

/// A TCP proxy to one address.
pub struct Proxy {
    /// Where it listens.
    pub addr: SocketAddr,
    up: watch::Sender<bool>,
    accepted: Arc<AtomicUsize>,
    standing: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// A wire to `target`, up.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (up, state) = watch::channel(true);
        let accepted = Arc::new(AtomicUsize::new(0));
        let standing = Arc::new(AtomicUsize::new(0));
        let (count, stand) = (accepted.clone(), standing.clone());
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                stand.fetch_add(1, Ordering::SeqCst);
                let (state, stand) = (state.clone(), stand.clone());
                tokio::spawn(async move {
                    carry(near, target, state).await;
                    stand.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { addr, up, accepted, standing, task }
    }

    /// Closes every connection, and every new one at once; returns when none stands.
    pub async fn cut(&self) {
        self.up.send_replace(false);
        until("the wire to be cut", PATIENCE, || (self.standing.load(Ordering::SeqCst) == 0).then_some(())).await;
    }

    /// Lets new connections through.
    pub fn mend(&self) {
        self.up.send_replace(true);
    }

    /// How many connections were tried.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.up.send_replace(false);
        self.task.abort();
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut up: watch::Receiver<bool>) {
    if !*up.borrow() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(target).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = up.wait_for(|up| !up) => {}
    }
}
