//! The builds of the agent. A test that must hold for each takes a [`Build`] and is named in
//! [`in_each_build!`](crate::in_each_build).

use rtsp_camera::{Camera, Codec, Options};

use crate::{agent::Agent, media};

/// A build of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// With GStreamer, as in the Debian package.
    WithGstreamer,
    /// Without it, as in the firmware of a small camera: its picture comes over RTSP.
    WithoutGstreamer,
}

impl Build {
    /// Makes the agent run this build from its next start on.
    pub fn select(self, agent: &mut Agent) {
        if self == Self::WithoutGstreamer {
            agent.without_gstreamer();
        }
    }

    /// The same; without GStreamer the agent also films, from the vendor's streamer that is returned. It sends the
    /// recorded file.
    pub fn equip(self, agent: &mut Agent) -> Option<Camera> {
        self.select(agent);
        (self == Self::WithoutGstreamer).then(|| {
            let streamer = Camera::start(Options::new(media::recorded_annex_b(), Codec::H264)).unwrap();
            agent.config.source = Some(streamer.url());
            streamer
        })
    }
}

/// Runs each of these asynchronous test functions with each [`Build`].
#[macro_export]
macro_rules! in_each_build {
    ($($test:ident),+ $(,)?) => { $(
        mod $test {
            use $crate::build::Build;

            #[tokio::test]
            async fn with_gstreamer() {
                super::$test(Build::WithGstreamer).await;
            }

            #[tokio::test]
            async fn without_gstreamer() {
                super::$test(Build::WithoutGstreamer).await;
            }
        }
    )+ };
}
