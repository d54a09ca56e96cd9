//! Films an [`rtsp_camera`] under a plan, reports motion at chosen frames, and finds the frames of each clip in what the camera
//! sent.

use std::ops::Range;

use care_protocol::{Mode, Policy};
use rtsp_camera::{Camera, Options};
use serde_json::Value;

use crate::{
    build::Build,
    filming::expected_pictures,
    issuer::PREMIUM,
    media::{Probe, probe_bytes},
    status::Status,
    wait::{PATIENCE, until},
    world::World,
};

/// What to film.
pub struct Watch {
    /// The camera.
    pub options: Options,
    /// The plan's longest clip, seconds.
    pub clip_max_s: u32,
    /// Further lines of `[media]`.
    pub media: &'static str,
    /// The first event may be due at any frame whose number is a multiple of this.
    pub period: u64,
    /// Frames from there to each report of motion.
    pub events: Vec<u64>,
    /// Frames from there to the end of the last clip, at least.
    pub ends: u64,
}

/// A clip in the store.
#[derive(Debug)]
pub struct Clip {
    /// Which frames of the camera it has, none missing.
    pub frames: Range<u64>,
    /// What ffprobe says.
    pub probe: Probe,
}

/// What became of a [`Watch`].
#[derive(Debug)]
pub struct Watched {
    /// In the order of their beginnings.
    pub clips: Vec<Clip>,
    /// The camera's frame when each event was reported.
    pub events: Vec<u64>,
    /// The agent's status at the end.
    pub status: Status,
}

impl Watch {
    /// Films. Panics unless every clip begins with a keyframe and plays without a complaint.
    pub async fn run(self, build: Build) -> Watched {
        let camera = Camera::start(self.options.clone()).unwrap();
        let sent = || camera.sessions().iter().map(|session| session.frames).sum::<u64>();
        let mut world = World::of(build).await;
        world.agent.config.source = Some(camera.url());
        world.agent.config.media = self.media.into();
        world.agent.config.extra = "[spool]\nmemory_bytes = 200_000_000\n".into();
        let premium = world.premium().limited(Policy { clip_max_s: self.clip_max_s, ..PREMIUM });
        world.start_with(premium, Mode::Paid).await;
        world.agent.status("frames", |status| status.0["media"]["frames"].as_u64() > Some(20)).await;
        let mut motion = world.agent.motion().await;

        let base = sent().next_multiple_of(self.period);
        let mut events = Vec::new();
        for event in self.events {
            until(format!("frame {}", base + event), PATIENCE, || (sent() >= base + event).then_some(())).await;
            events.push(sent());
            motion.report_motion().await;
        }
        until(format!("frame {}", base + self.ends), PATIENCE, || (sent() >= base + self.ends).then_some(())).await;
        let stored = || world.cloud.lock().puts.iter().filter(|put| put.complete == Some(true)).count() as u64;
        let settled = |status: &Status| {
            let media = &status.0["media"];
            media["clip_running"] == false && media["motion_events"] == events.len() && media["clips_recorded"] == stored()
        };
        let status = world.agent.status("every clip in the store", settled).await;
        assert_eq!((camera.sessions().len(), &status.0["media"]["fault"]), (1, &Value::Null), "{:?}", camera.events());

        let mut puts: Vec<_> = {
            let seen = world.cloud.lock();
            let started = |clip: &str| seen.asked.iter().find(|(_, asked)| asked.clip == clip).map(|(_, asked)| asked.started_at);
            let whole = seen.puts.iter().filter(|put| put.complete == Some(true));
            whole.map(|put| (started(&put.clip), put.body.clone())).collect()
        };
        puts.sort_by_key(|(started, _)| *started);
        // It goes on sending.
        let total = sent();
        let sequence = expected_pictures(&self.options, usize::try_from(total).unwrap());
        let mut clips: Vec<Clip> = Vec::new();
        for (_, body) in puts {
            let probe = probe_bytes(&body);
            assert!(probe.starts_with_keyframe && probe.complaints.is_empty(), "{probe:?}");
            assert_eq!(probe.pictures.len(), probe.pts.len(), "{probe:?}");
            let from = clips.last().map_or(0, |clip| clip.frames.start + 1);
            let places = (from..total).filter(|at| sequence[usize::try_from(*at).unwrap()..].starts_with(&probe.pictures));
            // The camera loops its film.
            let (before, after): (Vec<u64>, Vec<u64>) = places.partition(|at| clips.is_empty() && *at <= events[0]);
            let start = before.last().or(after.first()).copied();
            let start = start.unwrap_or_else(|| panic!("{} frames are not the camera's, or some are missing", probe.pictures.len()));
            clips.push(Clip { frames: start..start + probe.pictures.len() as u64, probe });
        }
        Watched { clips, events, status }
    }
}

impl Watched {
    /// Whether a clip has the event. The agent's clip ends a few frames later than the camera's clock says.
    pub fn has(&self, event: u64) -> bool {
        self.clips.iter().any(|clip| clip.frames.start <= event && event < clip.frames.end)
    }

    /// Events that the agent says are in no clip, and why.
    pub fn missed(&self) -> (u64, &str) {
        (self.status.0["media"]["events_missed"].as_u64().unwrap(), self.status.sentence("events_missed"))
    }

    /// A frame that no clip has although clips have frames before and after it.
    pub fn hole(&self) -> Option<Range<u64>> {
        let pairs = self.clips.windows(2).map(|pair| pair[0].frames.end..pair[1].frames.start);
        pairs.into_iter().find(|between| !between.is_empty())
    }
}
