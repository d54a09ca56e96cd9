//! The camera's own streamer is away or strict, and what else the firmware provides is missing.

use std::fs;

use care_protocol::{Mode, Policy};
use care_tests::{
    issuer::PREMIUM,
    media::{self, recorded_360_annex_b, recorded_annex_b},
    snapshot_service::SnapshotService,
    status::Status,
    world::World,
};
use rtsp_camera::{Camera, Codec, Credentials, Options, Scheme};

use super::{Drill, Group, Meeting, while_moving};

/// The streamer in the firmware. It always listens on the same port.
struct Streamer {
    good: Options,
    running: Option<Camera>,
}

impl Streamer {
    fn start(file: std::path::PathBuf) -> (Self, String) {
        let mut good = Options::new(file, Codec::H264);
        // An address of its own: no other test takes the port while the streamer is stopped.
        good.listen = ([127, 0, 77, 1], 0).into();
        let camera = Camera::start(good.clone()).unwrap();
        let url = camera.url_for("admin:old");
        good.listen = camera.url().trim_start_matches("rtsp://").split('/').next().unwrap().parse().unwrap();
        (Self { good, running: Some(camera) }, url)
    }

    fn stop(&mut self) {
        self.running = None;
    }

    /// Starts again, otherwise than before.
    fn become_(&mut self, change: impl FnOnce(&mut Options)) {
        self.stop();
        let mut options = self.good.clone();
        change(&mut options);
        self.running = Some(Camera::start(options).unwrap());
    }

    async fn play(&mut self, world: &World, meeting: Meeting, change: impl FnOnce(&mut Options)) {
        self.become_(change);
        while_moving(&world.agent, meeting.named(&world.agent)).await;
        self.become_(|_| {});
        meeting.over(&world.agent).await;
    }
}

#[tokio::test]
async fn camera() {
    let mut drill = Drill::new(Group::Camera);
    let mut world = World::new().await;
    let (mut streamer, source) = Streamer::start(recorded_360_annex_b());
    let (mut low, low_source) = Streamer::start(recorded_annex_b());
    let jpeg = fs::read(media::re_encoded("snapshot.jpg", &["-frames:v", "1", "-f", "mjpeg"])).unwrap();
    let firmware = SnapshotService::start(jpeg);
    let later = world.agent.dir().join("later");
    let config = &mut world.agent.config;
    (config.source, config.low_source, config.uplink_kbps) = (Some(source), Some(low_source), 100_000);
    config.motion = format!("socket:{}", later.join("motion.sock").display());
    config.media = format!("snapshot_url = \"{}\"\n", firmware.url());

    let short = Policy { clip_max_s: 1, snapshots: true, ..PREMIUM };
    let premium = world.premium().limited(short);
    let socket = drill.fault(&world.agent, "The directory of the motion socket is missing");
    world.start_with(premium, Mode::Paid).await;
    world.agent.status("a picture", |status: &Status| status.0["media"]["frames"].as_u64() > Some(30)).await;
    socket.named(&world.agent).await;
    fs::create_dir(&later).unwrap();
    socket.over(&world.agent).await;

    let away = drill.fault(&world.agent, "The camera's streamer is not running");
    streamer.stop();
    away.named(&world.agent).await;
    streamer.become_(|_| {});
    away.over(&world.agent).await;

    let password = drill.fault(&world.agent, "The streamer's password was changed");
    let credentials = Credentials::new(&[Scheme::Md5], "admin", "new");
    streamer.play(&world, password, |options| options.credentials = Some(credentials)).await;
    let path = drill.fault(&world.agent, "The stream has another path");
    streamer.play(&world, path, |options| options.path = "/elsewhere".into()).await;

    let second = drill.fault(&world.agent, "The second stream is gone");
    low.become_(|options| options.path = "/elsewhere".into());
    second.named(&world.agent).await;
    low.become_(|_| {});
    second.over(&world.agent).await;

    let snapshot = drill.fault(&world.agent, "The address of the camera's snapshots fails");
    firmware.fail();
    while_moving(&world.agent, snapshot.named(&world.agent)).await;
    firmware.mend();
    while_moving(&world.agent, snapshot.over(&world.agent)).await;
    drill.end();
}
