//! The link against Mosquitto.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use care_protocol::Topic;
use rumqttc::{AsyncClient, MqttOptions, Packet, QoS};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc};

use super::{
    broker::{ENTITLEMENT, STATUS},
    owner::{Owner, settings},
};
use crate::{
    clock::Clock,
    link::{Event, Settings},
    tls::{device_client, tests::Pki},
};

struct Mosquitto {
    dir: TempDir,
    port: u16,
    /// Bound, and never listening: nobody else is given the port.
    _held: Socket,
    child: Child,
}

impl Mosquitto {
    /// A broker that keeps sessions over restarts; `tls` are further lines for its listener.
    async fn new(tls: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        held.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        held.set_reuse_address(true).unwrap();
        let port = held.local_addr().unwrap().as_socket().unwrap().port();
        let user = if rustix::process::getuid().is_root() { "user root\n" } else { "" };
        let config = format!(
            "{user}listener {port} 127.0.0.1\n{tls}allow_anonymous true\npersistence true\npersistence_location {}/\n\
             set_tcp_nodelay true\n",
            dir.path().display()
        );
        fs::write(dir.path().join("mosquitto.conf"), config).unwrap();
        let mut mosquitto = Self { child: spawn(dir.path()).unwrap(), dir, port, _held: held };
        mosquitto.ready().await;
        mosquitto
    }

    async fn ready(&mut self) {
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "mosquitto runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// SIGTERM, so that it saves its sessions, and a new one on the same port.
    async fn restart(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.dir.path()).unwrap();
        self.ready().await;
    }
}

fn spawn(dir: &Path) -> io::Result<Child> {
    // Debian keeps it in /usr/sbin, which is not on everyone's PATH.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    Command::new("mosquitto").env("PATH", path).arg("-c").arg(dir.join("mosquitto.conf")).stderr(Stdio::null()).spawn()
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cloud's side: publishes, and sees what the device says.
struct Cloud {
    client: AsyncClient,
    seen: mpsc::UnboundedReceiver<(String, String)>,
    poller: tokio::task::JoinHandle<()>,
}

impl Cloud {
    async fn new(port: u16) -> Self {
        let mut options = MqttOptions::new("cloud", "127.0.0.1", port);
        options.set_max_packet_size(4 << 20, 4 << 20);
        let (client, mut eventloop) = AsyncClient::new(options, 2000);
        let (sender, seen) = mpsc::unbounded_channel();
        for topic in [STATUS, "care/v1/8006E5A1F0C2/report"] {
            client.try_subscribe(topic, QoS::AtLeastOnce).unwrap();
        }
        let (ready, subscribed) = tokio::sync::oneshot::channel();
        let mut ready = Some(ready);
        let poller = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(rumqttc::Event::Incoming(Packet::Publish(publish))) => {
                        let text = String::from_utf8(publish.payload.to_vec()).unwrap();
                        let _ = sender.send((publish.topic, text));
                    }
                    Ok(rumqttc::Event::Incoming(Packet::SubAck(_))) => drop(ready.take().map(|ready| ready.send(()))),
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        subscribed.await.unwrap();
        Self { client, seen, poller }
    }

    fn document(&self, text: impl Into<Vec<u8>>, retain: bool) {
        self.client.try_publish(ENTITLEMENT, QoS::AtLeastOnce, retain, text.into()).unwrap();
    }

    async fn sees(&mut self, topic: &str, text: &str) {
        let wait = async { while self.seen.recv().await.unwrap() != (topic.to_owned(), text.to_owned()) {} };
        tokio::time::timeout(super::broker::PATIENCE, wait).await.unwrap_or_else(|_| panic!("{topic} becomes {text}"));
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

#[tokio::test]
async fn the_retained_document_comes_with_every_connection_and_status_follows() {
    let mosquitto = Mosquitto::new("").await;
    let mut cloud = Cloud::new(mosquitto.port).await;
    cloud.document("plus", true);
    let mut owner = Owner::new(settings(mosquitto.port));
    let first = owner.document().await;
    assert_eq!((first.text.as_str(), first.topic, first.retain, first.dup), ("plus", Topic::Entitlement, true, false));
    owner.link.ack(first.ack.unwrap());
    cloud.sees(STATUS, "online").await;
    cloud.document("free", true);
    let second = owner.document().await;
    assert_eq!((second.text.as_str(), second.retain), ("free", false));
    owner.link.ack(second.ack.unwrap());
    owner.report(7);
    assert_eq!(owner.published().await, 7);
    cloud.sees("care/v1/8006E5A1F0C2/report", "report 7").await;

    owner.reload(mosquitto.port);
    owner.lost().await;
    let again = owner.document().await;
    assert_eq!((again.text.as_str(), again.retain, again.dup), ("free", true, false));
    assert!(owner.link.stop(Duration::from_secs(10)).await);
    cloud.sees(STATUS, "offline").await;
}

#[tokio::test]
async fn the_broker_says_offline_for_a_device_that_is_killed() {
    let mosquitto = Mosquitto::new("").await;
    let mut cloud = Cloud::new(mosquitto.port).await;
    let mut owner = Owner::new(settings(mosquitto.port));
    owner.subscribed().await;
    cloud.sees(STATUS, "online").await;
    drop(owner);
    cloud.sees(STATUS, "offline").await;
}

/// Scenario 52.
#[tokio::test]
async fn what_was_not_acknowledged_comes_again_after_the_broker_restarts() {
    let mut mosquitto = Mosquitto::new("").await;
    let cloud = Cloud::new(mosquitto.port).await;
    let mut owner = Owner::new(settings(mosquitto.port));
    owner.subscribed().await;
    cloud.document("held back", false);
    let held = owner.document().await;
    assert!(held.ack.is_some() && !held.dup);
    mosquitto.restart().await;
    owner.lost().await;
    let present = owner.until(|event| match event {
        Event::Connected { session_present, .. } => Some(session_present),
        _ => None,
    });
    assert!(present.await);
    // The old right is worth nothing; the message comes again, with a new one.
    owner.link.ack(held.ack.unwrap());
    let again = owner.document().await;
    assert_eq!((again.text.as_str(), again.dup), ("held back", true));
    owner.link.ack(again.ack.unwrap());
}

/// Scenario 26.
#[tokio::test]
async fn a_burst_of_a_thousand_arrives_in_order() {
    let mosquitto = Mosquitto::new("max_queued_messages 0\n").await;
    let cloud = Cloud::new(mosquitto.port).await;
    let mut owner = Owner::new(settings(mosquitto.port));
    owner.subscribed().await;
    for number in 0..1000 {
        cloud.document(number.to_string(), true);
    }
    for number in 0..1000 {
        let document = owner.document().await;
        assert_eq!(document.text, number.to_string());
        owner.link.ack(document.ack.unwrap());
    }
}

/// Scenario 61.
#[tokio::test]
async fn a_megabyte_ends_in_a_clean_session_without_subscription() {
    let mosquitto = Mosquitto::new("").await;
    let cloud = Cloud::new(mosquitto.port).await;
    let mut owner = Owner::new(settings(mosquitto.port));
    owner.subscribed().await;
    cloud.document(vec![b'x'; 1 << 20], true);
    let mut losses = 0;
    owner
        .until(|event| {
            losses += u32::from(matches!(&event, Event::Lost { fault, .. } if fault.reason.contains("more than 262144")));
            matches!(event, Event::SubscribeDeferred { .. }).then_some(())
        })
        .await;
    assert_eq!(losses, 1, "the second loss follows its consequence");
    owner.lost().await;
    let present = owner.until(|event| match event {
        Event::Connected { session_present, .. } => Some(session_present),
        _ => None,
    });
    assert!(!present.await);
    // The link lives, without a subscription.
    owner.report(1);
    assert_eq!(owner.published().await, 1);
}

/// Scenario 55.
#[tokio::test]
async fn two_with_one_id_suspect_each_other_and_calm_down() {
    let mosquitto = Mosquitto::new("").await;
    let with = |seconds| Settings { clone_backoff: Duration::from_secs(seconds), ..settings(mosquitto.port) };
    let mut one = Owner::new(with(60));
    let mut two = Owner::new(with(60));
    let suspects = |event| matches!(event, Event::CloneSuspected).then_some(());
    // Whoever suspects first stays away, and the other stays connected.
    tokio::select! {
        () = one.until(suspects) => two.subscribed().await,
        () = two.until(suspects) => one.subscribed().await,
    };
}

#[tokio::test]
async fn mutual_tls_with_the_device_certificate() {
    let pki = Pki::new();
    let files = pki.broker_files();
    let lines = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n",
        files.ca.display(),
        files.client_cert.display(),
        files.client_key.display()
    );
    let mosquitto = Mosquitto::new(&lines).await;
    let mut settings = settings(mosquitto.port);
    settings.broker.endpoint.tls = true;
    settings.broker.endpoint.host = "localhost".into();
    settings.tls = Some(device_client(&pki.files(), &Clock::start(None)).unwrap());
    let mut owner = Owner::new(settings);
    owner.subscribed().await;
    owner.report(1);
    assert_eq!(owner.published().await, 1);
    assert!(owner.link.stop(Duration::from_secs(10)).await);
}
